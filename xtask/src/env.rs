//! `cargo xtask env`: installs what the tests need.

use std::process::Command;

use anyhow::{Context, Result, bail};
use sluice_test_env::install::{self, Installed, SDK_VERSIONS};
use sluice_test_env::{KubeTools, cache_dir, tools};

/// Programs that come from the distribution, with their Debian package.
const PROGRAMS: [(&str, &str); 8] = [
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("kcat", "kcat"),
    ("java", "openjdk-17-jre-headless"),
    ("javac", "openjdk-17-jdk-headless"),
    ("mvn", "maven"),
    ("python3", "python3-venv"),
    ("perl", "perl"),
];

/// What an API server of Kubernetes needs beside itself.
const API_SERVER_PROGRAMS: [(&str, &str); 2] = [("etcd", "etcd-server"), ("openssl", "openssl")];

/// Programs that cargo builds, with the version the checks are written for.
const CARGO_TOOLS: [(&str, &str); 2] = [("cargo-nextest", "0.9.151"), ("cargo-deny", "0.20.2")];

pub(crate) fn run(api_server: bool) -> Result<()> {
    println!("Test tools are kept in {}.", cache_dir()?.display());
    let mut missing = Vec::new();
    let mut note = |what: &str, outcome: Result<Installed>| match outcome {
        Ok(Installed::Already) => println!("  {what}: there"),
        Ok(Installed::Now) => println!("  {what}: installed"),
        Err(error) => {
            println!("  {what}: MISSING");
            missing.push(format!("{what}: {error:#}"));
        }
    };
    let packages = absent_packages(api_server);
    let outcome = if packages.is_empty() { Ok(Installed::Already) } else { apt(&packages) };
    note("distribution packages (Redis, kcat, Java, Maven, Python)", outcome);
    note("Apache Kafka (Maven artifacts)", install::kafka());
    for version in SDK_VERSIONS {
        note(&format!("official Python SDK {version}"), install::python_sdk(version));
    }
    note("Kafka client for Python", install::kafka_python());
    note("helm, kubeconform and the schemas of Kubernetes (Go modules)", KubeTools::install());
    if api_server {
        note("API server of Kubernetes and kubectl (Go modules)", sluice_test_env::install_api_server());
    }
    for (name, version) in CARGO_TOOLS {
        note(&format!("{name} {version}"), cargo_tool(name, version));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("could not get everything the tests need:\n- {}", missing.join("\n- "));
}

fn absent_packages(api_server: bool) -> Vec<&'static str> {
    let more = if api_server { API_SERVER_PROGRAMS.as_slice() } else { &[] };
    let wanted = PROGRAMS.iter().chain(more);
    let mut packages: Vec<_> =
        wanted.filter(|(program, _)| tools::on_path(program).is_none()).map(|(_, p)| *p).collect();
    let venv = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !venv.is_ok_and(|o| o.status.success()) && !packages.contains(&"python3-venv") {
        packages.push("python3-venv");
    }
    packages
}

fn apt(packages: &[&str]) -> Result<Installed> {
    let list = packages.join(" ");
    if tools::on_path("apt-get").is_none() {
        bail!("not a Debian system; install what these Debian packages hold: {list}");
    }
    if !nix_is_root()? {
        bail!("not root; run: sudo apt-get install --no-install-recommends {list}");
    }
    println!("  apt-get install {list}");
    let install =
        || apt_get(&[&["install", "--yes", "--quiet", "--no-install-recommends"], packages].concat());
    // A machine that has just been made has no package lists yet.
    if install().is_err() {
        apt_get(&["update", "--quiet"])?;
        install()?;
    }
    Ok(Installed::Now)
}

fn apt_get(args: &[&str]) -> Result<()> {
    // Servers that the packages bring would otherwise be started on their usual ports.
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .output()
        .context("cannot run apt-get")?;
    if !output.status.success() {
        bail!("apt-get {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn nix_is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run id")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn cargo_tool(name: &str, version: &str) -> Result<Installed> {
    if tools::on_path(name).is_some() {
        return Ok(Installed::Already);
    }
    println!("  cargo install {name} {version} (minutes)");
    let status = Command::new("cargo")
        .args(["install", "--quiet", "--locked", "--version", version, name])
        .status()
        .context("cannot run cargo install")?;
    if !status.success() {
        bail!("cargo install {name} failed ({status})");
    }
    Ok(Installed::Now)
}
