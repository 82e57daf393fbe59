//! The way of a record from the socket to the producer allocates nothing, once buffers and tables have their size.
//!
//! Alone in its binary: the counting allocator sees the whole process.
#![cfg(feature = "embedded-broker")]

mod common;

use std::alloc::System;
use std::io::Write;

use common::device::{TcpDevice, UdpDevice};
use common::{Fixture, PSK, id};
use sluice_edge::Count;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use usmp::wire::FrameType;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: usize = 2000;
/// The first speaks TCP, the others UDP.
const DEVICES: u8 = 100;
const ROUNDS: usize = 20;

/// One is rdkafka's own: it copies the topic's name for C at each send. A tenth more is for what the process does beside: its
/// runtime's timers, the writer's delivery reports by the group.
const fn most(records: usize) -> usize {
    records + records / 10
}

#[test]
fn a_record_allocates_nothing_on_its_way_to_the_producer() {
    let fixture = Fixture::start();
    fixture.register(DEVICES);

    let mut tcp = TcpDevice::connect(fixture.tcp(), id(1), &PSK);
    let bursts: Vec<Vec<u8>> = (0..3)
        .map(|_| (0..RECORDS).flat_map(|_| tcp.session.seal(FrameType::Data, &[7; 128])).collect())
        .collect();
    let mut committed = 0;
    let mut spent = 0;
    for burst in &bursts {
        let region = Region::new(ALLOCATOR);
        tcp.stream.write_all(burst).expect("room");
        committed += RECORDS as u64;
        fixture.await_count(Count::MessagesCommitted, committed);
        spent = region.change().allocations;
    }
    assert!(spent <= most(RECORDS), "{spent} allocations for {RECORDS} records over TCP");

    // Each has one message on its way, so many devices make a group worth the name.
    let mut devices: Vec<_> =
        (2..=DEVICES).map(|number| UdpDevice::connect(fixture.udp(), id(number), &PSK)).collect();
    let frames: Vec<Vec<Vec<u8>>> = devices
        .iter_mut()
        .map(|device| (0..ROUNDS).map(|_| device.session.seal(FrameType::Data, &[7; 128])).collect())
        .collect();
    let mut buffer = [0; 64];
    let mut exchange = |round: usize| {
        for (device, frames) in devices.iter().zip(&frames) {
            device.socket.send(&frames[round]).expect("loopback");
        }
        for device in &devices {
            // Its UTACK: 15 bytes, after the commit.
            while device.socket.recv(&mut buffer).expect("an answer") != 15 {}
        }
    };
    (0..ROUNDS / 2).for_each(&mut exchange);
    let region = Region::new(ALLOCATOR);
    (ROUNDS / 2..ROUNDS).for_each(&mut exchange);
    let spent = region.change().allocations;
    let records = devices.len() * (ROUNDS - ROUNDS / 2);
    // These groups are small, and each costs the writer a few.
    assert!(spent <= most(records) + records / 2, "{spent} allocations for {records} records over UDP");
}
