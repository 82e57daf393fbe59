//! Who is kept out, how it is told, and who is not kept out by it.
#![cfg(feature = "embedded-broker")]

mod common;

use std::io::Write;
use std::time::Duration;

use common::device::{
    Attempt, PATIENCE, SILENCE, TcpDevice, UdpDevice, challenge, read_frame, receive, tcp_stream, udp_socket,
};
use common::{Fixture, PSK, config, id, registered};
use sluice_edge::Count;
use sluice_store::{LogPosition, Reason};
use usmp::wire::{Frame, FrameType, Utack, crc16};

#[test]
fn a_wrong_key_gets_a_challenge_and_no_session() {
    let fixture = Fixture::start();
    fixture.register(1);
    assert!(UdpDevice::try_connect(fixture.udp(), id(1), &[1; 32], SILENCE).is_none());
    assert!(TcpDevice::over(tcp_stream(fixture.tcp()), id(1), &[1; 32]).is_none());
    let event = fixture.event("security", |event| event["reason"] == "SECURITY_REASON_WRONG_KEY");
    assert_eq!((event["device"].as_str(), event["tenant"].as_str()), (Some("020000000001"), Some("default")));
    assert_eq!(fixture.handle.sessions(), 0);
    // The right one still opens a session, from the same address.
    UdpDevice::connect(fixture.udp(), id(1), &PSK);
}

#[test]
fn an_unknown_device_is_answered_like_a_known_one_and_never_named() {
    let fixture = Fixture::start();
    assert!(UdpDevice::try_connect(fixture.udp(), id(9), &PSK, SILENCE).is_none());
    assert!(TcpDevice::over(tcp_stream(fixture.tcp()), id(9), &PSK).is_none());
    let event = fixture.event("security", |event| event["reason"] == "SECURITY_REASON_UNKNOWN_DEVICE");
    assert!(event["device"].as_str().is_none_or(str::is_empty), "{event:#}");
    let records = fixture.records("security", 1);
    assert_eq!(records[0].key, b"unknown");
}

#[test]
fn a_revoked_device_loses_its_session_and_gets_no_other() {
    let fixture = Fixture::start();
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    udp.send(b"fine");
    tcp.send(b"fine");
    fixture.await_count(Count::MessagesCommitted, 2);
    for number in [1, 2] {
        let reason = Reason::default();
        let revoked = fixture.store.revoke(registered(id(number)), &reason);
        fixture.runtime.block_on(revoked).expect("a device");
    }
    let log = fixture.runtime.block_on(fixture.store.revocations_after(LogPosition::START)).expect("a log");
    common::eventually("the store hears that they are applied here", || {
        let applied = fixture.runtime.block_on(fixture.store.applied_positions()).expect("an answer");
        applied.iter().any(|one| one.pod == config().name() && one.position >= log.position)
    });
    common::device::await_frame(&udp.socket, FrameType::Bye);
    assert_eq!(tcp.receive().map(|(frame_type, ..)| frame_type), Some(FrameType::Bye));
    assert!(tcp.receive().is_none());
    fixture.event("lifecycle", |event| event["closed"]["reason"] == "CLOSE_REASON_REVOKED");
    assert!(UdpDevice::try_connect(fixture.udp(), id(1), &PSK, SILENCE).is_none());
    let event = fixture.event("security", |event| event["reason"] == "SECURITY_REASON_REVOKED");
    assert_eq!(event["device"], "020000000001");
}

#[test]
fn a_newer_session_of_a_device_takes_over_on_whichever_shard() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut first = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    first.send(b"first");
    fixture.await_count(Count::MessagesCommitted, 1);
    for _ in 0..4 {
        let mut next = UdpDevice::connect(fixture.udp(), id(1), &PSK);
        next.send(b"next");
    }
    assert_eq!(first.receive().map(|(frame_type, ..)| frame_type), Some(FrameType::Bye));
    assert!(first.receive().is_none());
    common::eventually("one session left", || fixture.handle.sessions() == 1);
    fixture.event("lifecycle", |event| event["closed"]["reason"] == "CLOSE_REASON_TAKEN_OVER");
}

