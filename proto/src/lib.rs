//! Messages of Sluice's topics, stores and interfaces, generated at build time from the `.proto` files beside.
//!
//! Generated types stop at the border of a crate: `TryFrom` into that crate's own types is where validation lives.

/// Messages of the lifecycle and security topics.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod events {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/sluice.events.v1.rs"));
    }
}

/// What Sluice keeps in its stores.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod store {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/sluice.store.v1.rs"));
    }
}

/// Serialized `FileDescriptorSet` of every message here, for reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
