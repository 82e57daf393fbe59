//! Half-open sessions, keepalive and the idle timeout (WIRE.md sections 8 and 12, rules 6 and 7; W17).

use usmp::server::*;
use usmp::*;

use crate::support::*;

fn pings(udp: &mut Udp) -> usize {
    udp.sends().iter().filter(|frame| header(frame).0 == Ping).count()
}

#[test]
fn any_authentic_frame_establishes() {
    for frame_type in [Data, Ping, Pong, DataFrag, Bye] {
        let mut udp = Udp::half_open();
        assert!(!udp.session.is_established());
        let frame = udp.next(frame_type, b"");
        udp.give(&frame).expect("authentic");
        assert!(udp.session.is_established());
        assert_eq!(udp.events().first(), Some(&SessionEvent::Established), "{frame_type:?}");
    }
}

#[test]
fn a_forged_frame_establishes_nothing() {
    let mut udp = Udp::half_open();
    let frame = udp.next(Data, b"");
    assert_eq!(udp.give(&forged(&frame)), Err(DropReason::Authentication));
    assert!(!udp.session.is_established());
}

#[test]
fn a_half_open_session_gets_one_ping_after_session_ok_arrived() {
    let mut udp = Udp::half_open();
    udp.session.session_ok_arrived(udp.now);
    udp.advance(millis(999));
    assert_eq!(pings(&mut udp), 0);
    udp.advance(millis(1));
    assert_eq!(pings(&mut udp), 1);
    let mut repeats = 0;
    while udp.session.closed().is_none() {
        udp.wait();
        repeats += pings(&mut udp);
    }
    assert_eq!(repeats, usize::from(MAX_TRANSMISSIONS) - 1, "repeats of the one, then none");
}

#[test]
fn a_half_open_session_gets_its_ping_within_the_handshake_timer_in_any_case() {
    let mut udp = Udp::half_open();
    assert_eq!(udp.wait(), secs(8));
    assert_eq!(pings(&mut udp), 1);
}

#[test]
fn a_half_open_session_is_not_dropped_before_the_idle_timeout() {
    let mut udp = Udp::half_open();
    let start = udp.now;
    while udp.session.closed().is_none() {
        udp.wait();
        udp.sends();
    }
    assert_eq!(udp.session.closed(), Some(CloseReason::Idle));
    assert_eq!(udp.now - start, secs(3600));
}

#[test]
fn a_valid_utack_of_the_ping_establishes() {
    let mut udp = Udp::half_open();
    udp.wait();
    let ping = udp.sent();
    udp.acknowledge(&ping).expect("outstanding");
    assert_eq!(udp.events(), [SessionEvent::Established]);
}

#[test]
fn a_utack_without_a_valid_mac_establishes_nothing() {
    let mut udp = Udp::half_open();
    udp.wait();
    let ping = udp.sent();
    let utack = wire::Utack { mac: Some([1; 8]), ..wire::Utack::plain(Ping, header(&ping).1) };
    assert_eq!(udp.session.handle_utack(udp.now, HOME, &utack), Err(DropReason::UtackMac));
    assert!(!udp.session.is_established());
}

#[test]
fn a_session_that_spoke_gets_no_probe() {
    let mut udp = Udp::half_open();
    udp.session.session_ok_arrived(udp.now);
    udp.message(b"hello");
    udp.advance(secs(20));
    assert_eq!(pings(&mut udp), 0);
}

#[test]
fn a_silent_device_gets_a_ping_after_45_seconds() {
    let mut udp = Udp::new();
    let frame = udp.next(Data, b"");
    udp.give(&frame).expect("a message");
    udp.advance(millis(44_999));
    assert_eq!(pings(&mut udp), 0);
    udp.advance(millis(1));
    assert_eq!(pings(&mut udp), 1);
}

#[test]
fn a_device_that_sends_gets_no_ping() {
    let mut udp = Udp::new();
    for _ in 0..10 {
        udp.advance(secs(43));
        let (token, _) = udp.message(b"m");
        udp.session.committed(udp.now, token).expect("pending");
        assert_eq!(pings(&mut udp), 0);
    }
}

