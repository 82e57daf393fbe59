//! What the parent does when its worker has ended; no I/O. Time comes from outside, as what has passed since some moment.

use std::time::Duration;

/// A worker that lived as long starts the count of failures anew.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// The first pause before another worker; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What may be done for a worker that died, as it said itself while it lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Workers started in succession.
    pub(super) restarts: u32,
    /// Longest pause between the end of one and the start of the next.
    pub(super) longest_pause: Duration,
    /// How long the sockets stay open after the end of the last one.
    pub(super) linger: Duration,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this status.
    Exited(u8),
    /// Killed by this signal.
    Killed(i32),
    /// It could not be started, or nobody knows.
    Unknown,
}

impl End {
    /// As a shell says it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Unknown => 1,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with status {code}"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::Unknown => f.write_str("is gone"),
        }
    }
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The parent ends with this status.
    End(u8),
    /// Another worker is started then.
    Restart(Duration),
    /// The sockets stay open until then, and nobody reads them; then the parent ends with this status.
    Linger(Duration, u8),
}

impl Next {
    /// Somebody asks the parent to stop, for the first time or `again`, while nobody serves since `since`.
    pub(super) fn asked_to_stop(self, again: bool, since: Duration, linger: Duration, code: u8) -> Self {
        match self {
            Self::Restart(_) if !again => Self::Linger(since + linger, code),
            // It is about to end: a balancer that has not noticed yet is as good a reason to wait as before.
            Self::Linger(..) if !again => self,
            _ => Self::End(code),
        }
    }
}

/// Counts failures.
#[derive(Debug, Default)]
pub(super) struct Policy {
    failures: u32,
}

impl Policy {
    /// A worker has ended. `kept` says what was agreed with it or an earlier one, if sockets are kept at all.
    pub(super) fn ended(
        &mut self,
        end: End,
        (started, now): (Duration, Duration),
        stopping: bool,
        kept: Option<Limits>,
    ) -> Next {
        let Some(limits) = kept else { return Next::End(end.code()) };
        match end {
            // Drained: it has taken leave of its devices, or given them to others.
            End::Exited(0) => return Next::End(0),
            // It did what it was asked to, well or not: with that, nobody waits here any more.
            End::Exited(code) if stopping => return Next::End(code),
            _ if stopping => return Next::Linger(now + limits.linger, end.code()),
            _ => {}
        }
        if now.saturating_sub(started) >= GOOD_LIFE {
            self.failures = 0;
        }
        if self.failures >= limits.restarts {
            return Next::Linger(now + limits.linger, end.code());
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(limits.longest_pause);
        self.failures += 1;
        Next::Restart(now + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { restarts: 3, longest_pause: Duration::from_millis(250), linger: Duration::from_secs(5) };
    const KILLED: End = End::Killed(9);

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_worker_that_dies_is_followed_until_it_was_too_often_and_the_sockets_outlive_the_last() {
        let mut policy = Policy::default();
        let at = Duration::from_secs(1000);
        let mut died = |end| policy.ended(end, (at, at), false, Some(LIMITS));
        assert_eq!(died(KILLED), Next::Restart(at + milliseconds(100)));
        assert_eq!(died(End::Exited(1)), Next::Restart(at + milliseconds(200)));
        assert_eq!(died(End::Unknown), Next::Restart(at + milliseconds(250)));
        assert_eq!(died(KILLED), Next::Linger(at + milliseconds(5000), 137));
    }

    #[test]
    fn a_worker_that_lived_a_minute_starts_the_count_anew() {
        let mut policy = Policy::default();
        let at = Duration::from_secs(1000);
        for _ in 0..3 {
            policy.ended(KILLED, (at, at + milliseconds(59_999)), false, Some(LIMITS));
        }
        let now = at + milliseconds(60_000);
        assert_eq!(
            policy.ended(KILLED, (at, now), false, Some(LIMITS)),
            Next::Restart(now + milliseconds(100))
        );
    }

    #[test]
    fn a_worker_that_never_served_is_not_followed() {
        let at = Duration::from_secs(1000);
        for (end, code) in [(KILLED, 137), (End::Exited(2), 2), (End::Exited(0), 0), (End::Unknown, 1)] {
            assert_eq!(Policy::default().ended(end, (at, at), false, None), Next::End(code));
        }
    }

    #[test]
    fn an_end_that_was_asked_for_is_the_parents_and_a_kill_in_between_leaves_the_sockets_open_for_a_while() {
        let mut policy = Policy::default();
        let at = Duration::from_secs(1000);
        let mut asked = |end| policy.ended(end, (at, at), true, Some(LIMITS));
        assert_eq!(asked(End::Exited(0)), Next::End(0));
        assert_eq!(asked(End::Exited(1)), Next::End(1));
        assert_eq!(asked(KILLED), Next::Linger(at + milliseconds(5000), 137));
    }

    #[test]
    fn a_worker_that_drained_unasked_is_not_followed() {
        let at = Duration::from_secs(1000);
        assert_eq!(Policy::default().ended(End::Exited(0), (at, at), false, Some(LIMITS)), Next::End(0));
    }

    #[test]
    fn a_request_to_stop_between_two_workers_starts_none_and_a_second_one_ends_at_once() {
        let (since, linger) = (milliseconds(1000), milliseconds(500));
        let lingers = Next::Linger(milliseconds(1500), 137);
        let paused = Next::Restart(milliseconds(1100));
        assert_eq!(paused.asked_to_stop(false, since, linger, 137), lingers);
        assert_eq!(lingers.asked_to_stop(false, since, linger, 137), lingers);
        assert_eq!(lingers.asked_to_stop(true, since, linger, 137), Next::End(137));
    }

    #[test]
    fn the_longest_pause_may_be_none_and_counts_do_not_overflow() {
        let mut policy = Policy::default();
        let at = Duration::from_secs(1000);
        let many = Limits { restarts: u32::MAX, longest_pause: Duration::ZERO, ..LIMITS };
        for _ in 0..100 {
            assert_eq!(policy.ended(KILLED, (at, at), false, Some(many)), Next::Restart(at));
        }
    }
}
