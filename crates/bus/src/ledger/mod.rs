//! The journal of a slot: what its owners said about their sessions, in the order they said it.
//!
//! A partition of the ledger topic is one slot's journal. It holds [`LedgerRecord`]s: either an owner's mark, or what changed for some
//! sessions. [`LedgerState`] is what a reader knows after reading it, [`Snapshot`] is that kept somewhere else, so that the next
//! reader need not start at the beginning. Bytes: docs/ledger.md.

mod codec;
mod record;
mod snapshot;
mod state;
mod witness;

pub use record::{LEDGER_VERSION, LedgerEntries, LedgerRecord, MAX_ENTRY_BYTES, Owner};
pub(crate) use record::{OwnerMark, append_entry, begin_entries, encode_owner, seal};
pub use snapshot::Snapshot;
pub use state::{LedgerState, MAX_SESSIONS, Oddities, SessionState};
pub use witness::Witness;
pub(crate) use witness::{Testimony, WITNESS_HEADER};

/// A whole session id, as in the datagrams of its session.
pub type SessionKey = [u8; 16];

/// What a record of the journal says about one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerEntry {
    /// All there is to know about a session: at its opening, at a rekey, and now and then again, before the topic forgets it.
    State {
        /// Whose state it is.
        session: SessionKey,
        /// The device that authenticated it.
        device: [u8; 6],
        /// Generation of the slot when the session was opened.
        birth: u32,
        /// Rekey epoch.
        epoch: u32,
        /// Highest committed sequence number of this epoch.
        committed: Option<u32>,
        /// Whether the committed frame was a fragment whose message is not complete.
        fragment_open: bool,
    },
    /// A sequence number that is used up.
    Number {
        /// Whose number it is.
        session: SessionKey,
        /// Rekey epoch.
        epoch: u32,
        /// The number.
        seq: u32,
        /// Whether the frame was a fragment whose message is not complete.
        fragment_open: bool,
    },
    /// The session is over.
    Closed {
        /// The session.
        session: SessionKey,
    },
}

/// Why bytes are no record or snapshot of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Written by a release that knows more.
    #[error("version {0} of the ledger's format is not known here: run a release that knows it")]
    UnknownVersion(u8),
    /// The checksum is another one: cut or damaged.
    #[error("the bytes do not match their checksum")]
    Checksum,
    /// Whole, but not what the format says.
    #[error("the bytes are not what the ledger's format says")]
    Malformed,
}

#[cfg(test)]
mod tests;
