use core::ops::Deref;

use subtle::ConstantTimeEq as _;

use super::{FrameType, UTACK_MAGIC};
use crate::Secret;
use crate::crypto::Provider;

/// Acknowledges one frame on UDP (WIRE.md section 11.2). Not a frame itself, never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utack {
    /// Type of the acknowledged frame.
    pub frame_type: FrameType,
    /// Sequence number of the acknowledged frame.
    pub seq: u32,
    /// What authenticates it; absent for frames of the handshake.
    pub mac: Option<[u8; 8]>,
}

/// A UTACK as bytes, 7 or 15 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtackBytes {
    bytes: [u8; 15],
    length: u8,
}

impl Deref for UtackBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

impl Utack {
    /// For a frame of the handshake.
    #[must_use]
    pub const fn plain(frame_type: FrameType, seq: u32) -> Self {
        Self { frame_type, seq, mac: None }
    }

    /// For a sealed frame; `key` is the one that opens that frame.
    #[must_use]
    pub fn sealed<P: Provider>(key: &Secret<32>, frame_type: FrameType, seq: u32) -> Self {
        let plain = Self::plain(frame_type, seq);
        Self { mac: Some(plain.mac_under::<P>(key)), ..plain }
    }

    /// Whether the MAC is there and fits; `key` is the one that opens the acknowledged frame.
    #[must_use]
    pub fn verify<P: Provider>(&self, key: &Secret<32>) -> bool {
        self.mac.is_some_and(|mac| mac.ct_eq(&self.mac_under::<P>(key)).into())
    }

    /// Reads a datagram that starts like a UTACK and has 7 bytes or more; of 15 or more, 8 are the MAC, further ones are
    /// ignored.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (&[m0, m1, code, s0, s1, s2, s3], rest) = datagram.split_first_chunk::<7>()?;
        if [m0, m1] != UTACK_MAGIC {
            return None;
        }
        Some(Self {
            frame_type: FrameType::from_code(code),
            seq: u32::from_le_bytes([s0, s1, s2, s3]),
            mac: rest.first_chunk().copied(),
        })
    }

    /// The bytes to send.
    #[must_use]
    pub const fn emit(&self) -> UtackBytes {
        let [h0, h1, h2, h3, h4, h5, h6] = self.head();
        match self.mac {
            None => UtackBytes { bytes: [h0, h1, h2, h3, h4, h5, h6, 0, 0, 0, 0, 0, 0, 0, 0], length: 7 },
            Some([a, b, c, d, e, f, g, h]) => {
                UtackBytes { bytes: [h0, h1, h2, h3, h4, h5, h6, a, b, c, d, e, f, g, h], length: 15 }
            }
        }
    }

    const fn head(&self) -> [u8; 7] {
        let [m0, m1] = UTACK_MAGIC;
        let [s0, s1, s2, s3] = self.seq.to_le_bytes();
        [m0, m1, self.frame_type.code(), s0, s1, s2, s3]
    }

    fn mac_under<P: Provider>(&self, key: &Secret<32>) -> [u8; 8] {
        P::hmac_sha256(key.expose(), &[&self.head()]).first_chunk().copied().unwrap_or_default()
    }
}
