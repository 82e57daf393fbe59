//! What tests of USMP share: the recorded vectors, links with a virtual clock, imitations of the official clients, a blocking
//! device for tests of servers, and bodies for the fuzzer.
//!
//! Nothing here runs in production. Randomness is seeded everywhere; a test prints its seed.
#![warn(missing_docs)]

pub mod crypto;
mod delegate;
pub mod fuzzing;
pub mod journal;
pub mod link;
pub mod pair;
pub mod profiles;
pub mod script;
pub mod sealed;
pub mod server;
pub mod sim;
pub mod vectors;