#[test]
fn never_a_third_ping_while_two_are_unanswered() {
    let mut udp = Udp::new();
    let mut distinct = std::collections::HashSet::new();
    while udp.session.closed().is_none() {
        udp.wait();
        distinct.extend(udp.sends().iter().map(|frame| header(frame)));
    }
    assert_eq!(distinct.len(), 2, "{distinct:?}");
}

#[test]
fn two_unanswered_pings_count_over_the_life_of_the_session() {
    let mut udp = Udp::new();
    let mut sent = 0;
    // A device that sends now and then and never reads: its UTACKs come from the socket.
    for _ in 0..10 {
        udp.advance(secs(45));
        for frame in udp.sends() {
            sent += 1;
            udp.acknowledge(&frame).expect("outstanding");
        }
        let (token, _) = udp.message(b"m");
        udp.session.committed(udp.now, token).expect("pending");
    }
    assert_eq!(sent, 2);
}

#[test]
fn answered_pings_may_go_on_for_ever() {
    let mut udp = Udp::new();
    for round in 0..20 {
        udp.advance(secs(45));
        let ping = udp.sent();
        assert_eq!(header(&ping).0, Ping, "round {round}");
        udp.acknowledge(&ping).expect("outstanding");
        let pong = udp.next(Pong, b"");
        udp.give(&pong).expect("a PONG");
    }
}

#[test]
fn no_keepalive_when_it_is_off() {
    let mut udp = Udp::with(&SessionConfig { keepalive: None, ..SessionConfig::udp() });
    udp.advance(secs(3000));
    assert_eq!(pings(&mut udp), 0);
}

#[test]
fn silence_ends_a_session_after_the_idle_timeout_without_a_word() {
    let config = SessionConfig { idle_timeout: secs(90), keepalive: None, ..SessionConfig::udp() };
    let mut udp = Udp::with(&config);
    let (_, _) = udp.message(b"m");
    udp.advance(millis(89_999));
    assert_eq!(udp.session.closed(), None);
    assert_eq!(udp.session.poll_timeout(), Some(udp.now + millis(1)));
    udp.advance(millis(1));
    assert_eq!(udp.events(), [SessionEvent::Closed(CloseReason::Idle)]);
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new(), "no BYE");
}

#[test]
fn replays_do_not_keep_a_session_alive() {
    let config = SessionConfig { idle_timeout: secs(90), keepalive: None, ..SessionConfig::udp() };
    let mut udp = Udp::with(&config);
    let (token, frame) = udp.message(b"m");
    udp.session.committed(udp.now, token).expect("pending");
    for _ in 0..9 {
        udp.advance(secs(9));
        udp.give(&frame).expect("acknowledged again");
    }
    udp.advance(secs(9));
    assert_eq!(udp.session.closed(), Some(CloseReason::Idle));
}

#[test]
fn the_idle_timeout_stands_still_while_reading_is_paused() {
    let config = SessionConfig { idle_timeout: secs(90), keepalive: None, ..SessionConfig::udp() };
    let mut udp = Udp::with(&config);
    udp.message(b"m");
    udp.advance(secs(60));
    udp.session.pause(udp.now);
    udp.advance(secs(500));
    assert_eq!(udp.session.closed(), None);
    assert_eq!(udp.session.poll_timeout(), None, "nothing to wake for");
    udp.session.resume(udp.now);
    udp.advance(millis(29_999));
    assert_eq!(udp.session.closed(), None);
    udp.advance(millis(1));
    assert_eq!(udp.session.closed(), Some(CloseReason::Idle));
}

#[test]
fn no_ping_is_sent_while_reading_is_paused() {
    let mut udp = Udp::new();
    udp.session.pause(udp.now);
    udp.advance(secs(100));
    assert_eq!(pings(&mut udp), 0);
}
