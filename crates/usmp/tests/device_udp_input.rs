//! What the device role does with a server's frames on UDP, each test named after the situation.

use usmp::device::{CloseReason, DropReason, SendError};
use usmp::wire::{FrameType, Utack};
use usmp::{Duration, Role, Secret};
use usmp_testkit::pair::{Told, UdpPair};

fn connected() -> UdpPair {
    UdpPair::connected(UdpPair::quiet())
}

#[test]
fn message_is_delivered_once_and_its_repetition_acknowledged_again() {
    let mut pair = connected();
    let data = pair.server.seal(FrameType::Data, 0, b"hello");
    let utack = pair.server.expected_utack(&data);
    assert_eq!(pair.give(data.clone()), Ok(()));
    assert_eq!(pair.sent(), std::slice::from_ref(&utack));
    assert_eq!(pair.told(), [Told::Message(b"hello".to_vec())]);
    assert_eq!(pair.give(data), Err(DropReason::Duplicate));
    assert_eq!(pair.sent(), [utack]);
    assert_eq!(pair.told(), []);
}

#[test]
fn nothing_is_acknowledged_before_authentication() {
    let mut pair = connected();
    let data = pair.server.seal(FrameType::Data, 0, b"hello");
    for (byte, what) in [(12, "explicit nonce"), (24, "ciphertext"), (data.len() - 1, "tag")] {
        let mut payload = data[12..].to_vec();
        payload[byte - 12] ^= 1;
        let mut forged = vec![0; 492];
        let length = usmp::wire::emit(FrameType::Data, 0, &payload, &mut forged).expect("it fits");
        forged.truncate(length);
        assert_eq!(pair.give(forged), Err(DropReason::Authentication), "{what}");
    }
    let mut noise = data.clone();
    noise[20] ^= 1;
    assert_eq!(pair.give(noise), Err(DropReason::Frame), "CRC");
    let mut trailing = data.clone();
    trailing.push(0);
    assert_eq!(pair.give(trailing), Err(DropReason::Frame), "size");
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.give(data), Ok(()), "the forgeries left no trace");
    assert_eq!(pair.told(), [Told::Message(b"hello".to_vec())]);
}

#[test]
fn forged_repetition_is_not_acknowledged() {
    let mut pair = connected();
    let data = pair.server.seal(FrameType::Data, 0, b"hello");
    assert_eq!(pair.give(data.clone()), Ok(()));
    pair.sent();
    let mut payload = data[12..].to_vec();
    payload[20] ^= 1;
    let mut forged = vec![0; 492];
    let length = usmp::wire::emit(FrameType::Data, 0, &payload, &mut forged).expect("it fits");
    forged.truncate(length);
    assert_eq!(pair.give(forged), Err(DropReason::Authentication));
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
}

#[test]
fn forged_high_number_does_not_move_the_window() {
    let mut pair = connected();
    let mut forged = vec![0; 492];
    let mut payload = 5_000_u32.to_le_bytes().to_vec();
    payload.extend_from_slice(&pair.server.session_id().prefix());
    payload.extend_from_slice(&[0; 20]);
    let length = usmp::wire::emit(FrameType::Data, 5_000, &payload, &mut forged).expect("it fits");
    forged.truncate(length);
    assert_eq!(pair.give(forged), Err(DropReason::Authentication));
    assert_eq!(pair.device.window().highest(), 0);
    let data = pair.server.seal(FrameType::Data, 0, b"first");
    assert_eq!(pair.give(data), Ok(()));
}

#[test]
fn late_frame_within_the_window_is_delivered_and_one_beyond_it_is_not() {
    let mut pair = connected();
    for (seq, expected) in
        [(70, Ok(())), (7, Ok(())), (6, Err(DropReason::TooOld)), (7, Err(DropReason::Duplicate))]
    {
        let data = pair.server.seal(FrameType::Data, seq, &seq.to_le_bytes());
        assert_eq!(pair.give(data), expected, "number {seq}");
        let acknowledged = pair.sent().len();
        assert_eq!(acknowledged, usize::from(expected != Err(DropReason::TooOld)), "number {seq}");
        pair.told();
    }
}

