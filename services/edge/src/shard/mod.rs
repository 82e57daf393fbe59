//! PACKET PATH: no lock, no log, no await; allocation only where a table grows or a handshake begins.
//!
//! A shard is one thread with its own sockets, sessions, timers and records. It takes turns: what it was told, what Kafka has
//! committed, who may go now, what time brings, datagrams, connections, handshakes within their budget; then it hands its records
//! over and sends its datagrams, all at once.

mod adoption;
mod buffers;
mod cookies;
mod core;
mod dormant;
mod holds;
mod keys;
mod others;
mod records;
mod relay;
mod routes;
mod session;
mod slots;
mod snapshots;
mod tcp;
mod tcp_handshake;
mod tcp_session;
mod turn;
mod udp;
mod udp_handshakes;
mod udp_live;
mod udp_sessions;
mod udp_shared;

use std::io;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use sluice_proto::events::v1::CloseReason;
use tokio::sync::mpsc;
use usmp::Instant;
use usmp::crypto::Provider;

pub(crate) use self::cookies::Cookies;
use self::core::Released;
pub(crate) use self::core::{Core, Parts, Places, Tenants, random, random_secret};
use self::keys::Keys;
pub(crate) use self::others::PeerShard;
pub(crate) use self::records::{MIN_BYTES, MIN_RECORDS, Records, Settled, Sink};
pub(crate) use self::relay::{Relay, shard_and_slot};
pub(crate) use self::session::Session;
use self::slots::Leaving;
pub(crate) use self::slots::Slots;
use self::tcp::Tcp;
use self::udp::Udp;
use crate::counts::Count;
use crate::link::{Relayed, SendError, SlotNews, ToShard};
use crate::pulse::Turns;
use crate::sockets::ShardSockets;
use crate::udp_io::Wire;

const UDP: Token = Token(0);
const LISTENER: Token = Token(1);
/// Wakes the shard for its inbox.
pub(crate) const WAKER: Token = Token(2);
/// Connections have the numbers from here on.
const CONNECTIONS: usize = 16;

/// Longest sleep: what nobody wakes the shard for is seen by then.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How often a slot that leaves is looked at.
const SLOT_LOOK: Duration = Duration::from_millis(20);

/// Messages taken from the inbox per turn.
const INBOX_PER_TURN: usize = 256;

/// How a shard is going about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Committing what was received, then saying farewell; all until this time.
    Finishing(Instant),
    /// Farewell is said; devices may acknowledge it until the first time, records be committed until the second.
    Leaving(Instant, Instant),
    Over,
}

/// Where a shard's news comes from.
pub(crate) struct Inputs {
    pub(crate) inbox: mpsc::Receiver<ToShard>,
    pub(crate) settled: Receiver<Settled>,
    pub(crate) relayed: Receiver<Relayed>,
    pub(crate) slots: Receiver<SlotNews>,
}

pub(crate) struct Shard<P: Provider> {
    core: Core,
    inputs: Inputs,
    udp: Option<Udp<P>>,
    tcp: Option<Tcp<P>>,
    phase: Phase,
    /// Since when nothing is read from connections.
    paused: Option<Instant>,
}

impl<P: Provider> Shard<P> {
    /// Registers the sockets with `poll`, whose waker the caller keeps.
    pub(crate) fn new(
        core: Core,
        poll: &Poll,
        sockets: ShardSockets,
        cookies: Cookies,
        peers: Vec<PeerShard>,
        relay: Relay,
        inputs: Inputs,
    ) -> io::Result<Self> {
        let udp = match sockets.udp {
            Some(socket) => {
                let mut socket = mio::net::UdpSocket::from_std(socket);
                poll.registry().register(&mut socket, UDP, Interest::READABLE)?;
                Some(Udp::new(&core, Wire::Socket(socket), cookies, peers, relay)?)
            }
            None => None,
        };
        let tcp = match sockets.tcp {
            Some(listener) => {
                let mut listener = mio::net::TcpListener::from_std(listener);
                poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
                Some(Tcp::new(&core, listener, poll.registry().try_clone()?))
            }
            None => None,
        };
        Ok(Self { core, inputs, udp, tcp, phase: Phase::Serving, paused: None })
    }

