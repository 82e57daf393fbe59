//! Rules of the device role on UDP, one test per rule, each named after the situation.

use usmp::crypto::RustCrypto;
use usmp::device::{
    CloseReason, CommandError, Config, DropReason, Exhaustion, MessageId, Psk, PskError, Retransmission,
    SendError,
};
use usmp::wire::{Frame, FrameType, MAX_FRAME, Utack};
use usmp::{Duration, Role, Secret, SessionId};
use usmp_testkit::pair::{Told, UdpPair};
use usmp_testkit::script::ScriptedServer;

const PSK: [u8; 32] = UdpPair::PSK;

fn quiet() -> Config {
    UdpPair::quiet()
}

#[test]
fn short_and_long_keys_are_refused() {
    assert_eq!(Psk::new(&[1; 15]).err(), Some(PskError::TooShort));
    assert_eq!(Psk::new(&[1; 129]).err(), Some(PskError::TooLong));
    assert!(Psk::new(&[1; 16]).is_ok() && Psk::new(&[1; 128]).is_ok());
}

#[test]
fn hello_is_repeated_with_growing_waits_and_given_up() {
    let mut pair = UdpPair::new(Config { handshake_timeout: None, ..quiet() });
    let waits = pair.exhaust();
    assert_eq!(waits, [500, 1000, 2000, 4000, 5000].map(Duration::from_millis));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::Unreachable)]);
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
}

#[test]
fn acknowledged_hello_without_an_answer_is_repeated_once_the_retry_must_be_lost() {
    let mut pair = UdpPair::new(quiet());
    let hello = pair.frame();
    assert_eq!(pair.give(pair.server.utack(&hello)), Ok(()));
    pair.now = pair.now + Duration::from_millis(1999);
    pair.device.handle_timeout(pair.now);
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new(), "not sooner than 2 s");
    pair.wait();
    assert_eq!(pair.frame(), hello, "byte-identical");
}

#[test]
fn acknowledged_hello_is_not_repeated_where_the_official_clients_are_imitated() {
    let mut pair = UdpPair::new(Config { hello_repeat: None, ..quiet() });
    let hello = pair.frame();
    assert_eq!(pair.give(pair.server.utack(&hello)), Ok(()));
    pair.wait();
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.told(), [Told::Closed(CloseReason::HandshakeTimeout)]);
}

#[test]
fn handshake_deadline_ends_the_attempt_after_ten_seconds() {
    let mut pair = UdpPair::new(quiet());
    let start = pair.now;
    while !pair.device.is_closed() {
        pair.sent();
        pair.wait();
    }
    assert_eq!(pair.now - start, Duration::from_secs(10));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::HandshakeTimeout)]);
    assert_eq!(pair.device.poll_timeout(), None, "no timer is left");
}

#[test]
fn step_timeout_starts_again_with_each_step() {
    let config = Config { step_timeout: Some(Duration::from_secs(5)), ..quiet() };
    let mut pair = UdpPair::new(config);
    let hello = pair.frame();
    let start = pair.now;
    pair.now = start + Duration::from_secs(4);
    let challenge = pair.server.challenge(&hello);
    assert_eq!(pair.give(challenge), Ok(()));
    let ack = pair.frame();
    assert_eq!(pair.give(pair.server.utack(&ack)), Ok(()));
    pair.wait();
    assert_eq!(pair.now - start, Duration::from_secs(9));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::HandshakeTimeout)]);
}

#[test]
fn duplicate_retry_and_challenge_are_acknowledged_again_and_change_nothing() {
    let mut pair = UdpPair::new(quiet());
    pair.frame();
    let retry = pair.server.hello_retry([7; 16]);
    assert_eq!(pair.give(retry.clone()), Ok(()));
    let utack = pair.server.expected_utack(&retry);
    let sent = pair.sent();
    assert_eq!(sent.len(), 2, "UTACK, then HELLO with the cookie");
    assert_eq!(sent[0], utack);
    assert_eq!(&sent[1][50..], [7; 16], "the cookie");
    assert_eq!(pair.give(pair.server.hello_retry([8; 16])), Err(DropReason::Duplicate));
    assert_eq!(pair.sent(), [utack], "no third HELLO");

    let challenge = pair.server.challenge(&sent[1]);
    assert_eq!(pair.give(challenge.clone()), Ok(()));
    pair.frame();
    let mut other = ScriptedServer::<RustCrypto>::new(&PSK, 99);
    let other = other.challenge(&sent[1]);
    for late in [challenge, other, retry] {
        let utack = pair.server.expected_utack(&late);
        assert_eq!(pair.give(late), Err(DropReason::Duplicate));
        assert_eq!(pair.sent(), [utack], "acknowledged, and no second HELLO_ACK");
    }
}

