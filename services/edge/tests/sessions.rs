//! What is told about sessions, and how they end.
#![cfg(feature = "embedded-broker")]

mod common;

use std::time::Duration;

use common::device::{PATIENCE, SILENCE, TcpDevice, UdpDevice, receive};
use common::{Fixture, PSK, config, id};
use sluice_edge::{Count, SendError};
use usmp::crypto::AwsLc;
use usmp::wire::{Frame, FrameType, Utack};
use usmp::{Role, rekey};

#[test]
fn a_session_is_told_when_it_speaks_and_when_it_ends() {
    let fixture = Fixture::start();
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    udp.send(b"one");
    udp.send(b"two");
    let session = format!("{:?}", udp.session.session_id);
    let opened = fixture.event("lifecycle", |event| event["opened"].is_object());
    assert_eq!(opened["session"], session.as_str(), "{opened:#}");
    assert_eq!(opened["device"], "020000000001");
    assert_eq!(opened["tenant"], "default");
    assert_eq!(opened["transport"], "TRANSPORT_UDP");
    let peer = udp.socket.local_addr().expect("bound").to_string();
    assert_eq!(opened["opened"]["peer"], peer.as_str());
    let seq = udp.transmit(FrameType::Bye, b"");
    assert!(udp.is_acknowledged(FrameType::Bye, seq, PATIENCE));
    let closed = fixture.event("lifecycle", |event| event["closed"].is_object());
    assert_eq!(closed["closed"]["reason"], "CLOSE_REASON_BYE", "{closed:#}");
    assert_eq!(closed["closed"]["messages"], "2");
    assert_eq!(closed["eventId"], format!("{session}.closed").as_str());

    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    tcp.send(b"one");
    drop(tcp);
    let closed = fixture.event("lifecycle", |event| event["closed"]["reason"] == "CLOSE_REASON_DISCONNECTED");
    assert_eq!(
        (closed["device"].as_str(), closed["transport"].as_str()),
        (Some("020000000002"), Some("TRANSPORT_TCP"))
    );
    common::eventually("no session left", || fixture.handle.sessions() == 0);
}

#[test]
fn a_session_that_never_speaks_is_not_told_as_opened_and_is_probed_once() {
    let mut config = config();
    config.session.udp_idle_timeout = Duration::from_secs(3);
    let fixture = Fixture::with(config);
    fixture.register(1);
    let device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    // SESSION_OK was acknowledged, so the one PING comes soon; it is left without an answer.
    common::device::await_frame(&device.socket, FrameType::Ping);
    let closed = fixture.event("lifecycle", |event| event["closed"].is_object());
    assert_eq!(closed["closed"]["reason"], "CLOSE_REASON_NEVER_ESTABLISHED", "{closed:#}");
    assert_eq!(fixture.records("lifecycle", 1).len(), 1, "nothing but the end was told");
}

#[test]
fn a_bye_is_acknowledged_after_the_session_is_gone() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"one");
    for _ in 0..2 {
        let bye = device.session.seal_as(FrameType::Bye, 1, b"");
        device.socket.send(&bye).expect("loopback");
        assert!(device.is_acknowledged(FrameType::Bye, 1, PATIENCE));
    }
    let late = device.session.seal_as(FrameType::Data, 2, b"late");
    device.socket.send(&late).expect("loopback");
    assert!(receive(&device.socket, SILENCE).is_none());
    fixture.await_count(Count::DroppedUnknownSession, 1);
}

#[test]
fn a_device_that_changes_its_keys_goes_on_and_its_records_have_new_names() {
    let fixture = Fixture::start();
    fixture.register(2);
    let salt = [9; 32];
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    udp.send(b"old keys");
    let seq = udp.transmit(FrameType::Rekey, &salt);
    assert!(udp.is_acknowledged(FrameType::Rekey, seq, PATIENCE));
    udp.session.keys = rekey::<AwsLc>(&udp.session.keys, Role::Device, &salt, udp.session.session_id);
    udp.session.seq = 0;
    udp.send(b"new keys");
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    tcp.transmit(FrameType::Rekey, &salt);
    tcp.session.keys = rekey::<AwsLc>(&tcp.session.keys, Role::Device, &salt, tcp.session.session_id);
    tcp.session.seq = 0;
    tcp.send(b"new keys");
    let names: Vec<_> = fixture
        .records("telemetry", 3)
        .iter()
        .map(|record| (record.payload.clone(), record.header("ce_id").map(str::to_owned)))
        .collect();
    let (udp_id, tcp_id) = (udp.session.session_id, tcp.session.session_id);
    for (payload, name) in [
        (&b"old keys"[..], format!("{udp_id:?}.0.0")),
        (b"new keys", format!("{udp_id:?}.1.0")),
        (b"new keys", format!("{tcp_id:?}.1.0")),
    ] {
        assert!(names.contains(&(payload.to_vec(), Some(name.clone()))), "{name} in {names:?}");
    }
}