#[test]
fn a_half_open_session_does_not_take_over() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut live = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    live.send(b"one");
    let _silent = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    live.send(b"two");
    assert_eq!(fixture.handle.sessions(), 2);
}

#[test]
fn a_third_half_open_session_closes_the_oldest() {
    let fixture = Fixture::start();
    fixture.register(1);
    let silent: Vec<_> = (0..3).map(|_| UdpDevice::connect(fixture.udp(), id(1), &PSK)).collect();
    common::device::await_frame(&silent[0].socket, FrameType::Bye);
    common::eventually("two left", || fixture.handle.sessions() == 2);
}

#[test]
fn version_one_is_closed_over_tcp_and_ignored_over_udp() {
    let fixture = Fixture::start();
    let mut hello = Attempt::new(id(1)).hello(0, None);
    hello[2] = 1;
    let crc = crc16(&[&hello[..10], &hello[12..]]);
    hello[10..12].copy_from_slice(&crc.to_le_bytes());
    let mut tcp = tcp_stream(fixture.tcp());
    tcp.write_all(&hello).expect("room");
    assert!(read_frame(&mut tcp).is_none());
    let udp = udp_socket(fixture.udp());
    udp.send(&hello).expect("loopback");
    assert!(receive(&udp, SILENCE).is_none());
    fixture.event("security", |event| event["reason"] == "SECURITY_REASON_VERSION");
    assert_eq!(fixture.handle.count(Count::DroppedVersion), 2);
}

#[test]
fn forged_and_replayed_frames_change_nothing_and_are_counted() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"one");
    let replay = device.session.seal_as(FrameType::Data, 0, b"one");
    device.send(b"two");
    let stranger = udp_socket(fixture.udp());
    let mut forged = device.session.seal_as(FrameType::Data, 900, b"evil");
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let crc = crc16(&[&forged[..10], &forged[12..]]);
    forged[10..12].copy_from_slice(&crc.to_le_bytes());
    // In portions that the socket's buffer surely holds.
    for portion in 1..=8 {
        for _ in 0..25 {
            stranger.send(&forged).expect("loopback");
            stranger.send(&replay).expect("loopback");
        }
        fixture.await_count(Count::DroppedForged, portion * 25);
        fixture.await_count(Count::DroppedReplay, portion * 25);
    }
    assert!(receive(&stranger, SILENCE).is_none(), "a stranger was answered");
    device.send(b"three");
    let records = fixture.records("telemetry", 3);
    let payloads: Vec<_> = records.iter().map(|record| record.payload.as_slice()).collect();
    assert_eq!(payloads, [&b"one"[..], b"two", b"three"]);
    fixture.event("security", |event| {
        event["reason"] == "SECURITY_REASON_FORGED" && event["device"] == "020000000001"
    });
    fixture.event("security", |event| {
        event["reason"] == "SECURITY_REASON_REPLAY" && event["device"] == "020000000001"
    });
}

#[test]
fn guessed_session_ids_are_refused_without_a_look_up() {
    let fixture = Fixture::start();
    fixture.register(1);
    let device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    let stranger = udp_socket(fixture.udp());
    let mut guess = device.session.seal_as(FrameType::Data, 0, b"guess");
    for number in 0..100u8 {
        guess[23] = guess[23].wrapping_add(1);
        guess[22] ^= number;
        let crc = crc16(&[&guess[..10], &guess[12..]]);
        guess[10..12].copy_from_slice(&crc.to_le_bytes());
        stranger.send(&guess).expect("loopback");
    }
    fixture.await_count(Count::DroppedForgedSession, 100);
}

