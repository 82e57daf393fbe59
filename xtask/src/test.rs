//! `cargo xtask test`: everything the tests need, then all tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use clap::Args;
use sluice_test_env::{Kafka, KafkaOptions, Redis};

use crate::{beside, env, junit, source};

/// Features the tests are built with, in every crate that has them.
const FEATURES: [&str; 3] = ["aws-lc", "backends", "kafka-tls"];
/// Features that only add tests, each behind a flag of its own.
const LONG: &str = "long";
const API_SERVER: &str = "api-server";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also run the long tests
    #[arg(long)]
    long: bool,
    /// The revision whose edge long tests run beside this one; by default the last tag before this revision
    #[arg(long, value_name = "REVISION", requires = "long")]
    beside: Option<String>,
    /// Also install the chart on a real API server of Kubernetes (the first time, building one takes minutes)
    #[arg(long)]
    api_server: bool,
    /// Start nothing that tests share: no test that needs Redis or Kafka is selected
    #[arg(long)]
    no_servers: bool,
    /// Arguments for cargo-nextest, such as a part of a test's name or `-E 'package(usmp)'`; with any, no
    /// documentation tests are run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

/// Servers that tests share; they die with this value.
#[derive(Default)]
struct Servers {
    redis: Option<Redis>,
    kafka: Option<Kafka>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut times = Vec::new();
    timed(&mut times, "environment", || env::run(options.api_server))?;
    let flags = [(options.long, LONG), (options.api_server, API_SERVER)];
    let more: Vec<_> = flags.into_iter().filter_map(|(on, feature)| on.then_some(feature)).collect();
    let profile = profile(&more)?;
    timed(&mut times, "build", || build(&profile))?;
    let beside = if options.long {
        Some(timed(&mut times, "build of an earlier edge", || beside::build(options.beside.as_deref()))?)
    } else {
        None
    };
    let servers = if options.no_servers {
        Servers::default()
    } else {
        timed(&mut times, "start of shared servers", start)?
    };
    let with_environment = |command: &mut std::process::Command| {
        if let Some(edge) = &beside {
            command.env(beside::VARIABLE, edge);
        }
        if let Some(redis) = &servers.redis {
            command.env("SLUICE_TEST_REDIS", redis.url());
        }
        if let Some(kafka) = &servers.kafka {
            command.env("SLUICE_TEST_KAFKA", kafka.bootstrap());
        }
    };

    // The runner keeps its reports in the workspace, wherever cargo builds.
    let report = source::root()?.join("target").join("nextest").join("default").join("junit.xml");
    // A report of an earlier run must not be counted for this one.
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("cannot remove {}", report.display()))?;
    }
    let status = timed(&mut times, "tests", || {
        let mut command = source::cargo()?;
        with_environment(command.args(["nextest", "run"]).args(&profile).args(&options.nextest));
        command.status().context("cannot run cargo nextest")
    })?;
    let text = fs::read_to_string(&report)
        .with_context(|| format!("the test runner left no {}", report.display()))?;
    let suites = junit::suites(&text);
    let failed: u64 = suites.iter().map(|s| s.failed).sum();
    let mut sum = (suites.iter().map(|s| s.tests).sum::<u64>().saturating_sub(failed), failed);
    let mut good = status.success();
    if options.nextest.is_empty() {
        let (passed, failed, success) = timed(&mut times, "documentation tests", || doctests(&profile))?;
        sum = (sum.0 + passed, sum.1 + failed);
        good &= success;
    }
    table(&suites, &times);
    println!("{} passed, {} failed", sum.0, sum.1);
    if !good || sum.1 > 0 || sum.0 == 0 {
        bail!("the tests did not all pass");
    }
    Ok(())
}

/// What every build for tests is told, so that nothing is built twice.
pub(crate) fn profile(more: &[&str]) -> Result<Vec<String>> {
    Ok(["--workspace", "--features", &features(more)?].map(str::to_owned).into())
}

/// Builds programs and tests together: apart, the programs would be built with other features of the crates that only
/// tests need. Returns the folder of the programs.
pub(crate) fn build(profile: &[String]) -> Result<PathBuf> {
    source::run(source::cargo()?.args(["build", "--bins", "--tests"]).args(profile))?;
    Ok(target()?.join("debug"))
}

/// The set for clippy and documentation: that of the tests, so that no dependency is built twice, and what stands behind
/// flags, which would else be checked by nobody.
pub(crate) fn print_features() -> Result<()> {
    println!("{}", features(&[LONG, API_SERVER])?);
    Ok(())
}

fn timed<T>(
    times: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    step: impl FnOnce() -> Result<T>,
) -> Result<T> {
    println!("== {name}");
    let start = now();
    let result = step();
    times.push((name, start.elapsed()));
    result
}

#[expect(clippy::disallowed_methods, reason = "reports how long a step took")]
fn now() -> Instant {
    Instant::now()
}

/// `package/feature` for each package that has one of the wanted features.
fn features(more: &[&str]) -> Result<String> {
    let metadata = MetadataCommand::new()
        .manifest_path(source::root()?.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot read the workspace by cargo metadata")?;
    let mut wanted = FEATURES.to_vec();
    wanted.extend(more);
    let mut list = Vec::new();
    for package in &metadata.packages {
        let has = wanted.iter().filter(|f| package.features.contains_key(**f));
        list.extend(has.map(|feature| format!("{}/{feature}", package.name)));
    }
    Ok(list.join(","))
}

fn start() -> Result<Servers> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let mut servers = Servers::default();
    match named("SLUICE_TEST_REDIS") {
        Some(url) => println!("Redis: {url} (SLUICE_TEST_REDIS)"),
        None => {
            let redis = Redis::start()?;
            println!("Redis: started at {}", redis.url());
            servers.redis = Some(redis);
        }
    }
    match named("SLUICE_TEST_KAFKA") {
        Some(bootstrap) => println!("Kafka: {bootstrap} (SLUICE_TEST_KAFKA)"),
        None => {
            let kafka = Kafka::start(KafkaOptions { heap_mib: 512, ..KafkaOptions::default() })?;
            println!("Kafka: started at {}", kafka.bootstrap());
            servers.kafka = Some(kafka);
        }
    }
    println!("Tests that hurt a server start one of their own.");
    Ok(servers)
}

fn target() -> Result<PathBuf> {
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty()).unwrap_or_else(|| "target".into());
    Ok(source::root()?.join(folder))
}

/// Passed, failed, and whether cargo was content; its output is shown as it comes.
fn doctests(profile: &[String]) -> Result<(u64, u64, bool)> {
    let mut child = source::cargo()?
        .args(["test", "--doc", "--no-fail-fast"])
        .args(profile)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test --doc")?;
    let output = child.stdout.take().context("the output of cargo is piped")?;
    let mut text = String::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo")?;
        println!("{line}");
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().context("cannot wait for cargo")?;
    let (passed, failed) = junit::doctests(&text);
    Ok((passed, failed, status.success()))
}

fn table(suites: &[junit::Suite], times: &[(&'static str, Duration)]) {
    println!("\n{:<44} {:>6} {:>6} {:>9}  slowest", "test binary", "tests", "failed", "seconds");
    for suite in suites {
        let slowest = suite.slowest.as_ref().map_or_else(String::new, |(name, s)| format!("{s:.1} s {name}"));
        println!(
            "{:<44} {:>6} {:>6} {:>9.1}  {slowest}",
            suite.name, suite.tests, suite.failed, suite.seconds
        );
    }
    println!();
    for (name, time) in times {
        println!("{name:<44} {:>23.1} s", time.as_secs_f64());
    }
    println!();
}
