//! Many pods under one seed: the edge's own shards, sessions, slots, owners and fleets, on one thread and in virtual time, between
//! devices, a network, a Kafka and a Redis that are simulated and do what real ones do at their worst.
//!
//! docs/simulation.md says what is real and what is not, and how a run is repeated. The pieces of this module are the world around
//! the edge; in the edge itself a few types have a simulated variant beside the real one.

mod cut_off;
mod device;
mod gate;
mod kafka;
mod kafka_log;
mod network;
mod plan;
mod pod;
mod run;
mod tally;
mod tests;
mod time;
mod trouble;
mod verdict;
mod watched;
mod wire;
mod world;

pub(crate) use self::kafka::{Ledgers, SlotWriter};
pub(crate) use self::time::{PodClock, fill};
pub(crate) use self::wire::{Alarm, PodWire};
