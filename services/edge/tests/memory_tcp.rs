//! What an idle session over TCP costs in memory, keys and directories included.
//!
//! Alone in its binary: the counting allocator sees the whole process. What the kernel keeps for a socket is not in it.

#![cfg(feature = "embedded-broker")]

mod common;

use std::alloc::System;
use std::net::TcpStream;

use common::device::TcpDevice;
use common::{Fixture, PSK, idle_sessions, nth_id};
use sluice_edge::Count;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn an_idle_tcp_session_that_has_spoken_costs_at_most_four_kilobytes() {
    let sessions = idle_sessions(400);
    let fixture = Fixture::start();
    fixture.register_many(sessions);
    let mut streams: Vec<TcpStream> = Vec::with_capacity(sessions as usize);
    let mut connect = |number: u64| {
        let mut device = TcpDevice::connect(fixture.tcp(), nth_id(number), &PSK);
        // In several fragments, so that every buffer a session may need was in use once.
        device.send(&[b'x'; 1500]);
        streams.push(device.stream);
    };
    // What is there but once, and the first steps of tables that grow by doubling, is not a session's.
    let warm_up = sessions / 4;
    (0..warm_up).for_each(&mut connect);
    fixture.await_count(Count::MessagesCommitted, warm_up);
    let region = Region::new(ALLOCATOR);
    (warm_up..sessions).for_each(&mut connect);
    fixture.await_count(Count::MessagesCommitted, sessions);
    let change = region.change();
    assert_eq!(fixture.handle.count(Count::SessionsClosedTcp), 0, "sessions ended meanwhile; ask for fewer");
    let kept = change.bytes_allocated as i64 - change.bytes_deallocated as i64;
    let each = kept / (sessions - warm_up) as i64;
    println!("{each} bytes a session, {sessions} sessions");
    assert!(each <= 4096, "{each} bytes a session");
}
