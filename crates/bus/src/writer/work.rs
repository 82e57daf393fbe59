//! The thread of a writer without a slot.

use std::sync::mpsc::Receiver;

use super::publisher::Publisher;
use super::{Settle, count};
use crate::group::{Group, Outcome};

pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) inbox: Receiver<Group>,
    pub(super) settle: Box<dyn Settle>,
}

impl Work {
    /// Returns the number of records without an outcome at the end.
    pub(super) fn run(mut self) -> usize {
        let mut all = Vec::new();
        let publisher = &mut self.publisher;
        while let Ok(first) = self.inbox.recv() {
            publisher.groups.push(first);
            while publisher.groups.len() < publisher.depth
                && let Ok(next) = self.inbox.try_recv()
            {
                publisher.groups.push(next);
            }
            if publisher.commit_groups(&mut all).is_err() {
                return self.give_up();
            }
            for group in publisher.groups.drain(..) {
                count(&publisher.stats.groups, 1);
                self.settle.settle(group);
            }
        }
        0
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
