//! Validated values shared by all of Sluice.
//!
//! A value of these types has been checked once, at the border; everything behind trusts the type. The crate owns names,
//! identifiers and pre-shared keys; it owns no protocol, no storage and no clock.
//!
//! Read first: [`DeviceId`], [`TenantId`], [`Psk`].
//!
//! ```
//! use sluice_types::DeviceId;
//!
//! let id: DeviceId = "02:A1:B2:C3:D4:E5".parse()?;
//! assert_eq!(id.to_string(), "02a1b2c3d4e5");
//! # Ok::<(), sluice_types::DeviceIdError>(())
//! ```
#![warn(missing_docs)]

mod device;
mod epoch;
mod hex_id;
mod pod;
mod psk;
mod session;
mod tenant;
mod timestamp;

pub use device::{DeviceId, DeviceIdError};
pub use epoch::{DeviceEpoch, KeyEpoch};
pub use pod::{PodId, PodIdError};
pub use psk::{MIN_PSK_BYTES, PUBLISHED_KEYS, Psk, PskError, PskFormat, PublishedKey};
pub use session::{SessionId, SessionIdError};
pub use tenant::{TenantId, TenantIdError};
pub use timestamp::Timestamp;
