//! `cargo xtask docs`: pages generated from the types. The registry below is the only place that knows them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{source, test};

/// A page and the program of ours that prints it.
struct Generator {
    /// Path from the root.
    path: &'static str,
    /// Program.
    binary: &'static str,
    /// Its arguments.
    args: &'static [&'static str],
}

/// Everything that is generated and committed.
const GENERATORS: [Generator; 2] = [
    Generator { path: "docs/configuration.md", binary: "sluice-edge", args: &["--print-reference"] },
    Generator { path: "deploy/sluice-edge.sample.toml", binary: "sluice-edge", args: &["--print-sample"] },
];

pub(crate) fn run(check: bool) -> Result<()> {
    let root = source::root()?;
    let binaries = test::build(&test::profile(&[])?)?;
    let mut stale = Vec::new();
    for generator in &GENERATORS {
        let mut command = Command::new(binaries.join(generator.binary));
        let output =
            command.args(generator.args).output().with_context(|| format!("cannot run {command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8(output.stdout).context("a generated page is not UTF-8")?;
        let path = root.join(generator.path);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            println!("  {}: up to date", generator.path);
        } else if check {
            stale.push(generator.path);
        } else {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            fs::write(&path, text).with_context(|| format!("cannot write {}", generator.path))?;
            println!("  {}: written", generator.path);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    bail!("not as the code says; run `cargo xtask docs` and commit:\n{}", stale.join("\n"));
}
