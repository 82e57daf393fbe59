//! End to end, with real servers, the official SDK, and the edge's own binary. `cargo xtask test` builds and starts what
//! is needed.
#![cfg(feature = "backends")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod audit;
mod bad_input;
mod balanced;
mod chaos;
mod crowds;
mod degraded;
mod device_keys;
mod driver;
mod fleet;
mod hostile_peers;
mod kafka_outage;
mod lossy_network;
mod readers;
mod redis_outage;
mod refusals;
mod rolled_back;
mod sessions;
mod stopping;
mod store_commands;
mod strangers;
