//! Exactly once against a real Kafka: zombies, foreign transactions, brokers that are killed or stand still, a ledger cut short.
#![cfg(feature = "backends")]

mod common;

use std::time::Duration;

use common::slot::{
    Back, ENTRY, Slot, number, numbered, open_session, outcomes_are, read_topic, reader, state, try_adopt,
};
use common::{LONG, assert_complete_once_and_ordered, now, options, push, seq_of};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluice_bus::{
    BusConfig, Compression, Group, Guarantee, LedgerReader, Outcome, Refusal, SlotLost, Snapshot, apply,
};
use sluice_test_env::{Kafka, KafkaOptions, unique};

const TOOL_LIMIT: Duration = Duration::from_secs(90);

fn with_topics(bootstrap: &str, replication_factor: i32) -> BusConfig {
    let config = BusConfig {
        brokers: bootstrap.split(',').map(str::to_owned).collect(),
        topic_prefix: unique("slot"),
        slots: 4,
        ..BusConfig::default()
    };
    assert_eq!(config.guarantee(), Guarantee::ExactlyOnce, "the default on a Kafka");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(apply(&config, options(4, replication_factor))).expect("topics");
    config
}

fn shared() -> BusConfig {
    with_topics(&Kafka::shared().expect("a Kafka").bootstrap(), 1)
}

/// A transactional producer that is none of ours.
fn stranger(config: &BusConfig, id: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .set("transactional.id", id)
        .set("transaction.timeout.ms", "60000")
        .create()
        .expect("a producer");
    producer.init_transactions(LONG).expect("initialised");
    producer.begin_transaction().expect("begun");
    producer
}

fn put(producer: &BaseProducer, topic: &str, partition: i32, payload: &[u8]) {
    let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(payload);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(LONG).expect("in the log");
}

#[test]
fn zombies_groups_come_back_unknown_and_nothing_of_them_is_committed() {
    let config = shared();
    let mut reader = reader(&config);
    let zombie = Slot::adopt(&config, &mut reader);
    zombie.commit(open_session());
    zombie.commit(numbered(0..100, 50));
    let heir = Slot::adopt(&config, &mut reader);
    assert_eq!((heir.adopted.generation, heir.found()), (2, vec![state(Some(99))]));
    for records in [100..150, 150..200] {
        zombie.submit(numbered(records, 50));
    }
    for _ in 0..2 {
        match zombie.back.recv_timeout(LONG).expect("it comes back") {
            Back::Settled(group) => outcomes_are(&group, Outcome::Unknown),
            Back::Lost(why) => panic!("before the groups are back: {why:?}"),
        }
    }
    match zombie.back.recv_timeout(LONG).expect("the loss is told") {
        Back::Lost(SlotLost::Fenced) => {}
        other => panic!("{other:?}"),
    }
    assert!(zombie.adopted.writer.try_submit(numbered(200..201, 50)).is_err(), "a lost slot takes nothing");
    assert_eq!(zombie.adopted.writer.shutdown(LONG), 200, "records and entries without an outcome");
    heir.commit(numbered(100..150, 50));
    assert_complete_once_and_ordered(&heir.read("telemetry", 150), 0..150);
    drop(heir);
    assert_eq!(Slot::adopt(&config, &mut reader).found(), [state(Some(149))]);
}

#[test]
fn what_an_owner_had_open_is_aborted_and_what_it_committed_is_seen() {
    let config = shared();
    let mut reader = reader(&config);
    let slot = Slot::adopt(&config, &mut reader);
    slot.commit(open_session());
    slot.commit(numbered(0..10, 50));
    drop(slot);
    // The same id as the slot's writer: an owner that died in the middle.
    let dying = stranger(&config, &format!("{}-slot-0", config.topic_prefix));
    let telemetry = format!("{}.telemetry", config.topic_prefix);
    let ledger = format!("{}.ledger", config.topic_prefix);
    put(&dying, &telemetry, 0, &10_u32.to_be_bytes());
    let closed = {
        let mut bytes = vec![1, 2, 0, 0, 0, 1, 3];
        bytes.extend_from_slice(&state(None).session);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    };
    put(&dying, &ledger, 0, &closed);
    let started = now();
    let heir = Slot::adopt(&config, &mut reader);
    println!("adopted over an open transaction in {:?}", now() - started);
    assert_eq!((heir.adopted.generation, heir.found()), (2, vec![state(Some(9))]));
    assert!(dying.commit_transaction(LONG).is_err(), "a dead owner's commit is refused");
    heir.commit(numbered(10..20, 50));
    assert_complete_once_and_ordered(&heir.read("telemetry", 20), 0..20);
}