#[test]
fn unpolled_message_holds_the_next_one_back_without_a_utack() {
    let mut pair = connected();
    let first = pair.server.seal(FrameType::Data, 0, b"first");
    let second = pair.server.seal(FrameType::Data, 1, b"second");
    assert_eq!(pair.give(first.clone()), Ok(()));
    pair.sent();
    assert_eq!(pair.give(second.clone()), Err(DropReason::Busy));
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.give(first), Err(DropReason::Duplicate), "a repetition is acknowledged all the same");
    assert_eq!(pair.sent().len(), 1);
    assert_eq!(pair.told(), [Told::Message(b"first".to_vec())]);
    assert_eq!(pair.give(second), Ok(()), "the repetition is new to the window");
    assert_eq!(pair.told(), [Told::Message(b"second".to_vec())]);
}

#[test]
fn fragments_of_any_size_make_one_message() {
    let mut pair = connected();
    let chunks: [&[u8]; 4] = [&[1; 452], b"", &[2; 10], &[3; 452]];
    for (seq, chunk) in chunks.iter().enumerate() {
        let frame_type = if seq == 3 { FrameType::Data } else { FrameType::DataFrag };
        assert_eq!(pair.told(), [], "nothing before the last frame");
        let frame = pair.server.seal(frame_type, seq as u32, chunk);
        assert_eq!(pair.give(frame), Ok(()));
    }
    assert_eq!(pair.told(), [Told::Message(chunks.concat())]);
}

#[test]
fn frame_after_a_gap_starts_a_new_message() {
    let mut pair = connected();
    let lost = pair.server.seal(FrameType::DataFrag, 0, b"lost");
    assert_eq!(pair.give(lost), Ok(()));
    let data = pair.server.seal(FrameType::Data, 2, b"whole");
    assert_eq!(pair.give(data), Ok(()));
    assert_eq!(pair.told(), [Told::Message(b"whole".to_vec())]);
}

#[test]
fn ping_between_fragments_is_answered_and_ends_the_message_in_the_making() {
    let mut pair = connected();
    for (frame_type, seq, text) in
        [(FrameType::DataFrag, 0, "lost"), (FrameType::Ping, 1, ""), (FrameType::Data, 2, "whole")]
    {
        let frame = pair.server.seal(frame_type, seq, text.as_bytes());
        assert_eq!(pair.give(frame), Ok(()));
    }
    assert_eq!(pair.told(), [Told::Message(b"whole".to_vec())]);
    assert_eq!(pair.accept().frame_type, FrameType::Pong);
}

#[test]
fn fourth_fragment_discards_the_run_to_its_end() {
    let mut pair = connected();
    for seq in 0..3 {
        let frame = pair.server.seal(FrameType::DataFrag, seq, b"x");
        assert_eq!(pair.give(frame), Ok(()));
    }
    let fourth = pair.server.seal(FrameType::DataFrag, 3, b"x");
    assert_eq!(pair.give(fourth), Err(DropReason::MessageTooLong));
    for (frame_type, seq) in [(FrameType::DataFrag, 4), (FrameType::Data, 5)] {
        let frame = pair.server.seal(frame_type, seq, b"the tail is no message of its own");
        assert_eq!(pair.give(frame), Ok(()));
    }
    assert_eq!(pair.told(), []);
    let next = pair.server.seal(FrameType::Data, 6, b"next");
    assert_eq!(pair.give(next), Ok(()));
    assert_eq!(pair.told(), [Told::Message(b"next".to_vec())]);
}

#[test]
fn every_ping_is_answered_by_a_pong_after_its_utack() {
    let mut pair = connected();
    let ping = pair.server.seal(FrameType::Ping, 0, b"");
    let utack = pair.server.expected_utack(&ping);
    assert_eq!(pair.give(ping), Ok(()));
    let sent = pair.sent();
    assert_eq!((sent.len(), &sent[0]), (2, &utack));
    assert_eq!(pair.server.open(&sent[1]).frame_type, FrameType::Pong);
    let pong = pair.server.seal(FrameType::Pong, 1, b"");
    assert_eq!(pair.give(pong), Ok(()), "a PONG is ignored");
    assert_eq!(pair.told(), []);
}

