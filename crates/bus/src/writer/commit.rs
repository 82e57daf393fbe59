//! Hot path: no allocation of ours per record after warm-up, no log unless something fails.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _};

use super::judge::{Verdict, judge};
use super::producer::{Producer, Report, produce_with};
use super::{Settle, Stop, WriterStats, count};
use crate::group::{Answer, Group, Outcome, Refusal};
use crate::headers::{DeadLetter, HeaderMaker};
use crate::{BusConfig, BusError, Topic, TopicNames};

/// How long the thread sleeps at most before it looks whether it is to stop. Reports wake it earlier.
const LOOK: Duration = Duration::from_millis(50);

/// Pause before records are produced anew: doubled from the first up to the second while nothing succeeds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Times an error without a verdict is met before the record is refused.
const MOST_TRIES: u8 = 10;

/// The time for a stop was over: what has no outcome keeps none.
struct Stopped;

/// A record of the groups under way: which group, which record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    group: u8,
    index: u32,
}

/// Bits of the index in a report's number.
const INDEX_BITS: u32 = 24;

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
enum Form {
    /// The record, to its topic.
    Record,
    /// A copy to the dead-letter topic, with or without its payload.
    DeadLetter { payload: bool },
}

/// What became of an attempt at some records.
enum Attempt {
    /// Each record has its answer.
    Answered,
    /// The producer failed for good under way; records without an answer may be in the log or not.
    Broken,
}

pub(super) struct Work {
    client: ClientConfig,
    names: TopicNames,
    producer: Producer,
    inbox: Receiver<Group>,
    /// Groups that are committed together.
    groups: Vec<Group>,
    depth: usize,
    reports: Vec<Report>,
    headers: HeaderMaker,
    /// Largest payload of a dead letter; a record above the limit is cut to it.
    dead_letter_bytes: usize,
    settle: Box<dyn Settle>,
    stop: Arc<Stop>,
    stats: Arc<WriterStats>,
    pause: Duration,
    /// Records of the groups under way that were refused.
    refusals: usize,
}

impl Work {
    pub(super) fn new(
        config: &BusConfig,
        client: ClientConfig,
        inbox: Receiver<Group>,
        settle: Box<dyn Settle>,
        stop: Arc<Stop>,
        stats: Arc<WriterStats>,
    ) -> Result<Self, BusError> {
        let depth = usize::from(config.groups_in_flight.clamp(1, 64));
        Ok(Self {
            names: TopicNames::new(&config.topic_prefix),
            producer: produce_with(&client, &stats)?,
            client,
            inbox,
            groups: Vec::with_capacity(depth),
            depth,
            reports: Vec::new(),
            headers: HeaderMaker::default(),
            // Key, headers and batch need some of it too.
            dead_letter_bytes: (config.message_max_bytes as usize).saturating_sub(2048),
            settle,
            stop,
            stats,
            pause: SHORTEST_PAUSE,
            refusals: 0,
        })
    }

    /// Returns the number of records without an outcome at the end.
    pub(super) fn run(mut self) -> usize {
        let mut all = Vec::new();
        while let Ok(first) = self.inbox.recv() {
            self.groups.push(first);
            while self.groups.len() < self.depth
                && let Ok(next) = self.inbox.try_recv()
            {
                self.groups.push(next);
            }
            if self.commit_group(&mut all).is_err() {
                return self.give_up();
            }
            for group in self.groups.drain(..) {
                count(&self.stats.groups, 1);
                self.settle.settle(group);
            }
        }
        0
    }

    /// The one place where groups become final: every record has been acknowledged by Kafka or refused for good, and every
    /// refused one lies in the dead-letter topic, when it returns.
    fn commit_group(&mut self, all: &mut Vec<Place>) -> Result<(), Stopped> {
        all.clear();
        for (group, records) in (0..).zip(&self.groups) {
            let last = u32::try_from(records.len()).unwrap_or(u32::MAX);
            all.extend((0..last).map(|index| Place { group, index }));
        }
        // Most groups pass here at once, without allocating.
        self.refusals = 0;
        self.attempt(all, Form::Record)?;
        let rest = self.judge_records(all);
        if !rest.is_empty() {
            self.settle_rest(rest)?;
        }
        if self.refusals > 0 {
            self.bury_refused(all)?;
        }
        Ok(())
    }

