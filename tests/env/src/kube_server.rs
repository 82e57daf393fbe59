//! A real API server of Kubernetes on etcd, without a kubelet: it checks and keeps objects, and runs nothing.
//!
//! Its program and kubectl are built from the modules of Kubernetes, which takes minutes once; so tests that need it
//! stand behind a feature (`cargo xtask test --api-server`).

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::cache::{RunDir, cache_dir};
use crate::install::{Installed, once, run};
use crate::kube::{KUBERNETES, download_kubernetes};
use crate::ports::Port;
use crate::process::Process;
use crate::tools::{self, READY};

const SERVER: &str = "kube-apiserver";
const KUBECTL: &str = "kubectl";
/// Its first start makes every built-in object; on a busy machine that takes a while.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A port is free when claimed and may be taken by a stranger before the server binds it.
const START_TRIES: usize = 3;

/// Builds the API server and kubectl with `go build`; for `cargo xtask env`. Minutes when cold.
///
/// # Errors
///
/// `go` is missing, or cannot download or build.
pub fn install_api_server() -> Result<Installed> {
    let place = place()?;
    once(&place, || {
        if tools::on_path("go").is_none() {
            bail!("go not found: install Go 1.24 or newer (Debian's package is too old)");
        }
        let facts = download_kubernetes()?;
        let theirs = facts["GoMod"].as_str().context("go does not say where the module's go.mod lies")?;
        let theirs = fs::read_to_string(theirs).with_context(|| format!("cannot read {theirs}"))?;
        let source = tempfile::tempdir()?;
        fs::write(source.path().join("go.mod"), go_mod(&theirs)?).context("cannot write go.mod")?;
        let mut build = Command::new("go");
        // The sums are written at the first build, checked against the public database of sums.
        build.args(["build", "-mod=mod", "-trimpath", &link_flags()?, "-o"]).arg(&place);
        build.args([SERVER, KUBECTL].map(|program| format!("k8s.io/kubernetes/cmd/{program}")));
        run(build.current_dir(source.path()))
    })
}

/// Without its own build scripts it would call itself a development version, which charts may refuse.
fn link_flags() -> Result<String> {
    let minor = minor()?;
    let minor = minor.split('.').next().unwrap_or_default();
    let version = "k8s.io/component-base/version";
    Ok(format!(
        "-ldflags=-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    ))
}

/// `34.1` of `v1.34.1`.
fn minor() -> Result<&'static str> {
    KUBERNETES.strip_prefix("v1.").context("a release of Kubernetes 1")
}

/// Kubernetes keeps parts of itself in one repository and names them `v0.0.0`; whoever builds it from modules must say
/// which release of each part is meant.
fn go_mod(theirs: &str) -> Result<String> {
    let minor = minor()?;
    let mut text = format!("module sluice/kube\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\n");
    let parts: Vec<_> = theirs.lines().filter_map(|line| line.trim().strip_suffix(" v0.0.0")).collect();
    ensure!(!parts.is_empty(), "the go.mod of Kubernetes {KUBERNETES} names no part of itself");
    for part in parts {
        writeln!(text, "replace {part} => {part} v0.{minor}")?;
    }
    Ok(text)
}

fn place() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("{SERVER}-{KUBERNETES}")))
}

/// An API server with its etcd. Both end with this value.
#[derive(Debug)]
pub struct KubeServer {
    server: Process,
    _etcd: Process,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    _ports: [Port; 3],
    _dir: RunDir,
}

impl KubeServer {
    /// Starts both, with a certificate, a token and files made for this start.
    ///
    /// # Errors
    ///
    /// A program is missing (the message says what to run), or one does not come up.
    pub fn start() -> Result<Self> {
        let mut last = None;
        for _ in 0..START_TRIES {
            match Self::start_once() {
                Err(error) if format!("{error:#}").contains("address already in use") => last = Some(error),
                outcome => return outcome,
            }
        }
        Err(last.context("no try was made")?)
    }

