//! What a pod knows of each slot, and does with it.

use std::collections::HashSet;
use std::time::Instant;

use sluice_peers::owner_of_slot;
use sluice_types::PodId;

/// What this pod does with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Elsewhere,
    Adopting,
    Ours { generation: u32 },
    Leaving,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Who was last heard to serve it, and since which generation.
    pub(super) owner: Option<(PodId, u32)>,
    /// When that was heard last.
    pub(super) heard: Option<Instant>,
    /// It was handed over to this pod.
    pub(super) given: bool,
    /// By whom, and when: that pod drains, whether or not the store has said so yet.
    pub(super) giver: Option<(PodId, Instant)>,
    pub(super) not_before: Option<Instant>,
}

impl Slot {
    /// Nobody is known to serve it.
    pub(super) const FREE: Self = Self {
        state: State::Elsewhere,
        owner: None,
        heard: None,
        given: false,
        giver: None,
        not_before: None,
    };
}

/// Whose each slot should be. Worked out anew only when other pods may have slots: it costs a hash for each pod and slot.
#[derive(Debug, Default)]
pub(super) struct Targets {
    candidates: Vec<PodId>,
    of: Vec<Option<PodId>>,
}

impl Targets {
    pub(super) fn follow(&mut self, slots: u16, candidates: &[PodId]) {
        if self.candidates != candidates || self.of.len() != usize::from(slots) {
            self.of = (0..slots).map(|slot| owner_of_slot(slot, candidates)).collect();
            self.candidates = candidates.to_vec();
        }
    }

    pub(super) fn of(&self, slot: u16) -> Option<PodId> {
        self.of.get(usize::from(slot)).copied().flatten()
    }
}

/// Who serves the slots, if that is known of each.
pub(super) fn serving_all(slots: &[Slot]) -> Option<HashSet<PodId>> {
    slots.iter().map(|slot| slot.owner.map(|(pod, _)| pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_the_candidates_of_the_moment() {
        let pods: Vec<_> = (1..=5).map(|byte| PodId::from_bytes([byte; 16])).collect();
        let mut targets = Targets::default();
        for candidates in [&pods[..], &pods[..2], &[], &pods[1..], &pods[1..]] {
            targets.follow(64, candidates);
            for slot in 0..64 {
                assert_eq!(
                    targets.of(slot),
                    owner_of_slot(slot, candidates),
                    "slot {slot} of {candidates:?}"
                );
            }
            assert_eq!(targets.of(64), None);
        }
    }

    #[test]
    fn pods_that_serve_are_known_once_each_slot_has_an_owner() {
        let pod = |byte| PodId::from_bytes([byte; 16]);
        let slot = |owner: Option<PodId>| Slot { owner: owner.map(|pod| (pod, 1)), ..Slot::FREE };
        let all = serving_all(&[slot(Some(pod(1))), slot(Some(pod(2))), slot(Some(pod(1)))]);
        assert_eq!(all, Some(HashSet::from([pod(1), pod(2)])));
        assert_eq!(
            serving_all(&[slot(Some(pod(1))), slot(None)]),
            None,
            "nobody said who serves one of them"
        );
    }
}
