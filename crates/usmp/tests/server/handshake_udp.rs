//! WIRE.md sections 5, 11.3, 11.5 and 12 (rules 9 and 10), and weaknesses W6, W7, W15 to W17, W20.

use std::cell::Cell;

use usmp::crypto::{LowOrderPoint, Provider, RustCrypto};
use usmp::server::*;
use usmp::wire::{Frame, FrameType, Hello, HelloAck, SessionOk, Utack};
use usmp::*;

use crate::support::*;

const T0: Instant = Instant::from_millis(10_000);

fn challenged() -> (UdpHandshake<RustCrypto>, Vec<u8>) {
    let mut handshake = start_handshake(T0);
    let challenge = handshake_sends(&mut handshake, T0).remove(0);
    (handshake, challenge)
}

fn accepted() -> (UdpHandshake<RustCrypto>, UdpSession<RustCrypto, u8>, HelloAck, Vec<u8>) {
    let (mut handshake, challenge) = challenged();
    let ack = hello_ack(&challenge, &PSK);
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    let session = handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    let session_ok = handshake_sends(&mut handshake, T0).remove(0);
    (handshake, session, ack, session_ok)
}

/// All copies that leave while nothing comes, with their times.
fn copies(handshake: &mut UdpHandshake<RustCrypto>) -> Vec<(Duration, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(at) = handshake.poll_timeout() {
        handshake.handle_timeout(at);
        all.extend(handshake_sends(handshake, at).into_iter().map(|frame| (at - T0, frame)));
    }
    all
}

#[test]
fn challenge_leaves_at_once() {
    let (_, challenge) = challenged();
    assert_eq!(header(&challenge), (FrameType::Challenge, 0));
}

#[test]
fn challenge_is_repeated_byte_for_byte_until_time_is_up() {
    let (mut handshake, challenge) = challenged();
    let copies = copies(&mut handshake);
    assert!(copies.len() >= 4, "copies at {:?}", copies.iter().map(|copy| copy.0).collect::<Vec<_>>());
    assert!(copies.iter().all(|(_, copy)| *copy == challenge));
    assert!(copies.iter().all(|(at, _)| *at < secs(10)));
    assert!(handshake.is_over());
}

#[test]
fn first_repeat_comes_after_half_a_second_and_a_bit() {
    let (mut handshake, _) = challenged();
    let first = copies(&mut handshake)[0].0;
    assert!(first >= millis(500) && first <= millis(563), "{first:?}");
}

#[test]
fn repeats_are_spread_by_the_seed() {
    let at = |seed| {
        let config = HandshakeConfig::default();
        let mut handshake =
            UdpHandshake::<RustCrypto>::start(T0, &hello(), server_private(), NONCE, seed, &config);
        handshake_sends(&mut handshake, T0);
        copies(&mut handshake)[0].0
    };
    assert_ne!(at(1), at(2));
}

#[test]
fn a_utack_alone_does_not_stop_challenge_for_good() {
    let (mut handshake, challenge) = challenged();
    assert_eq!(handshake.handle_utack(T0, &Utack::plain(FrameType::Challenge, 0)), Ok(false));
    let copies = copies(&mut handshake);
    assert!(copies[0].0 >= secs(3), "a UTACK holds the next copy back: {:?}", copies[0].0);
    assert_eq!(copies[0].1, challenge);
}

#[test]
fn a_utack_for_something_else_changes_nothing() {
    let (mut handshake, _) = challenged();
    let before = handshake.poll_timeout();
    for utack in [Utack::plain(FrameType::SessionOk, 0), Utack::plain(FrameType::Challenge, 1)] {
        assert_eq!(handshake.handle_utack(T0, &utack), Err(DropReason::UtackUnexpected));
    }
    assert_eq!(handshake.poll_timeout(), before);
}

#[test]
fn a_utack_before_challenge_left_changes_nothing() {
    let mut handshake = start_handshake(T0);
    let utack = Utack::plain(FrameType::Challenge, 0);
    assert_eq!(handshake.handle_utack(T0, &utack), Err(DropReason::UtackUnexpected));
    assert_eq!(handshake_sends(&mut handshake, T0).len(), 1);
}

#[test]
fn duplicate_hello_gets_the_same_challenge() {
    let (mut handshake, challenge) = challenged();
    assert_eq!(handshake.handle_hello(T0, &Hello { seq: 5, ..hello() }), HelloOutcome::Duplicate);
    assert_eq!(handshake_sends(&mut handshake, T0), [challenge]);
}

