//! Many devices over UDP in one thread: the machines of the protocol, a queue of timers and a few sockets.

mod device;
mod keys;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use usmp::Instant;
use usmp::wire::{FrameType, HEADER, Header, MAX_FRAME};

use self::device::{Device, Happening};
use self::keys::Prepared;
use self::wire::{Arrival, Arrivals, Wire};
use crate::report::Latencies;
use crate::swarm::Member;

/// As many source ports a device has, one after the other.
const SOCKETS: usize = 4;
/// Batches of each socket in one turn. What has arrived comes before timers that are due, as it did at the device.
const BATCHES: usize = 16;
/// Timers of one turn.
const AT_ONCE: usize = 256;
/// Bytes per record.
const RECORD: [u8; 128] = [b'x'; 128];

/// What was counted over all devices.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) attempts: u64,
    pub(crate) connected: u64,
    pub(crate) messages: u64,
    pub(crate) delivered: u64,
    pub(crate) given_up: u64,
    /// Frames with a message in them: as many as messages, and each repetition.
    pub(crate) data_frames: u64,
    pub(crate) unsent: u64,
    pub(crate) closed: BTreeMap<String, u64>,
    /// From a record's hand-over to its acknowledgement.
    pub(crate) latencies: Latencies,
    /// How late timers were served: the generator's own part.
    pub(crate) lag: Latencies,
    /// How long datagrams lay here before they were taken: the generator's own part, too.
    pub(crate) queued: Latencies,
    pub(crate) datagrams_sent: u64,
    pub(crate) datagrams_received: u64,
}

/// What became of a device, for whoever asks at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Story {
    pub(crate) edge: usize,
    pub(crate) kind: &'static str,
    /// Attempts since there were pods, the one under way then among them.
    pub(crate) attempts: u32,
    /// Since there were pods, or since its own first attempt if that was later.
    pub(crate) back_after: Option<Duration>,
    /// How much of that it waited between two attempts.
    pub(crate) rested: Duration,
}

pub(crate) struct Fleet {
    devices: Vec<Device>,
    edges: Vec<SocketAddrV4>,
    wire: Wire,
    /// Out of its place only while it is gone through.
    arrivals: Option<Arrivals>,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    start: std::time::Instant,
    /// From one record of a device to the next; `None`: one only.
    interval: Option<Duration>,
    back: u32,
    trying: u32,
    /// When there were pods.
    since: Instant,
    /// How late timers and datagrams were served since somebody asked last.
    late: Latencies,
    pub(crate) counts: Counts,
}

impl Fleet {
    /// Devices that begin one after the other within `spread`, each towards one of these pods.
    #[expect(clippy::disallowed_methods, reason = "this drives the machines")]
    pub(crate) fn new(
        members: Vec<Member>,
        edges: Vec<SocketAddrV4>,
        spread: Duration,
        interval: Option<Duration>,
    ) -> Result<Self> {
        let (count, pods) = (u32::try_from(members.len())?, edges.len());
        let mut timers = BinaryHeap::new();
        let devices = (0..).zip(members).map(|(number, member)| {
            // Each pod has devices of every kind.
            let mut device = Device::new(number, member, (number / device::KINDS) as usize % pods);
            let at = Instant::ZERO + spread / count * number;
            (device.next_attempt, device.due) = (Some(at), Some(at));
            timers.push(Reverse((at, number)));
            device
        });
        Ok(Self {
            devices: devices.collect(),
            edges,
            wire: Wire::open(SOCKETS)?,
            arrivals: Some(Arrivals::new()),
            timers,
            start: std::time::Instant::now(),
            interval,
            back: 0,
            trying: 0,
            since: Instant::ZERO,
            late: Latencies::default(),
            counts: Counts::default(),
        })
    }

    /// Makes the key pairs of so many attempts now, on the thread that is to drive the devices.
    pub(crate) fn prepare(attempts: usize) {
        Prepared::prepare(attempts);
    }

