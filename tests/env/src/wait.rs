//! Waiting for effects outside this process.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `probe` until it returns a value, at most for `limit`.
///
/// # Errors
/// The limit passed; the message names `what` was waited for and the last thing seen.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let start = now();
    loop {
        let seen = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if now().duration_since(start) >= limit {
            bail!("waited {limit:?} for {what}; last seen: {seen}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the driver that waits for real servers")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
