//! PACKET PATH: no lock, no log, no await; allocation only where a table grows or a message goes to a device.
//!
//! Sessions over UDP: found by the visible half of their id, or by address for UTACKs.

use sluice_bus::{GroupFull, LedgerEntry};
use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use sluice_types::SessionId;
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::{CommitToken, DropReason, Lingering, Received, SessionConfig, SessionEvent};
use usmp::wire::{FrameType, Utack};

use super::core::Core;
use super::dormant::Dormants;
use super::records::{Kind, Message};
use super::session::{Facts, close_reason};
use super::slots::records_of;
use super::snapshots::Snapshots;
use super::turn::Turn;
use super::udp_handshakes::UdpHandshakes;
use super::udp_live::{Known, Live};
use super::udp_shared::{Repeater, machine_config};
use crate::counts::{Count, drop_count};
use crate::events::Change;
use crate::link::{SendError, SendReply, SessionRef, ToFleet};
use crate::path::Path;
use crate::security::Named;
use crate::session_ids::slot_in;
use crate::table::{Index, Slab};
use crate::timers::Timers;
use crate::udp_io::Outbound;

pub(crate) struct UdpSessions<P: Provider> {
    pub(super) table: Slab<Live<P>>,
    by_prefix: Index,
    by_address: Index,
    by_candidate: Index,
    timers: Timers,
    lingering: Slab<Lingering<P>>,
    lingering_by_prefix: Index,
    lingering_timers: Timers,
    /// Messages to devices that wait or are on their way.
    pub(super) downlink: usize,
    max_downlink: usize,
    /// Sessions of adopted slots that have not spoken yet.
    pub(super) dormant: Dormants,
    pub(super) config: SessionConfig,
    /// How far the ledger has been told again of sessions that say nothing.
    pub(super) told_again: Repeater,
    pub(super) snapshots: Snapshots,
}

impl<P: Provider> UdpSessions<P> {
    pub(crate) fn new(core: &Core) -> Self {
        let sessions = core.config.limits.sessions.get() as usize;
        Self {
            table: Slab::new(sessions),
            by_prefix: Index::default(),
            by_address: Index::default(),
            by_candidate: Index::default(),
            timers: Timers::default(),
            lingering: Slab::new(sessions),
            lingering_by_prefix: Index::default(),
            lingering_timers: Timers::default(),
            downlink: 0,
            max_downlink: core.config.limits.downlink_queue_per_shard.get() as usize,
            dormant: Dormants::default(),
            config: machine_config(&core.config, &core.slots),
            told_again: Repeater::new(core),
            snapshots: Snapshots::new(core.now),
        }
    }

    /// Opens a half-open session; `None` when its name is taken or there is no room.
    pub(crate) fn open(&mut self, core: &mut Core, live: Live<P>, looked_up: Instant) -> Option<u32> {
        let (name, Facts { device, serial, .. }) = (live.machine.session_id(), live.facts);
        // Two names drawn in the same turn may be the same; the device then tries again.
        if self.knows(name.prefix()) {
            core.give_back_session_place(live.facts.tenant);
            core.counts.one(Count::DroppedNoSession);
            return None;
        }
        let at = self.insert(core, live)?;
        let session = core.session_ref(false, at, serial);
        core.fleet.tell(ToFleet::Born { session, device, id: SessionId::from_bytes(name.0), looked_up });
        self.reschedule(at);
        Some(at)
    }

    /// Puts a session into the tables; its place was taken before, and is given back if there is no room.
    pub(super) fn insert(&mut self, core: &Core, live: Live<P>) -> Option<u32> {
        let (prefix, (path, candidate)) = (live.machine.session_id().prefix(), live.known());
        let tenant = live.facts.tenant;
        let Ok(at) = self.table.insert(live) else {
            core.give_back_session_place(tenant);
            core.counts.one(Count::DroppedNoSession);
            return None;
        };
        let table = &self.table;
        self.by_prefix
            .insert(&prefix, at, |other| table.get(other).map(|live| live.machine.session_id().prefix()));
        // An address that nobody has verified takes nothing from a session that is known to be there.
        match candidate {
            None => self.point_address(path, at),
            Some(candidate) => self.point_candidate(candidate, at),
        }
        core.counts.one(Count::SessionsOpenedUdp);
        Some(at)
    }

