//! Some pods in one process, which share a store and a broker.
#![cfg(feature = "embedded-broker")]

mod common;

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use common::device::{Attempt, PATIENCE, TcpDevice, UdpDevice, read_frame, receive, tcp_stream, udp_socket};
use common::pods::{DEVICES, Pods, SLOTS};
use common::{PSK, eventually, id, registered};
use sluice_bus::{Start, Tail};
use sluice_edge::config::{EdgeConfig, Quarantine};
use sluice_edge::{Count, Edge};
use sluice_store::{DeviceState, HoldReason, LogPosition, PodRecord, RevocationOutcome};
use sluice_types::{PodId, Timestamp};
use usmp::wire::{Challenge, Frame, FrameType};

fn tcp(pod: &Edge) -> SocketAddr {
    pod.handle().addresses().tcp.expect("listening")
}

fn connect(pod: &Edge, number: u8) -> Option<TcpDevice> {
    TcpDevice::over(tcp_stream(tcp(pod)), id(number), &PSK)
}

#[test]
fn a_device_that_comes_to_another_pod_ends_its_older_session_there() {
    let pods = Pods::new();
    let (first, second) = pods.two();

    let mut old = TcpDevice::connect(first.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    old.send(b"one");
    eventually("the first message is committed", || first.handle().count(Count::MessagesCommitted) == 1);
    let holder = pods.runtime.block_on(pods.deps.store.device_location(registered(id(1))));
    let before = holder.expect("a store in memory").expect("the device is held");

    let mut new = TcpDevice::connect(second.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    new.send(b"two");
    eventually("the older session ends", || first.handle().count(Count::SessionsClosedTcp) == 1);
    assert_eq!(second.handle().count(Count::SessionsClosedTcp), 0, "the newer one goes on");
    new.send(b"three");
    eventually("so does what it says", || second.handle().count(Count::MessagesCommitted) == 2);
    let holder = pods.runtime.block_on(pods.deps.store.device_location(registered(id(1))));
    let after = holder.expect("a store in memory").expect("the device is held");
    assert!(after.pod != before.pod && after.epoch > before.epoch, "{before:?} then {after:?}");

    let tail = Tail::open(&pods.deps.bus, "sluice.lifecycle", Start::Beginning).expect("a consumer");
    let mut reasons = Vec::new();
    eventually("the lifecycle says why", || {
        let record = tail.next(Duration::from_millis(200)).expect("a readable topic");
        let event = record.and_then(|record| record.event());
        reasons.extend(event.map(|event| event["closed"]["reason"].to_string()));
        reasons.iter().any(|reason| reason.contains("TAKEN_OVER"))
    });
    for pod in [first, second] {
        let _devices_are_told = pods.runtime.block_on(pod.drain());
    }
}

/// A device whose pod leaves after its first message, and the pod that has its session, which says nothing.
fn asleep(pods: &Pods, (first, second): (Edge, Edge), leave: impl FnOnce(Edge)) -> (UdpDevice, Edge) {
    let udp = |pod: &Edge| pod.handle().addresses().udp.expect("listening");
    let mut device = UdpDevice::connect(udp(&first), id(1), &PSK);
    let seq = device.transmit(FrameType::Data, b"one");
    assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE));
    eventually("its slot has a snapshot", || !pods.snapshots().is_empty());
    leave(first);
    eventually("its slots are served", || {
        second.handle().count(Count::SlotsAdopted) - second.handle().count(Count::SlotsLeft)
            == u64::from(SLOTS)
    });
    assert_eq!(second.handle().count(Count::SnapshotsDiscarded), 0);
    device.socket.connect(udp(&second)).expect("loopback");
    (device, second)
}

