//! PACKET PATH: no lock, no log, no await; allocates once for each session that waits for the ledger.
//!
//! A session that other pods are to go on with is in its slot's ledger before its device hears of it. Until then the device has neither
//! SESSION_OK nor the UTACK of its proof: it repeats the proof, and is not left waiting by an edge that said no more after a UTACK.

use sluice_bus::LedgerEntry;
use sluice_types::{DeviceEpoch, DeviceId, SessionId};
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::CommitToken;
use usmp::wire::FrameType;

use super::{Accepted, Pending, UdpHandshakes, acknowledge};
use crate::counts::Count;
use crate::link::SessionRef;
use crate::session_ids::slot_in;
use crate::shard::core::Core;
use crate::shard::records::{Kind, Message};
use crate::shard::session::Facts;
use crate::shard::turn::Turn;
use crate::shard::udp_live::Live;
use crate::shard::udp_sessions::UdpSessions;
use crate::table::Slab;
use crate::udp_io::Outbound;

/// The part of [`ledger_wait`](crate::config::HandshakeConfig::ledger_wait) after which a ledger is behind.
const PART: u32 = 8;

/// A session of which the ledger has not heard yet.
pub(super) struct Unborn<P: Provider> {
    live: Live<P>,
    looked_up: Instant,
    /// When it began to wait.
    since: Instant,
    /// Of the HELLO_ACK that proved it.
    seq: u32,
    /// Without a word from the ledger by then it will not be.
    until: Instant,
}

impl<P: Provider> Unborn<P> {
    fn slot(&self) -> u16 {
        slot_in(self.live.machine.session_id().prefix())
    }

    /// It will not be: the ledger hears so, after whatever it may have heard before, and its keys are forgotten.
    pub(super) fn abandon(self, core: &mut Core) {
        core.give_back_session_place(self.live.facts.tenant);
        let session = self.live.machine.session_id().0;
        if core.slots.get(self.slot()).is_some() {
            core.journal(self.slot(), LedgerEntry::Closed { session });
        }
        if let Some(keeper) = &core.keeper {
            keeper.forget(self.live.facts.device, SessionId::from_bytes(session));
        }
    }
}

/// Since when the handshake of this place and number waits for the ledger, if it does.
fn waits_since<P: Provider>(table: &Slab<Pending<P>>, (at, serial): (u32, u32)) -> Option<Instant> {
    let pending = table.get(at).filter(|pending| pending.serial == serial)?;
    pending.unborn.as_deref().map(|unborn| unborn.since)
}

impl<P: Provider> Accepted<P> {
    /// The half-open session, and when its device's keys were looked up.
    pub(crate) fn into_session(self, core: &mut Core) -> (Live<P>, Instant) {
        let slot = slot_in(self.id.prefix());
        let facts = Facts {
            opened: core.now,
            device: DeviceId::from_bytes(self.device.0),
            established: false,
            turn: Turn::Waits,
            tenant: self.tenant,
            key_epoch: self.key_epoch,
            device_epoch: DeviceEpoch(0),
            serial: core.next_serial(),
            messages: 0,
            birth: core.slots.get(slot).map_or(0, |owned| owned.generation),
        };
        (Live::new(self.machine, facts), self.looked_up)
    }
}

impl<P: Provider> UdpHandshakes<P> {
    /// Lets the ledger hear of a session, and its keys go into the store. SESSION_OK waits for the first of them.
    pub(super) fn await_ledger(&mut self, core: &mut Core, accepted: Accepted<P>, seq: u32) {
        let (at, _) = accepted.handshake;
        let (live, looked_up) = accepted.into_session(core);
        let message = Message {
            session: core.session_ref(false, at, live.facts.serial),
            token: CommitToken { epoch: 0, seq: 0 },
            source: None,
            kind: Kind::Birth,
        };
        let until = core.now + core.config.handshake.ledger_wait;
        let unborn = Unborn { live, looked_up, since: core.now, seq, until };
        core.journal_for(unborn.slot(), unborn.live.state(), Some(message));
        unborn.live.keep(core);
        let Some(pending) = self.table.get_mut(at) else { return unborn.abandon(core) };
        pending.unborn = Some(Box::new(unborn));
        let place = (at, pending.serial);
        let table = &self.table;
        self.births.push(place, table.len(), |place| waits_since(table, place));
        self.timers.ensure(at, until);
    }

    /// Whether the ledgers take sessions more slowly than they come: then nobody begins, so that those who did are done in time.
    /// A fleet that comes back at once would otherwise have its proofs checked for nothing, again and again.
    pub(super) fn ledger_is_behind(&mut self, core: &Core) -> bool {
        let (table, patience) = (&self.table, core.config.handshake.ledger_wait / PART);
        self.births.is_slow(core.now, patience, |place| waits_since(table, place))
    }

    /// Whether the handshake waits for the ledger. One that has waited long enough goes back to where its proof can come again.
    pub(super) fn awaits_ledger(&mut self, core: &mut Core, at: u32) -> bool {
        let Some(pending) = self.table.get_mut(at) else { return false };
        match pending.unborn.take() {
            Some(unborn) if core.now < unborn.until => {
                self.timers.ensure(at, unborn.until);
                pending.unborn = Some(unborn);
                true
            }
            Some(unborn) => {
                // What was told last is not settled yet, so something will be, should the ledger go on.
                if let Some(owned) = core.slots.get_mut(unborn.slot()) {
                    owned.behind = true;
                }
                unborn.abandon(core);
                pending.machine.withdraw();
                core.counts.one(Count::DroppedNotJournaled);
                false
            }
            None => false,
        }
    }

    /// The ledger has heard of a session, or never will: its device gets SESSION_OK, or may try again.
    pub(crate) fn journaled(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        sessions: &mut UdpSessions<P>,
        named: SessionRef,
        committed: bool,
    ) {
        let at = named.index;
        let Some(pending) = self.table.get_mut(at) else { return };
        let is_it = |unborn: &mut Box<Unborn<P>>| unborn.live.facts.serial == named.serial;
        // Given up meanwhile: the ledger is told that it is closed.
        let Some(unborn) = pending.unborn.take_if(is_it) else { return };
        if !committed {
            unborn.abandon(core);
            pending.machine.withdraw();
            return core.counts.one(Count::DroppedNotJournaled);
        }
        let (handshake, path) = ((at, pending.serial), pending.path);
        let Unborn { live, looked_up, seq, .. } = *unborn;
        let (slot, session) = (slot_in(live.machine.session_id().prefix()), live.machine.session_id().0);
        match sessions.open(core, live, looked_up) {
            Some(opened) => {
                self.attach(handshake, opened);
                acknowledge(out, path, FrameType::HelloAck, seq);
                self.transmit(core, out, at);
            }
            None => {
                core.journal(slot, LedgerEntry::Closed { session });
                self.failed(core, handshake);
            }
        }
    }

    /// The slot has another owner, or goes to one: what waits for its ledger will not be.
    pub(crate) fn suspend(&mut self, core: &mut Core, slot: u16) {
        let waits = |unborn: &Unborn<P>| unborn.slot() == slot;
        let here = self.table.iter().filter(|(_, pending)| pending.unborn.as_deref().is_some_and(waits));
        let here: Vec<u32> = here.map(|(at, _)| at).collect();
        for at in here {
            let Some(pending) = self.table.get_mut(at) else { continue };
            if let Some(unborn) = pending.unborn.take() {
                unborn.abandon(core);
                pending.machine.withdraw();
                core.counts.one(Count::DroppedNotJournaled);
            }
        }
    }
}