    /// A shard without a thread, whose datagrams come and go by `wire`.
    #[cfg(test)]
    pub(crate) fn simulated(
        core: Core,
        wire: Wire,
        cookies: Cookies,
        peers: Vec<PeerShard>,
        relay: Relay,
        inputs: Inputs,
    ) -> io::Result<Self> {
        let udp = Some(Udp::new(&core, wire, cookies, peers, relay)?);
        Ok(Self { core, inputs, udp, tcp: None, phase: Phase::Serving, paused: None })
    }

    /// A turn of such a shard; `false` when it is at its end.
    #[cfg(test)]
    pub(crate) fn simulated_turn(&mut self) -> bool {
        self.core.begin_turn();
        if let Some(udp) = &mut self.udp {
            udp.mark_readable();
        }
        self.turn();
        self.phase != Phase::Over
    }

    /// How long such a shard would sleep now.
    #[cfg(test)]
    pub(crate) fn simulated_sleep(&self) -> Duration {
        if self.has_work() { Duration::ZERO } else { self.until_next() }
    }

    /// Serves until told to stop, or until everything is said and committed after a farewell. Gives the number of records whose
    /// outcome nobody knows. Each turn is told to `turns`.
    pub(crate) fn run(mut self, poll: Poll, turns: &Turns) -> io::Result<usize> {
        let served = self.serve(poll, turns);
        // What is complete is complete; only a late end has something left, and no time.
        let unknown = self.core.waiting.len() + self.core.records.shutdown(Duration::ZERO);
        served.map(|()| unknown)
    }

