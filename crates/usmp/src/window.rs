use core::fmt;

/// Why a sequence number is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowError {
    /// Seen before.
    Duplicate,
    /// 64 or more below the highest seen.
    TooOld,
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "the sequence number was seen before",
            Self::TooOld => "the sequence number is too far below the highest seen",
        })
    }
}

impl core::error::Error for WindowError {}

/// Which of the last 64 sequence numbers were seen (WIRE.md section 7, UDP). The device role uses it; the server enforces
/// increasing numbers.
///
/// Order of use: [`check`](Self::check), then authenticate, then [`mark`](Self::mark).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayWindow {
    highest: u32,
    /// Bit n set: `highest - n` was seen.
    bitmap: u64,
}

impl ReplayWindow {
    /// Nothing seen; 0 is taken once.
    #[must_use]
    pub const fn new() -> Self {
        Self { highest: 0, bitmap: 0 }
    }

    /// Whether a number may be taken; changes nothing.
    ///
    /// # Errors
    ///
    /// [`WindowError`].
    pub const fn check(&self, seq: u32) -> Result<(), WindowError> {
        let Some(behind) = self.highest.checked_sub(seq) else { return Ok(()) };
        match 1_u64.checked_shl(behind) {
            None => Err(WindowError::TooOld),
            Some(bit) if self.bitmap & bit != 0 => Err(WindowError::Duplicate),
            Some(_) => Ok(()),
        }
    }

    /// Notes an authenticated number. One that [`check`](Self::check) refuses changes nothing.
    pub const fn mark(&mut self, seq: u32) {
        match seq.checked_sub(self.highest) {
            Some(ahead) if ahead > 0 => {
                let moved = match self.bitmap.checked_shl(ahead) {
                    Some(moved) => moved,
                    None => 0,
                };
                self.bitmap = moved | 1;
                self.highest = seq;
            }
            _ => {
                if let Some(bit) = 1_u64.checked_shl(self.highest.saturating_sub(seq)) {
                    self.bitmap |= bit;
                }
            }
        }
    }

    /// The highest number marked, 0 at the start.
    #[must_use]
    pub const fn highest(&self) -> u32 {
        self.highest
    }

    /// Bit n set: `highest - n` was seen.
    #[must_use]
    pub const fn bitmap(&self) -> u64 {
        self.bitmap
    }
}
