//! The chart: lints, renders, fits the API of a real Kubernetes release, refuses wrong values, and its configuration is one
//! that the edge loads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sluice_svc::config::{Sources, load};
use sluice_test_env::KubeTools;

/// What a helm built from its module takes the cluster for is years old.
const KUBE_VERSION: &str = "1.34.1";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/sluice")
}

/// The defaults, and each file of the chart's `ci` folder.
fn value_files() -> Vec<Option<PathBuf>> {
    let files = std::fs::read_dir(chart().join("ci")).expect("the chart has value files for tests");
    let files = files.map(|file| Some(file.expect("readable").path()));
    std::iter::once(None).chain(files).collect()
}

fn render(tools: &KubeTools, values: Option<&Path>, set: &[&str]) -> Result<String, String> {
    let mut args = vec!["template".to_owned(), "test".to_owned(), chart().display().to_string()];
    args.push(format!("--kube-version={KUBE_VERSION}"));
    args.extend(values.map(|file| format!("--values={}", file.display())));
    args.extend(set.iter().map(|set| format!("--set={set}")));
    let output = tools.helm(&args).expect("helm starts");
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("text"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The documents of a rendered chart by kind and name.
fn configs(rendered: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for document in rendered.split("\n---") {
        let Some((head, config)) = document.split_once("  config.toml: |\n") else { continue };
        let name = head.lines().find_map(|line| line.strip_prefix("  name: ")).expect("a name");
        let lines = config.lines().take_while(|line| line.starts_with("    ") || line.trim().is_empty());
        found.insert(name.to_owned(), lines.map(str::trim_start).collect::<Vec<_>>().join("\n"));
    }
    found
}

#[test]
fn the_chart_lints_with_every_value_file() {
    let tools = KubeTools::find().expect("installed");
    for values in value_files() {
        let mut args = vec!["lint".to_owned(), "--strict".to_owned(), chart().display().to_string()];
        args.push(format!("--kube-version={KUBE_VERSION}"));
        args.extend(values.map(|file| format!("--values={}", file.display())));
        let output = tools.helm(&args).expect("helm starts");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn what_is_rendered_fits_the_strict_schemas_of_kubernetes() {
    let tools = KubeTools::find().expect("installed");
    for values in value_files() {
        let rendered = render(&tools, values.as_deref(), &[]).expect("renders");
        tools.conform(&rendered).unwrap_or_else(|error| panic!("{values:?}: {error}"));
    }
    let wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {portz: []}\n";
    assert!(tools.conform(wrong).is_err(), "the schemas would let a misspelt field through");
}

#[test]
fn the_rendered_configuration_is_one_that_the_edge_loads() {
    let tools = KubeTools::find().expect("installed");
    for values in value_files() {
        let rendered = render(&tools, values.as_deref(), &[]).expect("renders");
        let configs = configs(&rendered);
        assert!(!configs.is_empty(), "{values:?} renders no configuration");
        for (name, text) in configs {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), &text).expect("written");
            // As the deployment does, from the pod's address.
            let pod = [("SLUICE__EDGE__CLUSTER__ADVERTISE", "10.0.0.7:9443")];
            assert!(rendered.contains(pod[0].0), "{values:?}: pods do not say where they are reached");
            let loaded = load::<sluice_edge::Config>(&Sources::default().file(file.path()).env(pod));
            let config = loaded.unwrap_or_else(|error| panic!("{values:?} {name}: {error}\n{text}")).config;
            config.edge.validate().unwrap_or_else(|error| panic!("{values:?} {name}: {error}"));
        }
    }
}

#[test]
fn wrong_values_are_refused_by_the_schema() {
    let tools = KubeTools::find().expect("installed");
    for wrong in [
        "edge.replicas=0",
        "edge.replicas=two",
        "edge.replica=3",
        "unknown=1",
        "edge.drain.deadline=3",
        "edge.idleTimeout.tcp=300",
        "service.tcp.port=70000",
        "service.udp.kind=LoadBalancer",
        "store.redis.topology=pair",
        "store.redis.topology=sentinel",
        "store.redis.password=secret",
        "kafka.brokers[0]=kafka",
        "kafka.security.protocol=sasl_ssl",
        "image.repo=x",
        "topics.partitions=0",
        "admin.token=x",
    ] {
        let refused = render(&tools, None, &[wrong]);
        assert!(refused.is_err(), "{wrong} is rendered");
    }
}

#[test]
fn pods_get_no_service_links_no_token_and_time_to_drain() {
    let tools = KubeTools::find().expect("installed");
    let set = ["edge.drain.delaySeconds=7", "edge.drain.deadlineSeconds=20"];
    let rendered = render(&tools, None, &set).expect("renders");
    assert!(rendered.matches("enableServiceLinks: false").count() >= 2, "edge and topics job");
    assert!(!rendered.contains("automountServiceAccountToken: true"));
    assert!(rendered.contains("terminationGracePeriodSeconds: 37"), "delay, deadline and ten seconds");
    assert!(rendered.contains("name: sluice-kek"), "the secret is referenced by its default name");
}

#[test]
fn the_configuration_of_the_compose_file_is_one_that_the_edge_loads() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/edge.toml");
    let loaded = load::<sluice_edge::Config>(&Sources::default().file(&file)).expect("loads");
    loaded.config.edge.validate().expect("valid");
    loaded.config.bus.validate().expect("valid");
}