#[test]
fn duplicate_hellos_do_not_buy_copies_without_end() {
    let (mut handshake, _) = challenged();
    let sent: usize = (0..100)
        .map(|_| {
            handshake.handle_hello(T0, &hello());
            handshake_sends(&mut handshake, T0).len()
        })
        .sum();
    assert_eq!(sent, 11, "twelve copies in all");
    assert!(handshake.poll_timeout().is_some(), "HELLO_ACK may still come");
}

#[test]
fn another_public_key_starts_over() {
    let (mut handshake, _) = challenged();
    let other = Hello { public_key: [5; 32], ..hello() };
    assert_eq!(handshake.handle_hello(T0, &other), HelloOutcome::StartOver);
    let other = Hello { device_id: DeviceId([9; 6]), ..hello() };
    assert_eq!(handshake.handle_hello(T0, &other), HelloOutcome::StartOver);
}

#[test]
fn an_old_hello_after_session_ok_brings_no_challenge() {
    let (mut handshake, _, _, _) = accepted();
    assert_eq!(handshake.handle_hello(T0, &hello()), HelloOutcome::Duplicate);
    assert_eq!(handshake_sends(&mut handshake, T0), Vec::<Vec<u8>>::new());
}

#[test]
fn wrong_hello_ack_is_dropped_and_the_right_one_still_counts() {
    let (mut handshake, challenge) = challenged();
    let wrong = hello_ack(&challenge, &[1; 32]);
    assert_eq!(handshake.handle_hello_ack(T0, &wrong, &[&PSK]).map(|_| ()), Err(DropReason::WrongProof));
    let right = hello_ack(&challenge, &PSK);
    assert!(matches!(handshake.handle_hello_ack(T0, &right, &[&PSK]), Ok(AckOutcome::Proved(_))));
}

#[test]
fn wrong_hello_ack_does_not_touch_the_timers() {
    let (mut handshake, challenge) = challenged();
    let before = handshake.poll_timeout();
    let wrong = hello_ack(&challenge, &[1; 32]);
    assert!(handshake.handle_hello_ack(T0 + millis(1), &wrong, &[&PSK]).is_err());
    assert_eq!(handshake.poll_timeout(), before);
}

#[test]
fn each_of_the_keys_proves_and_the_server_answers_under_the_one_that_matched() {
    let keys: [[u8; 32]; 3] = [[1; 32], PSK, [3; 32]];
    let list: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    for (index, key) in keys.iter().enumerate() {
        let (mut handshake, challenge) = challenged();
        let proof = handshake.verify(&hello_ack(&challenge, key), &list).expect("one of them");
        assert_eq!(proof.key_index(), index);
        handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
        let frame = handshake_sends(&mut handshake, T0).remove(0);
        let ok = SessionOk::parse(&Frame::parse(&frame).expect("a frame")).expect("SESSION_OK");
        let pub_s = RustCrypto::x25519_public(&server_private());
        assert_eq!(ok.mac, server_proof::<RustCrypto>(key, &NONCE, SESSION, &hello().public_key, &pub_s));
        assert_eq!(ok.session_id, SESSION);
    }
}

#[test]
fn marks_are_how_the_proof_of_each_key_begins() {
    let keys: [[u8; 32]; 2] = [[1; 32], PSK];
    let list: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let (handshake, challenge) = challenged();
    let begin = |key: &[u8]| hello_ack(&challenge, key).mac.first_chunk::<MARK>().copied();
    assert_eq!(handshake.marks(&list), [begin(&keys[0]), begin(&keys[1]), None]);
    assert_eq!(handshake.marks(&[]), [None; MAX_PSKS], "not even of the empty key");
    let (handshake, ..) = accepted();
    assert_eq!(handshake.marks(&list), [None; MAX_PSKS]);
}

#[test]
fn a_copy_of_session_ok_for_elsewhere_is_the_same_and_uses_up_none_of_the_devices() {
    let (mut handshake, challenge) = challenged();
    assert_eq!(handshake.session_ok(), None);
    let ack = hello_ack(&challenge, &PSK);
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    assert_eq!(handshake.session_ok(), None, "it has not left, and may be taken back");
    let sent = handshake_sends(&mut handshake, T0).remove(0);
    for _ in 0..100 {
        assert_eq!(handshake.session_ok().map(|ok| &ok[..]), Some(&sent[..]));
    }
    handshake.handle_hello_ack(T0, &ack, &[]).expect("the same one");
    assert_eq!(handshake_sends(&mut handshake, T0), [sent]);
}

#[test]
fn no_key_proves_nothing_not_even_the_empty_one() {
    let (handshake, challenge) = challenged();
    assert!(handshake.verify(&hello_ack(&challenge, &[]), &[]).is_none());
    assert!(handshake.verify(&hello_ack(&challenge, &[]), &[&PSK]).is_none());
}

