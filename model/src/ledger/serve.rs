//! The owner: receive, group commit, snapshot, death.

use super::state::{
    Group, Known, Note, Number, Role, SESSIONS, Serving, Snapshot, Table, Transaction, World, has, highest,
};
use super::{Ledger, NONE};
use crate::defence::Defence;
use crate::invariant::Invariant;

impl Serving {
    /// An owner that has just read its table.
    #[must_use]
    pub const fn new(epoch: u8, owner: u8, at: u8, table: Table) -> Self {
        Self {
            epoch,
            owner,
            at,
            table,
            pending: [0; SESSIONS],
            dead: [0; SESSIONS],
            skipped: [0; SESSIONS],
            restating: [false; SESSIONS],
            closing: [false; SESSIONS],
            transaction: None,
            sealed: 0,
        }
    }
}

impl World {
    fn serving(&mut self, pod: u8) -> Option<&mut Serving> {
        match &mut self.pods[usize::from(pod)] {
            Role::Serving(serving) => Some(serving),
            _ => None,
        }
    }
}

impl Ledger {
    /// A frame that authenticates.
    pub(super) fn deliver(&self, world: &mut World, pod: u8, session: usize, frame: Number) -> Option<()> {
        let (epoch, last) = (world.epoch, world.last_owner());
        let highest_committed = world.highest(session);
        let serving = world.serving(pod)?;
        let (number, silent) = match serving.table.sessions[session] {
            Known::Live { number, silent } => (number, silent),
            Known::Not if self.has(Defence::UnknownSessionRefused) => return None,
            Known::Not => (NONE, false),
        };
        if frame == number {
            if !silent {
                self.ack(world, session, frame);
            }
            return Some(());
        }
        if frame < number {
            if !self.has(Defence::AckOnlyTheLast) {
                self.ack(world, session, frame);
            }
            return Some(());
        }
        if frame <= highest(serving.pending[session] | serving.skipped[session]) || serving.closing[session] {
            return None;
        }
        serving.pending[session] |= 1 << frame;
        if !self.has(Defence::NumberAfterCommit) || serving.table.sessions[session] == Known::Not {
            serving.table.sessions[session] = Known::Live {
                number: if self.has(Defence::NumberAfterCommit) { NONE } else { frame },
                silent: false,
            };
        }
        let is_owner = epoch == serving.epoch && Some(serving.owner) == last;
        world.broken.require(Invariant::NumberIsHighest, !is_owner || number == highest_committed);
        if !self.has(Defence::NoAckAtAuthentication) {
            self.ack(world, session, frame);
        }
        Some(())
    }

    /// All that is pending goes into one transaction, with one ledger entry per session.
    pub(super) fn produce(&self, world: &mut World, pod: u8) -> Option<()> {
        let serving = world.serving(pod)?;
        let idle = [false; SESSIONS];
        let nothing =
            serving.pending == [0; SESSIONS] && serving.closing == idle && serving.restating == idle;
        if serving.transaction.is_some() || nothing {
            return None;
        }
        let mut group = Group {
            owner: serving.owner,
            generation: serving.table.generation,
            data: [0; SESSIONS],
            notes: [Note::Nothing; SESSIONS],
        };
        for session in 0..SESSIONS {
            let (pending, dead) = (serving.pending[session], serving.dead[session]);
            group.data[session] = pending & !dead;
            if serving.closing[session] {
                group.notes[session] = Note::Closed;
                continue;
            }
            let said = if self.skip_dead { pending & !dead } else { pending };
            if said != 0 {
                let number = highest(said);
                let silent = has(dead, number) && self.has(Defence::ConsumedMarked);
                group.notes[session] = Note::Number { number, silent };
            }
            if serving.restating[session] {
                group.notes[session] = match (group.notes[session], serving.table.sessions[session]) {
                    (Note::Number { number, silent }, _) | (_, Known::Live { number, silent }) => {
                        Note::State { number, silent }
                    }
                    (other, Known::Not) => other,
                };
            }
        }
        serving.transaction = Some(Transaction { epoch: serving.epoch, group, half: false });
        if !self.has(Defence::NoAckAtDeliveryReport) {
            self.ack_all(world, &group);
        }
        Some(())
    }

    /// The commit is decided, and the pod learns it.
    pub(super) fn commit(&self, world: &mut World, pod: u8) -> Option<()> {
        let current = world.epoch;
        let serving = world.serving(pod)?;
        let transaction = serving.transaction.filter(|t| !t.half)?;
        if !self.accepts(serving.epoch, current) {
            // "Fenced by a newer producer instance."
            world.pods[usize::from(pod)] = Role::Idle;
            return Some(());
        }
        let group = transaction.group;
        if self.has(Defence::JournalInTransaction) {
            self.append(world, group);
            self.committed_known(world, pod, &group);
        } else {
            serving.transaction = Some(Transaction { half: true, ..transaction });
            self.append(world, Group { notes: [Note::Nothing; SESSIONS], ..group });
        }
        Some(())
    }

