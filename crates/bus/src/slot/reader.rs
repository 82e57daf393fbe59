//! Reads a slot's journal.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::adopt::AdoptError;
use crate::client::Voice;
use crate::ledger::{LedgerError, LedgerRecord, LedgerState, OwnerMark, Snapshot};
use crate::tail::passes;
use crate::writer::{Verdict, code_of, judge};
use crate::{BusConfig, BusError, Topic, TopicNames};

/// How long brokers may take to answer when the reader is made.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long one wait for a record may take before the deadline is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// A ledger of which no record comes for so long is given up.
const STANDSTILL: Duration = Duration::from_secs(10);

/// A consumer that is kept for reading ledgers, one after another: a new one takes about a second to begin.
pub struct LedgerReader {
    consumer: BaseConsumer<Voice>,
    topic: String,
    slots: u16,
}

impl std::fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerReader").field("topic", &self.topic).field("slots", &self.slots).finish()
    }
}

/// A ledger that is being read, record by record.
#[derive(Debug)]
pub(crate) struct Replay {
    slot: u16,
    mark: OwnerMark,
    state: LedgerState,
    read: u64,
}

/// What a record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Entry,
    /// The owner's that this reads up to.
    Mark,
    /// None; it is left out.
    Malformed(LedgerError),
}

impl Replay {
    /// Begins at a snapshot, or at the ledger's start.
    pub(crate) fn new(slot: u16, mark: OwnerMark, snapshot: Option<Snapshot>) -> Self {
        let state = snapshot.map_or_else(LedgerState::default, Snapshot::into_state);
        Self { slot, mark, state, read: 0 }
    }

    /// Takes the next record in.
    ///
    /// # Errors
    ///
    /// [`AdoptError::UnknownVersion`].
    pub(crate) fn take(&mut self, offset: i64, value: &[u8]) -> Result<Taken, AdoptError> {
        self.read += 1;
        match LedgerRecord::decode(value) {
            Ok(record) => {
                self.state.apply(&record);
                let is_mark =
                    matches!(record, LedgerRecord::Owner { nonce, .. } if OwnerMark(nonce) == self.mark);
                Ok(if is_mark { Taken::Mark } else { Taken::Entry })
            }
            Err(LedgerError::UnknownVersion(version)) => {
                Err(AdoptError::UnknownVersion { slot: self.slot, offset, version })
            }
            Err(error) => {
                self.state.note_malformed();
                Ok(Taken::Malformed(error))
            }
        }
    }

    /// What is known now.
    pub(crate) fn into_state(self) -> LedgerState {
        self.state
    }

    /// Records that were read.
    pub(crate) const fn read(&self) -> u64 {
        self.read
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) state: LedgerState,
    pub(super) owner_offset: i64,
    pub(super) read: u64,
    /// The snapshot was older than what the topic keeps, or not of this topic.
    pub(super) discarded: bool,
}

impl LedgerReader {
    /// Connects. Blocks until the brokers answered, up to ten seconds.
    ///
    /// # Errors
    ///
    /// [`BusError::Unreachable`], or [`BusError::TopicMissing`].
    pub fn open(config: &BusConfig) -> Result<Self, BusError> {
        let consumer: BaseConsumer<Voice> =
            config.ledger_reader()?.create_with_context(Voice::default()).map_err(BusError::Client)?;
        let topic = TopicNames::new(&config.topic_prefix).of(Topic::Ledger).to_owned();
        let metadata = consumer
            .fetch_metadata(Some(&topic), ANSWER_WITHIN)
            .map_err(|source| BusError::Unreachable { brokers: config.brokers.join(","), source })?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        let slots = found.map_or(0, |found| found.partitions().len());
        if slots == 0 {
            return Err(BusError::TopicMissing(topic));
        }
        let slots = u16::try_from(slots).unwrap_or(u16::MAX);
        let reader = Self { consumer, topic, slots };
        // The first question to a partition's leader opens the connection to it. A topic just made may have none yet.
        if let Err(error) = reader.watermark(0, ANSWER_WITHIN) {
            tracing::debug!(%error, "the ledger's reader starts cold");
        }
        Ok(reader)
    }

    /// Slots there are: partitions of the ledger topic when the reader was opened.
    #[must_use]
    pub const fn slots(&self) -> u16 {
        self.slots
    }

    /// Whether the brokers answer a question of this reader within that time. Blocks for as long at most.
    #[must_use]
    pub fn kafka_answers(&self, within: Duration) -> bool {
        self.consumer.fetch_metadata(Some(&self.topic), within).is_ok()
    }

