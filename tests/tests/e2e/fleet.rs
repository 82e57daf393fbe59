//! Many devices at once.

use std::collections::HashMap;
use std::time::Duration;

use sluice_bus::Topic;
use sluice_test_env::install::SDK_VERSIONS;
use sluice_tests::expect::Expected;
use sluice_tests::{Edge, EdgeOptions, Sdk, Transport, World, java, now, payload, session_id};

const DEVICES: usize = 200;
const MESSAGES: u32 = 5;

/// The size of each message: small ones, and one of all four fragments.
const fn size(message: u32) -> usize {
    if message == 3 { 1808 } else { 120 }
}

#[test]
fn two_hundred_devices_at_once_are_told_apart_byte_for_byte_also_by_kafkas_own_consumer() {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdks = SDK_VERSIONS.map(|release| Sdk::start(release).unwrap());
    let fleet = world.devices(DEVICES).unwrap();
    let clients = fleet.iter().enumerate().map(|(index, credentials)| {
        // Neighbours differ in release and in transport.
        let transport = if index % 2 == 0 { Transport::Tcp } else { Transport::Udp };
        (credentials, sdks[index / 2 % sdks.len()].device(credentials, transport, edge.address()))
    });
    let clients = clients.collect::<Vec<_>>();

    let start = now();
    let connecting = clients.iter().map(|(_, client)| client.start_connect(Duration::from_secs(10)).unwrap());
    let connecting = connecting.collect::<Vec<_>>();
    let sessions = connecting.into_iter().map(|answer| session_id(&answer.wait().unwrap()).unwrap());
    let sessions = sessions.collect::<Vec<_>>();
    eprintln!("{DEVICES} devices connected in {:?}", now().duration_since(start));

    let start = now();
    for message in 0..MESSAGES {
        let sending = clients.iter().enumerate().map(|(index, (_, client))| {
            let number = u32::try_from(index).unwrap() * MESSAGES + message;
            client.start_send(&payload(number, size(message)), Duration::from_secs(30)).unwrap()
        });
        for sent in sending.collect::<Vec<_>>() {
            sent.wait().unwrap();
        }
    }
    let total = DEVICES * MESSAGES as usize;
    eprintln!("{total} messages sent in {:?}", now().duration_since(start));

    let mut reader = world.reader(Topic::Telemetry).unwrap();
    let records = reader.read_exactly(total, Duration::from_secs(30)).unwrap();
    let mut by_key = HashMap::<&[u8], Vec<_>>::new();
    for record in records {
        by_key.entry(&record.key).or_default().push(record);
    }
    for (index, ((credentials, _), session)) in clients.iter().zip(&sessions).enumerate() {
        let key = format!("default/{}", credentials.id);
        let records = by_key.get(key.as_bytes()).unwrap_or_else(|| panic!("no record of {key}"));
        assert_eq!(records.len(), MESSAGES as usize, "{key}");
        let mut frames = 0;
        for (record, message) in records.iter().zip(0..) {
            frames += u32::try_from(size(message).div_ceil(452)).unwrap();
            let payload = payload(u32::try_from(index).unwrap() * MESSAGES + message, size(message));
            let expected =
                Expected { device: credentials.id, session, epoch: 0, seq: frames - 1, payload: &payload };
            expected.check(record).unwrap();
        }
    }

    let mut seen = java::consume(&world.brokers(), &world.topic_name(Topic::Telemetry), total).unwrap();
    let mut read = reader.records().to_vec();
    seen.sort_by_key(|record| (record.partition, record.offset));
    read.sort_by_key(|record| (record.partition, record.offset));
    assert_eq!(seen, read, "Java sees other records than librdkafka");

    let farewells = clients.iter().map(|(_, client)| client.bye());
    let slowest = farewells.map(Result::unwrap).max();
    eprintln!("slowest farewell: {slowest:?}");
    let open = || {
        let opened = edge.metric("sluice_edge_sessions_opened_total", &[]).unwrap();
        opened - edge.metric("sluice_edge_sessions_closed_total", &[]).unwrap()
    };
    sluice_tests::wait_for("all sessions to be closed", Duration::from_secs(10), || match open() {
        0.0 => Ok(()),
        open => Err(format!("{open} open")),
    })
    .unwrap();
}
