//! Group commit, adoption and snapshots of one slot.
//!
//! In this model are the broker's fence, commits of unknown outcome, commits that arrive when their pod is long gone,
//! pods that die, and a Redis that answers with any snapshot ever written: all at once, because each of them alone is
//! easy. A pause needs no action of its own: a pod that takes no step is paused, and another can adopt at any moment.

mod action;
mod adopt;
mod pair;
mod progress;
mod reduce;
mod serve;
mod state;

pub use action::Action;
pub use pair::{BOTH, Pair, PairAction};
pub use state::{
    Group, Known, Left, Mask, NONE, Note, Number, Record, Role, SESSIONS, Serving, Snapshot, Table,
    Transaction, World,
};

use stateright::{Model, Property};

use crate::defence::{Defence, Defences};
use crate::invariant::{Broken, Invariant};

/// The model with its bounds.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Pods.
    pub pods: u8,
    /// Sessions, all open in the beginning.
    pub sessions: u8,
    /// Sequences per session.
    pub numbers: Number,
    /// How often things may happen.
    pub left: Left,
    /// What the broker calls the end of the partition may be any earlier one.
    pub stale_fetch: bool,
    /// What goes to the dead letters is left out of the ledger, instead of being marked there.
    pub skip_dead: bool,
    /// Also check progress: costs a simulated recovery per state.
    pub progress: bool,
    /// Treat states that nobody can tell apart as one. Only with all rules in force; pods, sessions and offsets change
    /// their names on the way.
    pub reduced: bool,
    /// The rules in force.
    pub defences: Defences,
}

impl Ledger {
    /// The same model without one of its rules.
    #[must_use]
    pub fn without(mut self, defence: Defence) -> Self {
        self.defences = Defences::without(defence);
        self
    }

    fn has(&self, defence: Defence) -> bool {
        self.defences.has(defence)
    }

    fn pods(&self) -> impl Iterator<Item = u8> + use<> {
        0..self.pods
    }

    /// Appends a committed group and checks what a commit must not break.
    fn append(&self, world: &mut World, group: Group) {
        world.broken.require(Invariant::OneWriter, world.last_owner() == Some(group.owner));
        for session in 0..SESSIONS {
            let data = group.data[session];
            if data == 0 {
                continue;
            }
            let before = world.committed(session);
            world.broken.require(Invariant::CommittedOnce, before & data == 0);
            world.broken.require(Invariant::OrderKept, state::lowest(data) > state::highest(before));
            world.broken.require(Invariant::NothingAfterClose, !world.closed(session));
        }
        world.log.push(Record::Group(group));
    }

    /// A UTACK leaves.
    fn ack(&self, world: &mut World, session: usize, number: Number) {
        let committed = state::has(world.committed(session), number);
        world.broken.require(Invariant::AckedIsCommitted, committed);
    }

    fn step(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Fence(pod) => self.fence(world, pod),
            Action::CommitOwner(pod) => self.commit_owner(world, pod, true),
            Action::OwnerUnknown(pod) => self.commit_owner(world, pod, false),
            Action::Load { pod, snapshot, end, generation } => {
                self.load(world, pod, snapshot, end, generation)
            }
            Action::Reuse { pod, snapshot } => self.reuse(world, pod, snapshot),
            Action::Deliver { pod, session, number } => self.deliver(world, pod, session.into(), number),
            Action::Produce(pod) => self.produce(world, pod),
            Action::Commit(pod) => self.commit(world, pod),
            Action::CommitUnknown(pod) => self.commit_unknown(world, pod),
            Action::Abort(pod) => self.abort(world, pod),
            Action::Journal(pod) => self.journal(world, pod),
            Action::LateCommit(orphan) => self.late_commit(world, orphan),
            Action::Reject { pod, session, number } => self.reject(world, pod, session.into(), number),
            Action::Close { pod, session } => self.close(world, pod, session.into()),
            Action::Restate { pod, session } => self.restate(world, pod, session.into()),
            Action::Forget(to) => {
                world.left.retention = world.left.retention.checked_sub(1)?;
                world.start = to;
                Some(())
            }
            Action::Snapshot(pod) => self.snapshot(world, pod),
            Action::Crash(pod) => self.crash(world, pod),
            Action::Seal(pod) => self.seal(world, pod),
            Action::ForeignBegin => {
                world.left.foreign = world.left.foreign.checked_sub(1)?;
                world.foreign = Some(world.log.len() as u8);
                Some(())
            }
            Action::ForeignEnd => world.foreign.take().map(|_| ()),
        }
    }
}

