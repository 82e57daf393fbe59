//! Receiving on UDP (WIRE.md sections 6 to 8, 12 and 12.2; W5, W12).

use usmp::server::*;
use usmp::wire::FrameType;

use crate::support::*;

#[test]
fn a_message_lies_in_the_datagram_it_came_in() {
    let mut udp = Udp::new();
    let mut datagram = udp.next(Data, b"in place");
    let range = datagram.as_ptr_range();
    let received = udp.session.handle_datagram(udp.now, HOME, &mut datagram, &mut udp.pool);
    let Ok(Received::Message { payload, .. }) = received else { panic!("{received:?}") };
    assert!(range.contains(&payload.as_ptr()), "no copy was made");
    assert_eq!(payload, b"in place");
}

#[test]
fn an_empty_message_is_a_message() {
    Udp::new().message(b"");
}

#[test]
fn a_message_of_452_bytes_fits_one_frame() {
    Udp::new().message(&[9; 452]);
}

#[test]
fn the_first_number_may_be_zero() {
    let mut udp = Udp::half_open();
    assert_eq!(udp.message(b"first").0.seq, 0);
}

#[test]
fn nothing_is_acknowledged_or_changed_before_authentication() {
    let mut udp = Udp::new();
    let good = udp.next(Data, b"good");
    assert_eq!(udp.give(&forged(&good)), Err(DropReason::Authentication));
    let other_nonce = {
        let mut frame = good.clone();
        frame[12] ^= 1;
        mend(&mut frame);
        frame
    };
    assert_eq!(udp.give(&other_nonce), Err(DropReason::ExplicitNonce));
    assert_eq!(udp.session.seen_seq(), Some(0));
    assert!(matches!(udp.give(&good), Ok(Got::Message(..))), "the true frame still counts");
}

#[test]
fn a_forged_frame_with_a_far_number_does_not_move_the_window() {
    let mut udp = Udp::new();
    let far = udp.seal(Data, 1_000_000, b"");
    assert_eq!(udp.give(&forged(&far)), Err(DropReason::Authentication));
    udp.message(b"next");
}

#[test]
fn a_frame_sealed_by_the_server_does_not_come_back_as_one_of_the_device() {
    let mut udp = Udp::new();
    udp.session.send(4).expect("open");
    udp.lent = b"down".to_vec();
    let frame = udp.sent();
    // Number 0 is used already, so a fresh session shows that it is the key.
    let mut fresh = Udp::half_open();
    assert_eq!(fresh.give(&frame), Err(DropReason::Authentication));
}

#[test]
fn a_frame_of_another_session_is_refused() {
    let mut udp = Udp::new();
    let mut frame = udp.next(Data, b"");
    frame[16] ^= 1;
    mend(&mut frame);
    assert_eq!(udp.give(&frame), Err(DropReason::ExplicitNonce));
}

#[test]
fn handshake_frames_never_reach_a_session() {
    let mut udp = Udp::new();
    let mut out = [0; 66];
    hello().emit(&mut out).expect("fits");
    let dropped = udp.session.handle_datagram(udp.now, HOME, &mut out, &mut udp.pool);
    assert_eq!(dropped, Err(DropReason::UnexpectedType));
    assert_eq!(udp.session.closed(), None);
}

#[test]
fn a_late_frame_that_was_never_seen_is_dropped_without_utack() {
    let mut udp = Udp::new();
    let withheld = udp.seal(Data, 5, b"unlock");
    let newer = udp.seal(Data, 6, b"lock");
    udp.give(&newer).expect("a gap is legal");
    assert_eq!(udp.give(&withheld), Err(DropReason::Stale));
}

#[test]
fn a_forward_jump_of_any_size_is_legal() {
    let mut udp = Udp::new();
    for seq in [70, 1 << 22, u32::MAX - 1] {
        let frame = udp.seal(Data, seq, b"");
        let Ok(Got::Message(token, _)) = udp.give(&frame) else { panic!("number {seq}") };
        udp.session.committed(udp.now, token).expect("pending");
    }
}

#[test]
fn the_last_but_one_number_is_the_last_usable() {
    let mut udp = Udp::new();
    let last = udp.seal(Data, 0xFFFF_FFFE, b"");
    assert!(udp.give(&last).is_ok());
    let beyond = udp.seal(Data, u32::MAX, b"");
    assert_eq!(udp.give(&beyond), Err(DropReason::SequenceExhausted));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::SequenceExhausted)]);
}

#[test]
fn a_forged_frame_with_the_last_number_closes_nothing() {
    let mut udp = Udp::new();
    let beyond = udp.seal(Data, u32::MAX, b"");
    assert_eq!(udp.give(&forged(&beyond)), Err(DropReason::Authentication));
    assert_eq!(udp.session.closed(), None);
}

#[test]
fn bye_with_the_last_number_is_a_bye() {
    let mut udp = Udp::new();
    let bye = udp.seal(Bye, u32::MAX, b"");
    let utack = udp.utack(&bye);
    assert_eq!(udp.give(&bye), Ok(Got::Utack(utack, Acknowledged::Bye)));
}

