//! A session that goes on with another owner, made from what a journal and a store have (WIRE.md sections 9, 12.1 and 12.2).

use usmp::server::*;
use usmp::*;

use crate::support::*;

/// A session whose owner writes a journal.
fn shared() -> Udp {
    Udp::with(&SessionConfig::udp_shared())
}

fn resumed(udp: &Udp, secrets: SessionSecrets, generations: u32) -> UdpSession<crypto::RustCrypto, u8> {
    let from_before = Resumed {
        secrets,
        committed: udp.session.committed_seq(),
        fragment_open: udp.session.fragment_open(),
        next_seq: first_number(generations).expect("numbers are left"),
        established: udp.session.is_established(),
    };
    UdpSession::resumed(udp.now, from_before, AWAY, 3, &SessionConfig::udp_shared())
}

/// Another owner goes on with what was committed. The datagram that made it ask came from `AWAY`.
fn hand_over(udp: &mut Udp, generations: u32) {
    let next = resumed(udp, udp.session.secrets(), generations);
    let before = std::mem::replace(&mut udp.session, next);
    let suspended = before.suspend(&mut udp.pool);
    assert_eq!(suspended.epoch, udp.session.epoch());
    assert_eq!(udp.pool.lent(), 0, "nothing stays with the owner before");
}

fn committed(udp: &mut Udp, plaintext: &[u8]) -> Vec<u8> {
    let (token, frame) = udp.message(plaintext);
    udp.session.committed(udp.now, token).expect("pending");
    frame
}

/// The device's next PING comes from `AWAY`, and it acknowledges ours from there.
fn settle(udp: &mut Udp) {
    let ping = udp.next(Ping, b"");
    udp.give_from(AWAY, &ping).expect("a PING");
    let ours = udp.sent();
    acknowledge_from(udp, AWAY, &ours).expect("ours is out");
    assert!(udp.session.is_settled());
    assert_eq!(udp.events(), [SessionEvent::Moved { to: AWAY }]);
    // The PONG.
    let pong = udp.sent();
    assert_eq!(header(&pong).0, Pong);
    acknowledge_from(udp, AWAY, &pong).expect("ours is out");
}

fn acknowledge_from(udp: &mut Udp, from: u8, frame: &[u8]) -> Result<(), DropReason> {
    let utack = wire::Utack::parse(&utack_for(&udp.keys.s2c, frame)).expect("a UTACK");
    udp.session.handle_utack(udp.now, from, &utack)
}

#[test]
fn the_last_committed_frame_is_acknowledged_again_by_the_next_owner() {
    let mut udp = shared();
    let older = committed(&mut udp, b"older");
    let last = committed(&mut udp, b"last");
    hand_over(&mut udp, 1);
    let utack = udp.utack(&last);
    assert_eq!(udp.give(&last), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    assert_eq!(udp.give(&older), Err(DropReason::Stale));
    assert_eq!(committed(&mut udp, b"new").len(), last.len() - 1);
}

#[test]
fn a_message_that_was_taken_and_not_committed_is_new_to_the_next_owner() {
    let mut udp = shared();
    let (token, frame) = udp.message(b"in flight");
    hand_over(&mut udp, 1);
    assert_eq!(udp.session.committed(udp.now, token), None, "what the owner before took is not pending");
    assert_eq!(udp.give(&frame), Ok(Got::Message(token, b"in flight".to_vec())));
    assert!(udp.session.committed(udp.now, token).is_some());
}

#[test]
fn ping_pong_and_bye_are_not_part_of_what_is_committed() {
    let mut udp = shared();
    committed(&mut udp, b"m");
    let number = udp.session.committed_seq();
    for frame_type in [Ping, Pong, Bye] {
        let frame = udp.next(frame_type, b"");
        udp.give(&frame).expect("a control frame");
        assert_eq!(udp.session.committed_seq(), number, "{frame_type:?}");
        assert_eq!(udp.session.seen_seq(), Some(udp.seq - 1), "{frame_type:?}");
    }
}

#[test]
fn nothing_but_a_ping_leaves_before_the_address_is_known() {
    let mut udp = shared();
    hand_over(&mut udp, 1);
    udp.lent = b"to device".to_vec();
    udp.session.send(9).expect("taken");
    udp.advance(secs(60));
    assert_eq!(udp.sends_to(), [], "also the PING of the keepalive has no address to go to");
    let theirs = udp.next(Ping, b"");
    udp.give_from(AWAY, &theirs).expect("a PING");
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Ping, AWAY)]);
    assert!(!udp.session.is_settled());
    assert_eq!(udp.events(), []);
    acknowledge_from(&mut udp, AWAY, &sent[0].0).expect("ours is out");
    assert!(udp.session.is_settled());
    assert_eq!(udp.events(), [SessionEvent::Moved { to: AWAY }]);
    let mut kinds = Vec::new();
    while let [(frame, to)] = &udp.sends_to()[..] {
        kinds.push((header(frame).0, *to));
        acknowledge_from(&mut udp, AWAY, frame).expect("it is out");
    }
    assert_eq!(kinds, [(Pong, AWAY), (Ping, AWAY), (Data, AWAY)]);
}

