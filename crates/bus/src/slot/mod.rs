//! Slots: writers that own the sessions they write for, and hand them over.
//!
//! A slot has one writer at a time and one journal, its partition of the ledger topic. What [`adopt`] does makes every earlier writer of
//! the slot powerless (with `exactly_once`), then reads what they said. From then on the [`SlotWriter`] commits the records of a group
//! together with what its sessions have used up, or nothing of it.

mod adopt;
mod reader;
mod transaction;
mod witnesses;
mod work;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::error::KafkaError;

use crate::group::Group;
use crate::ledger::Witness;
use crate::writer::{Stop, WriterStats};

pub use adopt::{AdoptError, Adopted, adopt};
pub use reader::LedgerReader;
#[cfg(feature = "simulated")]
pub(crate) use reader::{Replay, Taken};
pub use witnesses::{Witnesses, witnesses};

/// Takes settled groups back, on the slot's thread. It must not wait: a slow one holds up every later group.
pub trait SlotSettle: Send + 'static {
    /// Takes a group whose outcomes are final. Groups come back in the order they were submitted.
    fn settle(&mut self, group: Group);

    /// The slot is not ours any more, or it is not known what was committed. Every group has come back before, those that were open with
    /// [`Outcome::Unknown`](crate::Outcome::Unknown) throughout; nothing more is committed. Whoever wants to go on adopts again.
    fn lost(&mut self, why: SlotLost);

    /// What is known of the store, to be said with the ledger's next record; `None` for nothing. Asked for each of them, and every few
    /// seconds: when it changes, a slot without work says so soon.
    fn witness(&self) -> Option<Witness> {
        None
    }
}

/// Why a slot was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotLost {
    /// Somebody else adopted it, or a transaction took longer than Kafka waits for one.
    #[error("the slot has a new owner, or a transaction of it took too long")]
    Fenced,
    /// The producer failed for good.
    #[error("the Kafka producer of the slot failed for good: {code}: {reason}")]
    Fatal {
        /// Kafka's code.
        code: String,
        /// librdkafka's words.
        reason: String,
    },
    /// Whether the last transaction is committed cannot be known from here.
    #[error("the outcome of the slot's last transaction is not known")]
    Unknown {
        /// What librdkafka said.
        #[source]
        source: KafkaError,
    },
}

/// The way into a slot's writer; closed by the thread when nothing more is taken, so that no group is left between.
#[derive(Debug)]
pub(crate) struct Gate(Mutex<Option<SyncSender<Group>>>);

impl Gate {
    pub(crate) const fn new(groups: SyncSender<Group>) -> Self {
        Self(Mutex::new(Some(groups)))
    }

    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn try_send(&self, group: Group) -> Result<(), Group> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Err(group),
            Some(groups) => groups.try_send(group).map_err(|refused| match refused {
                TrySendError::Full(group) | TrySendError::Disconnected(group) => group,
            }),
        }
    }
}

/// The one writer of a slot: a thread with a producer of its own. Made by [`adopt`].
///
/// With `exactly_once`, the groups that wait are committed in one transaction with one ledger record (a few, where it would be too
/// large); a record is in its topic once for readers with `read_committed`, and in the order of its group, whatever fails. With
/// `at_least_once`, the ledger's record follows when all others are acknowledged, and what is said at [`Writer`](crate::Writer) holds.
#[derive(Debug)]
pub struct SlotWriter {
    gate: Arc<Gate>,
    stop: Arc<Stop>,
    stats: Arc<WriterStats>,
    position: Arc<AtomicI64>,
    thread: Option<JoinHandle<usize>>,
}

impl SlotWriter {
    /// Hands a group over. It comes back through [`SlotSettle`].
    ///
    /// # Errors
    ///
    /// The group itself, when as many wait as may, or the slot is lost: keep it and stop reading.
    pub fn try_submit(&self, group: Group) -> Result<(), Group> {
        self.gate.try_send(group)
    }

    /// What the writer did so far.
    #[must_use]
    pub const fn stats(&self) -> &Arc<WriterStats> {
        &self.stats
    }

    /// Whether its thread runs: not after the slot was lost.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Offset of the last committed ledger record. Ahead of the groups that are on their way back: a snapshot takes
    /// [`Group::snapshot_offset`] instead.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position.load(Ordering::Acquire)
    }

    /// Takes no more groups, waits until all are settled or the time is over, and returns the number of records whose outcome
    /// stayed [`Outcome::Unknown`](crate::Outcome::Unknown). Blocks for up to `within` and two seconds.
    pub fn shutdown(mut self, within: Duration) -> usize {
        self.stop_within(within)
    }

    fn stop_within(&mut self, within: Duration) -> usize {
        self.stop.within(within);
        self.gate.close();
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for SlotWriter {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
