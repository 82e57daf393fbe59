use std::sync::Arc;
use std::time::Duration;

use super::world::*;
use crate::frame::{self, Heartbeat, Way};
use crate::incoming::PENDING;
use crate::tls::Tls;
use crate::{Control, Count};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::{Rng, RngExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads until the other end closes; how many bytes it said inside TLS.
async fn heard<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> usize {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut all)).await.expect("an end in time");
    all.len()
}

/// The pod still links and talks.
async fn assert_sound(target: &mut Pod) {
    let mut good = dial_as(100, target).await;
    let mut out = Vec::new();
    frame::control(&mut out, &Control::HandOver { slot: 4242 });
    good.write_all(&out).await.unwrap();
    good.flush().await.unwrap();
    let expected = Got::Control { from: pod(100), control: Control::HandOver { slot: 4242 } };
    target.wait_for("a frame of an honest peer", |got| *got == expected).await;
}

#[tokio::test]
async fn peer_with_another_cluster_secret_is_refused_and_counted() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let mut b = Pod::start(2, ring(8, &[]), config()).await;
    list(&[&a, &b]);
    a.wait_count(Count::WrongCredentials, 4).await;
    b.wait_count(Count::WrongCredentials, 4).await;
    for pod in [&mut a, &mut b] {
        assert_eq!(pod.count(Count::LinksOpened), 0);
        assert!(pod.rest().iter().all(|got| matches!(got, Got::Changed(_))), "nothing was delivered");
    }
    // A dialler that overlooks the wrong certificate of the other end is told nothing either.
    let mut lax = rustls::ClientConfig::clone(&tls_of(3, &ring(8, &[])).client);
    lax.dangerous().set_certificate_verifier(Arc::new(TrustsAll));
    let mut stream = dial_tls(&a, Arc::new(lax)).await.unwrap();
    let mut out = Vec::new();
    frame::hello(&mut out, &frame::Hello { pod: pod(3), release: "x".into() });
    let _ = stream.write_all(&out).await;
    assert_eq!(heard(&mut stream).await, 0, "a stranger learns nothing");
}

#[tokio::test]
async fn peer_without_a_certificate_is_refused_and_counted() {
    let a = Pod::start(1, ring(7, &[]), config()).await;
    let client =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll))
            .with_no_client_auth();
    let mut stream = dial_tls(&a, Arc::new(client)).await.unwrap();
    assert_eq!(heard(&mut stream).await, 0);
    a.wait_count(Count::WrongCredentials, 1).await;
}

#[tokio::test]
async fn a_certificate_of_the_day_before_yesterday_is_refused() {
    let a = Pod::start(1, ring(7, &[]), config()).await;
    let then = wall_clock() - Duration::from_secs(48 * 3600);
    let old = Tls::new(pod(2), &ring(7, &[]), then).unwrap();
    let mut stream = dial_tls(&a, old.client).await.unwrap();
    assert_eq!(heard(&mut stream).await, 0);
    a.wait_count(Count::WrongCredentials, 1).await;
}

#[tokio::test]
async fn a_hello_that_names_another_pod_than_the_certificate_is_refused() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    for (certificate, hello) in [(2, 3), (1, 1)] {
        let mut stream = dial_tls(&a, tls_of(certificate, &ring(7, &[])).client).await.unwrap();
        let mut out = Vec::new();
        frame::hello(&mut out, &frame::Hello { pod: pod(hello), release: "x".into() });
        stream.write_all(&out).await.unwrap();
        assert_eq!(heard(&mut stream).await, 0, "certificate {certificate}, hello {hello}");
    }
    assert_eq!(a.count(Count::WrongHello), 2);
    assert_sound(&mut a).await;
}

#[tokio::test]
async fn garbage_on_the_listener_ends_with_itself() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_be_bytes(); 4].concat());
    let mut plain = Vec::new();
    frame::hello(&mut plain, &frame::Hello { pod: pod(2), release: "no TLS".into() });
    let mut inputs = vec![plain, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0x16, 3, 1, 0xff, 0xff], vec![]];
    inputs.extend((0..20).map(|_| {
        let mut bytes = vec![0; rng.random_range(1..5_000)];
        rng.fill_bytes(&mut bytes);
        bytes
    }));
    let count = u64::try_from(inputs.len()).unwrap();
    for input in inputs {
        let mut stream = TcpStream::connect(a.peers.handle().local_addr()).await.unwrap();
        let _ = stream.write_all(&input).await;
        let _ = stream.shutdown().await;
        heard(&mut stream).await;
    }
    a.wait_count(Count::BrokenHandshakes, count).await;
    assert_sound(&mut a).await;
}

