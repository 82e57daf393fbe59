//! Providers that do most of what another one does.

/// Methods of an [`usmp::crypto::Provider`] that another provider does, inside the `impl`: `delegate_to!(AwsLc: open hmac_sha256);`. The
/// crate that uses it depends on `usmp`.
#[macro_export]
macro_rules! delegate_to {
    ($to:ty: $($method:ident)+) => {
        $($crate::delegate_to!(@$method $to);)+
    };
    (@key_pair $to:ty) => {
        fn key_pair(private: &::usmp::Secret<32>) -> Self::KeyPair {
            <$to>::key_pair(private)
        }
    };
    (@public_key $to:ty) => {
        fn public_key(pair: &Self::KeyPair) -> [u8; 32] {
            <$to>::public_key(pair)
        }
    };
    (@agree $to:ty) => {
        fn agree(
            pair: &Self::KeyPair,
            public: &[u8; 32],
        ) -> Result<::usmp::Secret<32>, ::usmp::crypto::LowOrderPoint> {
            <$to>::agree(pair, public)
        }
    };
    (@seal $to:ty) => {
        fn seal(key: &::usmp::Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
            <$to>::seal(key, nonce, aad, in_out)
        }
    };
    (@open $to:ty) => {
        fn open(
            key: &::usmp::Secret<32>,
            nonce: &[u8; 12],
            aad: &[u8],
            in_out: &mut [u8],
            tag: &[u8; 16],
        ) -> Result<(), ::usmp::crypto::OpenError> {
            <$to>::open(key, nonce, aad, in_out, tag)
        }
    };
    (@hmac_sha256 $to:ty) => {
        fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
            <$to>::hmac_sha256(key, parts)
        }
    };
    (@hkdf_sha256 $to:ty) => {
        fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
            <$to>::hkdf_sha256(salt, ikm, info, out);
        }
    };
}
