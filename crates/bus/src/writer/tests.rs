//! The writer against the embedded broker made to fail.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::{EmbeddedBroker, Outcome, Refusal, Start, Tail, TailedRecord, Telemetry};

const LONG: Duration = Duration::from_secs(60);

struct Rig {
    broker: EmbeddedBroker,
    config: BusConfig,
    writer: Writer,
    settled: Receiver<Group>,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ClientConfig)) -> Self {
        let broker = EmbeddedBroker::start("t", 4).expect("a broker");
        let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
        let mut client = config.producer().expect("valid");
        change(&mut client);
        let (settle, settled) = sync_channel(64);
        let settle = Box::new(move |group| settle.send(group).expect("the test waits"));
        let writer = Writer::start_with("writer", &config, client, settle).expect("a writer");
        Self { broker, config, writer, settled }
    }

    fn submit(&self, group: Group) {
        assert!(self.writer.try_submit(group).is_ok(), "the writer has room");
    }

    fn settled(&self) -> Group {
        self.settled.recv_timeout(LONG).expect("the group comes back")
    }

    fn read(&self, topic: &str, records: usize) -> Vec<TailedRecord> {
        let tail = Tail::open(&self.config, topic, Start::Beginning).expect("the topic is there");
        let mut found = Vec::new();
        for _ in 0..600 {
            if found.len() >= records {
                break;
            }
            found.extend(tail.next(Duration::from_millis(100)).expect("readable"));
        }
        // Whatever is there beyond: doubles.
        while let Some(more) = tail.next(Duration::from_millis(300)).expect("readable") {
            found.push(more);
        }
        found
    }
}

fn group_of(records: std::ops::Range<u32>, size: usize) -> Group {
    let mut group = Group::new(10_000, 8 << 20);
    for seq in records {
        push(&mut group, seq, size);
    }
    group
}

fn push(group: &mut Group, seq: u32, size: usize) {
    let mut device = *b"02a1b2c3d400";
    device[11] = b'0' + u8::try_from(seq % 7).expect("below 7");
    let mut payload = vec![0; size.max(4)];
    payload[..4].copy_from_slice(&seq.to_be_bytes());
    let record = Telemetry {
        tenant: "default",
        device,
        session: [9; 16],
        epoch: 0,
        seq,
        received_ms: 1_795_680_930_123,
        payload: &payload,
    };
    group.push_telemetry(&record, u64::from(seq)).expect("room");
}

fn seq_of(record: &TailedRecord) -> u32 {
    u32::from_be_bytes(*record.payload.first_chunk().expect("four bytes"))
}

fn assert_ordered_by_key(records: &[TailedRecord]) {
    let mut last = std::collections::BTreeMap::new();
    for record in records {
        let before = last.insert(record.key.clone(), seq_of(record));
        assert!(before.is_none_or(|before| before < seq_of(record)), "{before:?} before {}", seq_of(record));
    }
}

fn all_committed(group: &Group) {
    for (token, outcome) in group.outcomes() {
        assert_eq!(outcome, Outcome::Committed, "token {token}");
    }
}

#[test]
fn groups_come_back_in_their_order_with_all_committed_once() {
    let rig = Rig::new();
    for first in [0, 50, 100, 150] {
        rig.submit(group_of(first..first + 50, 20));
    }
    for first in [0, 50, 100, 150] {
        let group = rig.settled();
        all_committed(&group);
        assert_eq!(group.outcomes().next().map(|(token, _)| token), Some(first));
    }
    let records = rig.read("t.telemetry", 200);
    assert_eq!(records.len(), 200);
    assert_ordered_by_key(&records);
}

#[test]
fn a_full_queue_of_librdkafka_holds_back_and_loses_nothing() {
    let rig = Rig::with(|client| {
        client.set("queue.buffering.max.messages", "50");
    });
    rig.submit(group_of(0..3000, 20));
    all_committed(&rig.settled());
    let records = rig.read("t.telemetry", 3000);
    assert_eq!(records.len(), 3000);
    assert_ordered_by_key(&records);
}

#[test]
fn a_broker_that_is_away_fills_the_writer_and_then_refuses_further_groups() {
    let rig = Rig::new();
    rig.broker.cluster().broker_down(-1).expect("down");
    let mut taken = 0;
    while taken < 1000 && rig.writer.try_submit(group_of(taken..taken + 1, 20)).is_ok() {
        taken += 1;
    }
    // The groups that wait, those under way, and one between.
    let most = 2 * u32::from(rig.config.groups_in_flight) + 1;
    assert!((1..=most).contains(&taken), "{taken} groups taken");
    assert!(rig.settled.try_recv().is_err(), "nothing is settled");
    rig.broker.cluster().broker_up(-1).expect("up");
    for _ in 0..taken {
        all_committed(&rig.settled());
    }
    assert_eq!(rig.read("t.telemetry", taken as usize).len(), taken as usize);
}

#[test]
fn a_stop_while_brokers_are_away_reports_what_is_not_known() {
    let rig = Rig::new();
    rig.broker.cluster().broker_down(-1).expect("down");
    rig.submit(group_of(0..5, 20));
    rig.submit(group_of(5..7, 20));
    assert_eq!(rig.writer.shutdown(Duration::from_millis(200)), 7);
    let outcomes: Vec<_> =
        rig.settled.iter().flat_map(|group| group.outcomes().collect::<Vec<_>>()).collect();
    assert_eq!(outcomes, (0..7).map(|token| (token, Outcome::Unknown)).collect::<Vec<_>>());
}