#[test]
fn a_cookie_of_another_device_is_dropped() {
    let fixture = Fixture::start();
    let socket = udp_socket(fixture.udp());
    let attempt = Attempt::new(id(1));
    socket.send(&attempt.hello(0, None)).expect("loopback");
    let datagram = common::device::await_frame(&socket, FrameType::HelloRetry);
    let retry = usmp::wire::HelloRetry::parse(&Frame::parse(&datagram).expect("a frame")).expect("a cookie");
    socket.send(&Attempt::new(id(2)).hello(1, Some(retry.cookie))).expect("loopback");
    assert!(receive(&socket, SILENCE).is_none());
    fixture.await_count(Count::DroppedCookie, 1);
}

#[test]
fn a_lost_hello_retry_comes_again_after_a_second_unless_acknowledged() {
    let fixture = Fixture::start();
    let lost = udp_socket(fixture.udp());
    lost.send(&Attempt::new(id(1)).hello(0, None)).expect("loopback");
    let first = common::device::await_frame(&lost, FrameType::HelloRetry);
    let heard = udp_socket(fixture.udp());
    heard.send(&Attempt::new(id(2)).hello(0, None)).expect("loopback");
    common::device::await_frame(&heard, FrameType::HelloRetry);
    heard.send(&Utack::plain(FrameType::HelloRetry, 0).emit()).expect("loopback");
    assert_eq!(common::device::await_frame(&lost, FrameType::HelloRetry), first);
    assert!(receive(&heard, SILENCE).is_none());
}

#[test]
fn repeated_steps_get_the_same_bytes_again() {
    let fixture = Fixture::start();
    fixture.register(1);
    let socket = udp_socket(fixture.udp());
    let attempt = Attempt::new(id(1));
    let first = challenge(&socket, &attempt);
    socket.send(&attempt.hello(0, None)).expect("loopback");
    let hello_ack = attempt.hello_ack(2, &PSK, &first);
    socket.send(&hello_ack).expect("loopback");
    let ok = common::device::await_frame(&socket, FrameType::SessionOk);
    socket.send(&hello_ack).expect("loopback");
    assert_eq!(common::device::await_frame(&socket, FrameType::SessionOk), ok);
    assert_eq!(fixture.handle.sessions(), 1);
}

#[test]
fn a_device_that_fails_too_often_waits_and_its_neighbour_does_not() {
    let mut config = config();
    config.handshake.failures_before_penalty = std::num::NonZeroU32::new(2).expect("two");
    let fixture = Fixture::with(config);
    fixture.register(2);
    for _ in 0..2 {
        assert!(TcpDevice::over(tcp_stream(fixture.tcp()), id(1), &[1; 32]).is_none());
    }
    fixture.await_count(Count::DroppedProof, 2);
    // The wait is a second long, doubled with each failure: some of these come too early, to whichever shard.
    for _ in 0..6 {
        assert!(TcpDevice::over(tcp_stream(fixture.tcp()), id(1), &[1; 32]).is_none());
    }
    fixture.await_count(Count::DroppedPenalty, 1);
    TcpDevice::connect(fixture.tcp(), id(2), &PSK);
}

#[test]
fn slow_loris_connections_end_and_honest_devices_connect_meanwhile() {
    let mut config = config();
    config.handshake.tcp_step_timeout = Duration::from_millis(400);
    let fixture = Fixture::with(config);
    fixture.register(1);
    let hello = Attempt::new(id(1)).hello(0, None);
    let mut slow: Vec<_> = (0..50).map(|_| tcp_stream(fixture.tcp())).collect();
    for (count, stream) in slow.iter_mut().enumerate() {
        stream.write_all(&hello[..count]).expect("room");
    }
    let mut device = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    for stream in &mut slow {
        assert!(read_frame(stream).is_none(), "a slow connection got an answer");
    }
    fixture.await_count(Count::DroppedHandshakeTimeout, 50);
    device.send(b"still here");
    assert_eq!(fixture.records("telemetry", 1)[0].payload, b"still here");
}