#[tokio::test]
async fn slow_loris_is_given_up_in_time() {
    let config = crate::PeerConfig { handshake_timeout: Duration::from_millis(300), ..config() };
    let a = Pod::start(1, ring(7, &[]), config).await;
    let mut silent = TcpStream::connect(a.peers.handle().local_addr()).await.unwrap();
    heard(&mut silent).await;
    let mut no_hello = dial_tls(&a, tls_of(2, &ring(7, &[])).client).await.unwrap();
    assert_eq!(heard(&mut no_hello).await, 0);
    assert_eq!(a.count(Count::SlowHandshakes), 2);
}

#[tokio::test]
async fn many_who_dawdle_do_not_keep_an_honest_peer_out() {
    let config = crate::PeerConfig { handshake_timeout: Duration::from_secs(3600), ..config() };
    let mut a = Pod::start(1, ring(7, &[]), config).await;
    let mut dawdlers = Vec::new();
    for _ in 0..PENDING + 50 {
        dawdlers.push(TcpStream::connect(a.peers.handle().local_addr()).await.unwrap());
    }
    assert_sound(&mut a).await;
    assert_eq!(a.count(Count::CrowdedOut), 51);
}

/// A link of `n` that sends `bytes` and nothing after; whether the pod ended it before the peer did.
async fn send_raw(a: &Pod, n: u8, bytes: &[u8]) {
    let mut stream = dial_as(n, a).await;
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    heard(&mut stream).await;
}

#[tokio::test]
async fn frames_cut_and_flipped_end_their_own_link_at_most() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let mut sound = Vec::new();
    frame::heartbeat(&mut sound, &Heartbeat { counter: 1, kafka_ok_within_ms: None });
    frame::relayed(&mut sound, Way::ToOwner, 1, "192.0.2.1:9".parse().unwrap(), b"datagram");
    frame::relayed(&mut sound, Way::ToHandshake, 1, "192.0.2.1:9".parse().unwrap(), b"proof");
    frame::relayed(&mut sound, Way::Back, 1, "[2001:db8::1]:9".parse().unwrap(), b"datagram");
    frame::control(&mut sound, &Control::SlotMoved { slot: 1, owner: pod(9), generation: 1 });
    frame::control(&mut sound, &Control::HandOver { slot: 1 });
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_be_bytes(); 4].concat());
    for _ in 0..40 {
        let mut bytes = sound.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        bytes.truncate(rng.random_range(1..=bytes.len()));
        send_raw(&a, 2, &bytes).await;
    }
    // One that is surely bad, so that the counter is seen to rise.
    send_raw(&a, 2, &[0, 1, 6, 0]).await;
    a.wait_count(Count::BadFrames, 1).await;
    eventually("all of these links ended", || {
        let seen = (a.count(Count::LinksOpened), a.count(Count::LinksEnded));
        (seen == (41, 41), seen)
    })
    .await;
    assert_sound(&mut a).await;
}

#[tokio::test]
async fn a_kind_of_a_newer_version_is_skipped_and_counted() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let mut stream = dial_as(2, &a).await;
    let mut out = vec![0, 4, 99, 1, 2, 3, 4];
    frame::control(&mut out, &Control::HandOver { slot: 12 });
    stream.write_all(&out).await.unwrap();
    stream.flush().await.unwrap();
    let got = a.wait_for("the frame behind it", |got| matches!(got, Got::Control { .. })).await;
    assert_eq!(got, Got::Control { from: pod(2), control: Control::HandOver { slot: 12 } });
    assert_eq!(a.count(Count::UnknownFrames), 1);
}

/// The verifier of somebody who does not care whom it talks to.
#[derive(Debug)]
struct TrustsAll;

impl rustls::client::danger::ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}
