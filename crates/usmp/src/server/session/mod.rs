//! Sessions, and the parts that they are made of.

mod commit;
mod downlink;
mod lingering;
mod liveness;
mod numbers;
mod rekey;
mod secrets;
mod tcp;
mod udp;

pub use commit::{CommitToken, Committed, MAX_PENDING};
pub use downlink::MAX_TRANSMISSIONS;
pub use lingering::Lingering;
pub use numbers::{SendingNumbers, first_number};
pub use secrets::{LastRekey, PendingRekey, Resumed, SessionSecrets};
pub use tcp::{MAX_MESSAGE_WIRE, TcpReceived, TcpSession};
pub use udp::{Acknowledged, Received, SessionEvent, Transmit, UdpSession};

use crate::{SessionId, SessionKeys};

/// What a handshake leaves behind.
pub(super) struct SessionKeysFor {
    pub(super) keys: SessionKeys,
    pub(super) session_id: SessionId,
}
