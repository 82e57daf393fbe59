//! Sessions, and the parts that they are made of.

mod commit;
mod downlink;
mod lingering;
mod liveness;
mod rekey;
mod tcp;
mod udp;

pub use commit::{CommitToken, Committed, MAX_PENDING};
pub use downlink::MAX_TRANSMISSIONS;
pub use lingering::Lingering;
pub use tcp::{MAX_MESSAGE_WIRE, TcpReceived, TcpSession};
pub use udp::{Acknowledged, Received, SessionEvent, Transmit, UdpSession};

use crate::{SessionId, SessionKeys};

/// What a handshake leaves behind.
pub(super) struct SessionKeysFor {
    pub(super) keys: SessionKeys,
    pub(super) session_id: SessionId,
}
