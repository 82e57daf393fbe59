//! What is true of a state by looking ahead.

use super::state::{Known, Number, Record, Role, Serving, Table, World};
use super::{Action, Ledger};
use crate::defence::Defence;

impl Table {
    /// What reading these records from the beginning gives.
    #[must_use]
    pub fn folded(log: &[Record]) -> Self {
        log.iter().fold(Self::EMPTY, |mut table, record| {
            table.fold(record);
            table
        })
    }
}

impl Ledger {
    /// From here on nothing fails any more, pod 0 reaches Kafka, the others never take a step again, and each device
    /// goes on with its next number: is it acked, or is its session closed?
    ///
    /// A property of paths would be the textbook way, but the checker's `eventually` ignores cycles. Looking ahead from
    /// every reachable state says more than one fair path, as recovery must work from all of them.
    pub(super) fn recovers(&self, world: &World) -> bool {
        let mut world = world.clone();
        world.left.adoptions = 1;
        if self.has(Defence::TransactionTimeout) {
            world.foreign = None;
        }
        if !self.current(&world) {
            let _ = self
                .step(&mut world, Action::Fence(0))
                .and_then(|()| self.step(&mut world, Action::CommitOwner(0)));
            let mut loads = Vec::new();
            self.loads(&world, 0, &mut loads);
            let Some(load) = loads.pop() else { return false };
            if self.step(&mut world, load).is_none() {
                return false;
            }
        }
        // What was under way goes first, then the new frames.
        for frame in [None, Some(self.numbers)] {
            for session in 0..self.sessions {
                if let Some(number) = frame {
                    let _ = self.step(&mut world, Action::Deliver { pod: 0, session, number });
                }
            }
            for action in [Action::Produce(0), Action::Commit(0), Action::Journal(0)] {
                let _ = self.step(&mut world, action);
            }
        }
        let Role::Serving(serving) = &world.pods[0] else { return false };
        serving.transaction.is_none()
            && world.foreign.is_none()
            && (0..usize::from(self.sessions)).all(|session| match serving.table.sessions[session] {
                // What the topic has forgotten is closed by that.
                Known::Not => world.closed(session) || world.start > 1,
                Known::Live { number, .. } => number == self.numbers && committed(&world, session, number),
            })
    }

    fn current(&self, world: &World) -> bool {
        let Role::Serving(Serving { epoch, owner, .. }) = world.pods[0] else { return false };
        epoch == world.epoch && Some(owner) == world.last_owner()
    }
}

fn committed(world: &World, session: usize, number: Number) -> bool {
    super::state::has(world.committed(session), number)
}