    /// Produces records again until each has an outcome. Brokers refuse a batch as a whole for one record in it: what they
    /// refused is halved until the culprit stands alone.
    fn settle_rest(&mut self, rest: Vec<Place>) -> Result<(), Stopped> {
        let mut parts = vec![rest];
        while let Some(mut part) = parts.pop() {
            let suspected = part.iter().any(|place| self.suspicion(*place).is_some());
            if suspected && part.len() > 1 {
                // The earlier half first, to keep the order.
                parts.push(part.split_off(part.len() / 2));
            } else if !suspected {
                self.tell_waiting(&part);
                self.wait_a_while()?;
            }
            count(&self.stats.repeated, part.len());
            self.attempt(&part, Form::Record)?;
            let mut left = self.judge_records(&part);
            if let [alone] = part.as_slice()
                && let Some(refusal) = self.suspicion(*alone)
            {
                self.refuse(*alone, refusal);
                left.clear();
            }
            if left.len() < part.len() {
                self.pause = SHORTEST_PAUSE;
            }
            if !left.is_empty() {
                parts.push(left);
            }
        }
        Ok(())
    }

    fn tell_waiting(&self, part: &[Place]) {
        let Some(&first) = part.first() else { return };
        let entry = self.entry(first);
        if let Answer::Failed { code, .. } = entry.answer
            && let Some(withheld) = self.producer.context().voice().admit()
        {
            let topic = self.names.of(entry.topic);
            tracing::warn!(%code, topic, records = part.len(), withheld, "Kafka does not take these records yet, they wait");
        }
    }

    /// Gives an outcome to what was taken, or refused beyond doubt; returns the others in their order.
    fn judge_records(&mut self, places: &[Place]) -> Vec<Place> {
        let mut rest = Vec::new();
        let mut committed = 0;
        for &place in places {
            let entry = self.groups[usize::from(place.group)].entry_mut(place.index);
            if entry.outcome.is_some() {
                continue;
            }
            entry.suspected = None;
            match entry.answer {
                Answer::Taken => {
                    entry.outcome = Some(Outcome::Committed);
                    committed += 1;
                }
                Answer::Failed { code, local } => match judge(code) {
                    // Said of this record alone: by librdkafka before it was in a batch, or about its topic.
                    Verdict::Refuse(refusal) if local || refusal == Refusal::NotAuthorized => {
                        self.refuse(place, refusal);
                    }
                    Verdict::Refuse(refusal) => {
                        entry.suspected = Some(refusal);
                        rest.push(place);
                    }
                    Verdict::Again => rest.push(place),
                    Verdict::Unclassified => {
                        entry.tries += 1;
                        if entry.tries >= MOST_TRIES {
                            tracing::error!(%code, "Kafka keeps giving an error that is not known here");
                            self.refuse(place, Refusal::Unclassified);
                        } else {
                            rest.push(place);
                        }
                    }
                },
                Answer::None => rest.push(place),
            }
        }
        count(&self.stats.committed, committed);
        rest
    }

    fn refuse(&mut self, place: Place, refusal: Refusal) {
        self.groups[usize::from(place.group)].entry_mut(place.index).outcome =
            Some(Outcome::Refused(refusal));
        self.refusals += 1;
        count(&self.stats.refused, 1);
    }