#[test]
fn more_pings_than_eight_are_acknowledged_and_not_answered() {
    let mut pair = connected();
    for seq in 0..10 {
        let ping = pair.server.seal(FrameType::Ping, seq, b"");
        let expected = if seq < 8 { Ok(()) } else { Err(DropReason::TooManyPings) };
        assert_eq!(pair.give(ping), expected, "PING {seq}");
    }
    for _ in 0..8 {
        assert_eq!(pair.accept().frame_type, FrameType::Pong);
    }
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
}

#[test]
fn pong_waits_until_the_message_is_out() {
    let mut pair = connected();
    pair.device.send(&[1; 1000]).expect("free");
    assert_eq!(pair.accept().frame_type, FrameType::DataFrag);
    let ping = pair.server.seal(FrameType::Ping, 0, b"");
    assert_eq!(pair.give(ping), Ok(()));
    pair.device.ping().expect("connected");
    let types: Vec<_> = (0..4).map(|_| pair.accept().frame_type).collect();
    assert_eq!(types, [FrameType::DataFrag, FrameType::Data, FrameType::Pong, FrameType::Ping]);
}

#[test]
fn bye_of_the_server_is_acknowledged_for_fifteen_seconds() {
    let mut pair = connected();
    let id = pair.device.send(b"under way").expect("free");
    pair.frame();
    let bye = pair.server.seal(FrameType::Bye, 0, b"");
    let utack = pair.server.expected_utack(&bye);
    assert_eq!(pair.give(bye.clone()), Ok(()));
    assert_eq!(pair.told(), [Told::Failed(id), Told::Closed(CloseReason::ByeReceived)]);
    assert!(pair.device.is_closed());
    assert_eq!(pair.device.send(b"late"), Err(SendError::Closed));
    assert_eq!(pair.sent(), std::slice::from_ref(&utack));
    let end = pair.now + Duration::from_secs(15);
    pair.now = end + Duration::ZERO;
    assert_eq!(pair.give(bye.clone()), Err(DropReason::Duplicate));
    assert_eq!(pair.sent(), [utack]);
    let more = pair.server.seal(FrameType::Data, 1, b"more");
    assert_eq!(pair.give(more), Err(DropReason::Closed));
    assert_eq!(pair.device.poll_timeout(), Some(end));
    pair.wait();
    assert_eq!(pair.give(bye), Err(DropReason::Closed));
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
}

#[test]
fn late_frames_of_the_handshake_are_acknowledged_and_leave_the_session_alone() {
    let mut pair = connected();
    let retry = pair.server.hello_retry([1; 16]);
    let utack = pair.server.expected_utack(&retry);
    assert_eq!(pair.give(retry), Err(DropReason::Duplicate));
    assert_eq!(pair.sent(), [utack]);
    for code in [1, 3, 12, 255] {
        let mut stray = vec![0; 492];
        let length = usmp::wire::emit(FrameType::from_code(code), 0, &[0; 38], &mut stray).expect("it fits");
        stray.truncate(length);
        assert_eq!(pair.give(stray), Err(DropReason::UnexpectedType), "type {code}");
    }
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
    assert!(pair.device.is_connected());
}

#[test]
fn last_sequence_number_ends_the_session_only_when_authentic() {
    let mut pair = connected();
    let mut payload = u32::MAX.to_le_bytes().to_vec();
    payload.extend_from_slice(&pair.server.session_id().prefix());
    payload.extend_from_slice(&[0; 16]);
    let mut forged = vec![0; 492];
    let length = usmp::wire::emit(FrameType::Data, u32::MAX, &payload, &mut forged).expect("it fits");
    forged.truncate(length);
    assert_eq!(pair.give(forged), Err(DropReason::Authentication));
    assert!(pair.device.is_connected(), "one spoofed datagram ends nothing (W14)");
    let real = pair.server.seal(FrameType::Ping, u32::MAX, b"");
    assert_eq!(pair.give(real), Ok(()));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::SequenceExhausted)]);
}

