//! REKEY through adoptions, with a Redis that answers with any session record ever written, or none.
//!
//! One session, two pods, adoption in one step. The pod that lost the slot goes on: the broker refuses its commits, but
//! nobody refuses what it writes to Redis.
//!
//! Left out, because no server can help (WIRE.md, W11): a device that gives up a REKEY which the owner has taken.

use stateright::{Model, Property};

use crate::defence::{Defence, Defences};
use crate::invariant::{Broken, Invariant};

/// Names the key of an epoch: 0 for the first, n + 1 for that of the REKEY numbered n.
type Key = u8;

/// A frame that the device has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// Its key.
    pub key: Key,
    /// Its sequence.
    pub number: u8,
    /// REKEY, or else DATA.
    pub rekey: bool,
}

/// A session record in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Rekey epoch.
    pub epoch: u8,
    /// The keys of that epoch. Those before are kept, too.
    pub key: Key,
}

/// What the ledger says of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Rekey epoch.
    pub epoch: u8,
    /// Which REKEY began it: the key it gave.
    pub key: Key,
    /// Highest committed number of the epoch, plus one.
    pub number: u8,
    /// Closed by an owner.
    pub closed: bool,
}

/// How far a REKEY has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// There is none.
    Nothing,
    /// Taken.
    Taken(u8),
    /// Its keys are in Redis.
    Persisted(u8),
}

/// A pod that has the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The keys, once a record is loaded.
    pub key: Option<Key>,
    /// Epoch.
    pub epoch: u8,
    /// Highest committed number, plus one.
    pub number: u8,
    /// Highest taken number, plus one.
    pub seen: u8,
    /// DATA taken and not committed.
    pub pending: u8,
    /// The REKEY under way.
    pub rekey: Stage,
    /// The slot's generation when this pod adopted it.
    pub generation: u8,
    /// The epoch of `key` is in the ledger, its record in Redis: what is still owed of a REKEY that took effect early.
    pub owes: Stage,
}

/// The device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The key it seals with.
    pub key: Key,
    /// Its next sequence.
    pub next: u8,
    /// The REKEY it waits for.
    pub rekey: Option<u8>,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The device.
    pub device: Device,
    /// All it has sent.
    pub frames: Vec<Frame>,
    /// REKEYs whose UTACK has left.
    pub rekeyed: u8,
    /// The ledger.
    pub entry: Entry,
    /// Messages in the topic.
    pub log: Vec<Frame>,
    /// Records ever written. The last one is what an honest Redis answers with.
    pub redis: Vec<Record>,
    /// Index of the record written last.
    pub newest: u8,
    /// Generation of its writer.
    pub newest_generation: u8,
    /// Generation of the slot.
    pub generation: u8,
    /// Redis has answered with another one.
    pub redis_lied: bool,
    /// Pods.
    pub pods: [Option<Holder>; 2],
    /// Whose slot it is.
    pub owner: u8,
    /// Adoptions still to come.
    pub adoptions: u8,
    /// What has gone wrong.
    pub broken: Broken,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The device sends a frame, giving up the one before if need be.
    Send {
        /// REKEY, or else DATA.
        rekey: bool,
    },
    /// The device gets the UTACK of its REKEY and switches.
    Switch,
    /// A frame reaches a pod: first copy, repeat or replay.
    Deliver {
        /// The pod.
        pod: u8,
        /// The frame.
        frame: u8,
    },
    /// The pod writes the record that its REKEY needs.
    Persist(u8),
    /// The pod commits the epoch of its REKEY.
    Journal(u8),
    /// The pod commits what is pending, and UTACKs leave.
    Commit(u8),
    /// Another pod adopts the slot, or the same one again.
    Adopt(u8),
    /// The pod loads the session's record.
    Load {
        /// The pod.
        pod: u8,
        /// What Redis answers with.
        record: Option<u8>,
    },
}

/// The model with its bounds.
#[derive(Debug, Clone)]
pub struct Rekeys {
    /// Sequences per epoch.
    pub numbers: u8,
    /// Adoptions.
    pub adoptions: u8,
    /// The rules in force.
    pub defences: Defences,
}

