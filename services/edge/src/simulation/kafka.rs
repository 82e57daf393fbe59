//! The clients of the simulated Kafka: what adopts slots and what writes for them, step by step, with everything between two steps
//! that can happen there.
//!
//! This stands in for `sluice_bus::adopt` and the thread of a `sluice_bus::SlotWriter`. The ledger's records are composed, read and
//! folded by the code of that crate.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_bus::simulated::{LedgerReplay, ledger_records, owner_record, records, settle};
use sluice_bus::{AdoptError, Group, Outcome, Owner, SlotLost, SlotSettle, Snapshot};
use tokio::sync::Notify;

use super::gate::{Gate, Watched};
use super::kafka_log::Log;
use super::tally::Tally;
use super::time::Dice;
use crate::link::AdoptedSlot;
use crate::shard::Sink;

/// Groups that a writer takes at once, and that wait for it.
const DEPTH: usize = 4;
/// How long an adoption may take.
const ADOPTION: Duration = Duration::from_secs(20);
/// How long a commit without an answer is waited for.
const ANSWER: Duration = Duration::from_secs(3);

/// How Kafka treats everybody.
#[derive(Debug, Clone, Copy)]
pub(super) struct KafkaMood {
    /// Longest that a request, or its answer, takes, in ms.
    pub(super) slowest_ms: u64,
    /// Commits whose answer is lost.
    pub(super) unknown: f64,
    /// Fetches that see an older end of the log.
    pub(super) stale: f64,
}

impl KafkaMood {
    /// One that does what it should, as fast as it is.
    pub(super) const fn good(slowest_ms: u64, stale: f64) -> Self {
        Self { slowest_ms, unknown: 0.0, stale }
    }
}

/// What of the rules about adoption is left out, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    Nothing,
    /// A later producer does not bar the earlier ones.
    Fence,
    /// The ledger is not read.
    Ledger,
    /// The ledger is read to its end as it is at the moment, without an owner's record of our own.
    Barrier,
    /// A group whose outcome is not known counts as committed.
    Knowledge,
}

/// The brokers. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Kafka(Arc<Brokers>);

#[derive(Debug)]
struct Brokers {
    log: Mutex<Log>,
    mood: Mutex<KafkaMood>,
    /// Not while another broker takes over.
    available: Watched<bool>,
    dice: Dice,
    tally: Tally,
    lacking: Lacking,
}