#[test]
fn the_first_frame_of_an_owner_is_a_ping_under_its_first_number() {
    for generations in [1, 2, 900] {
        let mut udp = shared();
        hand_over(&mut udp, generations);
        udp.lent = b"m".to_vec();
        udp.session.send(1).expect("taken");
        committed(&mut udp, b"up");
        let first = udp.sent();
        assert_eq!(header(&first), (Ping, generations << 22));
        assert_eq!(udp.open(&first).0, Ping, "it opens for the device");
    }
}

#[test]
fn the_utack_of_the_ping_settles_from_its_own_address_only() {
    let mut udp = shared();
    hand_over(&mut udp, 1);
    let theirs = udp.next(Ping, b"");
    udp.give_from(AWAY, &theirs).expect("a PING");
    let ours = udp.sent();
    assert_eq!(acknowledge_from(&mut udp, HOME, &ours), Err(DropReason::UtackUnexpected));
    assert!(!udp.session.is_settled());
    acknowledge_from(&mut udp, AWAY, &ours).expect("ours is out");
    assert_eq!((udp.session.is_settled(), udp.session.path()), (true, AWAY));
}

#[test]
fn old_copies_of_control_frames_neither_settle_nor_move_the_address() {
    let mut udp = shared();
    let old: Vec<_> = (0..6).map(|_| udp.next(Ping, b"")).collect();
    udp.give(&old[0]).expect("a PING");
    hand_over(&mut udp, 1);
    // The owner before took them all; the journal knows of none.
    for copy in &old[..2] {
        udp.give_from(9, copy).expect("new to this owner");
    }
    assert!(!udp.session.is_settled());
    assert!(udp.sends_to().iter().all(|(frame, to)| header(frame).0 == Ping && *to == 9));
    // The device itself is heard, and still the copies in between change nothing.
    let fresh = udp.next(Ping, b"");
    udp.give_from(AWAY, &fresh).expect("a PING");
    let ours = udp.sent();
    acknowledge_from(&mut udp, AWAY, &ours).expect("ours is out");
    assert_eq!((udp.session.is_settled(), udp.session.path()), (true, AWAY));
    for copy in &old[2..] {
        assert_eq!(udp.give_from(9, copy), Err(DropReason::Stale), "the device has gone beyond them");
    }

    // Whoever sends the first copy in the device's name gets no further.
    let mut udp = shared();
    let old: Vec<_> = (0..4).map(|_| udp.next(Ping, b"")).collect();
    hand_over(&mut udp, 1);
    udp.give_from(AWAY, &old[0]).expect("new to this owner");
    let ours = udp.sent();
    acknowledge_from(&mut udp, AWAY, &ours).expect("the device answers from where it is");
    for copy in &old[1..] {
        udp.give_from(9, copy).expect("new to this owner");
    }
    assert_eq!(udp.session.path(), AWAY);
}

#[test]
fn a_settled_session_moves_by_the_utack_of_a_ping_to_the_new_address() {
    let mut udp = shared();
    hand_over(&mut udp, 1);
    settle(&mut udp);
    for _ in 0..3 {
        let frame = udp.next(Data, b"m");
        let Ok(Got::Message(token, _)) = udp.give_from(5, &frame) else { panic!("a message") };
        udp.session.committed(udp.now, token).expect("pending");
    }
    assert_eq!((udp.session.path(), udp.session.candidate_path()), (AWAY, Some(5)));
    let sent = udp.sends_to();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, 5);
    acknowledge_from(&mut udp, 5, &sent[0].0).expect("ours is out");
    assert_eq!(udp.session.path(), 5);
    assert_eq!(udp.events(), [SessionEvent::Moved { to: 5 }]);
}

#[test]
fn a_ping_whose_utack_was_lost_is_sent_anew_for_the_next_frame() {
    let mut udp = shared();
    hand_over(&mut udp, 1);
    let theirs = udp.next(Ping, b"");
    udp.give_from(AWAY, &theirs).expect("a PING");
    let copies = udp.exhaust();
    assert_eq!(copies.len(), usize::from(MAX_TRANSMISSIONS));
    let pong = udp.next(Pong, b"");
    udp.give_from(AWAY, &pong).expect("a PONG");
    let again = udp.sent();
    assert_eq!(header(&again), (Ping, (1 << 22) + 1));
    acknowledge_from(&mut udp, AWAY, &again).expect("ours is out");
    assert!(udp.session.is_settled());
}