/// The name of the property that a session is only closed if Redis has forgotten.
pub const KEPT: &str = "a session is kept while Redis is honest";

impl Rekeys {
    /// The same model without one of its rules.
    #[must_use]
    pub const fn without(mut self, defence: Defence) -> Self {
        self.defences = Defences::without(defence);
        self
    }

    fn has(&self, defence: Defence) -> bool {
        self.defences.has(defence)
    }

    fn send(&self, world: &mut World, rekey: bool) -> Option<()> {
        let Device { key, next, .. } = world.device;
        // One REKEY is enough to have two epochs.
        if next >= self.numbers || rekey && key != 0 {
            return None;
        }
        if let Some(waiting) = world.device.rekey {
            let taken = |h: &Holder| matches!(h.rekey, Stage::Taken(n) | Stage::Persisted(n) if n == waiting);
            let owner = world.pods[usize::from(world.owner)].as_ref();
            if world.entry.key == waiting + 1 || owner.is_some_and(|h| taken(h) || h.key == Some(waiting + 1))
            {
                return None;
            }
        }
        world.frames.push(Frame { key, number: next, rekey });
        world.device.next += 1;
        world.device.rekey = rekey.then_some(next);
        Some(())
    }

    fn deliver(&self, world: &mut World, pod: u8, frame: u8) -> Option<()> {
        let frame = *world.frames.get(usize::from(frame))?;
        let device_waits = world.device.rekey == Some(frame.number) && world.device.key == 0;
        let entry = world.entry;
        let is_owner = world.owner == pod;
        let holder = world.pods[usize::from(pod)].as_mut()?;
        let key = holder.key?;
        // The repeat of a REKEY that took effect opens under the key before.
        if frame.rekey && key == frame.number + 1 {
            world.ack_rekey(frame.number);
            return Some(());
        }
        if frame.key != key {
            return None;
        }
        if frame.number + 1 == holder.number {
            if !frame.rekey {
                world.ack(frame);
            }
            return Some(());
        }
        let busy = holder.rekey != Stage::Nothing;
        if frame.number < holder.seen || busy {
            return None;
        }
        if frame.rekey && (!device_waits || holder.owes != Stage::Nothing) {
            return None;
        }
        holder.seen = frame.number + 1;
        let highest = !is_owner || (holder.number == entry.number && holder.epoch == entry.epoch);
        if frame.rekey {
            holder.rekey = Stage::Taken(frame.number);
        } else {
            holder.pending |= 1 << frame.number;
        }
        world.broken.require(Invariant::NumberIsHighest, highest);
        if frame.rekey && !self.has(Defence::RekeyJournaledFirst) {
            self.switch(world, pod, frame.number, Stage::Taken(frame.number));
        }
        Some(())
    }

    /// The new keys take effect and the UTACK leaves.
    fn switch(&self, world: &mut World, pod: u8, number: u8, owes: Stage) {
        if let Some(holder) = &mut world.pods[usize::from(pod)] {
            let epoch = holder.epoch + 1;
            let generation = holder.generation;
            *holder = Holder { key: Some(number + 1), epoch, owes, generation, ..Holder::EMPTY };
        }
        world.ack_rekey(number);
    }

    fn persist(&self, world: &mut World, pod: u8) -> Option<()> {
        let holder = world.pods[usize::from(pod)].as_mut()?;
        let (epoch, number) = match (holder.rekey, holder.owes) {
            (Stage::Taken(number), _) => (holder.epoch + 1, number),
            (_, Stage::Taken(number)) => (holder.epoch, number),
            _ => return None,
        };
        if holder.generation < world.newest_generation && self.has(Defence::RecordWritesFenced) {
            return None;
        }
        world.newest_generation = holder.generation;
        if holder.rekey == Stage::Taken(number) {
            holder.rekey = Stage::Persisted(number);
        } else {
            holder.owes = Stage::Persisted(number);
        }
        let record = Record { epoch, key: number + 1 };
        let at = world.redis.iter().position(|r| *r == record).unwrap_or(world.redis.len());
        if at == world.redis.len() {
            world.redis.push(record);
        }
        world.newest = at as u8;
        Some(())
    }

