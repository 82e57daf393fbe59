//! A UDP server around the server role, as small as a driver can be: one device, one clock, a store that takes its time.

use std::collections::VecDeque;
use std::marker::PhantomData;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use usmp::crypto::{Provider, RustCrypto};
use usmp::server::demux::{Datagram, classify};
use usmp::server::{
    AckOutcome, Acknowledged, ArrayPool, CloseReason, CommitToken, DropReason, HandshakeConfig, HelloOutcome,
    Lingering, Received, RetryRing, SessionConfig, SessionEvent, UdpHandshake, UdpSession,
};
use usmp::wire::{Hello, HelloAck, HelloRetry, MAX_FRAME, Utack};
use usmp::{CookieSecrets, Duration, Instant, Secret, SessionId};

use crate::sim::Endpoint;

/// The address of the one device; a reconnect comes from the next one.
type Port = u16;

/// A message that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The session it came in.
    pub session_id: SessionId,
    /// Its name there.
    pub token: CommitToken,
    /// Its bytes.
    pub payload: Vec<u8>,
}

struct Pending {
    at: Instant,
    from: Port,
    record: Stored,
}

struct Open<P> {
    session: UdpSession<P, Port>,
    outgoing: Option<Vec<u8>>,
}

/// The server.
pub struct SimServer<P: Provider = RustCrypto> {
    psk: Vec<u8>,
    cookies: CookieSecrets,
    retries: RetryRing<Port, 8>,
    handshake: Option<(Port, UdpHandshake<P>)>,
    sessions: Vec<Open<P>>,
    lingering: Option<Lingering<P>>,
    pool: ArrayPool<4>,
    rng: ChaCha8Rng,
    port: Port,
    answers: VecDeque<Vec<u8>>,
    pending: VecDeque<Pending>,
    downlink: VecDeque<Vec<u8>>,
    /// How long the store takes.
    pub commit_time: Duration,
    /// What the store has, in its order.
    pub stored: Vec<Stored>,
    /// Messages whose frames the device acknowledged.
    pub delivered: Vec<Vec<u8>>,
    /// Why sessions ended.
    pub closed: Vec<CloseReason>,
    /// Sessions that became established.
    pub established: u32,
    /// What was dropped.
    pub dropped: Vec<DropReason>,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider> SimServer<P> {
    /// A server for one device. Everything random about it follows from the seed.
    #[must_use]
    pub fn new(psk: &[u8], seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self {
            psk: psk.to_vec(),
            cookies: CookieSecrets::new(Secret::new(secret)),
            retries: RetryRing::new(),
            handshake: None,
            sessions: Vec::new(),
            lingering: None,
            pool: ArrayPool::new(),
            rng,
            port: 40_000,
            answers: VecDeque::new(),
            pending: VecDeque::new(),
            downlink: VecDeque::new(),
            commit_time: Duration::from_millis(5),
            stored: Vec::new(),
            delivered: Vec::new(),
            closed: Vec::new(),
            established: 0,
            dropped: Vec::new(),
            provider: PhantomData,
        }
    }

    /// The device connects anew, from another port. What is on the way from the old one counts as from the new one.
    pub const fn next_port(&mut self) {
        self.port = self.port.wrapping_add(1);
    }

    /// Queues a message to the device, for the session that is open then.
    pub fn send(&mut self, message: &[u8]) {
        self.downlink.push_back(message.to_vec());
    }

    /// Messages to the device that are not through yet.
    #[must_use]
    pub fn to_deliver(&self) -> usize {
        self.downlink.len() + self.sessions.iter().filter(|open| open.outgoing.is_some()).count()
    }

    /// Changes the keys of the open session.
    pub fn start_rekey(&mut self) -> bool {
        let mut salt = [0; 32];
        self.rng.fill_bytes(&mut salt);
        self.sessions.last_mut().is_some_and(|open| open.session.start_rekey(Secret::new(salt)).is_ok())
    }

    /// Buffers lent to messages in the making.
    #[must_use]
    pub fn buffers_lent(&self) -> usize {
        self.pool.lent()
    }

    /// Sessions that are open.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn unix(now: Instant) -> u64 {
        1_700_000_000 + now.as_micros() / 1_000_000
    }

