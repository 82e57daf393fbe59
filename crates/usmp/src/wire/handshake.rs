//! The payloads of the handshake frames (WIRE.md section 5).

use core::fmt;

use super::{BufferTooSmall, Frame, FrameType, emit};
use crate::{DeviceId, SessionId};

/// A handshake frame whose type or payload length is not what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Another type than the one awaited.
    Type,
    /// A payload length that this type does not have.
    Length,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "not the frame type awaited",
            Self::Length => "a payload length that this type does not have",
        })
    }
}

impl core::error::Error for HandshakeError {}

fn payload_of<'a>(frame: &Frame<'a>, frame_type: FrameType) -> Result<&'a [u8], HandshakeError> {
    if frame.header().frame_type == frame_type { Ok(frame.payload()) } else { Err(HandshakeError::Type) }
}

fn split<const A: usize, const B: usize>(payload: &[u8]) -> Option<([u8; A], [u8; B])> {
    let (first, rest) = payload.split_first_chunk::<A>()?;
    Some((*first, *<&[u8; B]>::try_from(rest).ok()?))
}

fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    out
}

/// HELLO: who wants a session, and its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Sequence number of the frame; only its UTACK repeats it.
    pub seq: u32,
    /// Who the sender says it is.
    pub device_id: DeviceId,
    /// X25519 public key of this handshake.
    pub public_key: [u8; 32],
    /// What HELLO_RETRY gave, if this is the second HELLO.
    pub cookie: Option<[u8; 16]>,
}

impl Hello {
    /// Reads a HELLO of 38 bytes, or 54 with a cookie.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names what does not fit.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, HandshakeError> {
        let payload = payload_of(frame, FrameType::Hello)?;
        let (device_id, rest) = payload.split_first_chunk::<6>().ok_or(HandshakeError::Length)?;
        let (public_key, rest) = rest.split_first_chunk::<32>().ok_or(HandshakeError::Length)?;
        let cookie = match rest {
            [] => None,
            rest => Some(*<&[u8; 16]>::try_from(rest).map_err(|_| HandshakeError::Length)?),
        };
        Ok(Self { seq: frame.header().seq, device_id: DeviceId(*device_id), public_key: *public_key, cookie })
    }

    /// Writes the frame, 50 or 66 bytes.
    ///
    /// # Errors
    ///
    /// [`BufferTooSmall`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let plain: [u8; 38] = join(&[&self.device_id.0, &self.public_key]);
        match &self.cookie {
            None => emit(FrameType::Hello, self.seq, &plain, out),
            Some(cookie) => emit(FrameType::Hello, self.seq, &join::<54>(&[&plain, cookie]), out),
        }
    }
}

/// CHALLENGE: the server's nonce and public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Fresh random bytes of the server.
    pub nonce: [u8; 32],
    /// X25519 public key of this handshake.
    pub public_key: [u8; 32],
}

impl Challenge {
    /// Reads a CHALLENGE.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names what does not fit.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, HandshakeError> {
        let (nonce, public_key) =
            split(payload_of(frame, FrameType::Challenge)?).ok_or(HandshakeError::Length)?;
        Ok(Self { nonce, public_key })
    }

    /// Writes the frame, 76 bytes.
    ///
    /// # Errors
    ///
    /// [`BufferTooSmall`].
    pub fn emit(&self, seq: u32, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        emit(FrameType::Challenge, seq, &join::<64>(&[&self.nonce, &self.public_key]), out)
    }
}

/// HELLO_ACK: the device's proof that it has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloAck {
    /// Sequence number of the frame; only its UTACK repeats it.
    pub seq: u32,
    /// See [`client_proof`](crate::client_proof).
    pub mac: [u8; 32],
}

impl HelloAck {
    /// Reads a HELLO_ACK.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names what does not fit.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, HandshakeError> {
        let payload = payload_of(frame, FrameType::HelloAck)?;
        let mac = *<&[u8; 32]>::try_from(payload).map_err(|_| HandshakeError::Length)?;
        Ok(Self { seq: frame.header().seq, mac })
    }

    /// Writes the frame, 44 bytes.
    ///
    /// # Errors
    ///
    /// [`BufferTooSmall`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        emit(FrameType::HelloAck, self.seq, &self.mac, out)
    }
}

/// SESSION_OK: the session's id and the server's proof that it has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOk {
    /// The new session.
    pub session_id: SessionId,
    /// See [`server_proof`](crate::server_proof).
    pub mac: [u8; 32],
}

impl SessionOk {
    /// Reads a SESSION_OK.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names what does not fit.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, HandshakeError> {
        let (session_id, mac) =
            split(payload_of(frame, FrameType::SessionOk)?).ok_or(HandshakeError::Length)?;
        Ok(Self { session_id: SessionId(session_id), mac })
    }

    /// Writes the frame, 60 bytes.
    ///
    /// # Errors
    ///
    /// [`BufferTooSmall`].
    pub fn emit(&self, seq: u32, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        emit(FrameType::SessionOk, seq, &join::<48>(&[&self.session_id.0, &self.mac]), out)
    }
}

/// HELLO_RETRY: the cookie with which the device shows that it receives at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloRetry {
    /// Opaque to the device.
    pub cookie: [u8; 16],
}

impl HelloRetry {
    /// Reads a HELLO_RETRY.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names what does not fit.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, HandshakeError> {
        let payload = payload_of(frame, FrameType::HelloRetry)?;
        Ok(Self { cookie: *<&[u8; 16]>::try_from(payload).map_err(|_| HandshakeError::Length)? })
    }

    /// Writes the frame, 28 bytes.
    ///
    /// # Errors
    ///
    /// [`BufferTooSmall`].
    pub fn emit(&self, seq: u32, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        emit(FrameType::HelloRetry, seq, &self.cookie, out)
    }
}