    /// Only without `JournalInTransaction`.
    pub(super) fn journal(&self, world: &mut World, pod: u8) -> Option<()> {
        let current = world.epoch;
        let serving = world.serving(pod)?;
        let transaction = serving.transaction.filter(|t| t.half)?;
        if !self.accepts(serving.epoch, current) {
            world.pods[usize::from(pod)] = Role::Idle;
            return Some(());
        }
        self.append(world, Group { data: [0; SESSIONS], ..transaction.group });
        self.committed_known(world, pod, &transaction.group);
        Some(())
    }

    /// The pod knows that its group is committed: numbers advance, UTACKs leave.
    fn committed_known(&self, world: &mut World, pod: u8, group: &Group) {
        let at = world.log.len() as u8 - 1;
        if let Some(serving) = world.serving(pod) {
            serving.transaction = None;
            serving.at = at;
            // Nothing is called dead while a group is under way, so what is dead was in it.
            let dead = std::mem::take(&mut serving.dead);
            for (session, dead) in dead.into_iter().enumerate() {
                let taken = group.data[session] | dead;
                serving.pending[session] &= !taken;
                match group.notes[session] {
                    Note::Nothing | Note::Number { .. } => {}
                    Note::State { .. } => serving.restating[session] = false,
                    Note::Closed => serving.closing[session] = false,
                }
                if self.skip_dead {
                    serving.skipped[session] |= dead;
                }
            }
            serving.table.apply(&group.notes);
            // The owner itself knows which number it consumed, whatever the entry says.
            for (known, dead) in serving.table.sessions.iter_mut().zip(dead) {
                if let Known::Live { number, silent } = known {
                    *silent |= has(dead, *number);
                }
            }
        }
        self.ack_all(world, group);
    }

    fn ack_all(&self, world: &mut World, group: &Group) {
        for session in 0..SESSIONS {
            for number in (0..self.numbers).filter(|n| has(group.data[session], *n)) {
                self.ack(world, session, number);
            }
        }
    }

    pub(super) fn commit_unknown(&self, world: &mut World, pod: u8) -> Option<()> {
        world.left.unknown = world.left.unknown.checked_sub(1)?;
        let serving = world.serving(pod)?;
        let transaction = serving.transaction.filter(|t| !t.half)?;
        if !self.has(Defence::UnknownNotReproduced) {
            serving.transaction = None;
        } else if !self.has(Defence::UnknownNotAcked) {
            self.committed_known(world, pod, &transaction.group);
        } else {
            world.pods[usize::from(pod)] = Role::Idle;
        }
        self.orphan(world, transaction);
        Some(())
    }

    fn orphan(&self, world: &mut World, transaction: Transaction) {
        if self.accepts(transaction.epoch, world.epoch) {
            world.orphans.push(transaction);
            world.orphans.sort_unstable();
        }
    }

    pub(super) fn late_commit(&self, world: &mut World, orphan: u8) -> Option<()> {
        let transaction = world.orphans.remove(orphan.into());
        let mut group = transaction.group;
        if !self.has(Defence::JournalInTransaction) {
            group.notes = [Note::Nothing; SESSIONS];
        }
        self.append(world, group);
        Some(())
    }

    pub(super) fn abort(&self, world: &mut World, pod: u8) -> Option<()> {
        let serving = world.serving(pod)?;
        serving.transaction.take_if(|t| !t.half)?;
        Some(())
    }

    pub(super) fn reject(&self, world: &mut World, pod: u8, session: usize, number: Number) -> Option<()> {
        world.left.dead = world.left.dead.checked_sub(1)?;
        let serving = world.serving(pod)?;
        if serving.transaction.is_some() {
            return None;
        }
        serving.dead[session] |= 1 << number;
        Some(())
    }

    pub(super) fn close(&self, world: &mut World, pod: u8, session: usize) -> Option<()> {
        world.left.closes = world.left.closes.checked_sub(1)?;
        let serving = world.serving(pod)?;
        let live = serving.table.sessions[session] != Known::Not;
        if serving.transaction.is_some() || !live {
            return None;
        }
        serving.closing[session] = true;
        Some(())
    }

    pub(super) fn restate(&self, world: &mut World, pod: u8, session: usize) -> Option<()> {
        world.left.restates = world.left.restates.checked_sub(1)?;
        let serving = world.serving(pod)?;
        let live = serving.table.sessions[session] != Known::Not;
        if serving.transaction.is_some() || !live {
            return None;
        }
        serving.restating[session] = true;
        Some(())
    }

    pub(super) fn snapshot(&self, world: &mut World, pod: u8) -> Option<()> {
        world.left.snapshots = world.left.snapshots.checked_sub(1)?;
        let serving = world.serving(pod)?;
        let snapshot = Snapshot { at: serving.at, table: serving.table };
        let at = world.redis.binary_search(&snapshot).err()?;
        world.redis.insert(at, snapshot);
        Some(())
    }

    pub(super) fn crash(&self, world: &mut World, pod: u8) -> Option<()> {
        world.left.crashes = world.left.crashes.checked_sub(1)?;
        let transaction = world.serving(pod).and_then(|s| s.transaction).filter(|t| !t.half);
        world.pods[usize::from(pod)] = Role::Idle;
        if let Some(transaction) = transaction {
            self.orphan(world, transaction);
        }
        Some(())
    }
}
