//! What a datagram is, before anything is answered or looked up.

use super::DropReason;
use crate::wire::{Frame, FrameType, Hello, HelloAck, SEAL_OVERHEAD, Utack};

/// A datagram that may be acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// Goes to handshake or session by the address it came from.
    Utack(Utack),
    /// With or without a cookie.
    Hello(Hello),
    /// Goes to the handshake of the address it came from.
    HelloAck(HelloAck),
    /// Goes to the session whose id starts with `prefix`. Nothing of it is authentic yet.
    Sealed {
        /// Frame bytes 16 to 23: the first half of a session id.
        prefix: [u8; 8],
        /// What the header says.
        frame_type: FrameType,
        /// What the header says.
        seq: u32,
    },
}

/// Makes every check that needs no key and no state (WIRE.md section 12.2): UTACKs by their first bytes, then size, magic, length,
/// version, CRC, then what each type demands. Unlike the reference this comes before any reply.
///
/// # Errors
///
/// [`DropReason`]; the datagram is dropped without an answer.
pub fn classify(datagram: &[u8]) -> Result<Datagram, DropReason> {
    if let Some(utack) = Utack::parse(datagram) {
        return Ok(Datagram::Utack(utack));
    }
    let frame = Frame::parse(datagram)?;
    let header = frame.header();
    match header.frame_type {
        FrameType::Hello => Ok(Datagram::Hello(Hello::parse(&frame)?)),
        FrameType::HelloAck => Ok(Datagram::HelloAck(HelloAck::parse(&frame)?)),
        FrameType::Challenge | FrameType::SessionOk | FrameType::HelloRetry => {
            Err(DropReason::UnexpectedType)
        }
        sealed if sealed.is_sealed() => {
            if frame.payload().len() < SEAL_OVERHEAD {
                return Err(DropReason::PayloadTooShort);
            }
            // The explicit nonce: four bytes of sequence, then the prefix.
            let prefix = frame.payload().get(4..12).and_then(|bytes| bytes.first_chunk().copied());
            let prefix = prefix.ok_or(DropReason::PayloadTooShort)?;
            Ok(Datagram::Sealed { prefix, frame_type: sealed, seq: header.seq })
        }
        _ => Err(DropReason::UnknownType),
    }
}