    /// Whether a session, or what is left of one, has this name.
    pub(crate) fn knows(&self, prefix: [u8; 8]) -> bool {
        self.is_awake(prefix) || self.dormant.knows(prefix)
    }

    /// Whether a session, or what is left of one, can take a frame at once.
    pub(crate) fn is_awake(&self, prefix: [u8; 8]) -> bool {
        self.find(prefix).is_some() || self.find_lingering(prefix).is_some()
    }

    /// Whether a session speaks with this address.
    pub(crate) fn hears(&self, path: Path) -> bool {
        self.find_address(path).is_some()
    }

    /// Takes a sealed frame of a session that is known.
    pub(crate) fn sealed(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        path: Path,
        (prefix, frame_type): ([u8; 8], FrameType),
        datagram: &mut [u8],
    ) {
        let Some(at) = self.find(prefix) else {
            return self.sealed_after_end(core, out, path, prefix, datagram);
        };
        let slot = slot_in(prefix);
        let Some(live) = self.table.get_mut(at) else { return };
        let room = match frame_type {
            FrameType::Data | FrameType::DataFrag => core.has_room_in(slot, live.machine.fragment_open()),
            FrameType::Rekey => core.has_room_in(slot, false),
            _ => true,
        };
        // What has no room is as if it had never arrived: the device sends it again.
        if !room {
            return core.counts.one(Count::DroppedBehind);
        }
        let session = core.session_ref(false, at, live.facts.serial);
        let known = live.known();
        let named = Named { device: live.facts.device, tenant: live.facts.tenant };
        // Copied before the machine works: the payload it gives may lie in the pool beside.
        let record = live.session();
        match live.machine.handle_datagram(core.now, path, datagram, &mut core.buffers) {
            Ok(Received::Message { token, payload }) => {
                let tenant = core.tenants.name(live.facts.tenant).map_or("", |tenant| tenant.as_str());
                let message = Message { session, token, source: Some(path), kind: Kind::Record };
                let (taken, otherwise) = match live.facts.turn {
                    Turn::Writes => {
                        let records = records_of(&mut core.slots, &mut core.records, slot).ok_or(GroupFull);
                        let added = records.and_then(|records| {
                            records.message(core.wall, &record, tenant, message, payload)
                        });
                        (added.map(|()| Count::MessagesReceived), Count::DroppedBehind)
                    }
                    Turn::Waits if core.waiting.keep(core.wall, &record, message, payload) => {
                        (Ok(Count::MessagesHeld), Count::DroppedHeld)
                    }
                    Turn::Waits | Turn::Parted => (Err(GroupFull), Count::DroppedHeld),
                };
                if let Ok(taken) = taken {
                    core.counts.one(taken);
                    // Counted when taken, as over TCP.
                    live.facts.messages = live.facts.messages.saturating_add(1);
                } else {
                    // Room was asked for before; should it be gone all the same, the device sends again.
                    core.counts.one(otherwise);
                    live.machine.withdraw(token);
                }
            }
            Ok(Received::Acknowledge { utack, .. }) => out.send(path, &utack),
            Ok(Received::Fragment { token }) => {
                let message = Message { session, token, source: Some(path), kind: Kind::Fragment };
                let CommitToken { epoch, seq } = token;
                let entry = LedgerEntry::Number { session: record.id.0, epoch, seq, fragment_open: true };
                match records_of(&mut core.slots, &mut core.records, slot) {
                    Some(records) => records.journal(&core.counts, entry, Some(message)),
                    None => live.machine.refused(token),
                }
            }
            Ok(Received::Rekey { token }) => live.persist_rekey(core, session, token, path),
            Err(reason) => {
                core.counts.one(drop_count(reason));
                let security = match reason {
                    DropReason::Authentication | DropReason::ExplicitNonce => SecurityReason::Forged,
                    DropReason::Stale => SecurityReason::Replay,
                    _ => return self.after(core, out, handshakes, at, known),
                };
                core.refuse(security, Some(named), Transport::Udp);
            }
        }
        self.after(core, out, handshakes, at, known);
    }

