use core::fmt;

use crate::time::Duration;
use crate::{Rto, Secret};

/// Shortest pre-shared key that either side takes (WIRE.md section 4).
const PSK_MIN: usize = 16;

/// Longest pre-shared key that fits this type; the protocol itself has no limit.
const PSK_MAX: usize = 128;

/// The pre-shared key of a device, 16 to 128 bytes.
#[derive(Debug)]
pub struct Psk {
    bytes: Secret<PSK_MAX>,
    length: usize,
}

impl Psk {
    /// Copies the key. The caller's copy is the caller's to wipe.
    ///
    /// # Errors
    ///
    /// [`PskError`] when the length is not within 16 and 128 bytes.
    pub fn new(key: &[u8]) -> Result<Self, PskError> {
        if key.len() < PSK_MIN {
            return Err(PskError::TooShort);
        }
        let mut bytes = Secret::zeroed();
        let space = bytes.expose_mut().get_mut(..key.len()).ok_or(PskError::TooLong)?;
        space.copy_from_slice(key);
        Ok(Self { bytes, length: key.len() })
    }

    pub(super) fn expose(&self) -> &[u8] {
        self.bytes.expose().get(..self.length).unwrap_or_default()
    }
}

/// Why bytes are no pre-shared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PskError {
    /// Fewer than 16 bytes.
    TooShort,
    /// More than 128 bytes.
    TooLong,
}

impl fmt::Display for PskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "a pre-shared key needs 16 bytes or more",
            Self::TooLong => "a pre-shared key has 128 bytes or fewer",
        })
    }
}

impl core::error::Error for PskError {}

/// How a device behaves where the protocol leaves a choice.
///
/// The defaults suit firmware; the official clients differ in the values that are named at the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Longest time from `connect` to SESSION_OK; `None` waits for ever. Default 10 s, as Python 1.1.0 and later.
    pub handshake_timeout: Option<Duration>,
    /// Longest wait for any one frame of the handshake. Default `None`; the C core 1.3.0 has 5 s.
    pub step_timeout: Option<Duration>,
    /// PING after this long without a frame sent; what is received does not count (WIRE.md section 8). Default 30 s.
    pub keepalive: Option<Duration>,
    /// Sequence numbers of the handshake's frames. Default: numbered, as 1.1.0 and later.
    pub handshake_numbers: HandshakeNumbers,
    /// When an unacknowledged frame is sent again; UDP only. Default: adaptive.
    pub retransmission: Retransmission,
    /// What follows when a frame was sent five times in vain; UDP only. Default: the session ends, since a server that does
    /// not answer for 12 s most likely does not know the session any more.
    pub exhaustion: Exhaustion,
    /// How long after its UTACK a HELLO is sent again if no answer came; UDP only. Default 2 s. The official clients never do
    /// and hang when the one HELLO_RETRY is lost (WIRE.md section 11.4, "loss trap"); a repetition is byte-identical and
    /// leads to the same answer.
    pub hello_repeat: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            handshake_timeout: Some(Duration::from_secs(10)),
            step_timeout: None,
            keepalive: Some(Duration::from_secs(30)),
            handshake_numbers: HandshakeNumbers::Counted,
            retransmission: Retransmission::Adaptive,
            exhaustion: Exhaustion::CloseSession,
            hello_repeat: Some(Duration::from_secs(2)),
        }
    }
}

/// Sequence numbers of HELLO, HELLO with cookie and HELLO_ACK. No server looks at them; UTACKs repeat them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeNumbers {
    /// 0, 1, 2: releases 1.1.0 and later.
    Counted,
    /// 0, 0, 0: releases 1.0.x.
    Zero,
}

/// The wait before a frame is sent again (WIRE.md section 11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retransmission {
    /// 500 ms at first, then as measured, doubled with each attempt: Python 1.2.0 and later, Arduino 1.3.0.
    Adaptive,
    /// Always this long: 500 ms with Python 1.0 and 1.1, ESP-IDF and Arduino up to 1.2.x.
    Fixed(Duration),
}

impl Retransmission {
    /// The wait after transmission `attempt`, 0 for the first.
    pub(super) fn after(self, rto: &Rto, attempt: u8) -> Duration {
        match self {
            Self::Adaptive => rto.after(attempt),
            Self::Fixed(wait) => wait,
        }
    }
}

/// What follows when a frame was sent five times in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhaustion {
    /// The session ends: ESP-IDF and Arduino.
    CloseSession,
    /// Only the message fails: Python. A REKEY in vain ends the session all the same, since nobody then knows which keys the
    /// server has.
    KeepSession,
}
