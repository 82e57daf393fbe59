use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::limit::{Limit, LimitSubject};

/// Buckets kept. When there are more, those that are full again go first (they are as good as new); if that frees none, all go,
/// which for once lets too much through rather than keep honest devices out.
const BUCKETS: usize = 65_536;

/// Token buckets of one process.
#[derive(Default)]
pub(super) struct Buckets(HashMap<(&'static str, LimitSubject), Bucket>);

/// In the manner of GCRA: one point in time says it all.
struct Bucket {
    /// When the bucket will be full.
    full_at: Instant,
}

impl Buckets {
    /// Zero: taken. Otherwise how long until a token is there.
    pub(super) fn take(&mut self, subject: &LimitSubject, limit: &Limit, now: Instant) -> Duration {
        let refill = Duration::from_micros(limit.refill_micros());
        let token = refill / limit.burst_at_least_one();
        let key = (limit.name, subject.clone());
        if self.0.len() >= BUCKETS && !self.0.contains_key(&key) {
            self.0.retain(|_, bucket| bucket.full_at > now);
            if self.0.len() >= BUCKETS {
                self.0.clear();
            }
        }
        let bucket = self.0.entry(key).or_insert(Bucket { full_at: now });
        let full_at = bucket.full_at.max(now) + token;
        // A nanosecond of rounding per token must not cost the last token of a full bucket.
        let room = refill.max(token * limit.burst_at_least_one());
        let wait = full_at.saturating_duration_since(now).saturating_sub(room);
        if wait.is_zero() {
            bucket.full_at = full_at;
        }
        wait
    }
}

#[cfg(test)]
mod bucket_tests {
    use proptest::prelude::*;

    use super::*;

    fn subject(number: u32) -> LimitSubject {
        let [a, b, c, d] = number.to_be_bytes();
        LimitSubject::Device(sluice_types::DeviceId::from_bytes([2, 0, a, b, c, d]))
    }

    #[expect(clippy::disallowed_methods, reason = "any start will do, the rest is arithmetic")]
    fn start() -> Instant {
        Instant::now()
    }

    proptest! {
        #[test]
        fn no_schedule_gets_more_than_a_burst_and_the_refill(
            burst in 1u32..20,
            refill_ms in 1u64..5000,
            pauses in proptest::collection::vec(0u64..400, 1..200),
        ) {
            let limit = Limit { name: "test", burst, refill: Duration::from_millis(refill_ms) };
            let mut buckets = Buckets::default();
            let (start, mut elapsed, mut taken) = (start(), Duration::ZERO, 0u64);
            for pause in pauses {
                elapsed += Duration::from_millis(pause);
                let wait = buckets.take(&subject(1), &limit, start + elapsed);
                if wait.is_zero() {
                    taken += 1;
                } else {
                    // What was promised holds.
                    let mut again = Buckets(HashMap::new());
                    std::mem::swap(&mut again, &mut buckets);
                    prop_assert!(again.take(&subject(1), &limit, start + elapsed + wait).is_zero());
                    prop_assert!(again.0.len() == 1);
                    elapsed += wait;
                    taken += 1;
                    buckets = again;
                }
                let allowed = f64::from(burst)
                    + elapsed.as_secs_f64() / limit.refill.as_secs_f64() * f64::from(burst) + 1e-3;
                prop_assert!(taken as f64 <= allowed, "{taken} taken, {allowed} allowed");
            }
        }
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let limit = Limit { name: "test", burst: 1, refill: Duration::from_secs(60) };
        let mut buckets = Buckets::default();
        let now = start();
        for number in 0..=u32::try_from(BUCKETS).expect("small") * 2 {
            assert!(buckets.take(&subject(number), &limit, now).is_zero());
            assert!(buckets.0.len() <= BUCKETS);
        }
    }
}
