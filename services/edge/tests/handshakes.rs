//! Handshakes that begin at one pod and go on at another, as when a balancer forgets its flows.
#![cfg(feature = "embedded-broker")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use common::device::{
    Attempt, SILENCE, UdpDevice, await_frame, challenge, hello_ack_of, receive, udp_socket,
};
use common::pods::{Pods, SLOTS};
use common::{PSK, eventually, id};
use sluice_edge::config::EdgeConfig;
use sluice_edge::{Count, Edge};
use sluice_peers::owner_of_slot;
use sluice_types::PodId;
use usmp::device::Event;
use usmp::wire::{Challenge, Frame, FrameType, HelloRetry, SessionOk, Utack};
use usmp_testkit::profiles::{ALL, ImitatedClient, Profile};
use usmp_testkit::sim::Endpoint as _;

/// Longer than any machine is slow.
const LONG: Duration = Duration::from_secs(120);

fn udp(pod: &Edge) -> SocketAddr {
    pod.handle().addresses().udp.expect("listening")
}

/// Handshakes have time, also on a busy machine, and two wrong proofs are too many.
fn patient(config: &mut EdgeConfig) {
    config.handshake.timeout = LONG;
    config.handshake.ledger_wait = LONG;
    config.handshake.failures_before_penalty = NonZeroU32::new(2).expect("two");
    config.handshake.max_penalty = LONG;
}

/// Two such pods.
fn two(pods: &Pods) -> (Edge, Edge) {
    pods.two_with(patient)
}

/// A device that was challenged.
struct Challenged {
    socket: UdpSocket,
    attempt: Attempt,
    challenge: Challenge,
    proof: Vec<u8>,
}

impl Challenged {
    fn at(pod: &Edge) -> Self {
        let (socket, attempt) = (udp_socket(udp(pod)), Attempt::new(id(1)));
        let challenge = challenge(&socket, &attempt);
        let proof = attempt.hello_ack(2, &PSK, &challenge);
        Self { socket, attempt, challenge, proof }
    }

    /// Says its proof until it is answered.
    fn prove(&self) -> SessionOk {
        let mut ok = None;
        eventually("SESSION_OK comes", || {
            self.socket.send(&self.proof).expect("loopback");
            ok = session_ok(&self.socket);
            ok.is_some()
        });
        ok.expect("it came")
    }

    fn session(self, ok: &SessionOk) -> UdpDevice {
        UdpDevice { session: self.attempt.keys(&self.challenge, ok), socket: self.socket }
    }
}

/// Some pods, and one more that serves no slot.
fn one_without_a_slot(pods: &Pods) -> (Vec<Edge>, Edge) {
    let held = |pod: &Edge| {
        let count = |count| pod.handle().count(count);
        count(Count::SlotsAdopted).saturating_sub(count(Count::SlotsLeft) + count(Count::SlotsLost))
    };
    let mut all: Vec<(PodId, Edge)> = Vec::new();
    // With one more pod than there are slots there is one without.
    loop {
        let pod = pods.join_with(patient);
        eventually("all pods say that they live", || pods.listed().len() == all.len() + 1);
        let listed = pods.listed();
        let new = listed.iter().find(|id| all.iter().all(|(known, _)| known != *id));
        all.push((*new.expect("it is the one that nobody knew"), pod));
        let share = |id: &PodId| (0..SLOTS).filter(|slot| owner_of_slot(*slot, &listed) == Some(*id)).count();
        eventually("each slot is where it belongs", || {
            all.iter().all(|(id, pod)| usize::try_from(held(pod)) == Ok(share(id)))
        });
        if let Some(at) = all.iter().position(|(id, _)| share(id) == 0) {
            let (_, bare) = all.remove(at);
            return (all.into_iter().map(|(_, pod)| pod).collect(), bare);
        }
    }
}

/// The cookie, once the pod knows who can do its handshakes.
fn cookie(socket: &UdpSocket, attempt: &Attempt) -> [u8; 16] {
    let mut cookie = None;
    eventually("HELLO_RETRY comes", || {
        socket.send(&attempt.hello(0, None)).expect("loopback");
        while let Some(datagram) = receive(socket, SILENCE) {
            if let Ok(frame) = Frame::parse(&datagram)
                && let Ok(retry) = HelloRetry::parse(&frame)
            {
                cookie = Some(retry.cookie);
                return true;
            }
        }
        false
    });
    cookie.expect("it came")
}