#[test]
fn foreign_open_transaction_elsewhere_neither_delays_nor_hides() {
    let config = shared();
    let mut reader = reader(&config);
    let slot = Slot::adopt(&config, &mut reader);
    slot.commit(open_session());
    drop(slot);
    // Holds back the last stable offset of every telemetry partition and of another slot's ledger.
    let foreign = stranger(&config, &unique("foreign"));
    for partition in 0..4 {
        put(&foreign, &format!("{}.telemetry", config.topic_prefix), partition, b"never committed");
    }
    put(&foreign, &format!("{}.ledger", config.topic_prefix), 1, b"never committed");
    let slot =
        try_adopt(&config, 0, None, &mut reader, Duration::from_secs(30)).expect("nothing to wait for");
    slot.commit(numbered(0..100, 50));
    drop(slot);
    let slot =
        try_adopt(&config, 0, None, &mut reader, Duration::from_secs(30)).expect("nothing to wait for");
    assert_eq!((slot.adopted.generation, slot.found()), (3, vec![state(Some(99))]));
    foreign.abort_transaction(LONG).expect("aborted");
    assert_complete_once_and_ordered(&slot.read("telemetry", 100), 0..100);
}

#[test]
fn record_the_topic_refuses_is_found_among_its_batch_and_the_rest_commits_once_in_order() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1);
    let topic = format!("{}.telemetry", config.topic_prefix);
    let args = ["--bootstrap-server", &kafka.bootstrap(), "--alter", "--topic", &topic];
    let args = [&args[..], &["--add-config", "max.message.bytes=20000"]].concat();
    Kafka::tool("kafka.admin.ConfigCommand", &args, TOOL_LIMIT).expect("altered");
    // Uncompressed, since the topic's limit is for the batch as it is sent.
    let config = BusConfig { compression: Compression::None, ..config };
    let mut reader = reader(&config);
    let slot = Slot::adopt(&config, &mut reader);
    slot.commit(open_session());
    let mut group = Group::new(1000, 1 << 20);
    for seq in 0..300 {
        push(&mut group, seq, if seq == 123 || seq == 200 { 30_000 } else { 50 });
        group.push_ledger(&number(seq), ENTRY + u64::from(seq)).expect("room");
    }
    slot.submit(group);
    for (token, outcome) in slot.settled().outcomes() {
        let large = token == 123 || token == 200;
        let expected = if large { Outcome::Refused(Refusal::TooLarge) } else { Outcome::Committed };
        assert_eq!(outcome, expected, "token {token:#x}");
    }
    let mut buried: Vec<_> = slot.read("dlq", 2).iter().map(seq_of).collect();
    buried.sort_unstable();
    assert_eq!(buried, [123, 200]);
    let records = slot.read("telemetry", 298);
    let mut last = std::collections::BTreeMap::new();
    for record in &records {
        let before = last.insert(record.key.clone(), seq_of(record));
        assert!(before.is_none_or(|before| before < seq_of(record)), "{before:?} before {}", seq_of(record));
    }
    let mut committed: Vec<_> = records.iter().map(seq_of).collect();
    committed.sort_unstable();
    assert_eq!(committed, (0..300).filter(|seq| ![123, 200].contains(seq)).collect::<Vec<_>>(), "each once");
    drop(slot);
    assert_eq!(Slot::adopt(&config, &mut reader).found(), [state(Some(299))]);
}

