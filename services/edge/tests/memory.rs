//! What an idle session costs in memory, keys and directories included.
//!
//! Alone in its binary: the counting allocator sees the whole process.

#![cfg(feature = "embedded-broker")]

mod common;

use std::alloc::System;

use common::device::{Attempt, await_frame, challenge, udp_socket};
use common::{Fixture, PSK, idle_sessions, nth_id};
use sluice_edge::Count;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use usmp::wire::{FrameType, Utack};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Sessions of one socket: so few that the next socket has its turn before the first SESSION_OK is repeated.
const A_SOCKET: u64 = 20;

#[test]
fn an_idle_udp_session_costs_about_half_a_kilobyte() {
    let sessions = idle_sessions(8000);
    let fixture = Fixture::start();
    fixture.register_many(sessions);
    // One socket may hold many sessions: their ids tell them apart. Several, so that both shards get some, and one after
    // another, so that the PINGs to the first sessions do not meet the handshakes of the last.
    let sockets: Vec<_> = (0..sessions.div_ceil(A_SOCKET)).map(|_| udp_socket(fixture.udp())).collect();
    let connect = |number: u64| {
        let socket = &sockets[(number / A_SOCKET) as usize];
        let attempt = Attempt::new(nth_id(number));
        let challenge = challenge(socket, &attempt);
        socket.send(&attempt.hello_ack(2, &PSK, &challenge)).expect("loopback");
        await_frame(socket, FrameType::SessionOk);
        // Else the handshake keeps its place, of which there are some thousand.
        socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
    };
    // What is there but once, and the first steps of tables that grow by doubling, is not a session's.
    let warm_up = sessions / 8;
    (0..warm_up).for_each(connect);
    let region = Region::new(ALLOCATOR);
    (warm_up..sessions).for_each(connect);
    fixture.await_count(Count::SessionsOpenedUdp, sessions);
    let change = region.change();
    assert_eq!(fixture.handle.count(Count::SessionsClosedUdp), 0, "sessions ended meanwhile; ask for fewer");
    // Growing and shrinking in place is in both sums.
    let kept = change.bytes_allocated as i64 - change.bytes_deallocated as i64;
    let each = kept / (sessions - warm_up) as i64;
    println!("{each} bytes a session, {sessions} sessions");
    // The store's floor of each device's version is in it, which is not the session's; tables just doubled are half empty.
    assert!(each <= 640, "{each} bytes a session");
}
