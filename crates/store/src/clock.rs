use std::time::SystemTime;

use sluice_types::Timestamp;

/// The wall clock, for time stamps of records and for deadlines set in wall-clock time. Nothing that keeps a nonce or a key
/// from being used twice depends on it.
#[expect(
    clippy::disallowed_methods,
    reason = "the store is a driver: records carry the time of their writing"
)]
pub(crate) fn now() -> Timestamp {
    Timestamp::from_system_time(SystemTime::now())
}

/// Milliseconds as the unsigned number that versions and log positions start from.
pub(crate) fn now_millis() -> u64 {
    u64::try_from(now().as_millis()).unwrap_or_default()
}
