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
    /// A snapshot that ends below the ledger's start is not used: what is between is gone. Without: it is.
    SnapshotAboveStart,
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
    /// UTACK of a fragment after its entry is committed. Without: when it is taken.
    FragmentAckAfterCommit,
    /// An adopter that finds an open fragment never accepts the number right after it.
    InterruptedRefused,
    /// A frame that does not follow a fragment directly begins a new message.
    GapBeginsAnew,
    /// A frame continues a message only if the fragment before it has been acked: otherwise the device has given that
    /// one up, and this is another message.
    ContinuesWhatIsAcked,
    /// A fragment committed when the device's patience is over counts as one whose message broke off: its UTACK finds
    /// the device with another message.
    LateFragmentBroken,
    /// Ids hold the rekey epoch. Without: session and sequence.
    EpochInId,
    /// A REKEY takes effect after its keys are in Redis.
    RekeyPersistedFirst,
    /// A REKEY takes effect after its epoch is in the ledger.
    RekeyJournaledFirst,
    /// A session record older than the ledger's epoch closes the session. Without: it is used.
    OlderRecordCloses,
    /// The ledger names the REKEY that began the epoch, and a record of another one closes the session.
    RekeyNamed,
    /// Redis refuses a session record of a writer whose generation is lower than that of the record it has.
    RecordWritesFenced,
    /// An address is adopted after two new frames. Without: after one.
    AddressNeedsTwo,
    /// After a handover an address counts only by the UTACK of a PING sent to it.
    HandedOverNeedsProof,
    /// A UTACK goes to the source of the datagram it answers. Without: to the settled address.
    AckToItsSource,
}

impl Defence {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::Fence,
        Self::JournalRead,
        Self::ReadToOwnRecord,
        Self::OwnerBarrier,
        Self::OwnerNonce,
        Self::SnapshotAboveStart,
        Self::SnapshotBelowOwner,
        Self::ReadAtRestart,
        Self::NoAckAtDeliveryReport,
        Self::NoAckAtAuthentication,
        Self::NumberAfterCommit,
        Self::AckOnlyTheLast,
        Self::JournalInTransaction,
        Self::UnknownNotReproduced,
        Self::UnknownNotAcked,
        Self::UnknownSessionRefused,
        Self::NumbersFromLedger,
        Self::GenerationFromLedger,
        Self::SealAfterOwner,
        Self::ConsumedMarked,
        Self::TransactionTimeout,
        Self::FragmentAckAfterCommit,
        Self::InterruptedRefused,
        Self::GapBeginsAnew,
        Self::ContinuesWhatIsAcked,
        Self::LateFragmentBroken,
        Self::EpochInId,
        Self::RekeyPersistedFirst,
        Self::RekeyJournaledFirst,
        Self::OlderRecordCloses,
        Self::RekeyNamed,
        Self::RecordWritesFenced,
        Self::AddressNeedsTwo,
        Self::HandedOverNeedsProof,
        Self::AckToItsSource,
    ];
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
