//! A UDP server around the server role, as small as a driver can be: one device, one clock, a store that takes its time.
//! [`SimServer::shared`] is one of several, which hand their sessions over.

use std::collections::{BTreeMap, VecDeque};
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

use crate::journal::Journal;
use crate::sealed::SealedFrames;
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

/// Between two writes of a server that hands its sessions over; it may stop there.
const STEP: Duration = Duration::from_millis(1);

/// What waits for the store or the journal.
struct Pending {
    from: Port,
    session_id: SessionId,
    token: CommitToken,
    what: Work,
}

enum Work {
    Message(Vec<u8>),
    Fragment,
    /// The keys are to be persisted.
    Persist,
    /// The new epoch is to be journaled.
    Rekey,
    /// Committed: the device is to hear of it.
    Answer,
    /// The same of a REKEY.
    AnswerRekey,
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
    pending: BTreeMap<(Instant, u64), Pending>,
    works: u64,
    journal: Option<Journal>,
    sealed: SealedFrames,
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
            pending: BTreeMap::new(),
            works: 0,
            journal: None,
            sealed: SealedFrames::default(),
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

    /// One of several servers that have a journal and a store in common.
    #[must_use]
    pub fn shared(psk: &[u8], seed: u64) -> Self {
        Self { journal: Some(Journal::default()), ..Self::new(psk, seed) }
    }

    /// The owner of the sessions stops, and another goes on with what is committed when a datagram asks for it. Handshakes are
    /// somebody else's and go on; a message to the device is given up, since nobody knows how far it got.
    pub fn hand_over(&mut self) {
        for mut open in self.sessions.drain(..) {
            open.session.release(&mut self.pool);
        }
        self.pending.clear();
        self.answers.clear();
        if let Some(journal) = &mut self.journal {
            journal.next_owner();
        }
    }

    /// Frames that left and differ.
    #[must_use]
    pub fn sealed_frames(&self) -> usize {
        self.sealed.len()
    }

    const fn config(&self) -> SessionConfig {
        if self.journal.is_some() { SessionConfig::udp_shared() } else { SessionConfig::udp() }
    }

    /// Goes on with a session that another owner had.
    fn resume(&mut self, now: Instant, prefix: [u8; 8]) -> Option<usize> {
        let resumed = self.journal.as_ref()?.resumed(prefix)?;
        let session = UdpSession::resumed(now, resumed, self.port, self.rng.random(), &self.config());
        self.sessions.push(Open { session, outgoing: None });
        Some(self.sessions.len() - 1)
    }

