//! Key pairs that are made before the clock starts.
//!
//! Each device has a processor of its own; here one makes the key pairs of all, in time that the pods need. What a device can do before a
//! pod answers is therefore done before. The shared secret cannot be.

use std::cell::RefCell;

use usmp::Secret;
use usmp::crypto::{AwsLc, LowOrderPoint, Provider};
use usmp_testkit::delegate_to;

/// AWS-LC with the next of the key pairs that this thread has made before, or a new one when none is left. The private key that is
/// asked for does not count: each pair is as random as another, and used once.
#[derive(Debug)]
pub(crate) struct Prepared;

pub(crate) struct Pair {
    pair: <AwsLc as Provider>::KeyPair,
    public: [u8; 32],
}

thread_local! {
    static POOL: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) };
}

fn pair(private: &Secret<32>) -> Pair {
    let pair = AwsLc::key_pair(private);
    Pair { public: AwsLc::public_key(&pair), pair }
}

impl Prepared {
    /// Makes so many, for this thread.
    pub(crate) fn prepare(count: usize) {
        POOL.with_borrow_mut(|pool| {
            pool.extend((0..count).map(|_| pair(&Secret::new(rand::random()))));
        });
    }
}

impl Provider for Prepared {
    type KeyPair = Pair;

    fn key_pair(private: &Secret<32>) -> Pair {
        POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| pair(private))
    }

    fn public_key(pair: &Pair) -> [u8; 32] {
        pair.public
    }

    fn agree(pair: &Pair, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        AwsLc::agree(&pair.pair, public)
    }

    delegate_to!(AwsLc: seal open hmac_sha256 hkdf_sha256);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prepared_pair_is_used_once_and_then_new_ones_are_made() {
        Prepared::prepare(2);
        let asked = Secret::new([7; 32]);
        let pairs = [(); 3].map(|()| Prepared::key_pair(&asked));
        assert_ne!(Prepared::public_key(&pairs[0]), Prepared::public_key(&pairs[1]));
        assert_eq!(Prepared::public_key(&pairs[2]), AwsLc::x25519_public(&asked), "nothing is left");
        let peer = AwsLc::key_pair(&Secret::new([9; 32]));
        for pair in &pairs {
            let here = Prepared::agree(pair, &AwsLc::public_key(&peer)).expect("a shared secret");
            let there = AwsLc::agree(&peer, &Prepared::public_key(pair)).expect("a shared secret");
            assert_eq!(here.expose(), there.expose());
        }
    }
}
