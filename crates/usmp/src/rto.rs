use crate::time::Duration;

/// The retransmission timer of WIRE.md section 11.3: smoothed round trip and variance, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rto {
    srtt: u32,
    rttvar: u32,
    rto: u32,
}

/// Shortest and longest timer that samples can lead to.
const BOUNDS: (u32, u32) = (100_000, 5_000_000);

/// Shortest and longest wait of one attempt, the backoff included.
const ATTEMPT_BOUNDS: (u32, u32) = (50_000, 5_000_000);

impl Default for Rto {
    fn default() -> Self {
        Self::new()
    }
}

impl Rto {
    /// 500 ms, as a session starts.
    #[must_use]
    pub const fn new() -> Self {
        Self { srtt: 200_000, rttvar: 100_000, rto: 500_000 }
    }

    /// Learns from the UTACK of a first transmission. Retransmitted frames give no sample.
    pub fn sample(&mut self, round_trip: Duration) {
        let sample = i64::from(u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX));
        let (srtt, rttvar) = (i64::from(self.srtt), i64::from(self.rttvar));
        let error = sample.saturating_sub(srtt);
        let rttvar = rttvar.saturating_add(error.saturating_abs().saturating_sub(rttvar).div_euclid(4));
        let srtt = srtt.saturating_add(error.div_euclid(8));
        self.rttvar = to_micros(rttvar);
        self.srtt = to_micros(srtt);
        self.rto = self.srtt.saturating_add(self.rttvar.saturating_mul(4)).clamp(BOUNDS.0, BOUNDS.1);
    }

    /// The timer without backoff.
    #[must_use]
    pub const fn current(&self) -> Duration {
        Duration::from_micros(self.rto as u64)
    }

    /// How long to wait after transmission `attempt` (0 for the first): the timer doubled per attempt, within 50 ms and 5 s.
    #[must_use]
    pub fn after(&self, attempt: u8) -> Duration {
        let factor = 1_u32.checked_shl(u32::from(attempt)).unwrap_or(u32::MAX);
        let wait = self.rto.saturating_mul(factor).clamp(ATTEMPT_BOUNDS.0, ATTEMPT_BOUNDS.1);
        Duration::from_micros(u64::from(wait))
    }
}

fn to_micros(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}
