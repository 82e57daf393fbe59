//! Device registry, keys, revocations, session records and limits of Sluice.
//!
//! The only crate that speaks Redis, and the only one that opens the local `redb` file. It owns what is stored: names of
//! keys, formats, sealing, and the rules that hold over several writers. It owns no protocol, no session and no policy.
//!
//! Read first: [`Store`], [`KeyLookup`], [`KekRing`]. Both back ends pass one conformance suite (`src/tests`).
//!
//! # What an attacker with the stored bytes can do
//!
//! Keys, tenant roots and session records are sealed with AES-256-GCM under subkeys of the key-encryption key
//! ([`KekRing`]); registry records, tenants and log entries are readable but carry an HMAC over their name and version. So a
//! dump opens nothing, and a changed, swapped or truncated value is refused by name ([`RecordError`]). An old value put back
//! whole is noticed by every process that saw a newer one, or the log entry that followed it; a process that started
//! since and reads nothing newer cannot know.
//!
//! # Example
//!
//! ```
//! use sluice_store::{KekRing, KeyLookup, NewDevice, NewKey, Store};
//! use sluice_types::Psk;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::in_memory(KekRing::generate()?).await?;
//! let id = "02a1b2c3d4e5".parse()?;
//! let psk = Psk::new(&[0x5a; 32])?;
//! store.create_device(NewDevice::raw(id, NewKey::Individual(psk.clone()))).await?;
//!
//! let KeyLookup::Known(keys) = store.handshake_keys(id).await? else { panic!("just created") };
//! assert_eq!(keys.psks[0].1, psk);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod backend;
mod change;
mod clock;
mod cluster;
mod config;
mod derive;
mod device;
mod error;
mod floor;
mod handshake;
mod hold;
mod kek;
mod limit;
mod local;
mod location;
mod log_memory;
mod places;
mod pod;
mod put_back;
mod record;
mod redis;
mod registry;
mod revocation;
mod rotation;
mod seal;
mod secret;
mod session;
mod session_record;
#[cfg(feature = "simulated")]
pub mod simulated;
mod slot;
mod store;
mod tenant;
mod witness;

#[cfg(test)]
mod tests;

pub use cluster::{ClusterSecrets, Purpose};
pub use config::{ClusterKeysConfig, LocalConfig, RedisConfig, StoreConfig, StoreKind, Topology};
pub use derive::derived_psk;
pub use device::{
    Device, DevicePage, DeviceState, HandshakeKeys, KeyInfo, KeyLookup, KeySource, NewDevice, NewKey,
    PageRequest, PageToken, PageTokenError, Profile, Reason, ReasonError,
};
pub use error::{OpenError, RecordError, RegistryError, StoreError, StoreErrorKind};
pub use hold::{DeviceHold, HoldReason};
pub use kek::{KekError, KekRing};
pub use limit::{Limit, LimitOutcome, LimitSubject};
pub use location::{Claim, DeviceLocation};
pub use pod::{MAX_UNLINKED, PodRecord, RevocationOutcome};
pub use revocation::{AppliedPosition, LogPosition, Revocation, RevocationBatch, RevocationWatch};
pub use rotation::RotationError;
pub use secret::SecretKey;
pub use session::{LastRekey, SessionKeys, SessionRecord};
pub use slot::{MAX_SLOTS, MAX_SNAPSHOT_BYTES, SlotOwner, SlotSnapshot};
pub use store::Store;
pub use tenant::Tenant;
pub use witness::StoreWitness;
