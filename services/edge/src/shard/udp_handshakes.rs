//! Handshakes over UDP: apart from the sessions, in a table and within a budget of their own.
//!
//! Nothing is kept of a stranger before its cookie is back, but a place in a fixed ring. No X25519 happens before that either.

mod births;
mod door;
mod found;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_proto::events::v1::{SecurityReason, Transport};
use sluice_store::HandshakeKeys;
use sluice_types::PodId;
use usmp::crypto::Provider;
use usmp::server::{AckOutcome, HelloOutcome, MARK, MAX_PSKS, RetryRing, UdpHandshake, UdpSession};
use usmp::wire::{FrameType, Hello, HelloAck, HelloRetry, Utack};
use usmp::{Instant, SessionId};

use self::births::Unborn;
use self::door::Door;
pub(crate) use self::found::Proving;
use super::cookies::Cookies;
use super::core::{Core, address_bytes, random, random_secret};
use super::keys::Keys;
use super::udp_sessions::UdpSessions;
use super::udp_shared::machine_config;
use crate::admission::{Line, Queue, Room, Shares};
use crate::counts::Count;
use crate::lookups::ASK_AGAIN;
use crate::path::Path;
use crate::security::Named;
use crate::table::{Index, Slab};
use crate::timers::Timers;
use crate::udp_io::Outbound;

/// Places of the ring of HELLO_RETRYs that may be sent again.
const RETRY_PLACES: usize = 256;

/// Bytes of a HELLO_RETRY frame.
const RETRY_FRAME: usize = 28;

/// Proofs that wait for the X25519 budget of the next turns; when full, one is dropped without UTACK, so that the device sends it again.
const WAITING: usize = 512;

/// Answers to repeats of a proof that come from anywhere: copies, or a device whose address changes all the time.
const COPIES_ELSEWHERE: u8 = 8;

/// A UTACK that no handshake waits for.
#[derive(Debug)]
pub(crate) struct Unexpected;

struct Pending<P: Provider> {
    machine: UdpHandshake<P>,
    /// Where its HELLO came from, and its cookie came back from.
    address: SocketAddr,
    /// How the device is reached: there, unless a right proof came from elsewhere.
    path: Path,
    serial: u32,
    started: Instant,
    keys: Keys,
    /// How a right proof begins, under each of its keys.
    marks: [Option<[u8; MARK]>; MAX_PSKS],
    /// Answers to repeats of the proof from where neither its HELLO nor the accepted proof came from, and how many are left.
    copies_elsewhere: u8,
    /// A proof that waits for the keys or for the budget, and how it came.
    ack: Option<(HelloAck, Path)>,
    /// The session that is to live beside, until the ledger has heard of it.
    unborn: Option<Box<Unborn<P>>>,
    /// The session that lives beside, once the proof was right.
    session: Option<u32>,
}

/// What a right proof gives.
pub(crate) struct Accepted<P: Provider> {
    pub(crate) machine: UdpSession<P, Path>,
    pub(crate) id: SessionId,
    pub(crate) handshake: (u32, u32),
    pub(crate) device: usmp::DeviceId,
    pub(crate) tenant: u32,
    pub(crate) key_epoch: u32,
    pub(crate) looked_up: Instant,
}

pub(crate) struct UdpHandshakes<P: Provider> {
    table: Slab<Pending<P>>,
    by_address: Index,
    /// Those whose proof came from elsewhere, by that address.
    by_other: Index,
    /// By how a right proof begins.
    by_mark: Index,
    by_session: Index,
    timers: Timers,
    shares: Shares,
    order: Queue,
    retries: Box<RetryRing<Path, RETRY_PLACES>>,
    cookies: Cookies,
    door: Door,
    proofs: VecDeque<(u32, u32)>,
    unasked: VecDeque<(u32, u32)>,
    /// Sessions that wait for the ledger.
    births: Line,
    /// HELLOs wait for the ledger, and not for the budget of a turn.
    held_back: bool,
    /// When to look whether there is a place among the look-ups.
    ask_again: Option<Instant>,
    config: usmp::server::HandshakeConfig,
    session_config: usmp::server::SessionConfig,
}

