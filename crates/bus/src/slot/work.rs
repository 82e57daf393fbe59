//! The thread of a slot's writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::transaction::End;
use super::{Gate, SlotSettle};
use crate::group::{Group, Outcome};
use crate::writer::{Place, Publisher, count};
use crate::{Guarantee, Topic};

/// How long brokers have for an answer about a topic; without one, the first records find out.
const LEARN_WITHIN: Duration = Duration::from_millis(500);

/// How often a slot commits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Pause between two commits.
    pub(super) group_interval: Duration,
    /// A slot without work says so this often: its journal is never without a record that retention keeps, and its transactional id
    /// stays known.
    pub(super) heartbeat: Duration,
    /// A slot without work says this soon what is new of the store.
    pub(super) news: Duration,
}

pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) guarantee: Guarantee,
    pub(super) pace: Pace,
    pub(super) inbox: Receiver<Group>,
    pub(super) gate: Arc<Gate>,
    pub(super) position: Arc<AtomicI64>,
    pub(super) settle: Box<dyn SlotSettle>,
}

/// What there is to do.
enum Due {
    Groups,
    Heartbeat,
    Nothing,
}

impl Work {
    /// Returns the number of records without an outcome at the end.
    pub(super) fn run(mut self) -> usize {
        // The first record after an adoption is waited for: it must not wait for where its topic is.
        for topic in [Topic::Telemetry, Topic::Lifecycle] {
            self.publisher.learn(topic, LEARN_WITHIN);
        }
        let mut all = Vec::new();
        let mut last = now();
        loop {
            let due = self.gather(last);
            let begun = now();
            self.publisher.ledger.testify(self.settle.witness());
            let done = match due {
                Due::Groups => self.commit(&mut all),
                Due::Heartbeat => self.beat(),
                Due::Nothing => return 0,
            };
            if let Err(end) = done {
                return self.end(end);
            }
            last = match self.guarantee {
                // The coordinator ends the transaction behind our back; one that begins before waits 20 ms and more.
                Guarantee::ExactlyOnce => now(),
                Guarantee::AtLeastOnce => begun,
            };
            self.note_position();
            for group in self.publisher.groups.drain(..) {
                count(&self.publisher.stats.groups, 1);
                self.settle.settle(group);
            }
        }
    }

    /// Waits for groups, and for company of the first one until the interval since the last commit is over.
    fn gather(&mut self, last: Instant) -> Due {
        loop {
            let wait = self.pace.heartbeat.saturating_sub(last.elapsed()).min(self.pace.news);
            match self.inbox.recv_timeout(wait) {
                Ok(first) => {
                    self.publisher.groups.push(first);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    // What the last record said of the store.
                    let is_news = self.settle.witness() != self.publisher.ledger.witness();
                    let since = last.elapsed();
                    if since >= self.pace.heartbeat || (is_news && since >= self.pace.news) {
                        return Due::Heartbeat;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Due::Nothing,
            }
        }
        while self.publisher.groups.len() < self.publisher.depth {
            match self.inbox.recv_timeout(self.pace.group_interval.saturating_sub(last.elapsed())) {
                Ok(next) => self.publisher.groups.push(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        Due::Groups
    }

    fn commit(&mut self, all: &mut Vec<Place>) -> Result<(), End> {
        match self.guarantee {
            Guarantee::ExactlyOnce => self.publisher.commit_in_transaction(all),
            Guarantee::AtLeastOnce => {
                self.publisher.commit_groups(all)?;
                self.publisher.compose_ledger();
                self.publisher.commit_ledger()?;
                self.publisher.settle_ledger();
                Ok(())
            }
        }
    }

    fn beat(&mut self) -> Result<(), End> {
        self.publisher.ledger.compose_heartbeat();
        match self.guarantee {
            Guarantee::ExactlyOnce => self.publisher.run_transaction(&[])?,
            Guarantee::AtLeastOnce => self.publisher.commit_ledger()?,
        }
        count(&self.publisher.stats.heartbeats, 1);
        Ok(())
    }

    /// Tells each group where a snapshot that knows it may go on. One record holds the entries of all groups: only whoever knows the last
    /// group knows all of it.
    fn note_position(&mut self) {
        let Some((first, last)) = self.publisher.ledger.offsets() else { return };
        self.position.store(last, Ordering::Release);
        if let Some((last_group, others)) = self.publisher.groups.split_last_mut() {
            others.iter_mut().for_each(|group| group.set_snapshot_offset(Some(first)));
            last_group.set_snapshot_offset(Some(last + 1));
        }
    }

    /// Gives back what is still open, as unknown, the groups in the inbox too.
    fn end(mut self, end: End) -> usize {
        // From here on nobody can send, so nothing is left behind in the inbox.
        self.gate.close();
        if matches!(end, End::Stopped) && self.guarantee == Guarantee::ExactlyOnce {
            self.publisher.abort_once();
        }
        let open = std::mem::take(&mut self.publisher.groups);
        let mut unknown = 0;
        for mut group in open.into_iter().chain(self.inbox.iter()) {
            // What was refused, or acknowledged without the ledger, is not final either.
            group.entries_mut().iter_mut().for_each(|entry| entry.outcome = None);
            unknown += group.outcomes().filter(|(_, outcome)| *outcome == Outcome::Unknown).count();
            self.settle.settle(group);
        }
        if let End::Lost(why) = end {
            tracing::warn!(slot = self.publisher.ledger.partition(), %why, unknown, "a slot is lost to this pod: whoever should have it adopts it, and nothing acknowledged is lost");
            self.settle.lost(why);
        }
        unknown
    }
}

#[expect(clippy::disallowed_methods, reason = "the writer is a driver: its interval is on the wall's clock")]
fn now() -> Instant {
    Instant::now()
}