#[test]
fn a_session_over_udp_goes_on_from_a_snapshot_and_ends_asleep_when_its_device_comes_anew() {
    let pods = Pods::new();
    let (_device, second) = asleep(&pods, pods.two(), drop);
    assert_eq!(second.handle().count(Count::SessionsOrphaned), 0);

    let mut new = TcpDevice::connect(second.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    new.send(b"two");
    eventually("the sleeping session is over", || second.handle().count(Count::SessionsReplacedAsleep) == 1);
    let _device_is_told = pods.runtime.block_on(second.drain());
}

#[test]
fn the_only_pod_that_drains_leaves_its_sessions_to_the_next_one_also_in_the_middle_of_a_message() {
    let pods = Pods::new();
    let udp = |pod: &Edge| pod.handle().addresses().udp.expect("listening");
    let all_slots = |pod: &Edge| {
        eventually("all slots are served", || pod.handle().count(Count::SlotsAdopted) == u64::from(SLOTS));
    };
    let first = pods.join_with(|_| {});
    all_slots(&first);
    let mut devices = [1, 2].map(|number| UdpDevice::connect(udp(&first), id(number), &PSK));
    devices[0].send(b"one");
    let seq = devices[1].transmit(FrameType::DataFrag, b"begun");
    assert!(devices[1].is_acknowledged(FrameType::DataFrag, seq, PATIENCE));
    pods.drain([first]);
    for device in &devices {
        let told = receive(&device.socket, Duration::from_millis(100));
        assert_eq!(told, None, "their sessions are not over");
    }

    let second = pods.join_with(|_| {});
    all_slots(&second);
    // What was begun is over: the number right after it is not taken, the one above begins anew.
    devices[1].session.seq += 1;
    for device in &mut devices {
        device.socket.connect(udp(&second)).expect("loopback");
        device.send(b"two");
    }
    assert_eq!(second.handle().count(Count::SessionsResumed), 2);
    pods.drain([second]);
}

#[test]
fn a_device_that_was_revoked_while_its_session_slept_is_told_so_and_nothing_of_it_is_taken() {
    let pods = Pods::new();
    let (mut device, second) = asleep(&pods, pods.two(), |first| pods.drain([first]));
    assert_eq!(pods.listed().len(), 1, "who has ended is off the list");
    let store = &pods.deps.store;
    let reason = "stolen".parse().expect("a reason");
    let position = pods.runtime.block_on(store.revoke(registered(id(1)), &reason)).expect("revoked");
    let outcome = pods.runtime.block_on(store.revocation_complete(position, PATIENCE));
    assert_eq!(outcome.expect("a store in memory"), RevocationOutcome::Completed);

    let seq = device.transmit(FrameType::Data, b"two");
    device.is_told_to_go();
    let _device_is_told = pods.runtime.block_on(second.drain());
    assert!(!device.is_acknowledged(FrameType::Data, seq, Duration::from_millis(100)));
    let tail = Tail::open(&pods.deps.bus, "sluice.telemetry", Start::Beginning).expect("a consumer");
    let mut payloads = Vec::new();
    while let Some(record) = tail.next(Duration::from_secs(1)).expect("a readable topic") {
        payloads.push(record.payload);
    }
    assert_eq!(payloads, [b"one"], "what was there before the revocation, and no more");
}

#[test]
fn a_device_that_was_suspended_once_keeps_its_session_when_its_pod_dies() {
    let pods = Pods::new();
    let both = pods.two();
    let store = &pods.deps.store;
    let (device, reason) = (registered(id(1)), "lent out".parse().expect("a reason"));
    let set = |state| pods.runtime.block_on(store.set_state(device, state, &reason)).expect("a change");
    set(DeviceState::Suspended);
    let log = pods.runtime.block_on(store.revocations_after(LogPosition::START)).expect("readable");
    let outcome = pods.runtime.block_on(store.revocation_complete(log.position, PATIENCE));
    assert_eq!(outcome.expect("a store in memory"), RevocationOutcome::Completed);
    set(DeviceState::Active);

    let (mut device, second) = asleep(&pods, both, drop);
    let seq = device.transmit(FrameType::Data, b"two");
    assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE));
    let seq = device.transmit(FrameType::Data, b"three");
    assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE));
    assert_eq!(second.handle().count(Count::SessionsResumed), 1);
    assert_eq!(second.handle().count(Count::SessionsClosedUdp), 0);
    pods.drain([second]);
}

/// So many wrong proofs at once that the wait is the longest one.
fn fail(pod: &Edge, number: u8) {
    let begun = (0..FAILURES).map(|_| {
        let (attempt, mut stream) = (Attempt::new(id(number)), tcp_stream(tcp(pod)));
        stream.write_all(&attempt.hello(0, None)).expect("room");
        let frame = read_frame(&mut stream).expect("CHALLENGE");
        let challenge = Challenge::parse(&Frame::parse(&frame).expect("a frame")).expect("CHALLENGE");
        (attempt, stream, challenge)
    });
    for (attempt, mut stream, challenge) in begun.collect::<Vec<_>>() {
        stream.write_all(&attempt.hello_ack(2, &[0; 32], &challenge)).expect("room");
        assert_eq!(read_frame(&mut stream), None, "a wrong key");
    }
}

