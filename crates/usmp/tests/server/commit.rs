//! Acknowledge after commit (WIRE.md section 12.1): P2 at the level of the protocol.

use usmp::server::*;

use crate::support::*;

#[test]
fn a_message_is_not_acknowledged_before_its_commit() {
    let mut udp = Udp::new();
    let frame = udp.next(Data, b"reading");
    let got = udp.give(&frame);
    assert_eq!(got, Ok(Got::Message(CommitToken { epoch: 0, seq: 1 }, b"reading".to_vec())));
    assert_eq!(udp.sends(), Vec::<Vec<u8>>::new());
    assert_eq!(udp.session.pending(), 1);
}

#[test]
fn commit_gives_the_macd_utack_of_the_last_frame() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"reading");
    let committed = udp.session.committed(udp.now, token).expect("pending");
    assert_eq!(committed.utack.to_vec(), udp.utack(&frame));
    assert_eq!(committed.utack.len(), 15);
    assert_eq!(committed.also_to, None);
    assert_eq!((udp.session.pending(), udp.session.committed_seq()), (0, Some(1)));
}

#[test]
fn a_commit_counts_once() {
    let mut udp = Udp::new();
    let (token, _) = udp.message(b"reading");
    assert!(udp.session.committed(udp.now, token).is_some());
    assert_eq!(udp.session.committed(udp.now, token), None);
}

#[test]
fn a_token_that_was_never_given_commits_nothing() {
    let mut udp = Udp::new();
    udp.message(b"reading");
    assert_eq!(udp.session.committed(udp.now, CommitToken { epoch: 0, seq: 99 }), None);
    assert_eq!(udp.session.committed(udp.now, CommitToken { epoch: 1, seq: 1 }), None);
    assert_eq!(udp.session.committed_seq(), None);
}

#[test]
fn a_repeat_of_a_pending_message_is_neither_delivered_nor_acknowledged() {
    let mut udp = Udp::new();
    let (_, frame) = udp.message(b"reading");
    for _ in 0..4 {
        assert_eq!(udp.give(&frame), Err(DropReason::PendingDuplicate));
    }
    assert_eq!(udp.session.pending(), 1);
}

#[test]
fn the_source_of_the_last_repeat_gets_the_utack_as_well() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"reading");
    for from in [5, AWAY] {
        assert_eq!(udp.give_from(from, &frame), Err(DropReason::PendingDuplicate));
    }
    assert_eq!(udp.session.committed(udp.now, token).expect("pending").also_to, Some(AWAY));
}

#[test]
fn a_forged_repeat_of_a_pending_message_changes_no_source() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"reading");
    assert_eq!(udp.give_from(AWAY, &forged(&frame)), Err(DropReason::Authentication));
    assert_eq!(udp.session.committed(udp.now, token).expect("pending").also_to, None);
}

#[test]
fn a_repeat_of_the_newest_committed_message_is_acknowledged_again_and_not_delivered() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"reading");
    udp.session.committed(udp.now, token).expect("pending");
    let utack = udp.utack(&frame);
    for from in [HOME, AWAY] {
        assert_eq!(udp.give_from(from, &frame), Ok(Got::Utack(utack.clone(), Acknowledged::Duplicate)));
    }
}

#[test]
fn a_forged_repeat_of_a_committed_message_gets_no_utack() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"reading");
    udp.session.committed(udp.now, token).expect("pending");
    assert_eq!(udp.give(&forged(&frame)), Err(DropReason::Authentication));
}

#[test]
fn repeats_of_older_messages_meet_silence() {
    let mut udp = Udp::new();
    let (first, old) = udp.message(b"one");
    udp.session.committed(udp.now, first).expect("pending");
    let (second, _) = udp.message(b"two");
    udp.session.committed(udp.now, second).expect("pending");
    assert_eq!(udp.give(&old), Err(DropReason::Stale));
}

#[test]
fn the_last_committed_message_is_acknowledged_again_while_a_newer_one_is_pending() {
    let mut udp = Udp::new();
    let (first, old) = udp.message(b"one");
    udp.session.committed(udp.now, first).expect("pending");
    udp.message(b"two");
    let utack = udp.utack(&old);
    assert_eq!(udp.give(&old), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
}

#[test]
fn the_last_committed_message_is_acknowledged_again_after_a_ping() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"one");
    udp.session.committed(udp.now, token).expect("pending");
    let ping = udp.next(Ping, b"");
    udp.give(&ping).expect("a PING");
    for repeat in [&frame, &ping] {
        let utack = udp.utack(repeat);
        assert_eq!(udp.give(repeat), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    }
}

#[test]
fn four_messages_may_be_pending_and_the_fifth_is_dropped_as_if_it_had_not_come() {
    let mut udp = Udp::new();
    let tokens: Vec<_> = (0..MAX_PENDING).map(|_| udp.message(b"m").0).collect();
    let fifth = udp.next(Data, b"fifth");
    assert_eq!(udp.give(&fifth), Err(DropReason::PendingFull));
    udp.session.committed(udp.now, tokens[0]).expect("pending");
    let token = CommitToken { epoch: 0, seq: 5 };
    assert_eq!(udp.give(&fifth), Ok(Got::Message(token, b"fifth".to_vec())), "its repeat is new");
}

#[test]
fn control_frames_are_taken_while_four_messages_are_pending() {
    let mut udp = Udp::new();
    for _ in 0..MAX_PENDING {
        udp.message(b"m");
    }
    let ping = udp.next(Ping, b"");
    assert!(matches!(udp.give(&ping), Ok(Got::Utack(_, Acknowledged::Ping))));
}

