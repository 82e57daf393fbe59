//! WIRE.md section 9, "Server rules", on UDP.

use usmp::crypto::RustCrypto;
use usmp::server::*;
use usmp::*;

use crate::support::*;

#[test]
fn the_device_changes_the_keys_and_the_utack_is_under_the_old_one() {
    let mut udp = Udp::new();
    let old = device_keys();
    let frame = udp.rekey([9; 32]);
    assert_eq!(udp.events(), [SessionEvent::Rekeyed { epoch: 1 }]);
    assert_eq!(udp.session.epoch(), 1);
    assert_ne!(utack_for(&old.c2s, &frame), utack_for(&udp.keys.c2s, &frame));
    assert_eq!(udp.message(b"under new keys").0, CommitToken { epoch: 1, seq: 0 });
}

#[test]
fn a_frame_under_the_old_key_is_refused_after_rekey() {
    let mut udp = Udp::new();
    let old = udp.seal(Data, 9, b"late");
    udp.rekey([9; 32]);
    assert_eq!(udp.give(&old), Err(DropReason::Authentication));
}

#[test]
fn repeats_of_rekey_get_the_old_key_utack_for_fifteen_seconds() {
    let mut udp = Udp::new();
    let old = device_keys();
    let frame = udp.rekey([9; 32]);
    let utack = utack_for(&old.c2s, &frame);
    udp.message(b"the device may already have gone on");
    udp.advance(millis(14_999));
    assert_eq!(udp.give(&frame), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    assert_eq!(udp.session.epoch(), 1, "and nothing else");
    udp.now = udp.now + millis(1);
    assert_eq!(udp.give(&frame), Err(DropReason::Authentication), "also when no timer has run");
    udp.advance(millis(0));
    assert_eq!(udp.give(&frame), Err(DropReason::Authentication));
}

#[test]
fn another_frame_that_only_looks_like_the_remembered_rekey_is_refused() {
    let mut udp = Udp::new();
    let frame = udp.rekey([9; 32]);
    assert_eq!(udp.give(&forged(&frame)), Err(DropReason::Authentication));
}

#[test]
fn rekey_of_a_wrong_length_is_consumed_without_utack() {
    for length in [0, 31, 33] {
        let mut udp = Udp::new();
        let frame = udp.next(Rekey, &vec![9; length]);
        assert_eq!(udp.give(&frame), Err(DropReason::RekeyLength), "{length}");
        assert_eq!((udp.session.epoch(), udp.session.closed()), (0, None));
        udp.message(b"next");
    }
}

#[test]
fn rekey_inside_a_message_is_followed_and_the_partial_message_dropped() {
    let mut udp = Udp::new();
    let fragment = udp.next(DataFrag, b"abandoned");
    udp.give(&fragment).expect("a fragment");
    udp.rekey([9; 32]);
    assert_eq!(udp.pool.lent(), 0);
    udp.message(b"new");
}

#[test]
fn rekey_can_follow_rekey() {
    let mut udp = Udp::new();
    udp.rekey([1; 32]);
    let second = udp.rekey([2; 32]);
    assert_eq!(udp.session.epoch(), 2);
    assert!(matches!(udp.give(&second), Ok(Got::Utack(_, Acknowledged::Duplicate))));
}

#[test]
fn the_servers_counter_goes_on_after_rekey() {
    let mut udp = Udp::new();
    for expected in 0..3 {
        let ping = udp.next(Ping, b"");
        udp.give(&ping).expect("a PING");
        let pong = udp.sent();
        assert_eq!(udp.open(&pong).1, expected);
        udp.acknowledge(&pong).expect("outstanding");
    }
    udp.rekey([9; 32]);
    let ping = udp.next(Ping, b"");
    udp.give(&ping).expect("a PING");
    let pong = udp.sent();
    assert_eq!(udp.open(&pong), (Pong, 3, vec![]), "Python discards numbers that fall back");
}

#[test]
fn an_unacknowledged_frame_is_sent_again_under_the_new_key_and_a_new_number() {
    let mut udp = Udp::new();
    udp.lent = b"command".to_vec();
    udp.session.send(7).expect("open");
    let before = udp.sent();
    udp.rekey([9; 32]);
    let after = udp.sent();
    assert_eq!(header(&before), (Data, 0));
    assert_eq!(udp.open(&after), (Data, 1, b"command".to_vec()));
    let late = utack_for(&device_keys().s2c, &before);
    let late = wire::Utack::parse(&late).expect("a UTACK");
    assert_eq!(udp.session.handle_utack(udp.now, HOME, &late), Err(DropReason::UtackUnexpected));
    udp.acknowledge(&after).expect("outstanding");
    assert_eq!(udp.events(), [SessionEvent::Rekeyed { epoch: 1 }, SessionEvent::MessageDelivered]);
}

#[test]
fn a_half_delivered_message_starts_again_behind_a_pong_that_closes_the_old_run() {
    let mut udp = Udp::new();
    udp.lent = vec![3; 1000];
    udp.session.send(1000).expect("open");
    let first = udp.sent();
    assert_eq!(header(&first), (DataFrag, 0));
    udp.acknowledge(&first).expect("outstanding");
    assert_eq!(header(&udp.sent()), (DataFrag, 1));
    udp.rekey([9; 32]);
    let mut message = Vec::new();
    for expected in [Pong, DataFrag, DataFrag, Data] {
        let frame = udp.sent();
        let (frame_type, _, plaintext) = udp.open(&frame);
        assert_eq!(frame_type, expected);
        message.extend(plaintext);
        udp.acknowledge(&frame).expect("outstanding");
    }
    assert_eq!(message, udp.lent);
}

#[test]
fn a_ping_that_rekey_cut_off_is_not_counted_as_unanswered() {
    let mut udp = Udp::new();
    for _ in 0..3 {
        udp.advance(secs(45));
        assert_eq!(header(&udp.sent()).0, Ping);
        udp.rekey([9; 32]);
        let again = udp.sent();
        assert_eq!(udp.open(&again).0, Ping);
        let pong = udp.next(Pong, b"");
        udp.give(&pong).expect("a PONG");
    }
}

#[test]
fn our_rekey_switches_when_it_is_acknowledged() {
    let mut udp = Udp::new();
    let salt = [6; 32];
    udp.session.start_rekey(Secret::new(salt)).expect("nothing in the way");
    let frame = udp.sent();
    assert_eq!(udp.open(&frame), (Rekey, 0, salt.to_vec()));
    assert_eq!(udp.session.epoch(), 0);
    udp.acknowledge(&frame).expect("outstanding");
    assert_eq!(udp.events(), [SessionEvent::Rekeyed { epoch: 1 }]);
    udp.keys = rekey::<RustCrypto>(&udp.keys, Role::Server, &salt, SESSION);
    udp.seq = 0;
    udp.message(b"under new keys");
    udp.session.send(0).expect("open");
    let down = udp.sent();
    assert_eq!(udp.open(&down).1, 1, "the counter goes on");
}

#[test]
fn our_rekey_never_starts_by_itself() {
    let mut udp = Udp::new();
    for _ in 0..50 {
        if udp.session.closed().is_some() {
            break;
        }
        udp.wait();
        assert!(udp.sends().iter().all(|frame| header(frame).0 != Rekey));
    }
}

#[test]
fn a_rekey_from_both_sides_ends_the_session() {
    let mut udp = Udp::new();
    udp.session.start_rekey(Secret::new([6; 32])).expect("nothing in the way");
    udp.sent();
    let theirs = udp.next(Rekey, &[7; 32]);
    assert_eq!(udp.give(&theirs), Err(DropReason::RekeyCollision));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Rekey)]);
}

#[test]
fn our_rekey_that_nobody_acknowledges_ends_the_session() {
    let mut udp = Udp::new();
    udp.session.start_rekey(Secret::new([6; 32])).expect("nothing in the way");
    let copies = udp.exhaust();
    assert_eq!(copies.len(), usize::from(MAX_TRANSMISSIONS));
    assert!(copies.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Rekey)]);
}

#[test]
fn our_rekey_waits_for_what_is_in_flight() {
    let mut udp = Udp::new();
    let (token, _) = udp.message(b"uncommitted");
    let start = |udp: &mut Udp| udp.session.start_rekey(Secret::new([6; 32]));
    assert_eq!(start(&mut udp), Err(SendError::Busy));
    udp.session.committed(udp.now, token).expect("pending");
    udp.session.send(1).expect("open");
    assert_eq!(start(&mut udp), Err(SendError::Busy));
    udp.lent = vec![1];
    let frame = udp.sent();
    udp.acknowledge(&frame).expect("outstanding");
    udp.rekey([9; 32]);
    assert_eq!(start(&mut udp), Err(SendError::Busy), "theirs is still remembered");
    udp.advance(secs(15));
    assert_eq!(start(&mut udp), Ok(()));
}
