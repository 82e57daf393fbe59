//! PACKET PATH: no lock, no log, no await; allocates when a connection begins or proves itself, not per record.
//!
//! The connections of a shard: accepted, admitted, read in turns, ended.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::DropReason;

use super::CONNECTIONS;
use super::core::{Core, give_back, take};
use super::keys::Keys;
use super::records::Message;
use super::tcp_handshake::{Handshake, Progress};
use super::tcp_session::{Live, Outcome};
use crate::admission::{Queue, Room, Shares, network};
use crate::counts::{Count, drop_count};
use crate::link::{SendError, SendReply, SessionRef};
use crate::proxy;
use crate::stream::{Arrived, SCRATCH, Stream};
use crate::table::Slab;
use crate::timers::Timers;

/// Connections accepted per turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Reads per turn over all connections, of up to 16 KiB each.
const READS_PER_TURN: usize = 64;

/// After how long handshakes ask again for a place among the look-ups: nobody tells a shard that another one gave one back.
const ASK_AGAIN: usmp::Duration = usmp::Duration::from_millis(5);

/// What a handshake cannot go on without.
enum WaitsFor {
    Exchange,
    LookUp,
}

/// Pauses shorter than this change no idle timer.
const NOTICEABLE_PAUSE: usmp::Duration = usmp::Duration::from_secs(1);

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
    /// Connections that wait for a reassembly buffer, or for a place for their first message; tried again each turn, for a turn is when one may have come back.
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

    fn accept(&mut self, core: &mut Core) {
        if !self.acceptable {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((socket, peer)) => self.admit(core, socket, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // No file descriptor is left, or the like: tried again when the next connection comes.
                Err(_) => {
                    core.counts.one(Count::AcceptsFailed);
                    self.acceptable = false;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, core: &mut Core, socket: mio::net::TcpStream, peer: SocketAddr) {
        core.counts.one(Count::TcpAccepted);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let behind_proxy = core.config.proxy_protocol.trusted.iter().any(|range| range.contains(&peer.ip()));
        // Connections of a trusted balancer say nothing about whose they are yet.
        match if behind_proxy { Room::Free } else { self.shares.room(peer.ip()) } {
            Room::Free => {}
            Room::OwnOldest => self.evict(core, Some(peer.ip())),
            Room::Oldest => self.evict(core, None),
        }
        if !take(&core.places.connections, core.config.limits.tcp_connections.get()) {
            self.evict(core, None);
            if !take(&core.places.connections, core.config.limits.tcp_connections.get()) {
                core.counts.one(Count::TcpEnded);
                return core.counts.one(Count::DroppedNoConnection);
            }
        }
        let serial = core.next_serial();
        // Frames are written whole; waiting for more of them would only delay them.
        let _ = socket.set_nodelay(true);
        let state = if behind_proxy {
            State::Proxy
        } else {
            core.counts.one(Count::HandshakesTcp);
            State::Handshake(Box::new(Handshake::new(core)))
        };
        let connection = Connection {
            stream: Stream::new(socket),
            peer,
            unproven: Some(peer.ip()),
            serial,
            accepted: core.now,
            state,
            queued: false,
            waits: false,
        };
        let Ok(at) = self.connections.insert(connection) else {
            give_back(&core.places.connections);
            core.counts.one(Count::TcpEnded);
            return core.counts.one(Count::DroppedNoConnection);
        };
        let registered = self.connections.get_mut(at).is_some_and(|connection| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(CONNECTIONS + at as usize);
            self.registry.register(connection.stream.socket_mut(), token, interest).is_ok()
        });
        self.shares.enter(peer.ip());
        let connections = &self.connections;
        let alive = |(at, serial)| {
            connections.get(at).is_some_and(|found| found.serial == serial && found.unproven.is_some())
        };
        self.order.push((at, serial), self.shares.total(), alive);
        if !registered {
            return self.end(core, at, End::Gone);
        }
        self.timers.ensure(at, core.now + core.config.handshake.tcp_step_timeout);
        self.queue(at);
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

    /// Reads once from a connection and acts upon it.
    fn read(&mut self, core: &mut Core, at: u32) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        connection.queued = false;
        if !connection.stream.may_read() {
            return;
        }
        let count = match connection.stream.read(&mut self.scratch) {
            Ok(Arrived::Nothing) => return,
            Ok(Arrived::Bytes(count)) => count,
            Ok(Arrived::End) | Err(_) => return self.end(core, at, End::Gone),
        };
        match self.process(core, at, count) {
            Ok(()) => self.queue(at),
            Err(end) => self.end(core, at, end),
        }
    }

    /// Acts upon the first `count` bytes of the scratch buffer and keeps the incomplete rest.
    fn process(&mut self, core: &mut Core, at: u32, count: usize) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let mut start = 0;
        while let Some(bytes) = self.scratch.get_mut(start..count).filter(|bytes| !bytes.is_empty()) {
            match &mut connection.state {
                State::Leaving(_) => break,
                State::Proxy => match proxy::decode(bytes).map_err(|_| End::Proxy)? {
                    proxy::Decode::NeedMore(_) => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    proxy::Decode::Header { length, source } => {
                        start += length;
                        if let Some(source) = source {
                            // From now on it is the device's network that may make room.
                            self.shares.leave(connection.peer.ip());
                            self.shares.enter(source.ip());
                            connection.peer = source;
                            connection.unproven = Some(source.ip());
                        }
                        core.counts.one(Count::HandshakesTcp);
                        connection.state = State::Handshake(Box::new(Handshake::new(core)));
                    }
                },
                State::Handshake(handshake) => match handshake.receive(bytes).map_err(End::Refused)? {
                    Progress::NeedMore => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    Progress::Consumed(consumed) => {
                        start += consumed;
                        self.advance(core, at)?;
                        // A device cannot know what to say next before it has our answer.
                        return if start == count {
                            Ok(())
                        } else {
                            Err(End::Refused(DropReason::UnexpectedType))
                        };
                    }
                },
                State::Live(live) => match live.receive(core, at, &mut connection.stream, bytes) {
                    Ok(Outcome::NeedMore) => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    Ok(Outcome::Consumed(consumed)) => start += consumed,
                    Ok(Outcome::Kept(consumed)) => {
                        let rest = bytes.get(consumed..).unwrap_or_default();
                        if !rest.is_empty() {
                            connection.stream.hold_whole(rest);
                        }
                        connection.queued = true;
                        break;
                    }
                    Ok(Outcome::NoBuffer) => {
                        core.counts.one(Count::DroppedNoBuffer);
                        connection.stream.hold_whole(bytes);
                        connection.queued = true;
                        self.starved.push(at);
                        break;
                    }
                    Ok(Outcome::Closed(reason)) => return Err(End::Session(reason)),
                    Err(reason) => return Err(End::Refused(reason)),
                },
            }
        }
        if let Some(when) = self.connections.get(at).and_then(|connection| Self::deadline(core, connection)) {
            self.timers.ensure(at, when);
        }
        Ok(())
    }

    /// Goes on with a handshake: asks for keys, sends CHALLENGE, checks the proof, each when it can be done.
    fn advance(&mut self, core: &mut Core, at: u32) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let State::Handshake(handshake) = &mut connection.state else { return Ok(()) };
        let (serial, peer) = (connection.serial, connection.peer);
        let mut waits = None;
        if let Some(device) = handshake.asks_keys() {
            if core.penalties.waits(core.now, peer.ip(), usmp::DeviceId(*device.as_bytes())) {
                core.counts.one(Count::DroppedPenalty);
                core.refuse(SecurityReason::RateLimited, None, Transport::Tcp);
                return Err(End::Proof);
            }
            if core.lookups.try_start(core.session_ref(true, at, serial), device) {
                handshake.asked();
            } else {
                waits = Some(WaitsFor::LookUp);
            }
        }
        if handshake.owes_challenge() {
            if core.take_exchange() {
                let frame = handshake.challenge(core).ok_or(End::Proof)?;
                connection.stream.write(core.now, &frame).map_err(|_| End::Gone)?;
            } else {
                waits = Some(WaitsFor::Exchange);
            }
        }
        if handshake.is_hopeless() {
            return Err(End::Proof);
        }
        if handshake.has_proof() {
            if core.may_exchange() {
                return self.prove(core, at);
            }
            waits = Some(WaitsFor::Exchange);
        }
        if let Some(reason) = waits
            && !std::mem::replace(&mut connection.waits, true)
        {
            match reason {
                WaitsFor::Exchange => self.waiting.push_back((at, serial)),
                WaitsFor::LookUp => {
                    self.unasked.push_back((at, serial));
                    self.ask_again.get_or_insert(core.now + ASK_AGAIN);
                }
            }
        }
        if let Some(when) = Self::deadline(core, connection) {
            self.timers.ensure(at, when);
        }
        Ok(())
    }

    fn prove(&mut self, core: &mut Core, at: u32) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let placeholder = State::Proxy;
        let State::Handshake(handshake) = std::mem::replace(&mut connection.state, placeholder) else {
            return Ok(());
        };
        let device = handshake.device();
        let live = match handshake.prove(core, connection.serial, connection.peer) {
            Ok((live, session_ok)) => {
                connection.stream.write(core.now, &session_ok).map_err(|_| End::Gone).map(|()| live)
            }
            Err(refusal) => {
                if let Some(device) = device {
                    refusal.report(core, device, connection.peer.ip());
                }
                Err(End::Proof)
            }
        };
        core.counts.one(Count::HandshakesEndedTcp);
        let live = live?;
        live.announce_birth(core, at);
        connection.state = State::Live(live);
        if let Some(address) = connection.unproven.take() {
            self.shares.leave(address);
        }
        if let Some(when) = Self::deadline(core, connection) {
            self.timers.ensure(at, when);
        }
        self.queue(at);
        Ok(())
    }

    /// The keys of a handshake have come.
    pub(crate) fn keys(&mut self, core: &mut Core, handshake: SessionRef, keys: Keys) {
        let at = handshake.index;
        let Some(connection) = self.find(handshake) else { return };
        if let State::Handshake(pending) = &mut connection.state {
            if matches!(keys, Keys::Unavailable) {
                core.counts.one(Count::KeyLookupsFailed);
            }
            pending.found(keys);
            if let Err(end) = self.advance(core, at) {
                self.end(core, at, end);
            }
        }
    }

    fn wake_waiting(&mut self, core: &mut Core) {
        for _ in 0..self.waiting.len() {
            if !core.may_exchange() {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.wake(core, waiting);
        }
        for _ in 0..self.unasked.len() {
            if !core.lookups.has_room() {
                break;
            }
            let Some(waiting) = self.unasked.pop_front() else { break };
            self.wake(core, waiting);
        }
        self.ask_again = (!self.unasked.is_empty()).then(|| core.now + ASK_AGAIN);
    }

    fn wake(&mut self, core: &mut Core, (at, serial): (u32, u32)) {
        let Some(connection) = self.connections.get_mut(at).filter(|found| found.serial == serial) else {
            return;
        };
        connection.waits = false;
        if let Err(end) = self.advance(core, at) {
            self.end(core, at, end);
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

    /// Ends a session for a reason of our own: BYE, then close.
    pub(crate) fn close(&mut self, core: &mut Core, session: SessionRef, reason: CloseReason) {
        let Some(connection) = self.find(session) else { return };
        let State::Live(live) = &mut connection.state else { return };
        live.farewell(core, &mut connection.stream);
        if !connection.stream.finish() {
            return self.end(core, session.index, End::Session(reason));
        }
        let until = core.now + core.config.drain.bye_wait;
        if let State::Live(live) = std::mem::replace(&mut connection.state, State::Leaving(until)) {
            // Not read until its turn; now its end of the connection is what is waited for.
            connection.queued &= live.kept_since().is_none();
            live.ended(core, session.index, reason);
        }
        self.timers.ensure(session.index, until);
        self.queue(session.index);
    }

    /// Ends what has not closed its side yet.
    pub(crate) fn end_all(&mut self, core: &mut Core) {
        let all: Vec<u32> = self.connections.indices().collect();
        for at in all {
            self.end(core, at, End::Gone);
        }
    }

    /// Whether nobody is left.
    pub(crate) fn is_silent(&self) -> bool {
        self.connections.len() == 0
    }

    /// Reading goes on after a pause: the time since does not count as the devices' silence.
    pub(crate) fn resume(&mut self, core: &Core, since: Instant) {
        if core.now - since < NOTICEABLE_PAUSE {
            return;
        }
        let all: Vec<u32> = self.connections.indices().collect();
        for at in all {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if let State::Live(live) = &mut connection.state
                && live.kept_since().is_none()
            {
                live.pause(since);
                live.resume(core.now);
                if let Some(when) = Self::deadline(core, connection) {
                    self.timers.ensure(at, when);
                }
            }
        }
    }

    pub(crate) fn stop_accepting(&mut self, core: &mut Core) {
        if let Some(mut listener) = self.listener.take() {
            let _closed_anyway = self.registry.deregister(&mut listener);
        }
        let unproven: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.unproven.is_some())
            .map(|(at, _)| at)
            .collect();
        for at in unproven {
            core.counts.one(Count::DroppedDraining);
            self.end(core, at, End::Proof);
        }
    }

    pub(crate) fn close_all(&mut self, core: &mut Core, reason: CloseReason) {
        let all: Vec<(u32, u32)> =
            self.connections.iter().map(|(at, connection)| (at, connection.serial)).collect();
        for (at, serial) in all {
            self.close(core, core.session_ref(true, at, serial), reason);
        }
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

    fn expire(&mut self, core: &mut Core, paused: Option<Instant>) {
        while let Some(at) = self.timers.pop_due(core.now) {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            let slow = connection
                .stream
                .waiting_since()
                .is_some_and(|since| since + core.config.session.tcp_write_timeout <= core.now);
            let ended = if slow {
                Some(End::Late)
            } else {
                match &mut connection.state {
                    State::Proxy => {
                        let until = connection.accepted + core.config.handshake.tcp_step_timeout;
                        (until <= core.now).then_some(End::Late)
                    }
                    State::Handshake(handshake) => handshake.is_late(core.now).then_some(End::Late),
                    State::Leaving(until) => (*until <= core.now).then_some(End::Gone),
                    // What the device sent may lie unread because of us: that is no silence of its own.
                    State::Live(live) if let Some(since) = paused.or_else(|| live.kept_since()) => {
                        live.pause(since);
                        None
                    }
                    State::Live(live) => live.handle_timeout(core, &mut connection.stream).map(End::Session),
                }
            };
            match ended {
                Some(end) => self.end(core, at, end),
                None => {
                    if let Some(when) =
                        self.connections.get(at).and_then(|connection| Self::deadline(core, connection))
                    {
                        // Never in the past: a timer that is not through yet must not keep the shard awake.
                        self.timers.ensure(at, when.max(core.now + usmp::Duration::from_millis(1)));
                    }
                }
            }
        }
    }

    fn end(&mut self, core: &mut Core, at: u32, end: End) {
        let Some(mut connection) = self.connections.remove(at) else { return };
        self.timers.cancel(at);
        let _closed_anyway = self.registry.deregister(connection.stream.socket_mut());
        core.counts.one(Count::TcpEnded);
        give_back(&core.places.connections);
        if let Some(address) = connection.unproven.take() {
            self.shares.leave(address);
        }
        let in_handshake = matches!(connection.state, State::Proxy | State::Handshake(_));
        match end {
            End::Gone | End::Proof | End::Session(_) => {}
            End::Refused(reason) => {
                core.counts.one(drop_count(reason));
                let device = match &connection.state {
                    State::Live(live) => Some(live.named()),
                    _ => None,
                };
                if let Some(security) = security_reason(reason) {
                    core.refuse(security, device, Transport::Tcp);
                }
            }
            End::Proxy => {
                core.counts.one(Count::DroppedProxyHeader);
                core.refuse(SecurityReason::Malformed, None, Transport::Tcp);
            }
            End::Late if in_handshake => {
                core.counts.one(Count::DroppedHandshakeTimeout);
                core.refuse(SecurityReason::HandshakeTimeout, None, Transport::Tcp);
            }
            End::Late => core.counts.one(Count::DroppedSlowReader),
            End::Evicted => core.counts.one(Count::DroppedEvicted),
        }
        match connection.state {
            State::Live(live) => {
                let reason = match end {
                    End::Session(reason) => reason,
                    End::Refused(_) => CloseReason::Protocol,
                    _ => CloseReason::Disconnected,
                };
                live.ended(core, at, reason);
            }
            State::Handshake(_) => core.counts.one(Count::HandshakesEndedTcp),
            State::Proxy | State::Leaving(_) => {}
        }
    }

    fn evict(&mut self, core: &mut Core, address: Option<IpAddr>) {
        let own = address.map(network);
        let connections = &self.connections;
        let oldest = self.order.oldest(|(at, serial)| {
            let found = connections.get(at).filter(|found| found.serial == serial);
            let theirs = found.and_then(|found| found.unproven).map(network);
            theirs.is_some() && (own.is_none() || own == theirs)
        });
        if let Some(at) = oldest {
            self.end(core, at, End::Evicted);
        }
    }
}

/// What a broken protocol is reported as; nothing for mere noise.
pub(crate) const fn security_reason(reason: DropReason) -> Option<SecurityReason> {
    match reason {
        DropReason::Version => Some(SecurityReason::Version),
        DropReason::Sequence | DropReason::Stale => Some(SecurityReason::Replay),
        DropReason::Authentication | DropReason::ExplicitNonce => Some(SecurityReason::Forged),
        DropReason::WrongProof => Some(SecurityReason::WrongKey),
        DropReason::Closed
        | DropReason::PendingDuplicate
        | DropReason::PendingFull
        | DropReason::NoBuffer => None,
        _ => Some(SecurityReason::Malformed),
    }
}