/// SESSION_OK, if it comes soon.
fn session_ok(socket: &UdpSocket) -> Option<SessionOk> {
    while let Some(datagram) = receive(socket, SILENCE) {
        if let Ok(frame) = Frame::parse(&datagram)
            && let Ok(ok) = SessionOk::parse(&frame)
        {
            return Some(ok);
        }
    }
    None
}

fn is_utack(datagram: &[u8], of: FrameType) -> bool {
    Utack::parse(datagram).is_some_and(|utack| utack.frame_type == of)
}

#[test]
fn a_handshake_whose_flow_goes_to_another_pod_before_its_proof_goes_on() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let device = Challenged::at(&first);
    // From here on only what the second pod sends reaches the device, as behind a balancer.
    device.socket.connect(udp(&second)).expect("loopback");
    let ok = device.prove();
    // Each copy of SESSION_OK is acknowledged, and who acknowledged the last one is not told apart here.
    eventually("the pod that has the handshake hears of the UTACK", || {
        device.socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
        second.handle().count(Count::HandshakesHandedOn) > 0
    });
    let mut device = device.session(&ok);
    device.send(b"one");
    eventually("the session is counted", || first.handle().count(Count::SessionsOpenedUdp) >= 1);
    assert_eq!(second.handle().count(Count::SessionsOpenedUdp), 0);
    eventually("it was asked for", || second.handle().count(Count::HandshakesAsked) > 0);
    eventually("it was found", || first.handle().count(Count::HandshakesFound) > 0);
    assert_eq!(first.handle().count(Count::DroppedProof), 0);
    pods.drain([first, second]);
}

/// Connects with an official client until a message of it is acknowledged; its flow changes before each proof.
fn connect_and_speak(profile: Profile, number: u8, (first, second): (SocketAddr, SocketAddr)) {
    let begin = now();
    let time = || usmp::Instant::from_micros(1_000_000 + begin.elapsed().as_micros() as u64);
    // On a busy machine the older ones give up after half a second, and connect again.
    for attempt in 1.. {
        let socket = udp_socket(first);
        let mut client = ImitatedClient::connect(profile, time(), id(number), &PSK, rand::random());
        let mut moved = false;
        while !client.is_closed() {
            assert!(begin.elapsed() < LONG, "{}: attempt {attempt}", profile.name);
            client.handle_timeout(time());
            client.transmit(time(), &mut |datagram| {
                let frame = Frame::parse(datagram).map(|frame| frame.header().frame_type);
                if frame == Ok(FrameType::HelloAck) {
                    socket.connect(second).expect("loopback");
                    moved = true;
                }
                socket.send(datagram).expect("loopback");
            });
            while let Some(event) = client.poll_event() {
                match event {
                    Event::Connected { .. } => assert!(moved, "{}: its flow changed", profile.name),
                    Event::Delivered(_) => return println!("{}: attempt {attempt}", profile.name),
                    _ => continue,
                }
                client.send(b"one").expect("connected");
            }
            if let Some(mut datagram) = receive(&socket, Duration::from_millis(5)) {
                client.handle_datagram(time(), &mut datagram);
            }
        }
    }
}

#[test]
fn every_official_client_gets_through_when_its_flow_changes_before_its_proof() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    for (number, profile) in (1..).zip(ALL) {
        connect_and_speak(profile, number, (udp(&first), udp(&second)));
    }
    assert_eq!(second.handle().count(Count::SessionsOpenedUdp), 0, "all were opened where they began");
    pods.drain([first, second]);
}

/// What goes down from the pod that opened the session comes to the device.
fn is_reached(pods: &Pods, pod: &Edge, device: &mut UdpDevice) {
    let handle = pod.handle();
    let sent = pods.runtime.spawn(async move { handle.send(common::registered(id(1)), b"down").await });
    assert_eq!(device.receive_message(), b"down");
    pods.runtime.block_on(sent).expect("no panic").expect("acknowledged");
    eventually("the session is counted", || pod.handle().count(Count::SessionsOpenedUdp) >= 1);
}

