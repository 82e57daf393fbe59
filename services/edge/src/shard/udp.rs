//! PACKET PATH: no lock, no log, no await; allocation only where a table grows or a handshake begins.
//!
//! What arrives by UDP: looked at, then to its handshake, its session, or the shard that owns it.

use std::io;
use std::net::SocketAddr;

use sluice_bus::SessionState;
use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId};
use usmp::crypto::Provider;
use usmp::server::DropReason;
use usmp::server::demux::{Datagram, classify};
use usmp::wire::FrameType;
use usmp::{Duration, Instant};

use super::cookies::Cookies;
use super::core::Core;
use super::holds::{LOOK, Overdue};
use super::keys::Keys;
use super::others::{Elsewhere, Others, PeerShard};
use super::records::{Kind, Message};
use super::relay::Relay;
use super::routes::Routes;
use super::udp_handshakes::{Accepted, Proving, UdpHandshakes, Unexpected};
use super::udp_sessions::UdpSessions;
use crate::cluster::Place;
use crate::counts::{Count, drop_count};
use crate::link::{Errand, Found, Kept, Relayed, SendReply, SessionRef};
use crate::path::{Path, Via};
use crate::session_ids::slot_in;
use crate::udp_io::{Inbound, Outbound, Wire};

/// Batches received per turn; then handshakes, connections and commits have their turn.
const BATCHES_PER_TURN: usize = 8;

/// Places for addresses whose slot is remembered, and for how long.
const ROUTES: usize = 4096;
const REMEMBERED: Duration = Duration::from_secs(120);

pub(crate) struct Udp<P: Provider> {
    wire: Wire,
    readable: bool,
    inbound: Box<Inbound>,
    out: Outbound,
    handshakes: UdpHandshakes<P>,
    sessions: UdpSessions<P>,
    accepted: Vec<Accepted<P>>,
    others: Others,
    /// The slots of sessions whose devices speak with them through here.
    routes: Routes<u16>,
}

impl<P: Provider> Udp<P> {
    pub(crate) fn new(
        core: &Core,
        wire: Wire,
        cookies: Cookies,
        peers: Vec<PeerShard>,
        relay: Relay,
    ) -> io::Result<Self> {
        Ok(Self {
            out: Outbound::new(&wire, relay)?,
            wire,
            readable: true,
            inbound: Box::new(Inbound::new()),
            handshakes: UdpHandshakes::new(core, cookies),
            sessions: UdpSessions::new(core),
            accepted: Vec::new(),
            others: Others::new(core.now, peers),
            routes: Routes::new(ROUTES, REMEMBERED),
        })
    }

    pub(crate) const fn mark_readable(&mut self) {
        self.readable = true;
    }

    pub(crate) fn turn(&mut self, core: &mut Core) {
        if (self.out.relay.refresh() && !self.others.holds.is_empty()) || self.others.holds.is_due(core.now) {
            self.let_held_go(core);
        }
        for _ in 0..BATCHES_PER_TURN {
            if !self.readable {
                break;
            }
            let count = match self.inbound.receive(&self.wire) {
                Ok(0) => {
                    self.readable = false;
                    break;
                }
                Ok(count) => count,
                // An ICMP error of some peer; the next call reads on.
                Err(_) => continue,
            };
            core.counts.add(Count::DatagramsReceived, count as u64);
            for index in 0..count {
                let (source, datagram) = self.inbound.datagram(index);
                let mut taken = Taken {
                    out: &mut self.out,
                    handshakes: &mut self.handshakes,
                    sessions: &mut self.sessions,
                    accepted: &mut self.accepted,
                };
                if let Some(to) = taken.datagram(core, source, datagram, &mut self.routes) {
                    self.others.hand_on(core, &self.out.relay, to, source, datagram);
                }
            }
        }
        self.handshakes.turn(core, &mut self.out, &self.sessions, &mut self.accepted);
        self.open_accepted(core);
        self.sessions.turn(core, &mut self.out, &mut self.handshakes);
    }

