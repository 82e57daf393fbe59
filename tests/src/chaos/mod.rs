//! Many pods, a balancer in front of them, a fleet of devices, and what happens to the pods meanwhile.
//!
//! A scenario starts a [`Cluster`] and a [`Fleet`], does something to a pod, waits until every device got further, and has what the
//! devices were told compared with what Kafka has: [`Verdict`].

mod cluster;
mod fleet;
mod junction;
mod probe;
mod releases;
mod verdict;
mod wiring;

pub use cluster::{Adoption, Cluster, ClusterOptions, slot_of};
pub use fleet::{DeviceLog, Fleet, is_fragmented, number_of, size_of};
pub use probe::{Probe, Probes, Step};
pub use releases::{Crossing, not_taken};
pub use verdict::Verdict;
pub use wiring::{Reaches, Wiring};
