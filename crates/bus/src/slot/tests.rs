//! A slot at the embedded broker, which is made to fail.

use std::sync::mpsc::{Receiver, sync_channel};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::adopt::adopt_with;
use super::*;
use crate::{BusConfig, EmbeddedBroker, LedgerEntry, LedgerRecord, Outcome, Owner, Start, Tail};

const LONG: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3600);

struct Into(SyncSender<Group>);

impl SlotSettle for Into {
    fn settle(&mut self, group: Group) {
        let _ = self.0.send(group);
    }

    fn lost(&mut self, why: SlotLost) {
        panic!("nobody is barred at least once: {why:?}");
    }
}

struct Rig {
    broker: EmbeddedBroker,
    config: BusConfig,
    adopted: Adopted,
    back: Receiver<Group>,
}

impl Rig {
    fn adopt(heartbeat: Duration) -> Self {
        let broker = EmbeddedBroker::start("t", 4).expect("a broker");
        let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
        let owner = Owner { pod: [1; 16], address: "127.0.0.1:7400".into() };
        let mut reader = LedgerReader::open(&config).expect("the ledger is there");
        let (settle, back) = sync_channel(64);
        let adopted = adopt_with(&config, 2, &owner, None, &mut reader, Into(settle), LONG, heartbeat);
        Self { broker, adopted: adopted.expect("adopted"), config, back }
    }

    /// So many records of the ledger.
    fn ledger(&self, records: usize) -> Vec<Vec<u8>> {
        let tail = Tail::open(&self.config, "t.ledger", Start::Beginning).expect("the topic is there");
        let mut found = Vec::new();
        for _ in 0..600 {
            if found.len() >= records {
                break;
            }
            found.extend(
                tail.next(Duration::from_millis(100)).expect("readable").map(|record| record.payload),
            );
        }
        assert!(found.len() >= records, "{} of {records}", found.len());
        found
    }
}

fn closing(session: u8) -> Group {
    let mut group = Group::new(10, 1000);
    group.push_ledger(&LedgerEntry::Closed { session: [session; 16] }, u64::from(session)).expect("room");
    group
}

#[test]
fn slot_without_work_says_that_it_is_there() {
    let rig = Rig::adopt(Duration::from_millis(50));
    let ledger = rig.ledger(4);
    for bytes in &ledger[1..4] {
        let record = LedgerRecord::decode(bytes).expect("a ledger record");
        let LedgerRecord::Entries { generation: 1, entries } = record else { panic!("{record:?}") };
        assert!(entries.is_empty(), "{record:?}");
    }
    assert!(rig.adopted.writer.stats().heartbeats.load(Ordering::Relaxed) >= 3, "they are counted");
}

#[test]
fn slot_with_work_says_nothing_else() {
    let rig = Rig::adopt(NEVER);
    assert!(rig.adopted.writer.try_submit(closing(1)).is_ok(), "it has room");
    let group = rig.back.recv_timeout(LONG).expect("it comes back");
    assert_eq!(group.outcomes().collect::<Vec<_>>(), [(1, Outcome::Committed)]);
    assert_eq!((group.snapshot_offset(), rig.adopted.writer.position()), (Some(2), 1));
    assert_eq!(rig.ledger(2).len(), 2);
}

#[test]
fn groups_committed_together_let_a_snapshot_go_on_before_them_until_the_last() {
    let rig = Rig::adopt(NEVER);
    rig.broker.set_available(false).expect("a broker");
    // As many as wait are committed together, behind one that may be under way.
    let mut taken = 0;
    while taken < 100 && rig.adopted.writer.try_submit(closing(taken)).is_ok() {
        taken += 1;
    }
    assert!(taken >= 4, "{taken} groups");
    rig.broker.set_available(true).expect("a broker");
    let back: Vec<_> = (0..taken).map(|_| rig.back.recv_timeout(LONG).expect("it comes back")).collect();
    let ledger = rig.ledger(2);
    let mut known = 0;
    for (group, session) in back.iter().zip(0_u8..) {
        let next = usize::try_from(group.snapshot_offset().expect("named")).expect("an offset");
        assert!(next >= known, "{next} after {known}");
        known = next;
        // Whatever it leaves out is of this group or an earlier one.
        for record in ledger[1..next.min(ledger.len())].iter().map(|bytes| LedgerRecord::decode(bytes)) {
            let Ok(LedgerRecord::Entries { entries, .. }) = record else { panic!("{record:?}") };
            for entry in entries.iter() {
                let LedgerEntry::Closed { session: of } = entry else { panic!("{entry:?}") };
                assert!(of[0] <= session, "skips {of:?} after group {session}");
            }
        }
    }
    assert_eq!(i64::try_from(known).expect("small"), rig.adopted.writer.position() + 1);
}

#[test]
fn ledger_record_that_is_refused_is_said_again_until_it_is_taken() {
    let rig = Rig::adopt(NEVER);
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 2];
    rig.broker.cluster().request_errors(RDKafkaApiKey::Produce, &refusal);
    assert!(rig.adopted.writer.try_submit(closing(9)).is_ok(), "it has room");
    let group = rig.back.recv_timeout(LONG).expect("it comes back");
    assert_eq!(group.outcomes().collect::<Vec<_>>(), [(9, Outcome::Committed)]);
    assert_eq!(rig.ledger(2).len(), 2, "once");
}

#[test]
fn plain_writer_has_no_ledger_and_says_nothing_of_its_entries() {
    let rig = Rig::adopt(NEVER);
    let (settle, settled) = sync_channel(1);
    let settle = move |group| settle.send(group).expect("the test waits");
    let writer = crate::Writer::start("plain", &rig.config, settle).expect("a writer");
    assert!(writer.try_submit(closing(3)).is_ok(), "it has room");
    let group = settled.recv_timeout(LONG).expect("it comes back");
    assert_eq!(group.outcomes().collect::<Vec<_>>(), [(3, Outcome::Unknown)]);
}
