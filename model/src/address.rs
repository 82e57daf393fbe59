//! Where a session's frames go: replays, copies and changes of source.
//!
//! One session, adoption in one step. Whoever has the datagrams may send them again from its own address at any time, and
//! may be faster than the device's own copy once. (Two copies in a row that are faster are a path of its own: an
//! attacker who forwards everything is a NAT.) It can neither forge a frame nor make the device answer a PING that was
//! sent to somebody else.

use stateright::{Model, Property};

use crate::defence::{Defence, Defences};
use crate::invariant::{Broken, Invariant};

/// A source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Where the device is in the beginning.
    Home,
    /// Where it may move to.
    Away,
    /// The attacker's.
    Attacker,
}

/// The owner's memory of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Highest number taken, plus one.
    pub seen: u8,
    /// Frame `seen` was a control frame.
    pub control: bool,
    /// The DATA that is taken and not committed, the source of its first copy, and of its last one.
    pub pending: Option<(u8, Source, Source)>,
    /// Where the session's frames go, once it is known.
    pub path: Option<Source>,
    /// Where they may go soon.
    pub candidate: Option<Source>,
    /// Numbers that the owner before has taken may be new here.
    pub handed_over: bool,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// Where the device is.
    pub device: Source,
    /// What it has sent: whether each frame is a control frame. The number is the place.
    pub frames: Vec<bool>,
    /// Frames that have reached some owner from the device: bit n is number n.
    pub arrived: u8,
    /// Ledger: highest committed number, plus one.
    pub number: u8,
    /// The owner.
    pub owner: Owner,
    /// The device has moved.
    pub moved: bool,
    /// Copies that may still overtake the device's own.
    pub races: u8,
    /// Adoptions still to come.
    pub adoptions: u8,
    /// Honest copies of the pending frame came from these.
    pub honest: Vec<Source>,
    /// At a commit, an honest copy's source got no UTACK.
    pub unanswered: bool,
    /// What has gone wrong.
    pub broken: Broken,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The device sends its next frame.
    Send {
        /// PING or PONG, or else DATA.
        control: bool,
    },
    /// The device gets another address.
    Move,
    /// A copy of a frame reaches the owner.
    Deliver {
        /// Which frame.
        number: u8,
        /// From where.
        from: Source,
    },
    /// What is pending is committed, UTACKs leave.
    Commit,
    /// The PING to the candidate is answered by a UTACK from there.
    ProbeAnswered,
    /// Another pod adopts the slot.
    Adopt,
}

/// The model with its bounds.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Frames that the device sends.
    pub numbers: u8,
    /// Adoptions.
    pub adoptions: u8,
    /// Copies that overtake the device's own.
    pub races: u8,
    /// The rules in force.
    pub defences: Defences,
}

/// The name of the property that an honest copy's source gets the UTACK as soon as the commit is done.
///
/// It does not hold: of the copies that come before the commit only the first and the last are answered, and an
/// attacker can be both. What holds instead is that the device's next repeat is answered.
pub const AT_ONCE: &str = "every honest copy is answered at the commit";

impl Addresses {
    /// The same model without one of its rules.
    #[must_use]
    pub const fn without(mut self, defence: Defence) -> Self {
        self.defences = Defences::without(defence);
        self
    }

    fn has(&self, defence: Defence) -> bool {
        self.defences.has(defence)
    }

    fn deliver(&self, world: &mut World, number: u8, from: Source) -> Option<()> {
        let control = *world.frames.get(usize::from(number))?;
        let bit = 1 << number;
        let newest = usize::from(number) + 1 == world.frames.len();
        if from == Source::Attacker {
            if world.arrived & bit == 0 {
                world.races = world.races.checked_sub(1)?;
                // Counted once for all its copies.
                world.arrived |= bit;
            }
        } else if from != world.device && world.arrived & bit == 0 || from == Source::Away && !world.moved {
            return None;
        } else {
            world.arrived |= bit;
        }
        let honest = newest && from == world.device;
        let owner = &mut world.owner;
        if number + 1 == owner.seen && owner.control || number + 1 == world.number {
            let to = if self.has(Defence::AckToItsSource) { Some(from) } else { owner.path };
            let answered = !honest || to == Some(from);
            world.broken.require(Invariant::CopiesChangeNothing, answered);
            // It says where to look for the device when nothing else does.
            if owner.path.is_none() && owner.candidate.is_none() {
                owner.candidate = Some(from);
            }
            return Some(());
        }
        if let Some((pending, _, last)) = &mut owner.pending {
            if *pending == number {
                *last = from;
                if honest && !world.honest.contains(&from) {
                    world.honest.push(from);
                }
                return Some(());
            }
            // One at a time is enough here.
            return None;
        }
        if number < owner.seen {
            return None;
        }
        owner.seen = number + 1;
        owner.control = control;
        if !control {
            owner.pending = Some((number, from, from));
            world.honest.extend(honest.then_some(from));
        }
        self.heard(world, from);
        Some(())
    }

