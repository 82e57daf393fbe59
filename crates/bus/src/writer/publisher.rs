//! What every writer does with its groups: produce, wait for the answers, judge. How groups become final is said elsewhere: `commit.rs`
//! for those of a [`Writer`](crate::Writer), `slot/` for those of a slot.
//!
//! Hot path: no allocation of ours per record after warm-up, no log unless something fails.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _};

use super::judge::{Verdict, judge};
use super::ledger_part::LedgerPart;
use super::producer::{Producer, Report, produce_with};
use super::{Stop, WriterStats, count};
use crate::group::{Answer, Entry, Group, Letter, Outcome, Refusal};
use crate::headers::{DeadLetter, HeaderMaker, witness_headers};
use crate::{BusConfig, BusError, Topic, TopicNames};

/// How long the thread sleeps at most before it looks whether it is to stop. Reports wake it earlier.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Pause before records are produced anew: doubled from the first up to the second while nothing succeeds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Times an error without a verdict is met before the record is refused.
pub(super) const MOST_TRIES: u8 = 10;

/// The time for a stop was over: what has no outcome keeps none.
#[derive(Debug)]
pub(crate) struct Stopped;

/// A record of the groups under way: which group, which record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: u8,
    pub(crate) index: u32,
}

/// Bits of the index in a report's number.
const INDEX_BITS: u32 = 24;

/// Stands for a group in the place of a ledger's record; groups are 64 at most.
const LEDGER: u8 = u8::MAX;

impl Place {
    const fn number(self) -> usize {
        (self.group as usize) << INDEX_BITS | self.index as usize
    }

    fn from_number(number: usize) -> Self {
        let index = u32::try_from(number & ((1 << INDEX_BITS) - 1)).unwrap_or(u32::MAX);
        Self { group: u8::try_from(number >> INDEX_BITS).unwrap_or(u8::MAX), index }
    }
}

/// What of a record is produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The record, to its topic.
    Record,
    /// A copy to the dead-letter topic, with or without its payload.
    DeadLetter { payload: bool },
    /// The record, or what is due of its dead letter once it is refused.
    Due,
}

impl Form {
    /// `None` where nothing of it is produced.
    const fn of(self, entry: &Entry) -> Option<Self> {
        match (self, entry.outcome, entry.letter) {
            (Self::Due, Some(Outcome::Refused(_)), Letter::Whole) => Some(Self::DeadLetter { payload: true }),
            (Self::Due, Some(Outcome::Refused(_)), Letter::Bare) => Some(Self::DeadLetter { payload: false }),
            (Self::Due, Some(Outcome::Refused(_)), Letter::Lost) => None,
            (Self::Due, ..) => Some(Self::Record),
            (form, ..) => Some(form),
        }
    }
}

/// What became of an attempt at some records.
pub(crate) enum Attempt {
    /// Each record has its answer.
    Answered,
    /// The producer failed for good under way; records without an answer may be in the log or not.
    Broken,
}

/// A producer and the groups that it makes final together.
pub(crate) struct Publisher {
    client: ClientConfig,
    pub(super) names: TopicNames,
    pub(crate) producer: Producer,
    /// Groups that are committed together.
    pub(crate) groups: Vec<Group>,
    pub(crate) depth: usize,
    /// The ledger of a slot, where there is one.
    pub(crate) ledger: LedgerPart,
    reports: Vec<Report>,
    headers: HeaderMaker,
    /// Largest payload of a dead letter; a record above the limit is cut to it.
    dead_letter_bytes: usize,
    pub(crate) stop: Arc<Stop>,
    pub(crate) stats: Arc<WriterStats>,
    pub(super) pause: Duration,
    /// Records of the groups under way that were refused.
    pub(crate) refusals: usize,
}

impl Publisher {
    pub(crate) fn new(
        config: &BusConfig,
        client: ClientConfig,
        stop: Arc<Stop>,
        stats: Arc<WriterStats>,
    ) -> Result<Self, BusError> {
        let depth = usize::from(config.groups_in_flight.clamp(1, 64));
        Ok(Self {
            names: TopicNames::new(&config.topic_prefix),
            producer: produce_with(&client, &stats)?,
            client,
            groups: Vec::with_capacity(depth),
            depth,
            ledger: LedgerPart::new(config),
            reports: Vec::new(),
            headers: HeaderMaker::default(),
            // Key, headers and batch need some of it too.
            dead_letter_bytes: (config.message_max_bytes as usize).saturating_sub(2048),
            stop,
            stats,
            pause: SHORTEST_PAUSE,
            refusals: 0,
        })
    }