    /// BYE is acknowledged for a while after the end, or the device would wait for nothing.
    fn sealed_after_end(
        &self,
        core: &Core,
        out: &mut Outbound,
        path: Path,
        prefix: [u8; 8],
        datagram: &mut [u8],
    ) {
        let lingering = self.find_lingering(prefix).and_then(|at| self.lingering.get(at));
        match lingering.and_then(|lingering| lingering.handle_datagram(core.now, datagram)) {
            Some(utack) => out.send(path, &utack),
            None => core.counts.one(Count::DroppedUnknownSession),
        }
    }

    /// Sends what the session has to say and does what its events ask for.
    fn after(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        at: u32,
        known: Known,
    ) {
        let Some(live) = self.table.get_mut(at) else { return };
        live.transmit(core.now, out);
        let mut ended = None;
        while let Some(event) = live.machine.poll_event() {
            match event {
                SessionEvent::Established => {
                    live.facts.established = true;
                    core.announce(&live.session(), Change::Opened);
                    let session = core.session_ref(false, at, live.facts.serial);
                    core.fleet.tell(ToFleet::Established { session, device: live.facts.device });
                    handshakes.done(core, at);
                }
                // The tables follow below.
                SessionEvent::Moved { .. } | SessionEvent::Rekeyed { .. } => {}
                // Four million frames to one device under one owner. The slot's next owner has new numbers for it; until then
                // nothing goes down to the device, and everything up.
                SessionEvent::NumbersNeeded => core.counts.one(Count::SendingNumbersUsedUp),
                SessionEvent::MessageDelivered => self.downlink -= live.conclude(&core.counts, Ok(())),
                SessionEvent::MessageLost => {
                    self.downlink -= live.conclude(&core.counts, Err(SendError::NotAcknowledged));
                }
                SessionEvent::Closed(reason) => {
                    ended = Some(match live.farewell {
                        Some(farewell) => farewell,
                        None if live.facts.established => close_reason(reason),
                        None => CloseReason::NeverEstablished,
                    });
                }
            }
        }
        if let Some(reason) = ended {
            return self.end(core, handshakes, at, known, reason);
        }
        self.downlink -= live.pump(&core.counts);
        live.transmit(core.now, out);
        self.follow_address(core, at, known);
        self.reschedule(at);
    }

    /// Keeps the tables of addresses in step with the session.
    fn follow_address(&mut self, core: &mut Core, at: u32, (from, before): Known) {
        let Some(live) = self.table.get_mut(at) else { return };
        let (to, candidate) = live.known();
        if (from, before) == (to, candidate) {
            return;
        }
        if let Some(before) = before {
            self.by_candidate.remove(&before, at);
        }
        if from != to {
            live.moves = live.moves.saturating_add(1);
            core.counts.one(Count::SessionsMoved);
            core.announce(&live.session(), Change::Moved { from: from.address(), count: live.moves });
            self.by_address.remove(&from, at);
        }
        // What was only a candidate may be the address from now on.
        if from != to || before == Some(to) && live.machine.is_path_settled() {
            self.point_address(to, at);
        }
        if let Some(candidate) = candidate {
            self.point_candidate(candidate, at);
        }
    }

    /// Kafka has a message, or will never have it.
    pub(crate) fn settled(&mut self, core: &Core, out: &mut Outbound, message: &Message, committed: bool) {
        let live = self.table.get_mut(message.session.index);
        let Some(live) = live.filter(|live| live.facts.serial == message.session.serial) else { return };
        let acknowledged = match (message.kind, committed) {
            (Kind::Record, false) => {
                live.facts.messages = live.facts.messages.saturating_sub(1);
                return live.machine.refused(message.token);
            }
            // A handshake waits for it, no session.
            (Kind::Birth, _) => return,
            (Kind::Fragment, false) => return live.machine.refused(message.token),
            (Kind::Rekey, false) => return live.machine.rekey_refused(message.token),
            (Kind::Record | Kind::Fragment, true) => live.machine.committed(core.now, message.token),
            (Kind::Rekey, true) => {
                let switched = live.machine.rekey_committed(core.now, message.token);
                // The keys before it are nobody's any more.
                live.keep(core);
                switched
            }
        };
        if let Some(acknowledged) = acknowledged {
            if let Some(source) = message.source {
                out.send(source, &acknowledged.utack);
            }
            if let Some(other) = acknowledged.also_to.filter(|&other| message.source != Some(other)) {
                out.send(other, &acknowledged.utack);
            }
        }
    }

