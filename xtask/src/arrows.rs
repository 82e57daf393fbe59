//! `cargo xtask arrows`: who may depend on whom.

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::source;

/// Each crate with the crates of ours it may depend on. `*` may use everything but a service's own tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("usmp", &[]),
    ("sluice-types", &[]),
    ("sluice-svc", &[]),
    ("sluice-peers", &["sluice-types"]),
    ("usmp-testkit", &["usmp"]),
    ("sluice-sim", &["usmp"]),
    ("sluice-proto", &["sluice-types", "usmp"]),
    ("sluice-store", &["sluice-proto", "sluice-types", "usmp"]),
    ("sluice-bus", &["sluice-proto", "sluice-types", "usmp"]),
    ("sluice-device", &["sluice-proto", "sluice-types", "usmp"]),
    (
        "sluice-edge",
        &[
            "sluice-store",
            "sluice-bus",
            "sluice-peers",
            "sluice-proto",
            "sluice-device",
            "sluice-svc",
            "sluice-types",
            "usmp",
        ],
    ),
    ("sluice-model", &[]),
    ("sluice-test-env", &[]),
    ("sluice-cli", &["*"]),
    ("sluice-tests", &["*"]),
    ("sluice-loadtest", &["*"]),
    ("xtask", &["*"]),
];

/// Only tests need these; in a shipped binary they would be dead weight.
const FOR_TESTS: [&str; 2] = ["sluice-test-env", "usmp-testkit"];
/// Who may have them as plain dependencies: what is never shipped.
const NOT_SHIPPED: [&str; 4] = ["sluice-tests", "sluice-loadtest", "xtask", "usmp-testkit"];

/// One dependency between crates of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrow {
    from: String,
    to: String,
    dev: bool,
}

pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(source::root()?.join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--locked".to_owned(), "--offline".to_owned()])
        .exec()
        .context("cannot read the workspace by cargo metadata")?;
    let names: Vec<_> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let mut arrows = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|d| names.contains(&d.name)) {
            arrows.push(Arrow {
                from: package.name.to_string(),
                to: dependency.name.clone(),
                dev: dependency.kind == DependencyKind::Development,
            });
        }
    }
    let faults = faults(&names, &arrows);
    if faults.is_empty() {
        println!("{} crates, {} arrows, all in allowed directions", names.len(), arrows.len());
        return Ok(());
    }
    bail!("dependencies in forbidden directions:\n{}", faults.join("\n"));
}

fn faults(names: &[String], arrows: &[Arrow]) -> Vec<String> {
    let mut faults = Vec::new();
    for name in names {
        if !ALLOWED.iter().any(|(known, _)| known == name) {
            faults.push(format!("{name} has no place: say in xtask/src/arrows.rs what it may depend on"));
        }
    }
    for Arrow { from, to, dev } in arrows {
        let for_tests = FOR_TESTS.contains(&to.as_str());
        let fine = if for_tests {
            *dev || NOT_SHIPPED.contains(&from.as_str())
        } else {
            let allowed = ALLOWED.iter().find(|(known, _)| known == from).map_or(&[][..], |(_, list)| list);
            allowed.contains(&"*") || allowed.contains(&to.as_str())
        };
        if !fine {
            let kind = if *dev { " in its tests" } else { "" };
            let why = if for_tests { "only tests may" } else { "see ALLOWED in xtask/src/arrows.rs" };
            faults.push(format!("{from} must not depend on {to}{kind} ({why})"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arrows: &[(&str, &str, bool)]) -> Vec<String> {
        let names: Vec<_> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
        let arrow = |&(from, to, dev): &(&str, &str, bool)| Arrow { from: from.into(), to: to.into(), dev };
        faults(&names, &arrows.iter().map(arrow).collect::<Vec<_>>())
    }

    #[test]
    fn good_graph_passes() {
        let good = [
            ("sluice-edge", "sluice-bus", false),
            ("sluice-bus", "sluice-types", false),
            ("sluice-cli", "sluice-edge", false),
            ("sluice-store", "sluice-test-env", true),
            ("usmp", "usmp-testkit", true),
            ("sluice-tests", "usmp-testkit", false),
        ];
        assert_eq!(check(&good), Vec::<String>::new());
    }

    #[test]
    fn each_bad_arrow_is_named() {
        for (from, to, dev) in [
            ("usmp", "sluice-types", false),
            ("sluice-svc", "sluice-types", false),
            ("sluice-store", "sluice-bus", false),
            ("sluice-store", "sluice-edge", true),
            ("sluice-bus", "sluice-svc", false),
            ("sluice-edge", "sluice-cli", false),
            ("sluice-edge", "sluice-test-env", false),
            ("sluice-cli", "usmp-testkit", false),
        ] {
            let faults = check(&[(from, to, dev)]);
            assert_eq!(faults.len(), 1, "{from} -> {to}: {faults:?}");
            assert!(faults[0].starts_with(&format!("{from} must not depend on {to}")), "{}", faults[0]);
        }
    }

    #[test]
    fn crate_without_a_place_is_named() {
        let faults = faults(&["sluice-new".to_owned()], &[]);
        assert!(faults[0].starts_with("sluice-new has no place"), "{faults:?}");
    }
}