#[test]
fn pending_messages_are_committed_one_by_one_each_with_its_utack() {
    let mut udp = Udp::new();
    let messages: Vec<_> = (0..4).map(|_| udp.message(b"m")).collect();
    for (token, frame) in messages {
        let utack = udp.utack(&frame);
        assert_eq!(udp.session.committed(udp.now, token).expect("pending").utack.to_vec(), utack);
    }
    assert_eq!(udp.session.committed_seq(), Some(4));
}

#[test]
fn commits_out_of_order_never_lower_the_highest() {
    let mut udp = Udp::new();
    let (first, _) = udp.message(b"one");
    let (second, _) = udp.message(b"two");
    assert!(udp.session.committed(udp.now, second).is_some());
    assert_eq!(udp.session.committed_seq(), Some(2));
    assert!(udp.session.committed(udp.now, first).is_some());
    assert_eq!(udp.session.committed_seq(), Some(2));
}

#[test]
fn a_refused_message_is_consumed_without_a_word() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"too large for the topic");
    udp.session.refused(token);
    assert_eq!(udp.give(&frame), Err(DropReason::Stale));
    assert_eq!(udp.session.committed(udp.now, token), None);
    assert_eq!((udp.session.pending(), udp.session.committed_seq()), (0, None));
}

#[test]
fn a_message_after_a_refused_one_is_committed_as_usual() {
    let mut udp = Udp::new();
    let (refused, _) = udp.message(b"bad");
    udp.session.refused(refused);
    let (token, frame) = udp.message(b"good");
    let utack = udp.utack(&frame);
    assert_eq!(udp.session.committed(udp.now, token).expect("pending").utack.to_vec(), utack);
}

#[test]
fn a_withdrawn_message_is_new_again() {
    let mut udp = Udp::new();
    let (token, frame) = udp.message(b"no room now");
    assert!(udp.session.withdraw(token));
    assert_eq!(udp.session.pending(), 0);
    assert_eq!(udp.give(&frame), Ok(Got::Message(token, b"no room now".to_vec())));
}

#[test]
fn only_the_newest_message_can_be_withdrawn() {
    let mut udp = Udp::new();
    let (first, frame) = udp.message(b"one");
    udp.message(b"two");
    assert!(!udp.session.withdraw(first));
    assert_eq!(udp.give(&frame), Err(DropReason::Stale), "it is refused instead");
}

#[test]
fn a_fragmented_message_cannot_be_withdrawn_since_its_tail_alone_would_be_another_message() {
    let mut udp = Udp::new();
    let fragment = udp.next(DataFrag, b"head ");
    udp.give(&fragment).expect("a fragment");
    let tail = udp.next(Data, b"tail");
    let Ok(Got::Message(token, _)) = udp.give(&tail) else { panic!("a message") };
    assert!(!udp.session.withdraw(token));
    assert_eq!(udp.give(&tail), Err(DropReason::Stale));
}

#[test]
fn commits_after_a_rekey_free_nothing() {
    let mut udp = Udp::new();
    let (token, _) = udp.message(b"old epoch");
    udp.rekey([9; 32]);
    assert_eq!(udp.session.committed(udp.now, token), None);
    assert_eq!(udp.session.committed_seq(), None);
    let (token, _) = udp.message(b"new epoch");
    assert_eq!(token, CommitToken { epoch: 1, seq: 0 });
}

#[test]
fn a_token_of_the_epoch_before_does_not_touch_a_new_message_of_the_same_number() {
    let mut udp = Udp::half_open();
    let (old, _) = udp.message(b"old epoch");
    udp.rekey([9; 32]);
    let (new, frame) = udp.message(b"new epoch");
    assert_eq!((old.seq, new.seq), (0, 0));
    assert_eq!(udp.session.committed(udp.now, old), None);
    udp.session.refused(old);
    assert!(!udp.session.withdraw(old));
    assert_eq!(udp.give(&frame), Err(DropReason::PendingDuplicate), "it still waits for its own commit");
    assert!(udp.session.committed(udp.now, new).is_some());
}

#[test]
fn fragments_wait_for_their_commit_when_asked_to() {
    let config = SessionConfig { fragment_ack: FragmentAck::Deferred, ..SessionConfig::udp() };
    let mut udp = Udp::with(&config);
    let fragment = udp.next(DataFrag, b"head ");
    let token = CommitToken { epoch: 0, seq: 1 };
    assert_eq!(udp.give(&fragment), Ok(Got::Fragment(token)));
    assert_eq!(udp.give(&fragment), Err(DropReason::PendingDuplicate));
    let utack = udp.utack(&fragment);
    assert_eq!(udp.session.committed(udp.now, token).expect("pending").utack.to_vec(), utack);
    assert_eq!(udp.give(&fragment), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    let tail = udp.next(Data, b"tail");
    let Ok(Got::Message(token, payload)) = udp.give(&tail) else { panic!("a message") };
    assert_eq!(payload, b"head tail");
    let utack = udp.utack(&tail);
    assert_eq!(
        udp.session.committed(udp.now, token).expect("pending").utack.to_vec(),
        utack,
        "named DATA, not DATA_FRAG"
    );
}

#[test]
fn a_message_under_the_number_of_a_control_frame_is_not_acknowledged() {
    let config = SessionConfig::udp_shared();
    for frame_type in [Data, DataFrag] {
        let mut udp = Udp::with(&config);
        let ping = udp.next(Ping, b"");
        udp.give(&ping).expect("a PING");
        let reused = udp.seal(frame_type, udp.seq - 1, b"under a used number");
        assert_eq!(udp.give(&reused), Err(DropReason::Stale), "{frame_type:?}");
        assert!(matches!(udp.give(&ping), Ok(Got::Utack(_, Acknowledged::Duplicate))));
    }
}
