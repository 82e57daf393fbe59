//! PACKET PATH: no lock, no log, no await; allocates while a snapshot is made, at most what the shard's sessions take.
//!
//! Snapshots of slots for the store, so that the next owner need not read a slot's whole ledger. One goes through the sessions a few at
//! a time: each knows at least what was settled when it began, which is all that a snapshot has to know.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_bus::{SessionState, Snapshot};
use usmp::crypto::Provider;
use usmp::{Duration, Instant};

use super::core::Core;
use super::udp_sessions::UdpSessions;
use crate::session_ids::slot_in;

/// A slot of which the ledger heard much has a snapshot sooner than is configured, but never more often than this.
const AT_MOST_EACH: Duration = Duration::from_secs(10);

/// How much that is: so many records, and so many for each session, so that the store is never told more than Kafka.
const MANY_RECORDS: usize = 20_000;
const RECORDS_PER_SESSION: usize = 8;

/// Pause between two looks for slots that are due.
const LOOK: Duration = Duration::from_secs(1);

/// Places of the table looked at in one step, and the pause between two.
const PLACES: u32 = 2048;
const PAUSE: Duration = Duration::from_millis(20);

/// How far a slot's ledger has come since the slot's last snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Where reading goes on after the last group that is settled; none before the first.
    offset: Option<i64>,
    /// Records settled since.
    records: usize,
    /// When that snapshot was begun, and the sessions it had.
    since: Instant,
    sessions: usize,
}

impl Progress {
    /// Of a slot whose ledger was just read, with so many sessions.
    pub(crate) const fn new(now: Instant, sessions: usize) -> Self {
        Self { offset: None, records: 0, since: now, sessions }
    }

    /// A group is settled.
    pub(crate) fn settled(&mut self, offset: Option<i64>, records: usize) {
        self.offset = offset.or(self.offset);
        self.records = self.records.saturating_add(records);
    }

    /// From which offset a snapshot that is due now lets its reader go on.
    fn due(&self, now: Instant, each: Duration) -> Option<i64> {
        let many = self.records >= MANY_RECORDS.max(RECORDS_PER_SESSION * self.sessions);
        let after = if many { each.min(AT_MOST_EACH) } else { each };
        self.offset.filter(|_| self.records > 0 && now >= self.since + after)
    }
}

/// The snapshots that a shard is making.
#[derive(Debug)]
pub(super) struct Snapshots {
    at: Instant,
    /// By slot, while there are any.
    making: HashMap<u16, Snapshot>,
    place: u32,
    /// Shared with those that wait for the store: no more are made meanwhile.
    written: Arc<()>,
}

impl Snapshots {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, making: HashMap::new(), place: 0, written: Arc::default() }
    }

    /// When to go on with those in the making.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.making.is_empty()).then_some(self.at)
    }
}

impl<P: Provider> UdpSessions<P> {
    /// Goes on with snapshots that are due.
    pub(super) fn turn_snapshots(&mut self, core: &mut Core) {
        if core.now < self.snapshots.at {
            return;
        }
        self.snapshots.at = core.now + PAUSE;
        if self.snapshots.making.is_empty() {
            if Arc::strong_count(&self.snapshots.written) == 1 {
                self.begin_snapshots(core);
            }
            if self.snapshots.making.is_empty() {
                self.snapshots.at = core.now + LOOK;
            }
            return;
        }
        let end = self.snapshots.place.saturating_add(PLACES).min(self.table.reach());
        for live in (self.snapshots.place..end).filter_map(|at| self.table.get(at)) {
            let slot = slot_in(live.machine.session_id().prefix());
            if let Some(snapshot) = self.snapshots.making.get_mut(&slot) {
                snapshot.sessions.push(live.session_state());
            }
        }
        self.snapshots.place = end;
        if end >= self.table.reach() {
            self.end_snapshots(core);
        }
    }

    /// First the offsets, then the sessions.
    fn begin_snapshots(&mut self, core: &mut Core) {
        let (now, each) = (core.now, core.config.cluster.snapshot_interval);
        for owned in core.slots.owned_mut().iter_mut().filter(|owned| owned.leaving.is_none()) {
            if let Some(offset) = owned.progress.due(now, each) {
                let snapshot = Snapshot { offset, generation: owned.generation, sessions: Vec::new() };
                owned.progress.records = 0;
                owned.progress.since = now;
                self.snapshots.making.insert(owned.slot, snapshot);
            }
        }
        self.snapshots.place = 0;
        if !self.snapshots.making.is_empty() {
            for state in self.dormant.states() {
                if let Some(snapshot) = self.snapshots.making.get_mut(&slot_of(state)) {
                    snapshot.sessions.push(*state);
                }
            }
        }
    }

    fn end_snapshots(&mut self, core: &mut Core) {
        for (slot, snapshot) in std::mem::take(&mut self.snapshots.making) {
            // A slot that went meanwhile took sessions along that were not looked at.
            let owned = core.slots.get_mut(slot).filter(|owned| owned.generation == snapshot.generation);
            if let (Some(owned), Some(keeper)) = (owned, &core.keeper) {
                owned.progress.sessions = snapshot.sessions.len();
                keeper.keep_snapshot(slot, snapshot, Arc::clone(&self.snapshots.written));
            }
        }
    }
}

fn slot_of(state: &SessionState) -> u16 {
    slot_in(super::dormant::prefix_of(state.session))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Duration = Duration::from_secs(60);

    #[test]
    fn a_quiet_slot_has_a_snapshot_a_minute_and_a_silent_one_none() {
        let mut progress = Progress::new(Instant::ZERO, 0);
        let much_later = Instant::ZERO + 100 * EACH;
        assert_eq!(progress.due(much_later, EACH), None, "nothing was settled");
        progress.settled(None, 3);
        assert_eq!(progress.due(much_later, EACH), None, "nobody knows where the reader would go on");
        progress.settled(Some(7), 2);
        progress.settled(None, 2);
        assert_eq!(progress.due(Instant::ZERO + EACH, EACH), Some(7));
        assert_eq!(progress.due(Instant::ZERO + AT_MOST_EACH, EACH), None);
    }

    #[test]
    fn a_busy_slot_has_them_sooner_but_tells_the_store_less_than_kafka() {
        let mut progress = Progress::new(Instant::ZERO, 0);
        progress.settled(Some(7), MANY_RECORDS);
        assert_eq!(progress.due(Instant::ZERO + AT_MOST_EACH, EACH), Some(7));
        let mut large = Progress::new(Instant::ZERO, 100_000);
        large.settled(Some(7), MANY_RECORDS);
        assert_eq!(large.due(Instant::ZERO + AT_MOST_EACH, EACH), None);
        large.settled(Some(9), RECORDS_PER_SESSION * 100_000);
        assert_eq!(large.due(Instant::ZERO + AT_MOST_EACH, EACH), Some(9));
    }
}
