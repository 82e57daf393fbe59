//! The edge is told to stop, or is killed, while devices send.

use std::collections::HashSet;
use std::time::Duration;

use sluice_bus::Topic;
use sluice_proto::events::v1::CloseReason;
use sluice_test_env::install::SDK_VERSIONS;
use sluice_tests::expect::{SOON, closed};
use sluice_tests::{
    Edge, EdgeOptions, Record, Sdk, StreamPlan, Streamed, TopicReader, Transport, World, payload,
    sessions_by_key, wait_for,
};

const DEVICES: usize = 12;

/// Waits until each device has records in as many sessions.
fn everybody_has_sessions(reader: &mut TopicReader, devices: usize, sessions: usize) {
    let what = format!("records of {devices} devices in {sessions} sessions each");
    let enough = |records: &[Record]| {
        let seen = sessions_by_key(records);
        seen.len() == devices && seen.values().all(|seen| seen.len() >= sessions)
    };
    reader.read_until(&what, Duration::from_secs(60), enough).unwrap();
}

#[test]
fn told_to_stop_under_load_it_commits_what_it_acknowledged_and_devices_come_back_to_the_next() {
    let world = World::shared().unwrap();
    let mut edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdks = SDK_VERSIONS.map(|release| Sdk::start(release).unwrap());
    let fleet = world.devices(DEVICES).unwrap();
    let devices = fleet.iter().enumerate().map(|(index, credentials)| {
        let transport = if index % 2 == 0 { Transport::Udp } else { Transport::Tcp };
        sdks[index / 2 % 3].device(credentials, transport, edge.address())
    });
    let devices = devices.collect::<Vec<_>>();
    let plan = |index: u32| StreamPlan {
        first: index * 1_000_000,
        size: 300,
        interval: Duration::from_millis(3),
        ..StreamPlan::default()
    };
    let running = devices.iter().zip(0..).map(|(device, index)| device.start_stream(&plan(index)).unwrap());
    let running = running.collect::<Vec<_>>();
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    reader.read_until("load", Duration::from_secs(20), |records| records.len() >= 500).unwrap();

    let status = edge.terminate(Duration::from_secs(25)).unwrap();
    assert!(status.success(), "ended with {status}:\n{}", edge.log().unwrap());
    let log = edge.log().unwrap();
    assert!(!log.contains("panicked"), "{log}");
    edge.restart().unwrap();
    // A 1.2 client that only sends notices by its timer alone, after up to 15 s.
    everybody_has_sessions(&mut reader, DEVICES, 2);
    for device in &devices {
        device.stop_stream().unwrap();
    }
    let results = running.into_iter().map(|stream| Streamed::try_from(stream.wait().unwrap()).unwrap());
    let results = results.collect::<Vec<_>>();
    wait_for("the last TCP records", Duration::from_secs(10), || {
        let open = edge.metric("sluice_edge_messages_received_total", &[]).unwrap()
            - edge.metric("sluice_edge_messages_committed_total", &[]).unwrap();
        if open == 0.0 { Ok(()) } else { Err(format!("{open} on their way")) }
    })
    .unwrap();
    let mut ids = HashSet::new();
    let mut numbers = HashSet::new();
    for record in reader.read_all(SOON).unwrap() {
        let id = record.header("ce_id").unwrap().to_owned();
        assert!(ids.insert(id.clone()), "{id} is there twice");
        let number = u32::from_le_bytes(*record.payload.first_chunk().unwrap());
        assert_eq!(record.payload, payload(number, 300));
        numbers.insert(number);
    }
    for (index, result) in results.iter().enumerate() {
        eprintln!(
            "device {index}: {} sent, {:?}, {} reconnects, longest {:?}",
            result.acked.len(),
            result.failures,
            result.reconnects,
            result.longest
        );
        // Over TCP nothing is acknowledged: what was under way when the edge closed the connection may be gone.
        if index % 2 == 0 {
            let lost = result.acked.iter().filter(|number| !numbers.contains(number)).collect::<Vec<_>>();
            assert!(lost.is_empty(), "device {index}: acknowledged and lost: {lost:?}");
        }
        assert!(result.reconnects >= 1, "device {index} did not come back: {result:?}");
    }
}

#[test]
fn told_to_stop_it_tells_its_devices_and_says_so() {
    let world = World::shared().unwrap();
    let mut edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let mut sessions = Vec::new();
    let mut hearing = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let credentials = world.device().unwrap();
        let device = sdk.device(&credentials, transport, edge.address());
        let session = device.connect().unwrap();
        device.send(b"a word").unwrap();
        hearing.push(device.start_recv(Duration::from_secs(15)).unwrap());
        sessions.push((credentials.id, session));
    }
    let status = edge.terminate(Duration::from_secs(10)).unwrap();
    assert!(status.success(), "{status}");
    for hears in hearing {
        let end = hears.failure().unwrap();
        assert!(end.text.contains("BYE"), "not told by a farewell: {end}");
    }
    for (device, session) in sessions {
        assert_eq!(closed(&world, device, &session).unwrap(), CloseReason::Drain);
    }
}

#[test]
fn killed_under_load_everything_acknowledged_is_committed() {
    let world = World::shared().unwrap();
    let mut edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdks = SDK_VERSIONS.map(|release| Sdk::start(release).unwrap());
    let fleet = world.devices(6).unwrap();
    let devices = fleet.iter().enumerate();
    let devices = devices
        .map(|(index, credentials)| sdks[index % 3].device(credentials, Transport::Udp, edge.address()))
        .collect::<Vec<_>>();
    let plan = |index: u32| StreamPlan { first: index * 1_000_000, size: 200, ..StreamPlan::default() };
    let running = devices.iter().zip(0..).map(|(device, index)| device.start_stream(&plan(index)).unwrap());
    let running = running.collect::<Vec<_>>();
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    for lives in 1..=2 {
        everybody_has_sessions(&mut reader, 6, lives);
        edge.restart().unwrap();
    }
    everybody_has_sessions(&mut reader, 6, 3);
    for device in &devices {
        device.stop_stream().unwrap();
    }
    let results = running.into_iter().map(|stream| Streamed::try_from(stream.wait().unwrap()).unwrap());
    let results = results.collect::<Vec<_>>();
    let numbers = reader.read_all(SOON).unwrap().iter();
    let numbers = numbers.map(|record| u32::from_le_bytes(*record.payload.first_chunk().unwrap()));
    let numbers = numbers.collect::<HashSet<_>>();
    for (index, result) in results.iter().enumerate() {
        let lost = result.acked.iter().filter(|number| !numbers.contains(number)).collect::<Vec<_>>();
        assert!(lost.is_empty(), "device {index}: acknowledged and lost: {lost:?}");
        eprintln!("device {index}: {} acknowledged, {} reconnects", result.acked.len(), result.reconnects);
    }
}