impl<P: Provider> UdpHandshakes<P> {
    pub(crate) fn new(core: &Core, cookies: Cookies) -> Self {
        let config = &core.config;
        let places = config.handshake.in_progress_per_shard.get() as usize;
        Self {
            table: Slab::new(places),
            by_address: Index::default(),
            by_other: Index::default(),
            by_mark: Index::default(),
            by_session: Index::default(),
            timers: Timers::default(),
            shares: Shares::new(places),
            order: Queue::default(),
            retries: Box::new(RetryRing::new()),
            cookies,
            door: Door::new(),
            proofs: VecDeque::with_capacity(WAITING),
            unasked: VecDeque::new(),
            births: Line::default(),
            held_back: false,
            ask_again: None,
            config: usmp::server::HandshakeConfig {
                timeout: config.handshake.timeout,
                step_timeout: config.handshake.tcp_step_timeout,
            },
            session_config: machine_config(config, &core.slots),
        }
    }

    /// Issues and accepts cookies by these from now on.
    pub(crate) fn follow(&mut self, cookies: Cookies) {
        self.cookies = cookies;
    }

    /// Takes a HELLO, or names the pod that is to begin the handshake. `handed_on`: another pod has chosen this one, which does what it can.
    pub(crate) fn hello(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        path: Path,
        hello: &Hello,
        handed_on: bool,
    ) -> Option<PodId> {
        let now_unix_s = core.wall.as_millis().max(0) as u64 / 1000;
        let source = path.address();
        let address = address_bytes(source);
        let able = core.accepting && core.slots.has_birthplace();
        let helper = if able || handed_on { None } else { out.relay.helper(source) };
        let Some(cookie) = hello.cookie else {
            // A handshake of this very HELLO is past its cookie: the device wants the UTACK only.
            if core.accepting
                && self.find(source).and_then(|at| self.table.get_mut(at)).is_some_and(|pending| {
                    pending.machine.handle_hello(core.now, hello) == HelloOutcome::Duplicate
                })
            {
                acknowledge(out, path, FrameType::Hello, hello.seq);
                return None;
            }
            // Cookies take neither a slot nor memory, and are good at every pod: what nobody has verified is handed on to nobody.
            if helper.is_none() && self.is_hopeless(core) {
                return None;
            }
            // Its HELLO with the cookie would find no room; it sends this one again.
            if helper.is_none() && !self.door.has_room_for(source.ip()) {
                core.counts.one(Count::DroppedNoHandshake);
                return None;
            }
            let cookie = self.cookies.issue::<P>(now_unix_s, &address, hello.device_id, &hello.public_key);
            acknowledge(out, path, FrameType::Hello, hello.seq);
            out.send_with(path, |room| HelloRetry { cookie }.emit(0, room).ok());
            self.retries.push(core.now, path, cookie);
            core.counts.one(Count::CookiesIssued);
            return None;
        };
        if !self.cookies.check::<P>(now_unix_s, &address, hello.device_id, &hello.public_key, &cookie) {
            core.counts.one(Count::DroppedCookie);
            core.refuse(SecurityReason::Cookie, None, Transport::Udp);
            return None;
        }
        // From here on the address is the sender's own.
        self.retries.cancel(&path);
        if let Some(at) = self.find(source)
            && let Some(pending) = self.table.get_mut(at)
        {
            match pending.machine.handle_hello(core.now, hello) {
                HelloOutcome::Duplicate => {
                    acknowledge(out, path, FrameType::Hello, hello.seq);
                    self.answer_by(at, path);
                    self.transmit(core, out, at);
                    return None;
                }
                HelloOutcome::StartOver => self.end(core, at),
            }
        }
        if core.penalties.waits(core.now, source.ip(), hello.device_id) {
            core.counts.one(Count::DroppedPenalty);
            core.refuse(SecurityReason::RateLimited, None, Transport::Udp);
            return None;
        }
        if helper.is_some() {
            return helper;
        }
        if self.is_hopeless(core) {
            return None;
        }
        if core.may_exchange() && self.door.is_empty() && !self.ledger_is_behind(core) {
            self.start(core, out, path, hello);
        } else if !self.door.knock(path, hello) {
            core.counts.one(Count::DroppedNoHandshake);
        }
        None
    }

