//! Kafka is away for a while: nothing lies, nothing read is lost, nothing grows without bound.
#![cfg(feature = "embedded-broker")]

mod common;

use std::io::Write;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::device::{PATIENCE, SILENCE, TcpDevice, UdpDevice};
use common::{Fixture, PSK, config, id};
use sluice_edge::Count;
use usmp::wire::FrameType;

/// Small groups, so that a test can fill them.
fn tight() -> sluice_edge::config::EdgeConfig {
    let mut config = config();
    config.limits.records_per_group = NonZeroU32::new(1024).expect("not zero");
    config.limits.groups_per_shard = NonZeroU32::new(2).expect("not zero");
    config
}

#[test]
fn tcp_is_held_back_and_every_record_arrives_once_kafka_is_back() {
    let mut config = tight();
    config.session.tcp_idle_timeout = Duration::from_millis(1500);
    let fixture = Fixture::with(config);
    fixture.register(1);
    let mut device = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    device.send(b"first");
    fixture.await_count(Count::MessagesCommitted, 1);
    fixture.broker.set_available(false).expect("a broker");

    // More than the groups and the system's buffers hold, so that writing blocks.
    const RECORDS: u64 = 60_000;
    let written = Arc::new(AtomicU64::new(0));
    let writer = {
        let written = Arc::clone(&written);
        std::thread::spawn(move || {
            device.stream.set_write_timeout(Some(Duration::from_secs(120))).expect("a socket");
            for number in 0..RECORDS {
                let mut message = [0; 400];
                message[..8].copy_from_slice(&number.to_be_bytes());
                let frame = device.session.seal(FrameType::Data, &message);
                device.stream.write_all(&frame).expect("the edge holds the connection");
                written.store(number + 1, Ordering::Relaxed);
            }
            device
        })
    };
    fixture.await_count(Count::ReadingPaused, 1);
    // The writer comes to a halt, while the pause outlasts the idle timeout.
    let mut before = u64::MAX;
    common::eventually("the device is held back", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now
    });
    std::thread::sleep(Duration::from_secs(2));
    assert!(written.load(Ordering::Relaxed) < RECORDS, "nothing held the device back");
    let taken = fixture.handle.count(Count::MessagesReceived);
    assert!(taken <= 2 * 2 * 1024 + 1, "{taken} records taken while Kafka was away");
    assert_eq!(fixture.handle.count(Count::MessagesCommitted), 1);
    assert_eq!(fixture.handle.sessions(), 1, "the pause counted as the device's silence");

    fixture.broker.set_available(true).expect("a broker");
    let _device = writer.join().expect("all written");
    fixture.await_count(Count::MessagesCommitted, RECORDS + 1);
    assert_eq!(fixture.handle.count(Count::DroppedBehind), 0);
}

#[test]
fn udp_messages_without_room_are_not_acknowledged_and_come_again() {
    let fixture = Fixture::with(tight());
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    udp.send(b"before");
    fixture.broker.set_available(false).expect("a broker");
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    let filler = std::thread::spawn(move || {
        let frames: Vec<u8> = (0..9000).flat_map(|_| tcp.session.seal(FrameType::Data, b"filler")).collect();
        tcp.stream.write_all(&frames).expect("the edge holds the connection");
        tcp
    });
    fixture.await_count(Count::ReadingPaused, 1);
    let seq = udp.session.seq;
    let message = udp.session.seal(FrameType::Data, b"meanwhile");
    // It lands on one of two shards, and the other one has room: then it waits for its commit instead. Both are silence.
    udp.socket.send(&message).expect("loopback");
    assert!(!udp.is_acknowledged(FrameType::Data, seq, SILENCE));
    // Control frames need no room.
    let ping = udp.session.seal_as(FrameType::Ping, seq + 1, b"");
    udp.socket.send(&ping).expect("loopback");
    assert!(udp.is_acknowledged(FrameType::Ping, seq + 1, PATIENCE));
    fixture.broker.set_available(true).expect("a broker");
    let _tcp = filler.join().expect("all written");
    fixture.await_count(Count::MessagesCommitted, 9001);
    udp.session.seq = seq + 2;
    udp.send(b"after");
}

#[test]
fn repeats_of_a_message_on_its_way_are_silent_and_both_sources_are_answered() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"before");
    fixture.broker.set_available(false).expect("a broker");
    let seq = device.session.seq;
    let message = device.session.seal(FrameType::Data, b"once");
    for _ in 0..5 {
        device.socket.send(&message).expect("loopback");
    }
    fixture.await_count(Count::DroppedPending, 4);
    assert!(!device.is_acknowledged(FrameType::Data, seq, SILENCE));
    fixture.broker.set_available(true).expect("a broker");
    assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE));
    device.send(b"next");
    let payloads: Vec<_> = fixture.records("telemetry", 3).into_iter().map(|record| record.payload).collect();
    assert_eq!(payloads, [b"before".to_vec(), b"once".to_vec(), b"next".to_vec()]);
}

#[test]
fn a_drain_with_kafka_away_ends_at_its_deadline_and_says_how_much_was_given_up() {
    let mut config = config();
    config.drain.deadline = Duration::from_secs(2);
    let mut fixture = Fixture::with(config);
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"before");
    fixture.broker.set_available(false).expect("a broker");
    let seq = device.transmit(FrameType::Data, b"lost");
    fixture.await_count(Count::MessagesReceived, 2);
    let ending = fixture.drain();
    let sluice_edge::Ending::Late { unknown_records } = ending else { panic!("{ending:?}") };
    assert!(unknown_records >= 1, "{unknown_records}");
    assert!(!device.is_acknowledged(FrameType::Data, seq, SILENCE), "acknowledged without Kafka");
}

#[test]
fn handshakes_beyond_the_budget_go_on_although_nothing_else_happens() {
    let mut config = config();
    config.shards = NonZeroUsize::new(1);
    config.handshake.key_exchanges_per_turn = NonZeroU32::MIN;
    let fixture = Fixture::with(config);
    fixture.register(250);
    let edge = fixture.tcp();
    // Each needs two turns. A shard that slept between them would go on only when another device says something.
    let devices: Vec<_> = (1..=250)
        .map(|number| std::thread::spawn(move || TcpDevice::connect(edge, id(number), &PSK)))
        .collect();
    let connected: Vec<_> = devices.into_iter().map(|device| device.join().expect("a session")).collect();
    assert_eq!(connected.len(), 250);
}
