use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;

use super::{LowOrderPoint, OpenError, Provider};
use crate::Secret;

/// AWS-LC: for servers, about twice as fast on X25519; needs `std` and a C compiler.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsLc;

fn sealing_key(key: &Secret<32>) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("any 32 bytes are an AES-256 key"))
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Provider for AwsLc {
    /// The library wipes what it frees.
    type KeyPair = PrivateKey;

    fn key_pair(private: &Secret<32>) -> PrivateKey {
        PrivateKey::from_private_key(&X25519, private.expose())
            .expect("any 32 bytes are an X25519 private key")
    }

    fn public_key(pair: &PrivateKey) -> [u8; 32] {
        let public = pair.compute_public_key().expect("a private key has a public one");
        public.as_ref().try_into().expect("an X25519 public key has 32 bytes")
    }

    fn agree(pair: &PrivateKey, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        // AWS-LC itself refuses the all-zero result.
        agreement::agree(pair, UnparsedPublicKey::new(&X25519, public), LowOrderPoint, |shared| {
            let shared = shared.try_into().expect("an X25519 secret has 32 bytes");
            Ok(Secret::new(shared))
        })
    }

    fn seal(key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
        let tag = sealing_key(key)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), in_out)
            .expect("a frame is far below the length limits of GCM");
        tag.as_ref().try_into().expect("a GCM tag has 16 bytes")
    }

    fn open(
        key: &Secret<32>,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        sealing_key(key)
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_out)
            .map(drop)
            .map_err(|_| OpenError)
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }

    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        let prk = Salt::new(HKDF_SHA256, salt).extract(ikm);
        let filled = prk.expand(info, Length(out.len())).and_then(|okm| okm.fill(out));
        if filled.is_err() {
            out.fill(0);
        }
    }
}