impl Kafka {
    pub(super) fn new(slots: u16, dice: Dice, tally: Tally, lacking: Lacking) -> Self {
        let mut log = Log::new(slots);
        log.fences = lacking != Lacking::Fence;
        Self(Arc::new(Brokers {
            log: Mutex::new(log),
            mood: Mutex::new(KafkaMood::good(5, 0.0)),
            available: Watched::new(true),
            dice,
            tally,
            lacking,
        }))
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_mood(&self, mood: KafkaMood) {
        *self.0.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    fn mood(&self) -> KafkaMood {
        *self.0.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.0.available.change(|now| *now = available);
    }

    /// A request is on its way: it arrives although its sender may have stopped or died since.
    async fn request(&self, gate: &Gate) {
        tokio::time::sleep(self.0.dice.millis(0, self.mood().slowest_ms)).await;
        gate.reaches_kafka().await;
        self.0.available.until(|available| *available).await;
    }

    /// An answer is on its way, and is taken when its receiver runs.
    async fn answer(&self, gate: &Gate) {
        tokio::time::sleep(self.0.dice.millis(0, self.mood().slowest_ms)).await;
        gate.reaches_kafka().await;
        gate.runs().await;
    }

    /// Commits a transaction as its producer sees it.
    async fn commit(&self, gate: &Gate, transaction: u64) -> Result<(), SlotLost> {
        gate.runs().await;
        self.request(gate).await;
        if self.0.dice.happens(self.mood().unknown) {
            let applied = self.0.dice.happens(0.5) && self.log().commit(transaction).is_ok();
            self.0.tally.one(if applied { "kafka: commit done, answer lost" } else { "kafka: commit lost" });
            tokio::time::sleep(ANSWER).await;
            gate.runs().await;
            let code = "simulated".to_owned();
            return Err(SlotLost::Fatal { code, reason: "the commit was not answered".to_owned() });
        }
        let committed = self.log().commit(transaction);
        self.answer(gate).await;
        if committed.is_err() {
            self.0.tally.one("kafka: producer fenced");
        }
        committed.map_err(|_| SlotLost::Fenced)
    }
}

/// What a shard knows of a slot's writer.
#[derive(Debug)]
pub(crate) struct SlotWriter(Arc<Inbox>);

#[derive(Debug, Default)]
struct Inbox {
    /// None once nothing more is taken.
    groups: Mutex<Option<VecDeque<Group>>>,
    news: Notify,
    stopped: AtomicBool,
}

impl Inbox {
    fn new() -> Arc<Self> {
        Arc::new(Self { groups: Mutex::new(Some(VecDeque::new())), ..Self::default() })
    }

    fn groups(&self) -> MutexGuard<'_, Option<VecDeque<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Groups to commit together; none at the end.
    async fn gather(&self, gate: &Gate) -> Vec<Group> {
        loop {
            let waits = match &*self.groups() {
                None => return Vec::new(),
                Some(groups) => groups.is_empty(),
            };
            if !waits {
                break;
            }
            self.news.notified().await;
        }
        gate.runs().await;
        let mut groups = self.groups();
        groups.as_mut().map(|groups| groups.drain(..groups.len().min(DEPTH)).collect()).unwrap_or_default()
    }

    fn close(&self) -> VecDeque<Group> {
        self.groups().take().unwrap_or_default()
    }
}

impl SlotWriter {
    pub(crate) fn try_submit(&self, group: Group) -> Result<(), Group> {
        match &mut *self.0.groups() {
            Some(groups) if groups.len() < DEPTH => groups.push_back(group),
            _ => return Err(group),
        }
        self.0.news.notify_one();
        Ok(())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.groups().is_some()
    }

    pub(crate) fn shutdown(self) -> usize {
        self.0.stopped.store(true, Ordering::Relaxed);
        let left = self.0.close();
        self.0.news.notify_one();
        left.iter().map(Group::len).sum()
    }

    /// A writer of what belongs to no slot; each group is committed after a while.
    pub(super) fn plain(kafka: &Kafka, gate: &Gate, mut settled: impl FnMut(Group) + Send + 'static) -> Self {
        let inbox = Inbox::new();
        let (kafka, gate, groups) = (kafka.clone(), gate.clone(), Arc::clone(&inbox));
        tokio::spawn(async move {
            loop {
                let gathered = groups.gather(&gate).await;
                if gathered.is_empty() {
                    return;
                }
                kafka.request(&gate).await;
                kafka.answer(&gate).await;
                for mut group in gathered {
                    settle(&mut group, Outcome::Committed, None);
                    settled(group);
                }
            }
        });
        Self(inbox)
    }
}

/// The producer of a slot.
struct Producer {
    kafka: Kafka,
    gate: Gate,
    slot: u16,
    epoch: u32,
    generation: u32,
    inbox: Arc<Inbox>,
}

impl Producer {
    async fn commit(&self, groups: &[Group]) -> Result<Vec<i64>, SlotLost> {
        let ledger = ledger_records(groups, self.generation);
        let produced: Vec<_> = groups.iter().flat_map(records).collect();
        self.kafka.request(&self.gate).await;
        let begun = self.kafka.log().produce(self.slot, self.epoch, ledger, produced);
        self.kafka.answer(&self.gate).await;
        let Ok((transaction, offsets)) = begun else {
            self.kafka.0.tally.one("kafka: producer fenced");
            return Err(SlotLost::Fenced);
        };
        if self.inbox.stopped.load(Ordering::Relaxed) {
            self.kafka.log().abort(transaction);
            return Err(SlotLost::Fenced);
        }
        self.kafka.commit(&self.gate, transaction).await.map(|()| offsets)
    }
}

/// The writer of a slot.
struct Work<S> {
    producer: Producer,
    settle: S,
}

impl<S: SlotSettle> Work<S> {
    async fn run(mut self) {
        loop {
            let mut groups = self.producer.inbox.gather(&self.producer.gate).await;
            if groups.is_empty() {
                return;
            }
            match self.producer.commit(&groups).await {
                Ok(offsets) => self.settle_committed(groups, &offsets),
                Err(why) if self.producer.kafka.0.lacking == Lacking::Knowledge => {
                    self.settle_committed(std::mem::take(&mut groups), &[]);
                    return self.end(groups, why);
                }
                Err(why) => return self.end(groups, why),
            }
        }
    }

    /// As `sluice_bus::SlotWriter` tells each group where a snapshot that knows it may go on.
    fn settle_committed(&mut self, groups: Vec<Group>, offsets: &[i64]) {
        let (first, last) = (offsets.first().copied(), offsets.last().map(|last| last + 1));
        let count = groups.len();
        for (at, mut group) in groups.into_iter().enumerate() {
            settle(&mut group, Outcome::Committed, if at + 1 == count { last } else { first });
            self.settle.settle(group);
        }
    }

    fn end(mut self, groups: Vec<Group>, why: SlotLost) {
        for mut group in groups.into_iter().chain(self.producer.inbox.close()) {
            settle(&mut group, Outcome::Unknown, None);
            self.settle.settle(group);
        }
        self.settle.lost(why);
    }
}

/// One pod's way to the journals of slots.
#[derive(Debug, Clone)]
pub(crate) struct Ledgers {
    pub(super) kafka: Kafka,
    pub(super) gate: Gate,
}

impl Ledgers {
    /// Whether Kafka answers within that time.
    pub(crate) async fn answers(&self, within: Duration) -> bool {
        self.gate.runs().await;
        let asked = async {
            self.kafka.request(&self.gate).await;
            self.kafka.answer(&self.gate).await;
        };
        tokio::time::timeout(within, asked).await.is_ok()
    }

    /// Becomes the owner of a slot, as `sluice_bus::adopt` does.
    pub(crate) async fn adopt(
        &self,
        slot: u16,
        owner: &Owner,
        snapshot: Option<Snapshot>,
        settle: impl SlotSettle,
    ) -> Result<AdoptedSlot, AdoptError> {
        match tokio::time::timeout(ADOPTION, self.try_adopt(slot, owner, snapshot)).await {
            Err(_) => Err(AdoptError::Deadline),
            Ok(Err(error)) => Err(error),
            Ok(Ok((epoch, state, snapshot_discarded))) => {
                let generation = state.generation();
                let mut sessions = state.into_sessions();
                // Their order is nobody's business, and must be the same in each run.
                sessions.sort_unstable_by_key(|state| state.session);
                let inbox = Inbox::new();
                let (kafka, gate) = (self.kafka.clone(), self.gate.clone());
                let producer = Producer { kafka, gate, slot, epoch, generation, inbox: Arc::clone(&inbox) };
                tokio::spawn(Work { producer, settle }.run());
                self.kafka.0.tally.one("slot adopted");
                self.kafka.0.tally.add("sessions read from a ledger", sessions.len() as u64);
                let writer = Sink::Simulated(SlotWriter(inbox));
                Ok(AdoptedSlot { slot, adoption: 0, generation, writer, sessions, snapshot_discarded })
            }
        }
    }

    async fn try_adopt(
        &self,
        slot: u16,
        owner: &Owner,
        snapshot: Option<Snapshot>,
    ) -> Result<(u32, sluice_bus::LedgerState, bool), AdoptError> {
        let Self { kafka, gate } = self;
        gate.runs().await;
        kafka.request(gate).await;
        let epoch = kafka.log().fence(slot);
        kafka.answer(gate).await;

        let mark = kafka.0.dice.bytes();
        let record = owner_record(owner, mark).ok_or(AdoptError::Address(owner.address.len()))?;
        let barrier = kafka.0.lacking != Lacking::Barrier;
        let mut newest = i64::MAX;
        if barrier {
            kafka.request(gate).await;
            let begun = kafka.log().produce(slot, epoch, vec![record.clone()], Vec::new());
            kafka.answer(gate).await;
            let Ok((transaction, offsets)) = begun else {
                return Err(AdoptError::Owner(SlotLost::Fenced));
            };
            kafka.commit(gate, transaction).await.map_err(AdoptError::Owner)?;
            newest = offsets.first().copied().unwrap_or(i64::MAX);
        }
        let had = snapshot.is_some();
        let snapshot = snapshot.filter(|snapshot| (0..=newest).contains(&snapshot.offset));
        let discarded = had && snapshot.is_none();
        if snapshot.is_some() {
            kafka.0.tally.one("snapshot used");
        }
        let mut from = snapshot.as_ref().map_or(0, |snapshot| snapshot.offset);
        let mut replay = LedgerReplay::new(slot, mark, snapshot);
        if kafka.0.lacking == Lacking::Ledger {
            replay.take(newest, &record)?;
            return Ok((epoch, replay.into_state(), discarded));
        }
        loop {
            kafka.request(gate).await;
            let mut found = kafka.log().fetch(slot, from);
            if kafka.0.dice.happens(kafka.mood().stale) && !found.is_empty() {
                kafka.0.tally.one("kafka: stale fetch");
                found.truncate(kafka.0.dice.below(found.len()));
            }
            kafka.answer(gate).await;
            for (offset, value) in found {
                from = offset + 1;
                if replay.take(offset, &value)? {
                    return Ok((epoch, replay.into_state(), discarded));
                }
            }
            if !barrier {
                // The generation still rises, in its own count.
                replay.take(from, &record)?;
                return Ok((epoch, replay.into_state(), discarded));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
