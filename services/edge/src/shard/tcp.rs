//! PACKET PATH: no lock, no log, no await; allocates when a connection begins or proves itself, not per record.
//!
//! The connections of a shard, which take turns: how they come is in `accept`, what they say in `read`, how they go in `end`.

mod accept;
mod end;
mod read;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use mio::Registry;
use mio::event::Event;
use mio::net::TcpListener;
use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::DropReason;

use super::core::Core;
use super::records::Message;
use super::tcp_handshake::Handshake;
use super::tcp_session::Live;
use crate::admission::{Queue, Shares};
use crate::counts::Count;
use crate::link::{SendError, SendReply, SessionRef};
use crate::stream::{SCRATCH, Stream};
use crate::table::Slab;
use crate::timers::Timers;

/// Reads per turn over all connections, of up to 16 KiB each.
const READS_PER_TURN: usize = 64;

enum State<P: Provider> {
    /// Its balancer still owes the header.
    Proxy,
    Handshake(Box<Handshake<P>>),
    Live(Box<Live<P>>),
    /// BYE is written and the session over; what still comes is read and forgotten until this time, so that the system does not
    /// take the BYE back for unread bytes.
    Leaving(Instant),
}

struct Connection<P: Provider> {
    stream: Stream,
    /// The device's address, as far as it is known.
    peer: SocketAddr,
    /// The address that the table of unproven peers counts, while the peer is unproven.
    unproven: Option<IpAddr>,
    serial: u32,
    accepted: Instant,
    state: State<P>,
    /// Whether it stands in the queue of those to be read.
    queued: bool,
    /// Whether it stands in the queue of those that wait for a budget.
    waits: bool,
}

/// Why a connection is at its end.
enum End {
    /// The peer closed it, or it broke.
    Gone,
    /// The peer broke the protocol.
    Refused(DropReason),
    /// The session says so.
    Session(CloseReason),
    /// No PROXY protocol header that counts.
    Proxy,
    /// The peer was too slow.
    Late,
    /// It made room.
    Evicted,
    /// The proof was wrong; reported where it was found.
    Proof,
}

pub(crate) struct Tcp<P: Provider> {
    listener: Option<TcpListener>,
    registry: Registry,
    acceptable: bool,
    connections: Slab<Connection<P>>,
    timers: Timers,
    shares: Shares,
    /// Unproven connections; proven ones count as gone.
    order: Queue,
    /// Connections to read from, each once.
    ready: VecDeque<u32>,
    /// Connections that are not read from until there is room for records.
    held_back: Vec<u32>,
    /// Connections that wait for a reassembly buffer, or for a place for their first message; tried again each turn, for a turn is when
    /// one may have come back.
    starved: Vec<u32>,
    /// Handshakes that wait for the X25519 budget.
    waiting: VecDeque<(u32, u32)>,
    /// Handshakes that wait for a place among the look-ups, and when to ask for one.
    unasked: VecDeque<(u32, u32)>,
    ask_again: Option<Instant>,
    scratch: Box<[u8; SCRATCH]>,
}

impl<P: Provider> Tcp<P> {
    pub(crate) fn new(core: &Core, listener: TcpListener, registry: Registry) -> Self {
        let unproven = core.config.handshake.in_progress_per_shard.get() as usize;
        Self {
            listener: Some(listener),
            registry,
            acceptable: true,
            connections: Slab::new(core.config.limits.tcp_connections.get() as usize),
            timers: Timers::default(),
            shares: Shares::new(unproven),
            order: Queue::default(),
            ready: VecDeque::new(),
            held_back: Vec::new(),
            starved: Vec::new(),
            waiting: VecDeque::new(),
            unasked: VecDeque::new(),
            ask_again: None,
            scratch: Box::new([0; SCRATCH]),
        }
    }

    pub(crate) const fn mark_acceptable(&mut self) {
        self.acceptable = true;
    }