#[test]
fn a_fourth_key_is_not_looked_at() {
    let (handshake, challenge) = challenged();
    let list: [&[u8]; 4] = [&[1; 32], &[2; 32], &[3; 32], &PSK];
    assert!(handshake.verify(&hello_ack(&challenge, &PSK), &list).is_none());
    assert_eq!(MAX_PSKS, 3);
}

#[test]
fn an_unknown_device_with_a_random_key_gets_challenge_and_then_silence() {
    let (mut handshake, challenge) = challenged();
    assert_eq!(header(&challenge), (FrameType::Challenge, 0));
    let decoy = [0xEE; 32];
    let ack = hello_ack(&challenge, &PSK);
    assert_eq!(handshake.handle_hello_ack(T0, &ack, &[&decoy]).map(|_| ()), Err(DropReason::WrongProof));
    assert!(!handshake.is_confirming());
}

thread_local! {
    static HMACS: Cell<u32> = const { Cell::new(0) };
    static KEY_PAIRS: Cell<u32> = const { Cell::new(0) };
    static PUBLIC_KEYS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the work on this thread.
struct Counting;

impl Provider for Counting {
    type KeyPair = <RustCrypto as Provider>::KeyPair;

    fn key_pair(private: &Secret<32>) -> Self::KeyPair {
        KEY_PAIRS.set(KEY_PAIRS.get() + 1);
        RustCrypto::key_pair(private)
    }

    fn public_key(pair: &Self::KeyPair) -> [u8; 32] {
        PUBLIC_KEYS.set(PUBLIC_KEYS.get() + 1);
        RustCrypto::public_key(pair)
    }

    fn agree(pair: &Self::KeyPair, public: &[u8; 32]) -> Result<Secret<32>, LowOrderPoint> {
        RustCrypto::agree(pair, public)
    }
    fn seal(key: &Secret<32>, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; 16] {
        RustCrypto::seal(key, nonce, aad, in_out)
    }
    fn open(
        key: &Secret<32>,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), crypto::OpenError> {
        RustCrypto::open(key, nonce, aad, in_out, tag)
    }
    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        HMACS.set(HMACS.get() + 1);
        RustCrypto::hmac_sha256(key, parts)
    }
    fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
        RustCrypto::hkdf_sha256(salt, ikm, info, out);
    }
}

#[test]
fn the_private_key_is_prepared_once_and_its_public_key_derived_once() {
    let config = HandshakeConfig::default();
    let mut handshake = UdpHandshake::<Counting>::start(T0, &hello(), server_private(), NONCE, 1, &config);
    let challenge = handshake_sends(&mut handshake, T0).remove(0);
    assert_eq!(handshake_sends(&mut handshake, T0 + millis(600)), std::slice::from_ref(&challenge));
    let ack = hello_ack(&challenge, &PSK);
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    assert_eq!((KEY_PAIRS.get(), PUBLIC_KEYS.get()), (1, 1));
}

#[test]
fn known_and_unknown_devices_cost_the_same_work() {
    let config = HandshakeConfig::default();
    let mut handshake = UdpHandshake::<Counting>::start(T0, &hello(), server_private(), NONCE, 1, &config);
    let challenge = handshake_sends(&mut handshake, T0).remove(0);
    let ack = hello_ack(&challenge, &PSK);
    let lists: [&[&[u8]]; 4] = [&[], &[&[9; 32]], &[&PSK], &[&PSK, &[1; 32], &[2; 32]]];
    for list in lists {
        HMACS.set(0);
        let _proof = handshake.verify(&ack, list);
        assert_eq!(HMACS.get(), 3, "{} keys", list.len());
    }
}

#[test]
fn the_exchange_waits_for_a_valid_hello_ack() {
    // A low-order key gets its CHALLENGE like any other, and fails where the exchange is made: after HELLO_ACK.
    let low = Hello { public_key: [0; 32], ..hello() };
    let config = HandshakeConfig::default();
    let mut handshake = UdpHandshake::<RustCrypto>::start(T0, &low, server_private(), NONCE, 1, &config);
    let challenge = handshake_sends(&mut handshake, T0).remove(0);
    let frame = Frame::parse(&challenge).expect("a frame");
    let pub_s = wire::Challenge::parse(&frame).expect("CHALLENGE").public_key;
    let mac = client_proof::<RustCrypto>(&PSK, &NONCE, DEVICE, &[0; 32], &pub_s);
    let ack = HelloAck { seq: 2, mac };
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    let refused = handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp());
    assert_eq!(refused.map(|_| ()), Err(LowOrderPoint));
    assert!(handshake.is_over());
    assert_eq!(handshake_sends(&mut handshake, T0), Vec::<Vec<u8>>::new());
}

