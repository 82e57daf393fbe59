//! The edge's primitives, watched: nothing is ever sealed twice under one key and nonce unless it is the same.

use std::cell::RefCell;
use std::collections::HashMap;

use usmp::Secret;
use usmp::crypto::{AwsLc, LowOrderPoint, OpenError, Provider};

type Sealed = HashMap<([u8; 32], [u8; 12]), Vec<u8>>;

#[derive(Default)]
struct Seen {
    sealed: Sealed,
    twice: u64,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Forgets what this thread has seen.
pub(super) fn forget() {
    SEEN.with(|seen| *seen.borrow_mut() = Seen::default());
}

/// How many nonces this thread has seen used twice.
pub(super) fn twice() -> u64 {
    SEEN.with(|seen| seen.borrow().twice)
}

/// [`AwsLc`], and a look at each seal.
pub(super) struct Watched;

impl Provider for Watched {
    type KeyPair = <AwsLc as Provider>::KeyPair;

    fn key_pair(private: &Secret<32>) -> Self::KeyPair {
        AwsLc::key_pair(private)
    }

    fn public_key(pair: &Self::KeyPair) -> [u8; 32] {
        AwsLc::public_key(pair)
    }

    fn agree(pair: &Self::KeyPair, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        AwsLc::agree(pair, public)
    }

    fn seal(key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
        let said = [aad, in_out].concat();
        SEEN.with(|seen| {
            let mut seen = seen.borrow_mut();
            match seen.sealed.insert((*key.expose(), *nonce), said.clone()) {
                Some(before) if before != said => seen.twice += 1,
                _ => {}
            }
        });
        AwsLc::seal(key, nonce, aad, in_out)
    }

    fn open(
        key: &Secret<32>,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), OpenError> {
        AwsLc::open(key, nonce, aad, in_out, tag)
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        AwsLc::hmac_sha256(key, parts)
    }

    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        AwsLc::hkdf_sha256(salt, ikm, info, out);
    }
}
