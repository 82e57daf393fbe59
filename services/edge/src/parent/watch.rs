//! Whether a worker hangs; no I/O. Time comes from outside, as what has passed since some moment.
//!
//! A worker beats once a second while all of it turns. What counts is the silence that the parent was awake for: a process group that
//! is stopped as a whole (a laptop that sleeps, a virtual machine that is paused, a frozen container) is late for its own turns, and no
//! worker is to blame for that.

use std::time::Duration;

/// How often [`Watch::handle_turn`] wants to be called.
const TICK: Duration = Duration::from_secs(1);

/// A turn that comes this late means that this process slept. Shorter pauses are shorter than any patience.
const ASLEEP: Duration = Duration::from_secs(2);

/// Least patience until the first beat: the program has to be loaded and its settings to be read, on a machine that may be busy with what
/// killed the worker before.
const START: Duration = Duration::from_secs(60);

/// Looks after one worker.
#[derive(Debug)]
pub(super) struct Watch {
    /// As the worker said; until it does, as one before it said. `None`: there was none, and nobody knows what is long.
    patience: Option<Duration>,
    has_beaten: bool,
    heard: Duration,
    last_turn: Duration,
}

impl Watch {
    /// A worker that is started now; `patience` is that of the one before.
    pub(super) fn start(now: Duration, patience: Option<Duration>) -> Self {
        Self { patience, has_beaten: false, heard: now, last_turn: now }
    }

    /// It beats, and says how long it may be silent.
    pub(super) fn heard(&mut self, now: Duration, patience: Duration) {
        self.patience = Some(patience);
        self.has_beaten = true;
        self.heard = now;
    }

    /// Lets time pass, once everything that was said is heard. How long it has been silent, if that is too long.
    pub(super) fn handle_turn(&mut self, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.last_turn) >= TICK + ASLEEP {
            self.heard = now;
        }
        self.last_turn = now;
        let patience = self.patience?;
        let limit = if self.has_beaten { patience } else { patience.max(START) };
        let silent = now.saturating_sub(self.heard);
        (silent >= limit).then_some(silent)
    }

    /// When to call [`Watch::handle_turn`] next.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.patience.map(|_| self.last_turn + TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(15);

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// Turns as they are due, until the worker is judged or the time is over.
    fn hangs_at(watch: &mut Watch, from: Duration, until: Duration) -> Option<Duration> {
        let mut now = from;
        while now < until {
            now = watch.poll_timeout().expect("a worker that is looked after");
            if watch.handle_turn(now).is_some() {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn a_worker_that_falls_silent_hangs_when_patience_is_over_and_not_before() {
        let mut watch = Watch::start(seconds(0), None);
        for now in 1..=100 {
            watch.heard(seconds(now), PATIENCE);
            assert_eq!(watch.handle_turn(seconds(now)), None);
        }
        assert_eq!(hangs_at(&mut watch, seconds(100), seconds(1000)), Some(seconds(115)));
    }

    #[test]
    fn a_worker_that_has_not_beaten_yet_has_a_minute() {
        let mut watch = Watch::start(seconds(7), Some(PATIENCE));
        assert_eq!(hangs_at(&mut watch, seconds(7), seconds(1000)), Some(seconds(67)));
        let mut patient = Watch::start(seconds(0), Some(seconds(90)));
        assert_eq!(hangs_at(&mut patient, seconds(0), seconds(1000)), Some(seconds(90)));
    }

    #[test]
    fn the_first_worker_is_not_judged_before_it_has_said_what_is_long() {
        let mut watch = Watch::start(seconds(0), None);
        assert_eq!(watch.poll_timeout(), None);
        assert_eq!(watch.handle_turn(seconds(1_000_000)), None);
    }

    #[test]
    fn a_pause_of_both_is_no_silence_of_the_worker() {
        let mut watch = Watch::start(seconds(0), None);
        watch.heard(seconds(1), PATIENCE);
        assert_eq!(hangs_at(&mut watch, seconds(1), seconds(14)), None);
        // The lid is closed for an hour. What was silent before counts no more: the worker needs time to beat again.
        let woke = seconds(3614);
        assert_eq!(watch.handle_turn(woke), None);
        assert_eq!(hangs_at(&mut watch, woke, seconds(9999)), Some(woke + PATIENCE));
    }

    #[test]
    fn a_parent_that_is_late_for_its_turns_because_the_machine_is_busy_judges_all_the_same() {
        let mut watch = Watch::start(seconds(0), None);
        watch.heard(seconds(0), PATIENCE);
        let turns = (0..).map(|turn| Duration::from_millis(2900) * turn);
        let at = turns.into_iter().find(|now| watch.handle_turn(*now).is_some());
        assert_eq!(at, Some(Duration::from_millis(17_400)));
    }

    #[test]
    fn extra_turns_change_nothing() {
        let mut watch = Watch::start(seconds(0), None);
        watch.heard(seconds(0), PATIENCE);
        for now in 0..15_000 {
            assert_eq!(watch.handle_turn(Duration::from_millis(now)), None);
        }
        assert_eq!(watch.handle_turn(PATIENCE), Some(PATIENCE));
    }
}
