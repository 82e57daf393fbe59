//! What must hold in every state, and the bits that say what did not.

use std::fmt;

/// An invariant of many pods. Each is a named property of every model it makes sense in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Invariant {
    /// A UTACK for (session, epoch, sequence) implies that exactly that whole message is committed.
    AckedIsCommitted = 1,
    /// Each message is committed at most once, under an id of its own.
    CommittedOnce = 2,
    /// After an Owner record no earlier owner commits.
    OneWriter = 3,
    /// No (key, sending sequence) is used for two plaintexts.
    FreshNonce = 4,
    /// The owner's number is the highest committed one whenever it accepts.
    NumberIsHighest = 5,
    /// Committed sequences of a session rise in log order.
    OrderKept = 6,
    /// Forged, replayed or copied datagrams change neither owner, number, epoch nor settled address, and every
    /// honest copy's UTACK also goes to its own source.
    CopiesChangeNothing = 7,
    /// Nothing is committed after a session's close.
    NothingAfterClose = 8,
    /// No message with a missing fragment is acked.
    WholeMessages = 9,
    /// If some pod reaches Kafka and the device keeps sending, it is acked or its session is closed, and the
    /// readers' last stable offset advances.
    Progress = 10,
    /// All of this holds for any content of Redis.
    AnyRedis = 11,
}

impl Invariant {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::AckedIsCommitted,
        Self::CommittedOnce,
        Self::OneWriter,
        Self::FreshNonce,
        Self::NumberIsHighest,
        Self::OrderKept,
        Self::CopiesChangeNothing,
        Self::NothingAfterClose,
        Self::WholeMessages,
        Self::Progress,
        Self::AnyRedis,
    ];

    /// The name of the property in the checker.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckedIsCommitted => "I1 acked is committed",
            Self::CommittedOnce => "I2 committed once",
            Self::OneWriter => "I3 one writer after an Owner record",
            Self::FreshNonce => "I4 no nonce twice",
            Self::NumberIsHighest => "I5 number is the highest committed",
            Self::OrderKept => "I6 order kept",
            Self::CopiesChangeNothing => "I7 copies change nothing",
            Self::NothingAfterClose => "I8 nothing after close",
            Self::WholeMessages => "I9 whole messages",
            Self::Progress => "I10 progress",
            Self::AnyRedis => "I11 any content of Redis",
        }
    }
}

/// Invariants that an event has broken on the way to a state.
///
/// Most invariants speak of an event (an ack leaves, a record is committed), so they are checked when it happens and
/// the state keeps one bit. That costs no states while all is well, and spares the model a history.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Broken(u16);

impl Broken {
    /// Notes `invariant` as broken unless `holds`.
    pub fn require(&mut self, invariant: Invariant, holds: bool) {
        if !holds {
            self.0 |= 1 << (invariant as u8);
        }
    }

    /// Whether `invariant` has been broken.
    #[must_use]
    pub const fn has(self, invariant: Invariant) -> bool {
        self.0 & (1 << (invariant as u8)) != 0
    }

    /// Whether any has been broken.
    #[must_use]
    pub const fn any(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Invariant::ALL.iter().filter(|i| self.has(**i))).finish()
    }
}
