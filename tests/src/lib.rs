//! End-to-end tests: real Redis, real Apache Kafka, the official SDK, and the edge as the process that is shipped.
//!
//! This library is what the tests in `tests/` are told in: a [`World`] (a corner of Redis and Kafka that no other test
//! sees), an [`Edge`] process in it, [`Sdk`] processes with official clients, and what is between and against them
//! ([`Relay`], [`Line`], [`Balancer`], [`hostile`]). What was committed is read back by a [`TopicReader`] and, as a witness from outside, by
//! Kafka's own Java consumer ([`java::consume`]).
//!
//! Everything blocks; every wait has a deadline and says what it waited for.
#![warn(missing_docs)]

mod balancer;
pub mod chaos;
mod clock;
mod edge;
pub mod expect;
pub mod hostile;
pub mod java;
mod line;
mod relay;
mod sdk;
mod topic;
mod world;

pub use balancer::{BackendCounts, Balancer, BalancerCounts, Recovery};
pub use clock::{now, wait_for};
pub use edge::{Edge, EdgeOptions, program, program_beside};
pub use line::{Condition, Line};
pub use relay::Relay;
pub use sdk::{
    Device, Pending, Sdk, SdkError, StreamPlan, Streamed, Transport, message, payload, session_id,
};
pub use topic::{Record, TopicReader, sessions_by_key};
pub use world::{Credentials, World};
