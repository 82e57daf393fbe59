//! Properties on random input. A failing case is printed with its values and its seed.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use usmp::crypto::RustCrypto;
use usmp::wire::{
    Challenge, Frame, FrameType, Header, Hello, HelloAck, HelloRetry, MAX_CHUNK, MAX_MESSAGE, MAX_PAYLOAD,
    SessionOk, StreamDecode, Utack, decode_stream, emit,
};
use usmp::{
    OpenFrameError, Reassembly, ReassemblyError, ReplayWindow, SealError, Secret, SessionId, WindowError,
    open_frame, seal_frame,
};

fn frame_of(code: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; 492];
    let length = emit(code.into(), seq, payload, &mut out).expect("fits");
    out[..length].to_vec()
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were_written(code: u8, seq: u32, payload in vec(any::<u8>(), 0..=MAX_PAYLOAD)) {
        let bytes = frame_of(code, seq, &payload);
        prop_assert_eq!(bytes.len(), 12 + payload.len());
        let frame = Frame::parse(&bytes).expect("well-formed");
        prop_assert_eq!(frame.payload(), &payload[..]);
        let length = payload.len() as u16;
        prop_assert_eq!(frame.header(), Header { frame_type: FrameType::from(code), seq, length });
        prop_assert_eq!(frame.header().frame_type.code(), code);
    }

    #[test]
    fn any_flipped_bit_is_noticed(code: u8, seq: u32, payload in vec(any::<u8>(), 0..=MAX_PAYLOAD), at: prop::sample::Index) {
        let mut bytes = frame_of(code, seq, &payload);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Frame::parse(&bytes).is_err(), "bit {}", bit);
    }

    #[test]
    fn stream_is_cut_into_the_same_frames_wherever_it_is_split(
        frames in vec((any::<u8>(), any::<u32>(), vec(any::<u8>(), 0..=MAX_PAYLOAD)), 1..5),
        pieces in vec(1..700_usize, 1..40),
    ) {
        let frames: Vec<_> = frames.iter().map(|(code, seq, payload)| frame_of(*code, *seq, payload)).collect();
        let stream = frames.concat();
        let (mut buffer, mut seen, mut arrived) = (Vec::new(), Vec::new(), 0);
        for piece in pieces.into_iter().cycle() {
            let end = stream.len().min(arrived + piece);
            buffer.extend_from_slice(&stream[arrived..end]);
            arrived = end;
            loop {
                match decode_stream(&buffer).expect("only frames") {
                    StreamDecode::Frame(length) => seen.push(buffer.drain(..length).collect::<Vec<_>>()),
                    StreamDecode::NeedMore(needed) => {
                        prop_assert!(needed > buffer.len(), "{} of {}", buffer.len(), needed);
                        break;
                    }
                }
            }
            if arrived == stream.len() {
                break;
            }
        }
        prop_assert_eq!(seen, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_start_of_a_frame_asks_for_no_more_than_the_frame(code: u8, seq: u32, payload in vec(any::<u8>(), 0..64)) {
        let bytes = frame_of(code, seq, &payload);
        for cut in 0..bytes.len() {
            let StreamDecode::NeedMore(needed) = decode_stream(&bytes[..cut]).expect("the start of a frame") else {
                return Err(TestCaseError::fail(format!("a frame after {cut} bytes")));
            };
            prop_assert!(needed > cut && needed <= bytes.len(), "{} after {} of {}", needed, cut, bytes.len());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(start in prop::option::of(0..3_usize), mut bytes in vec(any::<u8>(), 0..600)) {
        let starts: [&[u8]; 3] = [&[0xCD, 0xAB, 2], &[0xAC, 0xAC], &[0xCD, 0xAB, 2, 5, 0, 0, 0, 0, 0, 0]];
        if let Some(start) = start {
            bytes.splice(..starts[start].len().min(bytes.len()), starts[start].iter().copied());
        }
        let utack = Utack::parse(&bytes);
        let _ = decode_stream(&bytes);
        if let Ok(frame) = Frame::parse(&bytes) {
            prop_assert!(utack.is_none());
            let _ = (Hello::parse(&frame), HelloAck::parse(&frame), HelloRetry::parse(&frame));
            let _ = (Challenge::parse(&frame), SessionOk::parse(&frame));
        }
        prop_assert!(open_frame::<RustCrypto>(&Secret::new([1; 32]), SessionId([2; 16]), &mut bytes).is_err());
    }

    #[test]
    fn sealed_frames_open_and_only_as_they_were(
        key: [u8; 32], session: [u8; 16], code: u8, seq: u32,
        plaintext in vec(any::<u8>(), 0..=MAX_CHUNK), at: prop::sample::Index,
    ) {
        let (key, session) = (Secret::new(key), SessionId(session));
        let mut out = [0; 492];
        let length = seal_frame::<RustCrypto>(&key, session, code.into(), seq, &plaintext, &mut out).expect("fits");
        let frame = out[..length].to_vec();
        Frame::parse(&frame).expect("well-formed");

        let mut good = frame.clone();
        let opened = open_frame::<RustCrypto>(&key, session, &mut good).expect("opens");
        prop_assert_eq!((opened.frame_type.code(), opened.seq), (code, seq));
        prop_assert_eq!(&*opened.plaintext, &plaintext[..]);

        let mut wrong = frame;
        let bit = at.index((length - 2) * 8);
        // The CRC authenticates nothing, so its two bytes are left out.
        let byte = if bit / 8 < 10 { bit / 8 } else { bit / 8 + 2 };
        wrong[byte] ^= 1 << (bit % 8);
        prop_assert!(open_frame::<RustCrypto>(&key, session, &mut wrong).is_err(), "byte {}", byte);
    }

    #[test]
    fn window_agrees_with_a_set_of_all_numbers_seen(steps in vec(prop_oneof![
        (0..200_u32).prop_map(|step| (false, step)),
        (0..80_u32).prop_map(|step| (true, step)),
    ], 1..300), start in prop_oneof![Just(0_u32), Just(u32::MAX - 3000), any::<u32>()]) {
        let mut window = ReplayWindow::new();
        let (mut seen, mut highest) = (BTreeSet::new(), 0_u32);
        for (back, step) in steps {
            let from = highest.max(start);
            let seq = if back { from.saturating_sub(step) } else { from.saturating_add(step / 40) };
            let expected = if u64::from(seq) + 64 <= u64::from(highest) {
                Err(WindowError::TooOld)
            } else if seen.contains(&seq) {
                Err(WindowError::Duplicate)
            } else {
                Ok(())
            };
            prop_assert_eq!(window.check(seq), expected, "{} after {}", seq, highest);
            window.mark(seq);
            if expected.is_ok() {
                seen.insert(seq);
                highest = highest.max(seq);
            }
            prop_assert_eq!(window.highest(), highest);
        }
    }

    #[test]
    fn messages_come_back_however_they_are_cut(
        chunks in vec(vec(any::<u8>(), 0..=MAX_CHUNK), 1..=4), first_seq in 0..u32::MAX - 8, junk in vec(vec(any::<u8>(), 0..=MAX_CHUNK), 0..=3),
    ) {
        let mut state = Reassembly::new();
        let mut buffer = [0; MAX_MESSAGE];
        // The rest of a message whose end never came must not show up in the next one.
        for (seq, chunk) in (0..).zip(&junk) {
            state.push_fragment(seq, chunk, &mut buffer).expect("up to three fragments");
        }
        let first_seq = first_seq + 4;
        let (last, fragments) = chunks.split_last().expect("one at least");
        let mut seq = first_seq;
        for chunk in fragments {
            state.push_fragment(seq, chunk, &mut buffer).expect("up to three fragments");
            seq += 1;
            prop_assert!(state.is_open() && state.continues(seq) && !state.continues(seq + 1));
        }
        if fragments.is_empty() {
            state.reset();
        }
        let message = state.finish(last, &mut buffer).expect("fits");
        prop_assert_eq!(&*message, &chunks.concat()[..]);
        prop_assert!(!state.is_open());
    }

    #[test]
    fn reassembly_never_holds_more_than_three_fragments(frames in vec((0..6_u32, 0..=500_usize), 0..60)) {
        let mut state = Reassembly::new();
        let mut buffer = [0; MAX_MESSAGE];
        let (mut seq, mut run) = (0_u32, 0);
        for (step, length) in frames {
            seq += step;
            let continues = state.continues(seq);
            prop_assert_eq!(continues, run > 0 && step == 1);
            run = if continues { run + 1 } else { 1 };
            let expected = if run > 3 {
                Err(ReassemblyError::TooManyFragments)
            } else if length > MAX_CHUNK {
                Err(ReassemblyError::TooLong)
            } else {
                Ok(())
            };
            prop_assert_eq!(state.push_fragment(seq, &vec![0; length], &mut buffer), expected);
            if expected.is_err() {
                run = 0;
            }
            prop_assert_eq!(state.is_open(), run > 0);
        }
    }
}

#[test]
fn buffers_that_are_too_small_stay_unchanged() {
    let (key, session) = (Secret::new([1; 32]), SessionId([2; 16]));
    let mut out = [9; 47];
    let sealed = seal_frame::<RustCrypto>(&key, session, FrameType::Data, 0, &[1; 8], &mut out);
    assert_eq!((sealed, out), (Err(SealError::BufferTooSmall), [9; 47]));
    let mut out = [9; 600];
    let sealed = seal_frame::<RustCrypto>(&key, session, FrameType::Data, 0, &[1; 453], &mut out);
    assert_eq!((sealed, out), (Err(SealError::PlaintextTooLong), [9; 600]));
    let emitted = emit(FrameType::Data, 0, &[1; 481], &mut out);
    assert!(emitted.is_err() && out == [9; 600]);
}

#[test]
fn payloads_shorter_than_nonce_and_tag_do_not_open() {
    for length in 0..28 {
        let mut frame = frame_of(5, 0, &vec![0; length]);
        let opened =
            open_frame::<RustCrypto>(&Secret::new([1; 32]), SessionId([0; 16]), &mut frame).map(drop);
        assert_eq!(opened, Err(OpenFrameError::PayloadTooShort), "{length} bytes");
    }
}
