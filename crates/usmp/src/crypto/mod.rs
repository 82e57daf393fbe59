//! The cryptographic primitives that USMP needs, as one narrow trait.

use crate::Secret;

#[cfg(feature = "aws-lc")]
mod aws_lc;
#[cfg(feature = "rustcrypto")]
mod rustcrypto;

#[cfg(feature = "aws-lc")]
pub use aws_lc::AwsLc;
#[cfg(feature = "rustcrypto")]
pub use rustcrypto::RustCrypto;

/// A set of primitives. Machines take it as a type parameter, so that the choice costs nothing at run time.
pub trait Provider {
    /// An X25519 private key with what is worth keeping beside it, so that the public key is derived once. Its secret is wiped
    /// when it is dropped.
    type KeyPair;

    /// Prepares a private key: any 32 bytes (RFC 7748). The same bytes give the same key pair.
    fn key_pair(private: &Secret<32>) -> Self::KeyPair;

    /// The public key of a pair.
    fn public_key(pair: &Self::KeyPair) -> [u8; 32];

    /// The shared secret of a pair and a peer's public key (RFC 7748); a non-canonical public key is reduced.
    ///
    /// # Errors
    ///
    /// [`LowOrderPoint`] when the result is all zero.
    fn agree(pair: &Self::KeyPair, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint>;

    /// The public key of a private key that is needed for nothing else.
    #[must_use]
    fn x25519_public(private: &Secret<32>) -> [u8; 32] {
        Self::public_key(&Self::key_pair(private))
    }

    /// The shared secret of a private key that is needed for nothing else.
    ///
    /// # Errors
    ///
    /// As [`agree`](Self::agree).
    fn x25519(private: &Secret<32>, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        Self::agree(&Self::key_pair(private), public)
    }

    /// Encrypts in place with AES-256-GCM and returns the tag.
    fn seal(key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16];

    /// Decrypts in place with AES-256-GCM.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the tag does not fit; what `in_out` then holds is unspecified and must not be used.
    fn open(
        key: &Secret<32>,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), OpenError>;

    /// HMAC-SHA-256 over the parts, one after the other.
    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32];

    /// HKDF-SHA-256 (RFC 5869), extract and expand, into `out`, 8160 bytes at most; beyond them `out` is all zero.
    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]);
}

/// The peer's X25519 key is of low order: every private key gives the same, all-zero result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowOrderPoint;

impl core::fmt::Display for LowOrderPoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the peer's public key is of low order")
    }
}

impl core::error::Error for LowOrderPoint {}

/// The tag does not fit key, nonce, additional data and ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenError;

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the authentication tag does not fit")
    }
}

impl core::error::Error for OpenError {}
