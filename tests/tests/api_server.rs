//! The chart on a real API server of Kubernetes: what helm sends is accepted, kept, changed and removed there. No kubelet
//! runs, so no pod starts; what a pod does is shown by the tests of the edge.
#![cfg(feature = "api-server")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_test_env::{KubeServer, KubeTools, wait_for};

/// For what helm and the server do by themselves.
const LIMIT: Duration = Duration::from_secs(60);

struct Cluster {
    tools: KubeTools,
    server: KubeServer,
}

impl Cluster {
    fn start() -> Self {
        Self { tools: KubeTools::find().unwrap(), server: KubeServer::start().unwrap() }
    }

    /// A namespace that admits no pod outside the strictest of the standard rules, with what a chart's user brings.
    fn namespace(&self, name: &str) {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
        });
        self.create(name, &namespace).unwrap();
    }

    fn create(&self, namespace: &str, object: &Value) -> anyhow::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), object.to_string())?;
        let path = file.path().display().to_string();
        self.server.kubectl(&["create", "--namespace", namespace, "--filename", &path])
    }

    fn helm(&self, namespace: &str, args: &[&str]) -> Result<String, String> {
        let kubeconfig = self.server.kubeconfig().display().to_string();
        let common = ["--kubeconfig", &kubeconfig, "--namespace", namespace];
        let output = self.tools.helm([args, &common].concat()).unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn read(&self, namespace: &str, what: &[&str]) -> Value {
        self.server.read(namespace, what).unwrap()
    }

    /// Every object that the namespace holds, of whatever kind.
    fn contents(&self, namespace: &str) -> Vec<String> {
        let kinds = ["api-resources", "--namespaced", "--verbs=list", "--output=name"];
        let kinds = self.server.kubectl(&kinds).unwrap();
        // Events are the server's own diary.
        let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        assert!(kinds.len() > 20, "the server knows too few kinds: {kinds:?}");
        let args = ["get", &kinds.join(","), "--output=name", "--namespace", namespace];
        self.server.kubectl(&args).unwrap().lines().map(str::to_owned).collect()
    }
}

fn chart() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/sluice").display().to_string()
}

/// The defaults, and each file of the chart's `ci` folder.
fn value_files() -> Vec<(String, Option<PathBuf>)> {
    let mut files = vec![("defaults".to_owned(), None)];
    for file in std::fs::read_dir(Path::new(&chart()).join("ci")).unwrap() {
        let path = file.unwrap().path();
        files.push((path.file_stem().unwrap().to_string_lossy().into_owned(), Some(path)));
    }
    files.sort();
    files
}

fn with_values(args: &[&str], values: Option<&Path>) -> Vec<String> {
    let values = values.map(|file| format!("--values={}", file.display()));
    args.iter().map(|arg| (*arg).to_owned()).chain(values).collect()
}

fn borrowed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn the_server_keeps_every_object_of_the_chart_and_lets_its_pods_in() {
    let cluster = Cluster::start();
    for (namespace, values) in value_files() {
        cluster.namespace(&namespace);
        let args = with_values(&["install", "web", &chart(), "--no-hooks"], values.as_deref());
        cluster.helm(&namespace, &borrowed(&args)).unwrap_or_else(|error| panic!("{namespace}: {error}"));

        let deployment = cluster.read(&namespace, &["deployment", "web-sluice-edge"]);
        let template = &deployment["spec"]["template"];
        assert_eq!(template["spec"]["serviceAccountName"], "web-sluice-edge", "{namespace}");
        let account = cluster.read(&namespace, &["serviceaccount", "web-sluice-edge"]);
        assert_eq!(account["automountServiceAccountToken"], false, "{namespace}");
        let config = cluster.read(&namespace, &["configmap", "web-sluice-edge"]);
        assert!(config["data"]["config.toml"].as_str().unwrap().contains("[edge]"), "{namespace}: {config}");

        // What the controller of the Deployment would make: limits, accounts and the rules for pods are checked here.
        let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "spec": template["spec"] });
        pod["metadata"] = json!({ "name": "one", "labels": template["metadata"]["labels"] });
        cluster.create(&namespace, &pod).unwrap_or_else(|error| panic!("{namespace}: {error:#}"));
    }

    let ports = |namespace: &str, name: &str| {
        let service = cluster.read(namespace, &["service", name]);
        let port = &service["spec"]["ports"][0];
        json!([service["spec"]["type"], port["protocol"], port["port"], port["targetPort"]])
    };
    assert_eq!(ports("defaults", "web-sluice-tcp"), json!(["LoadBalancer", "TCP", 9000, "tcp"]));
    assert_eq!(ports("defaults", "web-sluice-udp"), json!(["LoadBalancer", "UDP", 9000, "udp"]));
    assert_eq!(ports("udp-only", "web-sluice-udp"), json!(["NodePort", "UDP", 9000, "udp"]));
    let absent = cluster.server.read("udp-only", &["service", "web-sluice-tcp"]).unwrap_err();
    assert!(format!("{absent:#}").contains("NotFound"), "{absent:#}");

    let budget = |namespace: &str| cluster.read(namespace, &["poddisruptionbudget"])["items"].clone();
    let edge = cluster.read("defaults", &["deployment", "web-sluice-edge"]);
    assert_eq!(edge["spec"]["replicas"], 3);
    assert_eq!(budget("defaults")[0]["spec"]["maxUnavailable"], 1);
    assert_eq!(budget("defaults")[0]["spec"]["selector"], edge["spec"]["selector"]);
    assert_eq!(budget("sentinel-and-scram")[0]["spec"]["maxUnavailable"], "50%");
    assert_eq!(budget("udp-only"), json!([]));
}