#[test]
fn a_first_datagram_that_is_not_authentic_leaves_no_trace() {
    let mut udp = shared();
    hand_over(&mut udp, 1);
    let frame = udp.next(Data, b"m");
    assert_eq!(udp.give_from(AWAY, &forged(&frame)), Err(DropReason::Authentication));
    assert_eq!((udp.session.candidate_path(), udp.session.seen_seq()), (None, None));
    assert_eq!((udp.sends_to(), udp.events()), (Vec::new(), Vec::new()));
}

#[test]
fn a_repeat_of_the_committed_frame_tells_where_to_look_for_a_device_that_has_nothing_to_send() {
    let mut udp = shared();
    let last = committed(&mut udp, b"last");
    hand_over(&mut udp, 1);
    udp.give_from(AWAY, &last).expect("a repeat");
    udp.give_from(9, &last).expect("a copy, whose source gets the UTACK too");
    let sent = udp.sends_to();
    assert_eq!(sent.iter().map(|(frame, to)| (header(frame).0, *to)).collect::<Vec<_>>(), [(Ping, AWAY)]);
    assert!(!udp.session.is_settled());
    // A new frame says more than a repeat.
    let new = udp.next(Ping, b"");
    udp.give_from(5, &new).expect("a PING");
    udp.give_from(9, &last).expect("a copy of the committed one");
    assert_eq!(udp.session.candidate_path(), Some(5));
}

#[test]
fn a_session_that_was_never_established_is_so_by_its_first_new_frame() {
    let mut udp = Udp::half_open_with(&SessionConfig::udp_shared());
    hand_over(&mut udp, 1);
    let frame = udp.next(Ping, b"");
    udp.give(&frame).expect("a PING");
    assert_eq!(udp.events(), [SessionEvent::Established]);
    hand_over(&mut udp, 2);
    let frame = udp.next(Ping, b"");
    udp.give(&frame).expect("a PING");
    assert_eq!(udp.events(), [], "told once");
}

#[test]
fn a_flood_of_old_copies_does_not_end_a_session_that_was_handed_over() {
    let mut udp = shared();
    let old: Vec<_> = (0..20).map(|_| udp.next(Ping, b"")).collect();
    hand_over(&mut udp, 1);
    let taken = old.iter().filter(|copy| udp.give_from(9, copy).is_ok()).count();
    assert_eq!((taken, udp.session.closed()), (8, None));
    udp.message(b"the device goes on");
}

#[test]
fn a_message_that_broke_off_at_a_hand_over_is_never_completed() {
    let mut udp = shared();
    let fragment = udp.next(DataFrag, b"head ");
    let Ok(Got::Fragment(token)) = udp.give(&fragment) else { panic!("a fragment") };
    assert!(!udp.session.fragment_open(), "not committed yet");
    udp.session.committed(udp.now, token).expect("pending");
    assert!(udp.session.fragment_open());
    hand_over(&mut udp, 1);
    assert!(udp.session.fragment_open());
    assert!(
        matches!(udp.give(&fragment), Ok(Got::Utack(_, Acknowledged::Duplicate))),
        "committed is committed"
    );
    for frame_type in [Data, DataFrag] {
        assert_eq!(udp.give(&udp.seal(frame_type, udp.seq, b"tail")), Err(DropReason::Interrupted));
    }
    // The device gave up that message; the next one has the next number.
    udp.seq += 1;
    let (token, _) = udp.message(b"whole");
    udp.session.committed(udp.now, token).expect("pending");
    assert!(!udp.session.fragment_open());
    assert_eq!(udp.give(&udp.seal(Data, token.seq - 1, b"tail")), Err(DropReason::Stale));
}

#[test]
fn a_control_frame_shows_that_the_message_that_broke_off_is_given_up() {
    let mut udp = shared();
    let fragment = udp.next(DataFrag, b"head");
    let Ok(Got::Fragment(token)) = udp.give(&fragment) else { panic!("a fragment") };
    udp.session.committed(udp.now, token).expect("pending");
    hand_over(&mut udp, 1);
    let ping = udp.next(Ping, b"");
    assert!(matches!(udp.give(&ping), Ok(Got::Utack(_, Acknowledged::Ping))));
    udp.message(b"the next one");
}

#[test]
fn a_refused_fragment_does_not_become_the_start_of_the_next_message() {
    let mut udp = shared();
    let fragment = udp.next(DataFrag, b"head ");
    let Ok(Got::Fragment(token)) = udp.give(&fragment) else { panic!("a fragment") };
    udp.session.refused(token);
    assert_eq!(udp.give(&fragment), Err(DropReason::Stale), "never acknowledged");
    udp.message(b"another message");
    assert_eq!(udp.pool.lent(), 0);
}

