//! The way of a record from the socket to the producer allocates nothing, once buffers and tables have their size.
//!
//! Alone in its binary: the counting allocator sees the whole process.

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

/// What the process does beside: its runtime's timers, the writer's delivery reports by the group.
const BESIDE: usize = RECORDS / 10;

#[test]
fn a_record_allocates_nothing_on_its_way_to_the_producer() {
    let fixture = Fixture::start();
    fixture.register(2);

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
    assert!(spent < BESIDE, "{spent} allocations for {RECORDS} records over TCP");

    let mut udp = UdpDevice::connect(fixture.udp(), id(2), &PSK);
    let frames: Vec<Vec<u8>> = (0..300).map(|_| udp.session.seal(FrameType::Data, &[7; 128])).collect();
    let (warm_up, measured) = frames.split_at(100);
    let mut buffer = [0; 64];
    let mut exchange = |frame: &[u8]| {
        udp.socket.send(frame).expect("loopback");
        // Its UTACK: 15 bytes, after the commit.
        while udp.socket.recv(&mut buffer).expect("an answer") != 15 {}
    };
    warm_up.iter().for_each(|frame| exchange(frame));
    let region = Region::new(ALLOCATOR);
    measured.iter().for_each(|frame| exchange(frame));
    let spent = region.change().allocations;
    assert!(spent < measured.len() / 10, "{spent} allocations for {} records over UDP", measured.len());
}