#[test]
fn server_rekey_is_followed_and_its_repetition_acknowledged_under_the_old_key() {
    let mut pair = connected();
    for seq in 0..3 {
        let data = pair.server.seal(FrameType::Data, seq, b"old");
        assert_eq!(pair.give(data), Ok(()));
        pair.told();
    }
    let rekey = pair.server.seal(FrameType::Rekey, 3, &[0x66; 32]);
    let old_utack = pair.server.expected_utack(&rekey);
    pair.sent();
    assert_eq!(pair.give(rekey.clone()), Ok(()));
    assert_eq!(pair.sent(), std::slice::from_ref(&old_utack));
    assert_eq!(pair.told(), [Told::Rekeyed]);
    pair.server.switch_keys(Role::Server, &[0x66; 32]);
    assert_eq!(pair.give(rekey.clone()), Err(DropReason::Duplicate), "the UTACK was lost");
    assert_eq!(pair.sent(), std::slice::from_ref(&old_utack));
    for seq in 0..8 {
        let data = pair.server.seal(FrameType::Data, seq, b"new");
        assert_eq!(pair.give(data), Ok(()), "number {seq} of the new epoch");
        assert_eq!(pair.told(), [Told::Message(b"new".to_vec())]);
    }
    pair.sent();
    assert_eq!(pair.give(rekey.clone()), Err(DropReason::Duplicate), "also when its number was seen again");
    assert_eq!(pair.sent(), [old_utack]);
    pair.now = pair.now + Duration::from_secs(15);
    pair.device.handle_timeout(pair.now);
    assert_eq!(pair.give(rekey), Err(DropReason::Authentication), "the old key is gone");
}

#[test]
fn server_rekey_sends_the_unacknowledged_message_again_under_the_new_key() {
    let mut pair = connected();
    let id = pair.device.send(&[9; 500]).expect("free");
    assert_eq!(pair.accept().frame_type, FrameType::DataFrag);
    let last = pair.frame();
    let late = pair.server.utack(&last);
    let rekey = pair.server.seal(FrameType::Rekey, 0, &[0x66; 32]);
    assert_eq!(pair.give(rekey), Ok(()));
    pair.server.switch_keys(Role::Server, &[0x66; 32]);
    assert_eq!(pair.give(late), Err(DropReason::Utack), "a UTACK from before the switch");
    let first = pair.accept();
    assert_eq!((first.frame_type, first.seq), (FrameType::DataFrag, 0));
    let second = pair.accept();
    assert_eq!((second.frame_type, second.seq), (FrameType::Data, 1));
    assert_eq!([first.plaintext, second.plaintext].concat(), [9; 500]);
    assert_eq!(pair.told(), [Told::Rekeyed, Told::Delivered(id)]);
}

#[test]
fn rekey_of_a_wrong_length_is_not_acknowledged() {
    let mut pair = connected();
    let rekey = pair.server.seal(FrameType::Rekey, 0, &[0x66; 31]);
    assert_eq!(pair.give(rekey), Err(DropReason::Length));
    assert_eq!(pair.sent(), Vec::<Vec<u8>>::new());
    assert_eq!(pair.told(), []);
}

#[test]
fn own_rekey_that_was_not_sent_yet_follows_the_server_s() {
    let mut pair = connected();
    pair.device.send(b"first").expect("free");
    let data = pair.frame();
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    let theirs = pair.server.seal(FrameType::Rekey, 0, &[0x66; 32]);
    assert_eq!(pair.give(theirs), Ok(()));
    drop(data);
    pair.server.switch_keys(Role::Server, &[0x66; 32]);
    assert_eq!(pair.accept().frame_type, FrameType::Rekey);
    pair.server.switch_keys(Role::Device, &[0x77; 32]);
    assert_eq!(pair.accept().plaintext, b"first");
}

#[test]
fn utacks_that_no_driver_fetches_are_bounded() {
    let mut pair = connected();
    for seq in 0..6 {
        let pong = pair.server.seal(FrameType::Pong, seq, b"");
        assert_eq!(pair.give(pong), Ok(()));
    }
    let kept: Vec<_> = pair
        .sent()
        .iter()
        .map(|bytes| Utack::parse(bytes).map(|utack| utack.seq).expect("a UTACK"))
        .collect();
    assert_eq!(kept, [2, 3, 4, 5], "the oldest were dropped");
}
