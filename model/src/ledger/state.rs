//! One slot: its ledger, its pods, and what Redis ever held.

use crate::invariant::Broken;

/// Sessions in the state. A model may use fewer.
pub const SESSIONS: usize = 2;

/// A sequence number, `NONE` before the first.
pub type Number = i8;

/// Before the first sequence number.
pub const NONE: Number = -1;

/// Set of sequence numbers: bit n is number n.
pub type Mask = u8;

/// What a ledger record says of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Note {
    /// Nothing.
    Nothing,
    /// All there is to know: at the opening, and again before the topic forgets it.
    State {
        /// Highest sequence taken.
        number: Number,
        /// It must not be acked: its record was not published as a message.
        silent: bool,
    },
    /// Another number is used up. Says nothing about a session whose state is not known.
    Number {
        /// Highest sequence taken.
        number: Number,
        /// It must not be acked.
        silent: bool,
    },
    /// Closed.
    Closed,
}

/// One committed transaction, or an Owner record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    /// A pod took the slot over.
    Owner {
        /// Whose it is.
        pod: u8,
    },
    /// A group commit: messages and ledger entries.
    Group(Group),
}

/// A group of messages with what the ledger says of their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// Offset of the writer's Owner record.
    pub owner: u8,
    /// The writer's generation.
    pub generation: u8,
    /// Messages, by session.
    pub data: [Mask; SESSIONS],
    /// Ledger entries, by session.
    pub notes: [Note; SESSIONS],
}

/// What a pod or a snapshot holds of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Known {
    /// Never opened here, or closed.
    Not,
    /// Open.
    Live {
        /// Highest committed sequence.
        number: Number,
        /// It is consumed, but not acked.
        silent: bool,
    },
}

/// The ledger folded up to some offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Owner records so far.
    pub generation: u8,
    /// Sessions.
    pub sessions: [Known; SESSIONS],
}

impl Table {
    /// Before the first record.
    pub const EMPTY: Self = Self { generation: 0, sessions: [Known::Not; SESSIONS] };

    /// Takes one record in. An Owner record is written before the ledger is read, so it cannot carry a generation: it
    /// counts one.
    pub fn fold(&mut self, record: &Record) {
        match record {
            Record::Owner { .. } => self.generation += 1,
            Record::Group(group) => {
                self.generation = group.generation;
                self.apply(&group.notes);
            }
        }
    }

    /// Takes the notes of one group in.
    pub fn apply(&mut self, notes: &[Note; SESSIONS]) {
        for (known, note) in self.sessions.iter_mut().zip(notes) {
            match *note {
                Note::Nothing => {}
                Note::Number { .. } if *known == Known::Not => {}
                Note::State { number, silent } | Note::Number { number, silent } => {
                    *known = Known::Live { number, silent };
                }
                Note::Closed => *known = Known::Not,
            }
        }
    }
}

/// A transaction that is not yet decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Transaction {
    /// Producer epoch it was begun with.
    pub epoch: u8,
    /// What it holds.
    pub group: Group,
    /// Only without `JournalInTransaction`: the messages are committed, the entries are not.
    pub half: bool,
}

/// An owner's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serving {
    /// Producer epoch.
    pub epoch: u8,
    /// Offset of the own Owner record.
    pub owner: u8,
    /// Offset that `table` stands for.
    pub at: u8,
    /// What is committed, as far as this pod knows.
    pub table: Table,
    /// Taken and not committed, by session.
    pub pending: [Mask; SESSIONS],
    /// Of these, what can never be published.
    pub dead: [Mask; SESSIONS],
    /// Of what is committed: numbers that are in no entry and in no topic.
    pub skipped: [Mask; SESSIONS],
    /// Sessions whose state goes into the next group.
    pub restating: [bool; SESSIONS],
    /// Sessions to close with the next group.
    pub closing: [bool; SESSIONS],
    /// The group under way.
    pub transaction: Option<Transaction>,
    /// Frames sealed in this generation.
    pub sealed: u8,
}

