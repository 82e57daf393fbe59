//! Version 1 of a snapshot.

use super::codec::{Cursor, close, put_committed, take_committed};
use super::{LedgerError, LedgerState, MAX_SESSIONS, SessionState};

const SNAPSHOT_VERSION: u8 = 1;

/// Bytes of one session.
const SESSION_BYTES: usize = 16 + 6 + 4 + 4 + 5;

/// What a slot's journal said up to an offset, so that a reader can start there.
///
/// It must know everything below its offset, and may know more: reading an entry twice changes nothing. An owner that makes one
/// therefore takes the offset from the last group it has settled ([`Group::snapshot_offset`](crate::Group::snapshot_offset)), and then
/// its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The next offset to read.
    pub offset: i64,
    /// Generation of the slot up to there.
    pub generation: u32,
    /// The sessions that are open.
    pub sessions: Vec<SessionState>,
}

impl Snapshot {
    /// The bytes of version 1, for keeping.
    ///
    /// Bytes: docs/ledger.md, "Snapshots".
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + self.sessions.len() * SESSION_BYTES);
        bytes.push(SNAPSHOT_VERSION);
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        for session in &self.sessions {
            bytes.extend_from_slice(&session.session);
            bytes.extend_from_slice(&session.device);
            bytes.extend_from_slice(&session.birth.to_be_bytes());
            bytes.extend_from_slice(&session.epoch.to_be_bytes());
            put_committed(&mut bytes, session.committed, session.fragment_open);
        }
        close(&mut bytes, 0);
        bytes
    }

    /// Reads what [`Snapshot::encode`] wrote. Allocates no more than the bytes at hand can hold.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; a snapshot that is cut, damaged, or holds more sessions than are kept is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        let mut cursor = Cursor::open(bytes, SNAPSHOT_VERSION)?;
        let (offset, generation) = (cursor.i64()?, cursor.u32()?);
        let count = cursor.rest().len() / SESSION_BYTES;
        if offset < 0 || count > MAX_SESSIONS || !cursor.rest().len().is_multiple_of(SESSION_BYTES) {
            return Err(LedgerError::Malformed);
        }
        let mut sessions = Vec::with_capacity(count);
        while !cursor.is_empty() {
            let (session, device) = (cursor.array()?, cursor.array()?);
            let (birth, epoch) = (cursor.u32()?, cursor.u32()?);
            let (committed, fragment_open) = take_committed(&mut cursor)?;
            sessions.push(SessionState { session, device, birth, epoch, committed, fragment_open });
        }
        Ok(Self { offset, generation, sessions })
    }

    pub(crate) fn into_state(self) -> LedgerState {
        LedgerState::starting_from(self.generation, self.sessions)
    }
}
