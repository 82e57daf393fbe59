//! USMP, wire version 0x02, as the official libraries speak it (`docs/usmp/WIRE.md`).
//!
//! The crate owns bytes, keys and states; it owns no socket, no clock, no allocator, no randomness and no log. Bytes, time and
//! random values come in as arguments, bytes and events go out, so that the same code runs in a server, in firmware and under
//! a fuzzer, and every run can be replayed.
//!
//! Read first: [`wire::Frame`], [`server`], [`device`]. The machines are generic over a [`crypto::Provider`].
#![no_std]
#![warn(missing_docs)]
#![warn(clippy::std_instead_of_core)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod cookie;
pub mod crypto;
pub mod device;
mod ids;
mod keys;
mod reassembly;
mod rto;
mod seal;
mod secret;
pub mod server;
mod time;
mod window;
pub mod wire;

pub use cookie::CookieSecrets;
pub use ids::{DeviceId, SessionId};
pub use keys::{Role, SessionKeys, client_proof, rekey, server_proof, session_keys};
pub use reassembly::{MessageBuffer, Reassembly, ReassemblyError};
pub use rto::Rto;
pub use seal::{OpenFrameError, Opened, SealError, open_frame, seal_frame};
pub use secret::Secret;
pub use time::{Duration, Instant};
pub use window::{ReplayWindow, WindowError};
