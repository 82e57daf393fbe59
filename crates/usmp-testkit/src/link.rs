//! One direction of a path between two machines, under a virtual clock.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use usmp::{Duration, Instant};

/// What a path does to datagrams. Probabilities are within 0 and 1.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Time on the way.
    pub delay: Duration,
    /// Up to this much more, evenly spread; more than the gap between two datagrams reorders them.
    pub jitter: Duration,
    /// Lost.
    pub loss: f64,
    /// Arrives twice, the copies delayed on their own.
    pub duplicate: f64,
    /// Arrives with one bit flipped.
    pub corrupt: f64,
    /// Longer ones are lost.
    pub mtu: usize,
}

impl Conditions {
    /// 10 ms, nothing lost, nothing else.
    #[must_use]
    pub const fn clean() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1500,
        }
    }

    /// 20 ms to 80 ms with this much loss, 10 % duplicates and 1 % flipped bits.
    #[must_use]
    pub const fn lossy(loss: f64) -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::from_millis(60),
            loss,
            duplicate: 0.1,
            corrupt: 0.01,
            mtu: 1500,
        }
    }
}

/// What happened to the datagrams so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed in.
    pub sent: u64,
    /// Lost, the too long ones included.
    pub lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived with a flipped bit.
    pub corrupted: u64,
}

/// One direction of a path.
#[derive(Debug)]
pub struct Link {
    conditions: Conditions,
    rng: ChaCha8Rng,
    on_the_way: BTreeMap<(Instant, u64), Vec<u8>>,
    next: u64,
    counts: Counts,
}

impl Link {
    /// A path whose accidents follow from the seed.
    #[must_use]
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            rng: ChaCha8Rng::seed_from_u64(seed),
            on_the_way: BTreeMap::new(),
            next: 0,
            counts: Counts::default(),
        }
    }

    /// Changes what the path does from now on.
    pub const fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Puts a datagram on the way.
    pub fn send(&mut self, now: Instant, datagram: &[u8]) {
        self.counts.sent += 1;
        if datagram.len() > self.conditions.mtu || self.happens(self.conditions.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.happens(self.conditions.duplicate) {
            self.counts.duplicated += 1;
            self.put(now, datagram);
        }
        self.put(now, datagram);
    }

    /// The next datagram that has arrived by now.
    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let entry = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.on_the_way.first_key_value().map(|(&(at, _), _)| at)
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn put(&mut self, now: Instant, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        if !datagram.is_empty() && self.happens(self.conditions.corrupt) {
            self.counts.corrupted += 1;
            let at = self.rng.random_range(0..datagram.len());
            datagram[at] ^= 1 << self.rng.random_range(0..8);
        }
        let jitter = self.rng.random_range(0..=self.conditions.jitter.as_micros() as u64);
        let at = now + self.conditions.delay + Duration::from_micros(jitter);
        self.on_the_way.insert((at, self.next), datagram);
        self.next += 1;
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }
}