    /// Whether a newcomer has no chance here, which is counted. Where slots are merely behind it has one by the time of its proof.
    fn is_hopeless(&self, core: &Core) -> bool {
        if !core.accepting {
            core.counts.one(Count::DroppedDraining);
        } else if core.slots.are_shared() && core.slots.owned().is_empty() {
            core.counts.one(Count::DroppedNoSlot);
        } else {
            return false;
        }
        true
    }

    fn start(&mut self, core: &mut Core, out: &mut Outbound, path: Path, hello: &Hello) {
        let source = path.address();
        if let Some(at) = self.find(source)
            && let Some(pending) = self.table.get_mut(at)
        {
            // A copy waited as well.
            if pending.machine.handle_hello(core.now, hello) == HelloOutcome::Duplicate {
                return acknowledge(out, path, FrameType::Hello, hello.seq);
            }
            self.end(core, at);
        }
        match self.shares.room(source.ip()) {
            Room::Free => {}
            Room::OwnOldest => self.evict(core, Some(source)),
            Room::Oldest => self.evict(core, None),
        }
        let (Some(private), Some(nonce), Some([seed])) = (random_secret(), random(), random_u32()) else {
            return core.counts.one(Count::DroppedNoHandshake);
        };
        core.take_exchange();
        let serial = core.next_serial();
        let pending = Pending {
            machine: UdpHandshake::start(core.now, hello, private, nonce, seed, &self.config),
            address: source,
            path,
            serial,
            started: core.now,
            keys: Keys::Waiting,
            marks: [None; MAX_PSKS],
            copies_elsewhere: COPIES_ELSEWHERE,
            ack: None,
            unborn: None,
            session: None,
        };
        let Ok(at) = self.table.insert(pending) else {
            return core.counts.one(Count::DroppedNoHandshake);
        };
        let table = &self.table;
        self.by_address.insert(&source, at, |other| table.get(other).map(|pending| pending.address));
        self.shares.enter(source.ip());
        let alive = |(at, serial)| table.get(at).is_some_and(|pending| pending.serial == serial);
        self.order.push((at, serial), table.len(), alive);
        core.counts.one(Count::HandshakesUdp);
        acknowledge(out, path, FrameType::Hello, hello.seq);
        self.ask_keys(core, at);
        self.transmit(core, out, at);
    }

    fn ask_keys(&mut self, core: &Core, at: u32) {
        let Some(pending) = self.table.get_mut(at) else { return };
        let device = sluice_types::DeviceId::from_bytes(pending.machine.device_id().0);
        let handshake = core.session_ref(false, at, pending.serial);
        if core.lookups.try_start(handshake, device) {
            pending.keys = Keys::Asked;
        } else {
            let place = (at, pending.serial);
            if self.unasked.len() > 2 * self.table.len() + 64 {
                let table = &self.table;
                self.unasked
                    .retain(|&(at, serial)| table.get(at).is_some_and(|pending| pending.serial == serial));
            }
            self.unasked.push_back(place);
        }
    }

    /// Takes a HELLO_ACK, from whatever address: what counts is the proof.
    pub(crate) fn hello_ack(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        sessions: &UdpSessions<P>,
        path: Path,
        ack: &HelloAck,
    ) -> Proving<P> {
        let source = path.address();
        let Some(at) = self.find_by_proof(&ack.mac).or_else(|| self.find(source)) else {
            return Proving::Unknown;
        };
        let Some(pending) = self.table.get_mut(at) else { return Proving::Unknown };
        if pending.machine.is_confirming() {
            return self.proved_again(core, out, at, path, ack);
        }
        if pending.address != source && !pending.would_prove(core, ack) {
            // Nobody is blamed for what did not come from where the cookie came back from.
            core.counts.one(Count::DroppedProof);
            return Proving::Unknown;
        }
        // One may wait: the last one is as good as any, and a wrong one cannot keep the right one out for long. A copy from
        // elsewhere does not take the place of what came from the device's own address.
        let own = |path: Path| path.address() == pending.address;
        if own(path) || pending.ack.is_none_or(|(_, before)| !own(before)) {
            pending.ack = Some((*ack, path));
        }
        self.prove(core, out, sessions, at)
    }

