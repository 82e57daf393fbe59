//! `cargo xtask alone`: a build of the whole workspace joins the features of all crates, so a crate that forgot to ask
//! for one still builds there. Here each is checked by itself.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::source;

pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(source::root()?.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot read the workspace by cargo metadata")?;
    let mut failed = Vec::new();
    for package in &metadata.packages {
        for args in variants(package.features.keys().map(String::as_str)) {
            let start = now();
            let status = source::cargo()?
                .args(["check", "--quiet", "--package"])
                .arg(package.name.as_str())
                .args(&args)
                .status()
                .context("cannot run cargo check")?;
            let line = format!("{} {}", package.name, args.join(" "));
            println!(
                "  {line}: {} in {:.1} s",
                if status.success() { "ok" } else { "FAILED" },
                start.elapsed().as_secs_f64()
            );
            if !status.success() {
                failed.push(line);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("these do not build alone:\n{}", failed.join("\n"));
}

#[expect(clippy::disallowed_methods, reason = "reports how long a check took")]
fn now() -> Instant {
    Instant::now()
}

/// Builds OpenSSL for minutes and has no code of its own beside it; the workspace is checked with it anyway.
const LEFT_OUT: &str = "kafka-tls";

/// The default features, none, and each one by itself.
fn variants<'a>(features: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    let mut list = vec![vec![]];
    let features: Vec<_> = features.filter(|f| !["default", LEFT_OUT].contains(f)).collect();
    if !features.is_empty() {
        list.push(vec!["--no-default-features".to_owned()]);
    }
    for feature in features {
        list.push(vec!["--no-default-features".to_owned(), "--features".to_owned(), feature.to_owned()]);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_tried_by_itself() {
        assert_eq!(variants([].into_iter()), [Vec::<String>::new()]);
        let lines: Vec<_> = variants(["default", "x", "y"].into_iter()).iter().map(|v| v.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "",
                "--no-default-features",
                "--no-default-features --features x",
                "--no-default-features --features y"
            ]
        );
    }
}