#[test]
fn session_ok_with_a_wrong_proof_is_ignored_and_the_right_one_still_taken() {
    let mut pair = UdpPair::new(quiet());
    let hello = pair.frame();
    let challenge = pair.server.challenge(&hello);
    assert_eq!(pair.give(challenge), Ok(()));
    let ack = pair.frame();
    let right = pair.server.session_ok(&ack).expect("a right proof");
    let mut payload = Frame::parse(&right).expect("a frame").payload().to_vec();
    payload[47] ^= 1;
    let mut wrong = vec![0; MAX_FRAME];
    let length = usmp::wire::emit(FrameType::SessionOk, 0, &payload, &mut wrong).expect("it fits");
    wrong.truncate(length);
    assert_eq!(pair.give(wrong.clone()), Err(DropReason::ServerProof));
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new(), "no UTACK");
    assert_eq!(pair.give(right), Ok(()));
    assert_eq!(pair.told(), [Told::Connected(pair.server.session_id())]);
}

#[test]
fn deadline_after_a_wrong_proof_names_the_proof() {
    let mut pair = UdpPair::new(quiet());
    let hello = pair.frame();
    let mut rogue = ScriptedServer::<RustCrypto>::new(&[0x52; 32], 1);
    let challenge = rogue.challenge(&hello);
    assert_eq!(pair.give(challenge), Ok(()));
    pair.frame();
    let mut ok = vec![0; MAX_FRAME];
    let length = usmp::wire::SessionOk { session_id: SessionId([3; 16]), mac: [4; 32] }
        .emit(0, &mut ok)
        .expect("it fits");
    ok.truncate(length);
    assert_eq!(pair.give(ok), Err(DropReason::ServerProof));
    while !pair.device.is_closed() {
        pair.sent();
        pair.wait();
    }
    assert_eq!(pair.told(), [Told::Closed(CloseReason::ServerProof)]);
}

#[test]
fn unanswered_hello_ack_says_not_accepted() {
    let mut pair = UdpPair::new(Config { handshake_timeout: None, ..quiet() });
    let hello = pair.frame();
    let challenge = pair.server.challenge(&hello);
    assert_eq!(pair.give(challenge), Ok(()));
    let utack = pair.sent();
    assert_eq!(utack.len(), 2);
    for _ in 0..5 {
        pair.wait();
        pair.sent();
    }
    assert_eq!(pair.told(), [Told::Closed(CloseReason::NotAccepted)]);
}

#[test]
fn session_ok_overtakes_the_utack_of_hello_ack() {
    let mut pair = UdpPair::connected(quiet());
    // The late UTACK belongs to nothing that is outstanding.
    let late = Utack::plain(FrameType::HelloAck, 2).emit().to_vec();
    assert_eq!(pair.give(late), Err(DropReason::Utack));
    assert!(pair.device.is_connected());
}

#[test]
fn commands_before_the_session_are_refused() {
    let mut pair = UdpPair::new(quiet());
    assert_eq!(pair.device.send(b"early"), Err(SendError::NotConnected));
    assert_eq!(pair.device.ping(), Err(CommandError::NotConnected));
    assert_eq!(pair.device.rekey(Secret::new([1; 32])), Err(CommandError::NotConnected));
    assert_eq!(pair.device.bye(), Err(CommandError::NotConnected));
}

#[test]
fn messages_are_cut_at_452_bytes_and_one_is_under_way_at_a_time() {
    for (length, frames) in [(0, 1), (1, 1), (452, 1), (453, 2), (904, 2), (905, 3), (1808, 4)] {
        let mut pair = UdpPair::connected(quiet());
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let id = pair.device.send(&message).expect("the session is open");
        assert_eq!(pair.device.send(b"second"), Err(SendError::Busy));
        let mut whole = Vec::new();
        for frame in 0..frames {
            let opened = pair.accept();
            let expected = if frame + 1 == frames { FrameType::Data } else { FrameType::DataFrag };
            assert_eq!((opened.frame_type, opened.seq), (expected, frame), "{length} bytes");
            whole.extend(opened.plaintext);
        }
        assert_eq!(whole, message, "{length} bytes");
        assert_eq!(pair.told(), [Told::Delivered(id)]);
    }
    let mut pair = UdpPair::connected(quiet());
    assert_eq!(pair.device.send(&[0; 1809]), Err(SendError::TooLong));
}

