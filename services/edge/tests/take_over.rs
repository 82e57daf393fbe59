//! A device that connects again: what it sent before is committed before what it sends now, whichever shard it comes to.
#![cfg(feature = "embedded-broker")]

mod common;

use std::num::NonZeroU32;

use common::device::{PATIENCE, SILENCE, TcpDevice, UdpDevice};
use common::{Fixture, PSK, config, id};
use sluice_edge::Count;
use usmp::wire::FrameType;

/// With two shards, and the kernel's choice of one, that nobody comes to the other one happens once in two to the sixteenth.
const DEVICES: u8 = 16;

/// Connections whose records stand in the groups before those that matter, so that the shards' writers do not run in step.
const FILLERS: u8 = 3;

/// Many small groups, committed one after the other.
fn fixture() -> Fixture {
    let mut config = config();
    config.limits.records_per_group = NonZeroU32::new(1024).expect("not zero");
    config.limits.groups_per_shard = NonZeroU32::new(16).expect("not zero");
    let fixture = Fixture::started(config, |bus| bus.groups_in_flight = 1);
    fixture.register(DEVICES + FILLERS);
    fixture
}

/// Puts some groups before everything that comes now; gives the number of their records.
fn fill(fixture: &Fixture) -> u64 {
    const RECORDS: usize = 3000;
    for number in 0..FILLERS {
        let mut filler = TcpDevice::connect(fixture.tcp(), id(DEVICES + 1 + number), &PSK);
        for _ in 0..RECORDS {
            filler.send(b"filler");
        }
    }
    let records = u64::from(FILLERS) * RECORDS as u64;
    fixture.await_count(Count::MessagesReceived, records);
    records
}

/// The payloads of each device in the order of the topic, without the fillers.
fn by_device(fixture: &Fixture, records: usize) -> Vec<(String, Vec<String>)> {
    let records = fixture.records("telemetry", records);
    let mut devices: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::default();
    for record in records.iter().filter(|record| record.payload != b"filler") {
        let key = String::from_utf8_lossy(&record.key).into_owned();
        devices.entry(key).or_default().push(String::from_utf8_lossy(&record.payload).into_owned());
    }
    devices.into_iter().collect()
}

#[test]
fn tcp_records_keep_their_order_over_a_reconnect_while_kafka_is_away() {
    let fixture = fixture();
    fixture.broker.set_available(false).expect("a broker");
    let fillers = fill(&fixture);
    let numbers = 1..=DEVICES;
    let mut old: Vec<_> =
        numbers.clone().map(|number| TcpDevice::connect(fixture.tcp(), id(number), &PSK)).collect();
    for device in &mut old {
        device.send(b"1");
        device.send(b"2");
    }
    let taken = fillers + 2 * u64::from(DEVICES);
    fixture.await_count(Count::MessagesReceived, taken);
    // Half of them close their connection first, as after a reset; the others are found to be there still.
    old.truncate(usize::from(DEVICES / 2));
    fixture.await_count(Count::SessionsClosedTcp, u64::from(FILLERS + DEVICES / 2));
    let new: Vec<_> = numbers
        .map(|number| {
            let mut device = TcpDevice::connect(fixture.tcp(), id(number), &PSK);
            for message in [b"3", b"4", b"5"] {
                device.send(message);
            }
            device
        })
        .collect();
    common::eventually("the first words of all are there", || {
        let all = fixture.handle.count(Count::MessagesReceived) + waiting(&fixture);
        all >= taken + u64::from(DEVICES)
    });
    assert!(waiting(&fixture) > 0, "no device came to the other shard");
    assert_eq!(fixture.handle.count(Count::MessagesCommitted), 0);

    fixture.broker.set_available(true).expect("a broker");
    let all = fillers + 5 * u64::from(DEVICES);
    fixture.await_count(Count::MessagesCommitted, all);
    assert_eq!(fixture.handle.count(Count::MessagesReceived), all);
    let expected = ["1", "2", "3", "4", "5"].map(str::to_owned).to_vec();
    for (device, seen) in by_device(&fixture, usize::try_from(all).expect("a few thousand")) {
        assert_eq!(seen, expected, "{device}");
    }
    drop((old, new));
}

#[test]
fn udp_messages_of_a_new_session_wait_for_those_of_the_old_one() {
    let fixture = fixture();
    fixture.broker.set_available(false).expect("a broker");
    let fillers = fill(&fixture);
    let numbers = 1..=DEVICES;
    let old: Vec<_> = numbers
        .clone()
        .map(|number| {
            let mut device = UdpDevice::connect(fixture.udp(), id(number), &PSK);
            device.transmit(FrameType::Data, b"1");
            device
        })
        .collect();
    fixture.await_count(Count::MessagesReceived, fillers + u64::from(DEVICES));
    let mut new: Vec<_> = numbers
        .map(|number| {
            let mut device = UdpDevice::connect(fixture.udp(), id(number), &PSK);
            device.transmit(FrameType::Data, b"2");
            device
        })
        .collect();
    common::eventually("the first words of all are there", || {
        let all = fixture.handle.count(Count::MessagesReceived) + waiting(&fixture);
        all >= fillers + 2 * u64::from(DEVICES)
    });
    assert!(waiting(&fixture) > 0, "no device came to the other shard");
    assert!(!new[0].is_acknowledged(FrameType::Data, 0, SILENCE), "acknowledged while Kafka is away");

    fixture.broker.set_available(true).expect("a broker");
    for device in &mut new {
        assert!(device.is_acknowledged(FrameType::Data, 0, PATIENCE), "the message that waited is lost");
        device.send(b"3");
    }
    let all = fillers + 3 * u64::from(DEVICES);
    fixture.await_count(Count::MessagesCommitted, all);
    let expected = ["1", "2", "3"].map(str::to_owned).to_vec();
    for (device, seen) in by_device(&fixture, usize::try_from(all).expect("a few thousand")) {
        assert_eq!(seen, expected, "{device}");
    }
    drop(old);
}

#[test]
fn a_drain_commits_what_waits_for_its_turn() {
    let mut fixture = fixture();
    fixture.broker.set_available(false).expect("a broker");
    let numbers = 1..=DEVICES;
    let sessions: Vec<_> = (0..2)
        .flat_map(|_| numbers.clone())
        .map(|number| {
            let mut device = TcpDevice::connect(fixture.tcp(), id(number), &PSK);
            device.send(b"word");
            device
        })
        .collect();
    let all = 2 * u64::from(DEVICES);
    common::eventually("the first words of all are there", || {
        fixture.handle.count(Count::MessagesReceived) + waiting(&fixture) >= all
    });
    assert!(waiting(&fixture) > 0, "no device came to the other shard");
    fixture.broker.set_available(true).expect("a broker");
    let (handle, ending) = (fixture.handle.clone(), fixture.drain());
    assert_eq!(ending, sluice_edge::Ending::Complete);
    assert_eq!(handle.count(Count::MessagesCommitted), all);
    drop(sessions);
}

/// Messages that wait for their turn now. Those that were handed over since are counted as received.
fn waiting(fixture: &Fixture) -> u64 {
    fixture.handle.count(Count::MessagesHeld) - fixture.handle.count(Count::MessagesReleased)
}
