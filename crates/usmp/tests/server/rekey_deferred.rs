//! A REKEY that waits until it is persisted and journaled (WIRE.md sections 9 and 12.1).

use usmp::crypto::RustCrypto;
use usmp::server::*;
use usmp::*;

use crate::support::*;

const SALT: [u8; 32] = [0x5A; 32];

fn shared() -> Udp {
    Udp::with(&SessionConfig::udp_shared())
}

/// The device's REKEY is taken and waits; its own keys are those before, until it gets the UTACK.
fn pending(udp: &mut Udp) -> (CommitToken, Vec<u8>) {
    let frame = udp.next(Rekey, &SALT);
    match udp.give(&frame) {
        Ok(Got::Rekey(token)) => (token, frame),
        other => panic!("expected a REKEY, got {other:?}"),
    }
}

fn device_switches(udp: &mut Udp) {
    udp.keys = rekey::<RustCrypto>(&udp.keys, Role::Device, &SALT, SESSION);
    udp.seq = 0;
}

fn next_owner(udp: &mut Udp, secrets: SessionSecrets, committed: Option<u32>) {
    let from_before =
        Resumed { secrets, committed, fragment_open: false, next_seq: 1 << 22, established: true };
    udp.session = UdpSession::resumed(udp.now, from_before, HOME, 5, &SessionConfig::udp_shared());
}

#[test]
fn keys_switch_and_the_utack_leaves_when_the_rekey_is_committed() {
    let mut udp = shared();
    let (token, frame) = pending(&mut udp);
    assert_eq!((token, udp.session.epoch()), (CommitToken { epoch: 0, seq: 1 }, 0));
    assert_eq!(udp.events(), []);
    let old = udp.utack(&frame);
    let committed = udp.session.rekey_committed(udp.now, token).expect("pending");
    assert_eq!((committed.utack.to_vec(), committed.also_to), (old.clone(), None));
    assert_eq!(udp.events(), [SessionEvent::Rekeyed { epoch: 1 }]);
    assert_eq!(
        udp.give(&frame),
        Ok(Got::Utack(old, Acknowledged::Duplicate)),
        "also its repeat, from now on"
    );
    assert_eq!(udp.session.rekey_committed(udp.now, token), None, "once");
    device_switches(&mut udp);
    assert_eq!(udp.session.committed_seq(), None);
    assert_eq!(udp.message(b"under new keys").0, CommitToken { epoch: 1, seq: 0 });
}

#[test]
fn repeats_of_a_pending_rekey_meet_silence_and_their_source_gets_the_utack_too() {
    let mut udp = shared();
    let (token, frame) = pending(&mut udp);
    assert_eq!(udp.give_from(AWAY, &frame), Err(DropReason::PendingDuplicate));
    assert_eq!(udp.give(&forged(&frame)), Err(DropReason::Authentication));
    let committed = udp.session.rekey_committed(udp.now, token).expect("pending");
    assert_eq!(committed.also_to, Some(AWAY));
}

#[test]
fn no_frame_behind_a_pending_rekey_is_taken() {
    let mut udp = shared();
    let (token, _) = pending(&mut udp);
    for frame_type in [Data, DataFrag, Ping, Pong, Rekey, Bye] {
        let frame = udp.seal(frame_type, udp.seq, &SALT);
        assert_eq!(udp.give(&frame), Err(DropReason::RekeyPending), "{frame_type:?} under the old keys");
    }
    let mut ahead = shared();
    device_switches(&mut ahead);
    for seq in [0, 1, 2, 9] {
        let frame = ahead.seal(Data, seq, b"under the new keys");
        udp.give(&frame).expect_err("it is sent again after the switch");
    }
    assert_eq!((udp.session.seen_seq(), udp.session.pending()), (Some(token.seq), 1));
    udp.session.rekey_committed(udp.now, token).expect("pending");
    device_switches(&mut udp);
    udp.message(b"under new keys");
}

