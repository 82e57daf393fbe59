//! WIRE.md sections 5, 10 and 12 (rules 1, 2 and 8) on TCP.

use usmp::crypto::{LowOrderPoint, Provider as _, RustCrypto};
use usmp::server::*;
use usmp::wire::{Frame, FrameType, Hello, HelloAck, SessionOk};
use usmp::*;

use crate::support::*;

const T0: Instant = Instant::from_millis(1);

fn frame_of(emit: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut out = [0; 492];
    let length = emit(&mut out);
    out[..length].to_vec()
}

fn hello_frame(hello: &Hello) -> Vec<u8> {
    frame_of(|out| hello.emit(out).expect("fits"))
}

fn fresh() -> TcpHandshake<RustCrypto> {
    TcpHandshake::new(T0, &HandshakeConfig::default())
}

fn challenged(hello: &Hello) -> (TcpHandshake<RustCrypto>, Vec<u8>) {
    let mut handshake = fresh();
    let frame = hello_frame(hello);
    let step = handshake.receive(&frame).expect("a HELLO");
    assert_eq!(step, TcpHandshakeStep::Hello { consumed: frame.len(), hello: *hello });
    let challenge =
        frame_of(|out| handshake.challenge(T0, server_private(), NONCE, out).expect("the state for it"));
    (handshake, challenge)
}

#[test]
fn a_whole_handshake_gives_a_session_with_the_devices_keys() {
    let (mut handshake, challenge) = challenged(&hello());
    let ack = hello_ack(&challenge, &PSK);
    let frame = frame_of(|out| ack.emit(out).expect("fits"));
    assert_eq!(handshake.receive(&frame), Ok(TcpHandshakeStep::HelloAck { consumed: 44, ack }));
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    let mut out = [0; 60];
    let mut session =
        handshake.accept(T0, proof, SESSION, &SessionConfig::tcp(), &mut out).expect("a good key");
    let ok = SessionOk::parse(&Frame::parse(&out).expect("a frame")).expect("SESSION_OK");
    assert_eq!(ok.session_id, SESSION);

    let mut buffer = [0; 100];
    let length =
        seal_frame::<RustCrypto>(&device_keys().c2s, SESSION, Data, 0, b"hi", &mut buffer).expect("fits");
    let mut pool = ArrayPool::<1>::new();
    let received = session.receive(T0, &mut buffer[..length], &mut pool);
    assert!(matches!(received, Ok(TcpReceived::Message { payload, .. }) if payload == b"hi"));
}

#[test]
fn a_hello_with_a_cookie_is_legal() {
    for cookie in [None, Some([1; 16])] {
        challenged(&Hello { cookie, ..hello() });
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let frame = hello_frame(&Hello { cookie: None, ..hello() });
    let mut handshake = fresh();
    for end in 0..frame.len() {
        let needed = if end < 12 { 12 } else { 50 };
        assert_eq!(handshake.receive(&frame[..end]), Ok(TcpHandshakeStep::NeedMore(needed)), "{end}");
    }
    assert!(matches!(handshake.receive(&frame), Ok(TcpHandshakeStep::Hello { consumed: 50, .. })));
}

#[test]
fn bytes_behind_a_frame_are_left_alone() {
    let mut stream = hello_frame(&hello());
    stream.extend_from_slice(b"more");
    assert!(matches!(fresh().receive(&stream), Ok(TcpHandshakeStep::Hello { consumed: 66, .. })));
}

#[test]
fn another_first_frame_closes() {
    let mut data = Udp::half_open();
    let data = data.next(Data, b"");
    assert_eq!(fresh().receive(&data), Err(DropReason::UnexpectedType));
    let ack = frame_of(|out| HelloAck { seq: 0, mac: [0; 32] }.emit(out).expect("fits"));
    assert_eq!(fresh().receive(&ack), Err(DropReason::UnexpectedType));
}

#[test]
fn version_1_closes() {
    let mut frame = hello_frame(&hello());
    frame[2] = 1;
    mend(&mut frame);
    assert_eq!(fresh().receive(&frame), Err(DropReason::Version));
}

#[test]
fn a_bad_crc_closes() {
    let mut frame = hello_frame(&hello());
    frame[30] ^= 1;
    assert_eq!(fresh().receive(&frame), Err(DropReason::Crc));
}

#[test]
fn noise_closes_with_its_first_byte() {
    assert_eq!(fresh().receive(b"G"), Err(DropReason::Magic), "not after eleven more bytes");
}

#[test]
fn a_second_frame_before_challenge_closes() {
    let mut handshake = fresh();
    let frame = hello_frame(&hello());
    handshake.receive(&frame).expect("a HELLO");
    assert_eq!(handshake.receive(&frame), Err(DropReason::UnexpectedType));
}

#[test]
fn a_second_hello_instead_of_hello_ack_closes() {
    let (mut handshake, _) = challenged(&hello());
    assert_eq!(handshake.receive(&hello_frame(&hello())), Err(DropReason::UnexpectedType));
}

#[test]
fn a_wrong_hello_ack_proves_nothing() {
    let (handshake, challenge) = challenged(&hello());
    assert!(handshake.verify(&hello_ack(&challenge, &[1; 32]), &[&PSK]).is_none());
}

#[test]
fn an_unknown_device_gets_challenge_too() {
    let (handshake, challenge) = challenged(&Hello { device_id: DeviceId([0xFF; 6]), ..hello() });
    assert_eq!(header(&challenge).0, FrameType::Challenge);
    assert!(handshake.verify(&hello_ack(&challenge, &PSK), &[&[0xEE; 32]]).is_none());
}

#[test]
fn a_low_order_key_fails_after_hello_ack() {
    let (handshake, _) = challenged(&Hello { public_key: [0; 32], ..hello() });
    let pub_s = RustCrypto::x25519_public(&server_private());
    let mac = client_proof::<RustCrypto>(&PSK, &NONCE, DEVICE, &[0; 32], &pub_s);
    let proof = handshake.verify(&HelloAck { seq: 2, mac }, &[&PSK]).expect("the right key");
    let refused = handshake.accept(T0, proof, SESSION, &SessionConfig::tcp(), &mut [0; 60]);
    assert_eq!(refused.map(|_| ()), Err(LowOrderPoint));
}

#[test]
fn challenge_without_hello_is_refused() {
    assert_eq!(fresh().challenge(T0, server_private(), NONCE, &mut [0; 76]), Err(WrongState));
}

#[test]
fn a_silent_peer_is_closed_after_the_step_timeout() {
    let handshake = fresh();
    assert!(!handshake.is_over(T0 + millis(4_999)));
    assert!(handshake.is_over(T0 + secs(5)), "a slow loris gets one step's time");
}

#[test]
fn our_own_key_look_up_does_not_count_against_the_peers_step() {
    let mut handshake = fresh();
    handshake.receive(&hello_frame(&hello())).expect("a HELLO");
    assert!(!handshake.is_over(T0 + secs(6)));
    assert!(handshake.is_over(T0 + secs(10)));
}

#[test]
fn all_steps_together_have_ten_seconds() {
    let mut handshake = fresh();
    handshake.receive(&hello_frame(&hello())).expect("a HELLO");
    handshake.challenge(T0 + secs(7), server_private(), NONCE, &mut [0; 76]).expect("the state for it");
    assert_eq!(handshake.poll_timeout(), T0 + secs(10));
}
