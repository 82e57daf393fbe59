//! What the program prints about its settings, and what it says about wrong ones.

use std::path::Path;
use std::process::{Command, Output};

fn sluice_edge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice-edge"))
        .args(args)
        .env_clear()
        .output()
        .expect("the program that cargo built can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn committed_sample_loads_as_the_defaults() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/sluice-edge.sample.toml");
    let output = sluice_edge(&["--config", sample.to_str().unwrap(), "--print-config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let defaults = sluice_svc::config::print(&sluice_edge::Config::default()).unwrap();
    assert_eq!(text(&output.stdout), defaults);
}

#[test]
fn wrong_setting_ends_the_start_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, "[edge]\nupd = \"127.0.0.1:0\"\n").unwrap();
    let output = sluice_edge(&["--config", file.to_str().unwrap()]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.starts_with("error: unknown setting `edge.upd` in the file ") && error.contains("udp"),
        "{error}"
    );
}

#[test]
fn missing_file_ends_the_start_with_its_name() {
    let output = sluice_edge(&["--config", "/nonexistent/edge.toml"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/nonexistent/edge.toml") && error.contains("No such file"), "{error}");
}

#[test]
fn without_settings_it_says_how_to_get_some() {
    let output = sluice_edge(&[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--config FILE") && error.contains("--print-sample"), "{error}");
}

#[test]
fn one_of_many_pods_must_say_where_it_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    for (cluster, said) in [
        ("enabled = true", "`0.0.0.0:9443`"),
        ("enabled = true\nadvertise = \"[::]:9443\"", "`[::]:9443`"),
        ("enabled = true\nadvertise = \"edge-0\"", "`edge-0`"),
        ("enabled = true\nadvertise = \":9443\"", "`:9443`"),
    ] {
        std::fs::write(&file, format!("[edge.cluster]\n{cluster}\n")).unwrap();
        let output = sluice_edge(&["--config", file.to_str().unwrap()]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("edge.cluster.advertise") && error.contains(said), "{cluster}: {error}");
    }
}
