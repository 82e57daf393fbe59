//! What can happen to a slot.

use super::state::Number;

/// One step. Pods, sessions, snapshots and orphans are named by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The pod raises the broker's producer epoch: the first step of an adoption. Whether the last owner is dead,
    /// paused or well is not asked, because evidence can be wrong.
    Fence(u8),
    /// The pod commits its Owner record, or learns that it was fenced meanwhile.
    CommitOwner(u8),
    /// The Owner record is committed, but the answer is lost: the pod has to begin again.
    OwnerUnknown(u8),
    /// The pod loads a snapshot (any that was ever written, or none), reads the ledger before offset `end`, serves.
    Load {
        /// The adopter.
        pod: u8,
        /// Which snapshot Redis answers with.
        snapshot: Option<u8>,
        /// Where reading stops.
        end: u8,
        /// What the counter in Redis says (only without `GenerationFromLedger`).
        generation: u8,
    },
    /// A restarted pod serves its old slot without reading (only without `ReadAtRestart`).
    Reuse {
        /// The pod.
        pod: u8,
        /// Which snapshot Redis answers with.
        snapshot: Option<u8>,
    },
    /// A frame reaches a pod that serves: sent by the device, delayed, copied, or replayed.
    Deliver {
        /// Who gets it.
        pod: u8,
        /// Its session.
        session: u8,
        /// Its sequence.
        number: Number,
    },
    /// The pod produces what is pending in one transaction and has all delivery reports.
    Produce(u8),
    /// The commit reaches the broker, and the pod learns how it went.
    Commit(u8),
    /// The commit is on its way, and the pod will never learn how it went.
    CommitUnknown(u8),
    /// The broker aborts the transaction, and the pod learns it. All stays pending.
    Abort(u8),
    /// Only without `JournalInTransaction`: the ledger entries follow.
    Journal(u8),
    /// A commit whose pod no longer waits reaches the broker.
    LateCommit(u8),
    /// A pending record turns out to be one that can never be published.
    Reject {
        /// The owner.
        pod: u8,
        /// Its session.
        session: u8,
        /// Its sequence.
        number: Number,
    },
    /// The owner closes a session with its next group.
    Close {
        /// The owner.
        pod: u8,
        /// The session.
        session: u8,
    },
    /// The owner says again what it knows of a session, with its next group.
    Restate {
        /// The owner.
        pod: u8,
        /// The session.
        session: u8,
    },
    /// The topic forgets the records before this offset.
    Forget(u8),
    /// The pod writes its snapshot to Redis.
    Snapshot(u8),
    /// The pod dies. A commit may be on its way. It may come back at once, remembering nothing.
    Crash(u8),
    /// The pod seals a frame for a device.
    Seal(u8),
    /// Somebody else begins a transaction in the slot's partition.
    ForeignBegin,
    /// It ends, by itself or by time-out.
    ForeignEnd,
}
