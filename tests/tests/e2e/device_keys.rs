//! An operator changes the keys of a device that has a session, and takes devices away from a fleet at work.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_store::LogPosition;
use sluice_tests::{Credentials, Edge, EdgeOptions, Sdk, Transport, World, program, wait_for};
use sluice_types::Psk;

const WITHIN: Duration = Duration::from_secs(60);
const NEW_KEY: [u8; 32] = *b"another key for the same device.";

/// A command of an operator, who works on the store of this edge.
fn operator(edge: &Edge, command: &[&str]) -> Output {
    let mut sluice = Command::new(program("sluice").unwrap());
    sluice.args(["-o", "json", "--config"]).arg(edge.config()).args(command).output().unwrap()
}

/// What a command that must succeed prints.
fn done(edge: &Edge, command: &[&str]) -> Value {
    let output = operator(edge, command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(sdk: &Sdk, credentials: &Credentials, edge: &Edge) {
    let device = sdk.device(credentials, Transport::Udp, edge.address());
    let failed = device.start_connect(Duration::from_secs(3)).unwrap().failure();
    eprintln!("refused: {}", failed.expect("no session"));
}

#[test]
fn a_session_outlives_its_key_and_not_its_device() {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let old = world.device().unwrap();
    let new = Credentials { id: old.id, psk: Psk::new(&NEW_KEY).unwrap() };
    let id = old.id.to_string();
    let key_file = world.file("new-key");
    std::fs::write(&key_file, hex::encode(NEW_KEY)).unwrap();

    let device = sdk.device(&old, Transport::Udp, edge.address());
    device.connect().unwrap();
    device.send(b"under the old key").unwrap();
    let added = done(&edge, &["device", "key", "add", &id, "--psk-file", key_file.to_str().unwrap()]);
    assert_eq!(added["key_epochs"], json!([1, 2]), "{added}");
    device.send(b"a second key changes nothing").unwrap();
    let retired = done(&edge, &["device", "key", "retire", &id, "1"]);
    assert_eq!(retired["key_epochs"], json!([2]), "{retired}");
    device.send(b"nor does the end of the first").unwrap();
    refused(&sdk, &old, &edge);

    // Whoever holds a stolen key keeps the session that is open, until the device is suspended.
    let hears = device.start_recv(WITHIN).unwrap();
    let suspended = done(&edge, &["device", "suspend", &id, "--wait", "60s"]);
    assert_eq!(
        (&suspended["in_force"], &suspended["outstanding"]),
        (&json!(true), &json!([])),
        "{suspended}"
    );
    assert_ne!(hears.failure().unwrap().class, "TimeoutError", "it was not told");
    refused(&sdk, &new, &edge);
    assert_eq!(done(&edge, &["device", "resume", &id])["state"], "active");
    let device = sdk.device(&new, Transport::Udp, edge.address());
    wait_for("a session", WITHIN, || device.connect().map_err(|error| format!("{error:#}"))).unwrap();
    device.send(b"under the new key").unwrap();

    let hears = device.start_recv(WITHIN).unwrap();
    let removed = done(&edge, &["device", "remove", &id, "--wait", "60s"]);
    assert_eq!((&removed["state"], &removed["in_force"]), (&json!("removed"), &json!(true)), "{removed}");
    assert_ne!(hears.failure().unwrap().class, "TimeoutError", "it was not told");
    refused(&sdk, &new, &edge);
    let shown = operator(&edge, &["device", "show", &id]);
    assert!(!shown.status.success(), "{shown:?}");
}

#[test]
fn a_removal_that_a_pod_has_not_applied_names_it_and_exits_with_three() {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let device = world.device().unwrap();
    let id = device.id.to_string();
    // It lives, as it says again and again, and never gets on.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(sluice_store::Store::open(world.store_config())).unwrap();
    runtime.block_on(store.report_applied("behind", LogPosition::START)).unwrap();
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // One that fails is followed by another.
            let _ = store.report_applied("behind", LogPosition::START).await;
        }
    });
    let removed = operator(&edge, &["device", "remove", &id, "--wait", "1s"]);
    assert_eq!(removed.status.code(), Some(3), "{removed:?}");
    let facts: Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!((&facts["state"], &facts["in_force"]), (&json!("removed"), &json!(false)), "{facts}");
    assert!(facts["outstanding"].as_array().unwrap().contains(&json!("behind")), "{facts}");
}
