//! A device: one of the clients that usmp-testkit imitates, or our own device role, and an application that says something now and
//! then and comes again when it is let down.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use usmp::device::Event;
use usmp_testkit::profiles::{ALL, ImitatedClient, OWN, Profile};
use usmp_testkit::sim::Endpoint as _;

use super::kafka::Kafka;
use super::tally::Tally;
use super::time::Dice;

/// A handshake that takes longer is given up by the application: some clients would wait for ever.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Messages that fail one after the other until the application connects anew: some clients never would.
const FAILURES: u32 = 2;

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client.as_ref();
        f.debug_struct("Device")
            .field("name", &self.profile.name)
            .field("address", &self.address)
            .field("connected", &client.map(ImitatedClient::is_connected))
            .field("closed", &client.map(ImitatedClient::is_closed))
            .field("under_way", &self.under_way.as_ref().map(Vec::len))
            .field("failures", &self.failures)
            .field("acknowledged", &self.acknowledged.len())
            .finish_non_exhaustive()
    }
}

/// A device and its application.
pub(super) struct Device {
    pub(super) id: [u8; 6],
    pub(super) psk: [u8; 32],
    pub(super) address: SocketAddr,
    profile: Profile,
    client: Option<ImitatedClient>,
    begin: Instant,
    per_million: u64,
    connecting_since: Instant,
    pub(super) due: Instant,
    next_message: Instant,
    longest_pause_ms: u64,
    counter: u32,
    attempt: u32,
    attempts: usize,
    under_way: Option<Vec<u8>>,
    failures: u32,
    /// Everything it ever handed to its client.
    pub(super) said: HashSet<Vec<u8>>,
    /// What it has an acknowledgement of, and when that came.
    pub(super) acknowledged: Vec<(Vec<u8>, Instant)>,
    /// Acknowledged while Kafka had not committed it.
    pub(super) too_early: u64,
    dice: Dice,
    tally: Tally,
}

impl Device {
    pub(super) fn new(number: u8, dice: Dice, tally: Tally) -> Self {
        let clients: Vec<Profile> = ALL.into_iter().chain([OWN, OWN, OWN]).collect();
        let profile = clients[dice.below(clients.len())];
        let now = Instant::now();
        Self {
            id: [2, 0, 0, 0, 0, number],
            psk: dice.bytes(),
            address: SocketAddr::from(([10, 0, 0, number], 4000)),
            profile,
            client: None,
            begin: now,
            per_million: dice.within(950_000, 1_050_000),
            connecting_since: now,
            due: now + dice.millis(0, 1500),
            next_message: now,
            longest_pause_ms: [20, 100, 300, 1500][dice.below(4)],
            counter: 0,
            attempt: 0,
            attempts: 0,
            under_way: None,
            failures: 0,
            said: HashSet::new(),
            acknowledged: Vec::new(),
            too_early: 0,
            dice,
            tally,
        }
    }

    /// Time as the device's own clock shows it.
    fn now(&self) -> usmp::Instant {
        let passed = u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        usmp::Instant::from_micros(1_000_000 + passed.saturating_mul(self.per_million) / 1_000_000)
    }

    /// When that clock will show it.
    fn at(&self, then: usmp::Instant) -> Instant {
        let wait = then.as_micros().saturating_sub(self.now().as_micros());
        Instant::now() + Duration::from_micros(wait.saturating_mul(1_000_000) / self.per_million + 1)
    }

    /// It is at another address from now on.
    pub(super) fn rebind(&mut self) {
        let port = self.address.port().wrapping_add(1).max(1024);
        self.address = SocketAddr::new(self.address.ip(), port);
    }

    /// Takes a datagram.
    pub(super) fn handle_datagram(&mut self, datagram: &mut [u8]) {
        let now = self.now();
        if let Some(client) = &mut self.client {
            client.handle_datagram(now, datagram);
        }
    }

    /// Loses its client, as by a power cut.
    pub(super) fn restart(&mut self) {
        self.client = None;
        self.under_way = None;
        self.due = Instant::now() + self.dice.millis(100, 2000);
    }

    /// Changes the session's keys, if it has one.
    pub(super) fn rekey(&mut self) {
        let salt = self.dice.bytes();
        if let Some(client) = &mut self.client
            && client.is_connected()
            && client.rekey(salt)
        {
            self.tally.one("device: rekey begun");
        }
    }

