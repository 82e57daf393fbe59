//! The thread of a writer without a slot.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::publisher::Publisher;
use super::{Settle, count};
use crate::Topic;
use crate::group::{Group, Outcome};

/// How long brokers have for one answer about a topic, and the pause before they are asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What this writer writes to.
const TOPICS: [Topic; 4] = [Topic::Telemetry, Topic::Lifecycle, Topic::Security, Topic::Dlq];

pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) inbox: Receiver<Group>,
    pub(super) settle: Box<dyn Settle>,
}

impl Work {
    /// Returns the number of records without an outcome at the end.
    pub(super) fn run(mut self) -> usize {
        let mut all = Vec::new();
        let mut early = self.warm();
        let mut warm = early.is_none();
        let publisher = &mut self.publisher;
        while let Some(first) = early.take().or_else(|| self.inbox.recv().ok()) {
            publisher.groups.push(first);
            while publisher.groups.len() < publisher.depth
                && let Ok(next) = self.inbox.try_recv()
            {
                publisher.groups.push(next);
            }
            if publisher.commit_groups(&mut all).is_err() {
                return self.give_up();
            }
            if !warm {
                warm = true;
                publisher.stats.set_warm();
            }
            for group in publisher.groups.drain(..) {
                count(&publisher.stats.groups, 1);
                self.settle.settle(group);
            }
        }
        0
    }

    /// Learns where the topics are before there is something to write. The first answer makes librdkafka ask for the producer's id, over
    /// the connection that the next questions take too, so that it is there when they are answered.
    ///
    /// A group that comes earlier is given back: it waits for the same things inside librdkafka.
    fn warm(&self) -> Option<Group> {
        for topic in TOPICS {
            while !self.publisher.learn(topic, ANSWER_WITHIN) {
                match self.inbox.recv_timeout(ASK_AGAIN) {
                    Ok(group) => return Some(group),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        }
        self.publisher.stats.set_warm();
        None
    }

    /// Gives back what is still open, as unknown, the groups in the inbox too.
    fn give_up(mut self) -> usize {
        self.publisher.note_answers();
        let waiting = std::iter::from_fn(|| self.inbox.try_recv().ok());
        let rest: Vec<_> = self.publisher.groups.drain(..).chain(waiting).collect();
        let mut unknown = 0;
        for group in rest {
            unknown += group.outcomes().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
            self.settle.settle(group);
        }
        unknown
    }
}
