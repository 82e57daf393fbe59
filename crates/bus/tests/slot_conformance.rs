//! One suite for both guarantees: at least once with the embedded broker and with a real Kafka, exactly once with the latter.

mod common;

use std::time::Duration;

use common::slot::{
    ENTRY, EPOCH, Slot, number, numbered, open_session, outcomes_are, owner, reader, state, try_adopt,
};
use common::{LONG, assert_complete_once_and_ordered, push, seq_of};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sluice_bus::{
    AdoptError, BusConfig, Group, LedgerEntry, LedgerRecord, Outcome, Refusal, SessionState, Snapshot,
};

fn first_owner_finds_nothing_and_writes_its_mark(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    assert_eq!(slot.adopted.generation, 1);
    assert_eq!(slot.found(), []);
    assert_eq!((slot.adopted.owner_offset, slot.adopted.read), (0, 1));
    let ledger = slot.read("ledger", 1);
    let found = LedgerRecord::decode(&ledger[0].payload).expect("a ledger record");
    let expected = owner(1);
    assert!(
        matches!(found, LedgerRecord::Owner { pod, address, .. } if pod == expected.pod && address == expected.address),
        "{found:?}"
    );
    assert_eq!((ledger[0].partition, ledger[0].offset), (0, 0));
}

fn records_and_their_numbers_are_found_by_the_next_owner(config: &BusConfig) {
    let mut reader = reader(config);
    let first = Slot::adopt(config, &mut reader);
    first.commit(open_session());
    for records in [0..300, 300..600, 600..900] {
        first.submit(numbered(records, 100));
    }
    for _ in 0..3 {
        common::all_committed(&first.settled());
    }
    assert_eq!(first.adopted.writer.shutdown(LONG), 0, "records without an outcome");
    let second = Slot::adopt(config, &mut reader);
    assert_eq!(second.adopted.generation, 2);
    assert_eq!(second.found(), [state(Some(899))]);
    second.commit(numbered(900..1000, 100));
    assert_complete_once_and_ordered(&second.read("telemetry", 1000), 0..1000);
}

fn every_adoption_is_a_generation_and_the_ledger_says_it(config: &BusConfig) {
    let mut reader = reader(config);
    for generation in 1..=4 {
        let slot = Slot::adopt(config, &mut reader);
        assert_eq!(slot.adopted.generation, generation);
        if generation == 1 {
            slot.commit(open_session());
        }
        slot.commit(numbered(generation..generation + 1, 10));
        assert_eq!(slot.adopted.writer.shutdown(LONG), 0, "records without an outcome");
    }
    let ledger = common::slot::read_topic(config, "ledger", 9);
    let said: Vec<_> = ledger
        .iter()
        .filter_map(|record| match LedgerRecord::decode(&record.payload).expect("a ledger record") {
            LedgerRecord::Owner { .. } => None,
            LedgerRecord::Entries { generation, .. } => Some(generation),
        })
        .collect();
    assert_eq!(said, [1, 1, 2, 3, 4]);
}

fn closed_session_is_gone_and_others_stay(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    let mut group = Group::new(100, 10_000);
    let of = |n: u8| SessionState { session: [n; 16], device: [n; 6], ..state(None) };
    for n in 1..=3 {
        let SessionState { session, device, birth, epoch, committed, fragment_open } = of(n);
        let entry = LedgerEntry::State { session, device, birth, epoch, committed, fragment_open };
        group.push_ledger(&entry, u64::from(n)).expect("room");
    }
    slot.commit(group);
    let mut group = Group::new(100, 10_000);
    group.push_ledger(&LedgerEntry::Closed { session: [2; 16] }, 1).expect("room");
    let fragment = LedgerEntry::Number { session: [3; 16], epoch: EPOCH, seq: 8, fragment_open: true };
    group.push_ledger(&fragment, 2).expect("room");
    slot.commit(group);
    drop(slot);
    let next = Slot::adopt(config, &mut reader);
    let third = SessionState { committed: Some(8), fragment_open: true, ..of(3) };
    assert_eq!(next.found(), [of(1), third]);
}

fn snapshot_shortens_the_reading_and_leads_to_the_same_sessions(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    slot.commit(open_session());
    let mut offset = None;
    for seq in 0..20 {
        offset = slot.commit(numbered(seq..seq + 1, 10)).snapshot_offset();
    }
    let offset = offset.expect("Kafka names offsets");
    assert!(offset > slot.adopted.writer.position(), "{offset} is behind the last record");
    let snapshot = Snapshot { offset, generation: 1, sessions: vec![state(Some(19))] };
    slot.commit(numbered(20..21, 10));
    drop(slot);
    let kept = Snapshot::decode(&snapshot.encode()).expect("just encoded");
    let with = Slot::adopt_from(config, &mut reader, Some(kept));
    assert_eq!(with.found(), [state(Some(20))]);
    assert_eq!((with.adopted.generation, with.adopted.read), (2, 2), "one record and the owner's own");
    assert!(!with.adopted.snapshot_discarded, "it is used");
    drop(with);
    let without = Slot::adopt(config, &mut reader);
    assert_eq!(without.found(), [state(Some(20))]);
    assert_eq!((without.adopted.generation, without.adopted.read), (3, 25));
}

