//! How groups become final in one transaction: all their records, the dead letters of those refused, and the ledger's record, or none.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use super::SlotLost;
use crate::Topic;
use crate::group::{Answer, Letter, Outcome, Refusal};
use crate::writer::{Attempt, Form, Place, Publisher, Stopped, Verdict, code_of, count, judge};

/// How long one call into librdkafka may take before the thread looks whether it is to stop.
const CALL: Duration = Duration::from_millis(500);

/// How long librdkafka may take to put down what it has reported.
const PUT_DOWN: Duration = Duration::from_micros(20);

/// Batches that are tried in one transaction when a culprit is looked for.
const BATCHES: usize = 16;

/// Why no more is committed.
#[derive(Debug)]
pub(super) enum End {
    /// It was asked for.
    Stopped,
    /// The slot is not ours any more, or we cannot know.
    Lost(SlotLost),
}

impl From<Stopped> for End {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// Records produced at once before their answers are waited for: all, unless a topic takes only small batches.
#[derive(Debug, Clone, Copy)]
struct Rounds(usize);

impl Publisher {
    /// The one place where groups become final exactly once. When it returns `Ok`, the transaction with all of it is committed.
    pub(super) fn commit_in_transaction(&mut self, all: &mut Vec<Place>) -> Result<(), End> {
        self.place_all(all);
        self.compose_ledger();
        self.run_transaction(all)?;
        let mut committed = 0;
        for entry in self.groups.iter_mut().flat_map(|group| group.entries_mut()) {
            if entry.outcome.is_none() {
                entry.outcome = Some(Outcome::Committed);
                committed += usize::from(!entry.is_ledger());
            }
        }
        count(&self.stats.committed, committed);
        Ok(())
    }

    /// Commits the records and whatever is composed for the ledger, however many attempts it takes.
    pub(super) fn run_transaction(&mut self, all: &[Place]) -> Result<(), End> {
        let mut rounds = Rounds(usize::MAX);
        loop {
            self.begin()?;
            let refused = self.refusals;
            let filled = self.fill_transaction(all, rounds)?;
            // The number of a refused record must not be in the ledger: whoever adopts the slot would acknowledge its repeat.
            let is_true = self.refusals == refused;
            if filled && is_true {
                self.commit()?;
                self.succeed();
                return Ok(());
            }
            self.abort()?;
            count(&self.stats.repeated, all.len());
            if filled {
                self.compose_ledger();
                continue;
            }
            let suspected = self.suspects(all);
            if suspected.is_empty() {
                self.tell_transaction_waiting(all);
                self.wait_a_while()?;
            } else {
                self.convict(suspected, &mut rounds)?;
                self.compose_ledger();
            }
        }
    }

    /// Produces everything; `true` if all of it is taken.
    fn fill_transaction(&mut self, all: &[Place], rounds: Rounds) -> Result<bool, End> {
        let mut left = all;
        loop {
            let (now, later) = left.split_at(left.len().min(rounds.0));
            left = later;
            self.try_all(now, left.is_empty())?;
            // What librdkafka itself does not take leaves the transaction whole: its dead letter goes the same way.
            loop {
                let refused: Vec<_> =
                    now.iter().copied().filter(|&place| self.step_down_if_local(place)).collect();
                if refused.is_empty() {
                    break;
                }
                self.try_all(&refused, false)?;
            }
            if now.iter().any(|&place| !self.is_taken(place)) {
                return Ok(false);
            }
            if left.is_empty() {
                return Ok(self.ledger.failure().is_none());
            }
        }
    }

    fn try_all(&mut self, places: &[Place], with_ledger: bool) -> Result<(), End> {
        match self.try_attempt(places, Form::Due, with_ledger)? {
            Attempt::Answered => Ok(()),
            Attempt::Broken => Err(End::Lost(self.fatal())),
        }
    }

    fn is_taken(&self, place: Place) -> bool {
        let entry = self.entry(place);
        matches!(entry.answer, Answer::Taken) || entry.letter == Letter::Lost
    }

    /// Whether librdkafka refused the record for itself, and something of it is left to be tried.
    fn step_down_if_local(&mut self, place: Place) -> bool {
        match self.entry(place).answer {
            Answer::Failed { code, local: true } => match judge(code) {
                Verdict::Refuse(refusal) => {
                    self.step_down(place, code, refusal);
                    self.entry(place).letter != Letter::Lost
                }
                Verdict::Again | Verdict::Unclassified => false,
            },
            _ => false,
        }
    }

    /// A record becomes a dead letter, that one loses its payload, and then it is lost.
    fn step_down(&mut self, place: Place, code: RDKafkaErrorCode, refusal: Refusal) {
        let entry = self.entry_mut(place);
        match (entry.outcome, entry.letter) {
            (None, _) => self.refuse(place, refusal),
            (Some(_), Letter::Whole) if refusal == Refusal::TooLarge => entry.letter = Letter::Bare,
            (Some(_), _) => self.lose(place, code),
        }
    }

    /// Those that a broker refused, alone or for another one in their batch.
    fn suspects(&mut self, all: &[Place]) -> Vec<Place> {
        let mut suspected = Vec::new();
        for &place in all {
            let Answer::Failed { code, local } = self.entry(place).answer else { continue };
            match judge(code) {
                Verdict::Refuse(_) if !local => suspected.push(place),
                // After some time it is tried alone, and then refused: one code without a place must not stop everything.
                Verdict::Unclassified if self.is_tried_out(place) => suspected.push(place),
                _ => {}
            }
        }
        suspected
    }

