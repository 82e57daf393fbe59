//! Hot path: one thread, one producer, groups in and groups out in the same order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};

use crate::group::{Entry, Group, Outcome, Refusal};
use crate::headers::headers;
use crate::{BusConfig, BusError, Topic, TopicNames};

/// How long the thread waits for a group, or for delivery reports, before it looks around.
const POLL: Duration = Duration::from_millis(1);
const IDLE: Duration = Duration::from_millis(50);

/// How long to wait before a record that a broker could not take yet is produced again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

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
    /// Attempts repeated since a broker could not take the record yet.
    pub repeated: AtomicU64,
    /// Producers made anew after a fatal error.
    pub renewed: AtomicU64,
}

/// One thread with one producer: what is submitted to it is committed in order.
#[derive(Debug)]
pub struct Writer {
    groups: Option<SyncSender<Group>>,
    stop: Arc<Stop>,
    stats: Arc<WriterStats>,
    thread: Option<JoinHandle<usize>>,
}

#[derive(Debug, Default)]
struct Stop {
    at: Mutex<Option<Instant>>,
    flushing: AtomicBool,
}

impl Writer {
    /// Starts a writer. `name` names its thread.
    ///
    /// # Errors
    ///
    /// [`BusError`] when the configuration cannot be used or no thread can be started; an unreachable Kafka is none, groups
    /// wait for it.
    pub fn start(name: &str, config: &BusConfig, settle: impl Settle) -> Result<Self, BusError> {
        let depth = usize::from(config.groups_in_flight.clamp(1, 64));
        let (groups, inbox) = sync_channel(depth);
        let stop = Arc::new(Stop::default());
        let stats = Arc::new(WriterStats::default());
        let work = Work {
            config: config.clone(),
            names: TopicNames::new(&config.topic_prefix),
            producer: producer(config)?,
            inbox,
            depth,
            in_flight: VecDeque::with_capacity(depth),
            next_slot: 0,
            reports: Vec::new(),
            settle: Box::new(settle),
            stop: Arc::clone(&stop),
            stats: Arc::clone(&stats),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work.run());
        let thread = Some(thread.map_err(BusError::Thread)?);
        Ok(Self { groups: Some(groups), stop, stats, thread })
    }

    /// Hands a group over. It comes back through [`Settle`].
    ///
    /// # Errors
    ///
    /// The group itself, when as many are under way as may be, or the writer has stopped: keep it and stop reading.
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

    /// Takes no more groups, waits until all are settled or the time is over, and returns the number of records whose outcome
    /// stayed [`Outcome::Unknown`]. Blocks for up to `within` and a second.
    pub fn shutdown(mut self, within: Duration) -> usize {
        self.stop_within(within)
    }

    #[expect(clippy::disallowed_methods, reason = "the writer is a driver: it owns its deadline")]
    fn stop_within(&mut self, within: Duration) -> usize {
        *self.stop.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + within);
        self.stop.flushing.store(true, Ordering::Release);
        self.groups = None;
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

fn producer(config: &BusConfig) -> Result<BaseProducer<Reports>, BusError> {
    config.producer()?.create_with_context(Reports::default()).map_err(BusError::Client)
}

/// Collects delivery reports; only the writer's thread polls, so the lock is never contended.
#[derive(Default)]
struct Reports(Mutex<Vec<(usize, Result<(), RDKafkaErrorCode>)>>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, "{message}");
            }
            _ => tracing::warn!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, "Kafka: {reason}");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((opaque, outcome));
    }
}

/// A group on its way, and how many of its records wait for their report.
struct InFlight {
    slot: u32,
    group: Group,
    open: usize,
}

struct Work {
    config: BusConfig,
    names: TopicNames,
    producer: BaseProducer<Reports>,
    inbox: Receiver<Group>,
    depth: usize,
    in_flight: VecDeque<InFlight>,
    next_slot: u32,
    reports: Vec<(usize, Result<(), RDKafkaErrorCode>)>,
    settle: Box<dyn Settle>,
    stop: Arc<Stop>,
    stats: Arc<WriterStats>,
}

/// What to do about a record that a broker, or librdkafka, did not take.
enum Verdict {
    Refuse(Refusal),
    /// It may yet be taken: produce it again, in its place.
    Again,
}

