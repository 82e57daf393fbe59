//! What an official client does on a good day, for each release and each transport.

use std::time::Duration;

use sluice_bus::Topic;
use sluice_proto::events::v1::{self as events, CloseReason};
use sluice_tests::expect::{Expected, SOON, closed, java_partition, lifecycle};
use sluice_tests::{Edge, EdgeOptions, Sdk, Transport, World, payload};

/// A world, an edge in it and an SDK process.
fn stage(release: &str, options: &EdgeOptions) -> (World, Edge, Sdk) {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, options).unwrap();
    (world, edge, Sdk::start(release).unwrap())
}

fn usual(release: &str) -> (World, Edge, Sdk) {
    stage(release, &EdgeOptions::default())
}

const SIZES: [usize; 6] = [0, 1, 452, 453, 904, 1808];

fn telemetry_of_every_size_is_committed_byte_for_byte(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let credentials = world.device().unwrap();
    let device = sdk.device(&credentials, transport, edge.address());
    let session = device.connect().unwrap();
    let mut expected = Vec::new();
    let mut seq = 0;
    for (index, size) in (0..).zip(SIZES) {
        device.send(&payload(index, size)).unwrap();
        // One number per frame; the record carries the last one's.
        let frames = u32::try_from(size.div_ceil(452).max(1)).unwrap();
        seq += frames;
        expected.push((seq - 1, payload(index, size)));
    }
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    let records = reader.read_exactly(SIZES.len(), SOON).unwrap();
    for (record, (seq, payload)) in records.iter().zip(&expected) {
        let id = credentials.id;
        Expected { device: id, session: &session, epoch: 0, seq: *seq, payload }.check(record).unwrap();
        let partition = java_partition(format!("default/{id}").as_bytes(), 4);
        assert_eq!(u32::try_from(record.partition).unwrap(), partition, "not where Java would put it");
    }
}

fn a_udp_message_is_in_kafka_when_send_returns(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let device = sdk.device(&world.device().unwrap(), transport, edge.address());
    device.connect().unwrap();
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    for index in 0..5 {
        device.send(&payload(index, 100)).unwrap();
        if transport == Transport::Udp {
            // No waiting: what is acknowledged is there.
            let records = reader.read_all(SOON).unwrap();
            assert_eq!(
                records.len(),
                usize::try_from(index).unwrap() + 1,
                "acknowledged before it was committed"
            );
        }
    }
    reader.read_exactly(5, SOON).unwrap();
}

fn bytes_come_down_unchanged(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let credentials = world.device().unwrap();
    let device = sdk.device(&credentials, transport, edge.address());
    device.connect().unwrap();
    // The session is open once the device has spoken, which over TCP is not known when `send` returns.
    device.send(b"here I am").unwrap();
    world.reader(Topic::Telemetry).unwrap().read_exactly(1, SOON).unwrap();
    for (index, size) in (0..).zip([1, 452, 453, 1808]) {
        let waiting = device.start_recv(Duration::from_secs(15)).unwrap();
        edge.send_down(credentials.id, &payload(index, size)).unwrap();
        let received = sluice_tests::message(&waiting.wait().unwrap()).unwrap();
        assert_eq!(received, payload(index, size), "{size} bytes");
    }
}

fn ping_is_answered_by_pong(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let device = sdk.device(&world.device().unwrap(), transport, edge.address());
    device.connect().unwrap();
    device.ping().unwrap();
    // PONGs are read while the application receives.
    device.start_recv(Duration::from_millis(500)).unwrap().failure().unwrap();
    assert_eq!(device.frames("PONG").unwrap(), 1);
    device.send(b"still there").unwrap();
    world.reader(Topic::Telemetry).unwrap().read_exactly(1, SOON).unwrap();
}

fn bye_closes_the_session_at_once(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let credentials = world.device().unwrap();
    let device = sdk.device(&credentials, transport, edge.address());
    let session = device.connect().unwrap();
    device.send(b"one").unwrap();
    let took = device.bye().unwrap();
    assert!(took < Duration::from_secs(2), "the farewell took {took:?}: it was not acknowledged");
    assert_eq!(closed(&world, credentials.id, &session).unwrap(), CloseReason::Bye);
    let mut reader = world.reader(Topic::Lifecycle).unwrap();
    reader.read_all(SOON).unwrap();
    let changes = lifecycle(&reader, credentials.id).unwrap();
    let [opened, ended] = &changes[..] else { panic!("not opened and closed: {changes:?}") };
    assert!(matches!(opened.change, Some(events::lifecycle_event::Change::Opened(_))), "{opened:?}");
    let Some(events::lifecycle_event::Change::Closed(ended)) = &ended.change else { panic!("{ended:?}") };
    assert_eq!(ended.messages, 1);
}

fn a_device_that_comes_back_gets_a_new_session(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let credentials = world.device().unwrap();
    let mut sessions = Vec::new();
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    for index in 0..3 {
        let device = sdk.device(&credentials, transport, edge.address());
        sessions.push(device.connect().unwrap());
        device.send(&payload(index, 20)).unwrap();
        device.bye().unwrap();
        // Over TCP nothing says when a message is committed, and order is kept within a session only.
        reader.read_exactly(sessions.len(), SOON).unwrap();
    }
    for ((index, session), record) in (0..).zip(&sessions).zip(reader.records()) {
        let payload = payload(index, 20);
        Expected { device: credentials.id, session, epoch: 0, seq: 0, payload: &payload }
            .check(record)
            .unwrap();
    }
}