#[test]
fn keys_are_in_place_before_session_ok_has_left() {
    let (mut handshake, challenge) = challenged();
    let proof = handshake.verify(&hello_ack(&challenge, &PSK), &[&PSK]).expect("the right key");
    let mut session: UdpSession<RustCrypto, u8> =
        handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    let mut frame = [0; 100];
    let length =
        seal_frame::<RustCrypto>(&device_keys().c2s, SESSION, Data, 0, b"early", &mut frame).expect("fits");
    let mut pool = ArrayPool::<1>::new();
    let received = session.handle_datagram(T0, HOME, &mut frame[..length], &mut pool);
    assert!(matches!(received, Ok(Received::Message { payload, .. }) if payload == b"early"));
}

#[test]
fn session_ok_leaves_at_once_and_is_repeated_byte_for_byte() {
    let (mut handshake, _, _, session_ok) = accepted();
    assert_eq!(header(&session_ok), (FrameType::SessionOk, 0));
    let copies = copies(&mut handshake);
    assert!(copies.len() >= 4);
    assert!(copies.iter().all(|(_, copy)| *copy == session_ok));
}

#[test]
fn repeated_hello_ack_gets_the_same_session_ok() {
    let (mut handshake, _, ack, session_ok) = accepted();
    let again = HelloAck { seq: 7, ..ack };
    assert!(matches!(handshake.handle_hello_ack(T0, &again, &[]), Ok(AckOutcome::Repeated)));
    assert_eq!(handshake_sends(&mut handshake, T0), [session_ok]);
}

#[test]
fn another_hello_ack_after_session_ok_is_dropped() {
    let (mut handshake, _, ack, _) = accepted();
    let other = HelloAck { mac: [1; 32], ..ack };
    assert_eq!(handshake.handle_hello_ack(T0, &other, &[&PSK]).map(|_| ()), Err(DropReason::WrongProof));
    assert_eq!(handshake_sends(&mut handshake, T0), Vec::<Vec<u8>>::new());
}

#[test]
fn a_utack_of_session_ok_says_that_it_arrived_and_only_slows_the_copies() {
    let (mut handshake, _, _, session_ok) = accepted();
    assert_eq!(handshake.handle_utack(T0, &Utack::plain(FrameType::SessionOk, 0)), Ok(true));
    let copies = copies(&mut handshake);
    assert!(copies[0].0 >= secs(3));
    assert_eq!(copies[0].1, session_ok);
}

#[test]
fn accepting_twice_is_refused() {
    let (mut handshake, challenge) = challenged();
    let ack = hello_ack(&challenge, &PSK);
    let (first, second) =
        (handshake.verify(&ack, &[&PSK]).expect("right"), handshake.verify(&ack, &[&PSK]).expect("right"));
    handshake.accept(T0, first, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    assert!(handshake.accept(T0, second, SESSION, HOME, &SessionConfig::udp()).is_err());
}

#[test]
fn a_session_is_taken_back_before_session_ok_has_left_and_never_after() {
    let (mut handshake, challenge) = challenged();
    let ack = hello_ack(&challenge, &PSK);
    assert!(!handshake.withdraw(), "there is none");
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp()).expect("a good key");
    assert!(handshake.withdraw());
    assert_eq!(handshake_sends(&mut handshake, T0 + secs(9)), Vec::<Vec<u8>>::new(), "the device has both");

    // The same proof opens another session, and the device hears of that one alone.
    let Ok(AckOutcome::Proved(proof)) = handshake.handle_hello_ack(T0, &ack, &[&PSK]) else {
        panic!("it proves the key as before");
    };
    let other = SessionId([0x77; 16]);
    let session = handshake.accept(T0, proof, other, HOME, &SessionConfig::udp()).expect("a good key");
    let sent = handshake_sends(&mut handshake, T0).remove(0);
    let ok = SessionOk::parse(&Frame::parse(&sent).expect("a frame")).expect("SESSION_OK");
    assert_eq!((ok.session_id, session.session_id()), (other, other));
    assert!(!handshake.withdraw(), "the device may hold SESSION_OK");
    assert!(matches!(handshake.handle_hello_ack(T0, &ack, &[]), Ok(AckOutcome::Repeated)));
}

#[test]
fn an_open_handshake_ends_after_ten_seconds() {
    let (mut handshake, challenge) = challenged();
    handshake.handle_timeout(T0 + millis(9_999));
    assert!(!handshake.is_over());
    handshake.handle_timeout(T0 + secs(10));
    assert!(handshake.is_over());
    assert_eq!(handshake.poll_timeout(), None);
    let ack = hello_ack(&challenge, &PSK);
    assert_eq!(handshake.handle_hello_ack(T0, &ack, &[&PSK]).map(|_| ()), Err(DropReason::Closed));
}
