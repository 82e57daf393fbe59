//! The edge's primitives, watched: nothing is ever sealed twice under one key and nonce unless it is the same.

use std::cell::RefCell;
use std::collections::HashMap;

use usmp::Secret;
use usmp::crypto::{AwsLc, Provider};
use usmp_testkit::delegate_to;

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

    delegate_to!(AwsLc: key_pair public_key agree open hmac_sha256 hkdf_sha256);

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
}
