//! Providers for tests.

use std::cell::RefCell;

use usmp::Secret;
use usmp::crypto::{LowOrderPoint, OpenError, Provider, RustCrypto};

use crate::delegate_to;

thread_local! {
    static PLANTED: RefCell<[u8; 64]> = const { RefCell::new([0; 64]) };
}

/// Real primitives, except that a handshake ends with the keys planted by [`plant`](Self::plant) on this thread (a REKEY derives
/// as ever): the way to a session with known keys without a door in the machines themselves.
#[derive(Debug, Clone, Copy)]
pub struct PlantedKeys;

impl PlantedKeys {
    /// Sets the keys of the sessions to come on this thread.
    pub fn plant(c2s: &[u8; 32], s2c: &[u8; 32]) {
        PLANTED.with_borrow_mut(|keys| {
            keys[..32].copy_from_slice(c2s);
            keys[32..].copy_from_slice(s2c);
        });
    }
}

impl Provider for PlantedKeys {
    type KeyPair = <RustCrypto as Provider>::KeyPair;

    delegate_to!(RustCrypto: key_pair public_key agree seal open hmac_sha256);

    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        if info.first() == Some(&&b"usmp-v2"[..]) {
            PLANTED.with_borrow(|keys| out.copy_from_slice(keys));
        } else {
            RustCrypto::hkdf_sha256(salt, ikm, info, out);
        }
    }
}

/// Primitives that cost next to nothing and protect nothing, so that a fuzzer passes authentication without finding a tag
/// first: the cipher changes nothing, a tag is zeros and one byte of the key, a MAC or a shared secret is a fold of its input.
///
/// A wrong tag is still refused, and two keys differ in most cases, so that the machines' refusals stay reachable.
#[derive(Debug, Clone, Copy)]
pub struct FakeCrypto;

fn fold<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    core::array::from_fn(|i| {
        state = state.rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64);
        state.to_le_bytes()[7]
    })
}

fn fake_tag(key: &Secret<32>) -> [u8; 16] {
    let mut tag = [0; 16];
    tag[15] = key.expose()[0];
    tag
}

impl Provider for FakeCrypto {
    type KeyPair = Secret<32>;

    fn key_pair(private: &Secret<32>) -> Secret<32> {
        private.duplicate()
    }

    fn public_key(pair: &Secret<32>) -> [u8; 32] {
        fold(&[b"public", pair.expose()])
    }

    /// Refuses the all-zero key as a stand-in for low order; otherwise depends on the public keys of both sides only, so that
    /// both get the same.
    fn agree(pair: &Secret<32>, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        if public == &[0; 32] {
            return Err(LowOrderPoint);
        }
        let own = Self::public_key(pair);
        Ok(Secret::new(core::array::from_fn(|i| own[i] ^ public[i])))
    }

    fn seal(key: &Secret<32>, _: &[u8; 12], _: &[u8], _: &mut [u8]) -> [u8; 16] {
        fake_tag(key)
    }

    fn open(key: &Secret<32>, _: &[u8; 12], _: &[u8], _: &mut [u8], tag: &[u8; 16]) -> Result<(), OpenError> {
        if tag == &fake_tag(key) { Ok(()) } else { Err(OpenError) }
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut all = vec![key];
        all.extend_from_slice(parts);
        fold(&all)
    }

    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        let mut all = vec![salt, ikm];
        all.extend_from_slice(info);
        let bytes: [u8; 64] = fold(&all);
        for (to, from) in out.iter_mut().zip(bytes.iter().cycle()) {
            *to = *from;
        }
    }
}
