use core::fmt;

use crate::wire::{FrameError, HandshakeError};
use crate::{OpenFrameError, ReassemblyError};

/// Why input was dropped. On TCP the connection is closed for it, on UDP nothing happens. Counted, never logged per packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Fewer bytes than a frame's header.
    TooShort,
    /// Not the magic bytes of a frame or a UTACK.
    Magic,
    /// A version other than 0x02; 0x01 is refused since both its dialects are broken.
    Version,
    /// A payload length above 480.
    Length,
    /// A datagram that is not exactly one frame.
    Size,
    /// The CRC does not fit.
    Crc,
    /// A type that no release defines, or ERROR, which nobody sends.
    UnknownType,
    /// A type that a device does not send, or not now.
    UnexpectedType,
    /// A handshake frame of a length that its type does not have.
    HandshakeLength,
    /// A sealed frame too short for nonce and tag.
    PayloadTooShort,
    /// The explicit nonce is not that of header and session.
    ExplicitNonce,
    /// The tag does not fit.
    Authentication,
    /// HELLO_ACK does not prove any key of the device.
    WrongProof,
    /// UDP: a number at or below the highest taken, and not one to acknowledge again.
    Stale,
    /// UDP: a repeat of a message that is not committed yet.
    PendingDuplicate,
    /// UDP: as many messages as may be uncommitted already are.
    PendingFull,
    /// UDP: no buffer to put the fragments of a message together.
    NoBuffer,
    /// TCP: not the next number. There a replay ends the connection.
    Sequence,
    /// The last sequence number was used; the session is over.
    SequenceExhausted,
    /// A message of more than four frames.
    TooManyFragments,
    /// TCP: something else between the fragments of a message.
    InsideMessage,
    /// A REKEY whose salt is not 32 bytes.
    RekeyLength,
    /// A REKEY while one of ours is on its way; the session is over.
    RekeyCollision,
    /// A frame behind a REKEY that is not committed yet.
    RekeyPending,
    /// The end of a message whose start was lost when the session was handed over.
    Interrupted,
    /// More than eight PING and PONG in a second; the session is over, unless it was handed over: then they may be old copies.
    ControlFlood,
    /// A UTACK for nothing that is outstanding.
    UtackUnexpected,
    /// A UTACK without a MAC, or with one that does not fit.
    UtackMac,
    /// The session is closed.
    Closed,
}

impl DropReason {
    /// A stable name for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::Magic => "magic",
            Self::Version => "version",
            Self::Length => "length",
            Self::Size => "size",
            Self::Crc => "crc",
            Self::UnknownType => "unknown_type",
            Self::UnexpectedType => "unexpected_type",
            Self::HandshakeLength => "handshake_length",
            Self::PayloadTooShort => "payload_too_short",
            Self::ExplicitNonce => "explicit_nonce",
            Self::Authentication => "authentication",
            Self::WrongProof => "wrong_proof",
            Self::Stale => "stale",
            Self::PendingDuplicate => "pending_duplicate",
            Self::PendingFull => "pending_full",
            Self::NoBuffer => "no_buffer",
            Self::Sequence => "sequence",
            Self::SequenceExhausted => "sequence_exhausted",
            Self::TooManyFragments => "too_many_fragments",
            Self::InsideMessage => "inside_message",
            Self::RekeyLength => "rekey_length",
            Self::RekeyCollision => "rekey_collision",
            Self::RekeyPending => "rekey_pending",
            Self::Interrupted => "interrupted",
            Self::ControlFlood => "control_flood",
            Self::UtackUnexpected => "utack_unexpected",
            Self::UtackMac => "utack_mac",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for DropReason {}

impl From<FrameError> for DropReason {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooShort => Self::TooShort,
            FrameError::Magic => Self::Magic,
            FrameError::Version(_) => Self::Version,
            FrameError::Length => Self::Length,
            FrameError::Size => Self::Size,
            FrameError::Crc => Self::Crc,
        }
    }
}

impl From<OpenFrameError> for DropReason {
    fn from(error: OpenFrameError) -> Self {
        match error {
            OpenFrameError::PayloadTooShort => Self::PayloadTooShort,
            OpenFrameError::ExplicitNonce => Self::ExplicitNonce,
            OpenFrameError::Tag => Self::Authentication,
        }
    }
}

impl From<HandshakeError> for DropReason {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Type => Self::UnexpectedType,
            HandshakeError::Length => Self::HandshakeLength,
        }
    }
}

impl From<ReassemblyError> for DropReason {
    fn from(error: ReassemblyError) -> Self {
        match error {
            ReassemblyError::TooManyFragments => Self::TooManyFragments,
            ReassemblyError::TooLong => Self::Length,
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The device said BYE.
    Bye,
    /// Nothing authentic came for the idle timeout.
    Idle,
    /// We said BYE, and it was acknowledged or given up.
    Local,
    /// A direction used its last sequence number.
    SequenceExhausted,
    /// The device sent more than eight PING and PONG in a second.
    ControlFlood,
    /// Both sides started REKEY at the same time, or ours was never acknowledged.
    Rekey,
}

impl CloseReason {
    /// A stable name for a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Idle => "idle",
            Self::Local => "local",
            Self::SequenceExhausted => "sequence_exhausted",
            Self::ControlFlood => "control_flood",
            Self::Rekey => "rekey",
        }
    }
}

/// Why a session does not take what the driver wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// A message or a REKEY is on its way.
    Busy,
    /// More than 1808 bytes.
    TooLong,
    /// TCP: the output cannot hold the frames; see [`MAX_MESSAGE_WIRE`](super::MAX_MESSAGE_WIRE).
    BufferTooSmall,
    /// No sequence numbers are left; a new handshake is needed.
    SequenceExhausted,
    /// Keys change by the device only, since the change must be committed before it happens; see
    /// [`RekeyCommit::Deferred`](super::RekeyCommit).
    RekeyByDeviceOnly,
    /// The session is closed.
    Closed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "another message is on its way",
            Self::TooLong => "the message is above 1808 bytes",
            Self::BufferTooSmall => "the output buffer is too small",
            Self::SequenceExhausted => "no sequence numbers are left",
            Self::RekeyByDeviceOnly => "only the device changes the keys of this session",
            Self::Closed => "the session is closed",
        })
    }
}

impl core::error::Error for SendError {}
