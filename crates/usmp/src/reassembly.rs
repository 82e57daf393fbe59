use core::fmt;

use crate::wire::{MAX_CHUNK, MAX_FRAGMENTS, MAX_MESSAGE};

/// Where the fragments of a message are put together; lent by the driver while a message is in the making.
pub type MessageBuffer = [u8; MAX_MESSAGE];

/// Why a fragment does not continue its message. The message is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReassemblyError {
    /// A fourth DATA_FRAG in a run.
    TooManyFragments,
    /// More bytes than a frame can carry or the buffer can hold.
    TooLong,
}

impl fmt::Display for ReassemblyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyFragments => "a fourth fragment in one message",
            Self::TooLong => "a fragment above 452 bytes, or a message above the buffer",
        })
    }
}

impl core::error::Error for ReassemblyError {}

/// Where a message of several frames stands: a run of consecutive sequence numbers that ends with DATA (WIRE.md section 8).
/// The bytes lie in a buffer that the driver lends: a [`MessageBuffer`], or a smaller one where messages are known to be
/// shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reassembly {
    /// DATA_FRAG frames taken, 0 when no message is in the making.
    fragments: u8,
    length: u16,
    next_seq: u32,
}

impl Reassembly {
    /// No message in the making.
    #[must_use]
    pub const fn new() -> Self {
        Self { fragments: 0, length: 0, next_seq: 0 }
    }

    /// Whether a message is in the making, and the driver's buffer is needed.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.fragments > 0
    }

    /// Whether a frame of this number continues the message in the making.
    #[must_use]
    pub const fn continues(&self, seq: u32) -> bool {
        self.is_open() && self.next_seq == seq
    }

    /// Gives up the message in the making, if there is one.
    pub const fn reset(&mut self) {
        *self = Self::new();
    }

    /// Takes a DATA_FRAG. One that does not continue the run starts a new message; whoever must treat a gap as an error asks
    /// [`continues`](Self::continues) first.
    ///
    /// # Errors
    ///
    /// [`ReassemblyError`]; no message is then in the making.
    pub fn push_fragment(
        &mut self,
        seq: u32,
        chunk: &[u8],
        buffer: &mut [u8],
    ) -> Result<(), ReassemblyError> {
        if !self.continues(seq) {
            self.reset();
        }
        if usize::from(self.fragments).saturating_add(1) >= MAX_FRAGMENTS {
            self.reset();
            return Err(ReassemblyError::TooManyFragments);
        }
        self.append(chunk, buffer)?;
        self.fragments = self.fragments.saturating_add(1);
        self.next_seq = seq.saturating_add(1);
        Ok(())
    }

    /// Takes the DATA that ends the message in the making and returns the message; no message is then in the making.
    /// For a DATA that stands alone the driver needs no buffer and does not call this.
    ///
    /// # Errors
    ///
    /// [`ReassemblyError`].
    pub fn finish<'a>(
        &mut self,
        chunk: &[u8],
        buffer: &'a mut [u8],
    ) -> Result<&'a mut [u8], ReassemblyError> {
        self.append(chunk, buffer)?;
        let length = usize::from(self.length);
        self.reset();
        buffer.get_mut(..length).ok_or(ReassemblyError::TooLong)
    }

    fn append(&mut self, chunk: &[u8], buffer: &mut [u8]) -> Result<(), ReassemblyError> {
        let start = usize::from(self.length);
        let end = start.saturating_add(chunk.len());
        match (u16::try_from(end), buffer.get_mut(start..end)) {
            (Ok(length), Some(space)) if chunk.len() <= MAX_CHUNK => {
                space.copy_from_slice(chunk);
                self.length = length;
                Ok(())
            }
            _ => {
                self.reset();
                Err(ReassemblyError::TooLong)
            }
        }
    }
}
