//! The server role (WIRE.md sections 5 to 12).
//!
//! The machines own no socket, clock, randomness or allocation. A driver feeds them datagrams or stream bytes, the time, and
//! random values (private keys, nonces, session ids, seeds), and sends what they give back.
//!
//! # UDP
//!
//! 1. [`classify`](demux::classify) looks at every datagram first; what it refuses is dropped and counted.
//! 2. A HELLO without a cookie: answer with [`Utack::plain`](crate::wire::Utack::plain) and a HELLO_RETRY whose cookie comes from
//!    [`CookieSecrets`](crate::CookieSecrets); give it to a [`RetryRing`] for the two resends.
//! 3. A HELLO with a valid cookie: UTACK it; give it to the [`UdpHandshake`] of that address, or
//!    [`start`](UdpHandshake::start) one, also in place of one whose [`handle_hello`](UdpHandshake::handle_hello) says
//!    [`HelloOutcome::StartOver`]. A HELLO with another cookie is dropped.
//! 4. A HELLO_ACK: [`handle_hello_ack`](UdpHandshake::handle_hello_ack); when it proves the key, UTACK it and
//!    [`accept`](UdpHandshake::accept) with a session id of the driver's choice. The session can receive from then on; the
//!    handshake lives on beside it until the session is established, and repeats SESSION_OK.
//! 5. Everything sealed goes to the [`UdpSession`] found by the prefix of its session id.
//!
//! After each input drain `poll_transmit`, then `poll_event`, then ask `poll_timeout` when to call `handle_timeout`.
//!
//! # Sessions that change their server
//!
//! Under [`SessionConfig::udp_shared`] everything that another server must know is committed by the driver before the device hears of
//! it: the journal has the highest committed number, the epoch and whether a message is open, a store has the keys. The other
//! server makes the session again by [`UdpSession::resumed`].
//!
//! # TCP
//!
//! [`TcpHandshake`] until it [`accept`](TcpHandshake::accept)s, then [`TcpSession`]. Both read from the start of the driver's buffer.
//! Any error means: close without a word.

mod config;
pub mod demux;
mod handshake;
mod pool;
mod reason;
mod retry;
mod session;
mod timers;

pub use config::{FragmentAck, HandshakeConfig, RekeyCommit, SessionConfig};
pub use handshake::{
    AckOutcome, HelloOutcome, MARK, MAX_PSKS, Proof, TcpHandshake, TcpHandshakeStep, UdpHandshake, WrongState,
};
pub use pool::{ArrayPool, MessageHandle, MessagePool};
pub use reason::{CloseReason, DropReason, SendError};
pub use retry::{RetryCounts, RetryRing};
pub use session::{
    Acknowledged, CommitToken, Committed, LastRekey, Lingering, MAX_MESSAGE_WIRE, MAX_PENDING,
    MAX_TRANSMISSIONS, PendingRekey, Received, Resumed, SendingNumbers, SessionEvent, SessionSecrets,
    TcpReceived, TcpSession, Transmit, UdpSession, first_number,
};
