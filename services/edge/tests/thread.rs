//! The way of a record: device, edge, Kafka, acknowledgement.
#![cfg(feature = "embedded-broker")]

mod common;

use common::device::{SILENCE, TcpDevice, UdpDevice};
use common::{Fixture, PSK, id};
use sluice_edge::{Count, Ending};
use usmp::wire::FrameType;

#[test]
fn a_message_over_udp_is_acknowledged_and_in_kafka_byte_for_byte() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"\0first\xff");
    device.send(&[7; 1808]);
    device.send(b"");
    let records = fixture.records("telemetry", 3);
    let payloads: Vec<_> = records.iter().map(|record| record.payload.clone()).collect();
    assert_eq!(payloads, [b"\0first\xff".to_vec(), vec![7; 1808], Vec::new()]);
    let record = &records[0];
    assert_eq!(record.key, b"default/020000000001");
    let session = device.session.session_id;
    assert_eq!(record.header("ce_id").map(str::to_owned), Some(format!("{session:?}.0.0")));
    assert_eq!(records[1].header("ce_id").map(str::to_owned), Some(format!("{session:?}.0.4")));
    assert_eq!(record.header("ce_source"), Some("//sluice/tenants/default/devices/020000000001"));
}

#[test]
fn a_message_over_tcp_is_in_kafka_byte_for_byte() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    device.send(b"one");
    device.send(&[9; 1808]);
    let records = fixture.records("telemetry", 2);
    let payloads: Vec<_> = records.iter().map(|record| record.payload.clone()).collect();
    assert_eq!(payloads, [b"one".to_vec(), vec![9; 1808]]);
}

#[test]
fn a_ping_is_answered_over_both_transports() {
    let fixture = Fixture::start();
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    let seq = udp.transmit(FrameType::Ping, b"");
    assert!(udp.is_acknowledged(FrameType::Ping, seq, SILENCE * 10));
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    tcp.transmit(FrameType::Ping, b"");
    let (frame_type, seq, _) = tcp.receive().expect("an answer");
    assert_eq!((frame_type, seq), (FrameType::Pong, 0));
}

#[test]
fn bytes_go_down_to_devices_of_both_transports() {
    let fixture = Fixture::start();
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    udp.send(b"here");
    tcp.send(b"here");
    common::eventually("both connected", || {
        fixture.runtime.block_on(async {
            fixture.handle.is_connected(common::registered(id(1))).await
                && fixture.handle.is_connected(common::registered(id(2))).await
        })
    });
    for message in [b"down".to_vec(), vec![3; 1808]] {
        let sent = message.clone();
        let handle = fixture.handle.clone();
        let delivery = fixture.runtime.spawn(async move {
            handle.send(common::registered(id(1)), &sent).await.expect("delivered over UDP");
            handle.send(common::registered(id(2)), &sent).await.expect("delivered over TCP");
        });
        assert_eq!(udp.receive_message(), message);
        assert_eq!(tcp.receive_message(), message);
        fixture.runtime.block_on(delivery).expect("no panic");
    }
}

#[test]
fn nothing_is_acknowledged_before_kafka_has_it() {
    let fixture = Fixture::start();
    fixture.register(1);
    let mut device = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    device.send(b"before");
    fixture.broker.set_available(false).expect("a broker");
    let seq = device.transmit(FrameType::Data, b"meanwhile");
    fixture.await_count(Count::MessagesReceived, 2);
    assert!(!device.is_acknowledged(FrameType::Data, seq, SILENCE * 3), "acknowledged without Kafka");
    assert_eq!(fixture.handle.count(Count::MessagesCommitted), 1);
    fixture.broker.set_available(true).expect("a broker");
    assert!(device.is_acknowledged(FrameType::Data, seq, common::device::PATIENCE));
    let records = fixture.records("telemetry", 2);
    assert_eq!(records[1].payload, b"meanwhile");
}

#[test]
fn a_drain_commits_what_was_received_and_says_farewell() {
    let mut fixture = Fixture::start();
    fixture.register(2);
    let mut udp = UdpDevice::connect(fixture.udp(), id(1), &PSK);
    let mut tcp = TcpDevice::connect(fixture.tcp(), id(2), &PSK);
    udp.send(b"over UDP");
    tcp.send(b"over TCP");
    fixture.await_count(Count::MessagesReceived, 2);
    let device = std::thread::spawn(move || {
        let (frame_type, _, _) = tcp.receive().expect("a farewell");
        assert_eq!(frame_type, FrameType::Bye);
        assert!(tcp.receive().is_none(), "the connection ends");
        common::device::await_frame(&udp.socket, FrameType::Bye);
    });
    assert_eq!(fixture.drain(), Ending::Complete);
    device.join().expect("both devices were told");
    assert_eq!(fixture.records("telemetry", 2).len(), 2);
    let closed = fixture.event("lifecycle", |event| event["closed"]["reason"] == "CLOSE_REASON_DRAIN");
    assert_eq!(closed["closed"]["messages"], "1", "{closed:#}");
    assert_eq!(fixture.handle.sessions(), 0);
}