    /// Reads from the snapshot, or the start, up to the owner's record with this mark: never "to the end", which somebody else's open
    /// transaction may hold back.
    pub(super) fn read(
        &mut self,
        slot: u16,
        mark: OwnerMark,
        snapshot: Option<Snapshot>,
        owner_hint: Option<i64>,
        until: Instant,
    ) -> Result<Reading, AdoptError> {
        let found = self.read_from(slot, mark, snapshot, owner_hint, until);
        // Nothing more is fetched meanwhile.
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "a ledger's partition could not be put down");
        }
        found
    }

    fn read_from(
        &self,
        slot: u16,
        mark: OwnerMark,
        snapshot: Option<Snapshot>,
        owner_hint: Option<i64>,
        until: Instant,
    ) -> Result<Reading, AdoptError> {
        let had_snapshot = snapshot.is_some();
        let mut start = match snapshot {
            Some(snapshot) => {
                let oldest = self.oldest(slot, until)?;
                let newest = owner_hint.unwrap_or(i64::MAX);
                Some(snapshot).filter(|snapshot| (oldest..=newest).contains(&snapshot.offset))
            }
            None => None,
        };
        let mut patience = Patience { until };
        loop {
            let discarded = had_snapshot && start.is_none();
            match self.read_once(slot, mark, start.take(), &mut patience)? {
                Some((state, owner_offset, read)) => {
                    return Ok(Reading { state, owner_offset, read, discarded });
                }
                // The topic forgot more while we were reading: from its start, then.
                None => {
                    tracing::info!(slot, "the ledger begins later than expected; it is read from its start")
                }
            }
        }
    }

    /// `None` if the offset to start from is not kept any more.
    fn read_once(
        &self,
        slot: u16,
        mark: OwnerMark,
        snapshot: Option<Snapshot>,
        patience: &mut Patience,
    ) -> Result<Option<(LedgerState, i64, u64)>, AdoptError> {
        let offset = snapshot.as_ref().map_or(Offset::Beginning, |snapshot| Offset::Offset(snapshot.offset));
        let mut replay = Replay::new(slot, mark, snapshot);
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, i32::from(slot), offset)
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(AdoptError::Read)?;
        loop {
            let message = match self.consumer.poll(remaining(patience.until)?.min(LOOK)) {
                None => continue,
                Some(Ok(message)) => message,
                Some(Err(error)) if is_out_of_range(&error) => return Ok(None),
                Some(Err(error)) if passes(&error) => continue,
                Some(Err(error)) => return Err(AdoptError::Read(error)),
            };
            if message.topic() != self.topic || message.partition() != i32::from(slot) {
                continue;
            }
            #[expect(clippy::disallowed_methods, reason = "adopting is a driver: it owns its deadline")]
            patience.came_further(Instant::now());
            match replay.take(message.offset(), message.payload().unwrap_or_default())? {
                Taken::Entry => {}
                Taken::Mark => {
                    let read = replay.read();
                    return Ok(Some((replay.into_state(), message.offset(), read)));
                }
                Taken::Malformed(error) => {
                    if let Some(withheld) = self.consumer.client().context().admit() {
                        tracing::error!(slot, offset = message.offset(), %error, withheld, "a record of the ledger is none and is left out");
                    }
                }
            }
        }
    }

    /// The offset at which the partition begins.
    fn oldest(&self, slot: u16, until: Instant) -> Result<i64, AdoptError> {
        loop {
            match self.watermark(slot, remaining(until)?) {
                Ok(oldest) => return Ok(oldest),
                // Its leader moves.
                Err(error) if judge(code_of(&error)) == Verdict::Again => {
                    std::thread::sleep(LOOK.min(remaining(until)?));
                }
                Err(error) => return Err(AdoptError::Read(error)),
            }
        }
    }

    fn watermark(&self, slot: u16, within: Duration) -> Result<i64, KafkaError> {
        self.consumer.fetch_watermarks(&self.topic, i32::from(slot), within).map(|(oldest, _)| oldest)
    }
}

/// How long reading goes on. A ledger that is read from its start may be hours of a large fleet: what was read so far must not be thrown
/// away, or the next attempt comes no further.
struct Patience {
    until: Instant,
}

impl Patience {
    /// A record was read; there are no more than those before the own mark.
    fn came_further(&mut self, now: Instant) {
        self.until = self.until.max(now + STANDSTILL);
    }
}

/// Time that is left, or that there is none.
pub(super) fn remaining(until: Instant) -> Result<Duration, AdoptError> {
    #[expect(clippy::disallowed_methods, reason = "adopting is a driver: it owns its deadline")]
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(AdoptError::Deadline) } else { Ok(left) }
}

fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a moment to begin with")]
    fn reading_goes_on_for_as_long_as_records_come_and_no_shorter_than_was_given() {
        let began = Instant::now();
        let given = began + 2 * STANDSTILL;
        let mut patience = Patience { until: given };
        patience.came_further(began);
        assert_eq!(patience.until, given);
        let mut now = began;
        for _ in 0..100 {
            now += STANDSTILL / 2;
            patience.came_further(now);
            assert!(patience.until >= now + STANDSTILL);
        }
        assert_eq!(patience.until, now + STANDSTILL, "then it stands still");
    }
}
