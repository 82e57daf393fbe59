//! The key-encryption key is changed as docs/operations.md says, on a store in a local file.

use std::path::Path;
use std::process::{Command, Output};

const OLD: &str = "8f1d0a6be2c47395d1b86e0f23a9574cc07ebd145f32a8e96710d4c5b83f2e9a";
const NEW: &str = "3c95e7f2016ad84b97f02c5de1836ab4f5d90847c26e1ba37d40f8e9215ca6b3";
const ID: &str = "02a1b2c3d4e5";

fn device(config: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("--config").arg(config).arg("device").args(args);
    command.output().expect("starts")
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{} {out} {err}", output.status)
}

#[test]
fn the_old_key_encryption_key_can_go_once_every_record_is_resealed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (kek, config) = (folder.path().join("kek"), folder.path().join("edge.toml"));
    let keys = |lines: &[&str]| {
        std::fs::write(&kek, lines.join("\n")).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&kek, mode).expect("private");
    };
    let text = format!(
        "[store]\nkind = \"local\"\nkek_file = {:?}\n[store.local]\npath = {:?}\n",
        kek.display().to_string(),
        folder.path().join("devices.redb").display().to_string()
    );
    std::fs::write(&config, text).expect("written");

    keys(&[OLD]);
    let added = device(&config, &["add", ID]);
    assert!(added.status.success(), "{}", said(&added));
    let before = device(&config, &["show", ID, "--reveal"]);
    assert!(before.status.success(), "{}", said(&before));

    keys(&[NEW]);
    let too_early = device(&config, &["show", ID, "--reveal"]);
    assert!(!too_early.status.success(), "read without the key that sealed it: {}", said(&too_early));

    keys(&[NEW, OLD]);
    let resealed = device(&config, &["reseal"]);
    assert!(said(&resealed).contains("sealed under it: 1 devices"), "{}", said(&resealed));

    keys(&[NEW]);
    let after = device(&config, &["show", ID, "--reveal"]);
    assert_eq!(said(&after), said(&before));
}