    /// Tries again what waited for the owner of its slot.
    fn let_held_go(&mut self, core: &mut Core) {
        for hold in self.others.holds.take(core.now) {
            let mut hold = match hold {
                Ok(hold) => hold,
                Err(Overdue::Copy) => continue,
                Err(Overdue::Lost) => {
                    core.counts.one(Count::DroppedNoOwner);
                    continue;
                }
            };
            if !self.out.relay.can_go(slot_in(hold.prefix), hold.copied_to) {
                self.others.holds.put_back(hold);
                continue;
            }
            let held = &mut hold.held;
            let source = held.path.address();
            let mut taken = Taken {
                out: &mut self.out,
                handshakes: &mut self.handshakes,
                sessions: &mut self.sessions,
                accepted: &mut self.accepted,
            };
            if let Some(to) = taken.datagram(core, source, held.datagram(), &mut self.routes) {
                self.others.hand_on(core, &self.out.relay, to, source, held.datagram());
            }
        }
    }

    /// Takes a datagram that another shard or pod received for us, or that we are to send for it.
    pub(crate) fn relayed(&mut self, core: &mut Core, relayed: &mut Relayed) {
        let address = relayed.address;
        let path = match relayed.errand {
            Errand::Answer { pod } => return self.answer(core, address, pod, relayed.datagram()),
            Errand::FromShard | Errand::Handshake { from: None } => Some(Path::from(address)),
            Errand::FromPod { pod, shard } | Errand::Handshake { from: Some((pod, shard)) } => {
                let number = self.out.relay.number_of(pod);
                number.and_then(|pod| Path::through(address, Via { pod, shard }))
            }
        };
        // A pod beyond those that have numbers: nobody could answer through it.
        let Some(path) = path else { return core.counts.one(Count::DroppedRelayFull) };
        let mut taken = Taken {
            out: &mut self.out,
            handshakes: &mut self.handshakes,
            sessions: &mut self.sessions,
            accepted: &mut self.accepted,
        };
        let searched = matches!(relayed.errand, Errand::Handshake { .. });
        let datagram = relayed.datagram();
        let parsed = classify(datagram);
        if searched {
            let known = match parsed {
                // One that has the cookie, from a pod that cannot do it; without it nobody hands any on.
                Ok(Datagram::Hello(hello)) if hello.cookie.is_some() => {
                    taken.handshakes.hello(core, taken.out, path, &hello, true);
                    true
                }
                _ => taken.handshake(core, path, parsed),
            };
            return core.counts.one(if known { Count::HandshakesFound } else { Count::HandshakesUnknown });
        }
        let to = match parsed {
            // Nothing is relayed twice.
            Ok(Datagram::Sealed { prefix, .. }) if !taken.sessions.is_awake(prefix) => {
                if core.ids.slot::<P>(prefix).is_some_and(|slot| core.slots.get(slot).is_some()) {
                    taken.sessions.wake(core, path, prefix, datagram);
                } else {
                    core.counts.one(Count::DroppedNotOwner);
                }
                None
            }
            // Of a handshake, which has a way of its own.
            Ok(Datagram::Hello(_) | Datagram::HelloAck(_)) if path.via().is_some() => {
                core.counts.one(Count::DroppedNotOwner);
                None
            }
            _ => taken.own(core, path, datagram, parsed),
        };
        match to {
            // From a shard of this pod that has no slot, and so asks nobody itself.
            Some(to) if path.via().is_none() => {
                self.others.hand_on(core, &self.out.relay, to, address, relayed.datagram());
            }
            Some(_) => core.counts.one(Count::DroppedUtack),
            None => {}
        }
    }

    /// Lets another pod's answer leave here.
    fn answer(&mut self, core: &mut Core, address: SocketAddr, pod: PodId, datagram: &[u8]) {
        match answered(datagram) {
            Some(FrameType::SessionOk) => {
                // The device goes on with the other pod's CHALLENGE, should it have got one from here, too.
                self.handshakes.give_way(address);
                self.others.answered(core.now, address, pod);
            }
            Some(_) => self.others.answered(core.now, address, pod),
            None => {}
        }
        self.out.push(address, datagram);
    }

    /// Issues and accepts cookies by these from now on.
    pub(crate) fn follow(&mut self, cookies: Cookies) {
        self.handshakes.follow(cookies);
    }

    /// A slot is this shard's now.
    pub(crate) fn adopt(&mut self, core: &Core, sessions: Vec<SessionState>) {
        self.sessions.adopt(core, sessions);
    }

    /// Whether a session of the slot has sent a part of a message.
    pub(crate) fn is_mid_message(&self, slot: u16) -> bool {
        self.sessions.is_mid_message(slot)
    }