    /// Takes a UTACK of a sealed frame.
    pub(crate) fn utack(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        path: Path,
        utack: &Utack,
    ) {
        let Some(at) = self.find_address(path) else { return core.counts.one(Count::DroppedUtack) };
        let Some(live) = self.table.get_mut(at) else { return };
        let known = live.known();
        match live.machine.handle_utack(core.now, path, utack) {
            Ok(()) => self.after(core, out, handshakes, at, known),
            Err(reason) => core.counts.one(drop_count(reason)),
        }
    }

    /// The session's messages are handed over from now on; `false` when it is gone.
    pub(crate) fn go(&mut self, session: SessionRef) -> bool {
        let live = self.table.get_mut(session.index);
        let Some(live) = live.filter(|live| live.facts.serial == session.serial) else { return false };
        if live.facts.turn == Turn::Waits {
            live.facts.turn = Turn::Writes;
        }
        true
    }

    /// Takes no more messages from the session. One that waits for its turn is forgotten: the device has no acknowledgement of it.
    pub(super) fn part(core: &mut Core, session: SessionRef, live: &mut Live<P>) {
        if core.waiting.take(session).is_some() {
            live.facts.messages = live.facts.messages.saturating_sub(1);
        }
        core.part(session, &mut live.facts);
    }

    pub(crate) fn session_ok_arrived(&mut self, core: &Core, at: u32) {
        if let Some(live) = self.table.get_mut(at) {
            live.machine.session_ok_arrived(core.now);
            self.reschedule(at);
        }
    }

