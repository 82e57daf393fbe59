//! Messages of several frames through adoptions.
//!
//! One session, and adoption in one step: that numbers and owners are right is shown by [`ledger`](crate::ledger). The
//! device is modelled as it is: stop and wait, the next frame of a message only after the UTACK of the one before,
//! numbers burned by giving up.
//!
//! Left out, because no receiver can tell (WIRE.md, W13): a device that gives up a fragment whose UTACK has left, and a
//! fragment that arrives for the first time when the device has given it up. That the owner's clock shows when a
//! device's patience with a fragment is over is taken for granted.

use stateright::{Model, Property};

use crate::defence::{Defence, Defences};
use crate::invariant::{Broken, Invariant};

/// Set of sequence numbers: bit n is number n.
type Mask = u16;

/// A frame that the device has sent. Its number is its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// DATA_FRAG, or else DATA.
    pub fragment: bool,
    /// Number of the first frame of its message.
    pub first: u8,
    /// The device has given it up.
    pub given_up: bool,
}

/// What is taken and not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Sequence.
    pub number: u8,
    /// Frames in it; none for a fragment, which is only journaled.
    pub content: Mask,
}

/// The owner's memory of the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// Highest number taken, plus one.
    pub seen: u8,
    /// A message broke off at the committed number.
    pub interrupted: bool,
    /// Fragments of the message in the making.
    pub held: Mask,
    /// Taken and not committed, in order.
    pub pending: Vec<Pending>,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// What the device has sent.
    pub frames: Vec<Frame>,
    /// Numbers whose UTACK has left.
    pub acked: Mask,
    /// Ledger: highest committed number, plus one.
    pub number: u8,
    /// Ledger: that is a fragment of a message that goes on.
    pub open: bool,
    /// Messages in the topic: number of the last frame, and the frames in it.
    pub log: Vec<(u8, Mask)>,
    /// The owner.
    pub owner: Owner,
    /// Adoptions still to come.
    pub adoptions: u8,
    /// What has gone wrong.
    pub broken: Broken,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The device sends the next frame: of the message under way, or the first of a new one.
    Send {
        /// More frames of this message will follow.
        fragment: bool,
    },
    /// The device gives its last frame up, and with it the message.
    GiveUp,
    /// A frame reaches the owner: first copy, repeat or replay.
    Deliver(u8),
    /// All that is pending is committed, UTACKs leave.
    Commit,
    /// All that is pending is committed, and the owner dies before any UTACK leaves.
    CommitAndDie,
    /// Another pod adopts the session's slot.
    Adopt,
}

/// The model with its bounds.
#[derive(Debug, Clone)]
pub struct Fragments {
    /// Frames that the device sends.
    pub numbers: u8,
    /// Adoptions.
    pub adoptions: u8,
    /// The rules in force.
    pub defences: Defences,
}

impl Fragments {
    /// The same model without one of its rules.
    #[must_use]
    pub const fn without(mut self, defence: Defence) -> Self {
        self.defences = Defences::without(defence);
        self
    }

    fn send(&self, world: &mut World, fragment: bool) -> Option<()> {
        let number = world.frames.len() as u8;
        if number == self.numbers {
            return None;
        }
        let first = match world.frames.last() {
            Some(last) if last.fragment && !last.given_up => {
                // Stop and wait.
                if world.acked & (1 << (number - 1)) == 0 {
                    return None;
                }
                last.first
            }
            _ => number,
        };
        world.frames.push(Frame { fragment, first, given_up: false });
        Some(())
    }

    fn deliver(&self, world: &mut World, number: u8) -> Option<()> {
        let frame = *world.frames.get(usize::from(number))?;
        let owner = &mut world.owner;
        if number + 1 == world.number {
            world.ack(number);
            return Some(());
        }
        if number < owner.seen || frame.given_up && frame.fragment {
            return None;
        }
        if owner.interrupted && number == world.number && self.defences.has(Defence::InterruptedRefused) {
            return None;
        }
        let follows = owner.held != 0 && owner.held & (1 << (number - 1)) != 0;
        let in_turn = follows || !self.defences.has(Defence::GapBeginsAnew);
        let acked = !self.defences.has(Defence::ContinuesWhatIsAcked)
            || number == 0
            || world.acked & (1 << (number - 1)) != 0
            || !follows;
        let content = if in_turn && acked { owner.held | 1 << number } else { 1 << number };
        owner.seen = number + 1;
        if frame.fragment {
            owner.held = content;
            owner.pending.push(Pending { number, content: 0 });
            if !self.defences.has(Defence::FragmentAckAfterCommit) {
                world.ack(number);
            }
        } else {
            owner.held = 0;
            owner.pending.push(Pending { number, content });
        }
        Some(())
    }

