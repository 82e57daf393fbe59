use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{LowOrderPoint, OpenError, Provider};
use crate::Secret;

/// The RustCrypto and dalek set: portable, `no_std`, constant time without hardware support.
#[derive(Debug, Clone, Copy, Default)]
pub struct RustCrypto;

impl Provider for RustCrypto {
    /// It wipes itself. The public key is derived when asked for, which is once in a handshake.
    type KeyPair = StaticSecret;

    fn key_pair(private: &Secret<32>) -> StaticSecret {
        StaticSecret::from(*private.expose())
    }

    fn public_key(pair: &StaticSecret) -> [u8; 32] {
        PublicKey::from(pair).to_bytes()
    }

    fn agree(pair: &StaticSecret, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        let shared = pair.diffie_hellman(&PublicKey::from(*public));
        if shared.as_bytes().ct_eq(&[0; 32]).into() {
            return Err(LowOrderPoint);
        }
        Ok(Secret::new(shared.to_bytes()))
    }

    fn seal(key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
        let cipher = Aes256Gcm::new(key.expose().into());
        cipher
            .encrypt_inout_detached(&Nonce::from(*nonce), aad, in_out.into())
            .expect("a frame is far below the length limits of GCM")
            .into()
    }

    fn open(
        key: &Secret<32>,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), OpenError> {
        let cipher = Aes256Gcm::new(key.expose().into());
        cipher
            .decrypt_inout_detached(&Nonce::from(*nonce), aad, in_out.into(), &Tag::from(*tag))
            .map_err(|_| OpenError)
    }

    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        if Hkdf::<Sha256>::new(Some(salt), ikm).expand_multi_info(info, out).is_err() {
            out.fill(0);
        }
    }
}