    /// The poll has news of a connection.
    pub(crate) fn mark_ready(&mut self, core: &mut Core, at: u32, event: &Event) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        if event.is_writable() {
            match connection.stream.flush(core.now) {
                Ok(_) => {}
                Err(_) => return self.end(core, at, End::Gone),
            }
        }
        let Some(connection) = self.connections.get_mut(at) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            connection.stream.mark_readable();
        }
        self.queue(at);
    }

    pub(crate) fn turn(&mut self, core: &mut Core, paused: Option<Instant>) {
        self.expire(core, paused);
        self.wake_waiting(core);
        self.accept(core);
        self.ready.extend(self.starved.drain(..));
        for _ in 0..READS_PER_TURN.min(self.ready.len()) {
            let Some(at) = self.ready.pop_front() else { break };
            // Room is asked for before each read, so that nothing that was read must be dropped.
            match self.connections.get(at).map(|found| &found.state) {
                Some(State::Live(_)) if !core.has_room() => self.held_back.push(at),
                Some(State::Live(live)) if live.waits() && core.waiting.is_full() => self.starved.push(at),
                _ => self.read(core, at),
            }
        }
        if paused.is_none() {
            self.ready.extend(self.held_back.drain(..));
        }
    }

    pub(crate) fn has_work(&self, paused: bool) -> bool {
        self.acceptable && self.listener.is_some()
            || !self.ready.is_empty()
            || !self.waiting.is_empty()
            || !paused && !self.held_back.is_empty()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        [self.timers.next(), self.ask_again].into_iter().flatten().min()
    }

    fn queue(&mut self, at: u32) {
        if let Some(connection) = self.connections.get_mut(at)
            && !connection.queued
            && connection.stream.may_read()
        {
            connection.queued = true;
            self.ready.push_back(at);
        }
    }

    fn find(&mut self, session: SessionRef) -> Option<&mut Connection<P>> {
        self.connections.get_mut(session.index).filter(|connection| connection.serial == session.serial)
    }

    fn live(&mut self, session: SessionRef) -> Option<(&mut Stream, &mut Live<P>)> {
        let connection = self.find(session)?;
        match &mut connection.state {
            State::Live(live) => Some((&mut connection.stream, live)),
            _ => None,
        }
    }

    /// What Kafka did with a message. TCP has no acknowledgement; it is only counted.
    pub(crate) fn settled(&mut self, message: &Message, committed: bool) {
        if !committed && let Some((_, live)) = self.live(message.session) {
            live.discount_refused();
        }
    }

    /// The sessions of the device of this one keep displacing each other.
    pub(crate) fn suspect_clone(&mut self, core: &mut Core, session: SessionRef) {
        if let Some((_, live)) = self.live(session) {
            let named = live.named();
            core.refuse(SecurityReason::SuspectedClone, Some(named), Transport::Tcp);
        }
    }

    pub(crate) fn send(&mut self, core: &mut Core, session: SessionRef, payload: Box<[u8]>, done: SendReply) {
        let Some((stream, live)) = self.live(session) else {
            let _nobody_waits = done.send(Err(SendError::NotConnected));
            return;
        };
        let outcome = live.send(core, stream, &payload);
        core.counts.one(if outcome.is_ok() { Count::DownlinkDelivered } else { Count::DownlinkFailed });
        let broken = outcome == Err(SendError::SessionEnded);
        let _nobody_waits = done.send(outcome);
        if broken {
            self.end(core, session.index, End::Gone);
        } else if let Some(when) = self.find(session).and_then(|connection| Self::deadline(core, connection))
        {
            self.timers.ensure(session.index, when);
        }
    }

    /// The session's messages are handed over from now on; `false` when it is gone.
    pub(crate) fn go(&mut self, core: &Core, session: SessionRef) -> bool {
        let Some((_, live)) = self.live(session) else { return false };
        let was_kept = live.kept_since().is_some();
        live.go(core.now);
        if was_kept && let Some(connection) = self.find(session) {
            connection.queued = false;
            if let Some(when) = Self::deadline(core, connection) {
                self.timers.ensure(session.index, when);
            }
            self.queue(session.index);
        }
        true
    }

    /// Whether nobody is left.
    pub(crate) fn is_silent(&self) -> bool {
        self.connections.len() == 0
    }

    /// When the connection must be looked at again: its own timer, or the one for a peer that does not take its bytes.
    fn deadline(core: &Core, connection: &Connection<P>) -> Option<Instant> {
        let own = match &connection.state {
            State::Proxy => Some(connection.accepted + core.config.handshake.tcp_step_timeout),
            State::Handshake(handshake) => Some(handshake.deadline()),
            State::Live(live) => live.deadline(),
            State::Leaving(until) => Some(*until),
        };
        let write =
            connection.stream.waiting_since().map(|since| since + core.config.session.tcp_write_timeout);
        [own, write].into_iter().flatten().min()
    }
}
