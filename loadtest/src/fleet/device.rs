//! One device: the client that is shipped with it decides how it waits, gives up and comes back.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use sluice_types::{DeviceId, Psk};
use usmp::device::{CloseReason, Config, Event, Exhaustion, Retransmission, UdpDevice};
use usmp::{Instant, Secret};

use super::keys::Prepared;
use crate::swarm::Member;

/// Room for one frame each way is enough here, and keeps 100,000 of them small.
pub(crate) type Machine = UdpDevice<Prepared, 256, 256>;

/// The wait before a new attempt: 2, 4, 8, 16, 32 s without jitter, Arduino's, and the hardest case: a fleet in step (WIRE.md section 13).
const BACK_OFF: [u64; 5] = [2, 4, 8, 16, 32];

/// First address of the devices.
const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 1]);

pub(crate) struct Device {
    pub(crate) number: u32,
    id: DeviceId,
    psk: Psk,
    pub(crate) machine: Option<Box<Machine>>,
    /// Counts attempts to connect; the source port changes with it.
    pub(crate) attempts: u32,
    /// Those of them that were over before there were pods.
    pub(crate) before: u32,
    failures: usize,
    /// When it lost what it had, and has waited since to try again.
    rests: Option<Instant>,
    /// How long it waited between attempts, while there were pods.
    pub(crate) rested: Duration,
    pub(crate) connected: bool,
    /// When it first tried, and when its first record was acknowledged.
    pub(crate) began: Option<Instant>,
    pub(crate) back: Option<Instant>,
    /// The record under way, by when it was handed over.
    pub(crate) sending: Option<Instant>,
    pub(crate) next_record: Option<Instant>,
    pub(crate) next_attempt: Option<Instant>,
    /// What stands for it in the queue of timers.
    pub(crate) due: Option<Instant>,
    /// Which pod its flow goes to.
    pub(crate) edge: usize,
}

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    Connected,
    Delivered,
    GivenUp,
    Closed(CloseReason),
}

impl Device {
    pub(crate) fn new(number: u32, member: Member, edge: usize) -> Self {
        Self {
            number,
            id: member.id,
            psk: member.psk,
            machine: None,
            attempts: 0,
            before: 0,
            failures: 0,
            rests: None,
            rested: Duration::ZERO,
            connected: false,
            began: None,
            back: None,
            sending: None,
            next_record: None,
            next_attempt: None,
            due: None,
            edge,
        }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST + self.number)
    }

    /// The device of an address, if it is one.
    pub(crate) fn of(address: Ipv4Addr) -> Option<usize> {
        usize::try_from(u32::from(address).checked_sub(FIRST)?).ok()
    }

    /// Tries to connect. What it waited before counts from `since`.
    pub(crate) fn connect(&mut self, now: Instant, since: Instant) -> Result<()> {
        let psk = usmp::device::Psk::new(self.psk.expose())?;
        let (id, config) = (usmp::DeviceId(*self.id.as_bytes()), client(self.number));
        self.machine = Some(Box::new(Machine::connect(now, id, psk, Secret::new(rand::random()), config)));
        self.attempts += 1;
        if let Some(rests) = self.rests.take() {
            self.rested += now.saturating_duration_since(rests.max(since));
        }
        self.began.get_or_insert(now);
        self.next_attempt = None;
        Ok(())
    }

    pub(crate) fn poll(&mut self) -> Option<Happening> {
        loop {
            return Some(match self.machine.as_mut()?.poll_event()? {
                Event::Connected { .. } => Happening::Connected,
                Event::Delivered(_) => Happening::Delivered,
                Event::Failed(_) => Happening::GivenUp,
                Event::Closed(reason) => Happening::Closed(reason),
                _ => continue,
            });
        }
    }

    /// Its session is open.
    pub(crate) fn succeeded(&mut self) {
        (self.connected, self.failures) = (true, 0);
    }

    /// It has no session, and waits.
    pub(crate) fn failed(&mut self, now: Instant) {
        let wait = BACK_OFF[self.failures.min(BACK_OFF.len() - 1)];
        self.failures += 1;
        (self.connected, self.machine, self.sending) = (false, None, None);
        (self.rests, self.next_attempt) = (Some(now), Some(now + Duration::from_secs(wait)));
    }

    /// When something is to be done next.
    pub(crate) fn next(&self) -> Option<Instant> {
        let machine = self.machine.as_ref().and_then(|machine| machine.poll_timeout());
        let record = self.next_record.filter(|_| self.connected && self.sending.is_none());
        [machine, record, self.next_attempt].into_iter().flatten().min()
    }
}

/// Official clients whose timers are used.
pub(super) const KINDS: u32 = 3;

/// Whose timers a device has.
pub(crate) const fn kind(number: u32) -> &'static str {
    match number % KINDS {
        0 => "Python 1.2",
        1 => "ESP-IDF 1.3",
        _ => "Arduino 1.3",
    }
}

/// A third each: Python 1.2, ESP-IDF and Arduino 1.3. None of them sends HELLO again once it was acknowledged.
fn client(number: u32) -> Config {
    let config = Config { hello_repeat: None, ..Config::default() };
    match number % KINDS {
        0 => Config { exhaustion: Exhaustion::KeepSession, ..config },
        1 => Config {
            handshake_timeout: None,
            step_timeout: Some(Duration::from_secs(5)),
            retransmission: Retransmission::Fixed(Duration::from_millis(500)),
            ..config
        },
        _ => Config { handshake_timeout: None, step_timeout: Some(Duration::from_secs(5)), ..config },
    }
}
