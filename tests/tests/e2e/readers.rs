//! The readers that docs/readers.md shows, run as they stand there, over what both guarantees leave in a topic.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluice_bus::{
    ApplyOptions, BusConfig, Group, Guarantee, LedgerReader, Outcome, Owner, SlotLost, SlotSettle, Telemetry,
    adopt, apply,
};
use sluice_test_env::{Kafka, KafkaPython, unique};

const DEVICE: &[u8; 12] = b"02a1b2c3d4e5";
const SESSION: [u8; 16] = [0x0a; 16];
const WITHIN: Duration = Duration::from_secs(60);
const READERS: [&str; 3] = ["java/Reader.java", "python/reader.py", "rust/reader.rs"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/readers").canonicalize().unwrap()
}

struct Back(SyncSender<Group>);

impl SlotSettle for Back {
    fn settle(&mut self, group: Group) {
        let _ = self.0.send(group);
    }

    fn lost(&mut self, why: SlotLost) {
        eprintln!("the slot is lost: {why}");
    }
}

/// A topic of its own.
fn topic(guarantee: Guarantee) -> BusConfig {
    let kafka = Kafka::shared().unwrap();
    let config = BusConfig {
        brokers: kafka.bootstrap().split(',').map(str::to_owned).collect(),
        topic_prefix: unique("readers"),
        slots: 1,
        guarantee: Some(guarantee),
        ..BusConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = ApplyOptions { partitions: 2, replication_factor: 1, exact_partitions: true };
    runtime.block_on(apply(&config, options)).unwrap();
    config
}

fn telemetry(config: &BusConfig) -> String {
    format!("{}.telemetry", config.topic_prefix)
}

/// Commits each group of sequence numbers as a slot of an edge does.
fn commit(config: &BusConfig, groups: &[&[u32]]) {
    let (settle, back) = sync_channel(groups.len());
    let owner = Owner { pod: [1; 16], address: "127.0.0.1:7400".to_owned() };
    let mut ledger = LedgerReader::open(config).unwrap();
    let adopted = adopt(config, 0, &owner, None, &mut ledger, Back(settle), WITHIN).unwrap();
    for sequences in groups {
        let mut group = Group::new(100, 10_000);
        for &seq in *sequences {
            let record = Telemetry {
                tenant: "default",
                device: *DEVICE,
                session: SESSION,
                epoch: 0,
                seq,
                received_ms: 1_795_680_930_123,
                payload: b"21.5",
            };
            group.push_telemetry(&record, 0).unwrap();
        }
        adopted.writer.try_submit(group).map_err(|_| "refused").unwrap();
        let group = back.recv_timeout(WITHIN).unwrap();
        assert!(group.outcomes().all(|outcome| outcome == (0, Outcome::Committed)), "{sequences:?}");
    }
}

/// What a pod had written when it died: not committed, and not aborted before its successor comes or its time is over.
fn open_transaction(config: &BusConfig, sequences: &[u32]) -> BaseProducer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", config.brokers.join(","));
    client.set("transactional.id", unique("dying")).set("partitioner", "murmur2_random");
    // Kafka must not end it before the readers have looked, on a machine however slow.
    client.set("transaction.timeout.ms", "600000");
    let producer: BaseProducer = client.create().unwrap();
    producer.init_transactions(WITHIN).unwrap();
    producer.begin_transaction().unwrap();
    let (topic, session) = (telemetry(config), hex::encode(SESSION));
    let key = format!("default/{}", std::str::from_utf8(DEVICE).unwrap());
    for seq in sequences {
        let id = format!("{session}.0.{seq}");
        let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&id) });
        let record = BaseRecord::to(&topic).key(&key).payload("21.5").headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    // All of it is in the log; the end of the transaction is not.
    producer.flush(WITHIN).unwrap();
    producer
}

fn reader(name: &str, arguments: &[&str]) -> Command {
    let path = folder().join(name);
    let mut command = match name {
        "java/Reader.java" => {
            let mut command = Command::new(sluice_test_env::tools::java().unwrap());
            command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
            command.arg(Kafka::class_path().unwrap()).arg(path);
            command
        }
        "python/reader.py" => KafkaPython::venv().unwrap().command(&path),
        _ => Command::new(env!("CARGO_BIN_EXE_reader")),
    };
    command.args(arguments);
    command
}

/// The sequence numbers that a reader printed, in its order.
fn printed(name: &str, output: &Output) -> Vec<u32> {
    assert!(output.status.success(), "{name}: {output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let sequence = |line: &str| {
        let [key, id, length] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{name}: {text}") };
        assert_eq!((key, length), ("default/02a1b2c3d4e5", "4"), "{name}: {text}");
        let sequence = id.strip_prefix(&format!("{}.0.", hex::encode(SESSION)));
        sequence.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    };
    text.lines().map(sequence).collect()
}

/// Every reader over the same topic, all at once, each in a group of its own.
fn assert_every_reader_prints(config: &BusConfig, isolation: &str, expected: &[u32]) {
    let (brokers, topic) = (config.brokers.join(","), telemetry(config));
    std::thread::scope(|scope| {
        let running: Vec<_> = READERS
            .iter()
            .map(|name| {
                let mut command = reader(name, &[&brokers, &topic, &unique("group"), isolation]);
                (name, scope.spawn(move || command.output().unwrap()))
            })
            .collect();
        for (name, output) in running {
            let output = output.join().unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(printed(name, &output), expected, "{name}, {isolation}: {complaint}");
        }
    });
}

#[test]
fn exactly_once_readers_of_the_page_see_what_is_committed_and_uncommitted_ones_what_never_was() {
    let config = topic(Guarantee::ExactlyOnce);
    commit(&config, &[&[0, 1], &[2]]);
    // Written by a pod that died. The device was not acknowledged, and has sent 3 again but not 4, which nobody committed.
    let dying = open_transaction(&config, &[3, 4]);
    dying.abort_transaction(WITHIN).unwrap();
    commit(&config, &[&[3]]);
    let dying = open_transaction(&config, &[5]);
    // It stands behind an open transaction: in the log, not yet for those that read what is committed.
    commit(&config, &[&[6]]);
    assert_every_reader_prints(&config, "read_committed", &[0, 1, 2, 3]);
    assert_every_reader_prints(&config, "read_uncommitted", &[0, 1, 2, 3, 4, 5, 6]);
    dying.abort_transaction(WITHIN).unwrap();
}

#[test]
fn at_least_once_readers_of_the_page_take_a_copy_out_by_its_name() {
    let config = topic(Guarantee::AtLeastOnce);
    // What a second owner writes again because it does not know that it is there.
    commit(&config, &[&[0, 1, 2], &[1, 2], &[3]]);
    assert_every_reader_prints(&config, "read_committed", &[0, 1, 2, 3]);
}

#[test]
fn page_shows_the_readers_that_are_tested() {
    let page = std::fs::read_to_string(folder().with_extension("md")).unwrap();
    let mut shown = 0;
    for block in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        let Some(name) = READERS.iter().find(|name| name.starts_with(&format!("{language}/"))) else {
            continue;
        };
        let file = std::fs::read_to_string(folder().join(name)).unwrap();
        assert_eq!(text, file.trim_end(), "docs/readers.md and docs/readers/{name} differ");
        shown += 1;
    }
    assert_eq!(shown, READERS.len(), "docs/readers.md does not show every reader");
}