    fn start_once() -> Result<Self> {
        let place = place()?;
        ensure!(
            place.join(READY).is_file(),
            "no API server is built: run `cargo xtask test --api-server` (it builds one, minutes the first time)"
        );
        let dir = RunDir::create("kube")?;
        let ports = [Port::claim()?, Port::claim()?, Port::claim()?];
        let etcd = start_etcd(dir.path(), &ports)?;
        let credentials = Credentials::make(dir.path())?;
        let server = start_server(&place.join(SERVER), dir.path(), &ports, &credentials)?;
        let kubeconfig = credentials.kubeconfig(dir.path(), ports[2].number())?;
        let mut started =
            Self { server, _etcd: etcd, kubectl: place.join(KUBECTL), kubeconfig, _ports: ports, _dir: dir };
        started.wait_until_ready()?;
        Ok(started)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let (kubectl, kubeconfig) = (&self.kubectl, &self.kubeconfig);
        let ask = |args: &[&str]| match call(kubectl, kubeconfig, args) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(text(&output.stderr)),
            Err(error) => Err(format!("{error:#}")),
        };
        self.server.wait_ready(START_LIMIT, || {
            ask(&["get", "--raw", "/readyz"])?;
            // Made by the server itself a moment after it is ready.
            ask(&["get", "namespace", "default"])
        })
    }

    /// The file that tells helm and kubectl where the server is and how to log in, as an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl.
    ///
    /// # Errors
    ///
    /// It cannot be started, or fails; with its own words.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = call(&self.kubectl, &self.kubeconfig, args)?;
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// What the server keeps, by kubectl's words for it, such as `["service", "web"]` or `["deployments"]`.
    ///
    /// # Errors
    ///
    /// As [`KubeServer::kubectl`]; an object that is not there is an error that says `NotFound`.
    pub fn read(&self, namespace: &str, what: &[&str]) -> Result<Value> {
        let args = [&["get", "--output=json", "--namespace", namespace], what].concat();
        serde_json::from_str(&self.kubectl(&args)?).context("kubectl does not print JSON")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn call(kubectl: &Path, kubeconfig: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(kubectl);
    command.arg("--kubeconfig").arg(kubeconfig).args(args);
    // What it caches about one server must not be believed of the next one on the same port.
    command.env("KUBECACHEDIR", kubeconfig.with_file_name("kubectl-cache"));
    command.output().context("cannot start kubectl")
}

fn start_etcd(dir: &Path, [clients, peers, _]: &[Port; 3]) -> Result<Process> {
    let etcd = tools::etcd()?;
    let (clients, peers) = (url(clients), url(peers));
    let data = dir.join("etcd").display().to_string();
    // Nothing here outlives the test, so nothing need reach the disk.
    let args = ["--unsafe-no-fsync", "--data-dir", &data].map(str::to_owned).into_iter().chain([
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ]);
    let args: Vec<_> = args.collect();
    let mut process = Process::spawn(&etcd, &args, dir, &dir.join("etcd.log"))?;
    let address = clients.trim_start_matches("http://").to_owned();
    process.wait_ready(START_LIMIT, || {
        std::net::TcpStream::connect(&address).map(drop).map_err(|error| error.to_string())
    })?;
    Ok(process)
}

fn url(port: &Port) -> String {
    format!("http://127.0.0.1:{}", port.number())
}

fn start_server(
    program: &Path,
    dir: &Path,
    [etcd, _, own]: &[Port; 3],
    credentials: &Credentials,
) -> Result<Process> {
    let (key, certificate) = (credentials.key.display(), credentials.certificate.display());
    let args = [
        format!("--etcd-servers={}", url(etcd)),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", own.number()),
        format!("--cert-dir={}", dir.display()),
        format!("--tls-cert-file={certificate}"),
        format!("--tls-private-key-file={key}"),
        format!("--token-auth-file={}", credentials.tokens.display()),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={certificate}"),
        format!("--service-account-signing-key-file={key}"),
        "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
        // There are no nodes to which its own service could lead.
        "--endpoint-reconciler-type=none".to_owned(),
    ];
    Process::spawn(program, args, dir, &dir.join("server.log"))
}

/// A self-signed certificate for 127.0.0.1 and the token of an administrator.
struct Credentials {
    key: PathBuf,
    certificate: PathBuf,
    tokens: PathBuf,
    token: String,
}

impl Credentials {
    fn make(dir: &Path) -> Result<Self> {
        let mut random = [0_u8; 16];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .context("cannot read /dev/urandom")?;
        let mut token = String::new();
        for byte in random {
            write!(token, "{byte:02x}")?;
        }
        let made = Self {
            key: dir.join("server.key"),
            certificate: dir.join("server.crt"),
            tokens: dir.join("tokens.csv"),
            token,
        };
        let mut openssl = Command::new(tools::openssl()?);
        openssl.args(["req", "-x509", "-nodes", "-days", "7", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]);
        openssl.args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
        run(openssl.arg("-keyout").arg(&made.key).arg("-out").arg(&made.certificate))?;
        write_private(&made.tokens, &format!("{},admin,1,system:masters\n", made.token))?;
        Ok(made)
    }

    fn kubeconfig(&self, dir: &Path, port: u16) -> Result<PathBuf> {
        let path = dir.join("kubeconfig");
        // JSON is YAML.
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.certificate,
            } }],
            "users": [{ "name": "admin", "user": { "token": self.token } }],
        });
        write_private(&path, &config.to_string())?;
        Ok(path)
    }
}

/// Helm warns about credentials that others can read, and is right.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_kubernetes_is_replaced_by_its_release() {
        let theirs = "module k8s.io/kubernetes\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.130.1\n\tk8s.io/kms v0.0.0\n)\n";
        let ours = go_mod(theirs).unwrap();
        let replaced: Vec<_> = ours.lines().filter(|line| line.starts_with("replace")).collect();
        assert_eq!(
            replaced,
            ["replace k8s.io/api => k8s.io/api v0.34.1", "replace k8s.io/kms => k8s.io/kms v0.34.1"]
        );
        assert!(go_mod("module k8s.io/kubernetes\n").is_err(), "a go.mod of another shape is no release");
    }
}
