//! `cargo xtask fuzz`: each target of `fuzz/` under cargo-fuzz. Plain tests run the same targets over seeded inputs on
//! the stable toolchain; this one is for longer hunts.

use std::fs;

use anyhow::{Context, Result, bail};
use sluice_test_env::tools;

use crate::source;

pub(crate) fn run(seconds: u64) -> Result<()> {
    if tools::on_path("cargo-fuzz").is_none() {
        bail!(
            "cargo-fuzz not found: run `cargo install cargo-fuzz --locked` and `rustup toolchain install nightly`"
        );
    }
    let root = source::root()?;
    let folder = root.join("fuzz").join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut targets: Vec<_> = entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    targets.sort();
    if targets.is_empty() {
        bail!("no fuzz target in {}", folder.display());
    }
    for target in targets {
        println!("{target}, {seconds} s");
        source::run(
            // Not the cargo that started us: fuzz/ names a toolchain of its own.
            std::process::Command::new("cargo")
                .current_dir(root.join("fuzz"))
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("CARGO")
                .args(["fuzz", "run", "--fuzz-dir", ".", &target, "--"])
                .arg(format!("-max_total_time={seconds}")),
        )?;
    }
    Ok(())
}