    /// Asks where a topic's partitions are, which librdkafka then remembers; `false` without an answer in time, or without the topic.
    pub(crate) fn learn(&self, topic: Topic, within: Duration) -> bool {
        let answer = self.producer.client().fetch_metadata(Some(self.names.of(topic)), within);
        answer.is_ok_and(|answer| answer.topics().iter().all(|topic| topic.error().is_none()))
    }

    /// The places of all records, in their order.
    pub(crate) fn place_all(&self, all: &mut Vec<Place>) {
        all.clear();
        for (group, records) in (0..).zip(&self.groups) {
            let last = u32::try_from(records.len()).unwrap_or(u32::MAX);
            let records = (0..last).filter(|&index| !records.entry(index).is_ledger());
            all.extend(records.map(|index| Place { group, index }));
        }
    }

    /// Produces records, and the ledger's if asked to, and waits until each has its answer.
    pub(crate) fn try_attempt(
        &mut self,
        places: &[Place],
        form: Form,
        with_ledger: bool,
    ) -> Result<Attempt, Stopped> {
        let mut open = 0;
        for &place in places {
            let entry = self.entry_mut(place);
            entry.answer = Answer::None;
            let Some(form) = form.of(entry) else { continue };
            let sent = self.send(&mut open, |publisher| publisher.produce(place, form))?;
            match sent {
                Ok(()) => {}
                Err(RDKafkaErrorCode::Fatal) => return Ok(Attempt::Broken),
                Err(code) => self.entry_mut(place).answer = Answer::Failed { code, local: true },
            }
        }
        if with_ledger {
            for index in 0..self.ledger.len() {
                self.ledger.set_answer(index, Answer::None, None);
                match self.send(&mut open, |publisher| publisher.produce_ledger(index))? {
                    Ok(()) => {}
                    Err(RDKafkaErrorCode::Fatal) => return Ok(Attempt::Broken),
                    Err(code) => self.ledger.set_answer(index, Answer::Failed { code, local: true }, None),
                }
            }
        }
        while open > 0 {
            open -= self.collect();
            if open > 0 {
                self.check_stop()?;
                if self.producer.client().fatal_error().is_some() {
                    return Ok(Attempt::Broken);
                }
            }
        }
        Ok(Attempt::Answered)
    }

    /// Back-pressure: librdkafka takes more when some of what it has is delivered.
    fn send(
        &mut self,
        open: &mut usize,
        mut produce: impl FnMut(&mut Self) -> Result<(), RDKafkaErrorCode>,
    ) -> Result<Result<(), RDKafkaErrorCode>, Stopped> {
        loop {
            match produce(self) {
                Err(RDKafkaErrorCode::QueueFull) => {
                    *open -= self.collect();
                    self.check_stop()?;
                }
                Ok(()) => {
                    *open += 1;
                    return Ok(Ok(()));
                }
                refused => return Ok(refused),
            }
        }
    }

    fn produce(&mut self, place: Place, form: Form) -> Result<(), RDKafkaErrorCode> {
        let group = &self.groups[usize::from(place.group)];
        let entry = group.entry(place.index);
        let payload = group.bytes(&entry.payload);
        let (topic, payload, headers) = match form {
            Form::Record | Form::Due => (entry.topic, payload, self.headers.record(group, entry)),
            Form::DeadLetter { payload: with_payload } => {
                let kept = if with_payload { payload.len().min(self.dead_letter_bytes) } else { 0 };
                let letter = DeadLetter {
                    reason: match entry.outcome {
                        Some(Outcome::Refused(refusal)) => refusal.as_str(),
                        _ => "",
                    },
                    topic: self.names.of(entry.topic),
                    payload_bytes: payload.len(),
                };
                (Topic::Dlq, &payload[..kept], self.headers.dead_letter(group, entry, &letter))
            }
        };
        let record = BaseRecord::with_opaque_to(self.names.of(topic), place.number())
            .key(group.bytes(&entry.key))
            .payload(payload)
            .headers(headers);
        self.producer.send(record).map_err(|(error, _)| code_of(&error))
    }

    fn produce_ledger(&self, index: usize) -> Result<(), RDKafkaErrorCode> {
        let place = Place { group: LEDGER, index: u32::try_from(index).unwrap_or(u32::MAX) };
        let record =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(self.names.of(Topic::Ledger), place.number())
                .partition(self.ledger.partition())
                .payload(self.ledger.record(index));
        let record = match self.ledger.witness() {
            Some(witness) => record.headers(witness_headers(witness)),
            None => record,
        };
        self.producer.send(record).map_err(|(error, _)| code_of(&error))
    }