    /// A slot is not this shard's any more.
    pub(crate) fn suspend(&mut self, core: &mut Core, slot: u16) {
        self.handshakes.suspend(core, slot);
        self.sessions.suspend(core, &mut self.handshakes, slot);
    }

    pub(crate) fn found(&mut self, core: &mut Core, session: SessionId, found: Found) {
        self.sessions.found(core, &mut self.out, &mut self.handshakes, session, found);
    }

    pub(crate) fn claimed(
        &mut self,
        core: &mut Core,
        session: SessionRef,
        epoch: DeviceEpoch,
        suspected: bool,
    ) {
        self.sessions.claimed(core, session, epoch, suspected);
    }

    pub(crate) fn close_sleeping(&mut self, core: &mut Core, device: DeviceId, session: SessionId) {
        self.sessions.close_sleeping(core, device, session);
    }

    pub(crate) fn kept(&mut self, core: &mut Core, kept: Kept, written: bool) {
        self.sessions.kept(core, kept, written);
    }

    fn open_accepted(&mut self, core: &mut Core) {
        open(core, &mut self.accepted, &mut self.handshakes, &mut self.sessions);
    }

    pub(crate) fn keys(&mut self, core: &mut Core, handshake: SessionRef, keys: Keys) {
        let name = (handshake.index, handshake.serial);
        let accepted = self.handshakes.keys(core, &mut self.out, &self.sessions, name, keys);
        self.accepted.extend(accepted);
        self.open_accepted(core);
    }

    pub(crate) fn settled(&mut self, core: &mut Core, message: &Message, committed: bool) {
        if message.kind == Kind::Birth {
            let (out, sessions) = (&mut self.out, &mut self.sessions);
            return self.handshakes.journaled(core, out, sessions, message.session, committed);
        }
        self.sessions.settled(core, &mut self.out, message, committed);
    }

    pub(crate) fn go(&mut self, session: SessionRef) -> bool {
        self.sessions.go(session)
    }

    pub(crate) fn close(&mut self, core: &mut Core, session: SessionRef, reason: CloseReason) {
        self.sessions.close(core, &mut self.out, &mut self.handshakes, session, reason);
    }

    pub(crate) fn send(&mut self, core: &mut Core, session: SessionRef, payload: Box<[u8]>, done: SendReply) {
        self.sessions.send(core, &mut self.out, session, payload, done);
    }

    pub(crate) fn stop_accepting(&mut self, core: &mut Core) {
        self.handshakes.end_all(core);
    }

    pub(crate) fn close_all(&mut self, core: &mut Core, reason: CloseReason) {
        self.sessions.close_all(core, &mut self.out, &mut self.handshakes, reason);
    }

    /// Ends what has not acknowledged its farewell.
    pub(crate) fn end_all(&mut self, core: &mut Core) {
        self.sessions.end_all(core, &mut self.handshakes);
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.sessions.is_silent()
    }

    pub(crate) fn flush(&mut self, core: &Core) {
        self.out.flush();
        core.counts.add(Count::DatagramsUnsent, std::mem::take(&mut self.out.unsent));
    }

    pub(crate) fn has_work(&self) -> bool {
        self.readable || self.handshakes.is_behind()
    }

    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let held = (!self.others.holds.is_empty()).then(|| now + LOOK);
        [self.handshakes.next(), self.sessions.next(), held].into_iter().flatten().min()
    }
}

/// The parts that a datagram may concern.
struct Taken<'a, P: Provider> {
    out: &'a mut Outbound,
    handshakes: &'a mut UdpHandshakes<P>,
    sessions: &'a mut UdpSessions<P>,
    accepted: &'a mut Vec<Accepted<P>>,
}

/// What of a handshake a server says by this datagram, if anything.
fn answered(datagram: &[u8]) -> Option<FrameType> {
    // A pod says nothing that is not whole.
    let code = match datagram {
        [0xAC, 0xAC, code, ..] | [_, _, _, code, ..] => *code,
        _ => return None,
    };
    Some(FrameType::from(code)).filter(|frame_type| frame_type.is_handshake())
}

