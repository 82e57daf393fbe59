//! `cargo xtask instructions`: what each operation of the protocol costs in instructions, whatever else the machine does.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::source;

/// The cost of one operation is what this many more of them cost, so that start and end of the process do not count.
const FEW: u64 = 100;
const MANY: u64 = 600;

pub(crate) fn run() -> Result<()> {
    let bench = build()?;
    let listed =
        Command::new(&bench).env("USMP_BENCH_REPEAT", "list").output().context("cannot run the bench")?;
    let listed = String::from_utf8(listed.stdout).context("the bench lists no text")?;
    println!("{:<28} {:>12}", "operation", "instructions");
    for name in listed.lines() {
        let each = (count(&bench, name, MANY)? - count(&bench, name, FEW)?) / (MANY - FEW);
        println!("{name:<28} {each:>12}");
    }
    Ok(())
}

fn build() -> Result<std::path::PathBuf> {
    let mut command = source::cargo()?;
    command.args(["bench", "--package", "usmp", "--features", "aws-lc", "--bench", "protocol", "--no-run"]);
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo bench")?;
    if !output.status.success() {
        bail!("the bench does not build");
    }
    Message::parse_stream(output.stdout.as_slice())
        .filter_map(|message| match message {
            Ok(Message::CompilerArtifact(artifact)) if artifact.target.name == "protocol" => {
                artifact.executable
            }
            _ => None,
        })
        .last()
        .map(Into::into)
        .context("cargo bench names no program")
}

/// Instructions of a process that does an operation so many times.
fn count(bench: &Path, name: &str, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(bench)
        .env("USMP_BENCH_REPEAT", format!("{name}={times}"))
        .output()
        .context("cannot run valgrind: install it (Debian: apt-get install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind ended with {}: {said}", output.status);
    }
    // A program that the bench asks for something is counted too, and ends before it.
    let mut counts =
        said.lines().filter_map(|line| line.split_once(" refs:").filter(|(before, _)| before.contains("I ")));
    let line = counts.next_back().map(|(_, count)| count.trim().replace(',', ""));
    let line = line.with_context(|| format!("valgrind names no count: {said}"))?;
    line.parse().with_context(|| format!("`{line}` is no count"))
}
