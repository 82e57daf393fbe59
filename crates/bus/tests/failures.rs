//! A real Kafka that is stopped, killed, short of a node, or strict.
#![cfg(feature = "backends")]

mod common;

use std::time::Duration;

use common::{
    Rig, all_committed, assert_complete_once_and_ordered, group_of, java_partition, now, options, push,
    seq_of,
};
use sluice_bus::{BusConfig, BusError, Group, Outcome, Refusal, Weakness, apply, check, weaknesses};
use sluice_test_env::{Kafka, KafkaOptions, unique};
use tokio::runtime::{Builder, Runtime};

const TOOL_LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn config(bootstrap: &str) -> BusConfig {
    BusConfig {
        brokers: bootstrap.split(',').map(str::to_owned).collect(),
        topic_prefix: unique("bus"),
        slots: 4,
        ..BusConfig::default()
    }
}

fn with_topics(bootstrap: &str, partitions: i32, replication_factor: i32) -> BusConfig {
    let config = config(bootstrap);
    runtime().block_on(apply(&config, options(partitions, replication_factor))).expect("topics");
    config
}

/// Submits groups of ten until the writer refuses one; returns how many records it has.
fn fill(rig: &Rig, first: u32) -> u32 {
    let mut next = first;
    while rig.writer.try_submit(group_of(next..next + 10, 100)).is_ok() {
        next += 10;
        assert!(next - first < 10_000, "the writer takes groups without end");
    }
    next
}

fn settle_all(rig: &Rig, records: u32) {
    let mut settled = 0;
    while settled < records {
        let group = rig.settled();
        all_committed(&group);
        settled += u32::try_from(group.len()).expect("small");
    }
}

#[test]
fn stall_longer_than_a_request_may_take_holds_back_and_neither_loses_nor_doubles() {
    let kafka = Kafka::start(KafkaOptions::default()).expect("a Kafka");
    let rig = Rig::start(&with_topics(&kafka.bootstrap(), 4, 1));
    rig.commit(group_of(0..100, 100));
    kafka.pause(0).expect("paused");
    let stalled = now();
    let submitted = fill(&rig, 100);
    // Nothing may be settled while the broker stands still. Requests time out after 15 s and are repeated.
    let early = rig.settled.recv_timeout(Duration::from_secs(20).saturating_sub(now() - stalled));
    assert!(early.is_err(), "settled without the broker: {early:?}");
    kafka.resume(0).expect("resumed");
    settle_all(&rig, submitted - 100);
    let records = rig.read("telemetry", submitted as usize);
    assert_complete_once_and_ordered(&records, 0..submitted);
}

#[test]
fn killed_and_restarted_broker_gets_everything_once_in_order() {
    let mut kafka = Kafka::start(KafkaOptions::default()).expect("a Kafka");
    let rig = Rig::start(&with_topics(&kafka.bootstrap(), 4, 1));
    rig.commit(group_of(0..1000, 100));
    // In the middle of its work, so that some records are in the log without a report.
    rig.submit(group_of(1000..11_000, 100));
    kafka.kill(0).expect("killed");
    let submitted = fill(&rig, 11_000);
    kafka.restart(0).expect("restarted");
    settle_all(&rig, submitted - 1000);
    let records = rig.read("telemetry", submitted as usize);
    // The page cache outlives the process, so nothing acknowledged is gone even with one copy.
    assert_complete_once_and_ordered(&records, 0..submitted);
    assert_eq!(rig.writer.stats().renewed.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn three_copies_go_on_committing_without_one_node_and_stop_without_two() {
    let mut kafka =
        Kafka::start(KafkaOptions { nodes: 3, heap_mib: 256, ..KafkaOptions::default() }).expect("a Kafka");
    kafka.wait_brokers(3).expect("three brokers");
    let config = with_topics(&kafka.bootstrap(), 6, 3);
    let found = runtime().block_on(weaknesses(&config)).expect("described");
    assert_eq!(found, [], "three copies, two in sync");
    let rig = Rig::start(&config);
    rig.commit(group_of(0..600, 100));
    kafka.kill(2).expect("killed");
    rig.submit(group_of(600..1200, 100));
    settle_all(&rig, 600);
    kafka.wait_brokers(2).expect("two brokers");
    rig.commit(group_of(1200..1800, 100));
    // A record of every partition needs two nodes, and the quorum of controllers too.
    kafka.kill(1).expect("killed");
    rig.submit(group_of(1800..2400, 100));
    let early = rig.settled.recv_timeout(Duration::from_secs(5));
    assert!(early.is_err(), "acknowledged by one node alone: {early:?}");
    kafka.restart(1).expect("restarted");
    settle_all(&rig, 600);
    assert_complete_once_and_ordered(&rig.read("telemetry", 2400), 0..2400);
}

#[test]
fn record_the_topic_refuses_as_too_large_is_buried_and_its_batch_commits() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1, 1);
    let topic = format!("{}.telemetry", config.topic_prefix);
    let args = ["--bootstrap-server", &kafka.bootstrap(), "--alter", "--topic", &topic];
    let args = [&args[..], &["--add-config", "max.message.bytes=4000"]].concat();
    Kafka::tool("kafka.admin.ConfigCommand", &args, TOOL_LIMIT).expect("altered");
    let found = runtime().block_on(weaknesses(&config)).expect("described");
    assert!(found.iter().any(|w| matches!(w, Weakness::MaxMessage { value: 4000, .. })), "{found:?}");
    // Uncompressed, since the topic's limit is for the batch as it is sent.
    let rig = Rig::start(&BusConfig { compression: sluice_bus::Compression::None, ..config });
    let mut group = Group::new(1000, 1 << 20);
    for seq in 0..300 {
        push(&mut group, seq, if seq == 123 || seq == 200 { 6000 } else { 50 });
    }
    rig.submit(group);
    for (token, outcome) in rig.settled().outcomes() {
        let large = token == 123 || token == 200;
        let expected = if large { Outcome::Refused(Refusal::TooLarge) } else { Outcome::Committed };
        assert_eq!(outcome, expected, "token {token}");
    }
    let mut buried: Vec<_> = rig.read("dlq", 2).iter().map(seq_of).collect();
    buried.sort_unstable();
    assert_eq!(buried, [123, 200]);
    let mut committed: Vec<_> = rig.read("telemetry", 298).iter().map(seq_of).collect();
    committed.sort_unstable();
    assert_eq!(committed, (0..300).filter(|seq| ![123, 200].contains(seq)).collect::<Vec<_>>(), "each once");
}

