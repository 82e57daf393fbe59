//! PACKET PATH: no lock, no log, no await; allocates only when a slot comes.
//!
//! The slots that this shard serves, each with the records of its sessions. A shard that shares its sessions with nobody has one slot, of
//! its own number, whose records go with all others.

use std::collections::HashMap;

use usmp::{Duration, Instant};

use super::records::Records;
use super::snapshots::Progress;

/// A slot of this shard.
pub(crate) struct Owned {
    pub(crate) slot: u16,
    /// By which adoption; what a writer says is of one of them.
    pub(crate) adoption: u64,
    /// Owners that its journal has had.
    pub(crate) generation: u32,
    pub(crate) records: Records,
    /// It takes no new message any more, and goes to another pod once what it took is committed.
    pub(crate) leaving: Option<Leaving>,
    /// A session waited here for the ledger in vain, and nothing was settled since.
    pub(crate) behind: bool,
    /// How far its ledger has come since its last snapshot.
    pub(crate) progress: Progress,
}

impl Owned {
    fn bears(&self) -> bool {
        self.leaving.is_none() && !self.behind && self.records.has_room()
    }
}

/// How a slot leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leaving {
    /// It goes at this time whatever is open.
    until: Instant,
    /// Until this time it waits for the rest of messages that began here: nobody else has their first frames.
    finishing: Instant,
}

/// Sessions that are born within this time share a slot. What a fleet costs Kafka that comes back at once is the number of commits: its
/// sessions are born in few of them, and what their devices say first is in few, too.
const TOGETHER: Duration = Duration::from_millis(250);

/// How long the rest of a message is waited for. A device sends the next frame when it has the acknowledgement of the one before.
const REST: Duration = Duration::from_millis(500);

impl Leaving {
    pub(crate) fn from(now: Instant, until: Instant) -> Self {
        Self { until, finishing: until.min(now + REST) }
    }

    /// What is not open any more goes now.
    pub(crate) fn at_once(now: Instant, until: Instant) -> Self {
        Self { until, finishing: now }
    }

    /// Whether frames that continue a message are taken.
    pub(crate) fn is_finishing(&self, now: Instant) -> bool {
        now < self.finishing
    }

    /// Whether it goes now.
    pub(crate) fn goes(&self, now: Instant, idle: bool, mid_message: impl FnOnce() -> bool) -> bool {
        self.until <= now || idle && !(self.is_finishing(now) && mid_message())
    }
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
        /// Since when it is its turn.
        since: Instant,
        /// What was heard of each slot's adoptions.
        heard: HashMap<u16, Heard>,
    },
}

/// The last adoption of a slot that came here, and the last one that was lost before it came.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    came: u64,
    lost: u64,
}

