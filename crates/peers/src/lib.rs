//! Who lives, and authenticated links between the pods of one deployment.
//!
//! Each pod dials each other pod and sends on the link it dialled: heartbeats, relayed datagrams, control frames. TLS 1.3 with
//! certificates in both directions, under an authority that every pod derives from one shared secret; no plaintext. The crate
//! owns links, evidence of life and the choice of owners; it owns no slot, no session, no Redis and no Kafka. What it says about
//! life decides how fast things go, never whether they are right: who may write is decided by Kafka's fence.
//!
//! Read first: [`Peers`], [`Inbound`], [`PeerSender`], [`Liveness`], [`owner_of_slot`]; docs/peers.md for the protocol.
#![warn(missing_docs)]

mod buffer;
mod config;
mod counts;
mod dial;
mod frame;
mod identity;
mod inbound;
mod incoming;
mod liveness;
mod observer;
mod outgoing;
mod ownership;
mod peers;
mod secret;
mod sender;
mod shared;
#[cfg(feature = "simulated")]
pub mod simulated;
mod tls;

pub use config::{HEARTBEAT, PeerConfig};
pub use counts::{Count, PeerCounts};
pub use frame::{Control, FIRST_OTHER, FrameError, MAX_DATAGRAM, MAX_FRAME, MAX_PAYLOAD, VERSION};
pub use identity::IdentityError;
pub use inbound::{Inbound, NoRoom};
pub use liveness::{
    Aside, Event, Evidence, KAFKA_ANSWER, KAFKA_LOST, KAFKA_STEADY, LINKS_LOST, LINKS_STEADY, Liveness,
    MAX_NAMED, Member, PeerState, SILENCE, SILENCE_OF_RECORDS, TICK,
};
pub use observer::View;
pub use ownership::{ADOPTION_PAUSE, AdoptionPause, TooSoon, owner_of_slot, owner_of_source};
pub use peers::{Peers, PeersEnded, PeersHandle, StartError};
pub use secret::{MAX_SECRETS, PeerSecret, PeerSecrets};
pub use sender::{CONTROL_QUEUE, PeerSender, SendError};

#[cfg(test)]
mod tests;