#[test]
fn missing_topic_is_waited_for_and_its_records_commit_when_it_is_made() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = config(&kafka.bootstrap());
    let rig = Rig::start(&config);
    rig.submit(group_of(0..100, 20));
    let refused = runtime().block_on(check(&config));
    assert!(matches!(refused, Err(BusError::TopicMissing(_))), "{refused:?}");
    assert!(rig.settled.try_recv().is_err(), "settled without a topic");
    runtime().block_on(apply(&config, options(4, 1))).expect("topics");
    settle_all(&rig, 100);
    assert_complete_once_and_ordered(&rig.read("telemetry", 100), 0..100);
}

#[test]
fn topics_are_made_once_with_their_settings_and_keep_their_partitions() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = config(&kafka.bootstrap());
    let runtime = runtime();
    let mut made = runtime.block_on(apply(&config, options(3, 1))).expect("topics");
    made.sort_unstable();
    let prefix = &config.topic_prefix;
    assert_eq!(
        made,
        ["dlq", "ledger", "lifecycle", "security", "telemetry"].map(|name| format!("{prefix}.{name}"))
    );
    assert_eq!(runtime.block_on(apply(&config, options(3, 1))).expect("again"), Vec::<String>::new());
    let refused = runtime.block_on(apply(&config, options(5, 1))).expect_err("other partitions");
    assert!(matches!(refused, BusError::Partitions { found: 3, wanted: 5, .. }), "{refused}");
    let args = ["--bootstrap-server", &kafka.bootstrap(), "--describe", "--topic", &format!("{prefix}.dlq")];
    let described = Kafka::tool("org.apache.kafka.tools.TopicCommand", &args, TOOL_LIMIT).expect("described");
    for expected in ["PartitionCount: 3", "cleanup.policy=delete", "retention.ms=2592000000"] {
        assert!(described.contains(expected), "{expected} in {described}");
    }
    let more = BusConfig { topic_prefix: unique("bus"), ..config };
    let refused = runtime.block_on(apply(&more, options(3, 9))).expect_err("nine copies on one node");
    assert!(matches!(refused, BusError::Create { .. }), "{refused}");
    assert!(refused.to_string().contains("fewer than 9 brokers"), "{refused}");
}

#[test]
fn one_copy_and_a_short_ledger_are_told_as_weaknesses() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1, 1);
    let found = runtime().block_on(weaknesses(&config)).expect("described");
    assert!(found.iter().any(|w| matches!(w, Weakness::Copies { copies: 1, .. })), "{found:?}");
    assert!(found.iter().any(|w| matches!(w, Weakness::InSync { value: 1, .. })), "{found:?}");
    let later = |w: &Weakness| matches!(w, Weakness::Retention { .. } | Weakness::Unverified { .. });
    assert!(!found.iter().any(later), "as we make it, with a broker of today: {found:?}");
    let ledger = format!("{}.ledger", config.topic_prefix);
    let args = ["--bootstrap-server", &kafka.bootstrap(), "--alter", "--topic", &ledger];
    let args = [&args[..], &["--add-config", "retention.ms=10800000"]].concat();
    Kafka::tool("kafka.admin.ConfigCommand", &args, TOOL_LIMIT).expect("altered");
    let found = runtime().block_on(weaknesses(&config)).expect("described");
    let short = Weakness::Retention { topic: ledger, hours: 3 };
    assert!(found.contains(&short), "{short:?} in {found:?}");
}