fn snapshot_of_another_ledger_is_discarded(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    slot.commit(open_session());
    drop(slot);
    let foreign = Snapshot { offset: 1_000_000, generation: 77, sessions: vec![state(Some(5))] };
    let slot = Slot::adopt_from(config, &mut reader, Some(foreign));
    assert!(slot.adopted.snapshot_discarded, "it stands for an offset that is not there");
    assert_eq!((slot.adopted.generation, slot.found()), (2, vec![state(None)]));
}

fn refused_record_is_buried_its_number_left_out_and_the_rest_committed_once(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(&BusConfig { message_max_bytes: 10_000, ..config.clone() }, &mut reader);
    slot.commit(open_session());
    let mut group = Group::new(1000, 1 << 20);
    for seq in 0..50 {
        push(&mut group, seq, if seq == 20 { 20_000 } else { 50 });
        group.push_ledger(&number(seq), ENTRY + u64::from(seq)).expect("room");
    }
    slot.submit(group);
    for (token, outcome) in slot.settled().outcomes() {
        let expected = if token == 20 { Outcome::Refused(Refusal::TooLarge) } else { Outcome::Committed };
        assert_eq!(outcome, expected, "token {token:#x}");
    }
    let committed: Vec<_> = slot.read("telemetry", 49).iter().map(seq_of).collect();
    assert_eq!(committed.len(), 49);
    assert!(!committed.contains(&20), "the refused one is not there");
    let buried = slot.read("dlq", 1);
    assert_eq!(buried.len(), 1);
    assert_eq!(buried[0].header("sluice_dlq_reason"), Some("too_large"));
    assert_eq!(buried[0].header("sluice_dlq_payload_bytes"), Some("20000"));
    // What is refused is not acknowledged, by the next owner neither: its repeat must be new there.
    let mut group = Group::new(1000, 1 << 20);
    push(&mut group, 50, 20_000);
    group.push_ledger(&number(50), ENTRY).expect("room");
    slot.submit(group);
    let outcomes: Vec<_> = slot.settled().outcomes().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, [Outcome::Refused(Refusal::TooLarge), Outcome::Committed]);
    assert_eq!(slot.read("dlq", 2).len(), 2);
    drop(slot);
    assert_eq!(Slot::adopt(config, &mut reader).found(), [state(Some(49))]);
}

fn more_entries_than_a_record_takes_are_split_and_all_found(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(&BusConfig { message_max_bytes: 8192, ..config.clone() }, &mut reader);
    slot.commit(open_session());
    slot.commit(numbered(0..2000, 10));
    let ledger = slot.read("ledger", 3);
    assert!(ledger.len() > 5, "{} records", ledger.len());
    drop(slot);
    assert_eq!(Slot::adopt(config, &mut reader).found(), [state(Some(1999))]);
}

fn damaged_record_is_counted_and_left_out_and_a_later_version_ends_the_adoption(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    slot.commit(open_session());
    drop(slot);
    put_into_ledger(config, b"no ledger record");
    put_into_ledger(config, b"");
    let slot = Slot::adopt(config, &mut reader);
    assert_eq!((slot.adopted.oddities.malformed, slot.found()), (2, vec![state(None)]));
    drop(slot);
    let later = [&[2, 1][..], &crc32fast::hash(&[2, 1]).to_be_bytes()].concat();
    put_into_ledger(config, &later);
    let refused = try_adopt(config, 0, None, &mut reader, LONG).expect_err("a later release wrote it");
    assert!(matches!(refused, AdoptError::UnknownVersion { slot: 0, version: 2, .. }), "{refused:?}");
    assert!(refused.to_string().contains("run the release"), "{refused}");
}

fn put_into_ledger(config: &BusConfig, bytes: &[u8]) {
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", config.brokers.join(","))
        .create()
        .expect("a producer");
    let topic = format!("{}.ledger", config.topic_prefix);
    let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(bytes);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(LONG).expect("written");
}

