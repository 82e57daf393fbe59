//! A token bucket.

use usmp::{Duration, Instant};

/// So many at once, and one more for each interval.
#[derive(Debug)]
pub(crate) struct Bucket {
    left: u32,
    most: u32,
    every: Duration,
    filled: Instant,
}

impl Bucket {
    /// A full one, for at least one at once. The interval is at least a microsecond.
    pub(crate) fn new(now: Instant, most: u32, every: Duration) -> Self {
        let most = most.max(1);
        Self { left: most, most, every: every.max(Duration::from_micros(1)), filled: now }
    }

    /// Takes one out; `false` when there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_micros() / self.every.as_micros();
        let fresh = u32::try_from(passed).unwrap_or(u32::MAX);
        self.filled =
            if fresh < self.most - self.left { self.filled + self.every.saturating_mul(fresh) } else { now };
        self.left = self.left.saturating_add(fresh).min(self.most);
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_a_burst_and_then_so_many_a_second() {
        let mut bucket = Bucket::new(Instant::ZERO, 256, Duration::from_micros(15_625));
        let mut taken = |at| (0..1000).filter(|_| bucket.take(Instant::from_millis(at))).count();
        assert_eq!([0, 0, 15, 16, 1000].map(&mut taken), [256, 0, 0, 1, 63]);
        assert_eq!(
            [100_000, 100_010, 100_016].map(&mut taken),
            [256, 0, 1],
            "a long pause is worth one burst"
        );
    }
}
