//! SESSION_OK of a pod that shares its sessions: not before the ledger has heard of the session.
#![cfg(feature = "embedded-broker")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::device::{Attempt, SILENCE, UdpDevice, await_frame, challenge, receive, udp_socket};
use common::pods::{Pods, SLOTS};
use common::{PSK, eventually, id};
use sluice_edge::config::EdgeConfig;
use sluice_edge::{Count, Edge};
use usmp::wire::{Frame, FrameType, HelloRetry, SessionOk, Utack};

/// Longer than any machine is slow.
const LONG: Duration = Duration::from_secs(120);

/// Handshakes have time, and wait so long for the ledger.
fn with_time(config: &mut EdgeConfig, ledger_wait: Duration) {
    config.handshake.timeout = LONG;
    config.handshake.ledger_wait = ledger_wait;
}

/// A pod with all slots.
fn pod(pods: &Pods, ledger_wait: Duration) -> (Edge, SocketAddr) {
    let pod = pods.join_with(|config| with_time(config, ledger_wait));
    eventually("all slots are served", || pod.handle().count(Count::SlotsAdopted) == u64::from(SLOTS));
    let address = pod.handle().addresses().udp.expect("listening");
    (pod, address)
}

/// A device that has said everything up to its proof.
struct Proving {
    socket: UdpSocket,
    attempt: Attempt,
    challenge: usmp::wire::Challenge,
    proof: Vec<u8>,
}

impl Proving {
    fn begin(edge: SocketAddr) -> Self {
        let (socket, attempt) = (udp_socket(edge), Attempt::new(id(1)));
        let challenge = challenge(&socket, &attempt);
        let proof = attempt.hello_ack(2, &PSK, &challenge);
        Self { socket, attempt, challenge, proof }
    }

    fn prove(&self) {
        self.socket.send(&self.proof).expect("loopback");
    }

    /// Nothing comes that says more than that it was challenged.
    fn hears_nothing(&self) {
        while let Some(datagram) = receive(&self.socket, SILENCE) {
            let frame = Frame::parse(&datagram).map(|frame| frame.header().frame_type);
            let utack = Utack::parse(&datagram).map(|utack| utack.frame_type);
            let earlier = matches!(frame, Ok(FrameType::Challenge)) || utack == Some(FrameType::Hello);
            assert!(earlier, "neither SESSION_OK nor the UTACK of the proof, but {frame:?}, {utack:?}");
        }
    }

    fn session(self) -> UdpDevice {
        let frame = await_frame(&self.socket, FrameType::SessionOk);
        let ok = SessionOk::parse(&Frame::parse(&frame).expect("a frame")).expect("SESSION_OK");
        UdpDevice { session: self.attempt.keys(&self.challenge, &ok), socket: self.socket }
    }
}

#[test]
fn without_kafka_there_is_no_session_ok_and_with_it_the_same_proof_opens_a_session() {
    let pods = Pods::new();
    let (pod, address) = pod(&pods, Duration::from_millis(500));
    let count = |count| pod.handle().count(count);
    let device = Proving::begin(address);
    pods.broker.set_available(false).expect("a broker");
    device.prove();
    eventually("it has waited long enough", || count(Count::DroppedNotJournaled) == 1);
    device.hears_nothing();
    assert_eq!(count(Count::SessionsOpenedUdp), 0);

    // The device repeats it: there is no slot for it, nor do the ledgers hear of more that they cannot take.
    for tries in 2..=2 + u64::from(SLOTS) {
        device.prove();
        eventually("refused", || count(Count::DroppedNotJournaled) == tries);
    }
    // Every slot was too late by now, so a proof is refused at once and none waits.
    let refused = count(Count::DroppedNotJournaled);
    for _ in 0..2 {
        device.prove();
    }
    eventually("both are refused", || count(Count::DroppedNotJournaled) == refused + 2);
    assert_eq!(count(Count::DroppedPending), 0, "proofs that came while another waited");
    device.hears_nothing();

    pods.broker.set_available(true).expect("a broker");
    eventually("the proof is taken", || {
        device.prove();
        count(Count::SessionsOpenedUdp) == 1
    });
    let mut device = device.session();
    device.send(b"one");
    assert_eq!(count(Count::SessionsOpenedUdp), 1, "the sessions that were given up are none");
    let _device_is_told = pods.runtime.block_on(pod.drain());
}

#[test]
fn repeats_of_a_proof_that_waits_open_one_session_and_do_not_lose_its_answer() {
    let pods = Pods::new();
    let (pod, address) = pod(&pods, LONG);
    let count = |count| pod.handle().count(count);
    let device = Proving::begin(address);
    pods.broker.set_available(false).expect("a broker");
    // The first ones may come before its keys do.
    eventually("repeats find it waiting", || {
        device.prove();
        count(Count::DroppedPending) >= 2
    });
    // A stranger's, from the same address.
    let wrong = device.attempt.hello_ack(2, b"another key of 32 bytes or more..", &device.challenge);
    device.socket.send(&wrong).expect("loopback");
    eventually("the wrong one is, too", || count(Count::DroppedProof) == 1);
    device.hears_nothing();

    pods.broker.set_available(true).expect("a broker");
    let mut device = device.session();
    device.send(b"one");
    assert_eq!((count(Count::SessionsOpenedUdp), count(Count::DroppedNotJournaled)), (1, 0));
    let _device_is_told = pods.runtime.block_on(pod.drain());
}

