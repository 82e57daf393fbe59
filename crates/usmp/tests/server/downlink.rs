//! Sending on UDP (WIRE.md sections 8, 11.3 and 12, rules 3, 11, 12 and 15).

use usmp::crypto::RustCrypto;
use usmp::server::*;
use usmp::wire::Utack;
use usmp::*;

use crate::support::*;

fn sending(length: usize) -> Udp {
    let mut udp = Udp::new();
    udp.lent = (0..length).map(|n| (n / 3) as u8).collect();
    udp.session.send(length).expect("open");
    udp
}

#[test]
fn a_message_is_sealed_for_the_device_and_acknowledged() {
    let mut udp = sending(9);
    let frame = udp.sent();
    assert_eq!(udp.open(&frame), (Data, 0, udp.lent.clone()));
    udp.acknowledge(&frame).expect("outstanding");
    assert_eq!(udp.events(), [SessionEvent::MessageDelivered]);
    assert_eq!(udp.session.send(1), Ok(()));
}

#[test]
fn an_empty_message_is_one_empty_frame() {
    let mut udp = sending(0);
    let frame = udp.sent();
    assert_eq!(udp.open(&frame), (Data, 0, vec![]));
}

#[test]
fn repeats_are_byte_for_byte_the_same() {
    let mut udp = sending(9);
    let copies = udp.exhaust();
    assert_eq!(copies.len(), usize::from(MAX_TRANSMISSIONS));
    assert!(copies.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_budget_is_at_least_five_transmissions_over_several_seconds() {
    // A fast path first, so that the timer is at its floor.
    let mut udp = Udp::new();
    for _ in 0..40 {
        udp.session.send(0).expect("open");
        let frame = udp.sent();
        udp.now = udp.now + millis(1);
        udp.acknowledge(&frame).expect("outstanding");
    }
    udp.events();
    udp.session.send(0).expect("open");
    let start = udp.now;
    let copies = udp.exhaust();
    assert!(copies.len() >= 5);
    assert!(udp.now - start >= secs(5), "{:?}", udp.now - start);
}

#[test]
fn the_timer_starts_at_half_a_second_and_doubles() {
    let mut udp = sending(1);
    udp.sent();
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let wait = udp.wait();
            assert_eq!(udp.sends().len(), 1);
            wait
        })
        .collect();
    for (wait, base) in waits.iter().zip([500, 1000, 2000]) {
        assert!(*wait >= millis(base) && *wait <= millis(base * 9 / 8 + 1), "{waits:?}");
    }
}

#[test]
fn repeated_frames_give_no_sample() {
    let mut udp = sending(1);
    let frame = udp.sent();
    udp.wait();
    udp.sent();
    udp.acknowledge(&frame).expect("outstanding");
    udp.session.send(1).expect("open");
    udp.sent();
    assert!(udp.wait() <= millis(563), "the timer is what it was");
}

#[test]
fn an_exhausted_message_is_skipped_and_the_session_lives_on() {
    let mut udp = sending(9);
    udp.exhaust();
    assert_eq!(udp.events(), [SessionEvent::MessageLost]);
    assert_eq!(udp.session.closed(), None);
    udp.session.send(9).expect("open");
    let frame = udp.sent();
    assert_eq!(udp.open(&frame).1, 1, "the number is burned");
}

#[test]
fn a_late_utack_of_a_skipped_frame_is_ignored() {
    let mut udp = sending(9);
    let copies = udp.exhaust();
    assert_eq!(udp.acknowledge(&copies[0]), Err(DropReason::UtackUnexpected));
}

#[test]
fn fragments_leave_one_at_a_time() {
    let mut udp = sending(1808);
    let mut received = Vec::new();
    for (expected, seq) in [(DataFrag, 0), (DataFrag, 1), (DataFrag, 2), (Data, 3)] {
        let frame = udp.sent();
        let (frame_type, at, plaintext) = udp.open(&frame);
        assert_eq!((frame_type, at), (expected, seq));
        received.extend(plaintext);
        assert_eq!(udp.sends(), Vec::<Vec<u8>>::new(), "nothing more before its UTACK");
        udp.acknowledge(&frame).expect("outstanding");
    }
    assert_eq!(received, udp.lent);
    assert_eq!(udp.events(), [SessionEvent::MessageDelivered]);
}

#[test]
fn message_lengths_around_a_chunk_are_cut_as_the_reference_cuts_them() {
    for (length, frames) in [(451, 1), (452, 1), (453, 2), (904, 2), (905, 3), (1356, 3), (1357, 4)] {
        let mut udp = sending(length);
        let mut count = 0;
        while let Some(frame) = udp.sends().pop() {
            count += 1;
            udp.acknowledge(&frame).expect("outstanding");
        }
        assert_eq!(count, frames, "{length} bytes");
    }
}

#[test]
fn no_control_frame_leaves_between_fragments() {
    let mut udp = sending(1000);
    let first = udp.sent();
    let ping = udp.next(Ping, b"");
    udp.give(&ping).expect("a PING");
    udp.acknowledge(&first).expect("outstanding");
    let mut types = Vec::new();
    while let Some(frame) = udp.sends().pop() {
        types.push(header(&frame).0);
        udp.acknowledge(&frame).expect("outstanding");
    }
    assert_eq!(types, [DataFrag, Data, Pong]);
}