#[test]
fn snapshot_below_the_ledgers_start_is_discarded() {
    let kafka = Kafka::shared().expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1);
    let mut reader = reader(&config);
    let slot = Slot::adopt(&config, &mut reader);
    slot.commit(open_session());
    let old = slot.commit(numbered(0..10, 10)).snapshot_offset().expect("named");
    slot.commit(numbered(10..20, 10));
    let ledger = format!("{}.ledger", config.topic_prefix);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let position = slot.adopted.writer.position();
    drop(slot);
    let json =
        format!(r#"{{"partitions":[{{"topic":"{ledger}","partition":0,"offset":{position}}}],"version":1}}"#);
    std::fs::write(file.path(), json).expect("written");
    let path = file.path().display().to_string();
    let args = ["--bootstrap-server", &kafka.bootstrap(), "--offset-json-file", &path];
    Kafka::tool("org.apache.kafka.tools.DeleteRecordsCommand", &args, TOOL_LIMIT).expect("deleted");
    let snapshot = Snapshot { offset: old, generation: 1, sessions: vec![state(Some(9))] };
    let slot = Slot::adopt_from(&config, &mut reader, Some(snapshot));
    assert!(slot.adopted.snapshot_discarded, "it stands for an offset that is forgotten");
    // The opening is forgotten too: a session nobody knows is closed.
    assert_eq!((slot.adopted.generation, slot.found()), (2, vec![]));
    assert_eq!(slot.adopted.oddities.orphans, 10);
    drop(slot);
    let at_start = Snapshot { offset: position, generation: 1, sessions: vec![state(Some(9))] };
    let slot = Slot::adopt_from(&config, &mut reader, Some(at_start));
    assert!(!slot.adopted.snapshot_discarded, "what it needs is there");
    assert_eq!(slot.found(), [state(Some(19))]);
}

/// A device that sends in order, several groups at a time, and after a loss goes on behind what the ledger says.
struct Device {
    slot: Slot,
    reader: LedgerReader,
    /// The next number to send.
    next: u32,
    /// Records on their way.
    open: u32,
    /// Acknowledged records: all numbers below.
    acked: u32,
    losses: u32,
}

impl Device {
    fn start(config: &BusConfig) -> Self {
        let mut reader = reader(config);
        let slot = Slot::adopt(config, &mut reader);
        slot.commit(open_session());
        Self { slot, reader, next: 0, open: 0, acked: 0, losses: 0 }
    }

    fn send(&mut self, records: u32) {
        if self.slot.adopted.writer.try_submit(numbered(self.next..self.next + records, 100)).is_ok() {
            self.next += records;
            self.open += records;
        }
    }

    /// Takes what comes back within the time; adopts again after a loss.
    fn take(&mut self, within: Duration) {
        match self.slot.back.recv_timeout(within) {
            Err(_) => {}
            Ok(Back::Settled(group)) => {
                let records: Vec<_> = group.outcomes().filter(|(token, _)| *token < ENTRY).collect();
                for (token, outcome) in records {
                    self.open -= 1;
                    match outcome {
                        Outcome::Committed => {
                            assert_eq!(token, u64::from(self.acked), "acknowledged out of order");
                            self.acked += 1;
                        }
                        Outcome::Unknown => {}
                        Outcome::Refused(why) => panic!("{token} refused: {why:?}"),
                    }
                }
            }
            Ok(Back::Lost(why)) => {
                println!("lost: {why:?}");
                self.losses += 1;
                assert_eq!(self.open, 0, "every group is back before the loss is told");
                let config = self.slot.config.clone();
                self.slot = Slot::adopt(&config, &mut self.reader);
                assert_eq!(self.slot.adopted.generation, self.losses + 1);
                let committed = self.slot.found()[0].committed.map_or(0, |seq| seq + 1);
                assert!(committed >= self.acked, "{} acknowledged, {committed} committed", self.acked);
                assert!(committed <= self.next, "{committed} committed, {} sent", self.next);
                // What is committed and not acknowledged gets its acknowledgement now; the rest is sent again.
                (self.acked, self.next) = (committed, committed);
            }
        }
    }

