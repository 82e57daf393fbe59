//! Two slots over the same pods.
//!
//! Slots have a transactional id, a partition and a snapshot each and share nothing but processes: what this adds is a
//! pod that dies with both, and all orders between the two.

use stateright::{Model, Property};

use super::{Action, Ledger, World};
use crate::invariant::Invariant;

/// A step of one slot, or of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairAction {
    /// Something happens to one of them.
    Slot {
        /// Which.
        slot: u8,
        /// What.
        action: Action,
    },
    /// A process dies, with all it had of both.
    Crash(u8),
}

/// The model of two slots, each with these bounds.
#[derive(Debug, Clone)]
pub struct Pair(pub Ledger);

/// The name of the property that stands for all invariants of events.
pub const BOTH: &str = "no invariant breaks in either slot";

impl Model for Pair {
    type State = [World; 2];
    type Action = PairAction;

    fn init_states(&self) -> Vec<[World; 2]> {
        let one = self.0.init_states();
        one.iter().flat_map(|a| one.iter().map(move |b| [a.clone(), b.clone()])).collect()
    }

    fn actions(&self, worlds: &[World; 2], actions: &mut Vec<PairAction>) {
        for (slot, world) in worlds.iter().enumerate() {
            let mut of_one = Vec::new();
            self.0.actions(world, &mut of_one);
            of_one.retain(|action| !matches!(action, Action::Crash(_)));
            let slot = slot as u8;
            actions.extend(of_one.into_iter().map(|action| PairAction::Slot { slot, action }));
        }
        actions.extend(self.0.pods().map(PairAction::Crash));
    }

    fn next_state(&self, last: &[World; 2], action: PairAction) -> Option<[World; 2]> {
        let mut worlds = last.clone();
        match action {
            PairAction::Slot { slot, action } => self.0.step(&mut worlds[usize::from(slot)], action)?,
            PairAction::Crash(pod) => {
                for world in &mut worlds {
                    self.0.step(world, Action::Crash(pod))?;
                }
            }
        }
        (worlds != *last).then_some(worlds)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOTH, |_, worlds: &[World; 2]| worlds.iter().all(|world| !world.broken.any())),
            Property::always(Invariant::Progress.name(), |model: &Self, worlds: &[World; 2]| {
                worlds.iter().all(|world| model.0.recovers(world))
            }),
            Property::sometimes("each slot has another owner", |_, [a, b]: &[World; 2]| {
                a.last_owner() > Some(0) && a.last_owner() < b.last_owner()
            }),
        ]
    }
}