    fn utack(&mut self, utack: &Utack) {
        self.answers.push_back(utack.emit().to_vec());
    }

    fn hello(&mut self, now: Instant, hello: &Hello) {
        let (port, unix) = (self.port, Self::unix(now));
        let address = port.to_be_bytes();
        let Some(cookie) = hello.cookie else {
            self.utack(&Utack::plain(usmp::wire::FrameType::Hello, hello.seq));
            let cookie = self.cookies.issue::<P>(unix, &address, hello.device_id, &hello.public_key);
            let mut out = [0; MAX_FRAME];
            let length = HelloRetry { cookie }.emit(0, &mut out).expect("a frame fits");
            self.answers.push_back(out[..length].to_vec());
            self.retries.push(now, port, cookie);
            return;
        };
        if !self.cookies.check::<P>(unix, &address, hello.device_id, &hello.public_key, &cookie) {
            return;
        }
        self.retries.cancel(&port);
        self.utack(&Utack::plain(usmp::wire::FrameType::Hello, hello.seq));
        let repeated = self.handshake.as_mut().is_some_and(|(from, handshake)| {
            *from == port && handshake.handle_hello(now, hello) == HelloOutcome::Duplicate
        });
        if !repeated {
            let (mut private, mut nonce) = ([0; 32], [0; 32]);
            self.rng.fill_bytes(&mut private);
            self.rng.fill_bytes(&mut nonce);
            let (seed, config) = (self.rng.random(), HandshakeConfig::default());
            let handshake = UdpHandshake::start(now, hello, Secret::new(private), nonce, seed, &config);
            self.handshake = Some((port, handshake));
        }
    }

    fn hello_ack(&mut self, now: Instant, ack: &HelloAck) -> Result<(), DropReason> {
        let port = self.port;
        let psk = self.psk.clone();
        let Some((_, handshake)) = self.handshake.as_mut().filter(|(from, _)| *from == port) else {
            return Ok(());
        };
        if let AckOutcome::Proved(proof) = handshake.handle_hello_ack(now, ack, &[&psk])? {
            let mut id = [0; 16];
            self.rng.fill_bytes(&mut id);
            if let Ok(session) = handshake.accept(now, proof, SessionId(id), port, &SessionConfig::udp()) {
                self.sessions.push(Open { session, outgoing: None });
            }
        }
        self.utack(&Utack::plain(usmp::wire::FrameType::HelloAck, ack.seq));
        Ok(())
    }

    fn sealed(&mut self, now: Instant, prefix: [u8; 8], datagram: &mut [u8]) -> Result<(), DropReason> {
        let port = self.port;
        let Some(index) = self.sessions.iter().position(|open| open.session.session_id().prefix() == prefix)
        else {
            let lingering = self.lingering.as_ref().filter(|end| end.session_id().prefix() == prefix);
            if let Some(utack) = lingering.and_then(|end| end.handle_datagram(now, datagram)) {
                self.answers.push_back(utack.to_vec());
            }
            return Ok(());
        };
        let session = &mut self.sessions[index].session;
        let session_id = session.session_id();
        match session.handle_datagram(now, port, datagram, &mut self.pool)? {
            Received::Message { token, payload } => {
                let record = Stored { session_id, token, payload: payload.to_vec() };
                self.pending.push_back(Pending { at: now + self.commit_time, from: port, record });
            }
            Received::Fragment { .. } | Received::Rekey { .. } => unreachable!("nothing is handed over here"),
            Received::Acknowledge { utack, what } => {
                self.answers.push_back(utack.to_vec());
                if what == Acknowledged::Bye {
                    let open = self.sessions.remove(index);
                    self.closed.push(CloseReason::Bye);
                    self.lingering = Some(open.session.into_lingering(now, &mut self.pool));
                    return Ok(());
                }
            }
        }
        self.events();
        Ok(())
    }

    fn handle_utack(&mut self, now: Instant, utack: &Utack) -> Result<(), DropReason> {
        if self.retries.handle_utack(&self.port, utack) {
            return Ok(());
        }
        let port = self.port;
        if utack.frame_type.is_sealed() {
            let mut result = Err(DropReason::UtackUnexpected);
            for open in &mut self.sessions {
                let one = open.session.handle_utack(now, port, utack);
                result = result.or(one);
            }
            self.events();
            return result;
        }
        if let Some((_, handshake)) = &mut self.handshake
            && handshake.handle_utack(now, utack)?
            && let Some(open) = self.sessions.last_mut()
        {
            open.session.session_ok_arrived(now);
        }
        Ok(())
    }

