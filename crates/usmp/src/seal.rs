use core::fmt;

use crate::crypto::Provider;
use crate::wire::{FrameType, HEADER, Header, MAX_CHUNK, finish};
use crate::{Secret, SessionId};

const NONCE: usize = 12;
const TAG: usize = 16;

/// `seq || session_id[0:8]` (WIRE.md section 6).
fn nonce(seq: u32, session_id: SessionId) -> [u8; NONCE] {
    let [s0, s1, s2, s3] = seq.to_le_bytes();
    let [p0, p1, p2, p3, p4, p5, p6, p7] = session_id.prefix();
    [s0, s1, s2, s3, p0, p1, p2, p3, p4, p5, p6, p7]
}

/// Why a frame cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// More than 452 bytes of plaintext.
    PlaintextTooLong,
    /// The output cannot hold the frame.
    BufferTooSmall,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PlaintextTooLong => "more than 452 bytes of plaintext",
            Self::BufferTooSmall => "the output buffer is too small",
        })
    }
}

impl core::error::Error for SealError {}

/// Writes a whole sealed frame, header and CRC included, to the start of `out`; returns its length (WIRE.md section 6).
///
/// The same arguments give the same bytes: a retransmission is sealed again instead of kept. The caller never gives two
/// plaintexts to one (key, session, sequence).
///
/// # Errors
///
/// [`SealError`]; `out` is then unchanged.
pub fn seal_frame<P: Provider>(
    key: &Secret<32>,
    session_id: SessionId,
    frame_type: FrameType,
    seq: u32,
    plaintext: &[u8],
    out: &mut [u8],
) -> Result<usize, SealError> {
    if plaintext.len() > MAX_CHUNK {
        return Err(SealError::PlaintextTooLong);
    }
    let payload_length = NONCE.saturating_add(plaintext.len()).saturating_add(TAG);
    let total = HEADER.saturating_add(payload_length);
    let frame = out.get_mut(..total).ok_or(SealError::BufferTooSmall)?;
    let (head, payload) = frame.split_first_chunk_mut::<HEADER>().ok_or(SealError::BufferTooSmall)?;
    let length = u16::try_from(payload_length).map_err(|_| SealError::PlaintextTooLong)?;
    let header = Header { frame_type, seq, length };

    let (explicit, sealed) = payload.split_first_chunk_mut::<NONCE>().ok_or(SealError::BufferTooSmall)?;
    *explicit = nonce(seq, session_id);
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>().ok_or(SealError::BufferTooSmall)?;
    text.copy_from_slice(plaintext);
    *tag = P::seal(key, explicit, &header.aad(), text);
    *head = finish(header, payload);
    Ok(total)
}

/// What a sealed frame held. Its `Debug` shows no plaintext: a REKEY's is what the next keys are made from.
pub struct Opened<'a> {
    /// Its type.
    pub frame_type: FrameType,
    /// Its sequence number.
    pub seq: u32,
    /// Its plaintext, in the buffer that the frame came in.
    pub plaintext: &'a mut [u8],
}

impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("frame_type", &self.frame_type)
            .field("seq", &self.seq)
            .field("plaintext_bytes", &self.plaintext.len())
            .finish()
    }
}

/// Why a frame does not open. None of it changes a session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenFrameError {
    /// Not a whole frame, or a payload of fewer than 28 bytes.
    PayloadTooShort,
    /// The explicit nonce is not the one that header and session give.
    ExplicitNonce,
    /// The tag does not fit.
    Tag,
}

impl fmt::Display for OpenFrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PayloadTooShort => "the payload is shorter than nonce and tag",
            Self::ExplicitNonce => "the explicit nonce does not fit header and session",
            Self::Tag => "the authentication tag does not fit",
        })
    }
}

impl core::error::Error for OpenFrameError {}

/// Opens one whole frame in place. Magic, version, length and CRC were checked before, by
/// [`Frame::parse`](crate::wire::Frame::parse) or [`decode_stream`](crate::wire::decode_stream).
///
/// # Errors
///
/// [`OpenFrameError`]; after [`OpenFrameError::Tag`] the payload's bytes are unspecified.
pub fn open_frame<'a, P: Provider>(
    key: &Secret<32>,
    session_id: SessionId,
    frame: &'a mut [u8],
) -> Result<Opened<'a>, OpenFrameError> {
    let (head, payload) = frame.split_first_chunk_mut::<HEADER>().ok_or(OpenFrameError::PayloadTooShort)?;
    let (header, _) = Header::parse(head).map_err(|_| OpenFrameError::PayloadTooShort)?;
    let Header { frame_type, seq, .. } = header;
    let (explicit, sealed) =
        payload.split_first_chunk_mut::<NONCE>().ok_or(OpenFrameError::PayloadTooShort)?;
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>().ok_or(OpenFrameError::PayloadTooShort)?;
    if *explicit != nonce(seq, session_id) {
        return Err(OpenFrameError::ExplicitNonce);
    }
    P::open(key, explicit, &header.aad(), text, tag).map_err(|_| OpenFrameError::Tag)?;
    Ok(Opened { frame_type, seq, plaintext: text })
}