#[test]
fn broker_that_does_not_verify_transactions_is_told_as_a_weakness() {
    let off = ("transaction.partition.verification.enable".to_owned(), "false".to_owned());
    let kafka =
        Kafka::start(KafkaOptions { properties: vec![off], ..KafkaOptions::default() }).expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1, 1);
    let found = runtime().block_on(weaknesses(&config)).expect("described");
    assert!(found.contains(&Weakness::Unverified { broker: 1 }), "{found:?}");
    let without = BusConfig { guarantee: Some(sluice_bus::Guarantee::AtLeastOnce), ..config };
    let found = runtime().block_on(weaknesses(&without)).expect("described");
    assert!(
        !found.iter().any(|w| matches!(w, Weakness::Unverified { .. })),
        "nothing depends on it: {found:?}"
    );
}

#[test]
fn java_reads_our_records_and_puts_its_own_into_the_same_partitions() {
    let kafka = Kafka::shared().expect("a Kafka");
    let rig = Rig::start(&with_topics(&kafka.bootstrap(), 8, 1));
    let mut group = Group::new(100, 1 << 20);
    for device in 0..40_u8 {
        let id = sluice_types::DeviceId::from_bytes([2, 0, 0, 0, 7, device]).to_hex();
        let payload = format!("value-{device}");
        let record = sluice_bus::Telemetry {
            tenant: "acme",
            device: id,
            session: [0xab; 16],
            epoch: 0,
            seq: u32::from(device),
            received_ms: common::RECEIVED_MS,
            payload: payload.as_bytes(),
        };
        group.push_telemetry(&record, 0).expect("room");
    }
    rig.commit(group);
    let ours = java_lines(&rig, &kafka.bootstrap(), 40);

    // The same keys once more, by Java's own producer.
    let input = tempfile::NamedTempFile::new().expect("a file");
    let lines: String =
        (0..40).map(|device| format!("acme/0200000007{device:02x}\tjava-{device}\n")).collect();
    std::fs::write(input.path(), lines).expect("written");
    java_produces(&kafka.bootstrap(), &rig.topic("telemetry"), input.path());
    let all = java_lines(&rig, &kafka.bootstrap(), 80);
    for device in 0..40 {
        let key = format!("acme/0200000007{device:02x}");
        let of = |value: String| {
            all.iter().find(|line| line.contains(&key) && line.ends_with(&value)).unwrap_or_else(|| {
                panic!("{key} with {value} in {all:#?}");
            })
        };
        let partition =
            |line: &str| line.split('\t').find(|part| part.starts_with("Partition:")).map(str::to_owned);
        let (we, java) = (of(format!("value-{device}")), of(format!("java-{device}")));
        assert_eq!(partition(we), partition(java), "partition of {key}");
        assert_eq!(partition(we), Some(format!("Partition:{}", java_partition(key.as_bytes(), 8))));
        let header = format!("ce_id:{}.0.{device}", "ab".repeat(16));
        assert!(we.contains(&header), "{header} in {we}");
        assert!(
            we.contains(&format!("ce_source://sluice/tenants/acme/devices/0200000007{device:02x}")),
            "{we}"
        );
    }
    assert_eq!(ours.len(), 40);
}

/// What Kafka's own console consumer prints, with partition, headers and key.
fn java_lines(rig: &Rig, bootstrap: &str, records: usize) -> Vec<String> {
    let (topic, count) = (rig.topic("telemetry"), records.to_string());
    let args = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        &topic,
        "--from-beginning",
        "--isolation-level",
        "read_committed",
        "--max-messages",
        &count,
        "--timeout-ms",
        "60000",
        "--property",
        "print.partition=true",
        "--property",
        "print.headers=true",
        "--property",
        "print.key=true",
    ];
    let output =
        Kafka::tool_output("org.apache.kafka.tools.consumer.ConsoleConsumer", &args).expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("Partition:")).map(str::to_owned).collect();
    assert_eq!(lines.len(), records, "{text}{}", String::from_utf8_lossy(&output.stderr));
    lines
}

/// Kafka's own console producer reads `key<TAB>value` lines.
fn java_produces(bootstrap: &str, topic: &str, input: &std::path::Path) {
    let class_path = Kafka::class_path().expect("Kafka is there");
    let mut java = std::process::Command::new("java");
    java.args(["-Xmx128m", "-cp", &class_path, "org.apache.kafka.tools.ConsoleProducer"]);
    java.args(["--bootstrap-server", bootstrap, "--topic", topic, "--property", "parse.key=true"]);
    let output = java.stdin(std::fs::File::open(input).expect("there")).output().expect("java runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
