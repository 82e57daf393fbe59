//! Whether the parts of this process that serve devices still turn; no clock, no I/O.
//!
//! A shard whose thread waits for ever, or goes round in a loop, looks like a quiet one from outside: its sockets are open. So each
//! shard says when it takes a turn, which it does once a second at least, and somebody looks once a second whether it did. `/livez`
//! and the beats to the parent go by the same judgement. The looks are counted, not the time: a process that was stopped as a whole
//! has not looked meanwhile, and finds everybody as alive as before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How often somebody has to call [`Pulse::look`].
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks in succession without a turn after which a part stands still. A shard sleeps for a second at most; on a machine that is
/// busy with other things its turn comes later than that.
const STILL: u32 = 5;

/// All parts of a process. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse {
    parts: Arc<Mutex<Vec<Part>>>,
}

#[derive(Debug)]
struct Part {
    name: String,
    turns: Weak<AtomicU64>,
    seen: u64,
    still: u32,
}

/// A part's way to say that it turns. It is not looked after any more once this is dropped: its end is told in other ways.
#[derive(Debug)]
pub(crate) struct Turns(Arc<AtomicU64>);

/// A part stands still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} has not taken a turn at {looks} looks, one each second")]
pub(crate) struct Stalled {
    part: String,
    looks: u32,
}

impl Pulse {
    /// Looks after one more part from now on.
    pub(crate) fn part(&self, name: impl Into<String>) -> Turns {
        let turns = Arc::new(AtomicU64::new(0));
        let part = Part { name: name.into(), turns: Arc::downgrade(&turns), seen: 0, still: 0 };
        self.lock().push(part);
        Turns(turns)
    }

    /// Looks at all of them, once for each [`LOOK_EVERY`].
    ///
    /// # Errors
    ///
    /// [`Stalled`] names the one that stands still for longest.
    pub(crate) fn look(&self) -> Result<(), Stalled> {
        self.lock().retain_mut(|part| {
            let Some(turns) = part.turns.upgrade() else { return false };
            let now = turns.load(Ordering::Relaxed);
            part.still = if now == part.seen { part.still.saturating_add(1) } else { 0 };
            part.seen = now;
            true
        });
        self.check()
    }

    /// What the last look has shown.
    ///
    /// # Errors
    ///
    /// As [`Pulse::look`].
    pub(crate) fn check(&self) -> Result<(), Stalled> {
        let parts = self.lock();
        match parts.iter().max_by_key(|part| part.still) {
            Some(part) if part.still >= STILL && part.turns.strong_count() > 0 => {
                Err(Stalled { part: part.name.clone(), looks: part.still })
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        // Whole after every statement that can end it, so a poisoned lock is as good as another.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    /// Takes a turn.
    pub(crate) fn turned(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last of so many looks shows.
    fn looks(pulse: &Pulse, count: u32) -> Result<(), Stalled> {
        for _ in 1..count {
            let _ = pulse.look();
        }
        pulse.look()
    }

    #[test]
    fn a_part_that_stands_is_named_and_alive_again_with_its_next_turn() {
        let pulse = Pulse::default();
        let (one, other) = (pulse.part("shard-0"), pulse.part("shard-1"));
        let turn_of_one = || {
            one.turned();
            pulse.look()
        };
        for _ in 0..STILL - 1 {
            assert_eq!(turn_of_one(), Ok(()));
        }
        let stalled = Stalled { part: "shard-1".to_owned(), looks: STILL };
        assert_eq!(turn_of_one(), Err(stalled.clone()));
        assert_eq!(pulse.check(), Err(stalled), "who asks in between hears the same");
        other.turned();
        assert_eq!(turn_of_one(), Ok(()));
        assert_eq!(pulse.check(), Ok(()));
    }

    #[test]
    fn a_part_that_has_ended_is_nobody_to_wait_for() {
        let pulse = Pulse::default();
        let part = pulse.part("shard-0");
        assert!(looks(&pulse, STILL).is_err());
        drop(part);
        assert_eq!(pulse.check(), Ok(()));
        assert_eq!(looks(&pulse, STILL), Ok(()));
    }

    #[test]
    fn nobody_is_alive_as_well() {
        assert_eq!(looks(&Pulse::default(), 2 * STILL), Ok(()));
    }
}
