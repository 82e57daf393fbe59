//! How much this pod looks up for others.

use std::collections::HashMap;

use sluice_types::PodId;
use usmp::{Duration, Instant};

use crate::bucket::Bucket;

/// Questions of all other pods at once, and how long one of these takes to be free again: each goes to all shards, and the thread that
/// hands them over beats, too.
const QUESTIONS: u32 = 256;
const QUESTION: Duration = Duration::from_micros(3906);

/// What each pod may ask besides, whatever the others ask: a stranger who has some pods ask all they may takes nothing of this from those
/// that he does not reach.
const OWN: u32 = 8;
const OWN_QUESTION: Duration = Duration::from_millis(125);

/// Pods with questions of their own, as many as a store lists; those beyond have what all share.
const PODS: usize = 1024;
/// What a pod may ask is whole again after such a silence, so that the pod can be forgotten.
const WHOLE_AGAIN: Duration = Duration::from_secs(1);

/// What other pods may still ask.
#[derive(Debug)]
pub(super) struct Questions {
    common: Bucket,
    /// Of each pod that asked lately, and when it did.
    own: HashMap<PodId, (Bucket, Instant)>,
}

impl Questions {
    pub(super) fn new(now: Instant) -> Self {
        Self { common: Bucket::new(now, QUESTIONS, QUESTION), own: HashMap::new() }
    }

    /// Whether a question of this pod is looked up.
    pub(super) fn take(&mut self, now: Instant, pod: PodId) -> bool {
        self.take_own(now, pod) || self.common.take(now)
    }

    fn take_own(&mut self, now: Instant, pod: PodId) -> bool {
        if self.own.len() >= PODS && !self.own.contains_key(&pod) {
            self.own.retain(|_, (_, asked)| now.saturating_duration_since(*asked) < WHOLE_AGAIN);
            if self.own.len() >= PODS {
                return false;
            }
        }
        let (own, asked) = self.own.entry(pod).or_insert_with(|| (Bucket::new(now, OWN, OWN_QUESTION), now));
        *asked = now;
        own.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: u16) -> PodId {
        let [high, low] = number.to_be_bytes();
        PodId::from_bytes([high, low, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    }

    fn taken(questions: &mut Questions, at: u64, from: PodId, times: usize) -> usize {
        (0..times).filter(|_| questions.take(Instant::from_millis(at), from)).count()
    }

    #[test]
    fn pods_that_ask_all_they_may_leave_the_others_questions_of_their_own() {
        let mut questions = Questions::new(Instant::ZERO);
        let flooded: usize = (0..4).map(|number| taken(&mut questions, 0, pod(number), 1000)).sum();
        assert_eq!(flooded, 256 + 4 * 8, "what all share, and what each has");
        // For ten seconds four pods ask far more than is looked up for all, and one asks twice a second.
        let (mut flooded, mut quiet) = (0, 0);
        for at in (100..10_100).step_by(10) {
            flooded += (0..4).map(|number| taken(&mut questions, at, pod(number), 100)).sum::<usize>();
            if at % 500 == 0 {
                quiet += taken(&mut questions, at, pod(4), 1);
            }
        }
        assert_eq!(quiet, 20, "none of them is lost");
        let bound = 10 * (256 + 4 * 8) + 26 + 4;
        assert!((2_800..=bound).contains(&flooded), "{flooded} of {bound}");
    }

    #[test]
    fn one_pod_alone_has_what_all_share() {
        let mut questions = Questions::new(Instant::ZERO);
        assert_eq!(taken(&mut questions, 0, pod(0), 1000), 256 + 8);
        assert_eq!(taken(&mut questions, 1000, pod(0), 1000), 256 + 8);
    }

    #[test]
    fn pods_beyond_those_that_a_store_lists_have_what_all_share() {
        let mut questions = Questions::new(Instant::ZERO);
        for number in 0..PODS as u16 {
            assert!(questions.take(Instant::ZERO, pod(number)));
        }
        assert_eq!(taken(&mut questions, 0, pod(5000), 1000), 256);
        assert_eq!(questions.own.len(), PODS);
        // Those that were silent for so long that they have all again make room.
        assert_eq!(taken(&mut questions, 999, pod(5000), 1000), 255);
        assert_eq!(taken(&mut questions, 1000, pod(5000), 8), 8);
        assert_eq!(questions.own.len(), 1);
    }
}