#[test]
fn while_the_ledgers_are_behind_nobody_begins_and_nobody_is_forgotten() {
    /// More than may wait whatever happens.
    const CROWD: u64 = 70;
    let pods = Pods::new();
    let pod = pods.join_with(|config| {
        config.shards = Some(std::num::NonZeroUsize::MIN);
        // An eighth of it is what a ledger may take before it is behind.
        with_time(config, Duration::from_secs(16));
    });
    let count = |count| pod.handle().count(count);
    eventually("all slots are served", || count(Count::SlotsAdopted) == u64::from(SLOTS));
    let address = pod.handle().addresses().udp.expect("listening");
    let crowd: Vec<_> = (0..CROWD).map(|_| Proving::begin(address)).collect();
    pods.broker.set_available(false).expect("a broker");
    crowd.iter().for_each(Proving::prove);

    // Those who come then are told that they are at the right place, and wait.
    let mut late = Vec::new();
    eventually("it begins no more", || {
        let (socket, attempt) = (udp_socket(address), Attempt::new(id(1)));
        socket.send(&attempt.hello(0, None)).expect("loopback");
        let datagram = await_frame(&socket, FrameType::HelloRetry);
        let retry = HelloRetry::parse(&Frame::parse(&datagram).expect("a frame")).expect("a cookie");
        socket.send(&attempt.hello(1, Some(retry.cookie))).expect("loopback");
        late.push(socket);
        count(Count::HandshakesHeldBack) > 0
    });

    pods.broker.set_available(true).expect("a broker");
    eventually("the crowd is in", || {
        crowd.iter().for_each(Proving::prove);
        count(Count::SessionsOpenedUdp) >= CROWD
    });
    for socket in &late {
        await_frame(socket, FrameType::Challenge);
    }
    let _devices_are_told = pods.runtime.block_on(pod.drain());
}

#[test]
fn a_slot_that_goes_before_it_heard_of_a_session_opens_none() {
    let pods = Pods::new();
    let (first, second) = pods.two_with(|config| with_time(config, LONG));
    let handle = first.handle();
    let device = Proving::begin(handle.addresses().udp.expect("listening"));
    pods.broker.set_available(false).expect("a broker");
    eventually("the proof waits", || {
        device.prove();
        handle.count(Count::DroppedPending) > 0
    });

    // Its slots go to the other pod, with whatever is open in them.
    let drained = pods.runtime.spawn(first.drain());
    eventually("its session is given up", || handle.count(Count::DroppedNotJournaled) == 1);
    device.hears_nothing();
    assert_eq!(handle.count(Count::SessionsOpenedUdp), 0);
    pods.broker.set_available(true).expect("a broker");
    let _nobody_to_tell = pods.runtime.block_on(drained).expect("no panic");
    let _nobody_to_tell = pods.runtime.block_on(second.drain());
}

/// Prints what waiting for the ledger adds to a handshake.
#[test]
fn a_handshake_takes_a_commit_longer() {
    const HANDSHAKES: usize = 40;
    let pods = Pods::new();
    let (pod, address) = pod(&pods, LONG);
    let mut waits = Vec::new();
    for _ in 0..HANDSHAKES {
        let device = Proving::begin(address);
        let from = now();
        device.prove();
        await_frame(&device.socket, FrameType::SessionOk);
        waits.push(from.elapsed());
    }
    let alone = common::Fixture::start();
    alone.register(1);
    let mut at_once = Vec::new();
    for _ in 0..HANDSHAKES {
        let device = Proving::begin(alone.udp());
        let from = now();
        device.prove();
        await_frame(&device.socket, FrameType::SessionOk);
        at_once.push(from.elapsed());
    }
    waits.sort_unstable();
    at_once.sort_unstable();
    let half = HANDSHAKES / 2;
    println!(
        "from proof to SESSION_OK: {:?} (p50), {:?} (longest) with the ledger, {:?}, {:?} without",
        waits[half],
        waits[HANDSHAKES - 1],
        at_once[half],
        at_once[HANDSHAKES - 1]
    );
    let opened = pod.handle().count(Count::SessionsOpenedUdp);
    assert_eq!(opened, HANDSHAKES as u64, "each has a session of its own");
    let _devices_are_told = pods.runtime.block_on(pod.drain());
}

#[expect(clippy::disallowed_methods, reason = "real sockets need the real clock")]
fn now() -> Instant {
    Instant::now()
}
