use core::fmt;

use super::{FrameType, HEADER, MAGIC, MAX_PAYLOAD, VERSION, crc16};

/// The fixed part of a frame, without magic, version and CRC (WIRE.md section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub frame_type: FrameType,
    /// Its sequence number.
    pub seq: u32,
    /// Bytes of its payload.
    pub length: u16,
}

impl Header {
    /// The first ten bytes, which are the additional data of a sealed frame (WIRE.md section 2.2).
    #[must_use]
    pub const fn aad(&self) -> [u8; 10] {
        let [m0, m1] = MAGIC;
        let [s0, s1, s2, s3] = self.seq.to_le_bytes();
        let [l0, l1] = self.length.to_le_bytes();
        [m0, m1, VERSION, self.frame_type.code(), s0, s1, s2, s3, l0, l1]
    }

    /// Reads header and CRC; checks magic, version and length.
    ///
    /// # Errors
    ///
    /// [`FrameError::Magic`], [`FrameError::Length`] or [`FrameError::Version`], looked at in this order.
    pub const fn parse(bytes: &[u8; HEADER]) -> Result<(Self, u16), FrameError> {
        let &[m0, m1, version, code, s0, s1, s2, s3, l0, l1, c0, c1] = bytes;
        let [magic0, magic1] = MAGIC;
        if m0 != magic0 || m1 != magic1 {
            return Err(FrameError::Magic);
        }
        let length = u16::from_le_bytes([l0, l1]);
        if length as usize > MAX_PAYLOAD {
            return Err(FrameError::Length);
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let frame_type = FrameType::from_code(code);
        let seq = u32::from_le_bytes([s0, s1, s2, s3]);
        Ok((Self { frame_type, seq, length }, u16::from_le_bytes([c0, c1])))
    }
}

/// Why bytes are no frame of version 0x02. All of it is noise or a stranger: nothing is authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than a header.
    TooShort,
    /// Not the two magic bytes.
    Magic,
    /// Another version; 0x01 is refused since both its dialects are broken (WIRE.md section 14, W1 and W2).
    Version(u8),
    /// A payload length above 480.
    Length,
    /// A datagram that is not exactly one frame.
    Size,
    /// The CRC does not fit.
    Crc,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("fewer bytes than a frame header"),
            Self::Magic => f.write_str("not a USMP frame"),
            Self::Version(version) => write!(f, "version {version:#04x} is not supported"),
            Self::Length => f.write_str("the payload length is above 480"),
            Self::Size => f.write_str("the datagram is not exactly one frame"),
            Self::Crc => f.write_str("the CRC does not fit"),
        }
    }
}

impl core::error::Error for FrameError {}

/// A whole, checked frame, lying in the buffer it came in.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    header: Header,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a datagram that must be exactly one frame.
    ///
    /// # Errors
    ///
    /// [`FrameError`], looked at in the order of WIRE.md section 12.2: size, magic, length, version, CRC.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let (head, payload) = datagram.split_first_chunk::<HEADER>().ok_or(FrameError::TooShort)?;
        let (header, crc) = Header::parse(head)?;
        if payload.len() != usize::from(header.length) {
            return Err(FrameError::Size);
        }
        if crc16(&[&header.aad(), payload]) != crc {
            return Err(FrameError::Crc);
        }
        Ok(Self { header, payload })
    }

    /// Type, sequence number and length.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.header
    }

    /// The payload as transmitted.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// What the start of a byte stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamDecode {
    /// Not a whole frame yet; this many bytes in all are needed before asking again helps.
    NeedMore(usize),
    /// A whole, checked frame of this many bytes; [`Frame::parse`] reads it.
    Frame(usize),
}

/// Looks for a frame at the start of a TCP stream's buffer (WIRE.md section 10).
///
/// # Errors
///
/// [`FrameError`] as soon as the bytes can be no frame any more; a stream cannot be resynchronised.
pub fn decode_stream(buffer: &[u8]) -> Result<StreamDecode, FrameError> {
    let Some(head) = buffer.first_chunk::<HEADER>() else {
        // A wrong first byte is told at once, not when the rest of a header has come.
        if buffer.iter().zip(MAGIC).any(|(&byte, magic)| byte != magic) {
            return Err(FrameError::Magic);
        }
        return Ok(StreamDecode::NeedMore(HEADER));
    };
    let (header, _) = Header::parse(head)?;
    let total = HEADER.saturating_add(usize::from(header.length));
    match buffer.get(..total) {
        None => Ok(StreamDecode::NeedMore(total)),
        Some(frame) => Frame::parse(frame).map(|_| StreamDecode::Frame(total)),
    }
}

/// The caller's buffer cannot hold what is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferTooSmall;

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the output buffer is too small")
    }
}

impl core::error::Error for BufferTooSmall {}

/// Writes header, payload and CRC to the start of `out`; returns the frame's length.
///
/// # Errors
///
/// [`BufferTooSmall`] when `out` cannot hold it, or the payload is above 480 bytes.
pub fn emit(
    frame_type: FrameType,
    seq: u32,
    payload: &[u8],
    out: &mut [u8],
) -> Result<usize, BufferTooSmall> {
    if payload.len() > MAX_PAYLOAD {
        return Err(BufferTooSmall);
    }
    let (head, rest) = out.split_first_chunk_mut::<HEADER>().ok_or(BufferTooSmall)?;
    rest.get_mut(..payload.len()).ok_or(BufferTooSmall)?.copy_from_slice(payload);
    let length = u16::try_from(payload.len()).map_err(|_| BufferTooSmall)?;
    *head = finish(Header { frame_type, seq, length }, payload);
    Ok(HEADER.saturating_add(payload.len()))
}

/// The twelve header bytes of a frame whose payload already stands behind them.
pub(crate) fn finish(header: Header, payload: &[u8]) -> [u8; HEADER] {
    let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9] = header.aad();
    let [c0, c1] = crc16(&[&header.aad(), payload]).to_le_bytes();
    [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, c0, c1]
}
