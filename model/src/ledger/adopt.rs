//! Adoption: fence, Owner record, snapshot, ledger.

use super::state::{Known, NONE, Record, Role, Serving, Snapshot, Table, World};
use super::{Action, Ledger};
use crate::defence::Defence;
use crate::invariant::Invariant;

impl Ledger {
    /// The first step. What the pod had in memory of the slot is dropped with it, its open transaction is aborted.
    pub(super) fn fence(&self, world: &mut World, pod: u8) -> Option<()> {
        world.left.adoptions = world.left.adoptions.checked_sub(1)?;
        world.epoch += 1;
        let epoch = world.epoch;
        if self.has(Defence::Fence) {
            // Whatever arrives of earlier owners is refused from now on.
            world.orphans.clear();
        }
        world.pods[usize::from(pod)] = Role::Fenced { epoch, sealed: 0 };
        Some(())
    }

    pub(super) fn commit_owner(&self, world: &mut World, pod: u8, answered: bool) -> Option<()> {
        let Role::Fenced { epoch, .. } = world.pods[usize::from(pod)] else { return None };
        let role = &mut world.pods[usize::from(pod)];
        if !self.accepts(epoch, world.epoch) {
            // With a lost answer it is the same to the pod, and nothing has happened in the log.
            *role = Role::Idle;
            return answered.then_some(());
        }
        let owner = world.log.len() as u8;
        if !answered {
            world.left.unknown = world.left.unknown.checked_sub(1)?;
            *role = Role::Idle;
        } else if self.has(Defence::OwnerBarrier) {
            *role = Role::Reading { epoch, owner };
        } else {
            // Stands for the owner that is already there: commits of this pod are then no foreign ones.
            let owner = world.last_owner()?;
            world.pods[usize::from(pod)] = Role::Reading { epoch, owner };
            return Some(());
        }
        world.log.push(Record::Owner { pod });
        Some(())
    }

    /// Whether the broker takes a commit with this producer epoch.
    pub(super) fn accepts(&self, epoch: u8, current: u8) -> bool {
        epoch == current || !self.has(Defence::Fence)
    }

    /// All ways in which reading can go.
    pub(super) fn loads(&self, world: &World, pod: u8, actions: &mut Vec<Action>) {
        let Role::Reading { owner, .. } = world.pods[usize::from(pod)] else { return };
        let snapshots = (0..world.redis.len() as u8).map(Some).chain([None]);
        for snapshot in snapshots {
            let base = snapshot.map(|s| &world.redis[usize::from(s)]);
            if self.has(Defence::SnapshotBelowOwner) && base.is_some_and(|s| s.at > owner) {
                continue;
            }
            if self.has(Defence::SnapshotAboveStart) && base.is_some_and(|s| s.at + 1 < world.start) {
                continue;
            }
            let start = base.map_or(0, |s| s.at + 1).max(world.start);
            for end in self.ends(world, pod, owner, start) {
                if self.has(Defence::GenerationFromLedger) {
                    actions.push(Action::Load { pod, snapshot, end, generation: 0 });
                } else {
                    let written = Table::folded(&world.log).generation;
                    actions.extend((0..written).map(|g| Action::Load { pod, snapshot, end, generation: g }));
                }
            }
        }
    }

    /// Offsets at which reading from `start` can stop.
    fn ends(&self, world: &World, pod: u8, owner: u8, start: u8) -> Vec<u8> {
        let stable = world.stable();
        if !self.has(Defence::ReadToOwnRecord) || !self.has(Defence::OwnerBarrier) {
            let earliest = if self.stale_fetch { start.min(stable) } else { stable };
            return (earliest..=stable).collect();
        }
        let mut end = owner + 1;
        if !self.has(Defence::OwnerNonce) {
            let named = |r: &Record| matches!(r, Record::Owner { pod: p } if *p == pod);
            let first = (start..end).find(|at| named(&world.log[usize::from(*at)]));
            end = first.map_or(end, |at| at + 1);
        }
        // Somebody else's open transaction before it: wait. Forgotten: begin again.
        if end > stable || owner < world.start { Vec::new() } else { vec![end] }
    }