    fn journal(&self, world: &mut World, pod: u8) -> Option<()> {
        let is_owner = world.owner == pod;
        let holder = world.pods[usize::from(pod)].as_mut()?;
        let (number, early) = match (holder.rekey, holder.owes) {
            (Stage::Persisted(number), _) => (number, false),
            (Stage::Taken(number), _) if !self.has(Defence::RekeyPersistedFirst) => (number, false),
            (_, Stage::Persisted(number)) if !self.has(Defence::RekeyJournaledFirst) => (number, true),
            _ => return None,
        };
        if holder.pending != 0 && !early {
            return None;
        }
        if !is_owner {
            world.pods[usize::from(pod)] = None;
            return Some(());
        }
        if early {
            holder.owes = Stage::Nothing;
            world.entry = Entry { epoch: holder.epoch, key: number + 1, number: 0, closed: false };
        } else {
            let owes =
                if holder.rekey == Stage::Taken(number) { Stage::Taken(number) } else { Stage::Nothing };
            world.entry = Entry { epoch: holder.epoch + 1, key: number + 1, number: 0, closed: false };
            self.switch(world, pod, number, owes);
        }
        Some(())
    }

    fn commit(&self, world: &mut World, pod: u8) -> Option<()> {
        let is_owner = world.owner == pod;
        let holder = world.pods[usize::from(pod)].as_mut()?;
        let key = holder.key?;
        let pending = std::mem::take(&mut holder.pending);
        if pending == 0 || holder.owes != Stage::Nothing && !self.has(Defence::RekeyJournaledFirst) {
            return None;
        }
        if !is_owner {
            world.pods[usize::from(pod)] = None;
            return Some(());
        }
        holder.number = 8 - pending.leading_zeros() as u8;
        (world.entry.epoch, world.entry.number) = (holder.epoch, holder.number);
        for number in (0..self.numbers).filter(|n| pending & (1 << n) != 0) {
            let message = Frame { key, number, rekey: false };
            let same = |m: &Frame| *m == message || self.id(m) == self.id(&message);
            world.broken.require(Invariant::CommittedOnce, !world.log.iter().any(same));
            world.log.push(message);
            world.ack(message);
        }
        world.log.sort_unstable();
        Some(())
    }

    /// What identifies a record to readers, beside the session.
    fn id(&self, message: &Frame) -> (u8, u8) {
        let epoch = u8::from(message.key != 0 && self.has(Defence::EpochInId));
        (epoch, message.number)
    }

    fn adopt(&self, world: &mut World, pod: u8) -> Option<()> {
        world.adoptions = world.adoptions.checked_sub(1)?;
        world.owner = pod;
        world.generation += 1;
        let generation = world.generation;
        let Entry { epoch, number, closed, .. } = world.entry;
        let holder = Holder { epoch, number, seen: number, generation, ..Holder::EMPTY };
        world.pods[usize::from(pod)] = (!closed).then_some(holder);
        Some(())
    }

    fn load(&self, world: &mut World, pod: u8, record: Option<u8>) -> Option<()> {
        let entry = world.entry;
        let is_owner = world.owner == pod;
        let holder = world.pods[usize::from(pod)].as_mut().filter(|h| h.key.is_none())?;
        world.redis_lied |= record != Some(world.newest);
        let found = record.map(|at| world.redis[usize::from(at)]);
        let named = |key: Key| key == entry.key || !self.has(Defence::RekeyNamed);
        let key = found.and_then(|record| {
            if record.epoch == holder.epoch {
                Some(record.key).filter(|key| named(*key))
            } else if record.epoch == holder.epoch + 1 {
                // Persisted, and never journaled: the keys before are the right ones.
                Some(0).filter(|key| named(*key))
            } else {
                (!self.has(Defence::OlderRecordCloses)).then_some(record.key)
            }
        });
        if key.is_some() {
            holder.key = key;
        } else {
            world.pods[usize::from(pod)] = None;
            world.entry.closed |= is_owner;
        }
        Some(())
    }