    /// Sends until so many are acknowledged.
    fn reach(&mut self, acked: u32) {
        let since = now();
        while self.acked < acked {
            self.send(50);
            self.take(Duration::from_millis(20));
            assert!(now() - since < LONG, "{} of {acked} acknowledged after {LONG:?}", self.acked);
        }
    }

    /// Takes what is open and checks the topic.
    fn finish(mut self) -> u32 {
        let since = now();
        while self.open > 0 || self.acked < self.next {
            self.take(Duration::from_millis(20));
            assert!(now() - since < LONG, "{} open after {LONG:?}", self.open);
        }
        let records = read_topic(&self.slot.config, "telemetry", self.acked as usize);
        assert_complete_once_and_ordered(&records, 0..self.acked);
        self.losses
    }
}

#[test]
fn broker_killed_in_the_middle_of_a_transaction_loses_and_doubles_nothing() {
    let mut kafka = Kafka::start(KafkaOptions::default()).expect("a Kafka");
    let mut device = Device::start(&with_topics(&kafka.bootstrap(), 1));
    device.reach(1000);
    for round in 1..=3 {
        while device.open < 100 {
            device.send(50);
        }
        kafka.kill(0).expect("killed");
        device.take(Duration::from_millis(500));
        kafka.restart(0).expect("restarted");
        device.reach(1000 + 1000 * round);
    }
    println!("{} losses", device.finish());
}

#[test]
fn broker_that_stands_still_longer_than_a_transaction_may_take_loses_and_doubles_nothing() {
    let kafka = Kafka::start(KafkaOptions::default()).expect("a Kafka");
    let mut device = Device::start(&with_topics(&kafka.bootstrap(), 1));
    device.reach(500);
    for (round, stall) in [(1, 2), (2, 13)] {
        while device.open < 100 {
            device.send(50);
        }
        kafka.pause(0).expect("paused");
        let since = now();
        while now() - since < Duration::from_secs(stall) {
            device.send(50);
            device.take(Duration::from_millis(100));
        }
        kafka.resume(0).expect("resumed");
        device.reach(device.acked + 500 * round);
    }
    println!("{} losses", device.finish());
}

#[test]
fn brokers_lost_one_by_one_leave_a_slot_that_commits_once() {
    let mut kafka =
        Kafka::start(KafkaOptions { nodes: 3, heap_mib: 256, ..KafkaOptions::default() }).expect("a Kafka");
    kafka.wait_brokers(3).expect("three brokers");
    let mut device = Device::start(&with_topics(&kafka.bootstrap(), 3));
    device.reach(500);
    for node in 0..3 {
        while device.open < 100 {
            device.send(50);
        }
        kafka.kill(node).expect("killed");
        device.reach(device.acked + 500);
        kafka.restart(node).expect("restarted");
        kafka.wait_brokers(3).expect("three brokers");
    }
    println!("{} losses", device.finish());
}

#[test]
fn stop_while_brokers_are_away_gives_every_group_back() {
    let mut kafka = Kafka::start(KafkaOptions::default()).expect("a Kafka");
    let config = with_topics(&kafka.bootstrap(), 1);
    let slot = Slot::adopt(&config, &mut reader(&config));
    slot.commit(open_session());
    kafka.kill(0).expect("killed");
    for first in 0..4 {
        slot.submit(numbered(first * 10..first * 10 + 10, 50));
    }
    let started = now();
    assert_eq!(slot.adopted.writer.shutdown(Duration::from_secs(1)), 80, "records and entries");
    assert!(now() - started < Duration::from_secs(5), "{:?} for a deadline of one second", now() - started);
    let back: Vec<_> = slot.back.iter().collect();
    assert_eq!(back.len(), 4, "{back:?}");
    for back in back {
        let Back::Settled(group) = back else { panic!("{back:?}") };
        outcomes_are(&group, Outcome::Unknown);
    }
}
