//! The edge: terminates USMP sessions and hands verified records to Kafka.
//!
//! It owns sockets, sessions and their timers, and decides who may speak. It owns no protocol (crate `usmp`), no keys (crate
//! `sluice-store`) and no producer (crate `sluice-bus`).
//!
//! One thread per core, a *shard*, has its own sockets (`SO_REUSEPORT`), sessions, timers and writer to Kafka; nothing is shared
//! on the way of a packet. What concerns a device over all shards (take-over, revocation, messages to it) is done by one task
//! beside them, the *fleet*. Key look-ups run on the process's runtime within a budget of their own.
//!
//! Read first: [`Edge`], [`config::EdgeConfig`], [`run`].
#![warn(missing_docs)]

mod admission;
mod bucket;
mod clock;
mod cluster;
pub mod config;
mod counts;
mod edge;
mod events;
mod fleet;
mod gauges;
mod handle;
mod limits;
mod link;
mod lookups;
pub mod parent;
mod path;
mod process;
mod proxy;
mod pulse;
mod revocations;
mod secrets;
mod security;
mod session_ids;
mod shard;
#[cfg(test)]
mod simulation;
mod sockets;
mod standing;
mod stream;
mod table;
mod tenant_places;
mod timers;
mod udp_io;

pub use cluster::JoinError;
pub use counts::Count;
pub use edge::{Deps, Edge, Ending, StartError};
pub use handle::{Addresses, EdgeHandle};
pub use link::SendError;
pub use process::{Config, RunError, main, run};
pub use sockets::BindError;
