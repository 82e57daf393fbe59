//! One suite for every broker: the embedded one, and a real Kafka with the feature `backends`.

mod common;

use common::{
    LONG, RECEIVED_MS, Rig, assert_complete_once_and_ordered, group_of, java_partition, push, read_from,
    seq_of,
};
use sluice_bus::{
    BusConfig, BusError, EventEncoder, EventFormat, EventRecord, Group, Outcome, Refusal, Start, Tail, Topic,
    check,
};
use sluice_proto::events::v1::{LifecycleEvent, SessionClosed, lifecycle_event};

/// Partitions of every topic in the suite.
const PARTITIONS: i32 = 4;

fn committed_record_is_in_the_topic_byte_for_byte_with_its_headers(config: &BusConfig) {
    let rig = Rig::start(config);
    let mut group = Group::new(16, 4096);
    push(&mut group, 41, 1808);
    rig.commit(group);
    let found = rig.read("telemetry", 1);
    assert_eq!(found.len(), 1);
    let mut payload = vec![0x5a; 1808];
    payload[..4].copy_from_slice(&41_u32.to_be_bytes());
    assert_eq!(found[0].payload, payload);
    assert_eq!(found[0].key, b"default/02a1b2c3d406");
    let id = format!("{}.2.41", "ab".repeat(16));
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", id.as_str()),
        ("ce_source", "//sluice/tenants/default/devices/02a1b2c3d406"),
        ("ce_type", "sluice.telemetry.raw.v1"),
        ("ce_time", "2026-11-26T08:15:30.123Z"),
        ("ce_timesource", "received"),
        ("ce_recordedtime", "2026-11-26T08:15:30.123Z"),
        ("ce_sequence", "41"),
        ("content-type", "application/octet-stream"),
    ];
    assert_eq!(
        found[0].headers,
        expected.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())),
        "headers in their order"
    );
}

fn empty_payload_is_an_empty_value_not_a_missing_one(config: &BusConfig) {
    let rig = Rig::start(config);
    let mut group = Group::new(16, 4096);
    let record = sluice_bus::Telemetry {
        tenant: "default",
        device: *b"02a1b2c3d400",
        session: [1; 16],
        epoch: 0,
        seq: 1,
        received_ms: RECEIVED_MS,
        payload: b"",
    };
    group.push_telemetry(&record, 0).expect("room");
    rig.commit(group);
    assert_eq!(rig.read("telemetry", 1)[0].payload, b"");
}

fn many_groups_are_committed_once_in_the_order_of_each_device(config: &BusConfig) {
    let rig = Rig::start(config);
    for first in (0..4000).step_by(1000) {
        rig.submit(group_of(first..first + 1000, 100));
    }
    for _ in 0..4 {
        common::all_committed(&rig.settled());
    }
    let records = rig.read("telemetry", 4000);
    assert_complete_once_and_ordered(&records, 0..4000);
    for record in &records {
        assert_eq!(record.partition, java_partition(&record.key, PARTITIONS), "{:?}", record.key);
    }
}

fn the_same_record_twice_has_the_same_id_twice(config: &BusConfig) {
    let rig = Rig::start(config);
    rig.commit(group_of(7..8, 10));
    rig.commit(group_of(7..8, 10));
    let found = rig.read("telemetry", 2);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].header("ce_id"), found[1].header("ce_id"));
}

fn record_above_the_limit_goes_to_the_dead_letters_and_the_rest_of_its_group_commits(config: &BusConfig) {
    let rig = Rig::start(&BusConfig { message_max_bytes: 10_000, ..config.clone() });
    let mut group = group_of(0..50, 20);
    push(&mut group, 50, 20_000);
    (51..100).for_each(|seq| push(&mut group, seq, 20));
    rig.submit(group);
    for (token, outcome) in rig.settled().outcomes() {
        let expected = if token == 50 { Outcome::Refused(Refusal::TooLarge) } else { Outcome::Committed };
        assert_eq!(outcome, expected, "token {token}");
    }
    let letters = rig.read("dlq", 1);
    assert_eq!(letters.len(), 1);
    assert_eq!(seq_of(&letters[0]), 50);
    assert_eq!(letters[0].header("sluice_dlq_reason"), Some("too_large"));
    assert_eq!(letters[0].header("sluice_dlq_topic"), Some(rig.topic("telemetry").as_str()));
    assert_eq!(letters[0].header("sluice_dlq_payload_bytes"), Some("20000"));
    assert_eq!(rig.read("telemetry", 99).len(), 99);
}

