//! The stateless part of the protocol against what others recorded: the primitives against the RFCs, the GCM specification and
//! Wycheproof, the wire and the key schedule against `vectors.json`; and its properties on random input.
//!
//! Everything cryptographic runs once per provider: `rustcrypto::…` and, with feature `aws-lc`, `aws_lc::…`.

/// Makes a test of each function, once per provider.
macro_rules! for_each_provider {
    ($($name:ident),+ $(,)?) => {
        mod rustcrypto {
            $(#[test]
            fn $name() {
                super::$name::<usmp::crypto::RustCrypto>();
            })+
        }
        #[cfg(feature = "aws-lc")]
        mod aws_lc {
            $(#[test]
            fn $name() {
                super::$name::<usmp::crypto::AwsLc>();
            })+
        }
    };
}

mod gcm;
mod properties;
mod redaction;
mod rfc;
mod timer;
mod v1;
mod vectors;
mod window;
mod wire;
mod wycheproof;
