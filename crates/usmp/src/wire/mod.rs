//! What stands on the wire, byte by byte (WIRE.md sections 2, 5 and 11.2). Nothing here holds state or knows a key schedule.

mod crc;
mod frame;
mod handshake;
mod types;
mod utack;

pub use crc::crc16;
pub(crate) use frame::finish;
pub use frame::{BufferTooSmall, Frame, FrameError, Header, StreamDecode, decode_stream, emit};
pub use handshake::{Challenge, HandshakeError, Hello, HelloAck, HelloRetry, SessionOk};
pub use types::FrameType;
pub use utack::{Utack, UtackBytes};

/// Most bytes of a frame's payload.
pub const MAX_PAYLOAD: usize = 480;
/// Bytes of a frame's header, the CRC included.
pub const HEADER: usize = 12;
/// Most bytes of a frame.
pub const MAX_FRAME: usize = 492;
/// Bytes that sealing adds to a plaintext: the explicit nonce and the tag.
pub const SEAL_OVERHEAD: usize = 28;
/// Most bytes of plaintext in one frame.
pub const MAX_CHUNK: usize = 452;
/// Most frames of one message.
pub const MAX_FRAGMENTS: usize = 4;
/// Most bytes of one message.
pub const MAX_MESSAGE: usize = 1808;
/// The one version that is spoken.
pub const VERSION: u8 = 2;
/// The first two bytes of a frame.
pub const MAGIC: [u8; 2] = [0xCD, 0xAB];
/// The first two bytes of a UTACK.
pub const UTACK_MAGIC: [u8; 2] = [0xAC, 0xAC];
