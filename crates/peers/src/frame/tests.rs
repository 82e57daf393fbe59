use proptest::prelude::*;

use super::*;
use crate::buffer::FrameBuffer;

fn pod() -> PodId {
    PodId::from_bytes(*b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
}

fn device() -> DeviceId {
    DeviceId::from_bytes([2, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5])
}

fn session() -> SessionId {
    SessionId::from_bytes([0x5e; 16])
}

fn controls() -> Vec<Control> {
    vec![
        Control::SlotMoved { slot: 63, owner: pod(), generation: 7 },
        Control::HandOver { slot: 258 },
        Control::CloseSession { device: device(), session: session(), epoch: DeviceEpoch(9), reason: 3 },
        Control::Revoked { position: 1_000, device: device() },
        Control::Other { kind: 200, bytes: vec![1, 2, 3] },
    ]
}

/// Version 1 as it was first sent. A change here breaks a rolling upgrade: raise the version instead.
#[test]
fn golden_bytes_of_version_1_stand() {
    let mut out = Vec::new();
    hello(&mut out, &Hello { pod: pod(), release: "0.1.0".into() });
    heartbeat(&mut out, &Heartbeat { counter: 258, kafka_ok_within_ms: Some(40) });
    heartbeat(&mut out, &Heartbeat { counter: 259, kafka_ok_within_ms: None });
    relayed(&mut out, Way::ToOwner, 5, "192.0.2.1:5683".parse().unwrap(), b"\x02abc");
    relayed(&mut out, Way::Back, 5, "[2001:db8::1]:5683".parse().unwrap(), b"\x02abc");
    controls().iter().for_each(|frame| control(&mut out, frame));
    relayed(&mut out, Way::ToHandshake, 5, "192.0.2.1:5683".parse().unwrap(), b"\x02abc");
    let golden = concat!(
        "001b01",
        "534c505201",
        "00112233445566778899aabbccddeeff",
        "05302e312e30",
        "000c02",
        "0000000000000102",
        "00000028",
        "000c02",
        "0000000000000103",
        "ffffffff",
        "000f03",
        "00000005",
        "04c0000201",
        "1633",
        "02616263",
        "001f04",
        "00000005",
        "0620010db8000000000000000000000001",
        "00000000",
        "1633",
        "02616263",
        "001605",
        "003f",
        "00112233445566778899aabbccddeeff",
        "00000007",
        "000206",
        "0102",
        "001f07",
        "02a1b2c3d4e5",
        "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e",
        "0000000000000009",
        "03",
        "000e08",
        "00000000000003e8",
        "02a1b2c3d4e5",
        "0003c8",
        "010203",
        "000f09",
        "00000005",
        "04c0000201",
        "1633",
        "02616263",
    );
    assert_eq!(hex::encode(out), golden);
}

fn read_back(bytes: &[u8], check: impl FnOnce(Frame<'_>)) {
    let mut payload = bytes[HEADER..].to_vec();
    assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), payload.len());
    check(parse(bytes[2], &mut payload).unwrap());
}

#[test]
fn every_frame_is_read_back() {
    for frame in controls() {
        let mut out = Vec::new();
        control(&mut out, &frame);
        read_back(&out, |seen| assert_eq!(seen, Frame::Control(frame)));
    }
    let mut out = Vec::new();
    let sent = Hello { pod: pod(), release: "1.2.3".into() };
    hello(&mut out, &sent);
    read_back(&out, |seen| assert_eq!(seen, Frame::Hello(sent)));
    for address in ["192.0.2.1:1", "[fe80::1%7]:65535"] {
        let mut out = Vec::new();
        let address: SocketAddr = address.parse().unwrap();
        relayed(&mut out, Way::Back, 9, address, &[7; MAX_DATAGRAM]);
        read_back(&out, |seen| {
            assert_eq!(seen, Frame::Reply { flow: 9, destination: address, bytes: &mut [7; MAX_DATAGRAM] });
        });
        let mut out = Vec::new();
        relayed(&mut out, Way::ToHandshake, 9, address, &[7; 44]);
        read_back(&out, |seen| {
            assert_eq!(seen, Frame::Handshake { flow: 9, source: address, bytes: &mut [7; 44] });
        });
    }
}

#[test]
fn a_release_that_is_too_long_is_cut_at_a_letter() {
    let mut out = Vec::new();
    hello(&mut out, &Hello { pod: pod(), release: "ä".repeat(40) + "x" });
    read_back(&out, |seen| assert_eq!(seen, Frame::Hello(Hello { pod: pod(), release: "ä".repeat(32) })));
}

#[test]
fn every_cut_of_a_known_frame_is_refused_and_more_bytes_are_not() {
    for frame in controls().into_iter().filter(|frame| !matches!(frame, Control::Other { .. })) {
        let mut out = Vec::new();
        control(&mut out, &frame);
        for cut in HEADER..out.len() {
            assert_eq!(
                parse(out[2], &mut out[HEADER..cut].to_vec()),
                Err(FrameError::Short(out[2])),
                "{frame:?}"
            );
        }
        out.push(0xff);
        assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Ok(Frame::Control(frame)));
    }
}

#[test]
fn a_hello_of_another_version_or_protocol_is_a_clear_error() {
    let mut out = Vec::new();
    hello(&mut out, &Hello { pod: pod(), release: "2.0.0".into() });
    out[HEADER + 4] = 2;
    assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Err(FrameError::Version(2)));
    out[HEADER] = b'X';
    assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Err(FrameError::NoHello));
}

#[test]
fn a_datagram_that_is_empty_or_too_long_or_from_no_known_family_is_refused() {
    let address = "192.0.2.1:1".parse().unwrap();
    let mut out = Vec::new();
    relayed(&mut out, Way::ToOwner, 0, address, &[0; MAX_DATAGRAM + 1]);
    assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Err(FrameError::Field(3)));
    let mut out = Vec::new();
    relayed(&mut out, Way::ToOwner, 0, address, &[]);
    assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Err(FrameError::Field(3)));
    let mut out = Vec::new();
    relayed(&mut out, Way::ToOwner, 0, address, &[1]);
    out[HEADER + 4] = 5;
    assert_eq!(parse(out[2], &mut out[HEADER..].to_vec()), Err(FrameError::Field(3)));
}

#[test]
fn a_kind_of_a_newer_version_is_known_as_such() {
    assert_eq!(parse(99, &mut [1, 2, 3]), Ok(Frame::Unknown(99)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let mut buffer = FrameBuffer::new();
        buffer.space()[..bytes.len()].copy_from_slice(&bytes);
        buffer.filled(bytes.len());
        let mut frames = 0;
        while let Ok(Some((kind, payload))) = buffer.next_frame() {
            let _ = parse(kind, payload);
            frames += 1;
        }
        prop_assert!(frames <= bytes.len() / HEADER);
    }
}