#[test]
fn nothing_that_is_rendered_is_unknown_to_the_server() {
    let cluster = Cluster::start();
    for (namespace, values) in value_files() {
        cluster.namespace(&namespace);
        // The release's name is the longest that helm takes.
        let args = with_values(&["template", &"n".repeat(53), &chart(), "--validate"], values.as_deref());
        let rendered = cluster.helm(&namespace, &borrowed(&args)).unwrap();
        let refused = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let path = file.path().display().to_string();
            let apply =
                ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", &path];
            let outcome = cluster.server.kubectl(&[&apply[..], &["--namespace", &namespace]].concat());
            outcome.err().map(|error| format!("{error:#}"))
        };
        assert_eq!(refused(&rendered), None, "{namespace}");
        let misspelt = rendered.replace("enableServiceLinks", "enableServiceLink");
        let words = refused(&misspelt).expect("a misspelt field is let through");
        assert!(words.contains("enableServiceLink"), "{words}");
    }
}

#[test]
fn an_upgrade_changes_the_objects_and_an_uninstall_leaves_nothing() {
    let cluster = Cluster::start();
    let namespace = "change";
    cluster.namespace(namespace);
    let chart = chart();
    cluster.helm(namespace, &["install", "web", &chart, "--no-hooks"]).unwrap();
    let deployment = || cluster.read(namespace, &["deployment", "web-sluice-edge"]);
    let checksum = |deployment: &Value| {
        deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    let before = deployment();

    let set = "edge.replicas=5,service.tcp.port=9443,service.udp.enabled=false,edge.idleTimeout.tcp=45s";
    cluster.helm(namespace, &["upgrade", "web", &chart, "--no-hooks", "--set", set]).unwrap();
    let after = deployment();
    assert_eq!(after["spec"]["replicas"], 5);
    assert_ne!(checksum(&after), checksum(&before), "pods would keep the old configuration");
    let config = cluster.read(namespace, &["configmap", "web-sluice-edge"]);
    assert!(config["data"]["config.toml"].as_str().unwrap().contains("\"45s\""), "{config}");
    let services = cluster.read(namespace, &["services"]);
    let services = services["items"].as_array().unwrap();
    assert_eq!(services.len(), 1, "the service that is switched off goes: {services:?}");
    assert_eq!(services[0]["spec"]["ports"][0]["port"], 9443);

    // Refused by the chart's own schema, so that what runs stays as it was.
    let wrong =
        cluster.helm(namespace, &["upgrade", "web", &chart, "--no-hooks", "--set", "edge.replicas=0"]);
    let words = wrong.expect_err("no replica is no fleet");
    assert!(words.contains("replicas"), "{words}");
    assert_eq!(deployment()["spec"]["replicas"], 5);

    cluster.helm(namespace, &["rollback", "web", "1", "--no-hooks"]).unwrap();
    assert_eq!(checksum(&deployment()), checksum(&before));

    cluster.helm(namespace, &["uninstall", "web", "--no-hooks"]).unwrap();
    let left = wait_for("an empty namespace", LIMIT, || match cluster.contents(namespace) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    left.unwrap();
}

#[test]
fn wrong_values_make_no_object() {
    let cluster = Cluster::start();
    cluster.namespace("wrong");
    for wrong in ["edge.replicas=0", "edge.replica=3", "service.tcp.port=70000", "store.redis.topology=pair"]
    {
        let refused = cluster.helm("wrong", &["install", "web", &chart(), "--no-hooks", "--set", wrong]);
        let words = refused.expect_err(wrong);
        let key = wrong.split(['.', '=']).rev().nth(1).unwrap();
        assert!(words.contains(key), "{wrong}: the message does not name it: {words}");
    }
    assert_eq!(cluster.contents("wrong"), [""; 0]);
}

#[test]
fn the_topics_stand_before_the_first_pod() {
    let cluster = Cluster::start();
    let namespace = "hooks";
    cluster.namespace(namespace);
    std::thread::scope(|scope| {
        let install =
            scope.spawn(|| cluster.helm(namespace, &["install", "web", &chart(), "--timeout=120s"]));
        let job = wait_for("the job that makes the topics", LIMIT, || {
            cluster
                .server
                .read(namespace, &["job", "web-sluice-topics"])
                .map_err(|error| format!("{error:#}"))
        });
        let job = job.unwrap();
        let pod = &job["spec"]["template"]["spec"];
        let args = &pod["containers"][0]["args"];
        assert_eq!([&args[0], &args[1]], ["topics", "apply"]);
        // What its pod mounts is there, and no pod of the edge can be.
        cluster.read(namespace, &["configmap", "web-sluice-topics"]);
        assert_eq!(cluster.read(namespace, &["deployments"])["items"], json!([]));

        // In the place of the kubelet and the job's controller.
        let done = json!({ "status": {
            "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:00:01Z",
            "succeeded": 1,
            "conditions": [
                { "type": "SuccessCriteriaMet", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z" },
                { "type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z" },
            ],
        } });
        let patch = ["patch", "job", "web-sluice-topics", "--subresource=status", "--type=merge"];
        let done = done.to_string();
        let place = ["--namespace", namespace, "--patch", &done];
        cluster.server.kubectl(&[&patch[..], &place].concat()).unwrap();
        install.join().unwrap().unwrap();
    });
    cluster.read(namespace, &["deployment", "web-sluice-edge"]);
    assert_eq!(cluster.read(namespace, &["jobs"])["items"], json!([]), "a job that succeeded goes");
}