#[test]
fn silent_sessions_end_after_their_idle_timeout() {
    let mut config = config();
    config.session.tcp_idle_timeout = Duration::from_millis(600);
    config.session.udp_idle_timeout = Duration::from_millis(600);
    let fixture = Fixture::with(config);
    fixture.register(2);
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    tcp.send(b"last");
    let mut udp = UdpDevice::connect(fixture.udp(), id(2), &PSK);
    udp.send(b"last");
    while tcp.receive().is_some() {}
    common::eventually("both ended", || fixture.handle.sessions() == 0);
    fixture.event("lifecycle", |event| event["closed"]["reason"] == "CLOSE_REASON_IDLE");
}

#[test]
fn a_balancer_tells_whose_connection_it_is_and_must_do_so() {
    let mut config = config();
    config.proxy_protocol.trusted = vec!["127.0.0.0/8".parse().expect("a range")];
    let fixture = Fixture::with(config);
    fixture.register(1);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x23, 0x28]);
    let mut stream = tcp_stream(fixture.tcp());
    // In two pieces, as a network may deliver it.
    stream.write_all(&header[..9]).expect("room");
    stream.flush().expect("a socket");
    stream.write_all(&header[9..]).expect("room");
    let mut device = TcpDevice::over(stream, id(1), &PSK).expect("SESSION_OK");
    device.send(b"behind a balancer");
    let opened = fixture.event("lifecycle", |event| event["opened"].is_object());
    assert_eq!(opened["opened"]["peer"], "192.0.2.7:12345", "{opened:#}");
    let mut without = tcp_stream(fixture.tcp());
    without.write_all(&Attempt::new(id(1)).hello(0, None)).expect("room");
    assert!(read_frame(&mut without).is_none());
    fixture.await_count(Count::DroppedProxyHeader, 1);
}

#[test]
fn a_flood_of_hellos_does_not_keep_honest_devices_out() {
    let fixture = Fixture::start();
    fixture.register(20);
    let (edge, stop) = (fixture.udp(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let flood = {
        let stop = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            let sockets: Vec<_> = (0..16).map(|_| udp_socket(edge)).collect();
            let hellos: Vec<_> = (0..64).map(|number| Attempt::new(id(number)).hello(0, None)).collect();
            let mut sent = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (socket, hello) in sockets.iter().cycle().zip(&hellos) {
                    sent += u64::from(socket.send(hello).is_ok());
                }
                // 64,000 a second: what the kernel drops before the edge sees it is not the edge's to answer.
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        })
    };
    for number in 1..=20 {
        let mut device = UdpDevice::connect(edge, id(number), &PSK);
        let seq = device.transmit(FrameType::Data, b"honest");
        assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE), "device {number}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = flood.join().expect("the flood ends");
    assert!(sent > 500, "a flood of {sent} datagrams is none");
    assert_eq!(fixture.handle.count(Count::HandshakesUdp), 20, "a stranger without a cookie got a handshake");
}

#[test]
fn a_session_follows_its_device_to_another_address_after_two_frames() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"at home");
    // Until a port has led to the other shard, which then hands the frames on; of 40 ports none does once in 2^40 runs.
    let mut hops = 0;
    while hops < 40 && fixture.handle.count(Count::DatagramsRelayed) == 0 {
        hops += 1;
        device.socket = udp_socket(fixture.udp());
        device.send(&[hops; 500]);
        device.send(&[hops]);
    }
    assert!(fixture.handle.count(Count::DatagramsRelayed) > 0, "no port of 40 led to the other shard");
    // Through the other shard as well: a message down, and its UTACK up, which names no session.
    let handle = fixture.handle.clone();
    let delivery = fixture.runtime.spawn(async move { handle.send(registered(id(1)), b"down").await });
    let down = device.receive_message();
    assert_eq!(down, b"down");
    assert_eq!(fixture.runtime.block_on(delivery).expect("no panic"), Ok(()));
    assert_eq!(fixture.handle.sessions(), 1);
    let records = 1 + 2 * usize::from(hops);
    assert_eq!(fixture.records("telemetry", records).len(), records);
    let moved = fixture.event("lifecycle", |event| event["moved"].is_object());
    assert_ne!(moved["moved"]["from"], moved["moved"]["to"]);
}
