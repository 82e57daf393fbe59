use crate::{Duration, Instant};

/// `now + by`, saturating.
pub(super) fn later(now: Instant, by: Duration) -> Instant {
    let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Instant::from_micros(now.as_micros().saturating_add(by))
}

/// The earlier of two times that may not be.
pub(super) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Milliseconds as stored in a session: 49 days at most.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Spreads retries, so that sessions opened together do not repeat together. Not secret: a xorshift generator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jitter(u32);

impl Jitter {
    pub(super) const fn new(seed: u32) -> Self {
        // Zero is the one state that the generator never leaves.
        Self(if seed == 0 { 0x9E37_79B9 } else { seed })
    }

    /// The next number.
    pub(super) const fn next(&mut self) -> u32 {
        self.0 ^= self.0.wrapping_shl(13);
        self.0 ^= self.0.wrapping_shr(17);
        self.0 ^= self.0.wrapping_shl(5);
        self.0
    }

    /// `wait` and up to an eighth more.
    pub(super) fn spread(&mut self, wait: Duration) -> Duration {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let eighth = micros.div_euclid(8).saturating_add(1);
        Duration::from_micros(micros.saturating_add(u64::from(self.next()).checked_rem(eighth).unwrap_or(0)))
    }
}