    /// There are pods from now on.
    pub(crate) fn there_are_pods(&mut self) -> Instant {
        self.since = self.now();
        for device in &mut self.devices {
            device.before = device.attempts - u32::from(device.machine.is_some());
        }
        self.since
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// Devices whose first record was acknowledged.
    pub(crate) fn back(&self) -> u32 {
        self.back
    }

    /// Devices that have tried.
    pub(crate) fn tried(&self) -> usize {
        self.devices.iter().filter(|device| device.attempts > 0).count()
    }

    /// Devices with a session.
    pub(crate) fn connected(&self) -> usize {
        self.devices.iter().filter(|device| device.connected).count()
    }

    /// Devices with an attempt under way.
    pub(crate) fn trying(&self) -> u32 {
        self.trying
    }

    /// What became of each since there were pods.
    pub(crate) fn stories(&self) -> impl Iterator<Item = Story> {
        self.devices.iter().map(|device| {
            let began = device.began.map_or(self.since, |began| began.max(self.since));
            Story {
                edge: device.edge,
                kind: device::kind(device.number),
                attempts: device.attempts - device.before,
                back_after: device.back.map(|back| back.saturating_duration_since(began)),
                rested: device.rested,
            }
        })
    }

    /// When each came back that did.
    pub(crate) fn returns(&self) -> Vec<Instant> {
        let mut returns: Vec<_> = self.devices.iter().filter_map(|device| device.back).collect();
        returns.sort_unstable();
        returns
    }

    /// How late timers and datagrams were served since this was asked last.
    pub(crate) fn take_lateness(&mut self) -> Latencies {
        let taken = self.late.clone();
        self.late.clear();
        taken
    }

    /// Datagrams that found no room here.
    pub(crate) fn lost(&self) -> u64 {
        self.wire.lost()
    }

    /// The longest that a record is under way now.
    pub(crate) fn longest_under_way(&self) -> Duration {
        let (now, sent) = (self.now(), self.devices.iter().filter_map(|device| device.sending).min());
        sent.map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent))
    }

    /// All flows of a pod go to another one from now on, as a balancer sends them.
    pub(crate) fn move_flows(&mut self, from: usize, to: usize) {
        for device in self.devices.iter_mut().filter(|device| device.edge == from) {
            device.edge = to;
        }
    }

    /// Does what is to be done, and waits for more for at most 10 ms.
    pub(crate) fn turn(&mut self) -> Result<()> {
        let mut busy = self.take_datagrams()?;
        for _ in 0..AT_ONCE {
            let now = self.now();
            let Some(&Reverse((at, number))) = self.timers.peek() else { break };
            if at > now {
                break;
            }
            self.timers.pop();
            let device = &mut self.devices[number as usize];
            if device.due == Some(at) {
                device.due = None;
                busy = true;
                let late = now.saturating_duration_since(at);
                self.counts.lag.record(late);
                self.late.record(late);
                if device.next_attempt.is_some_and(|at| at <= now) {
                    device.connect(now, self.since)?;
                    self.counts.attempts += 1;
                    self.trying += 1;
                }
                if let Some(machine) = &mut device.machine {
                    machine.handle_timeout(now);
                }
                self.drive(number)?;
            }
        }
        if !busy {
            let next = self.timers.peek().map(|Reverse((at, _))| at.saturating_duration_since(self.now()));
            self.wire.wait(next.unwrap_or(Duration::MAX).min(Duration::from_millis(10)))?;
        }
        Ok(())
    }

    /// Takes what has arrived; says whether there was anything.
    fn take_datagrams(&mut self) -> Result<bool> {
        let Some(mut arrivals) = self.arrivals.take() else { return Ok(false) };
        let mut taken = 0;
        for _ in 0..BATCHES {
            let before = taken;
            for socket in 0..self.wire.sockets() {
                self.wire.receive(socket, &mut arrivals)?;
                for index in 0..arrivals.count() {
                    self.take_datagram(socket, arrivals.datagram(index))?;
                }
                taken += arrivals.count();
            }
            if taken == before {
                break;
            }
        }
        self.arrivals = Some(arrivals);
        self.counts.datagrams_received += taken as u64;
        Ok(taken > 0)
    }

    fn take_datagram(&mut self, socket: usize, (arrival, datagram): (Arrival, &mut [u8])) -> Result<()> {
        let now = self.now();
        self.counts.queued.record(arrival.waited);
        self.late.record(arrival.waited);
        let Some(device) = Device::of(arrival.to).and_then(|number| self.devices.get_mut(number)) else {
            return Ok(());
        };
        // What comes to the port of an earlier attempt finds nobody.
        if device.attempts as usize % SOCKETS != socket {
            return Ok(());
        }
        if let Some(machine) = &mut device.machine {
            // What is no good is dropped; the machine decides.
            let _ = machine.handle_datagram(now, datagram);
        }
        let number = device.number;
        self.drive(number)
    }

    /// Sends what a device has to say, hears what happened to it, and sets its timer.
    fn drive(&mut self, number: u32) -> Result<()> {
        loop {
            self.transmit(number);
            let now = self.now();
            let device = &mut self.devices[number as usize];
            match device.poll() {
                None => break,
                Some(Happening::Connected) => {
                    device.succeeded();
                    self.trying -= 1;
                    // Whoever comes back has something to say.
                    device.next_record = Some(now);
                    self.counts.connected += 1;
                }
                Some(Happening::Delivered) => {
                    self.counts.delivered += 1;
                    if let Some(sent) = device.sending.take() {
                        self.counts.latencies.record(now.saturating_duration_since(sent));
                    }
                    if device.back.is_none() {
                        device.back = Some(now);
                        self.back += 1;
                    }
                }
                Some(Happening::GivenUp) => {
                    self.counts.given_up += 1;
                    (device.sending, device.next_record) = (None, Some(now));
                }
                Some(Happening::Closed(reason)) => {
                    *self.counts.closed.entry(format!("{reason:?}")).or_default() += 1;
                    self.trying -= u32::from(!device.connected);
                    device.failed(now);
                }
            }
        }
        let now = self.now();
        let device = &mut self.devices[number as usize];
        if device.connected && device.sending.is_none() && device.next_record.is_some_and(|at| at <= now) {
            if let Some(machine) = &mut device.machine
                && machine.send(&RECORD).is_ok()
            {
                (device.sending, self.counts.messages) = (Some(now), self.counts.messages + 1);
            }
            device.next_record = self.interval.map(|interval| now + interval);
            self.transmit(number);
        }
        let device = &mut self.devices[number as usize];
        let next = device.next();
        if next != device.due {
            device.due = next;
            self.timers.extend(next.map(|at| Reverse((at, number))));
        }
        Ok(())
    }

    fn transmit(&mut self, number: u32) {
        let now = self.now();
        let device = &mut self.devices[number as usize];
        let (from, socket) = (device.address(), device.attempts as usize % SOCKETS);
        let Some(machine) = &mut device.machine else { return };
        let mut frame = [0; MAX_FRAME];
        while let Some(length) = machine.poll_transmit(now, &mut frame) {
            let header = frame.first_chunk::<HEADER>().and_then(|header| Header::parse(header).ok());
            // A UTACK is no frame.
            if header.is_some_and(|(header, _)| header.frame_type == FrameType::Data) {
                self.counts.data_frames += 1;
            }
            self.counts.datagrams_sent += 1;
            if !self.wire.send(socket, from, self.edges[device.edge], &frame[..length]) {
                self.counts.unsent += 1;
            }
        }
    }
}