    /// Waits a moment for reports, notes them, and returns how many there were.
    pub(crate) fn collect(&mut self) -> usize {
        self.producer.context().take(&mut self.reports, LOOK);
        let collected = self.reports.len();
        for Report { number, error, offset } in self.reports.drain(..) {
            let Place { group, index } = Place::from_number(number);
            let answer = error.map_or(Answer::Taken, |code| Answer::Failed { code, local: false });
            if group == LEDGER {
                self.ledger.set_answer(index as usize, answer, offset);
            } else if let Some(group) = self.groups.get_mut(usize::from(group))
                && (index as usize) < group.len()
            {
                // Nothing else is ever produced, but a foreign number must not end the thread.
                group.entry_mut(index).answer = answer;
            }
        }
        collected
    }

    /// Gives an outcome to what is refused beyond doubt; `true` if it is open yet.
    pub(super) fn judge_failure(&mut self, place: Place, code: RDKafkaErrorCode, local: bool) -> bool {
        let entry = self.entry_mut(place);
        match judge(code) {
            // Said of this record alone: by librdkafka before it was in a batch, or about its topic.
            Verdict::Refuse(refusal) if local || refusal == Refusal::NotAuthorized => {
                self.refuse(place, refusal);
                return false;
            }
            Verdict::Refuse(refusal) => entry.suspected = Some(refusal),
            Verdict::Again => {}
            Verdict::Unclassified => {
                entry.tries += 1;
                if entry.tries >= MOST_TRIES {
                    tracing::error!(%code, "Kafka keeps giving an error that is not known here");
                    self.refuse(place, Refusal::Unclassified);
                    return false;
                }
            }
        }
        true
    }

    pub(crate) fn refuse(&mut self, place: Place, refusal: Refusal) {
        self.entry_mut(place).outcome = Some(Outcome::Refused(refusal));
        self.refusals += 1;
        count(&self.stats.refused, 1);
    }

    pub(crate) fn lose(&mut self, place: Place, code: RDKafkaErrorCode) {
        count(&self.stats.lost_dead_letters, 1);
        self.entry_mut(place).letter = Letter::Lost;
        let topic = self.names.of(self.entry(place).topic);
        tracing::error!(%code, topic, "a refused record could not be put into the dead-letter topic");
    }

    /// After a fatal error an idempotent producer delivers nothing more. A new one takes its place; what the old one had
    /// delivered without a report is produced again under the same id, and readers may see it twice.
    pub(super) fn renew(&mut self) -> Result<(), Stopped> {
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            tracing::error!(%code, reason, "the Kafka producer failed for good and is made anew");
        }
        // Reports that are in already are good: fewer doubles.
        while self.collect() > 0 {}
        loop {
            match produce_with(&self.client, &self.stats) {
                Ok(renewed) => {
                    self.producer = renewed;
                    count(&self.stats.renewed, 1);
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(%error, "no Kafka producer can be made");
                    self.wait_a_while()?;
                }
            }
        }
    }

    pub(crate) fn tell_waiting(&self, topic: Topic, code: RDKafkaErrorCode, records: usize) {
        if let Some(withheld) = self.producer.context().voice().admit() {
            let topic = self.names.of(topic);
            tracing::warn!(%code, topic, records, withheld, "Kafka does not take these records yet, they wait");
        }
    }

    /// The pause keeps brokers that say no at once from being asked in a loop.
    pub(crate) fn wait_a_while(&mut self) -> Result<(), Stopped> {
        let mut left = self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        while !left.is_zero() {
            self.check_stop()?;
            let step = left.min(LOOK);
            std::thread::sleep(step);
            left -= step;
        }
        self.check_stop()
    }

    /// Something succeeded: the next pause is short again.
    pub(crate) const fn succeed(&mut self) {
        self.pause = SHORTEST_PAUSE;
    }

    pub(crate) fn check_stop(&self) -> Result<(), Stopped> {
        if self.stop.is_over() { Err(Stopped) } else { Ok(()) }
    }

    pub(crate) fn entry(&self, place: Place) -> &Entry {
        self.groups[usize::from(place.group)].entry(place.index)
    }

    pub(crate) fn entry_mut(&mut self, place: Place) -> &mut Entry {
        self.groups[usize::from(place.group)].entry_mut(place.index)
    }
}

pub(crate) fn code_of(error: &rdkafka::error::KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}
