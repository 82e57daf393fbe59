//! How groups become final without transactions: every record is acknowledged by itself, and the ledger's last.

use super::count;
use super::judge::{Verdict, judge};
use super::publisher::{Attempt, Form, MOST_TRIES, Place, Publisher, Stopped};
use crate::Topic;
use crate::group::{Answer, Outcome, Refusal};

impl Publisher {
    /// The one place where groups become final at least once: every record has been acknowledged by Kafka or refused for good, and
    /// every refused one lies in the dead-letter topic, when it returns.
    pub(crate) fn commit_groups(&mut self, all: &mut Vec<Place>) -> Result<(), Stopped> {
        self.place_all(all);
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

    /// Composes the ledger's record out of the entries of all groups.
    pub(crate) fn compose_ledger(&mut self) {
        self.ledger.compose(&self.groups);
    }

    /// The ledger's record is acknowledged: so are its entries.
    pub(crate) fn settle_ledger(&mut self) {
        let entries = self.groups.iter_mut().flat_map(|group| group.entries_mut());
        entries.filter(|entry| entry.is_ledger()).for_each(|entry| entry.outcome = Some(Outcome::Committed));
    }

    /// Produces what is composed for the ledger until it is acknowledged. What it says is final by then: it is said however long it
    /// takes.
    pub(crate) fn commit_ledger(&mut self) -> Result<(), Stopped> {
        loop {
            match self.try_attempt(&[], Form::Record, true)? {
                Attempt::Broken => self.renew()?,
                Attempt::Answered => match self.ledger.failure() {
                    None => {
                        self.succeed();
                        return Ok(());
                    }
                    Some(Answer::Failed { code, .. }) => {
                        self.tell_waiting(Topic::Ledger, code, self.ledger.len())
                    }
                    Some(_) => {}
                },
            }
            self.wait_a_while()?;
        }
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
                self.tell_part_waiting(&part);
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
                self.succeed();
            }
            if !left.is_empty() {
                parts.push(left);
            }
        }
        Ok(())
    }

    fn tell_part_waiting(&self, part: &[Place]) {
        let Some(&first) = part.first() else { return };
        if let Answer::Failed { code, .. } = self.entry(first).answer {
            self.tell_waiting(self.entry(first).topic, code, part.len());
        }
    }

    /// Gives an outcome to what was taken, or refused beyond doubt; returns the others in their order.
    fn judge_records(&mut self, places: &[Place]) -> Vec<Place> {
        let mut rest = Vec::new();
        let mut committed = 0;
        for &place in places {
            let entry = self.entry_mut(place);
            if entry.outcome.is_some() {
                continue;
            }
            entry.suspected = None;
            match entry.answer {
                Answer::Taken => {
                    entry.outcome = Some(Outcome::Committed);
                    committed += 1;
                }
                Answer::Failed { code, local } => {
                    if self.judge_failure(place, code, local) {
                        rest.push(place);
                    }
                }
                Answer::None => rest.push(place),
            }
        }
        count(&self.stats.committed, committed);
        rest
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
                let Answer::Failed { code, local } = self.entry(place).answer else {
                    // Without an answer: the producer was renewed, which says nothing about the letter.
                    if matches!(self.entry(place).answer, Answer::None) {
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
                    Verdict::Again | Verdict::Unclassified if self.is_tried_out(place) => {
                        self.lose(place, code)
                    }
                    Verdict::Again | Verdict::Unclassified => later.push(place),
                }
            }
            if !later.is_empty() {
                self.wait_a_while()?;
                parts.push((later, payload));
            }
        }
        Ok(())
    }

    /// Counts a failure of a dead letter; whether it was the last one that is met.
    pub(crate) fn is_tried_out(&mut self, place: Place) -> bool {
        let entry = self.entry_mut(place);
        entry.tries = entry.tries.saturating_add(1);
        entry.tries >= MOST_TRIES
    }

    /// Produces records and waits until each has its answer. A producer that broke is replaced.
    fn attempt(&mut self, places: &[Place], form: Form) -> Result<(), Stopped> {
        match self.try_attempt(places, form, false)? {
            Attempt::Answered => Ok(()),
            Attempt::Broken => self.renew(),
        }
    }

    fn suspicion(&self, place: Place) -> Option<Refusal> {
        let entry = self.entry(place);
        entry.suspected.filter(|_| entry.outcome.is_none())
    }

    /// What Kafka has acknowledged is committed, though the group as a whole was given up.
    pub(crate) fn note_answers(&mut self) {
        let mut committed = 0;
        for entry in self.groups.iter_mut().flat_map(|group| group.entries_mut()) {
            if entry.outcome.is_none() && matches!(entry.answer, Answer::Taken) {
                entry.outcome = Some(Outcome::Committed);
                committed += 1;
            }
        }
        count(&self.stats.committed, committed);
    }
}
