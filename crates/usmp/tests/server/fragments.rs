//! Messages of several frames, device to server, on UDP (WIRE.md section 8, W13).

use usmp::server::*;

use crate::support::*;

fn fragment(udp: &mut Udp, chunk: &[u8]) -> Vec<u8> {
    let frame = udp.next(DataFrag, chunk);
    let utack = udp.utack(&frame);
    assert_eq!(udp.give(&frame), Ok(Got::Utack(utack, Acknowledged::Fragment)));
    frame
}

fn last(udp: &mut Udp, chunk: &[u8]) -> Vec<u8> {
    let frame = udp.next(Data, chunk);
    match udp.give(&frame) {
        Ok(Got::Message(token, payload)) => {
            assert_eq!(token.seq, udp.seq - 1, "named by its last frame");
            payload
        }
        other => panic!("expected a message, got {other:?}"),
    }
}

#[test]
fn two_to_four_frames_make_one_message() {
    for fragments in 1..=3 {
        let mut udp = Udp::new();
        let message: Vec<u8> = (0..452 * fragments + 7).map(|n| n as u8).collect();
        let mut chunks = message.chunks(452).peekable();
        while let Some(chunk) = chunks.next() {
            if chunks.peek().is_some() {
                fragment(&mut udp, chunk);
            } else {
                assert_eq!(last(&mut udp, chunk), message);
            }
        }
        assert_eq!(udp.pool.lent(), 0, "the buffer went back");
    }
}

#[test]
fn the_longest_message_is_1808_bytes() {
    let mut udp = Udp::new();
    for _ in 0..3 {
        fragment(&mut udp, &[5; 452]);
    }
    assert_eq!(last(&mut udp, &[5; 452]), vec![5; 1808]);
}

#[test]
fn chunks_may_have_any_size_even_none() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"");
    fragment(&mut udp, b"a");
    assert_eq!(last(&mut udp, b""), b"a");
}

#[test]
fn a_fragment_is_acknowledged_at_once_and_again() {
    let mut udp = Udp::new();
    let frame = fragment(&mut udp, b"head ");
    let utack = udp.utack(&frame);
    assert_eq!(udp.give(&frame), Ok(Got::Utack(utack, Acknowledged::Duplicate)));
    assert_eq!(last(&mut udp, b"tail"), b"head tail", "the repeat is not in it");
}

#[test]
fn the_last_frame_waits_for_the_commit() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"head ");
    last(&mut udp, b"tail");
    assert_eq!(udp.session.pending(), 1);
}

#[test]
fn without_a_buffer_a_fragment_is_not_acknowledged_and_its_repeat_is_new() {
    let mut udp = Udp::new();
    let taken = udp.pool.lend().expect("one buffer");
    let frame = udp.next(DataFrag, b"head ");
    assert_eq!(udp.give(&frame), Err(DropReason::NoBuffer));
    assert_eq!(udp.session.seen_seq(), Some(0));
    udp.pool.give_back(taken);
    let utack = udp.utack(&frame);
    assert_eq!(udp.give(&frame), Ok(Got::Utack(utack, Acknowledged::Fragment)));
    assert_eq!(last(&mut udp, b"tail"), b"head tail");
}

#[test]
fn a_frame_after_a_gap_starts_a_new_message() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    udp.seq += 1;
    assert_eq!(last(&mut udp, b"next"), b"next");
    assert_eq!(udp.pool.lent(), 0);
}

#[test]
fn a_fragment_after_a_gap_starts_a_new_message() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    udp.seq += 1;
    fragment(&mut udp, b"new ");
    assert_eq!(last(&mut udp, b"tail"), b"new tail");
}

#[test]
fn a_ping_inside_a_message_is_answered_and_ends_the_run() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    let ping = udp.next(Ping, b"");
    assert!(matches!(udp.give(&ping), Ok(Got::Utack(_, Acknowledged::Ping))));
    assert_eq!(udp.pool.lent(), 0);
    assert_eq!(last(&mut udp, b"tail"), b"tail");
}

#[test]
fn bye_inside_a_message_is_honoured() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    let bye = udp.next(Bye, b"");
    assert!(matches!(udp.give(&bye), Ok(Got::Utack(_, Acknowledged::Bye))));
    assert_eq!(udp.pool.lent(), 0);
}

#[test]
fn a_fourth_fragment_is_consumed_without_utack_and_the_session_goes_on() {
    let mut udp = Udp::new();
    for _ in 0..3 {
        fragment(&mut udp, b"x");
    }
    let fourth = udp.next(DataFrag, b"x");
    assert_eq!(udp.give(&fourth), Err(DropReason::TooManyFragments));
    assert_eq!(udp.give(&fourth), Err(DropReason::Stale), "never acknowledged, so the device's send fails");
    assert_eq!(udp.pool.lent(), 0);
    assert_eq!(last(&mut udp, b"next"), b"next");
}

#[test]
fn a_message_that_stops_half_way_gives_its_buffer_back_after_thirty_seconds() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    udp.advance(millis(29_999));
    assert_eq!(udp.pool.lent(), 1);
    assert_eq!(udp.session.poll_timeout(), Some(udp.now + millis(1)), "the driver is woken for it");
    udp.advance(millis(1));
    assert_eq!(udp.pool.lent(), 0);
    assert_eq!(last(&mut udp, b"tail"), b"tail", "what comes then is a message of its own");
}

#[test]
fn release_gives_the_buffer_back() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    udp.session.release(&mut udp.pool);
    assert_eq!(udp.pool.lent(), 0);
}

#[test]
fn an_idle_session_gives_its_buffer_back() {
    let mut udp = Udp::new();
    fragment(&mut udp, b"abandoned");
    udp.advance(secs(3600));
    assert_eq!(udp.session.closed(), Some(CloseReason::Idle));
    assert_eq!(udp.pool.lent(), 0);
}

#[test]
fn fragments_of_a_fifth_pending_message_wait_at_its_last_frame() {
    let mut udp = Udp::new();
    let tokens: Vec<_> = (0..4).map(|_| udp.message(b"m").0).collect();
    fragment(&mut udp, b"head ");
    let tail = udp.next(Data, b"tail");
    assert_eq!(udp.give(&tail), Err(DropReason::PendingFull));
    udp.session.committed(udp.now, tokens[0]).expect("pending");
    assert!(matches!(udp.give(&tail), Ok(Got::Message(_, payload)) if payload == b"head tail"));
}