#[test]
fn ping_is_acknowledged_at_once_and_answered_by_pong() {
    let mut udp = Udp::new();
    let ping = udp.next(Ping, b"");
    let utack = udp.utack(&ping);
    assert_eq!(udp.give(&ping), Ok(Got::Utack(utack, Acknowledged::Ping)));
    let frame = udp.sent();
    assert_eq!(udp.open(&frame), (Pong, 0, vec![]));
}

#[test]
fn a_repeated_ping_is_acknowledged_again_and_answered_once() {
    let mut udp = Udp::new();
    let ping = udp.next(Ping, b"");
    udp.give(&ping).expect("a PING");
    let pong = udp.sent();
    let utack = udp.utack(&ping);
    assert_eq!(udp.give(&ping), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    udp.acknowledge(&pong).expect("outstanding");
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_ping_with_content_is_a_ping() {
    let mut udp = Udp::new();
    let ping = udp.next(Ping, b"whatever");
    assert!(matches!(udp.give(&ping), Ok(Got::Utack(_, Acknowledged::Ping))));
}

#[test]
fn pong_is_acknowledged_and_not_answered() {
    let mut udp = Udp::new();
    let pong = udp.next(Pong, b"");
    let utack = udp.utack(&pong);
    assert_eq!(udp.give(&pong), Ok(Got::Utack(utack, Acknowledged::Pong)));
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
}

#[test]
fn eight_control_frames_a_second_are_taken_and_the_ninth_ends_the_session() {
    let mut udp = Udp::new();
    for _ in 0..8 {
        let ping = udp.next(Ping, b"");
        udp.give(&ping).expect("within the limit");
    }
    let ninth = udp.next(Ping, b"");
    assert_eq!(udp.give(&ninth), Err(DropReason::ControlFlood));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::ControlFlood)]);
}

#[test]
fn the_limit_of_control_frames_starts_again_every_second() {
    let mut udp = Udp::new();
    for _ in 0..5 {
        for _ in 0..8 {
            let ping = udp.next(Ping, b"");
            udp.give(&ping).expect("within the limit");
        }
        udp.now = udp.now + secs(1);
    }
}

#[test]
fn pings_that_waited_while_reading_was_paused_do_not_end_the_session() {
    let mut udp = Udp::new();
    udp.session.pause(udp.now);
    udp.now = udp.now + secs(3);
    udp.session.resume(udp.now);
    for _ in 0..24 {
        let ping = udp.next(Ping, b"");
        udp.give(&ping).expect("eight a second for the time paused");
    }
    let mut answers = 0;
    while let Some(pong) = udp.sends().pop() {
        answers += 1;
        udp.acknowledge(&pong).expect("outstanding");
    }
    assert_eq!(answers, 8, "more answers in a second would end the session at the device");
}

#[test]
fn bye_is_acknowledged_and_closes() {
    let mut udp = Udp::new();
    let bye = udp.next(Bye, b"");
    let utack = udp.utack(&bye);
    assert_eq!(udp.give(&bye), Ok(Got::Utack(utack, Acknowledged::Bye)));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Bye)]);
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new(), "BYE is not answered by BYE");
    let data = udp.next(Data, b"");
    assert_eq!(udp.give(&data), Err(DropReason::Closed));
    assert_eq!(udp.session.poll_timeout(), None);
}

#[test]
fn repeats_of_bye_are_acknowledged_for_fifteen_seconds() {
    let mut udp = Udp::new();
    let bye = udp.next(Bye, b"");
    udp.give(&bye).expect("a BYE");
    let (utack, now) = (udp.utack(&bye), udp.now);
    let lingering = udp.session.into_lingering(now, &mut udp.pool);
    assert_eq!(lingering.session_id(), SESSION);
    assert_eq!(lingering.until(), now + secs(15));
    let at = |after| lingering.handle_datagram(now + after, &mut bye.clone()).map(|utack| utack.to_vec());
    assert_eq!(at(millis(14_999)), Some(utack));
    assert_eq!(at(secs(15)), None);
}

#[test]
fn a_session_that_ended_on_our_side_still_acknowledges_the_devices_bye() {
    let mut udp = Udp::new();
    let bye = udp.next(Bye, b"");
    let utack = udp.utack(&bye);
    let lingering = udp.session.into_lingering(udp.now, &mut udp.pool);
    let mut bye = bye;
    let answer = lingering.handle_datagram(udp.now, &mut bye);
    assert_eq!(answer.map(|utack| utack.to_vec()), Some(utack));
}

#[test]
fn what_lingers_answers_nothing_but_an_authentic_bye() {
    let mut udp = Udp::new();
    let (data, bye) = (udp.next(Data, b""), udp.next(Bye, b""));
    let lingering = udp.session.into_lingering(udp.now, &mut udp.pool);
    for mut frame in [data, forged(&bye), vec![], vec![0; 40]] {
        assert_eq!(lingering.handle_datagram(udp.now, &mut frame), None);
    }
}

#[test]
fn utacks_name_the_type_that_came() {
    for (frame_type, what) in
        [(Ping, Acknowledged::Ping), (Pong, Acknowledged::Pong), (Bye, Acknowledged::Bye)]
    {
        let mut udp = Udp::new();
        let frame = udp.next(frame_type, b"");
        let Ok(Got::Utack(utack, told)) = udp.give(&frame) else { panic!("{frame_type:?}") };
        assert_eq!((FrameType::from_code(utack[2]), told), (frame_type, what));
    }
}
