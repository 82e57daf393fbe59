//! A device's application, its path and the server, and what must hold after every step.

use std::collections::BTreeSet;

use usmp::device::{Event, MessageId};
use usmp::{DeviceId, Duration, Instant};
use usmp_testkit::link::Conditions;
use usmp_testkit::profiles::{ImitatedClient, Profile};
use usmp_testkit::server::SimServer;
use usmp_testkit::sim::Path;

const PSK: [u8; 32] = [0x61; 32];

/// A device's application, its path, the server, and what must hold between them.
pub(crate) struct Run {
    pub(crate) profile: Profile,
    pub(crate) client: ImitatedClient,
    pub(crate) server: SimServer,
    pub(crate) path: Path,
    pub(crate) seed: u64,
    pub(crate) connections: u32,
    /// Number and name of the message under way.
    pub(crate) under_way: Option<(u32, MessageId)>,
    pub(crate) next: u32,
    pub(crate) size: usize,
    pub(crate) acknowledged: BTreeSet<u32>,
    pub(crate) failed: BTreeSet<u32>,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) stored_seen: usize,
    pub(crate) connected: u32,
    pub(crate) reconnect_at: Option<Instant>,
}

pub(crate) fn numbered(number: u32, size: usize) -> Vec<u8> {
    let mut message = number.to_le_bytes().to_vec();
    message.resize(size.max(4), number.to_le_bytes()[0]);
    message
}

pub(crate) fn number(message: &[u8]) -> u32 {
    u32::from_le_bytes(*message.first_chunk().expect("a numbered message"))
}

impl Run {
    /// With one server, which keeps its sessions.
    pub(crate) fn new(profile: Profile, conditions: Conditions, seed: u64) -> Self {
        Self::with(SimServer::new(&PSK, seed), profile, conditions, seed)
    }

    /// With several servers, which hand their sessions over.
    pub(crate) fn shared(profile: Profile, conditions: Conditions, seed: u64) -> Self {
        Self::with(SimServer::shared(&PSK, seed), profile, conditions, seed)
    }

    fn with(server: SimServer, profile: Profile, conditions: Conditions, seed: u64) -> Self {
        let path = Path::new(conditions, seed);
        Self {
            client: Self::connect(profile, path.now(), seed, 0),
            server,
            path,
            profile,
            seed,
            connections: 1,
            under_way: None,
            next: 0,
            size: 32,
            acknowledged: BTreeSet::new(),
            failed: BTreeSet::new(),
            received: Vec::new(),
            stored_seen: 0,
            connected: 0,
            reconnect_at: None,
        }
    }

    fn connect(profile: Profile, now: Instant, seed: u64, connection: u32) -> ImitatedClient {
        let mut private = [0x10; 32];
        private[..8].copy_from_slice(&seed.to_le_bytes());
        private[8..12].copy_from_slice(&connection.to_le_bytes());
        ImitatedClient::connect(profile, now, DeviceId([2, 0, 0, 0, 0, 9]), &PSK, private)
    }

    pub(crate) fn place(&self) -> String {
        format!("{} seed {} at {} ms", self.profile.name, self.seed, self.path.now().as_micros() / 1000)
    }

    /// One step, the application's reaction, and the checks. False when nothing will happen before `until`.
    pub(crate) fn step(&mut self, until: Instant) -> bool {
        let end = until;
        let until = self.reconnect_at.map_or(end, |at| at.min(end));
        let more = self.path.step(&mut self.client, &mut self.server, until);
        self.application();
        self.check();
        more || self.path.now() < end
    }

    fn application(&mut self) {
        let place = self.place();
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Connected { .. } => self.connected += 1,
                Event::Message(message) => self.received.push(message.to_vec()),
                Event::Delivered(id) => {
                    let (number, under_way) = self.under_way.take().expect("a message is under way");
                    assert_eq!(id, under_way, "{place}");
                    self.acknowledged.insert(number);
                }
                Event::Failed(_) => self.failed.extend(self.under_way.take().map(|(number, _)| number)),
                _ => {}
            }
        }
        if self.client.is_closed() && self.reconnect_at.is_none() {
            self.failed.extend(self.under_way.take().map(|(number, _)| number));
            let pause = self.profile.pause(self.connections as usize - 1);
            self.reconnect_at = Some(self.path.now() + pause.unwrap_or(Duration::from_secs(1)));
        }
        if self.reconnect_at.is_some_and(|at| at <= self.path.now()) {
            self.reconnect_at = None;
            self.server.next_port();
            self.client = Self::connect(self.profile, self.path.now(), self.seed, self.connections);
            self.connections += 1;
        }
    }

    fn check(&mut self) {
        let place = self.place();
        let stored = &self.server.stored;
        for record in &stored[self.stored_seen..] {
            let number = number(&record.payload);
            let epoch = (record.session_id, record.token.epoch);
            // A device sends again under new keys what was not acknowledged under the old ones (WIRE.md section 9), so a change
            // of keys by the server, which is never made by itself, can repeat a message under another name.
            let earlier = stored[..self.stored_seen].iter().find(|earlier| {
                let later = self::number(&earlier.payload);
                later > number || later == number && epoch == (earlier.session_id, earlier.token.epoch)
            });
            assert!(earlier.is_none(), "{place}: {number} stored again or late, after {earlier:?}");
            self.stored_seen += 1;
        }
        let stored: BTreeSet<u32> = stored.iter().map(|record| number(&record.payload)).collect();
        let lost: Vec<_> = self.acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "{place}: acknowledged and not stored: {lost:?}");
        assert!(self.server.buffers_lent() <= 2, "{place}: {} buffers lent", self.server.buffers_lent());
    }

    /// Sends the next numbered message if none is under way.
    pub(crate) fn offer(&mut self) {
        if self.under_way.is_none()
            && self.client.is_connected()
            && let Ok(id) = self.client.send(&numbered(self.next, self.size))
        {
            self.under_way = Some((self.next, id));
            self.next += 1;
        }
    }

    /// Sends numbered messages until so many are acknowledged.
    pub(crate) fn send_until(&mut self, acknowledged: usize, longest: Duration) {
        let until = self.path.now() + longest;
        let mut steps = 0_u64;
        while self.acknowledged.len() < acknowledged {
            self.offer();
            assert!(
                self.step(until) && self.path.now() < until,
                "{}: {} acknowledged, {} failed, {} connections, {:?}",
                self.place(),
                self.acknowledged.len(),
                self.failed.len(),
                self.connections,
                self.client
            );
            steps += 1;
            assert!(steps < 1_000_000, "{}: steps without end", self.place());
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.path.now() + time;
        while self.step(until) && self.path.now() < until {}
    }
}
