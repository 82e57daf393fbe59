//! Dials a peer until an authenticated link stands.

use std::io;
use std::time::Duration;

use rustls::AlertDescription;
use sluice_types::PodId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::buffer::FrameBuffer;
use crate::counts::Count;
use crate::shared::{HelloError, Shared, read_hello, tune};
use crate::tls::{self, Proven};

/// How long the other host may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub(crate) const BACKOFF_LONGEST: Duration = Duration::from_secs(1);
/// The same while another pod of the cluster answers there: whoever was looked for is gone, and its record goes within seconds.
const BACKOFF_MISDIRECTED: Duration = Duration::from_secs(5);

/// An authenticated link to a peer, nothing sent on it yet but the Hello.
pub(crate) struct Link {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) proven: Proven,
    pub(crate) release: String,
}

/// Why a dial led to no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("connection refused")]
    Refused(#[source] io::Error),
    #[error("another pod of the cluster answers at this address")]
    Misdirected,
    #[error("credentials do not hold: give all pods the same ring of peer secrets and check their clocks")]
    Credentials(#[source] io::Error),
    #[error("TLS handshake failed: is this the peer port of a pod?")]
    Handshake(#[source] io::Error),
    #[error("no answer in time: check that network policies let pods reach each other's peer port")]
    Slow,
    #[error("cannot connect")]
    Failed(#[source] io::Error),
    #[error("peer's hello refused")]
    Hello(#[source] crate::frame::FrameError),
}

impl DialError {
    pub(crate) fn count(&self) -> Count {
        match self {
            Self::Refused(_) => Count::DialsRefused,
            Self::Misdirected => Count::DialsMisdirected,
            Self::Credentials(_) => Count::WrongCredentials,
            Self::Handshake(_) => Count::BrokenHandshakes,
            Self::Slow => Count::SlowHandshakes,
            Self::Failed(_) => Count::DialsFailed,
            Self::Hello(_) => Count::WrongHello,
        }
    }

    /// Proof that the pod does not live at this address.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Misdirected)
    }

    /// The longest pause before the next attempt.
    pub(crate) fn longest_pause(&self) -> Duration {
        match self {
            Self::Misdirected => BACKOFF_MISDIRECTED,
            _ => BACKOFF_LONGEST,
        }
    }
}

/// What a failed handshake says about the peer; the same reading at both ends.
pub(crate) enum Fault {
    /// Its certificate holds and names another pod than was looked for.
    Name,
    /// It says that it looked for another pod. Nobody has proven anything by that.
    SoughtAnother,
    Credentials,
    Protocol,
    Io,
}

pub(crate) fn fault(error: &io::Error) -> Fault {
    use AlertDescription as Alert;
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Fault::Io;
    };
    match error {
        rustls::Error::InvalidCertificate(error) if *error == tls::OTHER_NAME => Fault::Name,
        rustls::Error::AlertReceived(alert) if *alert == tls::OTHER_NAME_ALERT => Fault::SoughtAnother,
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Fault::Credentials,
        rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError
            | Alert::CertificateRequired,
        ) => Fault::Credentials,
        _ => Fault::Protocol,
    }
}

fn failed(error: io::Error) -> DialError {
    match fault(&error) {
        Fault::Name => DialError::Misdirected,
        // A stranger may say so too: it is no proof of who answers.
        Fault::Credentials | Fault::SoughtAnother => DialError::Credentials(error),
        Fault::Protocol => DialError::Handshake(error),
        Fault::Io => DialError::Failed(error),
    }
}

/// One attempt, within the handshake's time.
pub(crate) async fn dial(shared: &Shared, pod: PodId, address: &str) -> Result<Link, DialError> {
    timeout(shared.config.handshake_timeout, attempt(shared, pod, address))
        .await
        .map_err(|_| DialError::Slow)?
}

async fn attempt(shared: &Shared, pod: PodId, address: &str) -> Result<Link, DialError> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| DialError::Slow)?;
    let stream = stream.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused(error),
        _ => DialError::Failed(error),
    })?;
    tune(&stream, shared.config.idle_timeout);
    let client = shared.tls.borrow().client.clone();
    let name = tls::expected(pod).ok_or(DialError::Misdirected)?;
    let mut stream = TlsConnector::from(client).connect(name, stream).await.map_err(failed)?;
    let proven = tls::proven(stream.get_ref().1.peer_certificates()).ok_or(DialError::Misdirected)?;
    stream.write_all(&shared.hello()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    // In TLS 1.3 the dialling end is done before the other has looked at its certificate; only the answer says that it holds.
    let hello = read_hello(&mut stream, &mut FrameBuffer::new()).await.map_err(|error| match error {
        HelloError::Io(error) => failed(error),
        HelloError::Frame(error) => DialError::Hello(error),
    })?;
    if hello.pod != pod || proven.pod != pod {
        return Err(DialError::Misdirected);
    }
    Ok(Link { stream, proven, release: hello.release })
}

/// Pauses between dials: none after a link that held, then doubling, each cut by chance so that pods do not dial in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// `chance` lies in 0..=1.
    pub(crate) fn next(&mut self, chance: f64, longest: Duration) -> Duration {
        let pause = match self.attempts {
            0 => Duration::ZERO,
            n => BACKOFF_FIRST.saturating_mul(1 << n.saturating_sub(1).min(8)).min(longest),
        };
        self.attempts = self.attempts.saturating_add(1);
        pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_nothing_to_a_second_and_start_anew() {
        let mut backoff = Backoff::default();
        let longest = DialError::Slow.longest_pause();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next(1.0, longest).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0, longest).as_millis(), 500);
        for _ in 0..100 {
            backoff.next(0.5, longest);
        }
        backoff.reset();
        assert_eq!(backoff.next(0.0, longest), Duration::ZERO);
    }

    #[test]
    fn an_address_where_another_pod_answers_is_dialled_more_seldom() {
        let mut backoff = Backoff::default();
        let longest = DialError::Misdirected.longest_pause();
        let pauses: Vec<_> = (0..10).map(|_| backoff.next(1.0, longest).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
