//! What moves from one owner of a session to the next.

use crate::{Secret, SessionId, SessionKeys};

/// The secrets of a session at one epoch: what its next owner needs and cannot get from a journal.
///
/// Not `Clone`, and its `Debug` shows no key: whoever writes it down reaches for each secret by name.
#[derive(Debug)]
pub struct SessionSecrets {
    /// The session.
    pub session_id: SessionId,
    /// REKEYs before these keys.
    pub epoch: u32,
    /// The keys in force.
    pub keys: SessionKeys,
    /// Which REKEY led to them: its fingerprint, zero before the first. An epoch can have been begun twice, by two REKEYs of
    /// which one got into the journal; a journal that has the name of that one tells whose keys a record holds.
    pub begun_by: [u8; 8],
    /// The REKEY that led to them, if its repeats are still to be acknowledged.
    pub last_rekey: Option<LastRekey>,
}

/// What acknowledges a repeat of a REKEY that was followed (WIRE.md section 9, server rules).
#[derive(Debug)]
pub struct LastRekey {
    /// The device's key before it.
    pub old_c2s: Secret<32>,
    /// Tells whether a frame is that REKEY; made with the old key, no secret.
    pub fingerprint: [u8; 8],
    /// Its number, in the epoch before.
    pub seq: u32,
}

/// A REKEY of the device that waits until it is persisted; see [`RekeyCommit::Deferred`](crate::server::RekeyCommit).
#[derive(Debug)]
pub struct PendingRekey {
    /// The keys in force now. Persist them beside the new ones: until the new epoch is journaled, the session's next owner goes on
    /// with these, and the device repeats its REKEY.
    pub before: SessionKeys,
    /// The secrets from [`UdpSession::rekey_committed`](crate::server::UdpSession::rekey_committed) on.
    pub after: SessionSecrets,
}

/// What a session is made from again; see [`UdpSession::resumed`](crate::server::UdpSession::resumed). The secrets come from the store, the
/// numbers from the journal, for the same epoch.
#[derive(Debug)]
pub struct Resumed {
    /// Id, epoch and keys.
    pub secrets: SessionSecrets,
    /// The highest number of this epoch that is committed.
    pub committed: Option<u32>,
    /// Frame `committed` is a fragment of a message that has not ended. What came of that message is gone with the owner before.
    pub fragment_open: bool,
    /// The first sending number of the new owner, above all that were ever used; see [`first_number`](crate::server::first_number).
    pub next_seq: u32,
    /// The device had shown that it lives, so that [`SessionEvent::Established`](crate::server::SessionEvent) was told.
    pub established: bool,
}
