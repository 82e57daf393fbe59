//! Whether Kafka answers a pod, from what the pod says of it.

use std::time::{Duration, Instant};

/// A pod that Kafka has not answered for so long while it answers another one steadily is cut off from it. Longer than a broker needs
/// to hand its partitions on when it is restarted, which clients notice at slightly different times; short enough that a device
/// which repeats five times reaches the next owner of its slot.
pub const KAFKA_LOST: Duration = Duration::from_secs(3);
/// It serves again once Kafka has answered it for so long without a break, and only who was answered for so long is a witness against
/// others: when Kafka comes back for all, the first to notice must not count the rest as cut off.
pub const KAFKA_STEADY: Duration = Duration::from_secs(3);
/// An answer this old is a break. Pods ask every 400 ms and beat every 200 ms.
const BREAK: Duration = Duration::from_millis(1500);
/// So long what a pod said counts. Records in the store, by which those without a link are known, come more seldom than beats.
const KNOWN: Duration = Duration::from_millis(2500);

/// What is known of one pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// The last answer; before the first one, when the pod was first heard of.
    answered: Instant,
    ever: bool,
    /// Since when answers come without a break.
    steady: Option<Instant>,
    /// Until when this is known: a pod that is not heard is judged by something else.
    known: Instant,
}

impl Reach {
    pub(super) const fn new(now: Instant) -> Self {
        Self { answered: now, ever: false, steady: None, known: now }
    }

    /// The pod says now that its last answer is `age` old; `None`: it had none yet.
    pub(super) fn told(&mut self, now: Instant, age: Option<Duration>) {
        self.known = now;
        // What lies before the clock's own beginning is older than what is known.
        if let Some(answered) = age.and_then(|age| now.checked_sub(age)) {
            self.answered = if self.ever { self.answered.max(answered) } else { answered };
            self.ever = true;
        }
        if age.is_none_or(|age| age >= BREAK) {
            self.steady = None;
        } else if self.steady.is_none() {
            self.steady = Some(self.answered);
        }
    }

    /// Kafka answers it, as far as it was heard.
    pub(super) fn is_answered(&self, now: Instant) -> bool {
        self.steady.is_some() && now.saturating_duration_since(self.known) < KNOWN
    }

    /// Kafka answers it, and has for some time.
    pub(super) fn is_steady(&self, now: Instant) -> bool {
        let lasted = |steady| self.answered.saturating_duration_since(steady);
        self.is_answered(now) && self.steady.is_some_and(|steady| lasted(steady) >= KAFKA_STEADY)
    }

    /// Kafka has not answered it for long, by its own word.
    pub(super) fn is_lost(&self) -> bool {
        self.known.saturating_duration_since(self.answered) >= KAFKA_LOST
    }
}
