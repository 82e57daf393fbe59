//! WIRE.md sections 2, 3 and 12.2: what may reach a state machine at all.

use usmp::server::DropReason;
use usmp::server::demux::{Datagram, classify};
use usmp::wire::{self, FrameType, Utack};

use crate::support::*;

fn plain(frame_type: FrameType, length: usize) -> Vec<u8> {
    let mut out = [0; 492];
    let length = wire::emit(frame_type, 9, &vec![3; length], &mut out).expect("fits");
    out[..length].to_vec()
}

#[test]
fn both_hellos_are_told_by_their_length() {
    for (cookie, length) in [(None, 50), (Some([7; 16]), 66)] {
        let mut out = [0; 66];
        let hello = wire::Hello { cookie, ..hello() };
        assert_eq!(hello.emit(&mut out), Ok(length));
        assert_eq!(classify(&out[..length]), Ok(Datagram::Hello(hello)));
    }
}

#[test]
fn a_hello_of_another_length_is_refused() {
    for length in [0, 37, 39, 53, 55] {
        assert_eq!(classify(&plain(FrameType::Hello, length)), Err(DropReason::HandshakeLength), "{length}");
    }
}

#[test]
fn a_hello_ack_is_told() {
    assert!(matches!(classify(&plain(FrameType::HelloAck, 32)), Ok(Datagram::HelloAck(ack)) if ack.seq == 9));
    assert_eq!(classify(&plain(FrameType::HelloAck, 31)), Err(DropReason::HandshakeLength));
}

#[test]
fn server_frames_from_a_device_are_refused() {
    for (frame_type, length) in
        [(FrameType::Challenge, 64), (FrameType::SessionOk, 48), (FrameType::HelloRetry, 16)]
    {
        assert_eq!(classify(&plain(frame_type, length)), Err(DropReason::UnexpectedType), "{frame_type:?}");
    }
}

#[test]
fn sealed_frames_show_the_prefix_of_their_session() {
    for frame_type in [Data, Ping, Pong, Bye, DataFrag, Rekey] {
        let frame = Udp::half_open().seal(frame_type, 77, b"");
        assert_eq!(
            classify(&frame),
            Ok(Datagram::Sealed { prefix: SESSION.prefix(), frame_type, seq: 77 }),
            "{frame_type:?}"
        );
    }
}

#[test]
fn a_sealed_frame_without_room_for_nonce_and_tag_is_refused() {
    assert_eq!(classify(&plain(Data, 27)), Err(DropReason::PayloadTooShort));
    assert!(classify(&plain(Data, 28)).is_ok());
}

#[test]
fn unknown_types_and_error_are_refused() {
    for code in [0, 12, 0x55, 254, 255] {
        assert_eq!(classify(&plain(FrameType::from_code(code), 32)), Err(DropReason::UnknownType), "{code}");
    }
}

#[test]
fn version_1_is_refused_by_name_before_any_reply() {
    for version in [0, 1, 3] {
        let mut frame = plain(FrameType::Hello, 38);
        frame[2] = version;
        mend(&mut frame);
        assert_eq!(classify(&frame), Err(DropReason::Version), "{version}");
    }
}

#[test]
fn noise_is_refused_by_the_first_check_that_sees_it() {
    let good = plain(FrameType::Hello, 38);
    assert_eq!(classify(&[]), Err(DropReason::TooShort));
    assert_eq!(classify(&good[..11]), Err(DropReason::TooShort));
    let mut wrong = good.clone();
    wrong[0] = 0xAB;
    assert_eq!(classify(&wrong), Err(DropReason::Magic));
    let mut wrong = good.clone();
    wrong[8..10].copy_from_slice(&481_u16.to_le_bytes());
    assert_eq!(classify(&wrong), Err(DropReason::Length));
    assert_eq!(classify(&good[..49]), Err(DropReason::Size));
    assert_eq!(classify(&[&good[..], &[0]].concat()), Err(DropReason::Size), "a trailing byte");
    assert_eq!(classify(&[&good[..], &good[..]].concat()), Err(DropReason::Size), "two frames");
    let mut wrong = good;
    wrong[20] ^= 1;
    assert_eq!(classify(&wrong), Err(DropReason::Crc));
}

#[test]
fn utacks_are_told_before_anything_else() {
    let plain = Utack::plain(FrameType::Challenge, 3);
    assert_eq!(classify(&plain.emit()), Ok(Datagram::Utack(plain)));
    let sealed = Utack { mac: Some([9; 8]), ..Utack::plain(Data, 4) };
    assert_eq!(classify(&sealed.emit()), Ok(Datagram::Utack(sealed)));
    assert_eq!(classify(&[&sealed.emit()[..], b"more"].concat()), Ok(Datagram::Utack(sealed)));
    assert_eq!(classify(&plain.emit()[..6]), Err(DropReason::TooShort));
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    use DropReason::*;
    let all = [
        TooShort,
        Magic,
        Version,
        Length,
        Size,
        Crc,
        UnknownType,
        UnexpectedType,
        HandshakeLength,
        PayloadTooShort,
        ExplicitNonce,
        Authentication,
        WrongProof,
        Stale,
        PendingDuplicate,
        PendingFull,
        NoBuffer,
        Sequence,
        SequenceExhausted,
        TooManyFragments,
        InsideMessage,
        RekeyLength,
        RekeyCollision,
        ControlFlood,
        UtackUnexpected,
        UtackMac,
        Closed,
    ];
    let names: std::collections::HashSet<_> = all.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), all.len());
}
