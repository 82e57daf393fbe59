//! Bodies of the fuzz targets. The fuzzer gives them bytes; seeded loops on the stable toolchain give them the same.
//!
//! The bytes are a script: which call comes next, and with what. The machines run on [`FakeCrypto`](crate::crypto::FakeCrypto),
//! so that scripts get past authentication. A body panics when an invariant is broken, and never otherwise.

mod device;
mod frames;
mod handover;
mod server;

pub use device::{device_tcp, device_udp};
pub use frames::frames;
pub use handover::server_handover;
pub use server::{server_handshake, server_tcp, server_udp};

use usmp::wire::{FrameType, MAX_FRAME, emit};

/// Calls in one script at most, so that one input ends in reasonable time.
const CALLS: usize = 512;

/// How far an input got, so that a loop can show that its inputs reach what they are meant to test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Sessions opened.
    pub connected: u32,
    /// Messages received by an application.
    pub messages: u32,
    /// Messages whose frames were all acknowledged, or went out.
    pub delivered: u32,
    /// Changes of keys.
    pub rekeyed: u32,
    /// Connections ended.
    pub closed: u32,
}

impl std::ops::AddAssign for Reach {
    fn add_assign(&mut self, other: Self) {
        self.connected += other.connected;
        self.messages += other.messages;
        self.delivered += other.delivered;
        self.rekeyed += other.rekeyed;
        self.closed += other.closed;
    }
}

/// The script, read from its start. At its end everything is zero, and [`is_empty`](Script::is_empty) says so.
#[derive(Debug)]
struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let [first, rest @ ..] = self.rest else { return 0 };
        self.rest = rest;
        *first
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|_| self.byte()))
    }

    /// Up to `most` bytes of the script itself.
    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(most.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A length within 0 and `most`, the ends more often than what is between.
    fn length(&mut self, most: usize) -> usize {
        match self.byte() {
            0 => 0,
            255 => most,
            254 => most.saturating_sub(1),
            byte => usize::from(byte) * most / 253,
        }
        .min(most)
    }
}

/// Any bytes as a frame with right header and CRC.
fn framed(script: &mut Script<'_>) -> Vec<u8> {
    let frame_type = FrameType::from_code(script.byte());
    let seq = script.number();
    let length = script.length(480);
    let payload = script.bytes(length);
    let mut out = vec![0; MAX_FRAME];
    let length = emit(frame_type, seq, payload, &mut out).expect("it fits");
    out.truncate(length);
    out
}