    fn step(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Send { rekey } => self.send(world, rekey),
            Action::Switch => {
                let number = world.device.rekey.filter(|n| world.rekeyed & (1 << n) != 0)?;
                world.device = Device { key: number + 1, next: 0, rekey: None };
                Some(())
            }
            Action::Deliver { pod, frame } => self.deliver(world, pod, frame),
            Action::Persist(pod) => self.persist(world, pod),
            Action::Journal(pod) => self.journal(world, pod),
            Action::Commit(pod) => self.commit(world, pod),
            Action::Adopt(pod) => self.adopt(world, pod),
            Action::Load { pod, record } => self.load(world, pod, record),
        }
    }

    /// With no more faults, the owner or (if it is gone) pod 0 and an honest Redis: does the device get its REKEY and
    /// then a message through, or is the session closed?
    fn recovers(&self, world: &World) -> bool {
        let mut world = world.clone();
        let deep = Self { numbers: 7, ..self.clone() };
        if world.pods[usize::from(world.owner)].is_none() {
            world.adoptions = 1;
            let _ = deep.step(&mut world, Action::Adopt(0));
        }
        let pod = world.owner;
        let newest = Some(world.newest);
        let _ = deep.step(&mut world, Action::Load { pod, record: newest });
        if world.entry.closed {
            return true;
        }
        for _ in 0..2 {
            let _ = deep.step(&mut world, Action::Send { rekey: false });
            let _ = deep.step(&mut world, Action::Commit(pod));
            for frame in 0..world.frames.len() as u8 {
                let _ = deep.step(&mut world, Action::Deliver { pod, frame });
            }
            for action in [Action::Commit(pod), Action::Persist(pod), Action::Journal(pod), Action::Switch] {
                let _ = deep.step(&mut world, action);
            }
        }
        let Device { key, next, .. } = world.device;
        world.log.iter().any(|m| m.key == key && m.number + 1 == next)
    }
}

impl Holder {
    const EMPTY: Self = Self {
        key: None,
        epoch: 0,
        number: 0,
        seen: 0,
        pending: 0,
        rekey: Stage::Nothing,
        generation: 0,
        owes: Stage::Nothing,
    };
}

impl World {
    fn ack(&mut self, message: Frame) {
        self.broken.require(Invariant::AckedIsCommitted, self.log.contains(&message));
    }

    /// A device that gets it switches.
    fn ack_rekey(&mut self, number: u8) {
        self.rekeyed |= 1 << number;
        self.broken.require(Invariant::AckedIsCommitted, self.entry.key == number + 1);
    }
}

impl Model for Rekeys {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            device: Device { key: 0, next: 0, rekey: None },
            frames: Vec::new(),
            rekeyed: 0,
            entry: Entry { epoch: 0, key: 0, number: 0, closed: false },
            log: Vec::new(),
            redis: vec![Record { epoch: 0, key: 0 }],
            newest: 0,
            newest_generation: 0,
            generation: 0,
            redis_lied: false,
            pods: [Some(Holder { key: Some(0), ..Holder::EMPTY }), None],
            owner: 0,
            adoptions: self.adoptions,
            broken: Broken::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend([Action::Send { rekey: false }, Action::Send { rekey: true }, Action::Switch]);
        for pod in 0..2 {
            actions.extend([
                Action::Persist(pod),
                Action::Journal(pod),
                Action::Commit(pod),
                Action::Adopt(pod),
            ]);
            actions.extend((0..world.frames.len() as u8).map(|frame| Action::Deliver { pod, frame }));
            let records = (0..world.redis.len() as u8).map(Some).chain([None]);
            actions.extend(records.map(|record| Action::Load { pod, record }));
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
            always(Invariant::AckedIsCommitted, |_, w| !w.broken.has(Invariant::AckedIsCommitted)),
            always(Invariant::CommittedOnce, |_, w| !w.broken.has(Invariant::CommittedOnce)),
            always(Invariant::NumberIsHighest, |_, w| !w.broken.has(Invariant::NumberIsHighest)),
            always(Invariant::Progress, Self::recovers),
            always(Invariant::AnyRedis, |_, w| !(w.redis_lied && w.broken.any())),
            Property::always(KEPT, |_, w: &World| w.redis_lied || !w.entry.closed),
            Property::sometimes("both epochs have messages", |_, w: &World| {
                w.log.iter().any(|m| m.key == 0) && w.log.iter().any(|m| m.key != 0)
            }),
        ]
    }
}
