//! The one place of the tests that reads the clock.

use std::time::Instant;

pub use sluice_test_env::wait_for;

/// The time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day in UTC, as logs have it.
#[expect(clippy::disallowed_methods, reason = "to be compared with the logs of real processes")]
pub(crate) fn time_of_day() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, now.subsec_millis())
}