    pub(super) fn load(
        &self,
        world: &mut World,
        pod: u8,
        snapshot: Option<u8>,
        end: u8,
        generation: u8,
    ) -> Option<()> {
        let Role::Reading { epoch, owner } = world.pods[usize::from(pod)] else { return None };
        let base = self.answer(world, snapshot);
        let mut table = base.map_or(Table::EMPTY, |s| s.table);
        let start = base.map_or(0, |s| s.at + 1).max(world.start);
        if self.has(Defence::JournalRead) {
            for record in world.log.get(usize::from(start)..usize::from(end)).unwrap_or_default() {
                table.fold(record);
            }
            if self.has(Defence::OwnerBarrier) && end <= owner {
                // The own record was not among what was read, but it was written.
                table.generation += 1;
            }
        } else {
            table.generation = Table::folded(&world.log[..=usize::from(owner)]).generation;
        }
        if !self.has(Defence::NumbersFromLedger) {
            let old = base.map_or([Known::Not; super::SESSIONS], |s| s.table.sessions);
            for (known, old) in table.sessions.iter_mut().zip(old) {
                if let Known::Live { number, silent } = known {
                    (*number, *silent) = match old {
                        Known::Live { number, silent } => (number, silent),
                        Known::Not => (NONE, false),
                    };
                }
            }
        }
        if !self.has(Defence::GenerationFromLedger) {
            // Read from a counter that may have been rolled back, and written back with one more.
            world.redis_lied |= generation + 1 < Table::folded(&world.log).generation;
            table.generation = generation + 1;
        }
        let at = owner.max(base.map_or(0, |s| s.at));
        world.pods[usize::from(pod)] = Role::Serving(Serving::new(epoch, owner, at, table));
        Some(())
    }

    /// A restart that takes the old slot up with what Redis has.
    pub(super) fn reuses(&self, world: &World, pod: u8, actions: &mut Vec<Action>) {
        let owned = |r: &Record| matches!(r, Record::Owner { pod: p } if *p == pod);
        let idle = matches!(world.pods[usize::from(pod)], Role::Idle);
        if self.has(Defence::ReadAtRestart) || !idle || !world.log.iter().any(owned) {
            return;
        }
        let snapshots = (0..world.redis.len() as u8).map(Some).chain([None]);
        actions.extend(snapshots.map(|snapshot| Action::Reuse { pod, snapshot }));
    }

    pub(super) fn reuse(&self, world: &mut World, pod: u8, snapshot: Option<u8>) -> Option<()> {
        world.left.adoptions = world.left.adoptions.checked_sub(1)?;
        world.epoch += 1;
        world.orphans.clear();
        let owned = |r: &Record| matches!(r, Record::Owner { pod: p } if *p == pod);
        let owner = world.log.iter().rposition(owned)?;
        let base = self.answer(world, snapshot);
        // Without a snapshot the sessions are those it opened, as far as Redis has their records.
        let mut table = Table::EMPTY;
        table.sessions[..self.sessions.into()].fill(Known::Live { number: NONE, silent: false });
        let mut table = base.map_or(table, |s| s.table);
        table.generation = Table::folded(&world.log[..=owner]).generation;
        let epoch = world.epoch;
        world.pods[usize::from(pod)] = Role::Serving(Serving::new(epoch, owner as u8, owner as u8, table));
        Some(())
    }

    fn answer(&self, world: &mut World, snapshot: Option<u8>) -> Option<Snapshot> {
        let newest = world.redis.iter().map(|s| s.at).max();
        let base = snapshot.map(|s| world.redis[usize::from(s)]);
        world.redis_lied |= base.map(|s| s.at) != newest;
        base
    }

    /// The pod seals a frame: its sending sequence is its generation and a counter.
    pub(super) fn seal(&self, world: &mut World, pod: u8) -> Option<()> {
        world.left.seals = world.left.seals.checked_sub(1)?;
        let nonce = match &mut world.pods[usize::from(pod)] {
            // One session is enough here. Without it there is no key.
            Role::Serving(serving) if serving.table.sessions[0] != Known::Not => {
                serving.sealed += 1;
                (serving.table.generation, serving.sealed)
            }
            Role::Fenced { sealed, .. } if !self.has(Defence::SealAfterOwner) => {
                *sealed += 1;
                (Table::folded(&world.log).generation + 1, *sealed)
            }
            _ => return None,
        };
        match world.nonces.binary_search(&nonce) {
            Ok(_) => world.broken.require(Invariant::FreshNonce, false),
            Err(at) => world.nonces.insert(at, nonce),
        }
        Some(())
    }
}
