use core::fmt;

use crate::SessionId;
use crate::wire::FrameError;

/// Names one message of this connection; counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u32);

/// What a device tells its application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The server proved that it has the key; the session is open.
    Connected {
        /// The server's name for the session.
        session_id: SessionId,
    },
    /// A message of the server. The next one is taken only after this event.
    Message(&'a [u8]),
    /// TCP: the last frame of a message went to the transport. That says nothing about the server.
    Sent(MessageId),
    /// UDP: the server acknowledged every frame of a message.
    Delivered(MessageId),
    /// UDP: a frame of the message was sent five times in vain, or the session ended before. The server may have the message
    /// or not.
    Failed(MessageId),
    /// Both sides have new keys.
    Rekeyed,
    /// The connection is over. Always the last event.
    Closed(CloseReason),
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// No UTACK for HELLO: nobody is there, or nobody answers this address (UDP).
    Unreachable,
    /// No UTACK and no SESSION_OK for HELLO_ACK (UDP): most likely the server does not accept the key.
    NotAccepted,
    /// The handshake took too long.
    HandshakeTimeout,
    /// SESSION_OK does not prove that the server has the key. On UDP this is told when the handshake timed out and such a
    /// frame had come.
    ServerProof,
    /// The server broke the protocol (TCP).
    Protocol(ProtocolError),
    /// The server said BYE.
    ByeReceived,
    /// Our BYE went out; on UDP the server acknowledged it.
    Bye,
    /// Our BYE was sent five times in vain; the server will notice by its own timer.
    ByeUnacknowledged,
    /// A frame was sent five times in vain, see [`Exhaustion`](super::Exhaustion).
    Unacknowledged,
    /// Both sides sent REKEY at once, which leaves them on different keys (WIRE.md section 9).
    CrossedRekeys,
    /// A sequence counter is at its end (WIRE.md section 7).
    SequenceExhausted,
    /// The driver reported the end of the transport.
    TransportClosed,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("no answer from the server; check address, port and firewall"),
            Self::NotAccepted => f.write_str("the server does not accept this device id and key"),
            Self::HandshakeTimeout => f.write_str("the handshake took too long"),
            Self::ServerProof => f.write_str("the server does not have this device's key"),
            Self::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            Self::ByeReceived => f.write_str("the server ended the session"),
            Self::Bye => f.write_str("the session was ended"),
            Self::ByeUnacknowledged => {
                f.write_str("the session was ended, but the server did not acknowledge it")
            }
            Self::Unacknowledged => f.write_str("the server does not acknowledge any more"),
            Self::CrossedRekeys => f.write_str("both sides changed keys at once"),
            Self::SequenceExhausted => f.write_str("the sequence numbers are used up"),
            Self::TransportClosed => f.write_str("the connection was closed"),
        }
    }
}

impl core::error::Error for CloseReason {}

/// How a server broke the protocol on TCP, where there is no way to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The bytes are no frame.
    Frame(FrameError),
    /// A frame of a type that has no place here.
    UnexpectedType,
    /// A payload length that the type does not have.
    Length,
    /// The server's public key is of low order.
    LowOrderPoint,
    /// A sealed frame that does not open.
    Authentication,
    /// Not the sequence number that must follow.
    Sequence,
    /// A control frame between the fragments of a message.
    InsideMessage,
    /// A message of more than four frames, or longer than this device takes.
    MessageTooLong,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "{error}"),
            Self::UnexpectedType => f.write_str("a frame type that has no place here"),
            Self::Length => f.write_str("a payload length that the frame type does not have"),
            Self::LowOrderPoint => f.write_str("a public key of low order"),
            Self::Authentication => f.write_str("a sealed frame that does not open"),
            Self::Sequence => f.write_str("a sequence number out of order"),
            Self::InsideMessage => f.write_str("a control frame between the fragments of a message"),
            Self::MessageTooLong => f.write_str("a message longer than this device takes"),
        }
    }
}

impl core::error::Error for ProtocolError {}

/// Why a datagram was not taken. None of it changes the session, and a stranger can cause most of it: count, do not act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Not a frame of version 0x02.
    Frame,
    /// A UTACK for nothing that is outstanding, or with a wrong MAC.
    Utack,
    /// A frame type that has no place here.
    UnexpectedType,
    /// A payload length that the type does not have.
    Length,
    /// A public key of low order.
    LowOrderPoint,
    /// SESSION_OK with a wrong proof.
    ServerProof,
    /// A repetition, acknowledged once more.
    Duplicate,
    /// 64 or more below the highest sequence number seen.
    TooOld,
    /// A sealed frame that does not open.
    Authentication,
    /// The message before was not polled yet; not acknowledged, so the server sends it again.
    Busy,
    /// A message of more than four frames, or longer than this device takes; acknowledged, since it never can be taken.
    MessageTooLong,
    /// More PINGs than PONGs can be owed; acknowledged.
    TooManyPings,
    /// There is no session, or no session any more.
    Closed,
}

impl DropReason {
    /// A short name, for counters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Utack => "utack",
            Self::UnexpectedType => "unexpected_type",
            Self::Length => "length",
            Self::LowOrderPoint => "low_order_point",
            Self::ServerProof => "server_proof",
            Self::Duplicate => "duplicate",
            Self::TooOld => "too_old",
            Self::Authentication => "authentication",
            Self::Busy => "busy",
            Self::MessageTooLong => "message_too_long",
            Self::TooManyPings => "too_many_pings",
            Self::Closed => "closed",
        }
    }
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The handshake is not done.
    NotConnected,
    /// The connection is over, or BYE is under way.
    Closed,
    /// A message is under way, or the outcome of the last one was not polled.
    Busy,
    /// Longer than `TX` or than 1808 bytes.
    TooLong,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the handshake is not done",
            Self::Closed => "the session is over",
            Self::Busy => "a message is under way",
            Self::TooLong => "the message is too long",
        })
    }
}

impl core::error::Error for SendError {}

/// Why `ping`, `rekey` or `bye` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError {
    /// The handshake is not done.
    NotConnected,
    /// The connection is over, or BYE is under way.
    Closed,
    /// The same was asked for before and is not done yet.
    Busy,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the handshake is not done",
            Self::Closed => "the session is over",
            Self::Busy => "the same is already under way",
        })
    }
}

impl core::error::Error for CommandError {}

/// Events that were not polled yet. One of each kind at most: what would make a second one is refused until then.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) connected: Option<SessionId>,
    pub(super) rekeyed: bool,
    pub(super) outcome: Option<Outcome>,
    pub(super) closed: Option<CloseReason>,
}

/// How sending a message ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Sent(MessageId),
    Delivered(MessageId),
    Failed(MessageId),
}

impl Events {
    /// What comes before a message.
    pub(super) fn first(&mut self) -> Option<Event<'static>> {
        if let Some(session_id) = self.connected.take() {
            return Some(Event::Connected { session_id });
        }
        core::mem::take(&mut self.rekeyed).then_some(Event::Rekeyed)
    }

    /// What comes after a message.
    pub(super) fn last(&mut self) -> Option<Event<'static>> {
        match self.outcome.take() {
            Some(Outcome::Sent(id)) => Some(Event::Sent(id)),
            Some(Outcome::Delivered(id)) => Some(Event::Delivered(id)),
            Some(Outcome::Failed(id)) => Some(Event::Failed(id)),
            None => self.closed.take().map(Event::Closed),
        }
    }
}