    /// Does what is due and hands each datagram to `send`.
    pub(super) fn turn(&mut self, kafka: &Kafka, send: &mut dyn FnMut(&[u8])) {
        let now = Instant::now();
        if self.client.is_none() {
            if self.due > now {
                return;
            }
            self.connect();
        }
        let device_now = self.now();
        if let Some(client) = &mut self.client {
            client.handle_timeout(device_now);
        }
        self.take_events(kafka);
        self.speak();
        self.give_up();
        let Some(client) = &mut self.client else { return };
        client.transmit(device_now, send);
        let alarm = client.poll_timeout();
        let alarm = alarm.map(|then| self.at(then));
        let speaks = (self.under_way.is_none()).then_some(self.next_message);
        let patience = Some(self.connecting_since + HANDSHAKE).filter(|at| *at > now);
        let due = [alarm, speaks.filter(|at| *at > now), patience].into_iter().flatten().min();
        self.due = due.unwrap_or(now + Duration::from_secs(1));
    }

    fn connect(&mut self) {
        let (id, private) = (usmp::DeviceId(self.id), self.dice.bytes());
        self.client = Some(ImitatedClient::connect(self.profile, self.now(), id, &self.psk, private));
        self.connecting_since = Instant::now();
        self.failures = 0;
        self.tally.one("device: connection begun");
    }

    fn take_events(&mut self, kafka: &Kafka) {
        let Some(client) = &mut self.client else { return };
        let (mut delivered, mut failed, mut closed) = (false, false, false);
        while let Some(event) = client.poll_event() {
            match event {
                Event::Connected { .. } => {
                    self.attempts = 0;
                    self.tally.one("device: session open");
                }
                Event::Rekeyed => self.tally.one("device: rekeyed"),
                Event::Delivered(_) => delivered = true,
                Event::Failed(_) => failed = true,
                Event::Closed(_) => closed = true,
                _ => {}
            }
        }
        if delivered && let Some(payload) = self.under_way.take() {
            if kafka.log().times_committed(&payload) == 0 {
                self.too_early += 1;
            }
            self.acknowledged.push((payload, Instant::now()));
            (self.attempt, self.failures) = (0, 0);
            self.counter += 1;
            self.next_message = Instant::now() + self.dice.millis(0, self.longest_pause_ms);
            self.tally.one("message acknowledged");
        }
        if failed {
            self.under_way = None;
            self.failures += 1;
            self.tally.one("message given up by its client");
        }
        if closed {
            self.tally.one("device: session over");
            self.come_again();
        }
    }

    fn come_again(&mut self) {
        let pause = self.profile.pause(self.attempts).map_or(1, |pause| pause.as_secs());
        self.attempts += 1;
        self.client = None;
        self.under_way = None;
        self.due = Instant::now() + Duration::from_secs(pause) + self.dice.millis(0, 200);
    }

    fn speak(&mut self) {
        let now = Instant::now();
        let Some(client) = &mut self.client else { return };
        if !client.is_connected() || self.under_way.is_some() || self.next_message > now {
            return;
        }
        let length =
            if self.dice.happens(0.15) { self.dice.within(460, 1500) } else { self.dice.within(14, 90) };
        let mut payload = self.id.to_vec();
        payload.extend_from_slice(&self.counter.to_be_bytes());
        payload.extend_from_slice(&self.attempt.to_be_bytes());
        // Whatever is torn or joined does not look like anything that was said.
        let filler = (payload.len() as u64..length).map(|at| (at ^ u64::from(self.counter)) as u8);
        payload.extend(filler.collect::<Vec<_>>());
        if client.send(&payload).is_ok() {
            self.attempt += 1;
            self.said.insert(payload.clone());
            self.under_way = Some(payload);
        } else {
            self.next_message = now + Duration::from_millis(50);
        }
    }

    fn give_up(&mut self) {
        let Some(client) = &self.client else { return };
        let hangs = !client.is_connected() && self.connecting_since + HANDSHAKE <= Instant::now();
        if hangs || self.failures >= FAILURES || client.is_closed() {
            self.come_again();
        }
    }

    pub(super) fn client_name(&self) -> &'static str {
        self.profile.name
    }
}