#[test]
fn a_handshake_goes_on_from_another_address_and_what_goes_down_follows_once_a_ping_was_acknowledged() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let mut device = Challenged::at(&first);
    device.socket = udp_socket(udp(&second));
    let ok = device.prove();
    device.socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
    let mut device = device.session(&ok);
    device.send(b"one");
    is_reached(&pods, &first, &mut device);
    pods.drain([first, second]);
}

#[test]
fn a_copied_proof_from_elsewhere_takes_nothing_from_its_device() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let device = Challenged::at(&first);
    // A stranger is faster, and says it again and again, to both pods.
    let strangers = [udp_socket(udp(&second)), udp_socket(udp(&first))];
    eventually("the stranger's copy opens the session", || {
        strangers[0].send(&device.proof).expect("loopback");
        first.handle().count(Count::SessionsOpenedUdp) == 1
    });
    for stranger in strangers.iter().cycle().take(100) {
        stranger.send(&device.proof).expect("loopback");
    }
    let answers = || {
        let got = strangers.iter().flat_map(|stranger| std::iter::from_fn(|| receive(stranger, SILENCE)));
        got.filter(|datagram| is_utack(datagram, FrameType::HelloAck)).count()
    };
    let count = answers();
    assert!(count <= 9, "{count} answers to copies");

    // The device hears where it is, and so does what it says.
    let ok = device.prove();
    device.socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
    let mut device = device.session(&ok);
    device.send(b"one");
    is_reached(&pods, &first, &mut device);
    assert_eq!(first.handle().count(Count::DroppedProof), 0);
    pods.drain([first, second]);
}

#[test]
fn a_wrong_proof_from_elsewhere_is_nobodys_failure_and_opens_nothing() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let device = Challenged::at(&first);
    // It begins like the right one, so it is found.
    let mut mac: [u8; 32] = device.proof[12..].try_into().expect("a proof");
    mac[31] ^= 1;
    let wrong = hello_ack_of(2, mac);
    let stranger = udp_socket(udp(&second));
    eventually("some are found and refused", || {
        stranger.send(&wrong).expect("loopback");
        first.handle().count(Count::DroppedProof) >= 10
    });
    assert_eq!(first.handle().count(Count::PenaltiesTold), 0, "nobody at that address was verified");
    assert_eq!(first.handle().count(Count::SessionsOpenedUdp), 0);
    assert!(receive(&stranger, SILENCE).is_none(), "nothing is said to it");
    let ok = device.prove();
    let mut device = device.session(&ok);
    device.send(b"one");
    pods.drain([first, second]);
}

#[test]
fn a_device_that_two_pods_challenge_goes_on_with_the_first() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let (socket, attempt) = (udp_socket(udp(&first)), Attempt::new(id(1)));
    socket.send(&attempt.hello(0, None)).expect("loopback");
    let retry = await_frame(&socket, FrameType::HelloRetry);
    let retry = HelloRetry::parse(&Frame::parse(&retry).expect("a frame")).expect("a cookie");
    let hello = attempt.hello(1, Some(retry.cookie));
    socket.send(&hello).expect("loopback");
    let taken = await_frame(&socket, FrameType::Challenge);
    // Its UTACK was late, and the repeat reaches another pod.
    socket.connect(udp(&second)).expect("loopback");
    socket.send(&hello).expect("loopback");
    let other = await_frame(&socket, FrameType::Challenge);
    assert_ne!(taken, other, "of another handshake");

    let challenge = Challenge::parse(&Frame::parse(&taken).expect("a frame")).expect("CHALLENGE");
    let proof = attempt.hello_ack(2, &PSK, &challenge);
    let other = Challenge::parse(&Frame::parse(&other).expect("a frame")).expect("CHALLENGE");
    let (late, again) = (attempt.hello_ack(2, &PSK, &other), socket.try_clone().expect("a descriptor"));
    let device = Challenged { socket, attempt, challenge, proof };
    let ok = device.prove();
    let mut device = device.session(&ok);
    device.send(b"one");
    eventually("the session is counted", || first.handle().count(Count::SessionsOpenedUdp) >= 1);
    assert_eq!(second.handle().count(Count::SessionsOpenedUdp), 0);
    // Whoever makes another pod answer a device has not ended its handshake here.
    eventually("the other CHALLENGE is still good", || {
        again.send(&late).expect("loopback");
        second.handle().count(Count::SessionsOpenedUdp) == 1
    });
    pods.drain([first, second]);
}