#[test]
fn what_comes_before_the_utack_of_a_fragment_is_not_its_continuation() {
    for frame_type in [Data, DataFrag] {
        let mut udp = shared();
        let fragment = udp.next(DataFrag, b"given up ");
        let Ok(Got::Fragment(first)) = udp.give(&fragment) else { panic!("a fragment") };
        // The device has given that message up: else it would wait.
        let next = udp.next(frame_type, b"another message");
        let token = match udp.give(&next) {
            Ok(Got::Message(token, payload)) => {
                assert_eq!(payload, b"another message");
                token
            }
            Ok(Got::Fragment(token)) => token,
            other => panic!("{other:?}"),
        };
        assert!(udp.session.committed(udp.now, first).is_some());
        assert!(udp.session.committed(udp.now, token).is_some());
        if frame_type == DataFrag {
            let end = udp.next(Data, b", the end");
            let Ok(Got::Message(_, payload)) = udp.give(&end) else { panic!("a message") };
            assert_eq!(payload, b"another message, the end");
        }
    }
}

#[test]
fn a_fragment_committed_when_the_device_may_have_given_it_up_broke_off() {
    for (after, broken) in [(millis(1_999), false), (secs(2), true)] {
        let mut udp = shared();
        let fragment = udp.next(DataFrag, b"head ");
        let Ok(Got::Fragment(token)) = udp.give(&fragment) else { panic!("a fragment") };
        udp.now = udp.now + after;
        assert!(udp.session.committed(udp.now, token).is_some(), "committed is committed");
        assert!(udp.session.fragment_open());
        let next = udp.next(Data, b"tail");
        let got = udp.give(&next);
        if !broken {
            assert!(matches!(got, Ok(Got::Message(_, payload)) if payload == b"head tail"));
            continue;
        }
        assert_eq!(got, Err(DropReason::Interrupted));
        let (token, _) = udp.message(b"whole");
        assert_eq!((token.seq, udp.pool.lent()), (3, 0));
    }
}

#[test]
fn a_used_up_block_of_numbers_is_asked_for_once() {
    let mut udp = shared();
    let mut secrets = Some(udp.session.secrets());
    let from_before = Resumed {
        secrets: secrets.take().expect("once"),
        committed: None,
        fragment_open: false,
        next_seq: (2 << 22) - 2,
        established: true,
    };
    udp.session = UdpSession::resumed(udp.now, from_before, AWAY, 3, &SessionConfig::udp_shared());
    settle(&mut udp);
    assert_eq!(udp.session.next_seq(), 2 << 22, "PING and PONG took the last two");
    udp.lent = b"m".to_vec();
    udp.session.send(1).expect("it waits for a number");
    assert_eq!(udp.sends().len(), 0, "the next number may be another owner's");
    assert_eq!(udp.events(), [SessionEvent::NumbersNeeded]);
    udp.advance(secs(1));
    assert_eq!((udp.sends().len(), udp.events()), (0, Vec::new()), "told once");
    for wrong in [0, 1 << 22, (2 << 22) + 1, u32::MAX] {
        assert!(!udp.session.extend_numbers(wrong), "{wrong:#x}");
    }
    assert!(udp.session.extend_numbers(5 << 22));
    let message = udp.sent();
    assert_eq!(header(&message), (Data, 5 << 22));
    assert!(!udp.session.extend_numbers(5 << 22), "once");
}

#[test]
fn a_session_with_one_owner_for_life_has_all_numbers() {
    let mut udp = Udp::new();
    assert!(!udp.session.extend_numbers(1 << 22));
}

#[test]
fn a_session_that_had_too_many_owners_says_bye_once_it_knows_where() {
    assert_eq!(first_number(1022), Some(0xFF80_0000));
    assert_eq!(first_number(1023), Some(0xFFC0_0000), "for PING and BYE");
    assert_eq!(first_number(1024), None);
    let mut udp = shared();
    hand_over(&mut udp, 1023);
    assert_eq!(udp.session.send(1), Err(SendError::SequenceExhausted));
    let up = udp.next(Data, b"still taken");
    let Ok(Got::Message(token, _)) = udp.give_from(AWAY, &up) else { panic!("a message") };
    assert!(udp.session.committed(udp.now, token).is_some());
    let ping = udp.sent();
    assert_eq!(header(&ping), (Ping, 0xFFC0_0000));
    acknowledge_from(&mut udp, AWAY, &ping).expect("ours is out");
    let bye = udp.sent();
    assert_eq!(header(&bye), (Bye, 0xFFC0_0001));
    acknowledge_from(&mut udp, AWAY, &bye).expect("ours is out");
    assert_eq!(udp.session.closed(), Some(CloseReason::SequenceExhausted));
}