fn the_newer_session_takes_over(release: &str, transport: Transport) {
    let (world, edge, sdk) = usual(release);
    let credentials = world.device().unwrap();
    let older = sdk.device(&credentials, transport, edge.address());
    let first = older.connect().unwrap();
    older.send(b"older").unwrap();
    let hears = older.start_recv(Duration::from_secs(15)).unwrap();
    // Over the other transport, so that take-over is by the device alone.
    let newer = sdk.device(&credentials, transport.other(), edge.address());
    newer.connect().unwrap();
    newer.send(b"newer").unwrap();
    assert_eq!(closed(&world, credentials.id, &first).unwrap(), CloseReason::TakenOver);
    let end = hears.failure().unwrap();
    assert_ne!(end.class, "TimeoutError", "the older session was not told: {end}");
    newer.send(b"newer still").unwrap();
    world.reader(Topic::Telemetry).unwrap().read_exactly(3, SOON).unwrap();
}

fn a_silent_session_is_closed_after_the_idle_timeout(release: &str, transport: Transport) {
    let key = format!("edge.session.{}_idle_timeout", transport.as_str());
    let (world, edge, sdk) = stage(release, &EdgeOptions::default().with(&key, "2s"));
    let credentials = world.device().unwrap();
    let device = sdk.device(&credentials, transport, edge.address());
    let session = device.connect().unwrap();
    let start = sluice_tests::now();
    device.send(b"the last word").unwrap();
    assert_eq!(closed(&world, credentials.id, &session).unwrap(), CloseReason::Idle);
    let after = sluice_tests::now().duration_since(start);
    assert!(after >= Duration::from_secs(2), "closed already after {after:?}");
}

macro_rules! for_each_release_and_transport {
    ($($situation:ident,)*) => {
        for_each_release_and_transport!(@ sdk_1_0_0_tcp, "1.0.0", Tcp, $($situation)*);
        for_each_release_and_transport!(@ sdk_1_0_0_udp, "1.0.0", Udp, $($situation)*);
        for_each_release_and_transport!(@ sdk_1_1_0_tcp, "1.1.0", Tcp, $($situation)*);
        for_each_release_and_transport!(@ sdk_1_1_0_udp, "1.1.0", Udp, $($situation)*);
        for_each_release_and_transport!(@ sdk_1_2_2_tcp, "1.2.2", Tcp, $($situation)*);
        for_each_release_and_transport!(@ sdk_1_2_2_udp, "1.2.2", Udp, $($situation)*);
    };
    (@ $module:ident, $release:literal, $transport:ident, $($situation:ident)*) => {
        mod $module {
            $(#[test]
            fn $situation() {
                super::$situation($release, sluice_tests::Transport::$transport);
            })*
        }
    };
}

for_each_release_and_transport! {
    telemetry_of_every_size_is_committed_byte_for_byte,
    a_udp_message_is_in_kafka_when_send_returns,
    bytes_come_down_unchanged,
    ping_is_answered_by_pong,
    bye_closes_the_session_at_once,
    a_device_that_comes_back_gets_a_new_session,
    the_newer_session_takes_over,
    a_silent_session_is_closed_after_the_idle_timeout,
}

/// Releases before 1.2 know no REKEY.
fn rekey_by_the_client(transport: Transport) {
    let (world, edge, sdk) = usual("1.2.2");
    let credentials = world.device().unwrap();
    let device = sdk.device(&credentials, transport, edge.address());
    let session = device.connect().unwrap();
    device.send(b"first keys").unwrap();
    device.send(b"first keys again").unwrap();
    for epoch in 1..=3_u32 {
        device.rekey().unwrap();
        device.send(&payload(epoch, 500)).unwrap();
        let waiting = device.start_recv(Duration::from_secs(15)).unwrap();
        edge.send_down(credentials.id, &payload(epoch, 300)).unwrap();
        let received = sluice_tests::message(&waiting.wait().unwrap()).unwrap();
        assert_eq!(received, payload(epoch, 300), "down after {epoch} changes of keys");
    }
    let mut reader = world.reader(Topic::Telemetry).unwrap();
    let records = reader.read_exactly(5, SOON).unwrap();
    let id = credentials.id;
    for (record, (seq, text)) in records.iter().zip([(0, "first keys"), (1, "first keys again")]) {
        let payload = text.as_bytes();
        Expected { device: id, session: &session, epoch: 0, seq, payload }.check(record).unwrap();
    }
    for (record, epoch) in records[2..].iter().zip(1..) {
        // The sequence starts again: two fragments, 0 and 1.
        let payload = payload(epoch, 500);
        Expected { device: id, session: &session, epoch, seq: 1, payload: &payload }.check(record).unwrap();
    }
}

#[test]
fn rekey_by_the_client_over_tcp_starts_the_sequence_again_under_the_next_epoch() {
    rekey_by_the_client(Transport::Tcp);
}

#[test]
fn rekey_by_the_client_over_udp_starts_the_sequence_again_under_the_next_epoch() {
    rekey_by_the_client(Transport::Udp);
}
