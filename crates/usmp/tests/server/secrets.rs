//! P9: secrets do not show, and idle sessions are small.

use usmp::Instant;
use usmp::crypto::RustCrypto;
use usmp::server::{HandshakeConfig, RetryRing, TcpHandshake, TcpSession, UdpSession};

use crate::support::*;

#[test]
fn debug_output_of_every_machine_holds_no_secret() {
    let mut udp = Udp::new();
    udp.message(b"planted plaintext");
    udp.rekey([0x77; 32]);
    let now = udp.now;
    let mut handshake = start_handshake(now);
    let challenge = handshake_sends(&mut handshake, now).remove(0);
    let proof = handshake.verify(&hello_ack(&challenge, &PSK), &[&PSK]).expect("the right key");
    let lingering = Udp::new().session.into_lingering(now, &mut udp.pool);
    let tcp = TcpHandshake::<RustCrypto>::new(now, &HandshakeConfig::default());
    let text = format!(
        "{:?} {handshake:?} {proof:?} {lingering:?} {tcp:?} {:?} {:?}",
        udp.session,
        crate::tcp::Tcp::new().session,
        RetryRing::<u8, 4>::new(),
    );
    let (keys, server) = (device_keys(), server_private());
    let secrets: [&[u8]; 8] = [
        &PSK,
        keys.c2s.expose(),
        keys.s2c.expose(),
        udp.keys.c2s.expose(),
        udp.keys.s2c.expose(),
        &[0x77; 32],
        server.expose(),
        b"planted plaintext",
    ];
    for secret in secrets {
        assert!(!text.contains(&hex::encode(&secret[..4])), "hexadecimal digits of a secret in {text}");
        let list = format!("{:?}", &secret[..4]);
        assert!(!text.contains(list.trim_matches(['[', ']'])), "bytes of a secret in {text}");
    }
}

#[test]
fn an_idle_session_is_small() {
    // An IPv6 address with port and zone, as a driver may pack it.
    type Path = [u8; 20];
    let udp = size_of::<UdpSession<RustCrypto, Path>>();
    let tcp = size_of::<TcpSession<RustCrypto>>();
    println!("udp {udp} bytes, tcp {tcp} bytes");
    assert!(udp <= 360, "a UDP session takes {udp} bytes");
    assert!(tcp <= 152, "a TCP session takes {tcp} bytes");
}

#[test]
fn time_runs_from_any_start() {
    let now = Instant::from_micros(u64::MAX);
    let mut handshake = start_handshake(now);
    assert_eq!(
        handshake_sends(&mut handshake, now).len(),
        0,
        "the end of time is also the end of the handshake"
    );
}
