//! Bytes out of and into plain numbers. Nothing here trusts a length that was read.

use super::LedgerError;

/// Length of the checksum at the end of everything.
pub(super) const CHECKSUM: usize = 4;

/// Bytes that are read from front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// The bytes between version and checksum, once both are right.
    pub(super) fn open(bytes: &'a [u8], version: u8) -> Result<Self, LedgerError> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(LedgerError::Checksum)?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return Err(LedgerError::Checksum);
        }
        match body.split_first() {
            Some((&found, rest)) if found == version => Ok(Self(rest)),
            Some((&other, _)) => Err(LedgerError::UnknownVersion(other)),
            None => Err(LedgerError::Malformed),
        }
    }

    pub(super) const fn over(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], LedgerError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(LedgerError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], LedgerError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(LedgerError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, LedgerError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, LedgerError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, LedgerError> {
        Ok(i64::from_be_bytes(self.array()?))
    }
}

/// Puts the checksum of all there is behind it.
pub(super) fn close(bytes: &mut Vec<u8>, from: usize) {
    let checksum = crc32fast::hash(&bytes[from..]);
    bytes.extend_from_slice(&checksum.to_be_bytes());
}

const FRAGMENT_OPEN: u8 = 1;
const HAS_COMMITTED: u8 = 2;

/// A committed number and the fragment's flag: one byte of flags, four of the number (zero where there is none).
pub(super) fn put_committed(bytes: &mut Vec<u8>, committed: Option<u32>, fragment_open: bool) {
    let mut flags = if fragment_open { FRAGMENT_OPEN } else { 0 };
    if committed.is_some() {
        flags |= HAS_COMMITTED;
    }
    bytes.push(flags);
    bytes.extend_from_slice(&committed.unwrap_or(0).to_be_bytes());
}

pub(super) fn take_committed(cursor: &mut Cursor<'_>) -> Result<(Option<u32>, bool), LedgerError> {
    let (flags, number) = (cursor.u8()?, cursor.u32()?);
    let has = flags & HAS_COMMITTED != 0;
    if flags & !(FRAGMENT_OPEN | HAS_COMMITTED) != 0 || (!has && number != 0) {
        return Err(LedgerError::Malformed);
    }
    Ok((has.then_some(number), flags & FRAGMENT_OPEN != 0))
}
