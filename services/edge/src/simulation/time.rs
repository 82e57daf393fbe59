//! Time and chance: both follow from the seed.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sluice_types::Timestamp;
use usmp::Instant;

/// What the wall clocks show when a run begins, give or take what a pod is off.
const WALL: Duration = Duration::from_secs(1_790_000_000);

/// A pod's clock: it starts with the pod, goes a little fast or slow, and its wall clock is off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodClock {
    start: tokio::time::Instant,
    per_million: u64,
    wall: Duration,
}

impl PodClock {
    /// One that starts now and shows this many millionths of what passes, its wall clock ahead by `ahead`.
    pub(crate) fn new(begin: tokio::time::Instant, per_million: u64, ahead: Duration) -> Self {
        let start = tokio::time::Instant::now();
        Self { start, per_million, wall: WALL + ahead + (start - begin) }
    }

    fn elapsed(self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        elapsed.saturating_mul(self.per_million) / 1_000_000
    }

    pub(crate) fn now(self) -> Instant {
        Instant::from_micros(1_000_000 + self.elapsed())
    }

    pub(crate) fn wall(self) -> Timestamp {
        self.wall_at(self.now())
    }

    pub(crate) fn wall_at(self, then: Instant) -> Timestamp {
        let since = self.wall + Duration::from_micros(then.as_micros().saturating_sub(1_000_000));
        Timestamp::from_system_time(std::time::UNIX_EPOCH + since)
    }
}

thread_local! {
    static RANDOM: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
}

/// Makes what the edge draws on this thread follow from a seed, until the value is dropped.
pub(super) struct SeededEntropy(());

impl SeededEntropy {
    pub(super) fn new(seed: u64) -> Self {
        RANDOM.with(|random| *random.borrow_mut() = Some(ChaCha8Rng::seed_from_u64(seed)));
        Self(())
    }
}

impl Drop for SeededEntropy {
    fn drop(&mut self) {
        RANDOM.with(|random| *random.borrow_mut() = None);
    }
}

/// Fills the bytes if this thread runs a simulation.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    RANDOM.with(|random| {
        let mut random = random.borrow_mut();
        random.as_mut().map(|random| random.fill_bytes(bytes)).is_some()
    })
}

/// Chance for one part of the world.
#[derive(Debug, Clone)]
pub(super) struct Dice(Arc<Mutex<ChaCha8Rng>>);

impl Dice {
    pub(super) fn new(seed: u64, part: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(part);
        Self(Arc::new(Mutex::new(rng)))
    }

    fn rng(&self) -> std::sync::MutexGuard<'_, ChaCha8Rng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something of this probability happens.
    pub(super) fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng().random_bool(probability.min(1.0))
    }

    /// Within these, the last included.
    pub(super) fn within(&self, from: u64, to: u64) -> u64 {
        self.rng().random_range(from..=to)
    }

    /// One below `count`.
    pub(super) fn below(&self, count: usize) -> usize {
        if count == 0 { 0 } else { self.rng().random_range(0..count) }
    }

    pub(super) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.within(from, to))
    }

    pub(super) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng().fill_bytes(&mut bytes);
        bytes
    }
}