impl Model for Ledger {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        // Pod 0 is the first owner, and every session is open.
        let mut notes = [Note::Nothing; SESSIONS];
        notes[..self.sessions.into()].fill(Note::State { number: NONE, silent: false });
        let log = vec![
            Record::Owner { pod: 0 },
            Record::Group(Group { owner: 0, generation: 1, data: [0; SESSIONS], notes }),
        ];
        let mut table = Table::EMPTY;
        log.iter().for_each(|record| table.fold(record));
        let mut pods = vec![Role::Idle; self.pods.into()];
        pods[0] = Role::Serving(Serving::new(1, 0, 1, table));
        vec![World {
            log,
            start: 0,
            epoch: 1,
            foreign: None,
            orphans: Vec::new(),
            pods,
            redis: Vec::new(),
            nonces: Vec::new(),
            left: self.left,
            redis_lied: false,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for pod in self.pods() {
            match &world.pods[usize::from(pod)] {
                Role::Idle => actions.push(Action::Fence(pod)),
                Role::Fenced { .. } => {
                    actions.extend([Action::CommitOwner(pod), Action::OwnerUnknown(pod), Action::Crash(pod)]);
                    actions.push(Action::Seal(pod));
                }
                Role::Reading { .. } => {
                    actions.push(Action::Crash(pod));
                    self.loads(world, pod, actions);
                }
                Role::Serving(serving) => {
                    actions.extend([Action::Fence(pod), Action::Produce(pod), Action::Commit(pod)]);
                    actions.extend([Action::CommitUnknown(pod), Action::Abort(pod), Action::Journal(pod)]);
                    actions.extend([Action::Snapshot(pod), Action::Crash(pod), Action::Seal(pod)]);
                    for session in 0..self.sessions {
                        actions.extend([Action::Close { pod, session }, Action::Restate { pod, session }]);
                        for number in 0..self.numbers {
                            actions.push(Action::Deliver { pod, session, number });
                            if state::has(serving.pending[usize::from(session)], number) {
                                actions.push(Action::Reject { pod, session, number });
                            }
                        }
                    }
                }
            }
            self.reuses(world, pod, actions);
        }
        actions.extend((0..world.orphans.len() as u8).map(Action::LateCommit));
        actions.extend([Action::ForeignBegin, Action::ForeignEnd]);
        actions.extend((world.start + 1..=world.log.len() as u8).map(Action::Forget));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        self.step(&mut world, action)?;
        if self.reduced {
            self.reduce(&mut world);
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let broken = |invariant: Invariant, holds: fn(&Self, &World) -> bool| {
            Property::always(invariant.name(), holds)
        };
        let mut properties = vec![
            broken(Invariant::AckedIsCommitted, |_, w| !w.broken.has(Invariant::AckedIsCommitted)),
            broken(Invariant::CommittedOnce, |_, w| !w.broken.has(Invariant::CommittedOnce)),
            broken(Invariant::OneWriter, |_, w| !w.broken.has(Invariant::OneWriter)),
            broken(Invariant::FreshNonce, |_, w| !w.broken.has(Invariant::FreshNonce)),
            broken(Invariant::NumberIsHighest, |_, w| !w.broken.has(Invariant::NumberIsHighest)),
            broken(Invariant::OrderKept, |_, w| !w.broken.has(Invariant::OrderKept)),
            broken(Invariant::NothingAfterClose, |_, w| !w.broken.has(Invariant::NothingAfterClose)),
            broken(Invariant::AnyRedis, |_, w| !(w.redis_lied && w.broken.any())),
        ];
        // A model in which nothing happens keeps every promise.
        properties.push(Property::sometimes(
            "all frames are committed, half of them by an adopter",
            |model: &Self, w: &World| {
                let last = |session| state::has(w.committed(session), model.numbers - 1);
                let adopted = w.last_owner() > Some(0) && matches!(w.log.last(), Some(Record::Group(_)));
                adopted
                    && w.committed(0).count_ones() == model.numbers as u32
                    && (0..model.sessions.into()).all(last)
            },
        ));
        if self.progress {
            properties.push(broken(Invariant::Progress, Self::recovers));
        }
        properties
    }
}