const FAILURES: u64 = 9;

#[test]
fn a_device_that_failed_at_one_pod_waits_at_the_others_and_nobody_else_does() {
    let pods = Pods::new();
    let (first, second) = pods.two_with(|config| {
        config.handshake.failures_before_penalty = NonZeroU32::new(2).expect("two");
        // Longer than the test.
        config.handshake.max_penalty = Duration::from_secs(300);
    });
    // A stranger with a forged source sends what it likes: no cookie has come back from there.
    let forger = udp_socket(first.handle().addresses().udp.expect("listening"));
    for _ in 0..20 {
        let attempt = Attempt::new(id(2));
        let challenge = Challenge { nonce: [7; 32], public_key: [9; 32] };
        forger.send(&attempt.hello(0, None)).expect("loopback");
        forger.send(&attempt.hello_ack(1, &[0; 32], &challenge)).expect("loopback");
    }
    eventually("the forged proofs are read", || first.handle().count(Count::HandshakesAsked) >= 20);
    assert_eq!(first.handle().count(Count::PenaltiesTold), 0, "nobody was verified");

    fail(&first, 1);
    let waits = FAILURES - 1;
    eventually("the other pod is told", || second.handle().count(Count::PenaltiesHeard) == waits);
    assert!(connect(&second, 1).is_none(), "even with its key it waits");
    assert_eq!(second.handle().count(Count::DroppedPenalty), 1);
    assert_eq!(second.handle().count(Count::DroppedProof), 0, "it never failed here");
    for pod in [&first, &second] {
        assert!(connect(pod, 2).is_some(), "another device of that address");
    }
    assert_eq!(first.handle().count(Count::PenaltiesHeard), 0, "what is heard is not told on");
    pods.drain([first, second]);
}

#[test]
fn a_suspected_clone_is_refused_at_every_pod_until_it_is_released() {
    let pods = Pods::new();
    let (first, second) = pods.two_with(|config| {
        config.clones.quarantine = Quarantine::For(Duration::from_secs(3600));
        // What it tries meanwhile is not held against it when it is released.
        config.handshake.failures_before_penalty = NonZeroU32::new(1000).expect("many");
    });
    let store = &pods.deps.store;
    let epoch = || {
        let location = pods.runtime.block_on(store.device_location(registered(id(1))));
        location.expect("a store in memory").map(|location| location.epoch)
    };
    let mut holders = Vec::new();
    for pod in [&first, &second].into_iter().cycle().take(7) {
        assert_eq!(pods.hold(1), None, "after {} sessions", holders.len());
        let before = epoch();
        let mut device = connect(pod, 1).expect("not refused yet");
        device.send(b"mine");
        holders.push(device);
        eventually("the session holds the device", || epoch() != before || pods.hold(1).is_some());
    }
    eventually("the device is held", || pods.hold(1) == Some(HoldReason::SuspectedClone));
    eventually("its sessions end", || first.handle().sessions() + second.handle().sessions() == 0);
    let quarantined = |pod: &Edge| pod.handle().count(Count::DevicesQuarantined);
    assert_eq!(quarantined(&first) + quarantined(&second), 1);

    // A pod that comes later, and itself would quarantine nobody, knows as well.
    let third = pods.join_with(|config| {
        config.handshake.failures_before_penalty = NonZeroU32::new(1000).expect("many");
    });
    for pod in [&first, &second, &third] {
        assert!(connect(pod, 1).is_none(), "refused at every pod");
        assert!(connect(pod, 2).is_some(), "and nobody else is");
    }
    let device = registered(id(1)).to_string();
    pods.event("security", &["SUSPECTED_CLONE", &device]);
    pods.event("security", &["QUARANTINED", &device]);
    pods.event("lifecycle", &["CLOSE_REASON_QUARANTINED", &device]);

    assert!(pods.runtime.block_on(store.end_hold(registered(id(1)))).expect("a store in memory"));
    for pod in [&third, &first] {
        let mut device = connect(pod, 1).expect("released");
        device.send(b"mine again");
        holders.push(device);
    }
    eventually("its messages are committed", || third.handle().count(Count::MessagesCommitted) == 1);
    assert_eq!(pods.hold(1), None, "what was before its release does not count");
    pods.drain([first, second, third]);
}