#[test]
fn outcome_that_was_not_polled_keeps_the_next_message_back() {
    let mut pair = UdpPair::connected(quiet());
    let id = pair.device.send(b"one").expect("the session is open");
    pair.accept();
    assert_eq!(pair.device.send(b"two"), Err(SendError::Busy));
    assert_eq!(pair.told(), [Told::Delivered(id)]);
    assert!(pair.device.send(b"two").is_ok());
}

#[test]
fn utack_must_have_the_mac_and_name_the_frame() {
    let mut pair = UdpPair::connected(quiet());
    pair.device.send(b"data").expect("the session is open");
    let frame = pair.frame();
    let right = pair.server.utack(&frame);
    let mut flipped = right.clone();
    flipped[14] ^= 1;
    let other_seq = Utack::sealed::<RustCrypto>(&pair.server.keys().c2s, FrameType::Data, 1);
    let other_type = Utack::sealed::<RustCrypto>(&pair.server.keys().c2s, FrameType::Ping, 0);
    let other_key = Utack::sealed::<RustCrypto>(&pair.server.keys().s2c, FrameType::Data, 0);
    let wrong = [
        right[..7].to_vec(),
        right[..14].to_vec(),
        flipped,
        other_seq.emit().to_vec(),
        other_type.emit().to_vec(),
        other_key.emit().to_vec(),
    ];
    for (case, utack) in wrong.into_iter().enumerate() {
        assert_eq!(pair.give(utack), Err(DropReason::Utack), "case {case}");
    }
    assert_eq!(pair.told(), []);
    let mut trailing = right;
    trailing.push(0);
    assert_eq!(pair.give(trailing), Ok(()), "extra bytes are ignored");
    assert_eq!(pair.told(), [Told::Delivered(MessageId(0))]);
}

#[test]
fn adaptive_timer_reaches_its_floor_after_22_fast_frames() {
    let mut pair = UdpPair::connected(quiet());
    for _ in 0..22 {
        pair.device.send(b"x").expect("free");
        let frame = pair.frame();
        pair.now = pair.now + Duration::from_millis(1);
        assert_eq!(pair.give(pair.server.utack(&frame)), Ok(()));
        pair.told();
    }
    pair.device.send(b"x").expect("free");
    let waits = pair.exhaust();
    assert_eq!(waits, [100, 200, 400, 800, 1600].map(Duration::from_millis), "WIRE.md section 11.3: 3.1 s");
}

#[test]
fn retransmitted_frame_gives_no_sample() {
    let mut pair = UdpPair::connected(quiet());
    pair.device.send(b"x").expect("free");
    let frame = pair.frame();
    pair.wait();
    pair.sent();
    assert_eq!(pair.give(pair.server.utack(&frame)), Ok(()));
    pair.told();
    pair.device.send(b"y").expect("free");
    pair.frame();
    let sent = pair.now;
    pair.wait();
    assert_eq!(pair.now - sent, Duration::from_millis(500), "the timer is as at the start");
}

#[test]
fn fixed_timer_gives_up_after_two_and_a_half_seconds() {
    let config = Config { retransmission: Retransmission::Fixed(Duration::from_millis(500)), ..quiet() };
    let mut pair = UdpPair::connected(config);
    let id = pair.device.send(b"x").expect("free");
    let waits = pair.exhaust();
    assert_eq!(waits, [Duration::from_millis(500); 5]);
    assert_eq!(pair.told(), [Told::Failed(id), Told::Closed(CloseReason::Unacknowledged)]);
}

#[test]
fn given_up_message_leaves_the_session_alive_where_so_configured() {
    let mut pair = UdpPair::connected(Config { exhaustion: Exhaustion::KeepSession, ..quiet() });
    let id = pair.device.send(b"lost").expect("free");
    pair.exhaust();
    assert_eq!(pair.told(), [Told::Failed(id)]);
    pair.device.send(b"next").expect("free again");
    let opened = pair.accept();
    assert_eq!((opened.seq, opened.plaintext), (1, b"next".to_vec()), "the number was burnt");
}

#[test]
fn broken_message_is_parted_from_the_next_by_a_ping() {
    let mut pair = UdpPair::connected(Config { exhaustion: Exhaustion::KeepSession, ..quiet() });
    let id = pair.device.send(&[1; 1000]).expect("free");
    assert_eq!(pair.accept().frame_type, FrameType::DataFrag);
    pair.exhaust();
    assert_eq!(pair.told(), [Told::Failed(id)]);
    pair.device.send(b"next").expect("free again");
    assert_eq!(pair.accept().frame_type, FrameType::Ping);
    assert_eq!(pair.accept().plaintext, b"next");
}

