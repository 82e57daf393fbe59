//! The one place of the tests that reads the clock.

use std::time::Instant;

pub use sluice_test_env::wait_for;

/// The time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]
pub fn now() -> Instant {
    Instant::now()
}