    /// The keys of a handshake have come.
    pub(crate) fn keys(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        sessions: &UdpSessions<P>,
        (at, serial): (u32, u32),
        keys: Keys,
    ) -> Option<Accepted<P>> {
        self.table.get(at).filter(|pending| pending.serial == serial)?;
        self.forget_marks(at);
        let pending = self.table.get_mut(at)?;
        if matches!(keys, Keys::Unavailable) {
            core.counts.one(Count::KeyLookupsFailed);
            // Asked again when the device sends its proof again; live sessions are not affected.
            pending.keys = Keys::Unavailable;
            return None;
        }
        pending.keys = keys;
        self.note_marks(core, at);
        self.prove(core, out, sessions, at).accepted()
    }

    fn prove(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        sessions: &UdpSessions<P>,
        at: u32,
    ) -> Proving<P> {
        let Some(pending) = self.table.get_mut(at) else { return Proving::WAITS };
        let Some((ack, path)) = pending.ack else { return Proving::WAITS };
        if matches!(pending.keys, Keys::Unavailable) {
            pending.keys = Keys::Waiting;
            self.ask_keys(core, at);
            return Proving::WAITS;
        }
        if !pending.keys.is_ready() {
            return Proving::WAITS;
        }
        let device = pending.machine.device_id();
        let (address, serial, started) = (pending.address, pending.serial, pending.started);
        let decoy = Arc::clone(&core.decoy);
        let candidates = pending.keys.candidates(&decoy);
        let Ok(AckOutcome::Proved(proof)) =
            pending.machine.handle_hello_ack(core.now, &ack, candidates.as_slice())
        else {
            pending.ack = None;
            let (reason, tenant) = pending.keys.failure();
            core.refuse_proof(device, address.ip(), (reason, tenant.cloned()), Transport::Udp);
            // Another pod may have challenged the same device, which answers but one of them.
            return Proving::Unknown;
        };
        let Some(keys) = pending.keys.known() else { return Proving::WAITS };
        if !core.may_exchange() {
            if self.proofs.len() < WAITING {
                self.proofs.push_back((at, serial));
            } else {
                // Without UTACK the device sends it again.
                pending.ack = None;
            }
            return Proving::WAITS;
        }
        let key_epoch = key_epoch(keys, proof.key_index());
        let tenant = core.tenants.number(&keys.tenant);
        // Before SESSION_OK leaves: a device that was told of a session must find it.
        let Some(id) = core.mint_unless::<P>(|prefix| sessions.knows(prefix)) else {
            core.counts.one(if core.slots.are_shared() {
                Count::DroppedNotJournaled
            } else {
                Count::DroppedNoSession
            });
            pending.ack = None;
            return Proving::WAITS;
        };
        let named = Named { device: sluice_types::DeviceId::from_bytes(device.0), tenant };
        if let Err(why) = core.take_session_place(tenant) {
            // The device sends its proof again.
            pending.ack = None;
            core.refuse_place(why, named, Transport::Udp);
            return Proving::WAITS;
        }
        core.take_exchange();
        pending.ack = None;
        match pending.machine.accept(core.now, proof, id, path, &self.session_config) {
            Ok(mut machine) => {
                if path.address() != address {
                    machine.doubt_path();
                }
                self.answer_by(at, path);
                core.penalties.succeeded(address.ip(), device);
                let handshake = (at, serial);
                let looked_up = started;
                let accepted = Accepted { machine, id, handshake, device, tenant, key_epoch, looked_up };
                if core.slots.are_shared() {
                    self.await_ledger(core, accepted, ack.seq);
                    return Proving::WAITS;
                }
                acknowledge(out, path, FrameType::HelloAck, ack.seq);
                self.transmit(core, out, at);
                Proving::Known(Some(accepted))
            }
            Err(_) => {
                core.give_back_session_place(tenant);
                core.counts.one(Count::DroppedLowOrder);
                self.end(core, at);
                core.refuse(SecurityReason::LowOrderKey, Some(named), Transport::Udp);
                Proving::WAITS
            }
        }
    }