    fn serve(&mut self, mut poll: Poll, turns: &Turns) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let sleep = if self.has_work() { Duration::ZERO } else { self.until_next() };
            match poll.poll(&mut events, Some(sleep)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.core.begin_turn();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    UDP => {
                        if let Some(udp) = &mut self.udp {
                            udp.mark_readable();
                        }
                    }
                    LISTENER => {
                        if let Some(tcp) = &mut self.tcp {
                            tcp.mark_acceptable();
                        }
                    }
                    Token(number) => {
                        if let Some(tcp) = &mut self.tcp {
                            tcp.mark_ready(&mut self.core, (number - CONNECTIONS) as u32, event);
                        }
                    }
                }
            }
            self.turn();
            turns.turned();
            if self.phase == Phase::Over {
                return Ok(());
            }
        }
    }

    fn turn(&mut self) {
        self.read_inbox();
        self.settle();
        self.let_slots_go();
        self.let_go();
        self.pause_or_resume();
        if let Some(udp) = &mut self.udp {
            while let Ok(mut relayed) = self.inputs.relayed.try_recv() {
                udp.relayed(&mut self.core, &mut relayed);
            }
            udp.turn(&mut self.core);
        }
        if let Some(tcp) = &mut self.tcp {
            tcp.turn(&mut self.core, self.paused);
        }
        self.core.report_repeats();
        self.say_farewell();
        self.core.fleet.flush();
        self.core.submit();
        if let Some(udp) = &mut self.udp {
            udp.flush(&self.core);
        }
    }

    fn read_inbox(&mut self) {
        for _ in 0..INBOX_PER_TURN {
            let Ok(message) = self.inputs.inbox.try_recv() else { return };
            match message {
                ToShard::Keys { handshake, lookup } => {
                    let keys = Keys::from_lookup(lookup);
                    let core = &mut self.core;
                    if handshake.tcp {
                        if let Some(tcp) = &mut self.tcp {
                            tcp.keys(core, handshake, keys);
                        }
                    } else if let Some(udp) = &mut self.udp {
                        udp.keys(core, handshake, keys);
                    }
                }
                ToShard::Claimed { session, epoch, clone_suspected } => {
                    let core = &mut self.core;
                    match (session.tcp, &mut self.tcp, &mut self.udp) {
                        (true, Some(tcp), _) if clone_suspected => tcp.suspect_clone(core, session),
                        (false, _, Some(udp)) => udp.claimed(core, session, epoch, clone_suspected),
                        _ => {}
                    }
                }
                ToShard::CloseSleeping { device, session } => {
                    if let Some(udp) = &mut self.udp {
                        udp.close_sleeping(&mut self.core, device, session);
                    }
                }
                ToShard::Secrets(secrets) => {
                    let cookies = self.core.follow::<P>(*secrets);
                    if let Some(udp) = &mut self.udp {
                        udp.follow(cookies);
                    }
                }
                ToShard::Go { session } => self.core.waiting.go(session),
                ToShard::SlotAdopted(adopted) => self.adopt(*adopted),
                ToShard::SlotLeaves { slot, until } => {
                    let leaving = Leaving::from(self.core.now, until);
                    if let Some(owned) = self.core.slots.get_mut(slot) {
                        owned.leaving.get_or_insert(leaving);
                    }
                }
                ToShard::SessionFound { session, found } => {
                    if let Some(udp) = &mut self.udp {
                        udp.found(&mut self.core, session, found);
                    }
                }
                ToShard::SessionKept { kept, written } => {
                    if let Some(udp) = &mut self.udp {
                        udp.kept(&mut self.core, kept, written);
                    }
                }
                ToShard::Close { session, reason } => {
                    let core = &mut self.core;
                    if session.tcp {
                        if let Some(tcp) = &mut self.tcp {
                            tcp.close(core, session, reason);
                        }
                    } else if let Some(udp) = &mut self.udp {
                        udp.close(core, session, reason);
                    }
                }
                ToShard::Send { session, payload, done } => {
                    let core = &mut self.core;
                    match (session.tcp, &mut self.tcp, &mut self.udp) {
                        (true, Some(tcp), _) => tcp.send(core, session, payload, done),
                        (false, _, Some(udp)) => udp.send(core, session, payload, done),
                        _ => {
                            let _nobody_waits = done.send(Err(SendError::NotConnected));
                        }
                    }
                }
                ToShard::StopAccepting => {
                    self.core.accepting = false;
                    if let Some(udp) = &mut self.udp {
                        udp.stop_accepting(&mut self.core);
                    }
                    if let Some(tcp) = &mut self.tcp {
                        tcp.stop_accepting(&mut self.core);
                    }
                }
                ToShard::Farewell { until } => {
                    self.core.accepting = false;
                    self.core.taking = false;
                    // Sessions in slots are not over: the next owner goes on with them. Nothing is taken any more, so that no message
                    // is waited for.
                    let leaving = Leaving::at_once(self.core.now, until);
                    for owned in self.core.slots.owned_mut() {
                        owned.leaving = Some(leaving);
                    }
                    self.phase = Phase::Finishing(until);
                }
                ToShard::Stop => self.phase = Phase::Over,
            }
        }
    }

    /// Takes back the groups that the writer is through with: their devices get their acknowledgements.
    fn settle(&mut self) {
        let before = self.core.records.settled();
        while let Ok(settled) = self.inputs.settled.try_recv() {
            let batch = self.core.records.take_back(settled);
            for (message, committed) in batch.outcomes() {
                let count = if committed { Count::MessagesCommitted } else { Count::MessagesRefused };
                self.core.counts.one(count);
                if message.session.tcp {
                    if let Some(tcp) = &mut self.tcp {
                        tcp.settled(message, committed);
                    }
                } else if let Some(udp) = &mut self.udp {
                    udp.settled(&mut self.core, message, committed);
                }
            }
            self.core.records.reuse(batch);
        }
        self.settle_slots();
        if self.core.records.settled() > before {
            self.core.tell_settled();
        }
    }

    /// Sessions whose turn it is hand over what they said before, then what they say from now on.
    fn let_go(&mut self) {
        // Each once: one whose slot has no room keeps nobody of another slot waiting.
        for _ in 0..self.core.waiting.going() {
            let Some(session) = self.core.waiting.next() else { return };
            let released = self.core.release(session);
            if matches!(released, Released::NoRoom) {
                self.core.waiting.go(session);
                continue;
            }
            let lives = match (session.tcp, &mut self.tcp, &mut self.udp) {
                (true, Some(tcp), _) => tcp.go(&self.core, session),
                (false, _, Some(udp)) => udp.go(session),
                _ => false,
            };
            // The message of a connection that is gone was all that the fleet waited for.
            if !lives && let Released::Message(mut facts) = released {
                self.core.part(session, &mut facts);
            }
        }
    }

    /// Stops reading from connections while there is no room for records, and tells nobody but the counters.
    fn pause_or_resume(&mut self) {
        match (self.paused, self.core.has_room()) {
            (None, false) => {
                self.paused = Some(self.core.now);
                self.core.counts.one(Count::ReadingPaused);
            }
            (Some(since), true) => {
                self.paused = None;
                self.core.counts.one(Count::ReadingResumed);
                if let Some(tcp) = &mut self.tcp {
                    tcp.resume(&self.core, since);
                }
            }
            _ => {}
        }
    }

    /// Ends the sessions once what they sent is committed, and then itself.
    fn say_farewell(&mut self) {
        let now = self.core.now;
        match self.phase {
            // Slots go first, with their sessions: to those no word is said.
            Phase::Finishing(until)
                if self.core.is_through() && self.core.slots.owned().is_empty() || until <= now =>
            {
                if let Some(udp) = &mut self.udp {
                    udp.close_all(&mut self.core, CloseReason::Drain);
                }
                if let Some(tcp) = &mut self.tcp {
                    tcp.close_all(&mut self.core, CloseReason::Drain);
                }
                self.core.report_rest();
                self.phase = Phase::Leaving(until.min(now + self.core.config.drain.bye_wait), until);
            }
            Phase::Leaving(answers, commits) => {
                let silent = self.is_silent();
                if !silent && answers <= now {
                    if let Some(udp) = &mut self.udp {
                        udp.end_all(&mut self.core);
                    }
                    if let Some(tcp) = &mut self.tcp {
                        tcp.end_all(&mut self.core);
                    }
                } else if commits <= now || silent && self.core.is_through() && self.core.fleet.flush() {
                    self.phase = Phase::Over;
                }
            }
            _ => {}
        }
    }

    fn is_silent(&self) -> bool {
        self.udp.as_ref().is_none_or(Udp::is_silent) && self.tcp.as_ref().is_none_or(Tcp::is_silent)
    }

    fn has_work(&self) -> bool {
        self.udp.as_ref().is_some_and(Udp::has_work)
            || self.tcp.as_ref().is_some_and(|tcp| tcp.has_work(self.paused.is_some()))
            || !self.inputs.inbox.is_empty()
    }

    fn until_next(&self) -> Duration {
        let farewell = match self.phase {
            Phase::Finishing(until) => Some(until),
            Phase::Leaving(_, commits) if self.is_silent() => Some(commits),
            Phase::Leaving(answers, _) => Some(answers),
            _ => None,
        };
        let next = [
            self.udp.as_ref().and_then(|udp| udp.next(self.core.now)),
            self.tcp.as_ref().and_then(Tcp::next),
            self.core.security.next(),
            // A slot that leaves waits for messages, which wake nobody when they do not come.
            self.core
                .slots
                .owned()
                .iter()
                .any(|owned| owned.leaving.is_some())
                .then(|| self.core.now + SLOT_LOOK),
            farewell,
        ];
        let next = next.into_iter().flatten().min();
        next.map_or(LONGEST_SLEEP, |next| (next - self.core.clock.now()).min(LONGEST_SLEEP))
    }
}