#[test]
fn a_stop_commits_what_was_submitted() {
    let rig = Rig::new();
    rig.submit(group_of(0..500, 20));
    rig.submit(group_of(500..1000, 20));
    assert_eq!(rig.writer.shutdown(LONG), 0);
    rig.settled.iter().for_each(|group| all_committed(&group));
}

#[test]
fn a_fatal_error_renews_the_producer_and_commits_under_the_same_ids() {
    let rig = Rig::new();
    rig.submit(group_of(0..1, 20));
    all_committed(&rig.settled());
    rig.broker.cluster().request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 4],
    );
    rig.submit(group_of(1..40, 20));
    all_committed(&rig.settled());
    assert!(rig.writer.stats().renewed.load(Ordering::Relaxed) >= 1, "{:?}", rig.writer.stats());
    let ids: std::collections::BTreeSet<_> = rig
        .read("t.telemetry", 40)
        .iter()
        .map(|record| record.header("ce_id").expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), 40, "each id is there, doubles share theirs");
}

#[test]
fn errors_that_pass_are_waited_out_in_order() {
    let rig = Rig::new();
    rig.broker.cluster().request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    rig.submit(group_of(0..300, 20));
    all_committed(&rig.settled());
    let records = rig.read("t.telemetry", 300);
    assert_eq!(records.len(), 300, "no doubles: the producer is idempotent");
    assert_ordered_by_key(&records);
}

#[test]
fn a_batch_refused_once_as_too_large_is_not_believed_of_its_records() {
    let rig = Rig::new();
    rig.broker
        .cluster()
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2]);
    rig.submit(group_of(0..100, 20));
    all_committed(&rig.settled());
    assert!(rig.writer.stats().repeated.load(Ordering::Relaxed) > 0);
    assert_eq!(rig.read("t.telemetry", 100).len(), 100);
}

#[test]
fn a_record_above_the_limit_goes_to_the_dead_letters_and_the_rest_commits() {
    let broker = EmbeddedBroker::start("t", 1).expect("a broker");
    let config = broker.configure(&BusConfig {
        topic_prefix: "t".into(),
        message_max_bytes: 10_000,
        ..BusConfig::default()
    });
    let (settle, settled) = sync_channel(4);
    let writer = Writer::start("writer", &config, move |group| settle.send(group).expect("the test waits"))
        .expect("a writer");
    let rig = Rig { broker, config, writer, settled };
    let mut group = group_of(0..5, 20);
    push(&mut group, 5, 12_000);
    push(&mut group, 6, 20);
    rig.submit(group);
    let group = rig.settled();
    for (token, outcome) in group.outcomes() {
        let expected = if token == 5 { Outcome::Refused(Refusal::TooLarge) } else { Outcome::Committed };
        assert_eq!(outcome, expected, "token {token}");
    }
    let letters = rig.read("t.dlq", 1);
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.header("sluice_dlq_reason"), Some("too_large"));
    assert_eq!(letter.header("sluice_dlq_topic"), Some("t.telemetry"));
    assert_eq!(letter.header("sluice_dlq_payload_bytes"), Some("12000"));
    assert_eq!(seq_of(letter), 5, "the beginning of the payload is kept");
    assert_eq!(rig.writer.stats().lost_dead_letters.load(Ordering::Relaxed), 0);
    assert_eq!(rig.read("t.telemetry", 6).len(), 6);
}

#[test]
fn an_error_without_a_verdict_ends_in_the_dead_letters_not_in_a_loop() {
    let rig = Rig::with(|client| {
        // One request for each try.
        client.set("linger.ms", "5");
    });
    rig.broker.cluster().request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS; 10],
    );
    rig.submit(group_of(0..1, 20));
    let outcomes: Vec<_> = rig.settled().outcomes().collect();
    assert_eq!(outcomes, [(0, Outcome::Refused(Refusal::Unclassified))]);
    assert_eq!(rig.read("t.dlq", 1).len(), 1);
}

#[test]
fn the_first_record_of_a_warm_writer_waits_for_nothing_but_its_commit() {
    let rig = Rig::new();
    assert!(rig.writer.stats().await_warm(LONG), "never warm");
    // Whatever it still had to ask for would now be refused.
    let cluster = rig.broker.cluster();
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 1000];
    cluster.request_errors(RDKafkaApiKey::Metadata, &refusal);
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &refusal);
    rig.submit(group_of(0..10, 20));
    all_committed(&rig.settled());
}

#[test]
fn a_writer_without_a_broker_is_not_warm_takes_groups_and_is_warm_once_they_are_committed() {
    let rig = Rig::new();
    rig.broker.set_available(false).expect("a broker");
    let writer = Writer::start("cold", &rig.config, |_: Group| {}).expect("a writer");
    assert!(!writer.stats().await_warm(Duration::from_millis(300)), "warm without a broker");
    assert!(writer.try_submit(group_of(0..10, 20)).is_ok(), "it takes groups all the same");
    rig.broker.set_available(true).expect("a broker");
    assert!(writer.stats().await_warm(LONG), "never warm");
    assert_eq!(writer.shutdown(LONG), 0);
    assert_eq!(rig.read("t.telemetry", 10).len(), 10);
}
