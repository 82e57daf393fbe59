//! The recorded trace of the replay window (WIRE.md section 7), unchanged.

use usmp::crypto::Provider;
use usmp::wire::Frame;
use usmp::{ReplayWindow, Secret, SessionId, WindowError, open_frame};

use super::vectors::{array, at, bytes, each, number, text};

for_each_provider!(window_follows_the_recorded_trace);

fn window_follows_the_recorded_trace<P: Provider>() {
    let section = at("/v2/replay_window_udp");
    let key = Secret::new(array(&section["k_c2s_hex"]));
    let session = SessionId(array(&section["session_id_hex"]));
    let mut window = ReplayWindow::new();
    let mut next = 0;
    each("/v2/replay_window_udp/steps", 30, |step| {
        assert_eq!(number::<usize>(&step["step"]), next, "{step}");
        next += 1;
        let mut frame = bytes(&step["frame_hex"]);
        let header = Frame::parse(&frame).expect("well-formed").header();
        assert_eq!(header.seq, number::<u32>(&step["seq"]), "{step}");
        let checked = window.check(header.seq);
        let accepted = checked.is_ok() && open_frame::<P>(&key, session, &mut frame).is_ok();
        if accepted {
            window.mark(header.seq);
        }
        assert_eq!(accepted, step["accepted"], "{checked:?}: {step}");
        assert_eq!(window.highest(), number::<u32>(&step["highest_seq_after"]), "{step}");
        assert_eq!(format!("{:016x}", window.bitmap()), text(&step["bitmap_after_hex"]), "{step}");
    });
}

#[test]
fn first_number_is_taken_once() {
    let mut window = ReplayWindow::new();
    assert_eq!(window.check(0), Ok(()));
    window.mark(0);
    assert_eq!(window.check(0), Err(WindowError::Duplicate));
}

#[test]
fn window_is_64_wide_at_both_edges() {
    let mut window = ReplayWindow::new();
    window.mark(100);
    assert_eq!(window.check(37), Ok(()));
    assert_eq!(window.check(36), Err(WindowError::TooOld));
    window.mark(36);
    assert_eq!((window.highest(), window.bitmap()), (100, 1), "a refused number changes nothing");
}

#[test]
fn jump_to_the_last_number_forgets_all_others() {
    let mut window = ReplayWindow::new();
    window.mark(3);
    window.mark(u32::MAX);
    assert_eq!((window.highest(), window.bitmap()), (u32::MAX, 1));
    assert_eq!(window.check(3), Err(WindowError::TooOld));
}
