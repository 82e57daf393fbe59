//! `sluice dev` as a user meets it: one process, nothing else installed.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::running::{DEV_ON_FREE_PORTS, Dev, sluice};

const ID: &str = "02:A1:b2:c3:d4:e5";

#[test]
fn simulated_devices_send_over_both_transports_and_a_signal_drains() {
    let mut dev = Dev::start(&["--simulate", "2", "--simulate-interval", "200ms"]);
    for id in ["020000000001", "020000000002"] {
        let line = dev.line_with(&format!("default/{id}  "));
        assert!(line.contains("temperature"), "{line}");
    }
    let (code, rest) = dev.terminate();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("everything received was committed"), "{rest}");
}

#[test]
fn a_device_is_added_sends_is_seen_and_is_revoked() {
    let dev = Dev::start(&[]);
    let added: Value = serde_json::from_str(&dev.ok(&["device", "add", ID, "-o", "json"])).expect("JSON");
    assert_eq!(added["device"], "02a1b2c3d4e5");
    let key = dev.data_dir.join("key.hex");
    std::fs::write(&key, added["key"].as_str().expect("a key that was made is shown")).expect("written");
    let key = key.to_str().expect("text");
    for transport in ["udp", "tcp"] {
        let url = format!("{transport}://{}", dev.address(transport));
        let sim = [
            "device",
            "sim",
            "--connect",
            &url,
            "--id",
            ID,
            "--psk-file",
            key,
            "--count",
            "3",
            "--interval",
            "1ms",
        ];
        let done = dev.ok(&sim);
        assert!(done.contains(" 3, failed 0"), "{transport}: {done}");
    }
    let tail = dev.ok(&["tail", "--from-beginning", "--count", "6", "--format", "json"]);
    let records: Vec<Value> =
        tail.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    assert!(records.iter().all(|record| record["key"] == "default/02a1b2c3d4e5"), "{tail}");
    let mut ids: Vec<_> = records.iter().filter_map(|record| record["headers"]["ce_id"].as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 6, "every record has an id of its own: {tail}");
    let audit: Value = serde_json::from_str(&dev.ok(&["audit", "topic", "-o", "json"])).expect("JSON");
    assert_eq!(
        (&audit["committed"], &audit["sessions"], &audit["clean"]),
        (&6.into(), &2.into(), &true.into()),
        "{audit}"
    );

    let listed = dev.ok(&["device", "list"]);
    assert!(listed.contains("02a1b2c3d4e5  default  active"), "{listed}");
    dev.ok(&["device", "revoke", ID, "--reason", "lost"]);
    let shown: Value = serde_json::from_str(&dev.ok(&["device", "show", ID, "-o", "json"])).expect("JSON");
    assert_eq!(shown["state"], "revoked");
    let url = format!("udp://{}", dev.address("udp"));
    let sim = ["device", "sim", "--connect", &url, "--id", ID, "--psk-file", key, "--count", "1"];
    let refused = dev.refused(&sim[..]);
    assert!(refused.contains("no session") && refused.contains("registered"), "{refused}");
}

#[test]
fn devices_survive_a_restart_of_the_data_folder() {
    let first = Dev::start(&[]);
    first.ok(&["device", "add", ID]);
    let (code, rest, folder) = first.terminate_keeping();
    assert_eq!(code, Some(0), "{rest}");
    let second = Dev::start_in(folder, &[]);
    assert!(second.ok(&["device", "list"]).contains("02a1b2c3d4e5"));
}