#[test]
fn the_frame_committed_before_a_pending_rekey_is_still_acknowledged_again() {
    let mut udp = shared();
    let (token, message) = udp.message(b"m");
    udp.session.committed(udp.now, token).expect("pending");
    pending(&mut udp);
    let utack = udp.utack(&message);
    assert_eq!(udp.give(&message), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
}

#[test]
fn a_refused_rekey_is_forgotten_and_its_repeat_is_new() {
    let mut udp = shared();
    let (token, frame) = pending(&mut udp);
    udp.session.rekey_refused(token);
    assert!(udp.session.pending_rekey().is_none());
    assert_eq!(udp.session.rekey_committed(udp.now, token), None);
    assert_eq!(udp.give(&frame), Ok(Got::Rekey(token)));
    udp.session.rekey_refused(token);
    udp.message(b"the device may also go on under the old keys");
}

#[test]
fn the_other_calls_for_tokens_do_not_take_a_rekey_for_a_message() {
    let mut udp = shared();
    let (token, frame) = pending(&mut udp);
    assert_eq!(udp.session.committed(udp.now, token), None, "its UTACK would name DATA");
    assert!(udp.session.pending_rekey().is_some());
    udp.session.refused(token);
    assert_eq!(udp.give(&frame), Ok(Got::Rekey(token)));
    assert!(udp.session.withdraw(token));
    assert!(udp.session.pending_rekey().is_none());
    assert_eq!(udp.give(&frame), Ok(Got::Rekey(token)));
    let (message, epoch_before) = (CommitToken { epoch: 0, seq: 0 }, CommitToken { epoch: 9, ..token });
    udp.session.rekey_refused(message);
    udp.session.rekey_refused(epoch_before);
    assert!(udp.session.rekey_committed(udp.now, message).is_none());
    assert!(udp.session.rekey_committed(udp.now, token).is_some());
}

#[test]
fn what_is_to_be_persisted_is_what_the_switch_leads_to() {
    let mut udp = shared();
    let (token, _) = pending(&mut udp);
    let PendingRekey { before, after } = udp.session.pending_rekey().expect("pending");
    assert_eq!((before.c2s == udp.keys.c2s, before.s2c == udp.keys.s2c), (true, true));
    udp.session.rekey_committed(udp.now, token).expect("pending");
    device_switches(&mut udp);
    assert_eq!((after.epoch, after.session_id), (1, SESSION));
    assert_eq!((after.keys.c2s == udp.keys.c2s, after.keys.s2c == udp.keys.s2c), (true, true));
    let (last, kept) =
        (after.last_rekey.expect("a REKEY"), udp.session.secrets().last_rekey.expect("a REKEY"));
    assert_eq!((last.fingerprint, last.seq), (kept.fingerprint, kept.seq));
    assert!(last.old_c2s == before.c2s && kept.old_c2s == before.c2s);
}

#[test]
fn the_rekey_that_began_the_epoch_has_a_name_for_as_long_as_the_epoch_lasts() {
    let mut udp = shared();
    assert_eq!(udp.session.begun_by(), [0; 8]);
    let (token, _) = pending(&mut udp);
    assert_eq!(udp.session.begun_by(), [0; 8], "not yet");
    let name = udp.session.pending_rekey().expect("pending").after.begun_by;
    assert_ne!(name, [0; 8]);
    udp.session.rekey_committed(udp.now, token).expect("pending");
    device_switches(&mut udp);
    udp.advance(secs(16));
    let secrets = udp.session.secrets();
    assert_eq!((secrets.begun_by, secrets.last_rekey.is_none()), (name, true), "beyond the repeats");
    next_owner(&mut udp, secrets, None);
    assert_eq!(udp.session.begun_by(), name);
    // Another REKEY that comes to nothing does not change it.
    let other = udp.next(Rekey, &[1; 32]);
    let Ok(Got::Rekey(token)) = udp.give(&other) else { panic!("a REKEY") };
    assert_ne!(udp.session.pending_rekey().expect("pending").after.begun_by, name);
    assert_eq!(udp.session.begun_by(), name);
    udp.session.rekey_refused(token);
    assert_eq!(udp.session.secrets().begun_by, name);
}

#[test]
fn a_rekey_that_was_persisted_and_not_journaled_happens_with_the_next_owner() {
    let mut udp = shared();
    let (token, frame) = pending(&mut udp);
    let PendingRekey { before, after } = udp.session.pending_rekey().expect("pending");
    // The journal says that the session is in epoch 0.
    let secrets =
        SessionSecrets { session_id: SESSION, epoch: 0, keys: before, begun_by: [0; 8], last_rekey: None };
    next_owner(&mut udp, secrets, None);
    assert_eq!(udp.give(&frame), Ok(Got::Rekey(token)), "the device repeats it");
    let again = udp.session.pending_rekey().expect("pending");
    assert!(again.after.keys.c2s == after.keys.c2s, "the same keys");
    let utack = udp.utack(&frame);
    assert_eq!(udp.session.rekey_committed(udp.now, token).expect("pending").utack.to_vec(), utack);
    device_switches(&mut udp);
    udp.message(b"under new keys");
}

#[test]
fn a_rekey_whose_utack_was_lost_is_acknowledged_by_the_next_owner_for_fifteen_seconds() {
    let mut udp = shared();
    let (_, frame) = pending(&mut udp);
    let utack = udp.utack(&frame);
    let after = udp.session.pending_rekey().expect("pending").after;
    // The journal says that the session is in epoch 1.
    next_owner(&mut udp, after, None);
    udp.advance(millis(14_999));
    assert_eq!(udp.give(&frame), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    udp.advance(millis(1));
    assert_eq!(udp.give(&frame), Err(DropReason::Authentication));
    device_switches(&mut udp);
    udp.message(b"under new keys");
}

#[test]
fn a_session_that_ended_meanwhile_does_not_switch() {
    let mut udp = Udp::with(&SessionConfig { idle_timeout: secs(90), ..SessionConfig::udp_shared() });
    let (token, _) = pending(&mut udp);
    udp.advance(secs(90));
    assert_eq!(udp.session.closed(), Some(CloseReason::Idle));
    assert_eq!(udp.session.rekey_committed(udp.now, token), None);
}

#[test]
fn the_server_starts_no_rekey_of_its_own_where_it_must_be_committed_first() {
    let mut udp = shared();
    assert_eq!(udp.session.start_rekey(Secret::new(SALT)), Err(SendError::RekeyByDeviceOnly));
}

#[test]
fn a_message_under_way_to_the_device_is_sent_again_under_the_new_keys() {
    let mut udp = shared();
    udp.lent = b"down".to_vec();
    udp.session.send(4).expect("taken");
    let first = udp.sent();
    let (token, _) = pending(&mut udp);
    udp.session.rekey_committed(udp.now, token).expect("pending");
    device_switches(&mut udp);
    let second = udp.sent();
    assert_eq!(udp.open(&second), (Data, header(&first).1 + 1, b"down".to_vec()));
}

#[test]
fn numbers_are_exact_again_after_a_rekey_so_that_two_frames_move_the_address() {
    let mut udp = shared();
    let secrets = udp.session.secrets();
    next_owner(&mut udp, secrets, None);
    let (token, _) = pending(&mut udp);
    udp.session.rekey_committed(udp.now, token).expect("pending");
    device_switches(&mut udp);
    assert!(!udp.session.is_settled());
    for _ in 0..2 {
        let ping = udp.next(Ping, b"");
        udp.give_from(AWAY, &ping).expect("a PING");
    }
    assert_eq!((udp.session.is_settled(), udp.session.path()), (true, AWAY));
}

#[test]
fn debug_output_of_what_is_handed_over_holds_no_secret() {
    let mut udp = shared();
    pending(&mut udp);
    let PendingRekey { before, after } = udp.session.pending_rekey().expect("pending");
    let secrets =
        [before.c2s.duplicate(), before.s2c.duplicate(), after.keys.c2s.duplicate(), Secret::new(SALT)];
    let resumed =
        Resumed { secrets: after, committed: None, fragment_open: false, next_seq: 0, established: true };
    let text = format!("{:?} {resumed:?} {:?} {before:?}", udp.session, udp.session.pending_rekey());
    for secret in secrets {
        let list = format!("{:?}", &secret.expose()[..4]);
        assert!(!text.contains(list.trim_matches(['[', ']'])), "bytes of a secret in {text}");
        assert!(!text.contains(&hex::encode(&secret.expose()[..4])), "digits of a secret in {text}");
    }
}
