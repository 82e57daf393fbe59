//! Many devices over UDP in one thread: the machines of the protocol, a queue of timers and a few sockets.

mod device;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use usmp::Instant;
use usmp::wire::{FrameType, HEADER, Header, MAX_FRAME};

use self::device::{Device, Happening};
use self::wire::Wire;
use crate::report::Latencies;
use crate::swarm::Member;

/// As many source ports a device has, one after the other.
const SOCKETS: usize = 4;
/// Datagrams of one socket, and timers, of one turn.
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
}

pub(crate) struct Fleet {
    devices: Vec<Device>,
    edges: Vec<SocketAddrV4>,
    wire: Wire,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    start: std::time::Instant,
    /// From one record of a device to the next; `None`: one only.
    interval: Option<Duration>,
    back: u32,
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
            let mut device = Device::new(number, member, number as usize % pods);
            let at = Instant::ZERO + spread / count * number;
            (device.next_attempt, device.due) = (Some(at), Some(at));
            timers.push(Reverse((at, number)));
            device
        });
        Ok(Self {
            devices: devices.collect(),
            edges,
            wire: Wire::open(SOCKETS)?,
            timers,
            start: std::time::Instant::now(),
            interval,
            back: 0,
            counts: Counts::default(),
        })
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

    /// Attempts of each device.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = u32> {
        self.devices.iter().map(|device| device.attempts)
    }

    /// For each device that is back, how long after `since`, or after its own first attempt where that was later.
    pub(crate) fn waits(&self, since: Instant) -> impl Iterator<Item = Duration> {
        self.devices
            .iter()
            .filter_map(move |device| Some(device.back?.saturating_duration_since(device.began?.max(since))))
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
        let mut buffer = [0; 2048];
        let mut busy = false;
        for socket in 0..self.wire.sockets() {
            for _ in 0..AT_ONCE {
                let Some((address, length)) = self.wire.receive(socket, &mut buffer)? else { break };
                busy = true;
                let now = self.now();
                let Some(device) = Device::of(address).and_then(|number| self.devices.get_mut(number)) else {
                    continue;
                };
                // What comes to the port of an earlier attempt finds nobody.
                if device.attempts as usize % SOCKETS != socket {
                    continue;
                }
                if let Some(machine) = &mut device.machine {
                    // What is no good is dropped; the machine decides.
                    let _ = machine.handle_datagram(now, &mut buffer[..length]);
                }
                let number = device.number;
                self.drive(number)?;
            }
        }
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
                self.counts.lag.record(now.saturating_duration_since(at));
                if device.next_attempt.is_some_and(|at| at <= now) {
                    device.connect(now)?;
                    self.counts.attempts += 1;
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
            if !self.wire.send(socket, from, self.edges[device.edge], &frame[..length]) {
                self.counts.unsent += 1;
            }
        }
    }
}