    /// Puts a copy of each refused record into the dead-letter topic. What that topic does not take either is counted and told;
    /// its device gets no acknowledgement in any case.
    fn bury_refused(&mut self, all: &[Place]) -> Result<(), Stopped> {
        let is_refused = |place: &&Place| matches!(self.entry(**place).outcome, Some(Outcome::Refused(_)));
        let refused: Vec<_> = all.iter().filter(is_refused).copied().collect();
        let mut parts: Vec<(Vec<Place>, bool)> = vec![(refused, true)];
        while let Some((part, payload)) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            self.attempt(&part, Form::DeadLetter { payload })?;
            let mut later = Vec::new();
            for &place in &part {
                let entry = self.groups[usize::from(place.group)].entry_mut(place.index);
                let Answer::Failed { code, local } = entry.answer else {
                    // Without an answer: the producer was renewed, which says nothing about the letter.
                    if matches!(entry.answer, Answer::None) {
                        later.push(place);
                    }
                    continue;
                };
                match judge(code) {
                    Verdict::Refuse(Refusal::TooLarge) if payload && (local || part.len() == 1) => {
                        parts.push((vec![place], false));
                    }
                    Verdict::Refuse(Refusal::TooLarge | Refusal::InvalidRecord) if part.len() > 1 => {
                        parts.push((vec![place], payload));
                    }
                    Verdict::Refuse(_) => self.lose(place, code),
                    Verdict::Again | Verdict::Unclassified => {
                        entry.tries = entry.tries.saturating_add(1);
                        if entry.tries >= MOST_TRIES { self.lose(place, code) } else { later.push(place) }
                    }
                }
            }
            if !later.is_empty() {
                self.wait_a_while()?;
                parts.push((later, payload));
            }
        }
        Ok(())
    }

    fn lose(&self, place: Place, code: RDKafkaErrorCode) {
        count(&self.stats.lost_dead_letters, 1);
        let entry = self.entry(place);
        tracing::error!(%code, topic = self.names.of(entry.topic), "a refused record could not be put into the dead-letter topic");
    }

    /// Produces records and waits until each has its answer. A producer that broke is replaced.
    fn attempt(&mut self, places: &[Place], form: Form) -> Result<(), Stopped> {
        match self.try_attempt(places, form)? {
            Attempt::Answered => Ok(()),
            Attempt::Broken => self.renew(),
        }
    }

    fn try_attempt(&mut self, places: &[Place], form: Form) -> Result<Attempt, Stopped> {
        let mut open = 0;
        for &place in places {
            self.groups[usize::from(place.group)].entry_mut(place.index).answer = Answer::None;
            loop {
                match self.produce(place, form) {
                    Ok(()) => {
                        open += 1;
                        break;
                    }
                    // Back-pressure: librdkafka takes more when some of it is delivered.
                    Err(RDKafkaErrorCode::QueueFull) => {
                        open -= self.collect();
                        self.check_stop()?;
                    }
                    Err(RDKafkaErrorCode::Fatal) => return Ok(Attempt::Broken),
                    Err(code) => {
                        let answer = Answer::Failed { code, local: true };
                        self.groups[usize::from(place.group)].entry_mut(place.index).answer = answer;
                        break;
                    }
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

    fn produce(&mut self, place: Place, form: Form) -> Result<(), RDKafkaErrorCode> {
        let group = &self.groups[usize::from(place.group)];
        let entry = group.entry(place.index);
        let payload = group.bytes(&entry.payload);
        let (topic, payload, headers) = match form {
            Form::Record => (entry.topic, payload, self.headers.record(group, entry)),
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
        self.producer
            .send(record)
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown))
    }

    /// Waits a moment for reports, notes them, and returns how many there were.
    fn collect(&mut self) -> usize {
        self.producer.context().take(&mut self.reports, LOOK);
        let collected = self.reports.len();
        for (number, error) in self.reports.drain(..) {
            let Place { group, index } = Place::from_number(number);
            // Nothing else is ever produced, but a foreign number must not end the thread.
            if let Some(group) = self.groups.get_mut(usize::from(group))
                && (index as usize) < group.len()
            {
                group.entry_mut(index).answer =
                    error.map_or(Answer::Taken, |code| Answer::Failed { code, local: false });
            }
        }
        collected
    }

    /// After a fatal error an idempotent producer delivers nothing more. A new one takes its place; what the old one had
    /// delivered without a report is produced again under the same id, and readers may see it twice.
    fn renew(&mut self) -> Result<(), Stopped> {
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

    /// The pause keeps brokers that say no at once from being asked in a loop.
    fn wait_a_while(&mut self) -> Result<(), Stopped> {
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

    fn check_stop(&self) -> Result<(), Stopped> {
        if self.stop.is_over() { Err(Stopped) } else { Ok(()) }
    }

    fn entry(&self, place: Place) -> &crate::group::Entry {
        self.groups[usize::from(place.group)].entry(place.index)
    }

    fn suspicion(&self, place: Place) -> Option<Refusal> {
        let entry = self.entry(place);
        entry.suspected.filter(|_| entry.outcome.is_none())
    }

    /// Gives back what is still open, as unknown, the groups in the inbox too.
    fn give_up(mut self) -> usize {
        self.note_answers();
        let waiting = std::iter::from_fn(|| self.inbox.try_recv().ok());
        let rest: Vec<_> = self.groups.drain(..).chain(waiting).collect();
        let mut unknown = 0;
        for group in rest {
            unknown += group.outcomes().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
            self.settle.settle(group);
        }
        unknown
    }

    /// What Kafka has acknowledged is committed, though the group as a whole was given up.
    fn note_answers(&mut self) {
        let mut committed = 0;
        for group in &mut self.groups {
            for index in 0..u32::try_from(group.len()).unwrap_or(u32::MAX) {
                let entry = group.entry_mut(index);
                if entry.outcome.is_none() && matches!(entry.answer, Answer::Taken) {
                    entry.outcome = Some(Outcome::Committed);
                    committed += 1;
                }
            }
        }
        count(&self.stats.committed, committed);
    }
}