    /// A new authentic frame.
    fn heard(&self, world: &mut World, from: Source) {
        let owner = &mut world.owner;
        let proof = owner.handed_over && self.has(Defence::HandedOverNeedsProof);
        if owner.path == Some(from) {
            owner.candidate = None;
        } else if owner.candidate == Some(from) && !proof || !self.has(Defence::AddressNeedsTwo) {
            world.settle(from);
        } else {
            owner.candidate = Some(from);
        }
    }

    fn commit(&self, world: &mut World) -> Option<()> {
        let (number, first, last) = world.owner.pending.take()?;
        world.number = number + 1;
        let honest = std::mem::take(&mut world.honest);
        world.unanswered |= honest.iter().any(|source| ![first, last].contains(source));
        Some(())
    }

    fn step(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Send { control } => {
                if world.frames.len() == usize::from(self.numbers) {
                    return None;
                }
                world.frames.push(control);
                world.honest.clear();
                Some(())
            }
            Action::Move => {
                if std::mem::replace(&mut world.moved, true) {
                    return None;
                }
                world.device = Source::Away;
                Some(())
            }
            Action::Deliver { number, from } => self.deliver(world, number, from),
            Action::Commit => self.commit(world),
            Action::ProbeAnswered => {
                // Only the device can, and only where it is.
                let candidate = world.owner.candidate.filter(|source| *source == world.device)?;
                world.settle(candidate);
                Some(())
            }
            Action::Adopt => {
                world.adoptions = world.adoptions.checked_sub(1)?;
                world.owner = Owner { seen: world.number, handed_over: true, ..Owner::NEW };
                world.honest.clear();
                Some(())
            }
        }
    }

    /// With nobody else about: the device's next repeat is answered where it is, and its frames find the way there.
    fn recovers(&self, world: &World) -> bool {
        let mut world = world.clone();
        let deep = Self { numbers: 7, ..self.clone() };
        let from = world.device;
        for _ in 0..2 {
            let _ = deep.step(&mut world, Action::Send { control: false });
            let number = world.frames.len() as u8 - 1;
            for action in
                [Action::Commit, Action::Deliver { number, from }, Action::ProbeAnswered, Action::Commit]
            {
                let _ = deep.step(&mut world, action);
            }
            let _ = deep.step(&mut world, Action::Deliver { number, from });
            if world.number != number + 1 || world.broken.has(Invariant::CopiesChangeNothing) {
                return false;
            }
        }
        world.owner.path == Some(from)
    }
}

impl Owner {
    const NEW: Self =
        Self { seen: 0, control: false, pending: None, path: None, candidate: None, handed_over: false };
}

impl World {
    fn settle(&mut self, source: Source) {
        self.owner.path = Some(source);
        self.owner.candidate = None;
        self.broken.require(Invariant::CopiesChangeNothing, source != Source::Attacker);
    }
}

impl Model for Addresses {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            device: Source::Home,
            frames: Vec::new(),
            arrived: 0,
            number: 0,
            owner: Owner { path: Some(Source::Home), ..Owner::NEW },
            moved: false,
            races: self.races,
            adoptions: self.adoptions,
            honest: Vec::new(),
            unanswered: false,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend([Action::Send { control: false }, Action::Send { control: true }, Action::Move]);
        actions.extend([Action::Commit, Action::ProbeAnswered, Action::Adopt]);
        for number in 0..world.frames.len() as u8 {
            let sources = [Source::Home, Source::Away, Source::Attacker];
            actions.extend(sources.map(|from| Action::Deliver { number, from }));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        self.step(&mut world, action)?;
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = |i: Invariant, holds: fn(&Self, &World) -> bool| Property::always(i.name(), holds);
        vec![
            always(Invariant::CopiesChangeNothing, |_, w| !w.broken.has(Invariant::CopiesChangeNothing)),
            always(Invariant::Progress, Self::recovers),
            Property::sometimes("the session follows its device", |_, w: &World| {
                w.owner.path == Some(Source::Away)
            }),
        ]
    }
}

/// The same model with the property [`AT_ONCE`] alone.
#[derive(Debug, Clone)]
pub struct AtOnce(pub Addresses);

impl Model for AtOnce {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.0.init_states()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.0.actions(world, actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        self.0.next_state(last, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(AT_ONCE, |_, w: &World| !w.unanswered)]
    }
}