fn slot_that_is_not_there_is_named(config: &BusConfig) {
    let mut reader = reader(config);
    let slots = reader.slots();
    let refused = try_adopt(config, slots, None, &mut reader, LONG).expect_err("one too many");
    assert!(matches!(refused, AdoptError::NoSuchSlot { slot, .. } if slot == slots), "{refused:?}");
    let long = sluice_bus::Owner { pod: [1; 16], address: "a".repeat(256) };
    let settle = Nothing;
    let refused = sluice_bus::adopt(config, 0, &long, None, &mut reader, settle, LONG).expect_err("too long");
    assert!(matches!(refused, AdoptError::Address(256)), "{refused:?}");
}

struct Nothing;

impl sluice_bus::SlotSettle for Nothing {
    fn settle(&mut self, _: Group) {}

    fn lost(&mut self, _: sluice_bus::SlotLost) {}
}

fn slots_do_not_see_each_other(config: &BusConfig) {
    let mut reader = reader(config);
    let zero = Slot::adopt(config, &mut reader);
    zero.commit(open_session());
    let one = try_adopt(config, 1, None, &mut reader, LONG).expect("adopted");
    assert_eq!((one.adopted.generation, one.found()), (1, vec![]));
    zero.commit(numbered(0..10, 10));
    one.commit(numbered(10..20, 10));
    assert_complete_once_and_ordered(&one.read("telemetry", 20), 0..20);
}

fn shutdown_commits_what_was_submitted_within_its_time(config: &BusConfig) {
    let mut reader = reader(config);
    let slot = Slot::adopt(config, &mut reader);
    slot.submit(open_session());
    slot.submit(numbered(0..2000, 100));
    assert_eq!(slot.adopted.writer.shutdown(LONG), 0, "records without an outcome");
    for back in slot.back.iter() {
        let common::slot::Back::Settled(group) = back else { panic!("{back:?}") };
        outcomes_are(&group, Outcome::Committed);
    }
    assert_complete_once_and_ordered(&common::slot::read_topic(config, "telemetry", 2000), 0..2000);
}

fn adoption_without_brokers_ends_at_its_deadline(config: &BusConfig) {
    let mut reader = reader(config);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let gone = BusConfig { brokers: vec![format!("127.0.0.1:{port}")], ..config.clone() };
    let started = common::now();
    let refused =
        try_adopt(&gone, 0, None, &mut reader, Duration::from_secs(2)).expect_err("nobody is there");
    assert!(matches!(refused, AdoptError::Deadline), "{refused:?}");
    let took = common::now() - started;
    assert!(took < Duration::from_secs(20), "{took:?} for a deadline of two seconds");
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        #[cfg(feature = "embedded")]
        mod embedded {
            use sluice_bus::{BusConfig, EmbeddedBroker, Guarantee};

            $(#[test]
            fn $case() {
                let broker = EmbeddedBroker::start("t", 4).expect("a broker");
                let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
                assert_eq!(config.guarantee(), Guarantee::AtLeastOnce);
                super::$case(&config);
            })*
        }

        #[cfg(feature = "backends")]
        mod kafka_at_least_once {
            $(#[test]
            fn $case() {
                super::$case(&super::on_kafka(sluice_bus::Guarantee::AtLeastOnce));
            })*
        }

        #[cfg(feature = "backends")]
        mod kafka_exactly_once {
            $(#[test]
            fn $case() {
                super::$case(&super::on_kafka(sluice_bus::Guarantee::ExactlyOnce));
            })*
        }
    };
}

#[cfg(feature = "backends")]
fn on_kafka(guarantee: sluice_bus::Guarantee) -> BusConfig {
    let kafka = sluice_test_env::Kafka::shared().expect("a Kafka");
    let config = BusConfig {
        brokers: kafka.bootstrap().split(',').map(str::to_owned).collect(),
        topic_prefix: sluice_test_env::unique("slot"),
        slots: 4,
        guarantee: Some(guarantee),
        ..BusConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(sluice_bus::apply(&config, common::options(4, 1))).expect("topics");
    config
}

suite!(
    first_owner_finds_nothing_and_writes_its_mark,
    records_and_their_numbers_are_found_by_the_next_owner,
    every_adoption_is_a_generation_and_the_ledger_says_it,
    closed_session_is_gone_and_others_stay,
    snapshot_shortens_the_reading_and_leads_to_the_same_sessions,
    snapshot_of_another_ledger_is_discarded,
    refused_record_is_buried_its_number_left_out_and_the_rest_committed_once,
    more_entries_than_a_record_takes_are_split_and_all_found,
    damaged_record_is_counted_and_left_out_and_a_later_version_ends_the_adoption,
    slot_that_is_not_there_is_named,
    slots_do_not_see_each_other,
    shutdown_commits_what_was_submitted_within_its_time,
    adoption_without_brokers_ends_at_its_deadline,
);