#[test]
fn a_pod_without_a_slot_takes_new_devices_by_one_that_has_some() {
    let pods = Pods::new();
    let (others, bare) = one_without_a_slot(&pods);
    let opened = || others.iter().map(|pod| pod.handle().count(Count::SessionsOpenedUdp)).sum::<u64>();
    for number in 1..=3 {
        let (socket, attempt) = (udp_socket(udp(&bare)), Attempt::new(id(number)));
        cookie(&socket, &attempt);
        let challenge = challenge(&socket, &attempt);
        let proof = attempt.hello_ack(2, &PSK, &challenge);
        let device = Challenged { socket, attempt, challenge, proof };
        let ok = device.prove();
        device.socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
        let mut device = device.session(&ok);
        device.send(b"one");
        eventually("its session is counted", || opened() >= u64::from(number));
    }
    let count = |count| bare.handle().count(count);
    assert_eq!((count(Count::SessionsOpenedUdp), count(Count::HandshakesUdp)), (0, 0));
    eventually("cookies take no slot", || count(Count::CookiesIssued) >= 3);

    // What the pods that do it see of a wrong key is what they see of their own.
    let failed = || others.iter().map(|pod| pod.handle().count(Count::DroppedProof)).sum::<u64>();
    let (socket, attempt) = (udp_socket(udp(&bare)), Attempt::new(id(4)));
    let challenge = challenge(&socket, &attempt);
    let wrong = attempt.hello_ack(2, b"another key of 32 bytes or more..", &challenge);
    eventually("its failures count", || {
        socket.send(&wrong).expect("loopback");
        failed() >= 2
    });
    eventually("it waits, wherever it comes", || {
        let again = Attempt::new(id(4));
        socket.send(&again.hello(1, Some(cookie(&socket, &again)))).expect("loopback");
        count(Count::DroppedPenalty) > 0
    });
    pods.drain(others.into_iter().chain([bare]));
}

#[test]
fn what_no_cookie_has_verified_is_handed_to_no_other_pod() {
    let pods = Pods::new();
    let (others, bare) = one_without_a_slot(&pods);
    let stranger = udp_socket(udp(&bare));
    let attempt = Attempt::new(id(1));
    cookie(&stranger, &attempt);
    for _ in 0..20 {
        stranger.send(&Attempt::new(id(1)).hello(0, None)).expect("loopback");
        stranger.send(&Attempt::new(id(1)).hello(1, Some([7; 16]))).expect("loopback");
    }
    eventually("the wrong cookies are read", || bare.handle().count(Count::DroppedCookie) >= 20);
    assert_eq!(bare.handle().count(Count::HandshakesHandedOn), 0);
    let begun: u64 = others.iter().map(|pod| pod.handle().count(Count::HandshakesUdp)).sum();
    assert_eq!(begun, 0);
    pods.drain(others.into_iter().chain([bare]));
}

#[test]
fn a_stranger_gets_no_answer_and_makes_pods_ask_each_other_within_a_bound() {
    let pods = Pods::new();
    let (first, second) = two(&pods);
    let stranger = udp_socket(udp(&second));
    let from = now();
    let mut number = 0_u64;
    eventually("others are not asked any more", || {
        for _ in 0..50 {
            let mut proof = [7; 32];
            number += 1;
            proof[..8].copy_from_slice(&number.to_le_bytes());
            stranger.send(&hello_ack_of(2, proof)).expect("loopback");
        }
        second.handle().count(Count::DroppedUnasked) > 0
    });
    let asked = second.handle().count(Count::HandshakesAsked);
    let bound = 64 + 64 * (from.elapsed().as_secs() + 1);
    println!("{number} proofs, others asked about {asked}, at most {bound}");
    assert!(asked > 0 && asked <= bound, "{asked} of {bound}");
    eventually("the other pod knows none of them", || first.handle().count(Count::HandshakesUnknown) > 0);
    assert_eq!(first.handle().count(Count::HandshakesAsked), 0, "and asks nobody");
    assert!(receive(&stranger, SILENCE).is_none(), "nothing is said to it");
    pods.drain([first, second]);
}

#[expect(clippy::disallowed_methods, reason = "real sockets need the real clock")]
fn now() -> Instant {
    Instant::now()
}
