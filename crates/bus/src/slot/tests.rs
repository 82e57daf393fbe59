//! A slot at the embedded broker, which is made to fail.

use std::sync::mpsc::{Receiver, sync_channel};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::adopt::adopt_with;
use super::work::Pace;
use super::*;
use crate::{
    BusConfig, EmbeddedBroker, LedgerEntry, LedgerRecord, Outcome, Owner, Start, Tail, TailedRecord, Witness,
    Witnesses, witnesses,
};

const LONG: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3600);

struct Into(SyncSender<Group>, Arc<Mutex<Option<Witness>>>);

impl SlotSettle for Into {
    fn settle(&mut self, group: Group) {
        let _ = self.0.send(group);
    }

    fn lost(&mut self, why: SlotLost) {
        panic!("nobody is barred at least once: {why:?}");
    }

    fn witness(&self) -> Option<Witness> {
        *self.1.lock().expect("nobody panics with it")
    }
}

struct Rig {
    broker: EmbeddedBroker,
    config: BusConfig,
    adopted: Adopted,
    back: Receiver<Group>,
    /// What it knows of the store.
    witness: Arc<Mutex<Option<Witness>>>,
}

impl Rig {
    fn adopt(heartbeat: Duration) -> Self {
        Self::adopt_with(Pace { heartbeat, news: NEVER, group_interval: Duration::ZERO }, None)
    }

    fn adopt_with(pace: Pace, witness: Option<Witness>) -> Self {
        let broker = EmbeddedBroker::start("t", 4).expect("a broker");
        let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
        let owner = Owner { pod: [1; 16], address: "127.0.0.1:7400".into() };
        let mut reader = LedgerReader::open(&config).expect("the ledger is there");
        let (settle, back) = sync_channel(64);
        let witness = Arc::new(Mutex::new(witness));
        let settle = Into(settle, Arc::clone(&witness));
        let adopted = adopt_with(&config, 2, &owner, None, &mut reader, settle, LONG, pace);
        Self { broker, adopted: adopted.expect("adopted"), config, back, witness }
    }

    /// So many records of the ledger.
    fn ledger(&self, records: usize) -> Vec<Vec<u8>> {
        self.records(records).into_iter().map(|record| record.payload).collect()
    }

    fn records(&self, records: usize) -> Vec<TailedRecord> {
        let tail = Tail::open(&self.config, "t.ledger", Start::Beginning).expect("the topic is there");
        let mut found = Vec::new();
        for _ in 0..600 {
            if found.len() >= records {
                break;
            }
            found.extend(tail.next(Duration::from_millis(100)).expect("readable"));
        }
        assert!(found.len() >= records, "{} of {records}", found.len());
        found
    }

    /// What this many records say of the store, which release 0.1 does not look at.
    fn said(&self, records: usize) -> Vec<Option<Witness>> {
        let of = |record: TailedRecord| {
            LedgerRecord::decode(&record.payload).expect("a ledger record as ever");
            let (_, value) = record.headers.into_iter().find(|(key, _)| key == "sluice_store")?;
            Some(Witness::decode(&value).expect("a witness"))
        };
        self.records(records).into_iter().map(of).collect()
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

fn witness(position: u64) -> Option<Witness> {
    Some(Witness { store: [0x57; 16], position })
}

#[test]
fn every_record_says_how_far_the_store_had_got_and_a_slot_without_work_says_so_when_it_changes() {
    let news = Duration::from_millis(50);
    let rig = Rig::adopt_with(Pace { heartbeat: NEVER, news, group_interval: Duration::ZERO }, witness(7));
    assert!(rig.adopted.writer.try_submit(closing(1)).is_ok(), "it has room");
    rig.back.recv_timeout(LONG).expect("it comes back");
    assert_eq!(rig.said(2), [witness(7), witness(7)], "the owner's record and the one with work");
    *rig.witness.lock().expect("nobody panics with it") = witness(9);
    assert_eq!(rig.said(3).split_off(2), [witness(9)]);
    assert_eq!(rig.adopted.writer.stats().heartbeats.load(Ordering::Relaxed), 1, "once");
}

#[tokio::test]
async fn what_the_ledgers_say_of_the_store_is_read_from_their_ends() {
    let rig =
        Rig::adopt_with(Pace { heartbeat: NEVER, news: NEVER, group_interval: Duration::ZERO }, witness(7));
    for position in 8..=100 {
        *rig.witness.lock().expect("nobody panics with it") = witness(position);
        assert!(rig.adopted.writer.try_submit(closing(1)).is_ok(), "it has room");
        rig.back.recv_timeout(LONG).expect("it comes back");
    }
    let heard = witnesses(&rig.config).await.expect("the ledgers can be read");
    let last = vec![(2, [0x57; 16])];
    assert_eq!(heard, Witnesses { heard: witness(100).into_iter().collect(), last, unread: 0 });
    // Whoever wrote last counts, however far another one had got.
    *rig.witness.lock().expect("nobody panics with it") = Some(Witness { store: [0x99; 16], position: 0 });
    assert!(rig.adopted.writer.try_submit(closing(1)).is_ok(), "it has room");
    rig.back.recv_timeout(LONG).expect("it comes back");
    let heard = witnesses(&rig.config).await.expect("the ledgers can be read");
    assert_eq!((heard.heard.len(), heard.last), (2, vec![(2, [0x99; 16])]));
    *rig.witness.lock().expect("nobody panics with it") = None;
    for _ in 0..40 {
        assert!(rig.adopted.writer.try_submit(closing(1)).is_ok(), "it has room");
        rig.back.recv_timeout(LONG).expect("it comes back");
    }
    let heard = witnesses(&rig.config).await.expect("the ledgers can be read");
    assert_eq!(heard, Witnesses::default(), "only the ends are read");
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
