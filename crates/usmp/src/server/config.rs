use super::SendingNumbers;
use crate::Duration;

/// How long a handshake may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeConfig {
    /// For all of it, from the first HELLO taken; 10 s. On UDP SESSION_OK is repeated for as long again.
    pub timeout: Duration,
    /// TCP: for each single step of the peer; 5 s.
    pub step_timeout: Duration,
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), step_timeout: Duration::from_secs(5) }
    }
}

/// When a fragment is acknowledged on UDP (WIRE.md section 12.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FragmentAck {
    /// At once: it is kept in memory only, the message as a whole is acknowledged by its last frame.
    #[default]
    Immediate,
    /// After the driver committed "a message is open at this number": for servers that hand sessions over. The fragment
    /// comes out as [`Received::Fragment`](super::Received::Fragment) with a token.
    Deferred,
}

/// When a REKEY of the device is followed on UDP (WIRE.md sections 9 and 12.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RekeyCommit {
    /// At once.
    #[default]
    Immediate,
    /// After the driver persisted the new keys and committed the new epoch: for servers that hand sessions over. The REKEY comes
    /// out as [`Received::Rekey`](super::Received::Rekey) with a token. The server itself starts none then.
    Deferred,
}

/// How a session behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Ends the session when nothing authentic came for this long; at least 90 s, or devices that only listen are lost.
    /// Up to 49 days.
    pub idle_timeout: Duration,
    /// PING after this long without an authentic frame, 45 s; `None`: never. Never a third while two are unanswered.
    pub keepalive: Option<Duration>,
    /// The one PING to a session that has sent nothing: this long after SESSION_OK is known to have arrived; 1 s.
    pub probe_after: Duration,
    /// UDP: the same when nothing tells that SESSION_OK has arrived; 8 s.
    pub probe_at_latest: Duration,
    /// UDP: see [`FragmentAck`].
    pub fragment_ack: FragmentAck,
    /// UDP: see [`RekeyCommit`].
    pub rekey: RekeyCommit,
    /// UDP: see [`SendingNumbers`].
    pub numbers: SendingNumbers,
}

impl SessionConfig {
    /// For UDP: one hour of silence is allowed.
    #[must_use]
    pub const fn udp() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3600),
            keepalive: Some(Duration::from_secs(45)),
            probe_after: Duration::from_secs(1),
            probe_at_latest: Duration::from_secs(8),
            fragment_ack: FragmentAck::Immediate,
            rekey: RekeyCommit::Immediate,
            numbers: SendingNumbers::Continuous,
        }
    }

    /// For UDP sessions that another server may go on with.
    #[must_use]
    pub const fn udp_shared() -> Self {
        Self {
            fragment_ack: FragmentAck::Deferred,
            rekey: RekeyCommit::Deferred,
            numbers: SendingNumbers::Blocks,
            ..Self::udp()
        }
    }

    /// For TCP: five minutes of silence are allowed.
    #[must_use]
    pub const fn tcp() -> Self {
        Self { idle_timeout: Duration::from_secs(300), ..Self::udp() }
    }
}
