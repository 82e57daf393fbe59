//! What adopting a slot needs beside the decision: a warm reader, the slot's snapshot, the way back for its groups.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_bus::{
    AdoptError, Adopted, BusConfig, Group, LedgerReader, Outcome, Owner, SlotLost, SlotSettle, Snapshot,
    Witness, adopt,
};
use sluice_peers::PeersHandle;
use sluice_store::{SlotSnapshot, Store, StoreError};

use crate::link::{AdoptedSlot, ShardWaker, SlotNews};
use crate::shard::Sink;

/// How much longer one may take for a snapshot.
const SNAPSHOT: Duration = Duration::from_millis(700);
/// Ledger readers that are kept warm. Each is a Kafka client with its threads; a crowd of adoptions makes more, for as long as it lasts.
const WARM: usize = 2;
/// How long an adoption may take; longer only while its ledger is read and records come.
const ADOPTION: Duration = Duration::from_secs(20);

/// Where the journals of slots are.
#[derive(Debug, Clone)]
pub(crate) enum Ledgers {
    Kafka(BusConfig),
    #[cfg(test)]
    Simulated(crate::simulation::Ledgers),
}

/// Why a slot was not adopted.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAdopted {
    /// The ledger was not had.
    #[error(transparent)]
    Failed(#[from] AdoptError),
    /// A mistake of ours: the slot is given up, and tried again.
    #[error("the adoption ended in a panic, which is a mistake in this program; please report it")]
    Panicked,
}

impl NotAdopted {
    /// Somebody else adopted it meanwhile: one of the two has it.
    pub(super) const fn is_a_race(&self) -> bool {
        matches!(self, Self::Failed(AdoptError::Owner(SlotLost::Fenced)))
    }
}

/// What comes of an adoption, whatever it ends in: a slot of which nothing is heard would be nobody's for ever.
pub(super) async fn outcome<T: Send + 'static>(
    adoption: impl Future<Output = Result<T, NotAdopted>> + Send + 'static,
) -> Result<T, NotAdopted> {
    tokio::spawn(adoption).await.unwrap_or(Err(NotAdopted::Panicked))
}

/// As [`outcome`], of what blocks its thread.
async fn blocking_outcome<T: Send + 'static>(
    adoption: impl FnOnce() -> Result<T, AdoptError> + Send + 'static,
) -> Result<T, NotAdopted> {
    let ended = tokio::task::spawn_blocking(adoption).await;
    ended.map_or(Err(NotAdopted::Panicked), |result| result.map_err(NotAdopted::from))
}

/// Adopts a slot, whose groups come back by `settle`.
pub(super) async fn adopt_slot(
    bus: Ledgers,
    readers: Arc<Mutex<Vec<LedgerReader>>>,
    store: Store,
    owner: Owner,
    settle: Settle,
) -> Result<AdoptedSlot, NotAdopted> {
    let (slot, adoption) = (settle.news.slot, settle.news.adoption);
    let found = find_snapshot(&store, slot).await;
    let damaged = found.is_err();
    #[cfg_attr(
        not(test),
        expect(clippy::infallible_destructuring_match, reason = "tests have another variant")
    )]
    let bus = match bus {
        Ledgers::Kafka(bus) => bus,
        #[cfg(test)]
        Ledgers::Simulated(ledgers) => {
            let adopted = ledgers.adopt(slot, &owner, found.unwrap_or_default(), settle).await?;
            return Ok(AdoptedSlot { adoption, ..adopted });
        }
    };
    blocking_outcome(move || {
        let snapshot = found.unwrap_or_default();
        let mut reader = take_reader(&readers, &bus)?;
        let adopted = adopt(&bus, slot, &owner, snapshot, &mut reader, settle, ADOPTION)?;
        // One that failed may be in a state that the next adoption should not start from.
        give_back(&readers, reader);
        Ok(for_the_shard(slot, adoption, adopted, damaged))
    })
    .await
}

/// A slot that was adopted, for its shard.
fn for_the_shard(slot: u16, adoption: u64, adopted: Adopted, damaged: bool) -> AdoptedSlot {
    let Adopted { writer, generation, sessions, read, snapshot_discarded, .. } = adopted;
    tracing::info!(slot, generation, sessions = sessions.len(), read, "slot adopted");
    let snapshot_discarded = snapshot_discarded || damaged;
    AdoptedSlot { slot, adoption, generation, writer: Sink::Slot(writer), sessions, snapshot_discarded }
}

/// A snapshot that is there and is none.
#[derive(Debug, PartialEq, Eq)]
struct Damaged;

/// The slot's snapshot, if there is one and the store gives it in time. Nothing waits for it: the ledger says the same, if longer.
async fn find_snapshot(store: &Store, slot: u16) -> Result<Option<Snapshot>, Damaged> {
    match tokio::time::timeout(SNAPSHOT, store.slot_snapshot(slot)).await {
        Ok(Ok(Some(found))) => read_snapshot(slot, &found).map(Some),
        Ok(Err(StoreError::Record { source, .. })) => {
            tracing::warn!(slot, error = %source, "the slot's snapshot cannot be used; its ledger is read from the start");
            Err(Damaged)
        }
        Ok(Ok(None) | Err(_)) | Err(_) => Ok(None),
    }
}