#[test]
fn keepalive_pings_after_silence_of_our_own() {
    let mut pair =
        UdpPair::connected(Config { keepalive: Some(Duration::from_secs(30)), ..Config::default() });
    let start = pair.now;
    pair.now = start + Duration::from_secs(20);
    let data = pair.server.seal(FrameType::Data, 0, b"inbound traffic does not count");
    assert_eq!(pair.give(data), Ok(()));
    pair.sent();
    pair.told();
    pair.wait();
    assert_eq!(pair.now - start, Duration::from_secs(30));
    assert_eq!(pair.accept().frame_type, FrameType::Ping);
    assert_eq!(pair.device.poll_timeout(), Some(pair.now + Duration::from_secs(30)));
}

#[test]
fn bye_waits_for_the_message_and_for_its_utack() {
    let mut pair = UdpPair::connected(quiet());
    let id = pair.device.send(&[5; 500]).expect("free");
    pair.device.bye().expect("connected");
    assert_eq!(pair.device.send(b"late"), Err(SendError::Closed));
    assert_eq!(pair.accept().frame_type, FrameType::DataFrag);
    assert_eq!(pair.accept().frame_type, FrameType::Data);
    let bye = pair.frame();
    assert_eq!(pair.server.open(&bye).frame_type, FrameType::Bye);
    assert!(!pair.device.is_closed());
    assert_eq!(pair.give(pair.server.utack(&bye)), Ok(()));
    assert_eq!(pair.told(), [Told::Delivered(id), Told::Closed(CloseReason::Bye)]);
}

#[test]
fn bye_without_utack_ends_all_the_same() {
    let mut pair = UdpPair::connected(quiet());
    pair.device.bye().expect("connected");
    pair.exhaust();
    assert_eq!(pair.told(), [Told::Closed(CloseReason::ByeUnacknowledged)]);
}

#[test]
fn client_rekey_switches_at_the_utack_and_starts_near_the_old_numbers() {
    let mut pair = UdpPair::connected(quiet());
    for _ in 0..100 {
        pair.device.send(b"x").expect("free");
        pair.accept();
        pair.told();
    }
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    let rekey = pair.frame();
    let opened = pair.server.open(&rekey);
    assert_eq!((opened.frame_type, opened.seq), (FrameType::Rekey, 100));
    assert_eq!(pair.told(), [], "not before the UTACK");
    let utack = pair.server.utack(&rekey);
    pair.server.switch_keys(Role::Device, &[0x77; 32]);
    assert_eq!(pair.give(utack), Ok(()));
    assert_eq!(pair.told(), [Told::Rekeyed]);
    pair.device.send(b"after").expect("free");
    let opened = pair.accept();
    assert_eq!((opened.seq, opened.plaintext), (37, b"after".to_vec()), "max(0, 100 - 63)");
}

#[test]
fn frame_under_the_new_keys_stands_for_the_lost_utack_of_rekey() {
    let mut pair = UdpPair::connected(quiet());
    let before = pair.server.seal(FrameType::Data, 0, b"old");
    assert_eq!(pair.give(before), Ok(()));
    pair.told();
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    pair.frame();
    pair.server.switch_keys(Role::Device, &[0x77; 32]);
    let after = pair.server.seal(FrameType::Data, 0, b"new");
    assert_eq!(pair.give(after.clone()), Ok(()), "number 0 of the new epoch");
    assert_eq!(pair.told(), [Told::Rekeyed, Told::Message(b"new".to_vec())]);
    assert_eq!(pair.sent(), [pair.server.expected_utack(&after)]);
}

#[test]
fn rekey_in_vain_ends_the_session_whatever_is_configured() {
    let mut pair = UdpPair::connected(Config { exhaustion: Exhaustion::KeepSession, ..quiet() });
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    assert_eq!(pair.device.rekey(Secret::new([0x78; 32])), Err(CommandError::Busy));
    pair.exhaust();
    assert_eq!(pair.told(), [Told::Closed(CloseReason::Unacknowledged)]);
}

#[test]
fn crossed_rekeys_end_the_session() {
    let mut pair = UdpPair::connected(quiet());
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    pair.frame();
    let theirs = pair.server.seal(FrameType::Rekey, 0, &[0x11; 32]);
    assert_eq!(pair.give(theirs), Ok(()));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::CrossedRekeys)]);
}