    fn events(&mut self) {
        let mut index = 0;
        while index < self.sessions.len() {
            let mut gone = false;
            while let Some(event) = self.sessions[index].session.poll_event() {
                match event {
                    SessionEvent::Established => {
                        self.established += 1;
                        self.handshake = None;
                        // The newer session takes over from the older ones.
                        for mut old in self.sessions.drain(..index) {
                            old.session.release(&mut self.pool);
                        }
                        index = 0;
                    }
                    SessionEvent::MessageDelivered => {
                        self.delivered.extend(self.sessions[index].outgoing.take());
                    }
                    SessionEvent::MessageLost => self.sessions[index].outgoing = None,
                    SessionEvent::Closed(reason) => {
                        self.closed.push(reason);
                        gone = true;
                    }
                    SessionEvent::Moved { .. }
                    | SessionEvent::Rekeyed { .. }
                    | SessionEvent::NumbersNeeded => {}
                }
            }
            if gone {
                self.sessions.remove(index).session.release(&mut self.pool);
            } else {
                index += 1;
            }
        }
    }

    fn commit(&mut self, now: Instant) {
        while self.pending.front().is_some_and(|pending| pending.at <= now) {
            let Some(Pending { from, record, .. }) = self.pending.pop_front() else { return };
            let id = record.session_id;
            let token = record.token;
            self.stored.push(record);
            let open = self.sessions.iter_mut().find(|open| open.session.session_id() == id);
            if let Some(committed) = open.and_then(|open| open.session.committed(token)) {
                self.answers.push_back(committed.utack.to_vec());
                if committed.also_to.is_some_and(|port| port != from) {
                    self.answers.push_back(committed.utack.to_vec());
                }
            }
        }
    }
}

impl<P: Provider> Endpoint for SimServer<P> {
    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) {
        let result = match classify(datagram) {
            Ok(Datagram::Utack(utack)) => self.handle_utack(now, &utack),
            Ok(Datagram::Hello(hello)) => {
                self.hello(now, &hello);
                Ok(())
            }
            Ok(Datagram::HelloAck(ack)) => self.hello_ack(now, &ack),
            Ok(Datagram::Sealed { prefix, .. }) => self.sealed(now, prefix, datagram),
            Err(reason) => Err(reason),
        };
        self.dropped.extend(result.err());
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.commit(now);
        if let Some((_, handshake)) = &mut self.handshake {
            handshake.handle_timeout(now);
        }
        self.handshake.take_if(|(_, handshake)| handshake.is_over());
        self.lingering.take_if(|end| end.until() <= now);
        for open in &mut self.sessions {
            open.session.handle_timeout(now, &mut self.pool);
        }
        self.events();
    }

    fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) {
        while let Some(answer) = self.answers.pop_front() {
            send(&answer);
        }
        let mut out = [0; MAX_FRAME];
        while let Some((length, _)) = self.retries.poll_transmit(now, &mut out) {
            send(&out[..length]);
        }
        if let Some((_, handshake)) = &mut self.handshake {
            while let Some(length) = handshake.poll_transmit(now, &mut out) {
                send(&out[..length]);
            }
        }
        for open in &mut self.sessions {
            if open.outgoing.is_none()
                && let Some(message) = self.downlink.front()
                && open.session.send(message.len()).is_ok()
            {
                open.outgoing = self.downlink.pop_front();
            }
            let message = open.outgoing.as_deref().unwrap_or_default();
            while let Some(transmit) = open.session.poll_transmit(now, message, &mut out) {
                send(&out[..transmit.length]);
            }
        }
        self.events();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.handshake.as_ref().and_then(|(_, handshake)| handshake.poll_timeout());
        let sessions = self.sessions.iter().filter_map(|open| open.session.poll_timeout());
        [
            self.pending.front().map(|pending| pending.at),
            self.retries.poll_timeout(),
            self.lingering.as_ref().map(Lingering::until),
            handshake,
        ]
        .into_iter()
        .flatten()
        .chain(sessions)
        .min()
    }
}