/// Every code is judged once, here.
fn judge(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge => Verdict::Refuse(Refusal::TooLarge),
        Code::InvalidMessage | Code::InvalidRecord | Code::InvalidTimestamp => {
            Verdict::Refuse(Refusal::InvalidRecord)
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Verdict::Refuse(Refusal::NotAuthorized)
        }
        Code::PolicyViolation => Verdict::Refuse(Refusal::Policy),
        // Everything else passes: a leader moves, a topic is being created, a node restarts, the network breaks. A record is
        // not given up for it; the full group holds the readers back until it is over.
        _ => Verdict::Again,
    }
}

impl Work {
    fn run(mut self) -> usize {
        loop {
            self.take_groups();
            self.poll();
            if self.renew_after_fatal_error() {
                continue;
            }
            while self.in_flight.front().is_some_and(|head| head.open == 0) {
                self.commit_head();
            }
            if self.stop.flushing.load(Ordering::Acquire) && self.is_over() {
                return self.give_up_rest();
            }
        }
    }

    /// Waits for a group only when nothing is on its way.
    fn take_groups(&mut self) {
        while self.in_flight.len() < self.depth {
            let group = if self.in_flight.is_empty() {
                match self.inbox.recv_timeout(IDLE) {
                    Ok(group) => group,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match self.inbox.try_recv() {
                    Ok(group) => group,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
                }
            };
            let slot = self.next_slot;
            self.next_slot = slot.wrapping_add(1);
            let open = group.len();
            self.in_flight.push_back(InFlight { slot, group, open });
            self.produce_group(self.in_flight.len() - 1);
        }
    }

    fn produce_group(&mut self, position: usize) {
        for index in 0..self.in_flight[position].group.len() {
            if self.in_flight[position].group.entries()[index].outcome.is_none() {
                self.produce(position, index);
            }
        }
    }

    /// Produces one record; a full queue of librdkafka is waited out, which is back-pressure.
    fn produce(&mut self, position: usize, index: usize) {
        let InFlight { slot, group, .. } = &self.in_flight[position];
        let entry = &group.entries()[index];
        let opaque = opaque(*slot, index);
        let mut record = BaseRecord::with_opaque_to(self.names.of(entry.topic), opaque)
            .key(group.bytes(&entry.key))
            .payload(group.bytes(&entry.payload))
            .headers(headers(group, entry));
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((error, returned)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::QueueFull) => {
                        self.producer.poll(POLL);
                        record = returned;
                        if self.stop.flushing.load(Ordering::Acquire) && self.is_over() {
                            return;
                        }
                    }
                    code => {
                        // Reported like any other outcome, so that it is judged in one place.
                        self.reports.push((opaque, Err(code.unwrap_or(RDKafkaErrorCode::Unknown))));
                        return;
                    }
                },
            }
        }
    }

    fn poll(&mut self) {
        if !self.in_flight.is_empty() {
            self.producer.poll(POLL);
        }
        let collected = &self.producer.context().0;
        self.reports.append(&mut collected.lock().unwrap_or_else(PoisonError::into_inner));
        if self.reports.is_empty() || self.producer.client().fatal_error().is_some() {
            return;
        }
        let mut again = Vec::new();
        for (opaque, result) in std::mem::take(&mut self.reports) {
            let Some((position, index)) = self.locate(opaque) else { continue };
            match result.map_err(judge) {
                Ok(()) => self.conclude(position, index, Outcome::Committed),
                Err(Verdict::Refuse(refusal)) => self.refuse(position, index, refusal),
                Err(Verdict::Again) => again.push((position, index)),
            }
        }
        if !again.is_empty() {
            self.stats.repeated.fetch_add(again.len() as u64, Ordering::Relaxed);
            // In their order among themselves. The pause keeps a broker that says no at once from being asked in a loop.
            std::thread::sleep(AGAIN_AFTER);
            again.sort_unstable();
            for (position, index) in again {
                self.produce(position, index);
            }
        }
    }

    fn locate(&self, opaque: usize) -> Option<(usize, usize)> {
        let (slot, index) = (u32::try_from(opaque >> INDEX_BITS).ok()?, opaque & INDEX_MASK);
        let position = self.in_flight.iter().position(|group| group.slot & SLOT_MASK == slot)?;
        // A second report for the same record, after a producer was made anew, changes nothing.
        let entry = self.in_flight[position].group.entries().get(index)?;
        entry.outcome.is_none().then_some((position, index))
    }

    fn conclude(&mut self, position: usize, index: usize, outcome: Outcome) {
        let head = &mut self.in_flight[position];
        head.group.settle(index, outcome);
        head.open -= 1;
        let counter = if outcome == Outcome::Committed { &self.stats.committed } else { &self.stats.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a copy to the dead-letter topic and concludes the record. The copy's own fate is only counted.
    fn refuse(&mut self, position: usize, index: usize, refusal: Refusal) {
        if let Err(error) = self.send_dead_letter(position, index, refusal) {
            self.stats.lost_dead_letters.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, reason = refusal.as_str(), "a refused record could not be put into the dead-letter topic");
        }
        self.conclude(position, index, Outcome::Refused(refusal));
    }

    fn send_dead_letter(&self, position: usize, index: usize, refusal: Refusal) -> Result<(), KafkaError> {
        let group = &self.in_flight[position].group;
        let entry = &group.entries()[index];
        if entry.topic == Topic::Dlq {
            return Ok(());
        }
        let record = BaseRecord::with_opaque_to(self.names.of(Topic::Dlq), usize::MAX)
            .key(group.bytes(&entry.key))
            .payload(group.bytes(&entry.payload))
            .headers(dead_letter_headers(group, entry, refusal, self.names.of(entry.topic)));
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// The one place where a group becomes final.
    fn commit_head(&mut self) {
        if let Some(InFlight { group, .. }) = self.in_flight.pop_front() {
            self.stats.groups.fetch_add(1, Ordering::Relaxed);
            self.settle.settle(group);
        }
    }

    /// After a fatal error an idempotent producer delivers nothing more. A new one takes what is open, in order and under the
    /// same ids; readers may see what the old one had delivered without a report twice.
    fn renew_after_fatal_error(&mut self) -> bool {
        let Some((code, reason)) = self.producer.client().fatal_error() else { return false };
        tracing::error!(%code, reason, "the Kafka producer failed for good and is made anew");
        match producer(&self.config) {
            Ok(renewed) => {
                self.producer.purge(PurgeConfig::default().queue().inflight());
                self.producer = renewed;
                self.reports.clear();
                self.stats.renewed.fetch_add(1, Ordering::Relaxed);
                for position in 0..self.in_flight.len() {
                    self.produce_group(position);
                }
            }
            Err(error) => {
                tracing::error!(%error, "no Kafka producer can be made");
                std::thread::sleep(AGAIN_AFTER);
            }
        }
        true
    }

    #[expect(clippy::disallowed_methods, reason = "the writer is a driver: it owns its deadline")]
    fn is_over(&self) -> bool {
        let deadline = *self.stop.at.lock().unwrap_or_else(PoisonError::into_inner);
        let late = deadline.is_some_and(|at| at <= Instant::now());
        late || self.in_flight.is_empty()
    }

    /// Gives back what is still open, as unknown, the groups in the inbox too.
    fn give_up_rest(mut self) -> usize {
        // A dead letter may still be under way.
        let _ = self.producer.flush(Duration::from_millis(500));
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let mut unknown = 0;
        let waiting = std::iter::from_fn(|| self.inbox.try_recv().ok());
        let open = self.in_flight.drain(..).map(|in_flight| in_flight.group);
        let rest: Vec<_> = open.chain(waiting).collect();
        for group in rest {
            unknown += group.outcomes().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
            self.settle.settle(group);
        }
        unknown
    }
}

/// Records per group that an opaque can name.
const INDEX_BITS: u32 = 24;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
/// What of a slot's number fits beside the index.
const SLOT_MASK: u32 = 0xFFFF_FFFF;

const fn opaque(slot: u32, index: usize) -> usize {
    ((slot & SLOT_MASK) as usize) << INDEX_BITS | index & INDEX_MASK
}

fn dead_letter_headers(
    group: &Group,
    entry: &Entry,
    refusal: Refusal,
    topic: &str,
) -> rdkafka::message::OwnedHeaders {
    use rdkafka::message::Header;
    headers(group, entry)
        .insert(Header { key: "sluice_dlq_reason", value: Some(refusal.as_str()) })
        .insert(Header { key: "sluice_dlq_topic", value: Some(topic) })
}