impl Slots {
    pub(crate) fn shared() -> Self {
        Self::Shared { owned: Vec::new(), next: 0, since: Instant::ZERO, heard: HashMap::new() }
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

    /// Serves one more slot; `false` when it was lost before it came here.
    pub(crate) fn insert(&mut self, new: Owned) -> bool {
        let Self::Shared { owned, heard, .. } = self else { return true };
        let heard = heard.entry(new.slot).or_default();
        heard.came = new.adoption;
        let is_lost = heard.lost == new.adoption;
        owned.push(new);
        !is_lost
    }

    /// Whether a slot is served by the writer of this adoption. A writer that was given up may speak when the next one is here already.
    pub(crate) fn is_of(&self, slot: u16, adoption: u64) -> bool {
        self.get(slot).is_some_and(|owned| owned.adoption == adoption)
    }

    /// A slot of which this adoption is lost is not served here, or not yet.
    pub(crate) fn lost_elsewhere(&mut self, slot: u16, adoption: u64) {
        let Self::Shared { heard, .. } = self else { return };
        let heard = heard.entry(slot).or_default();
        if adoption > heard.came {
            heard.lost = adoption;
        }
    }

    pub(crate) fn remove(&mut self, slot: u16) -> Option<Owned> {
        let Self::Shared { owned, .. } = self else { return None };
        let at = owned.iter().position(|owned| owned.slot == slot)?;
        Some(owned.swap_remove(at))
    }

    /// Whether a session can be born here now.
    pub(crate) fn has_birthplace(&self) -> bool {
        !self.are_shared() || self.owned().iter().any(Owned::bears)
    }

    /// Where a session can be born now: a slot that stays, has room to journal it, and whose ledger is not known to be behind. It is the
    /// same one for a while.
    pub(crate) fn birthplace(&mut self, now: Instant) -> Option<u16> {
        let Self::Shared { owned, next, since, .. } = self else { return None };
        if now.saturating_duration_since(*since) >= TOGETHER {
            (*next, *since) = (next.wrapping_add(1), now);
        }
        for _ in 0..owned.len() {
            *next %= owned.len();
            if let Some(found) = owned.get(*next)
                && found.bears()
            {
                return Some(found.slot);
            }
            (*next, *since) = (*next + 1, now);
        }
        None
    }
}

/// Where the messages of a slot's sessions go; `None` when the slot is not here. Apart from [`Core`](super::Core), so that its other
/// parts can be lent meanwhile.
pub(crate) fn records_of<'a>(
    slots: &'a mut Slots,
    plain: &'a mut Records,
    slot: u16,
) -> Option<&'a mut Records> {
    match slots {
        Slots::Alone => Some(plain),
        Slots::Shared { owned, .. } => {
            let found = owned.iter_mut().find(|owned| owned.slot == slot)?;
            Some(&mut found.records)
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_bus::{EventEncoder, EventFormat};

    use super::*;
    use crate::config::LimitsConfig;
    use crate::shard::Sink;

    #[test]
    fn a_slot_that_leaves_waits_a_moment_for_the_rest_of_a_message() {
        let at = Instant::from_millis;
        let leaving = Leaving::from(at(0), at(5000));
        assert!(leaving.goes(at(1), true, || false), "nothing is open");
        assert!(!leaving.goes(at(1), false, || false), "records are on their way");
        assert!(!leaving.goes(at(499), true, || true), "the next frame is to come");
        assert!(leaving.goes(at(500), true, || true), "it did not come");
        assert!(leaving.goes(at(5000), false, || true), "whatever is open");
        assert!(leaving.is_finishing(at(499)) && !leaving.is_finishing(at(500)));
        let lost = Leaving::from(at(7), at(7));
        assert!(lost.goes(at(7), false, || true) && !lost.is_finishing(at(7)), "it has another owner");
    }

    fn owned(slot: u16, adoption: u64) -> Owned {
        let encoder = EventEncoder::new(EventFormat::Protobuf).expect("the messages are known");
        let records = Records::new(Sink::Stalled, encoder, &LimitsConfig::default());
        let progress = Progress::new(Instant::ZERO, 0);
        Owned { slot, adoption, generation: 1, records, leaving: None, behind: false, progress }
    }

    #[test]
    fn sessions_of_one_moment_are_born_in_one_slot_and_each_slot_has_its_turn() {
        let mut slots = Slots::shared();
        for slot in [3, 5, 8] {
            slots.insert(owned(slot, 1));
        }
        let mut births = Vec::new();
        for millis in (1000..2500).step_by(50) {
            births.extend(slots.birthplace(Instant::from_millis(millis)));
        }
        let expected: Vec<_> = [5, 8, 3, 5, 8, 3].iter().flat_map(|slot| [*slot; 5]).collect();
        assert_eq!(births, expected);
        // One that takes none is passed over, and whoever is next has a whole turn.
        if let Some(next) = slots.get_mut(5) {
            next.behind = true;
        }
        let births = [2500, 2550, 2749, 2750].map(|millis| slots.birthplace(Instant::from_millis(millis)));
        assert_eq!(births, [Some(8), Some(8), Some(8), Some(3)]);
        slots.owned_mut().iter_mut().for_each(|owned| owned.behind = true);
        assert_eq!(slots.birthplace(Instant::from_millis(2751)), None);
    }

    #[test]
    fn what_an_earlier_writer_of_a_slot_says_is_not_taken_for_the_later_ones() {
        let mut slots = Slots::shared();
        assert!(slots.insert(owned(3, 1)));
        assert!(slots.is_of(3, 1) && !slots.is_of(3, 2) && !slots.is_of(4, 1));
        slots.remove(3);
        assert!(slots.insert(owned(3, 5)));
        assert!(slots.is_of(3, 5) && !slots.is_of(3, 1));
        slots.lost_elsewhere(3, 1);
        slots.remove(3);
        assert!(slots.insert(owned(3, 6)), "the loss of an earlier one is none of this one's");
    }

    #[test]
    fn an_adoption_that_was_lost_before_it_came_is_known_to_be() {
        let mut slots = Slots::shared();
        slots.lost_elsewhere(3, 2);
        assert!(!slots.insert(owned(3, 2)));
        slots.remove(3);
        assert!(slots.insert(owned(3, 3)));
    }
}