fn read_snapshot(slot: u16, found: &SlotSnapshot) -> Result<Snapshot, Damaged> {
    match Snapshot::decode(&found.bytes) {
        Ok(snapshot) if (snapshot.generation, snapshot.offset) == (found.generation, found.offset) => {
            Ok(snapshot)
        }
        other => {
            tracing::warn!(slot, error = ?other.err(), "the slot's snapshot is none; its ledger is read from the start");
            Err(Damaged)
        }
    }
}

pub(super) fn take_reader(
    readers: &Mutex<Vec<LedgerReader>>,
    bus: &BusConfig,
) -> Result<LedgerReader, AdoptError> {
    let warm = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
    warm.map_or_else(|| LedgerReader::open(bus).map_err(AdoptError::from), Ok)
}

pub(super) fn give_back(readers: &Mutex<Vec<LedgerReader>>, reader: LedgerReader) {
    let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
    if readers.len() < WARM {
        readers.push(reader);
    }
}

/// Brings a slot's groups back to its shard.
pub(super) struct Settle {
    pub(super) news: News,
    pub(super) peers: PeersHandle,
    /// Whose revocation log the ledger speaks of.
    pub(super) store: Store,
}

/// The way to the shard that serves a slot, for the slot's writer. It is gone with the writer's thread: if that ends in a panic, the slot is
/// lost, which would otherwise be served in name alone.
pub(super) struct News {
    pub(super) slot: u16,
    /// A writer that was given up may have something to say when the next one is there already.
    pub(super) adoption: u64,
    pub(super) news: SyncSender<SlotNews>,
    pub(super) waker: ShardWaker,
}

impl News {
    fn tell(&self, news: SlotNews) {
        // The queue has a place for each group that there is; a shard that is gone waits for nothing.
        if self.news.try_send(news).is_ok() {
            let _ = self.waker.wake();
        }
    }

    fn lost(&self) {
        self.tell(SlotNews::Lost { slot: self.slot, adoption: self.adoption });
    }
}

impl Drop for News {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                slot = self.slot,
                "a slot's writer ended in a panic, which is a mistake in this program; please report it"
            );
            self.lost();
        }
    }
}

impl SlotSettle for Settle {
    fn settle(&mut self, group: Group) {
        if group.outcomes().any(|(_, outcome)| outcome == Outcome::Committed) {
            self.peers.kafka_answered();
        }
        let (slot, adoption) = (self.news.slot, self.news.adoption);
        self.news.tell(SlotNews::Settled { slot, adoption, group });
    }

    fn lost(&mut self, why: SlotLost) {
        // The writer has warned of it.
        tracing::debug!(slot = self.news.slot, error = %why, "a slot's writer is at its end");
        self.news.lost();
    }

    fn witness(&self) -> Option<Witness> {
        let known = self.store.witness();
        Some(Witness { store: known.store, position: known.position.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before_it() -> Result<(), NotAdopted> {
        panic!("before the blocking part")
    }

    #[tokio::test]
    async fn an_adoption_that_panics_has_an_outcome() {
        let ended = outcome(blocking_outcome(|| -> Result<(), AdoptError> { panic!("in a blocking part") }));
        assert!(matches!(ended.await, Err(NotAdopted::Panicked)));
        assert!(matches!(outcome(async { before_it() }).await, Err(NotAdopted::Panicked)));
        let ended = outcome(blocking_outcome(|| Err::<(), _>(AdoptError::NoSuchSlot { slot: 9, slots: 4 })));
        assert!(matches!(ended.await, Err(NotAdopted::Failed(AdoptError::NoSuchSlot { .. }))));
        assert!(matches!(outcome(blocking_outcome(|| Ok(7))).await, Ok(7)));
    }

    #[test]
    fn a_writer_that_panics_loses_its_slot_and_one_that_ends_does_not() {
        let (news, heard) = std::sync::mpsc::sync_channel(1);
        let poll = mio::Poll::new().expect("a poll");
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("a waker");
        let waker = ShardWaker::Poll(Arc::new(waker));
        let way = |adoption| News { slot: 3, adoption, news: news.clone(), waker: waker.clone() };
        let (ends, panics) = (way(1), way(2));
        std::thread::spawn(move || drop(ends)).join().expect("no panic");
        assert!(heard.try_recv().is_err(), "a slot that was given up is not lost");
        let panicked = std::thread::spawn(move || {
            let _writes = panics;
            panic!("a mistake");
        });
        assert!(panicked.join().is_err());
        assert!(matches!(heard.try_recv(), Ok(SlotNews::Lost { slot: 3, adoption: 2 })));
    }

    #[tokio::test]
    async fn a_snapshot_is_found_again_and_one_that_is_none_is_said_to_be_damaged() {
        let kek = sluice_store::KekRing::generate().expect("random bytes");
        let store = Store::in_memory(kek).await.expect("a store");
        assert_eq!(find_snapshot(&store, 3).await, Ok(None));
        let snapshot = Snapshot { offset: 7, generation: 2, sessions: Vec::new() };
        let put = |generation, bytes: Vec<u8>| {
            let store = store.clone();
            async move { store.put_slot_snapshot(3, generation, 7, &bytes).await.expect("a store in memory") }
        };
        assert!(put(2, snapshot.encode()).await);
        assert_eq!(find_snapshot(&store, 3).await, Ok(Some(snapshot.clone())));
        assert!(put(3, snapshot.encode()).await, "of another generation than it says");
        assert_eq!(find_snapshot(&store, 3).await, Err(Damaged));
        assert!(put(4, b"no snapshot".to_vec()).await);
        assert_eq!(find_snapshot(&store, 3).await, Err(Damaged));
    }
}