impl<P: Provider> Taken<'_, P> {
    /// Acts upon a datagram, or names who is to.
    fn datagram(
        &mut self,
        core: &mut Core,
        source: SocketAddr,
        datagram: &mut [u8],
        routes: &mut Routes<u16>,
    ) -> Option<Elsewhere> {
        let parsed = classify(datagram);
        match parsed {
            Ok(Datagram::Sealed { prefix, .. }) if !self.sessions.is_awake(prefix) => {
                match core.ids.slot::<P>(prefix) {
                    Some(slot) if self.out.relay.place(slot) == Place::Shard(core.shard) => {
                        self.sessions.wake(core, source.into(), prefix, datagram);
                    }
                    Some(slot) => {
                        routes.remember(core.now, source, slot);
                        return Some(Elsewhere::Session(slot, prefix));
                    }
                    None => core.counts.one(Count::DroppedForgedSession),
                }
                None
            }
            Ok(Datagram::Utack(utack)) if utack.mac.is_some() && !self.sessions.hears(source.into()) => {
                let slot = routes.find(core.now, source);
                if slot.is_none() {
                    core.counts.one(Count::DroppedUtack);
                }
                slot.map(Elsewhere::Slot)
            }
            Ok(Datagram::Hello(_) | Datagram::HelloAck(_) | Datagram::Utack(_))
                if core.slots.are_shared() && core.slots.owned().is_empty() =>
            {
                match self.out.relay.home_of(core.shard) {
                    Some(home) => Some(Elsewhere::Home(home)),
                    None => self.own(core, source.into(), datagram, parsed),
                }
            }
            _ => self.own(core, source.into(), datagram, parsed),
        }
    }

    /// Acts upon a datagram of a handshake of this shard; `false` when it is of none.
    fn handshake(&mut self, core: &mut Core, path: Path, parsed: Result<Datagram, DropReason>) -> bool {
        match parsed {
            Ok(Datagram::HelloAck(ack)) => {
                match self.handshakes.hello_ack(core, self.out, self.sessions, path, &ack) {
                    Proving::Unknown => return false,
                    Proving::Known(accepted) => self.accepted.extend(accepted),
                }
                // The device may speak in the very next datagram.
                open(core, self.accepted, self.handshakes, self.sessions);
                true
            }
            Ok(Datagram::Utack(utack)) => match self.handshakes.utack(core, path, &utack) {
                Ok(session) => {
                    if let Some(at) = session {
                        self.sessions.session_ok_arrived(core, at);
                    }
                    true
                }
                Err(Unexpected) => false,
            },
            _ => false,
        }
    }

    /// Acts upon a datagram of this shard, or names who may know more of it.
    fn own(
        &mut self,
        core: &mut Core,
        path: Path,
        datagram: &mut [u8],
        parsed: Result<Datagram, DropReason>,
    ) -> Option<Elsewhere> {
        match parsed {
            Err(reason) => {
                core.counts.one(drop_count(reason));
                if reason == DropReason::Version {
                    core.refuse(SecurityReason::Version, None, Transport::Udp);
                }
            }
            Ok(Datagram::Hello(hello)) => {
                let helper = self.handshakes.hello(core, self.out, path, &hello, false);
                return helper.map(Elsewhere::Helper);
            }
            Ok(Datagram::HelloAck(_)) => {
                return (!self.handshake(core, path, parsed)).then_some(Elsewhere::Handshake);
            }
            Ok(Datagram::Utack(utack)) if utack.frame_type.is_handshake() => {
                return (!self.handshake(core, path, parsed)).then_some(Elsewhere::Answerer);
            }
            Ok(Datagram::Utack(utack)) => {
                self.sessions.utack(core, self.out, self.handshakes, path, &utack);
            }
            Ok(Datagram::Sealed { prefix, frame_type, .. }) => {
                self.sessions.sealed(core, self.out, self.handshakes, path, (prefix, frame_type), datagram);
            }
        }
        None
    }
}

/// Opens a session beside each handshake whose proof was right.
fn open<P: Provider>(
    core: &mut Core,
    accepted: &mut Vec<Accepted<P>>,
    handshakes: &mut UdpHandshakes<P>,
    sessions: &mut UdpSessions<P>,
) {
    while let Some(accepted) = accepted.pop() {
        let handshake = accepted.handshake;
        let (live, looked_up) = accepted.into_session(core);
        match sessions.open(core, live, looked_up) {
            Some(at) => handshakes.attach(handshake, at),
            None => handshakes.failed(core, handshake),
        }
    }
}
