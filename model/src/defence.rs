//! The rules that keep the invariants, each of which can be taken away.

/// A rule of the design. A model without one of them must show a counterexample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Defence {
    /// Adoption raises the broker's producer epoch, so commits of earlier owners are refused. Without: they succeed.
    Fence,
    /// The adopter reads the ledger. Without: it believes the snapshot.
    JournalRead,
    /// The adopter reads until its own Owner record. Without: until what the broker says is the end, which another
    /// writer's open transaction holds back and a stale answer understates.
    ReadToOwnRecord,
    /// The adopter commits an Owner record before it reads. Without: none is written.
    OwnerBarrier,
    /// An Owner record is recognised by a nonce. Without: by the pod's name, which an earlier life of it shares.
    OwnerNonce,
    /// A snapshot that stands for more than the own Owner record is not used: another pod has adopted since.
    SnapshotBelowOwner,
    /// Own slots are adopted at a restart like any other. Without: taken up again with what Redis has.
    ReadAtRestart,
    /// UTACK after the commit. Without: when the delivery reports are in.
    NoAckAtDeliveryReport,
    /// UTACK after the commit. Without: when the frame is authentic.
    NoAckAtAuthentication,
    /// The number advances with the commit. Without: when the frame is taken.
    NumberAfterCommit,
    /// Only the last committed sequence is acked again. Without: every lower one.
    AckOnlyTheLast,
    /// The ledger record is part of the transaction. Without: it follows in one of its own.
    JournalInTransaction,
    /// A commit of unknown outcome ends the ownership. Without: its records are produced again.
    UnknownNotReproduced,
    /// A commit of unknown outcome ends the ownership. Without: it is taken for done.
    UnknownNotAcked,
    /// A session the ledger does not know is refused. Without: it starts from nothing.
    UnknownSessionRefused,
    /// Numbers come from the ledger. Without: from the snapshot, and the rest from the ledger.
    NumbersFromLedger,
    /// The generation comes from the ledger. Without: from a counter in Redis.
    GenerationFromLedger,
    /// Nothing is sealed before the Owner record is committed. Without: as soon as the fence is up.
    SealAfterOwner,
    /// A number consumed without an ack (its record went to the dead letters) is so marked in the ledger.
    ConsumedMarked,
    /// Open transactions end by time-out. Without: one of a stopped writer stays open.
    TransactionTimeout,
}

/// The defences a model runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defences {
    removed: Option<Defence>,
}

impl Defences {
    /// All of them.
    pub const ALL: Self = Self { removed: None };

    /// All but one.
    #[must_use]
    pub const fn without(defence: Defence) -> Self {
        Self { removed: Some(defence) }
    }

    /// Whether `defence` is in place.
    #[must_use]
    pub fn has(self, defence: Defence) -> bool {
        self.removed != Some(defence)
    }
}