    pub(crate) fn turn(&mut self, core: &mut Core, out: &mut Outbound, handshakes: &mut UdpHandshakes<P>) {
        while let Some(at) = self.timers.pop_due(core.now) {
            if let Some(live) = self.table.get_mut(at) {
                let known = live.known();
                live.machine.handle_timeout(core.now, &mut core.buffers);
                self.after(core, out, handshakes, at, known);
            }
        }
        self.turn_shared(core);
        while let Some(at) = self.lingering_timers.pop_due(core.now) {
            if let Some(lingering) = self.lingering.remove(at) {
                self.lingering_by_prefix.remove(&lingering.session_id().prefix(), at);
            }
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        [self.timers.next(), self.lingering_timers.next(), self.dormant.next(), self.snapshots.next()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.table.len() == 0
    }

    pub(crate) fn send(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        session: SessionRef,
        payload: Box<[u8]>,
        done: SendReply,
    ) {
        let at = session.index;
        let Some(live) = self.table.get_mut(at).filter(|live| live.facts.serial == session.serial) else {
            let _nobody_waits = done.send(Err(SendError::NotConnected));
            return;
        };
        let full = self.downlink >= self.max_downlink;
        self.downlink += live.enqueue(&core.counts, payload, done, full);
        self.downlink -= live.pump(&core.counts);
        live.transmit(core.now, out);
        self.reschedule(at);
    }

    /// Ends a session for a reason of our own: BYE, whose UTACK is awaited as long as the machine does.
    pub(crate) fn close(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        session: SessionRef,
        reason: CloseReason,
    ) {
        let at = session.index;
        if let Some(live) = self.table.get_mut(at).filter(|live| live.facts.serial == session.serial)
            && live.farewell.is_none()
        {
            live.farewell = Some(reason);
            Self::part(core, session, live);
            let known = live.known();
            match live.machine.say_bye() {
                Ok(()) => self.after(core, out, handshakes, at, known),
                Err(_) => self.end(core, handshakes, at, known, reason),
            }
        }
    }

    pub(crate) fn close_all(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        reason: CloseReason,
    ) {
        let open = self.table.iter().filter(|(_, live)| live.farewell.is_none());
        let open: Vec<_> = open.map(|(at, live)| (at, live.facts.serial)).collect();
        for (at, serial) in open {
            self.close(core, out, handshakes, core.session_ref(false, at, serial), reason);
        }
    }

    pub(crate) fn end_all(&mut self, core: &mut Core, handshakes: &mut UdpHandshakes<P>) {
        let open: Vec<_> = self.table.iter().map(|(at, live)| (at, live.known(), live.farewell)).collect();
        for (at, known, farewell) in open {
            self.end(core, handshakes, at, known, farewell.unwrap_or(CloseReason::Drain));
        }
    }

    fn end(
        &mut self,
        core: &mut Core,
        handshakes: &mut UdpHandshakes<P>,
        at: u32,
        known: Known,
        reason: CloseReason,
    ) {
        let Some(live) = self.table.get_mut(at) else { return };
        Self::part(core, core.session_ref(false, at, live.facts.serial), live);
        let (session, prefix) = (live.session(), live.machine.session_id().prefix());
        let Some(mut live) = self.unlink(core, handshakes, at, known) else { return };
        self.downlink -= live.give_up(&core.counts);
        let lingering = live.machine.into_lingering(core.now, &mut core.buffers);
        let until = lingering.until();
        if let Ok(left) = self.lingering.insert(lingering) {
            let table = &self.lingering;
            self.lingering_by_prefix.insert(&prefix, left, |other| {
                table.get(other).map(|lingering| lingering.session_id().prefix())
            });
            self.lingering_timers.ensure(left, until);
        }
        core.counts.one(Count::SessionsClosedUdp);
        if core.slots.are_shared() {
            core.journal(slot_in(prefix), LedgerEntry::Closed { session: session.id.0 });
            if let Some(keeper) = &core.keeper {
                keeper.forget(session.facts.device, SessionId::from_bytes(session.id.0));
            }
        }
        core.session_ended(&session, at, reason);
    }

    /// Takes a session out of the tables.
    pub(super) fn unlink(
        &mut self,
        core: &mut Core,
        handshakes: &mut UdpHandshakes<P>,
        at: u32,
        known: Known,
    ) -> Option<Live<P>> {
        let prefix = self.table.get(at)?.machine.session_id().prefix();
        self.by_prefix.remove(&prefix, at);
        self.by_address.remove(&known.0, at);
        if let Some(candidate) = known.1 {
            self.by_candidate.remove(&candidate, at);
        }
        handshakes.done(core, at);
        self.timers.cancel(at);
        self.table.remove(at)
    }

    fn point_address(&mut self, address: Path, at: u32) {
        let table = &self.table;
        self.by_address.insert(&address, at, |other| table.get(other).map(|live| live.machine.path()));
    }

    fn point_candidate(&mut self, candidate: Path, at: u32) {
        let table = &self.table;
        self.by_candidate
            .insert(&candidate, at, |other| table.get(other).and_then(|live| live.machine.candidate_path()));
    }

    pub(super) fn reschedule(&mut self, at: u32) {
        if let Some(when) = self.table.get(at).and_then(|live| live.machine.poll_timeout()) {
            self.timers.ensure(at, when);
        }
    }

    fn find(&self, prefix: [u8; 8]) -> Option<u32> {
        self.by_prefix.find(&prefix, |at| self.table.get(at).map(|live| live.machine.session_id().prefix()))
    }

    fn find_address(&self, address: Path) -> Option<u32> {
        let settled = self.by_address.find(&address, |at| self.table.get(at).map(|live| live.machine.path()));
        settled.or_else(|| {
            self.by_candidate
                .find(&address, |at| self.table.get(at).and_then(|live| live.machine.candidate_path()))
        })
    }

    fn find_lingering(&self, prefix: [u8; 8]) -> Option<u32> {
        self.lingering_by_prefix
            .find(&prefix, |at| self.lingering.get(at).map(|lingering| lingering.session_id().prefix()))
    }
}
