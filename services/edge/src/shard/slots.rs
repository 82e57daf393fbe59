//! PACKET PATH: no lock, no log, no await; allocates only when a slot comes.
//!
//! The slots that this shard serves, each with the records of its sessions. A shard that shares its sessions with nobody has one slot, of
//! its own number, whose records go with all others.

use usmp::Instant;

use super::records::Records;
use super::snapshots::Progress;

/// A slot of this shard.
pub(crate) struct Owned {
    pub(crate) slot: u16,
    /// Owners that its journal has had.
    pub(crate) generation: u32,
    pub(crate) records: Records,
    /// It takes nothing any more, and goes to another pod once what it took is committed, or at this time.
    pub(crate) leaving: Option<Instant>,
    /// How far its ledger has come since its last snapshot.
    pub(crate) progress: Progress,
}

/// The slots of a shard.
pub(crate) enum Slots {
    /// One that nobody else could go on with.
    Alone,
    /// Those that this pod has adopted.
    Shared {
        owned: Vec<Owned>,
        /// Where the next session is born: a turn for each.
        next: usize,
    },
}

impl Slots {
    pub(crate) const fn shared() -> Self {
        Self::Shared { owned: Vec::new(), next: 0 }
    }

    pub(crate) const fn are_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }

    pub(crate) fn owned(&self) -> &[Owned] {
        match self {
            Self::Alone => &[],
            Self::Shared { owned, .. } => owned,
        }
    }

    pub(crate) fn owned_mut(&mut self) -> &mut [Owned] {
        match self {
            Self::Alone => &mut [],
            Self::Shared { owned, .. } => owned,
        }
    }

    pub(crate) fn get(&self, slot: u16) -> Option<&Owned> {
        self.owned().iter().find(|owned| owned.slot == slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Owned> {
        self.owned_mut().iter_mut().find(|owned| owned.slot == slot)
    }

    pub(crate) fn insert(&mut self, new: Owned) {
        if let Self::Shared { owned, .. } = self {
            owned.push(new);
        }
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Owned> {
        let Self::Shared { owned, .. } = self else { return None };
        let at = owned.iter().position(|owned| owned.slot == slot)?;
        Some(owned.swap_remove(at))
    }

    /// Where a session can be born now: a slot that stays and has room to journal it.
    pub(crate) fn birthplace(&mut self) -> Option<u16> {
        let Self::Shared { owned, next } = self else { return None };
        for _ in 0..owned.len() {
            *next = (*next + 1) % owned.len();
            if let Some(found) = owned.get(*next)
                && found.leaving.is_none()
                && found.records.has_room()
            {
                return Some(found.slot);
            }
        }
        None
    }
}

/// Where the messages of a slot's sessions go; `None` when the slot takes nothing. Apart from [`Core`](super::Core), so that its other
/// parts can be lent meanwhile.
pub(crate) fn records_of<'a>(
    slots: &'a mut Slots,
    plain: &'a mut Records,
    slot: u16,
) -> Option<&'a mut Records> {
    match slots {
        Slots::Alone => Some(plain),
        Slots::Shared { owned, .. } => {
            let found = owned.iter_mut().find(|owned| owned.slot == slot && owned.leaving.is_none())?;
            Some(&mut found.records)
        }
    }
}