fn events_of_both_formats_are_read_as_the_same_json(config: &BusConfig) {
    let rig = Rig::start(config);
    let event = LifecycleEvent {
        revision: 1,
        event_id: "ab.closed".into(),
        time_unix_ms: RECEIVED_MS,
        change: Some(lifecycle_event::Change::Closed(SessionClosed {
            messages: 9,
            ..SessionClosed::default()
        })),
        ..LifecycleEvent::default()
    };
    let mut group = Group::new(16, 4096);
    for (token, format) in (0..).zip([EventFormat::Protobuf, EventFormat::Json]) {
        let payload = EventEncoder::new(format).expect("both are built in").lifecycle(&event);
        let record = EventRecord {
            topic: Topic::Lifecycle,
            key: b"default/02a1b2c3d400",
            id: &event.event_id,
            source: "tenants/default/devices/02a1b2c3d400",
            time_ms: RECEIVED_MS,
            payload: &payload,
        };
        group.push_event(&record, token).expect("room");
    }
    rig.commit(group);
    let found = rig.read("lifecycle", 2);
    let types: Vec<_> = found.iter().map(|record| record.header("content-type").expect("there")).collect();
    assert_eq!(types, ["application/protobuf", "application/json"]);
    assert_eq!(found[0].header("ce_source"), Some("//sluice/tenants/default/devices/02a1b2c3d400"));
    let json = found[0].event().expect("protobuf is read");
    assert_eq!(json["closed"]["messages"], "9");
    assert_eq!(Some(json), found[1].event());
}

fn tail_from_the_end_shows_only_what_comes_after(config: &BusConfig) {
    let rig = Rig::start(config);
    rig.commit(group_of(0..20, 10));
    let tail = Tail::open(config, &rig.topic("telemetry"), Start::End).expect("the topic is there");
    rig.commit(group_of(20..40, 10));
    assert_complete_once_and_ordered(&read_from(&tail, 20), 20..40);
}

fn shutdown_commits_what_was_submitted_within_its_time(config: &BusConfig) {
    let rig = Rig::start(config);
    rig.submit(group_of(0..2000, 100));
    rig.submit(group_of(2000..4000, 100));
    assert_eq!(rig.writer.shutdown(LONG), 0, "records without an outcome");
    rig.settled.iter().for_each(|group| common::all_committed(&group));
    let reader = Rig::start(config);
    assert_complete_once_and_ordered(&reader.read("telemetry", 4000), 0..4000);
}

fn check_finds_all_topics_and_names_a_missing_one(config: &BusConfig) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(check(config)).expect("all topics are there");
    let other = BusConfig { topic_prefix: format!("{}-other", config.topic_prefix), ..config.clone() };
    let missing = runtime.block_on(check(&other)).expect_err("no such topics");
    assert!(matches!(&missing, BusError::TopicMissing(name) if name.contains("-other.")), "{missing}");
    let opened = Tail::open(config, "no-such-topic", Start::End).map(|_| ());
    assert!(matches!(opened, Err(BusError::TopicMissing(_))), "{opened:?}");
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        #[cfg(feature = "embedded")]
        mod embedded {
            use sluice_bus::{BusConfig, EmbeddedBroker};

            $(#[test]
            fn $case() {
                let broker = EmbeddedBroker::start("t", super::PARTITIONS).expect("a broker");
                let config = BusConfig { topic_prefix: "t".into(), ..BusConfig::default() };
                super::$case(&broker.configure(&config));
            })*
        }

        #[cfg(feature = "backends")]
        mod kafka {
            use sluice_bus::{BusConfig, apply};
            use sluice_test_env::Kafka;

            $(#[test]
            fn $case() {
                let kafka = Kafka::shared().expect("a Kafka");
                let config = BusConfig {
                    brokers: kafka.bootstrap().split(',').map(str::to_owned).collect(),
                    topic_prefix: sluice_test_env::unique("bus"),
                    slots: 4,
                    ..BusConfig::default()
                };
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime
                    .block_on(apply(&config, super::common::options(super::PARTITIONS, 1)))
                    .expect("topics");
                super::$case(&config);
            })*
        }
    };
}

suite!(
    committed_record_is_in_the_topic_byte_for_byte_with_its_headers,
    empty_payload_is_an_empty_value_not_a_missing_one,
    many_groups_are_committed_once_in_the_order_of_each_device,
    the_same_record_twice_has_the_same_id_twice,
    record_above_the_limit_goes_to_the_dead_letters_and_the_rest_of_its_group_commits,
    events_of_both_formats_are_read_as_the_same_json,
    tail_from_the_end_shows_only_what_comes_after,
    shutdown_commits_what_was_submitted_within_its_time,
    check_finds_all_topics_and_names_a_missing_one,
);

#[test]
fn brokers_that_do_not_answer_are_named_with_what_to_do() {
    // Nothing listens on a port that was just given back.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let address = format!("127.0.0.1:{port}");
    let config = BusConfig { brokers: vec![address.clone()], ..BusConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let refused = runtime.block_on(check(&config)).expect_err("nobody is there").to_string();
    assert!(refused.contains(&address) && refused.contains("bus.brokers"), "{refused}");
}
