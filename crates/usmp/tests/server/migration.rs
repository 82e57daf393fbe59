//! WIRE.md sections 11.6 and 12.2, item 4: the downlink follows the device, and nobody else.

use usmp::server::*;

use crate::support::*;

fn give_new(udp: &mut Udp, from: u8) {
    let frame = udp.next(Data, b"m");
    let Ok(Got::Message(token, _)) = udp.give_from(from, &frame) else { panic!("a message") };
    udp.session.committed(udp.now, token).expect("pending");
}

#[test]
fn the_downlink_moves_after_two_new_frames_from_the_new_address() {
    let mut udp = Udp::new();
    give_new(&mut udp, AWAY);
    assert_eq!(udp.session.path(), HOME);
    assert_eq!(udp.session.candidate_path(), Some(AWAY));
    give_new(&mut udp, AWAY);
    assert_eq!(udp.session.path(), AWAY);
    assert_eq!(udp.events(), [SessionEvent::Moved { to: AWAY }]);
}

#[test]
fn after_the_first_a_ping_goes_there_and_its_pong_is_the_second() {
    let mut udp = Udp::new();
    give_new(&mut udp, AWAY);
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Ping, AWAY)]);
    let pong = udp.next(Pong, b"");
    udp.give_from(AWAY, &pong).expect("a PONG");
    assert_eq!(udp.session.path(), AWAY);
    assert_eq!(udp.session.poll_timeout(), Some(udp.now + secs(45)), "the PING is not repeated");
}

#[test]
fn a_frame_from_the_old_address_forgets_the_new_one() {
    let mut udp = Udp::new();
    give_new(&mut udp, AWAY);
    assert_eq!(udp.sends_to().len(), 1);
    give_new(&mut udp, HOME);
    assert_eq!(udp.session.candidate_path(), None);
    give_new(&mut udp, AWAY);
    assert_eq!(udp.session.path(), HOME, "two in a row are needed");
}

#[test]
fn two_addresses_in_turn_never_move_it() {
    let mut udp = Udp::new();
    for from in [2, 3, 2, 3, 2, 3] {
        give_new(&mut udp, from);
    }
    assert_eq!(udp.session.path(), HOME);
}

#[test]
fn replays_from_another_address_move_nothing() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"m");
    for _ in 0..3 {
        assert!(udp.give_from(AWAY, &frame).is_err());
    }
    udp.session.committed(udp.now, token).expect("pending");
    for _ in 0..3 {
        assert!(matches!(udp.give_from(AWAY, &frame), Ok(Got::Utack(..))), "its source gets the UTACK");
    }
    assert_eq!((udp.session.path(), udp.session.candidate_path()), (HOME, None));
}

#[test]
fn a_hijacker_who_races_one_copy_gains_nothing() {
    let mut udp = Udp::new();
    for _ in 0..5 {
        let raced = udp.next(Data, b"m");
        let Ok(Got::Message(token, _)) = udp.give_from(AWAY, &raced) else { panic!("a message") };
        assert_eq!(udp.give_from(HOME, &raced), Err(DropReason::PendingDuplicate));
        let committed = udp.session.committed(udp.now, token).expect("pending");
        assert_eq!(committed.also_to, Some(HOME), "the device hears of its commit");
        give_new(&mut udp, HOME);
        assert_eq!(udp.session.path(), HOME);
    }
}

#[test]
fn a_forged_frame_from_another_address_moves_nothing() {
    let mut udp = Udp::new();
    let frame = udp.next(Data, b"m");
    for _ in 0..2 {
        assert_eq!(udp.give_from(AWAY, &forged(&frame)), Err(DropReason::Authentication));
    }
    assert_eq!(udp.session.candidate_path(), None);
}

#[test]
fn a_fragment_that_found_no_buffer_does_not_count_each_time_it_comes() {
    let mut udp = Udp::new();
    udp.pool.lend().expect("one buffer");
    let frame = udp.next(DataFrag, b"m");
    for _ in 0..3 {
        assert_eq!(udp.give_from(AWAY, &frame), Err(DropReason::NoBuffer));
    }
    assert_eq!((udp.session.path(), udp.session.candidate_path()), (HOME, None));
}

#[test]
fn a_withdrawn_message_does_not_count_each_time_it_comes() {
    let mut udp = Udp::new();
    let frame = udp.next(Data, b"m");
    for _ in 0..3 {
        let Ok(Got::Message(token, _)) = udp.give_from(AWAY, &frame) else { panic!("a message") };
        assert!(udp.session.withdraw(token));
    }
    assert_eq!((udp.session.path(), udp.session.candidate_path()), (HOME, None));
}

#[test]
fn messages_follow_the_downlink() {
    let mut udp = Udp::new();
    give_new(&mut udp, AWAY);
    give_new(&mut udp, AWAY);
    udp.session.send(2).expect("open");
    udp.lent = b"hi".to_vec();
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Data, AWAY)]);
}

#[test]
fn what_is_out_is_repeated_to_the_new_address() {
    let mut udp = Udp::new();
    udp.session.send(2).expect("open");
    udp.lent = b"hi".to_vec();
    let first = udp.sent();
    give_new(&mut udp, AWAY);
    give_new(&mut udp, AWAY);
    udp.wait();
    assert_eq!(udp.sends_to(), [(first, AWAY)]);
}

#[test]
fn no_probe_goes_out_while_two_pings_are_unanswered() {
    let mut udp = Udp::new();
    give_new(&mut udp, 2);
    let one = udp.sent();
    give_new(&mut udp, 3);
    let two = udp.sent();
    assert_eq!([header(&one).0, header(&two).0], [Ping, Ping]);
    give_new(&mut udp, 4);
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
    give_new(&mut udp, 4);
    assert_eq!(udp.session.path(), 4, "its second frame moves it all the same");
}

/// A session whose proof came from somewhere else than its HELLO.
fn doubted() -> Udp {
    let mut udp = Udp::half_open();
    udp.session.doubt_path();
    udp.session.session_ok_arrived(udp.now);
    udp
}

#[test]
fn where_only_the_proof_came_from_counts_once_a_ping_was_acknowledged_there() {
    let mut udp = doubted();
    assert_eq!(udp.session.candidate_path(), Some(HOME));
    udp.lent = b"hello".to_vec();
    udp.session.send(5).expect("it waits");
    assert!(udp.sends_to().is_empty(), "nothing goes to where nobody has shown to be");
    udp.wait();
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Ping, HOME)]);
    udp.acknowledge(&sent[0].0).expect("the PING's");
    assert_eq!((udp.session.path(), udp.session.candidate_path()), (HOME, None));
    assert!(udp.sends_to().iter().any(|(frame, to)| (header(frame).0, *to) == (Data, HOME)));
}

#[test]
fn who_raced_a_copy_of_the_proof_and_of_frames_gets_nothing_that_is_the_devices() {
    let mut udp = doubted();
    // HOME is where the copies come from; the device is AWAY.
    for _ in 0..3 {
        give_new(&mut udp, HOME);
    }
    assert!(!udp.events().contains(&SessionEvent::Moved { to: HOME }), "nobody acknowledged a PING there");
    udp.sends_to();
    give_new(&mut udp, AWAY);
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Ping, AWAY)]);
    let utack = usmp::wire::Utack::parse(&utack_for(&udp.keys.s2c, &sent[0].0)).expect("a UTACK");
    udp.session.handle_utack(udp.now, AWAY, &utack).expect("the PING's");
    assert_eq!(udp.session.path(), AWAY);
}
