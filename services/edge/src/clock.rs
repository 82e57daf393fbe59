//! The one place of the edge that reads the clock.

use sluice_types::Timestamp;
use usmp::Instant;

/// Monotonic time since the start of the process, and the wall clock beside it. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: std::time::Instant,
    #[cfg(test)]
    simulated: Option<crate::simulation::PodClock>,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
    pub(crate) fn start() -> Self {
        Self {
            start: std::time::Instant::now(),
            #[cfg(test)]
            simulated: None,
        }
    }

    /// A clock that goes as the simulation says.
    #[cfg(test)]
    pub(crate) fn simulated(clock: crate::simulation::PodClock) -> Self {
        Self { simulated: Some(clock), ..Self::start() }
    }

    /// Starts at one second, so that "a moment ago" exists from the first moment on.
    pub(crate) fn now(self) -> Instant {
        #[cfg(test)]
        if let Some(simulated) = self.simulated {
            return simulated.now();
        }
        let elapsed = self.start.elapsed().as_micros();
        Instant::from_micros(1_000_000 + u64::try_from(elapsed).unwrap_or(u64::MAX - 1_000_000))
    }

    /// The wall clock, which may jump.
    #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
    pub(crate) fn wall(self) -> Timestamp {
        #[cfg(test)]
        if let Some(simulated) = self.simulated {
            return simulated.wall();
        }
        Timestamp::from_system_time(std::time::SystemTime::now())
    }

    /// What the wall clock, as it goes now, showed then.
    #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
    pub(crate) fn wall_at(self, then: Instant) -> Timestamp {
        #[cfg(test)]
        if let Some(simulated) = self.simulated {
            return simulated.wall_at(then);
        }
        let now = std::time::SystemTime::now();
        Timestamp::from_system_time(now.checked_sub(self.now() - then).unwrap_or(now))
    }
}
