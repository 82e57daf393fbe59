//! TLS for links: version 1.3 only, certificates in both directions, no resumption, so that every link proves both ends anew.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    RootCertStore, ServerConfig, SignatureScheme,
};
use sluice_types::PodId;

use crate::identity::{Authority, IdentityError, name_of};
use crate::secret::PeerSecrets;

/// A pod of the cluster answers, and not the one that was looked for. The other end is told by an alert of its own: it must not take this
/// for somebody who has not the secret.
pub(crate) const OTHER_NAME: CertificateError = CertificateError::ApplicationVerificationFailure;
/// How the library tells the other end of [`OTHER_NAME`].
pub(crate) const OTHER_NAME_ALERT: AlertDescription = AlertDescription::AccessDenied;

/// What a ring of secrets comes to: how to dial, how to accept, whose certificates hold.
pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Subjects of the authorities, the current one first.
    authorities: Vec<Vec<u8>>,
}

/// Which pod a certificate names and which authority of the ring issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) pod: PodId,
    issuer: Vec<u8>,
}

impl Tls {
    pub(crate) fn new(pod: PodId, secrets: &PeerSecrets, now: SystemTime) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        let mut identities = Vec::new();
        let mut authorities = Vec::new();
        for secret in std::iter::once(&secrets.current).chain(&secrets.accepted) {
            let authority = Authority::derive(secret)?;
            roots.add(authority.certificate().clone()).map_err(IdentityError::Tls)?;
            let Some(TrustAnchor { subject, .. }) = roots.roots.last() else { continue };
            let subject = subject.as_ref().to_vec();
            identities.push(Identity {
                authority: DistinguishedName::in_sequence(&subject),
                key: authority.issue(pod, now)?,
            });
            authorities.push(subject);
        }
        let roots = Arc::new(roots);
        let identities = Arc::new(Identities(identities));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());

        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(IdentityError::Verifier)?;
        let verifier = Arc::new(ServerVerifier { verifier, authorities: roots.subjects() });
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&identities) as _);
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(IdentityError::Verifier)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(identities);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), authorities })
    }

    /// The peer's certificate holds under the secrets as they are now.
    pub(crate) fn accepts(&self, proven: &Proven) -> bool {
        self.authorities.contains(&proven.issuer)
    }

    /// The peer proved itself by the current secret.
    pub(crate) fn is_current(&self, proven: &Proven) -> bool {
        self.authorities.first() == Some(&proven.issuer)
    }
}

/// Reads who the peer is out of a chain that the handshake has verified.
pub(crate) fn proven(chain: Option<&[CertificateDer<'_>]>) -> Option<Proven> {
    let certificate = webpki::EndEntityCert::try_from(chain?.first()?).ok()?;
    let suffix = name_of(PodId::from_bytes([0; 16])).split_off(32);
    let pod = certificate
        .valid_dns_names()
        .find_map(|name| name.strip_suffix(suffix.as_str())?.parse::<PodId>().ok())?;
    Some(Proven { pod, issuer: certificate.issuer().to_vec() })
}

/// The name to expect when dialling a pod.
pub(crate) fn expected(pod: PodId) -> Option<ServerName<'static>> {
    ServerName::try_from(name_of(pod)).ok()
}

#[derive(Debug)]
struct Identity {
    authority: DistinguishedName,
    key: Arc<CertifiedKey>,
}

/// One leaf per secret of the ring. Each end tells the other which authorities it accepts, so that ends whose rings differ by one
/// step of a rotation still meet.
#[derive(Debug)]
struct Identities(Vec<Identity>);

impl Identities {
    /// The first of the ring that the other end accepts; the current one for an end that does not say.
    fn choose<'a>(&self, accepted: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Arc<CertifiedKey>> {
        let says = accepted.clone().next().is_some();
        let mut own = self.0.iter();
        let chosen = own.find(|own| !says || accepted.clone().any(|name| name == own.authority.as_ref()));
        chosen.map(|identity| Arc::clone(&identity.key))
    }
}

impl rustls::client::ResolvesClientCert for Identities {
    fn resolve(&self, accepted: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(accepted.iter().copied())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Identities {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let accepted = hello.certificate_authorities().unwrap_or_default();
        self.choose(accepted.iter().map(AsRef::as_ref))
    }
}

/// The library's verifier, which also says in the first message which authorities are accepted.
#[derive(Debug)]
struct ServerVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    authorities: Vec<DistinguishedName>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            // The name is looked at last: all else holds.
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => OTHER_NAME.into(),
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.authorities)
    }
}
