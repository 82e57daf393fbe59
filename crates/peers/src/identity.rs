//! Who a pod is to its peers: a certificate authority that every pod derives from the shared secret, and a leaf certificate that
//! each pod issues to itself under it, with its pod id as the name.
//!
//! Nobody distributes certificates. The price is said in docs/peers.md: a pod that is taken over has the secret and can call itself
//! any pod.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hkdf;
use aws_lc_rs::signature::Ed25519KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sluice_types::PodId;
use zeroize::Zeroizing;

use crate::secret::PeerSecret;

/// How long a leaf is valid from now on.
pub(crate) const LEAF_VALID: Duration = Duration::from_secs(24 * 3600);
/// How far back a leaf is valid, for a peer whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Why a pod has no identity. Neither is the operator's doing, short of a clock before 1970.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The library derived or read no key.
    #[error("cannot make a key for the peer certificates")]
    Key,
    /// The library issued no certificate.
    #[error("cannot issue a peer certificate")]
    Issue(#[source] rcgen::Error),
    /// The TLS library did not take key, certificate or version.
    #[error("the TLS library does not take the peer certificates")]
    Tls(#[source] rustls::Error),
    /// The TLS library made no verifier.
    #[error("cannot make a verifier for peer certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The system's clock stands before 1970.
    #[error("the system clock stands before 1970: set it")]
    Clock,
}

/// The name a pod's certificate is made out to. `.internal` is reserved for private use, nothing ever resolves it.
pub(crate) fn name_of(pod: PodId) -> String {
    format!("{pod}.pod.sluice.internal")
}

/// The certificate authority of one secret.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Authority {
    /// The same secret gives the same name and key on every pod.
    pub(crate) fn derive(secret: &PeerSecret) -> Result<Self, IdentityError> {
        // seed = HKDF-SHA256(salt "sluice peers v1", secret, "ca ed25519", 32)
        let mut seed = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"sluice peers v1")
            .extract(secret.expose())
            .expand(&[b"ca ed25519"], Length(32))
            .and_then(|okm| okm.fill(seed.as_mut()))
            .map_err(|_| IdentityError::Key)?;
        let key = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| IdentityError::Key)?;
        let pkcs8 = key.to_pkcs8().map_err(|_| IdentityError::Key)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).map_err(IdentityError::Issue)?;

        // The name tells the authorities of a ring apart; it is a digest of a public key.
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.public_key_raw());
        let mark = digest.as_ref().iter().take(8).fold(0_u64, |mark, byte| mark << 8 | u64::from(*byte));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("sluice peers {mark:016x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from(1_u64));
        // As an anchor its dates are not looked at; fixed ones keep it the same on every pod.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let certificate = params.self_signed(&key).map_err(IdentityError::Issue)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a leaf with a fresh key, valid for a day around `now`.
    pub(crate) fn issue(&self, pod: PodId, now: SystemTime) -> Result<Arc<CertifiedKey>, IdentityError> {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| IdentityError::Clock)?;
        let now = rcgen::date_time_ymd(1970, 1, 1) + since_1970;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(IdentityError::Issue)?;
        let mut params = CertificateParams::new(vec![name_of(pod)]).map_err(IdentityError::Issue)?;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + LEAF_VALID;
        let leaf = params.signed_by(&key, &self.issuer).map_err(IdentityError::Issue)?.der().clone();
        let der = Zeroizing::new(key.serialize_der());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(IdentityError::Tls)?;
        Ok(Arc::new(CertifiedKey::new(vec![leaf], key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authority of version 1 for a fixed secret: pods of two releases must derive the same one.
    #[test]
    fn the_authority_of_version_1_stands() {
        let authority = Authority::derive(&PeerSecret::from_bytes([7; 32])).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authority.certificate());
        assert_eq!(hex::encode(digest), GOLDEN);
    }
    const GOLDEN: &str = "722e47df30a5a871216636c655cc894359bbaeae359ab12c51ab0910daa37b15";

    #[test]
    fn another_secret_is_another_authority() {
        let [one, two] = [[1; 32], [2; 32]].map(|s| Authority::derive(&PeerSecret::from_bytes(s)).unwrap());
        assert_ne!(one.certificate(), two.certificate());
    }
}