#[test]
fn control_frames_go_before_a_message_that_has_not_begun() {
    let mut udp = Udp::new();
    let ping = udp.next(Ping, b"");
    udp.give(&ping).expect("a PING");
    udp.session.send(0).expect("open");
    assert_eq!(header(&udp.sent()).0, Pong);
}

#[test]
fn a_broken_fragmented_message_is_followed_by_a_pong_for_the_receiver_to_discard() {
    let mut udp = sending(1000);
    let first = udp.sent();
    udp.acknowledge(&first).expect("outstanding");
    udp.exhaust();
    assert_eq!(udp.events(), [SessionEvent::MessageLost]);
    udp.session.send(1).expect("open");
    udp.lent = vec![1];
    // exhaust() has already seen the PONG leave.
    assert!(udp.session.next_seq() >= 3);
    udp.wait();
    let repeat = udp.sent();
    assert_eq!(udp.open(&repeat).0, Pong);
    udp.acknowledge(&repeat).expect("outstanding");
    let next = udp.sent();
    assert_eq!(udp.open(&next).0, Data);
}

#[test]
fn a_utack_that_does_not_fit_is_ignored() {
    let mut udp = sending(9);
    let frame = udp.sent();
    let good = Utack::parse(&utack_for(&udp.keys.s2c, &frame)).expect("a UTACK");
    let give = |udp: &mut Udp, utack| udp.session.handle_utack(udp.now, HOME, &utack);
    assert_eq!(give(&mut udp, Utack { seq: 1, ..good }), Err(DropReason::UtackUnexpected));
    assert_eq!(give(&mut udp, Utack { frame_type: Ping, ..good }), Err(DropReason::UtackUnexpected));
    assert_eq!(give(&mut udp, Utack { mac: None, ..good }), Err(DropReason::UtackMac), "the plain form");
    assert_eq!(give(&mut udp, Utack { mac: Some([0; 8]), ..good }), Err(DropReason::UtackMac));
    let other_key = Utack::sealed::<RustCrypto>(&udp.keys.c2s, Data, 0);
    assert_eq!(give(&mut udp, other_key), Err(DropReason::UtackMac), "MACed under the other direction's key");
    assert_eq!(udp.events(), []);
    assert_eq!(give(&mut udp, good), Ok(()));
    assert_eq!(give(&mut udp, good), Err(DropReason::UtackUnexpected), "twice");
}

#[test]
fn one_message_at_a_time() {
    let mut udp = sending(9);
    assert_eq!(udp.session.send(9), Err(SendError::Busy));
}

#[test]
fn a_message_above_1808_bytes_is_refused() {
    assert_eq!(Udp::new().session.send(1809), Err(SendError::TooLong));
}

#[test]
fn other_bytes_for_a_repeat_never_leave() {
    let mut udp = sending(9);
    udp.sent();
    udp.lent = vec![0xEE; 9];
    udp.wait();
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new(), "two plaintexts under one number would betray the key");
    assert_eq!(udp.events(), [SessionEvent::MessageLost]);
}

#[test]
fn a_message_of_another_length_than_announced_never_leaves() {
    let mut udp = sending(9);
    udp.lent.push(1);
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
    assert_eq!(udp.events(), [SessionEvent::MessageLost]);
}

#[test]
fn bye_from_the_server_closes_when_it_is_acknowledged() {
    let mut udp = Udp::new();
    udp.session.say_bye().expect("open");
    let frame = udp.sent();
    assert_eq!(udp.open(&frame).0, Bye);
    assert_eq!(udp.session.closed(), None);
    udp.acknowledge(&frame).expect("outstanding");
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Local)]);
    assert_eq!(udp.session.send(1), Err(SendError::Closed));
}

#[test]
fn bye_that_nobody_acknowledges_closes_too() {
    let mut udp = Udp::new();
    udp.session.say_bye().expect("open");
    udp.exhaust();
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Local)]);
}

#[test]
fn messages_wait_until_session_ok_is_known_to_have_arrived() {
    let mut udp = Udp::half_open();
    udp.lent = b"early".to_vec();
    udp.session.send(5).expect("open");
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
    udp.session.session_ok_arrived(udp.now);
    assert_eq!(header(&udp.sent()).0, Data);
}

#[test]
fn early_and_extra_timeouts_are_harmless() {
    let mut udp = sending(9);
    udp.sent();
    let due = udp.session.poll_timeout();
    for _ in 0..5 {
        udp.session.handle_timeout(udp.now, &mut udp.pool);
        assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
    }
    assert_eq!(udp.session.poll_timeout(), due);
}

#[test]
fn frames_of_the_server_carry_a_good_crc() {
    let mut udp = sending(9);
    assert_eq!(wire::Frame::parse(&udp.sent()).map(|frame| frame.header().frame_type), Ok(Data));
}