/// What a pod is to the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Nothing: never was, gave it up, or has just been started.
    Idle,
    /// Has fenced, and has not committed an Owner record.
    Fenced {
        /// Producer epoch.
        epoch: u8,
        /// Frames sealed too early (only without `SealAfterOwner`).
        sealed: u8,
    },
    /// Its Owner record is committed; it has not read the ledger.
    Reading {
        /// Producer epoch.
        epoch: u8,
        /// Offset of the own Owner record.
        owner: u8,
    },
    /// Serves, and may be wrong in thinking so.
    Serving(Serving),
}

/// A snapshot of the slot in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Snapshot {
    /// Offset it stands for.
    pub at: u8,
    /// What it holds.
    pub table: Table,
}

/// How often things may still happen. Bounds the state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Left {
    /// Attempts to adopt.
    pub adoptions: u8,
    /// Processes killed.
    pub crashes: u8,
    /// Commits whose outcome their pod never learns.
    pub unknown: u8,
    /// Snapshots written.
    pub snapshots: u8,
    /// Transactions of somebody else in the slot's partition.
    pub foreign: u8,
    /// Records that can never be published.
    pub dead: u8,
    /// Sessions closed by their owner.
    pub closes: u8,
    /// Frames sealed for a device.
    pub seals: u8,
    /// Times that the topic forgets its oldest records.
    pub retention: u8,
    /// Sessions whose state is said again.
    pub restates: u8,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The slot's partition together with the messages committed in the same transactions, without what was aborted.
    pub log: Vec<Record>,
    /// The topic has forgotten the records before this one.
    pub start: u8,
    /// Producer epoch that the broker accepts.
    pub epoch: u8,
    /// Somebody else's open transaction holds the last stable offset here.
    pub foreign: Option<u8>,
    /// Commits on their way whose pod no longer waits for the answer.
    pub orphans: Vec<Transaction>,
    /// Pods.
    pub pods: Vec<Role>,
    /// Every snapshot ever written. Redis may answer with any of them, or none.
    pub redis: Vec<Snapshot>,
    /// (generation, counter) of every frame sealed.
    pub nonces: Vec<(u8, u8)>,
    /// What may still happen.
    pub left: Left,
    /// Redis has answered with something other than what was written last.
    pub redis_lied: bool,
    /// What has gone wrong.
    pub broken: Broken,
}

impl World {
    /// Offset of the newest Owner record.
    #[must_use]
    pub fn last_owner(&self) -> Option<u8> {
        self.log.iter().rposition(|r| matches!(r, Record::Owner { .. })).map(|at| at as u8)
    }

    /// Offset after the last committed record that a reader of committed records gets.
    #[must_use]
    pub fn stable(&self) -> u8 {
        self.foreign.unwrap_or(self.log.len() as u8)
    }

    /// Messages of `session` that are committed.
    #[must_use]
    pub fn committed(&self, session: usize) -> Mask {
        self.groups().fold(0, |sum, group| sum | group.data[session])
    }

    /// Highest number of `session` in the log, taken as message or consumed.
    #[must_use]
    pub fn highest(&self, session: usize) -> Number {
        self.groups().fold(NONE, |high, group| {
            let noted = match group.notes[session] {
                Note::Number { number, .. } | Note::State { number, .. } => number,
                _ => NONE,
            };
            high.max(noted).max(highest(group.data[session]))
        })
    }

    /// Whether the log says that `session` is closed.
    #[must_use]
    pub fn closed(&self, session: usize) -> bool {
        self.groups().any(|group| group.notes[session] == Note::Closed)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.log.iter().filter_map(|record| match record {
            Record::Group(group) => Some(group),
            Record::Owner { .. } => None,
        })
    }
}

/// Highest number of a set.
pub(super) const fn highest(mask: Mask) -> Number {
    7 - mask.leading_zeros() as Number
}

/// Lowest number of a set that is not empty.
pub(super) const fn lowest(mask: Mask) -> Number {
    mask.trailing_zeros() as Number
}

/// Whether `number` is in the set.
pub(super) const fn has(mask: Mask, number: Number) -> bool {
    number >= 0 && mask & (1 << number) != 0
}