    /// Notes the session that lives beside the handshake.
    pub(crate) fn attach(&mut self, handshake: (u32, u32), session: u32) {
        let (at, serial) = handshake;
        if let Some(pending) = self.table.get_mut(at).filter(|pending| pending.serial == serial) {
            pending.session = Some(session);
            let table = &self.table;
            self.by_session
                .insert(&session, at, |other| table.get(other).and_then(|pending| pending.session));
        }
    }

    /// Takes a UTACK that may be for a handshake; gives the session that is to know that SESSION_OK arrived. `Err` when nobody here
    /// waits for it.
    pub(crate) fn utack(
        &mut self,
        core: &Core,
        path: Path,
        utack: &Utack,
    ) -> Result<Option<u32>, Unexpected> {
        if self.retries.handle_utack(&path, utack) {
            return Ok(None);
        }
        let source = path.address();
        let at = self.find_other(source).or_else(|| self.find(source)).ok_or(Unexpected)?;
        let pending = self.table.get_mut(at).ok_or(Unexpected)?;
        match pending.machine.handle_utack(core.now, utack) {
            Ok(true) => Ok(pending.session),
            Ok(false) => Ok(None),
            Err(_) => Err(Unexpected),
        }
    }

    /// The session is established or gone: SESSION_OK need not be repeated.
    pub(crate) fn done(&mut self, core: &mut Core, session: u32) {
        let session_of = |at| self.table.get(at).and_then(|pending: &Pending<P>| pending.session);
        if let Some(at) = self.by_session.find(&session, session_of) {
            self.end(core, at);
        }
    }

    /// Another pod has opened a session for the device at this address: the CHALLENGE that left here is one too many, it seems. Its proof
    /// is right all the same, should it come: whoever speaks in the device's name can make another pod answer, and must not end this.
    pub(crate) fn give_way(&mut self, address: SocketAddr) {
        if let Some(at) = self.find(address)
            && let Some(pending) = self.table.get_mut(at)
        {
            pending.machine.hold_back();
        }
    }

    /// No session came of it after all.
    pub(crate) fn failed(&mut self, core: &mut Core, handshake: (u32, u32)) {
        let (at, serial) = handshake;
        if self.table.get(at).is_some_and(|pending| pending.serial == serial) {
            self.end(core, at);
        }
    }

    /// Does what waited for the budget of this turn, and what time brings.
    pub(crate) fn turn(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        sessions: &UdpSessions<P>,
        accepted: &mut Vec<Accepted<P>>,
    ) {
        // Proofs first: they are further on, and the peer has shown a key.
        while core.may_exchange()
            && let Some((at, serial)) = self.proofs.pop_front()
        {
            if self.table.get(at).is_some_and(|pending| pending.serial == serial) {
                accepted.extend(self.prove(core, out, sessions, at).accepted());
            }
        }
        // Whoever begins now comes to the ledger after those that wait for it.
        let held_back = !self.door.is_empty() && self.ledger_is_behind(core);
        if held_back && !self.held_back {
            core.counts.one(Count::HandshakesHeldBack);
        }
        self.held_back = held_back;
        while !self.held_back
            && core.may_exchange()
            && let Some((path, hello)) = self.door.pop()
        {
            self.start(core, out, path, &hello);
        }
        while let Some(&(at, serial)) = self.unasked.front() {
            if self.table.get(at).is_some_and(|pending| pending.serial == serial) {
                let before = self.unasked.len();
                self.ask_keys(core, at);
                if self.unasked.len() > before {
                    self.unasked.pop_back();
                    break;
                }
            }
            self.unasked.pop_front();
        }
        self.ask_again = (!self.unasked.is_empty()).then(|| core.now + ASK_AGAIN);
        while let Some(at) = self.timers.pop_due(core.now) {
            if self.awaits_ledger(core, at) {
                continue;
            }
            let Some(pending) = self.table.get_mut(at) else { continue };
            pending.machine.handle_timeout(core.now);
            if pending.machine.is_over() {
                if pending.session.is_none() {
                    core.counts.one(Count::DroppedHandshakeTimeout);
                    core.refuse(SecurityReason::HandshakeTimeout, None, Transport::Udp);
                }
                self.end(core, at);
            } else {
                self.transmit(core, out, at);
            }
        }
        let mut retry = [0; RETRY_FRAME];
        while let Some((length, target)) = self.retries.poll_transmit(core.now, &mut retry) {
            out.send(target, retry.get(..length).unwrap_or_default());
        }
    }