#[test]
fn mistakes_are_told_in_one_line_with_what_to_do() {
    let dev = Dev::start(&[]);
    let taken = dev.address("tcp").to_owned();
    let other = tempfile::tempdir().expect("a folder");
    let port = sluice(other.path())
        .args(["dev", "--tcp", &taken, "--udp", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .output();
    let port = port.expect("the binary starts");
    assert!(!port.status.success());
    let text = String::from_utf8_lossy(&port.stderr).into_owned();
    assert!(text.contains(&taken) && text.contains("--tcp") && text.contains("in use"), "{text}");
    assert_eq!(text.matches("os error").count(), 1, "the system's words come once: {text}");

    let config = other.path().join("edge.toml");
    for made in [false, true] {
        if made {
            std::fs::write(&config, "").expect("written");
        }
        let with = sluice(other.path()).arg("--config").arg(&config).arg("dev").output();
        let with = with.expect("the binary starts");
        let text = String::from_utf8_lossy(&with.stderr).into_owned();
        assert!(!with.status.success() && text.contains("takes no `--config`"), "file there: {made}: {text}");
    }

    let again = dev.refused(&DEV_ON_FREE_PORTS);
    assert!(
        again.contains("another `sluice dev`") && again.contains("--data-dir"),
        "a second process on the same folder: {again}"
    );

    let absent =
        sluice(&other.path().join("nobody")).args(["device", "list"]).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(!absent.status.success() && text.contains("sluice dev"), "{text}");

    assert!(dev.refused(&["device", "show", "02ffffffffff"]).contains("device list"));
    dev.ok(&["device", "add", ID]);
    assert!(dev.refused(&["device", "add", ID]).contains("02a1b2c3d4e5"));
}

#[test]
fn keys_come_from_standard_input_and_weak_ones_are_refused() {
    let dev = Dev::start(&[]);
    let add = |id: &str, key: &str, format: &str| {
        let mut child = sluice(&dev.data_dir)
            .args(["device", "add", id, "--psk-file", "-", "--psk-format", format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("piped").write_all(key.as_bytes()).expect("written");
        child.wait_with_output().expect("its own child")
    };
    let taken = add("020000000011", &format!(" {}\n", "5a".repeat(32)), "hex");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(!String::from_utf8_lossy(&taken.stdout).contains("5a5a"), "a key that was given is not shown");
    let hex_of_published: String =
        "usmp-dev-psk-change-me-before-prod".bytes().map(|byte| format!("{byte:02x}")).collect();
    for (key, format, why) in [
        ("5a5a", "hex", "at least 32"),
        ("usmp-dev-psk-change-me-before-prod", "text", "public"),
        (hex_of_published.as_str(), "hex", "public"),
        ("no hex", "hex", "not hex"),
    ] {
        let refused = add("020000000012", key, format);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(why), "{key}: {text}");
    }
    let shown = dev.ok(&["device", "show", "020000000011", "--snippet", "python"]);
    assert!(!shown.contains("5a5a") && shown.contains("PUT-THE-KEY"), "{shown}");
    let shown = dev.ok(&["device", "show", "020000000011", "--snippet", "idf", "--reveal"]);
    assert!(shown.contains("0x5a, 0x5a"), "{shown}");
    let sketch = dev.ok(&["device", "add", "020000000013", "--snippet", "arduino"]);
    assert!(sketch.contains("USMPClient usmp(\""), "{sketch}");
}

#[test]
fn a_device_with_a_wrong_key_is_named_in_the_output() {
    let mut dev = Dev::start(&[]);
    dev.ok(&["device", "add", ID]);
    let wrong = dev.data_dir.join("wrong.hex");
    std::fs::write(&wrong, "5a".repeat(32)).expect("written");
    let url = format!("tcp://{}", dev.address("tcp"));
    let key = wrong.to_str().expect("text");
    dev.refused(&["device", "sim", "--connect", &url, "--id", ID, "--psk-file", key, "--count", "1"]);
    let line = dev.line_with("refused  02a1b2c3d4e5");
    assert!(line.contains("over TCP") && line.contains("key that is registered"), "{line}");
}

#[test]
fn a_kafka_that_does_not_answer_is_waited_for_aloud() {
    let folder = tempfile::tempdir().expect("a folder");
    // Bound and never answered: nobody else takes the port, and nothing refuses the connection.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let kafka = silent.local_addr().expect("bound").to_string();
    let mut dev = sluice(folder.path())
        .args(DEV_ON_FREE_PORTS)
        .args(["--kafka", &kafka])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut said = String::new();
    dev.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(!dev.wait().expect("its own child").success(), "{said}");
    assert!(said.contains(&format!("no answer from Kafka at {kafka} yet")), "{said}");
    assert!(said.contains("--kafka HOST:PORT"), "{said}");
}