    fn work(&mut self, at: Instant, pending: Pending) {
        self.works += 1;
        self.pending.insert((at, self.works), pending);
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
            let shared = self.journal.is_some();
            let config = if shared { SessionConfig::udp_shared() } else { SessionConfig::udp() };
            if let Ok(session) = handshake.accept(now, proof, SessionId(id), port, &config) {
                if let Some(journal) = &mut self.journal {
                    journal.open(session.secrets());
                }
                self.sessions.push(Open { session, outgoing: None });
            }
        }
        self.utack(&Utack::plain(usmp::wire::FrameType::HelloAck, ack.seq));
        Ok(())
    }

    fn sealed(&mut self, now: Instant, prefix: [u8; 8], datagram: &mut [u8]) -> Result<(), DropReason> {
        let port = self.port;
        let known = self.sessions.iter().position(|open| open.session.session_id().prefix() == prefix);
        let Some(index) = known.or_else(|| self.resume(now, prefix)) else {
            let lingering = self.lingering.as_ref().filter(|end| end.session_id().prefix() == prefix);
            if let Some(utack) = lingering.and_then(|end| end.handle_datagram(now, datagram)) {
                self.answers.push_back(utack.to_vec());
            }
            return Ok(());
        };
        let session = &mut self.sessions[index].session;
        let session_id = session.session_id();
        let received = session.handle_datagram(now, port, datagram, &mut self.pool);
        if received.is_err() && !session.is_settled() && session.candidate_path().is_none() {
            // Nothing has shown yet that the device is there.
            self.sessions.remove(index);
            return received.map(drop);
        }
        let at = now + self.commit_time;
        let pending = |token, what| Pending { from: port, session_id, token, what };
        match received? {
            Received::Message { token, payload } => {
                let work = pending(token, Work::Message(payload.to_vec()));
                self.work(at, work);
            }
            Received::Fragment { token } => self.work(at, pending(token, Work::Fragment)),
            Received::Rekey { token } => self.work(at, pending(token, Work::Persist)),
            Received::Acknowledge { utack, what } => {
                self.answers.push_back(utack.to_vec());
                if what == Acknowledged::Bye {
                    let open = self.sessions.remove(index);
                    if let Some(journal) = &mut self.journal {
                        journal.close(session_id);
                    }
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
                        let id = self.sessions[index].session.session_id();
                        if let Some(journal) = &mut self.journal {
                            journal.established(id);
                        }
                        for mut old in self.sessions.drain(..index) {
                            if let Some(journal) = &mut self.journal {
                                journal.close(old.session.session_id());
                            }
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
                let mut open = self.sessions.remove(index);
                if let Some(journal) = &mut self.journal {
                    journal.close(open.session.session_id());
                }
                open.session.release(&mut self.pool);
            } else {
                index += 1;
            }
        }
    }

    fn commit(&mut self, now: Instant) {
        while let Some(entry) = self.pending.first_entry().filter(|entry| entry.key().0 <= now) {
            let Pending { from, session_id, token, what } = entry.remove();
            // A server with a journal may stop between any two of these.
            let next = match what {
                Work::Message(payload) => {
                    self.stored.push(Stored { session_id, token, payload });
                    if let Some(journal) = &mut self.journal {
                        journal.commit(session_id, token, false);
                    }
                    Work::Answer
                }
                Work::Fragment => {
                    if let Some(journal) = &mut self.journal {
                        journal.commit(session_id, token, true);
                    }
                    Work::Answer
                }
                Work::Persist => {
                    let pending = self.session(session_id).and_then(|session| session.pending_rekey());
                    let (Some(journal), Some(pending)) = (&mut self.journal, pending) else { continue };
                    journal.persist(session_id, pending);
                    Work::Rekey
                }
                Work::Rekey => {
                    if let Some(journal) = &mut self.journal {
                        journal.rekey(session_id, token.epoch + 1);
                    }
                    Work::AnswerRekey
                }
                answer @ (Work::Answer | Work::AnswerRekey) => {
                    self.answer(now, from, session_id, token, matches!(answer, Work::AnswerRekey));
                    continue;
                }
            };
            if self.journal.is_some() {
                self.work(now + STEP, Pending { from, session_id, token, what: next });
            } else {
                self.answer(now, from, session_id, token, false);
            }
        }
    }

    fn session(&mut self, id: SessionId) -> Option<&mut UdpSession<P, Port>> {
        self.sessions.iter_mut().map(|open| &mut open.session).find(|session| session.session_id() == id)
    }

    /// Tells the device that something is committed.
    fn answer(&mut self, now: Instant, from: Port, id: SessionId, token: CommitToken, rekey: bool) {
        let Some(session) = self.session(id) else { return };
        let committed =
            if rekey { session.rekey_committed(now, token) } else { session.committed(now, token) };
        let Some(committed) = committed else { return };
        self.answers.push_back(committed.utack.to_vec());
        if committed.also_to.is_some_and(|port| port != from) {
            self.answers.push_back(committed.utack.to_vec());
        }
        self.events();
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
                let frame = &out[..transmit.length];
                self.sealed.note(&open.session.secrets().keys.s2c, open.session.session_id(), frame);
                send(frame);
            }
        }
        self.events();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let handshake = self.handshake.as_ref().and_then(|(_, handshake)| handshake.poll_timeout());
        let sessions = self.sessions.iter().filter_map(|open| open.session.poll_timeout());
        [
            self.pending.first_key_value().map(|(&(at, _), _)| at),
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
