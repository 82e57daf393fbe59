//! Keys of a device are changed, and devices taken out, as docs/operations.md says.

use std::process::Stdio;

use serde_json::Value;

use crate::running::{Dev, eventually, sluice};

const ID: &str = "02a1b2c3d4e5";

/// A command's JSON on standard output.
fn json(dev: &Dev, args: &[&str]) -> Value {
    let all: Vec<_> = args.iter().copied().chain(["-o", "json"]).collect();
    let text = dev.ok(&all);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// Puts the key that a command has made into a file.
fn key_file(dev: &Dev, name: &str, made: &Value) -> String {
    let path = dev.data_dir.join(name);
    std::fs::write(&path, made["key"].as_str().expect("a key that was made is shown")).expect("written");
    path.to_str().expect("text").to_owned()
}

/// A device that connects over TCP and sends one record.
fn connect<'a>(url: &'a str, key: &'a str) -> Vec<&'a str> {
    let mut args = vec!["device", "sim", "--connect", url, "--id", ID, "--psk-file", key];
    args.extend(["--count", "1", "--interval", "1ms"]);
    args
}

#[test]
fn a_key_is_changed_without_a_gap() {
    let dev = Dev::start(&[]);
    let url = format!("tcp://{}", dev.address("tcp"));
    let old = key_file(&dev, "old.hex", &json(&dev, &["device", "add", ID]));
    let added = json(&dev, &["device", "key", "add", ID]);
    assert_eq!(added["key_epochs"], serde_json::json!([1, 2]), "{added}");
    let new = key_file(&dev, "new.hex", &added);
    for key in [&old, &new] {
        let sent = json(&dev, &connect(&url, key));
        assert_eq!((&sent["connected"], &sent["sent"]), (&true.into(), &1.into()), "{sent}");
    }
    let shown = dev.ok(&["device", "show", ID]);
    assert!(shown.contains("keys     1, since 20") && shown.contains("         2, since 20"), "{shown}");
    assert!(
        dev.ok(&["tail", "--topic", "lifecycle", "--from-beginning", "--count", "3"])
            .contains("\"keyEpoch\":2"),
        "the operator sees which key a device has"
    );

    let again = dev.refused(&["device", "key", "add", ID, "--psk-file", &new]);
    assert!(again.contains("key 2 of device 02a1b2c3d4e5 already"), "{again}");
    let wrong = dev.refused(&["device", "key", "retire", ID, "7"]);
    assert!(wrong.contains("no key 7") && wrong.contains("1, 2"), "{wrong}");
    let retired = json(&dev, &["device", "key", "retire", ID, "1"]);
    assert_eq!(
        (&retired["retired"], &retired["key_epochs"]),
        (&1.into(), &serde_json::json!([2])),
        "{retired}"
    );
    let last = dev.refused(&["device", "key", "retire", ID, "2"]);
    assert!(last.contains("last one") && last.contains("device key add"), "{last}");
    dev.ok(&connect(&url, &new));
    let refused = dev.refused(&connect(&url, &old));
    assert!(refused.contains("no session"), "{refused}");
}

#[test]
fn more_keys_than_three_and_keys_of_strangers_are_refused_with_what_to_do() {
    let dev = Dev::start(&[]);
    assert!(dev.refused(&["device", "key", "add", ID]).contains("device list"), "not registered");
    dev.ok(&["device", "add", ID]);
    dev.ok(&["device", "key", "add", ID]);
    dev.ok(&["device", "key", "add", ID]);
    let full = dev.refused(&["device", "key", "add", ID]);
    assert!(full.contains("three keys") && full.contains("device key retire"), "{full}");
    let twice = dev.refused(&["device", "add", ID]);
    assert!(twice.contains("device key add") && twice.contains("device remove"), "{twice}");
}

#[test]
fn a_revoked_device_is_removed_and_added_anew() {
    let dev = Dev::start(&[]);
    dev.ok(&["device", "add", ID]);
    dev.ok(&["device", "revoke", ID]);
    for refused in [
        &["device", "add", ID][..],
        &["device", "key", "add", ID],
        &["device", "suspend", ID],
        &["device", "resume", ID],
    ] {
        let text = dev.refused(refused);
        assert!(text.contains("revoked") && text.contains("device remove"), "{refused:?}: {text}");
    }
    assert_eq!(json(&dev, &["device", "remove", ID])["state"], "removed");
    assert!(dev.refused(&["device", "show", ID]).contains("device list"));
    assert_eq!(json(&dev, &["device", "remove", ID])["state"], "removed", "asked again after a timeout");
    let anew = json(&dev, &["device", "add", ID]);
    assert_eq!(anew["key_epochs"], serde_json::json!([2]), "a number is not given twice: {anew}");
    let url = format!("tcp://{}", dev.address("tcp"));
    dev.ok(&connect(&url, &key_file(&dev, "key.hex", &anew)));
    assert!(dev.refused(&["device", "remove", "02ffffffff77"]).contains("device list"), "a stranger");
}

#[test]
fn a_live_session_ends_when_its_device_is_suspended_or_removed() {
    let dev = Dev::start(&[]);
    let url = format!("tcp://{}", dev.address("tcp"));
    let key = key_file(&dev, "key.hex", &json(&dev, &["device", "add", ID]));
    for (number, how) in ["suspend", "remove"].into_iter().enumerate() {
        let mut device = sluice(&dev.data_dir)
            .args(["device", "sim", "--connect", &url, "--id", ID, "--psk-file", &key, "--interval", "1h"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        // The record that a device sends first.
        dev.ok(&["tail", "--from-beginning", "--count", &(number + 1).to_string()]);
        assert!(device.try_wait().expect("its own child").is_none(), "the session is open");
        dev.ok(&["device", how, ID]);
        let status = eventually("the end of the session", || device.try_wait().expect("its own child"));
        assert!(!status.success(), "the server ended it: {status}");
        if how == "suspend" {
            assert_eq!(json(&dev, &["device", "show", ID])["state"], "suspended");
            assert_eq!(json(&dev, &["device", "resume", ID])["state"], "active");
        }
    }
}
