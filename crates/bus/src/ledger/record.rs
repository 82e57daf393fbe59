//! Version 1 of a ledger record. Hot path on the writing side: no allocation of ours per entry.

use super::codec::{Cursor, close, put_committed, take_committed};
use super::{LedgerEntry, LedgerError};

/// The version of ledger records that is written, and the only one that is read.
pub const LEDGER_VERSION: u8 = 1;

/// Most bytes that an entry takes within a record.
pub const MAX_ENTRY_BYTES: usize = 1 + 16 + 6 + 4 + 4 + 5;

const KIND_OWNER: u8 = 1;
const KIND_ENTRIES: u8 = 2;

const ENTRY_STATE: u8 = 1;
const ENTRY_NUMBER: u8 = 2;
const ENTRY_CLOSED: u8 = 3;

/// Who owns a slot, for the others to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Id of the pod.
    pub pod: [u8; 16],
    /// Where its peers reach it, as HOST:PORT; at most 255 bytes.
    pub address: String,
}

/// Makes an owner's record findable among all others, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerMark(pub(crate) [u8; 16]);

/// A record of the ledger, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerRecord<'a> {
    /// A new owner: the generation is one more from here on.
    Owner {
        /// Id of the pod.
        pod: [u8; 16],
        /// Drawn for this one record.
        nonce: [u8; 16],
        /// Where peers reach the pod.
        address: &'a str,
    },
    /// What changed for some sessions, or nothing: then it only says that the owner is there.
    Entries {
        /// Generation of the slot, by its owner's count.
        generation: u32,
        /// What changed.
        entries: LedgerEntries<'a>,
    },
}

impl<'a> LedgerRecord<'a> {
    /// Reads a record's value.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; nothing of a record that is cut or damaged is used.
    ///
    /// Bytes: docs/ledger.md, "Records".
    pub fn decode(bytes: &'a [u8]) -> Result<Self, LedgerError> {
        let mut cursor = Cursor::open(bytes, LEDGER_VERSION)?;
        match cursor.u8()? {
            KIND_OWNER => {
                let (pod, nonce) = (cursor.array()?, cursor.array()?);
                let length = usize::from(cursor.u8()?);
                let address =
                    std::str::from_utf8(cursor.slice(length)?).map_err(|_| LedgerError::Malformed)?;
                if cursor.is_empty() {
                    Ok(Self::Owner { pod, nonce, address })
                } else {
                    Err(LedgerError::Malformed)
                }
            }
            KIND_ENTRIES => {
                let generation = cursor.u32()?;
                let entries = LedgerEntries(cursor.rest());
                while !cursor.is_empty() {
                    take_entry(&mut cursor)?;
                }
                Ok(Self::Entries { generation, entries })
            }
            _ => Err(LedgerError::Malformed),
        }
    }
}

/// The entries of one record, each known to be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntries<'a>(&'a [u8]);

impl LedgerEntries<'_> {
    /// The entries in their order.
    pub fn iter(&self) -> impl Iterator<Item = LedgerEntry> {
        let mut cursor = Cursor::over(self.0);
        std::iter::from_fn(move || if cursor.is_empty() { None } else { take_entry(&mut cursor).ok() })
    }

    /// Whether nothing changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn take_entry(cursor: &mut Cursor<'_>) -> Result<LedgerEntry, LedgerError> {
    match cursor.u8()? {
        ENTRY_STATE => {
            let (session, device) = (cursor.array()?, cursor.array()?);
            let (birth, epoch) = (cursor.u32()?, cursor.u32()?);
            let (committed, fragment_open) = take_committed(cursor)?;
            Ok(LedgerEntry::State { session, device, birth, epoch, committed, fragment_open })
        }
        ENTRY_NUMBER => {
            let (session, epoch) = (cursor.array()?, cursor.u32()?);
            match take_committed(cursor)? {
                (Some(seq), fragment_open) => Ok(LedgerEntry::Number { session, epoch, seq, fragment_open }),
                (None, _) => Err(LedgerError::Malformed),
            }
        }
        ENTRY_CLOSED => Ok(LedgerEntry::Closed { session: cursor.array()? }),
        _ => Err(LedgerError::Malformed),
    }
}

/// Appends an entry as it stands within a record.
pub(crate) fn append_entry(bytes: &mut Vec<u8>, entry: &LedgerEntry) {
    match entry {
        LedgerEntry::State { session, device, birth, epoch, committed, fragment_open } => {
            bytes.push(ENTRY_STATE);
            bytes.extend_from_slice(session);
            bytes.extend_from_slice(device);
            bytes.extend_from_slice(&birth.to_be_bytes());
            bytes.extend_from_slice(&epoch.to_be_bytes());
            put_committed(bytes, *committed, *fragment_open);
        }
        LedgerEntry::Number { session, epoch, seq, fragment_open } => {
            bytes.push(ENTRY_NUMBER);
            bytes.extend_from_slice(session);
            bytes.extend_from_slice(&epoch.to_be_bytes());
            put_committed(bytes, Some(*seq), *fragment_open);
        }
        LedgerEntry::Closed { session } => {
            bytes.push(ENTRY_CLOSED);
            bytes.extend_from_slice(session);
        }
    }
}

/// Begins a record of entries at the end of `bytes`; they follow by [`append_entry`], and [`seal`] ends it.
pub(crate) fn begin_entries(bytes: &mut Vec<u8>, generation: u32) {
    bytes.extend_from_slice(&[LEDGER_VERSION, KIND_ENTRIES]);
    bytes.extend_from_slice(&generation.to_be_bytes());
}

/// Ends the record that begins at `from`.
pub(crate) fn seal(bytes: &mut Vec<u8>, from: usize) {
    close(bytes, from);
}

/// An owner's record, or `None` if its address is too long.
pub(crate) fn encode_owner(owner: &Owner, mark: OwnerMark) -> Option<Vec<u8>> {
    let length = u8::try_from(owner.address.len()).ok()?;
    let mut bytes = Vec::with_capacity(64 + usize::from(length));
    bytes.extend_from_slice(&[LEDGER_VERSION, KIND_OWNER]);
    bytes.extend_from_slice(&owner.pod);
    bytes.extend_from_slice(&mark.0);
    bytes.push(length);
    bytes.extend_from_slice(owner.address.as_bytes());
    close(&mut bytes, 0);
    Some(bytes)
}
