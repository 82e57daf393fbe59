//! Many pods: which slots this pod serves, who serves the others, what moves between them. docs/many-pods.md says how it fits
//! together and why it is right; nothing here is on the packet path.

mod adoption;
mod announcement;
mod holding;
mod inbound;
mod keeper;
mod members;
mod owner;
mod penalties;
mod pulse;
mod questions;
mod ring;
#[cfg(test)]
mod simulated;
mod slot_map;
mod start;

pub(crate) use self::keeper::KeeperPool;
pub(crate) use self::keeper::{Keeper, for_the_store, from_the_store, keys_for_the_store};
#[cfg(test)]
pub(crate) use self::simulated::{Simulated, Simulation, simulate};
pub(crate) use self::slot_map::{Place, SlotMap};
pub use self::start::JoinError;
pub(crate) use self::start::{ClusterParts, Joined, Joining, ShardPort, join};