    fn commit(&self, world: &mut World, answered: bool) -> Option<()> {
        let pending = std::mem::take(&mut world.owner.pending);
        let last = pending.last()?;
        (world.number, world.open) = (last.number + 1, last.content == 0);
        let late = last.content == 0 && world.frames[usize::from(last.number)].given_up;
        world.owner.interrupted = late && self.defences.has(Defence::LateFragmentBroken);
        if world.owner.interrupted {
            world.owner.held = 0;
        }
        for Pending { number, content } in &pending {
            if *content != 0 {
                world.broken.require(Invariant::CommittedOnce, world.log.iter().all(|(n, _)| n != number));
                world.broken.require(Invariant::OrderKept, world.log.iter().all(|(n, _)| n < number));
                world.log.push((*number, *content));
            }
        }
        for Pending { number, .. } in pending {
            if answered {
                world.ack(number);
            }
        }
        Some(())
    }

    fn adopt(&self, world: &mut World) -> Option<()> {
        world.adoptions = world.adoptions.checked_sub(1)?;
        world.owner = Owner { seen: world.number, interrupted: world.open, ..Owner::default() };
        Some(())
    }

    fn step(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Send { fragment } => self.send(world, fragment),
            Action::GiveUp => {
                let number = world.frames.len() - 1;
                let acked = world.acked & (1 << number) != 0;
                let last = world.frames.last_mut().filter(|f| f.fragment && !acked)?;
                last.given_up = true;
                Some(())
            }
            Action::Deliver(number) => self.deliver(world, number),
            Action::Commit => self.commit(world, true),
            Action::CommitAndDie => {
                self.commit(world, false)?;
                self.adopt(world)
            }
            Action::Adopt => self.adopt(world),
        }
    }

    /// Whether a device that goes on with messages of one frame gets one through. It may have to give one up, which
    /// looks to the owner like the rest of a message that broke off.
    fn recovers(&self, world: &World) -> bool {
        let mut world = world.clone();
        let deep = Self { numbers: u8::MAX, ..self.clone() };
        let _ = deep.step(&mut world, Action::Commit);
        (0..2).any(|_| {
            if let Some(last) = world.frames.last_mut() {
                last.given_up |= last.fragment;
            }
            let number = world.frames.len() as u8;
            let _ = deep.step(&mut world, Action::Send { fragment: false });
            let _ = deep.step(&mut world, Action::Deliver(number));
            let _ = deep.step(&mut world, Action::Commit);
            world.acked & (1 << number) != 0
        })
    }
}

impl World {
    /// A UTACK leaves.
    fn ack(&mut self, number: u8) {
        self.acked |= 1 << number;
        let frame = self.frames[usize::from(number)];
        if frame.fragment {
            return;
        }
        let whole = (frame.first..=number).fold(0, |mask, n| mask | 1 << n);
        let stored = self.log.iter().find(|(n, _)| *n == number).map_or(0, |(_, content)| *content);
        self.broken.require(Invariant::AckedIsCommitted, stored == whole);
        self.broken.require(Invariant::WholeMessages, stored & whole == whole);
    }
}

impl Model for Fragments {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            frames: Vec::new(),
            acked: 0,
            number: 0,
            open: false,
            log: Vec::new(),
            owner: Owner::default(),
            adoptions: self.adoptions,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend([Action::Send { fragment: false }, Action::Send { fragment: true }]);
        actions.extend([Action::Commit, Action::CommitAndDie, Action::Adopt]);
        if !world.frames.is_empty() {
            actions.push(Action::GiveUp);
        }
        actions.extend((0..world.frames.len() as u8).map(Action::Deliver));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        self.step(&mut world, action)?;
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = |i: Invariant, holds: fn(&Self, &World) -> bool| Property::always(i.name(), holds);
        vec![
            always(Invariant::AckedIsCommitted, |_, w| !w.broken.has(Invariant::AckedIsCommitted)),
            always(Invariant::CommittedOnce, |_, w| !w.broken.has(Invariant::CommittedOnce)),
            always(Invariant::OrderKept, |_, w| !w.broken.has(Invariant::OrderKept)),
            always(Invariant::WholeMessages, |_, w| !w.broken.has(Invariant::WholeMessages)),
            always(Invariant::Progress, Self::recovers),
            Property::sometimes("a message of three frames is acked", |_, w: &World| {
                w.log.iter().any(|(n, content)| content.count_ones() == 3 && w.acked & (1 << n) != 0)
            }),
        ]
    }
}