#[test]
fn sessions_of_a_tenant_are_limited_over_all_pods() {
    const LIMIT: usize = 6;
    let pods = Pods::new();
    let limit: fn(&mut EdgeConfig) =
        |config| config.admission.sessions_per_tenant = NonZeroU32::new(LIMIT as u32);
    let (first, second) = pods.two_with(limit);
    let third = pods.join_with(limit);
    let edges = [&first, &second, &third];
    let mut open: Vec<Vec<TcpDevice>> = (0..edges.len()).map(|_| Vec::new()).collect();
    for number in 1..=DEVICES {
        let at = usize::from(number) % edges.len();
        open[at].extend(connect(edges[at], number));
    }
    let count = open.iter().map(Vec::len).sum::<usize>();
    // A pod may hold a place that it has to spare.
    assert!((LIMIT - 3..=LIMIT).contains(&count), "{count} sessions of {LIMIT}");
    let refused: u64 = edges.iter().map(|pod| pod.handle().count(Count::DroppedTenantFull)).sum();
    assert_eq!(refused, u64::from(DEVICES) - count as u64);
    pods.event("security", &["TENANT_LIMIT", "default"]);

    // What ends at one pod makes room at another.
    let mut open = open.into_iter();
    let mut full = open.next().expect("the first pod's");
    let gone: usize = open.map(|devices| devices.len()).sum();
    let mut number = 0;
    eventually("the places are free again", || {
        number = number % DEVICES + 1;
        full.extend(connect(&first, number));
        assert!(first.handle().sessions() <= LIMIT as u64, "{} of {LIMIT}", first.handle().sessions());
        first.handle().sessions() == LIMIT as u64
    });
    assert!(gone > 0, "the other pods had some");
    pods.drain([first, second, third]);
}

#[test]
fn a_device_that_opens_too_many_sessions_is_refused_at_every_pod() {
    let pods = Pods::new();
    let (first, second) = pods.two_with(|config| {
        config.admission.new_sessions_per_device = NonZeroU32::new(3);
        config.admission.window = Duration::from_secs(3600);
    });
    let mut devices = Vec::new();
    for pod in [&first, &second, &first] {
        devices.extend(connect(pod, 1));
    }
    assert_eq!((devices.len(), pods.hold(1)), (3, None));
    // The fourth is told that it has a session before anybody has counted.
    let _surplus = connect(&second, 1);
    eventually("it is over at once", || second.handle().count(Count::SessionsOverRate) == 1);
    assert_eq!(pods.hold(1), Some(HoldReason::RateLimited));
    for pod in [&first, &second] {
        assert!(connect(pod, 1).is_none(), "refused at every pod");
        assert!(connect(pod, 2).is_some(), "and nobody else is");
    }
    pods.event("security", &["RATE_LIMITED", &registered(id(1)).to_string()]);
    pods.drain([first, second]);
}

#[test]
fn a_pod_that_died_before_anybody_saw_it_is_not_waited_for() {
    let pods = Pods::new();
    let store = &pods.deps.store;
    let dead = PodRecord {
        pod: PodId::from_bytes([7; 16]),
        address: "127.0.0.1:1".to_owned(),
        counter: 1,
        draining: false,
        version: "0.0.1".to_owned(),
        started: Timestamp(1_764_000_000_000),
        applied: LogPosition::START,
        kafka_ok_within_ms: None,
        unlinked: Vec::new(),
        exactly_once: None,
    };
    pods.runtime.block_on(store.announce_pod(&dead, Duration::from_millis(1))).expect("announced");
    let reason = "lost".parse().expect("a reason");
    let position = pods.runtime.block_on(store.revoke(registered(id(1)), &reason)).expect("revoked");
    let outcome = |patience| {
        pods.runtime.block_on(store.revocation_complete(position, patience)).expect("a store in memory")
    };
    assert_eq!(outcome(Duration::ZERO), RevocationOutcome::Outstanding(vec![dead.pod]));
    let pod = pods.join_with(|_| {});
    assert_eq!(outcome(PATIENCE), RevocationOutcome::Completed);
    pods.drain([pod]);
}