    /// Whether something waits for the budget of the next turn. What waits for the ledger is woken by it.
    pub(crate) fn is_behind(&self) -> bool {
        !self.door.is_empty() && !self.held_back || !self.proofs.is_empty()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        [self.timers.next(), self.retries.poll_timeout(), self.ask_again].into_iter().flatten().min()
    }

    /// Begins nothing any more: the edge is draining. Where sessions go on at another pod, what is open goes on, too, while there are
    /// slots.
    pub(crate) fn end_all(&mut self, core: &mut Core) {
        let ends = !core.slots.are_shared();
        let open: Vec<u32> = self.table.indices().filter(|_| ends).collect();
        for at in open {
            self.end(core, at);
        }
        self.door.clear();
    }

    fn find(&self, address: SocketAddr) -> Option<u32> {
        self.by_address.find(&address, |at| self.table.get(at).map(|pending| pending.address))
    }

    fn transmit(&mut self, core: &Core, out: &mut Outbound, at: u32) {
        let Some(pending) = self.table.get_mut(at).filter(|pending| pending.unborn.is_none()) else { return };
        while out.send_with(pending.path, |room| pending.machine.poll_transmit(core.now, room)) {}
        if let Some(when) = pending.machine.poll_timeout() {
            self.timers.ensure(at, when);
        }
    }

    fn end(&mut self, core: &mut Core, at: u32) {
        let Some(pending) = self.table.get_mut(at) else { return };
        if let Some(unborn) = pending.unborn.take() {
            unborn.abandon(core);
        }
        let (address, other, session) = (pending.address, pending.other(), pending.session);
        self.forget_marks(at);
        if let Some(other) = other {
            self.by_other.remove(&other, at);
        }
        if let Some(session) = session {
            self.by_session.remove(&session, at);
        }
        self.by_address.remove(&address, at);
        self.shares.leave(address.ip());
        self.timers.cancel(at);
        self.table.remove(at);
        core.counts.one(Count::HandshakesEndedUdp);
    }

    /// Makes room at the cost of the oldest handshake, of that network only if one is named.
    fn evict(&mut self, core: &mut Core, network_of: Option<SocketAddr>) {
        let own = network_of.map(|address| crate::admission::network(address.ip()));
        let table = &self.table;
        let oldest = self.order.oldest(|(at, serial)| {
            // Whoever has proved a key and waits for the ledger keeps the place: nobody else has done as much.
            let pending =
                table.get(at).filter(|pending| pending.serial == serial && pending.unborn.is_none());
            pending.is_some_and(|pending| {
                own.is_none_or(|own| own == crate::admission::network(pending.address.ip()))
            })
        });
        if let Some(at) = oldest {
            core.counts.one(Count::DroppedEvicted);
            self.end(core, at);
        }
    }
}

fn random_u32() -> Option<[u32; 1]> {
    random().map(|bytes| [u32::from_le_bytes(bytes)])
}

/// The number of the key that fitted; keys stand newest first.
fn key_epoch(keys: &HandshakeKeys, index: usize) -> u32 {
    keys.psks.get(index).map_or(0, |(epoch, _)| epoch.0)
}

fn acknowledge(out: &mut Outbound, path: Path, frame_type: FrameType, seq: u32) {
    out.send(path, &Utack::plain(frame_type, seq).emit());
}
