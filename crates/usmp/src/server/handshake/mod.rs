//! The server's half of the handshake (WIRE.md section 5).

mod tcp;
mod udp;

use core::fmt;

use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

pub use tcp::{TcpHandshake, TcpHandshakeStep};
pub use udp::{AckOutcome, HelloOutcome, UdpHandshake};

use crate::crypto::{LowOrderPoint, Provider};
use crate::wire::{Challenge, Hello, HelloAck, SessionOk};
use crate::{DeviceId, Secret, SessionId, SessionKeys, client_proof, server_proof, session_keys};

/// Most keys that one device may have at the same time; so many HMACs are computed for every HELLO_ACK, however many there are,
/// so that time tells nothing about a device.
pub const MAX_PSKS: usize = 3;

/// Bytes of a proof by which a driver may look for its handshake.
pub const MARK: usize = 8;

const CHALLENGE_FRAME: usize = 76;
const SESSION_OK_FRAME: usize = 60;

/// Shows that a HELLO_ACK was verified, and under which key. Only [`UdpHandshake`] and [`TcpHandshake`] make one.
pub struct Proof<'k> {
    psk: &'k [u8],
    index: usize,
    mac: [u8; 32],
}

impl Proof<'_> {
    /// Which of the keys matched.
    #[must_use]
    pub const fn key_index(&self) -> usize {
        self.index
    }
}

impl fmt::Debug for Proof<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof(key {})", self.index)
    }
}

/// A method was called that the state of the handshake does not allow; a mistake of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongState;

impl fmt::Display for WrongState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handshake is not in the state for this call")
    }
}

impl core::error::Error for WrongState {}

/// What was said up to CHALLENGE, and the private key for what comes next.
struct Challenged<P: Provider> {
    device_id: DeviceId,
    pub_c: [u8; 32],
    pair: P::KeyPair,
    pub_s: [u8; 32],
    nonce: [u8; 32],
}

impl<P: Provider> Challenged<P> {
    /// Makes the key pair; the exchange waits for HELLO_ACK.
    fn new(hello: &Hello, private: &Secret<32>, nonce: [u8; 32]) -> Self {
        let pair = P::key_pair(private);
        let pub_s = P::public_key(&pair);
        let Hello { device_id, public_key: pub_c, .. } = *hello;
        Self { device_id, pub_c, pair, pub_s, nonce }
    }

    /// The one CHALLENGE of this handshake.
    fn challenge(&self, out: &mut [u8]) -> Option<usize> {
        Challenge { nonce: self.nonce, public_key: self.pub_s }.emit(0, out).ok()
    }

    /// What HELLO_ACK would prove a key by; of no key as well, so that it takes as long.
    fn expected(&self, psk: Option<&[u8]>) -> [u8; 32] {
        client_proof::<P>(psk.unwrap_or_default(), &self.nonce, self.device_id, &self.pub_c, &self.pub_s)
    }

    /// Compares HELLO_ACK with what each key would give, all of them, in constant time.
    fn verify<'k>(&self, ack: &HelloAck, psks: &[&'k [u8]]) -> Option<Proof<'k>> {
        let mut matched = Choice::from(0);
        let mut index = 0_u8;
        for slot in 0..MAX_PSKS {
            let psk = psks.get(slot).copied();
            let mac = self.expected(psk);
            let fits = mac.ct_eq(&ack.mac) & Choice::from(u8::from(psk.is_some()));
            index.conditional_assign(&u8::try_from(slot).unwrap_or(u8::MAX), fits & !matched);
            matched |= fits;
        }
        if !bool::from(matched) {
            return None;
        }
        let index = usize::from(index);
        let psk = psks.get(index).copied()?;
        Some(Proof { psk, index, mac: ack.mac })
    }

    /// How the proof of each key would begin; as many HMACs however many keys there are.
    fn marks(&self, psks: &[&[u8]]) -> [Option<[u8; MARK]>; MAX_PSKS] {
        core::array::from_fn(|slot| {
            let psk = psks.get(slot).copied();
            let mac = self.expected(psk);
            psk.and_then(|_| mac.first_chunk().copied())
        })
    }

    /// The exchange, the session's keys, and SESSION_OK.
    fn accept(
        &self,
        proof: &Proof<'_>,
        session_id: SessionId,
    ) -> Result<(SessionKeys, SessionOk), LowOrderPoint> {
        let shared = P::agree(&self.pair, &self.pub_c)?;
        let keys = session_keys::<P>(&shared, &self.nonce, &self.pub_c, &self.pub_s);
        let mac = server_proof::<P>(proof.psk, &self.nonce, session_id, &self.pub_c, &self.pub_s);
        Ok((keys, SessionOk { session_id, mac }))
    }
}

impl<P: Provider> fmt::Debug for Challenged<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenged").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}
