//! One thread, one producer, groups in and groups out in the same order.

mod commit;
mod judge;
mod ledger_part;
mod producer;
mod publisher;
mod work;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use crate::client::KafkaFigures;
use crate::group::Group;
use crate::{BusConfig, BusError};

pub(crate) use judge::{Verdict, judge};
#[cfg(feature = "simulated")]
pub(crate) use ledger_part::LedgerPart;
pub(crate) use publisher::{Attempt, Form, Place, Publisher, Stopped, code_of};
use work::Work;

/// Takes settled groups back, on the writer's thread. It must not wait: a slow one holds up every later group.
pub trait Settle: Send + 'static {
    /// Takes a group whose outcomes are final. Groups come back in the order they were submitted.
    fn settle(&mut self, group: Group);
}

impl<F: FnMut(Group) + Send + 'static> Settle for F {
    fn settle(&mut self, group: Group) {
        self(group);
    }
}

/// What a writer did so far.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Groups settled.
    pub groups: AtomicU64,
    /// Records committed.
    pub committed: AtomicU64,
    /// Records refused for good.
    pub refused: AtomicU64,
    /// Refused records that the dead-letter topic did not take either.
    pub lost_dead_letters: AtomicU64,
    /// Records produced anew, since librdkafka had given them up or another record spoilt their batch.
    pub repeated: AtomicU64,
    /// Producers made anew after a fatal error.
    pub renewed: AtomicU64,
    /// Transactions aborted and made anew; for the writer of a slot.
    pub aborted: AtomicU64,
    /// Ledger records written while there was nothing to say; for the writer of a slot.
    pub heartbeats: AtomicU64,
    kafka: Mutex<KafkaFigures>,
    warm: Mutex<bool>,
    warmed: Condvar,
}

impl WriterStats {
    /// How the producer stands with the brokers; zeros in the first seconds, and for the writer of a slot.
    #[must_use]
    pub fn kafka(&self) -> KafkaFigures {
        *self.kafka.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the producer knows its topics and may write, so that the first record waits for neither. `false` when the time was
    /// over before; blocks up to then.
    #[must_use]
    pub fn await_warm(&self, within: Duration) -> bool {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.warmed.wait_timeout_while(warm, within, |warm| !*warm);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn set_warm(&self) {
        *self.warm.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.warmed.notify_all();
    }

    fn set_kafka(&self, figures: KafkaFigures) {
        *self.kafka.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

/// One thread with one producer: what is submitted to it is committed in order.
///
/// The groups that wait are committed together, then the next ones are looked at. That bounds what is under way, and
/// no record of a later group can overtake one of an earlier group, whatever fails.
///
/// What "committed" means here, at least once: Kafka acknowledged the record with `acks=all`. While brokers are away, for
/// however long, records wait in their group, in order; the producer is idempotent, so its own repeats double nothing. A
/// record is doubled, under the same `ce_id`, only when librdkafka gives it up without knowing whether it is in the log (a
/// fatal error, a topic deleted under way) and it is produced anew, or when the process dies and its device sends it again.
/// Within a group, records of one key keep their order, with two exceptions: when a broker refuses one of their batches for
/// good, the others of that batch are produced anew, behind what was already taken; and after a fatal error, what the old producer
/// had under way may arrive between what the new one sends.
#[derive(Debug)]
pub struct Writer {
    groups: Option<SyncSender<Group>>,
    stop: Arc<Stop>,
    stats: Arc<WriterStats>,
    thread: Option<JoinHandle<usize>>,
}

/// When the writer must be through; `None` while it runs.
#[derive(Debug, Default)]
pub(crate) struct Stop(Mutex<Option<Instant>>);

impl Stop {
    #[expect(clippy::disallowed_methods, reason = "the writer is a driver: it owns its deadline")]
    pub(crate) fn within(&self, within: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now().checked_add(within);
    }

    /// There is no deadline any more.
    pub(crate) fn lift(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    #[expect(clippy::disallowed_methods, reason = "the writer is a driver: it owns its deadline")]
    pub(crate) fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at <= Instant::now())
    }
}

impl Writer {
    /// Starts a writer. `name` names its thread, which first learns where the topics are, unless a group comes before: see
    /// [`WriterStats::await_warm`].
    ///
    /// # Errors
    ///
    /// [`BusError`] when the configuration cannot be used or no thread can be started; an unreachable Kafka is none, groups
    /// wait for it.
    pub fn start(name: &str, config: &BusConfig, settle: impl Settle) -> Result<Self, BusError> {
        Self::start_with(name, config, config.producer()?, Box::new(settle))
    }

    fn start_with(
        name: &str,
        config: &BusConfig,
        client: ClientConfig,
        settle: Box<dyn Settle>,
    ) -> Result<Self, BusError> {
        let depth = usize::from(config.groups_in_flight.clamp(1, 64));
        let (groups, inbox) = sync_channel(depth);
        let stop = Arc::new(Stop::default());
        let stats = Arc::new(WriterStats::default());
        let publisher = Publisher::new(config, client, Arc::clone(&stop), Arc::clone(&stats))?;
        let work = Work { publisher, inbox, settle };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work.run());
        let thread = Some(thread.map_err(BusError::Thread)?);
        Ok(Self { groups: Some(groups), stop, stats, thread })
    }

    /// Hands a group over. It comes back through [`Settle`].
    ///
    /// # Errors
    ///
    /// The group itself, when as many wait as may, or the writer has stopped: keep it and stop reading.
    pub fn try_submit(&self, group: Group) -> Result<(), Group> {
        let Some(groups) = &self.groups else { return Err(group) };
        groups.try_send(group).map_err(|refused| match refused {
            TrySendError::Full(group) | TrySendError::Disconnected(group) => group,
        })
    }

    /// What the writer did so far.
    #[must_use]
    pub fn stats(&self) -> &Arc<WriterStats> {
        &self.stats
    }

    /// Whether its thread runs. One that does not, unasked, has panicked: nothing is committed any more.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Takes no more groups, waits until all are settled or the time is over, and returns the number of records whose outcome
    /// stayed [`Outcome::Unknown`](crate::Outcome::Unknown). Blocks for up to `within` and a second.
    pub fn shutdown(mut self, within: Duration) -> usize {
        self.stop_within(within)
    }

    fn stop_within(&mut self, within: Duration) -> usize {
        self.stop.within(within);
        self.groups = None;
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

pub(crate) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[cfg(all(test, feature = "embedded"))]
mod tests;