    /// Finds the culprits among records that were refused together, in transactions that are aborted: what is found innocent gets in
    /// with the next one, in its order.
    ///
    /// A transaction that fails costs librdkafka a new epoch of its producer, half a second or more; one more batch costs a round trip.
    /// So each transaction tries many batches, one after the other, and the one that fails is looked at more closely.
    fn convict(&mut self, suspected: Vec<Place>, rounds: &mut Rounds) -> Result<(), End> {
        let mut parts = vec![suspected];
        let mut largest = 1;
        while let Some(mut part) = parts.pop() {
            let size = part.len().div_ceil(BATCHES).max(1);
            let innocent = self.probe(&part, size)?;
            if innocent > 0 {
                largest = largest.max(size.min(innocent));
            }
            part.drain(..innocent);
            if part.is_empty() {
                continue;
            }
            let later = part.split_off(size.min(part.len()));
            let answers = part.iter().map(|&place| self.entry(place).answer);
            let failed = answers.filter_map(|answer| match answer {
                Answer::Failed { code, .. } => Some((code, judge(code))),
                Answer::None | Answer::Taken => None,
            });
            let failed = failed.into_iter().find(|(_, verdict)| *verdict != Verdict::Again);
            let again = match (failed, part.as_slice()) {
                // Nothing was said of the records themselves.
                (None, _) => {
                    self.wait_a_while()?;
                    true
                }
                (Some((code, Verdict::Refuse(refusal))), &[alone]) => {
                    self.step_down(alone, code, refusal);
                    false
                }
                (Some((code, _)), &[alone]) => {
                    self.step_down(alone, code, Refusal::Unclassified);
                    false
                }
                (Some(_), _) => true,
            };
            let left = [Some(later), again.then_some(part)];
            parts.extend(left.into_iter().flatten().filter(|part| !part.is_empty()));
        }
        rounds.0 = rounds.0.min(largest);
        Ok(())
    }

    /// Produces records in batches of a size until one fails, and takes it all back; returns how many were taken before.
    fn probe(&mut self, part: &[Place], size: usize) -> Result<usize, End> {
        self.begin()?;
        let mut innocent = 0;
        for batch in part.chunks(size) {
            self.try_all(batch, false)?;
            if batch.iter().any(|&place| !self.is_taken(place)) {
                break;
            }
            innocent += batch.len();
        }
        self.abort()?;
        Ok(innocent)
    }

    fn tell_transaction_waiting(&self, all: &[Place]) {
        let failed = all.iter().map(|&place| self.entry(place)).map(|entry| (entry.topic, entry.answer));
        let failed = failed.chain(self.ledger.failure().map(|answer| (Topic::Ledger, answer)));
        let mut codes = failed.filter_map(|(topic, answer)| match answer {
            Answer::Failed { code, .. } => Some((topic, code)),
            Answer::None | Answer::Taken => None,
        });
        // Most were only purged with the transaction.
        let purged = |code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        let first = codes.next();
        let telling =
            first.filter(|(_, code)| !purged(*code)).or_else(|| codes.find(|(_, code)| !purged(*code)));
        if let Some((topic, code)) = telling.or(first) {
            self.tell_waiting(topic, code, all.len());
        }
    }

    fn begin(&mut self) -> Result<(), End> {
        self.check_stop()?;
        self.producer.begin_transaction().map_err(|error| End::Lost(self.lost_by(error)))
    }

    /// From here on the outcome is not known until the coordinator answers.
    fn commit(&mut self) -> Result<(), End> {
        self.await_put_down();
        loop {
            match self.producer.commit_transaction(CALL) {
                Ok(()) => return Ok(()),
                Err(error) if is_retriable(&error) => self.check_stop()?,
                Err(error) => return Err(End::Lost(self.lost_by(error))),
            }
        }
    }

    fn abort(&mut self) -> Result<(), End> {
        count(&self.stats.aborted, 1);
        loop {
            match self.producer.abort_transaction(CALL) {
                Ok(()) => break,
                Err(error) if is_retriable(&error) => self.check_stop()?,
                Err(error) => return Err(End::Lost(self.lost_by(error))),
            }
        }
        Ok(())
    }

    /// One attempt to leave no open transaction behind, for readers' sake; the next owner's fence does the rest.
    pub(super) fn abort_once(&self) {
        if let Err(error) = self.producer.abort_transaction(CALL) {
            tracing::debug!(%error, "an open transaction is left to its time-out");
        }
    }

    /// A record that was just reported counts as under way until librdkafka's thread has put it down; a commit that begins before
    /// waits in steps of a tenth of a second.
    #[expect(clippy::disallowed_methods, reason = "the writer is a driver: it waits for librdkafka")]
    fn await_put_down(&self) {
        let until = Instant::now() + CALL;
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            std::thread::sleep(PUT_DOWN);
        }
    }

    fn lost_by(&self, error: KafkaError) -> SlotLost {
        let code = code_of(&error);
        match code {
            RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::InvalidProducerEpoch => SlotLost::Fenced,
            _ if self.producer.client().fatal_error().is_some() => self.fatal(),
            _ => SlotLost::Unknown { source: error },
        }
    }

    pub(super) fn fatal(&self) -> SlotLost {
        match self.producer.client().fatal_error() {
            Some((
                RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
                _,
            )) => SlotLost::Fenced,
            Some((code, reason)) => SlotLost::Fatal { code: code.to_string(), reason },
            None => SlotLost::Fatal { code: RDKafkaErrorCode::Fatal.to_string(), reason: String::new() },
        }
    }
}

pub(super) fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        // rdkafka's own flush before the call.
        KafkaError::Flush(_) => true,
        _ => false,
    }
}
