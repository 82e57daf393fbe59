//! The way of a record through the broker inside the process.
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use sluice_bus::{BusConfig, EmbeddedBroker, Group, Outcome, Start, Tail, Telemetry, Writer};

#[test]
fn a_committed_record_is_in_the_topic_byte_for_byte_with_its_headers() {
    let broker = EmbeddedBroker::start("t", 4).expect("a broker");
    let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
    let (settled, groups) = sync_channel(4);
    let writer = Writer::start("writer", &config, move |group| settled.send(group).expect("the test waits"))
        .expect("a writer");
    let mut group = Group::new(16, 4096);
    let payload = [0, 255, 7];
    let record = Telemetry {
        tenant: "default",
        device: *b"02a1b2c3d4e5",
        session: [0xab; 16],
        epoch: 2,
        seq: 41,
        received_ms: 1_795_680_930_123,
        payload: &payload,
    };
    group.push_telemetry(&record, 77).expect("room");
    writer.try_submit(group).expect("an idle writer takes a group");
    let group = groups.recv_timeout(Duration::from_secs(20)).expect("the group comes back");
    assert_eq!(group.outcomes().collect::<Vec<_>>(), [(77, Outcome::Committed)]);

    let tail = Tail::open(&config, "t.telemetry", Start::Beginning).expect("the topic is there");
    let found =
        (0..200).find_map(|_| tail.next(Duration::from_millis(100)).expect("readable")).expect("the record");
    assert_eq!(
        (found.key.as_slice(), found.payload.as_slice()),
        (b"default/02a1b2c3d4e5".as_slice(), payload.as_slice())
    );
    assert_eq!(found.header("ce_id"), Some(format!("{}.2.41", "ab".repeat(16)).as_str()));
    assert_eq!(found.header("ce_time"), Some("2026-11-26T08:15:30.123Z"));
    assert_eq!(found.header("ce_source"), Some("//sluice/tenants/default/devices/02a1b2c3d4e5"));
    assert_eq!(writer.shutdown(Duration::from_secs(5)), 0, "nothing is left open");
}