#[test]
fn a_message_that_the_device_does_not_acknowledge_is_reported_and_the_session_lives_on() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"here");
    common::eventually("connected", || {
        fixture.runtime.block_on(fixture.handle.is_connected(common::registered(id(1))))
    });
    let handle = fixture.handle.clone();
    let delivery =
        fixture.runtime.spawn(async move { handle.send(common::registered(id(1)), b"unheard").await });
    let mut copies = Vec::new();
    while !delivery.is_finished() {
        if let Some(datagram) = receive(&device.socket, SILENCE)
            && Frame::parse(&datagram).is_ok_and(|frame| frame.header().frame_type == FrameType::Data)
        {
            copies.push(datagram);
        }
    }
    let outcome = fixture.runtime.block_on(delivery).expect("no panic");
    assert_eq!(outcome, Err(SendError::NotAcknowledged));
    assert!(copies.len() >= 5, "{} transmissions", copies.len());
    assert!(copies.windows(2).all(|pair| pair[0] == pair[1]), "a repeat differs");
    device.send(b"still here");
    let unknown = fixture.runtime.block_on(fixture.handle.send(common::registered(id(9)), b"x"));
    assert_eq!(unknown, Err(SendError::NotConnected));
}

#[test]
fn a_device_that_takes_nothing_from_its_connection_loses_it() {
    let mut config = config();
    config.session.tcp_write_timeout = Duration::from_millis(500);
    let fixture = Fixture::with(config);
    fixture.register(1);
    let mut device = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    device.send(b"here");
    common::eventually("connected", || {
        fixture.runtime.block_on(fixture.handle.is_connected(common::registered(id(1))))
    });
    let refused = (0..100_000).find_map(|_| {
        let sent = fixture.handle.send(common::registered(id(1)), &[7; 1808]);
        fixture.runtime.block_on(sent).err()
    });
    let refused = refused.expect("100,000 messages fit into no buffer");
    assert!(matches!(refused, SendError::Busy | SendError::NotConnected), "{refused}");
    fixture.await_count(Count::DroppedSlowReader, 1);
    common::eventually("the session is over", || fixture.handle.sessions() == 0);
}

#[test]
fn messages_to_one_device_arrive_in_the_order_they_were_sent() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"here");
    common::eventually("connected", || {
        fixture.runtime.block_on(fixture.handle.is_connected(common::registered(id(1))))
    });
    let handle = fixture.handle.clone();
    let deliveries = fixture.runtime.spawn(async move {
        let device = common::registered(id(1));
        tokio::join!(
            biased;
            handle.send(device, &[0; 600]),
            handle.send(device, &[1; 600]),
            handle.send(device, &[2; 600]),
        )
    });
    let mut seen = Vec::new();
    let mut message = Vec::new();
    while seen.len() < 3 {
        let datagram = receive(&device.socket, PATIENCE).expect("a frame");
        if Frame::parse(&datagram).is_err() {
            continue;
        }
        let (frame_type, seq, plaintext) = device.session.open(&datagram);
        let utack = Utack::sealed::<AwsLc>(&device.session.keys.s2c, frame_type, seq);
        device.socket.send(&utack.emit()).expect("loopback");
        message.extend(plaintext);
        if frame_type == FrameType::Data {
            seen.push(std::mem::take(&mut message));
        }
    }
    assert_eq!(seen, [vec![0; 600], vec![1; 600], vec![2; 600]]);
    let (a, b, c) = fixture.runtime.block_on(deliveries).expect("no panic");
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
}
