//! PACKET PATH: no lock, no log, no await; allocates only when sessions change their owner or their keys.
//!
//! Sessions over UDP that other pods can go on with: what the ledger and the store hear of them, how they come and go.

use sluice_bus::{LedgerEntry, SessionState};
use sluice_proto::events::v1::{SecurityReason, Transport};
use sluice_store::{Profile, SessionKeys, SessionRecord};
use sluice_types::{DeviceEpoch, DeviceId, KeyEpoch, SessionId};
use usmp::crypto::Provider;
use usmp::server::{CommitToken, Resumed, SessionConfig, UdpSession, first_number};
use usmp::wire::FrameType;
use usmp::{Duration, Instant};

use super::core::{Core, random};
use super::dormant::Woken;
use super::records::{Kind, Message};
use super::session::Facts;
use super::slots::Slots;
use super::turn::Turn;
use super::udp_handshakes::UdpHandshakes;
use super::udp_live::Live;
use super::udp_sessions::UdpSessions;
use crate::cluster::{for_the_store, from_the_store, keys_for_the_store};
use crate::config::EdgeConfig;
use crate::counts::Count;
use crate::link::{Found, Kept, SessionRef, ToFleet};
use crate::path::Path;
use crate::security::Named;
use crate::session_ids::slot_in;
use crate::udp_io::Outbound;

/// By when the ledger has heard of each session again: a quarter of what it is kept for.
const TOLD_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// Pause between two looks at a few of them.
const EACH: Duration = Duration::from_secs(1);

/// In which time each session is journaled and its record written again: neither the ledger nor the store forgets it while it lives.
fn told_again(core: &Core) -> Duration {
    core.keeper.as_ref().map_or(TOLD_AGAIN, |keeper| keeper.rewritten_within().min(TOLD_AGAIN))
}

/// How the machines of this shard's sessions are to behave.
pub(super) fn machine_config(config: &EdgeConfig, slots: &Slots) -> SessionConfig {
    let base = if slots.are_shared() { SessionConfig::udp_shared() } else { SessionConfig::udp() };
    SessionConfig { idle_timeout: config.session.udp_idle_timeout, ..base }
}

/// Goes through the sessions of a shard within some time, a few each second.
#[derive(Debug)]
pub(super) struct Repeater {
    place: u32,
    at: Instant,
    /// Seconds for all of them, 1 at least.
    rounds: u32,
}

impl Repeater {
    pub(super) fn new(core: &Core) -> Self {
        Self::within(core.now, told_again(core))
    }

    fn within(now: Instant, all: Duration) -> Self {
        Self { place: 0, at: now + EACH, rounds: u32::try_from(all.as_secs()).unwrap_or(u32::MAX).max(1) }
    }

    /// The places of the table to look at now.
    fn due(&mut self, now: Instant, places: u32) -> std::ops::Range<u32> {
        if now < self.at || places == 0 {
            return 0..0;
        }
        self.at = now + EACH;
        let from = if self.place >= places { 0 } else { self.place };
        let each = places / self.rounds + 1;
        self.place = from.saturating_add(each).min(places);
        from..self.place
    }
}

impl<P: Provider> Live<P> {
    /// What the next owner would have to know of it now.
    pub(super) fn session_state(&self) -> SessionState {
        SessionState {
            session: self.machine.session_id().0,
            device: *self.facts.device.as_bytes(),
            birth: self.facts.birth,
            epoch: self.machine.epoch(),
            committed: self.machine.committed_seq(),
            fragment_open: self.machine.fragment_open(),
        }
    }

    /// What the journal is told of it.
    pub(super) fn state(&self) -> LedgerEntry {
        let SessionState { session, device, birth, epoch, committed, fragment_open } = self.session_state();
        LedgerEntry::State { session, device, birth, epoch, committed, fragment_open }
    }

    fn record(
        &self,
        core: &Core,
        secrets: &usmp::server::SessionSecrets,
        previous: Option<SessionKeys>,
    ) -> Option<SessionRecord> {
        let (current, last_rekey) = for_the_store(secrets, core.wall);
        Some(SessionRecord {
            session: SessionId::from_bytes(self.machine.session_id().0),
            device: self.facts.device,
            tenant: core.tenants.name(self.facts.tenant)?.clone(),
            profile: Profile::Raw,
            device_epoch: self.facts.device_epoch,
            rekey_epoch: secrets.epoch,
            birth_generation: self.facts.birth,
            current,
            previous,
            last_rekey,
            key_epoch: KeyEpoch(self.facts.key_epoch),
            opened: core.clock.wall_at(self.facts.opened),
        })
    }

    /// Writes the session's record as it is now.
    pub(super) fn keep(&self, core: &Core) {
        let Some(keeper) = &core.keeper else { return };
        let kept =
            self.record(core, &self.machine.secrets(), None).is_some_and(|record| keeper.keep(record, None));
        if !kept {
            core.counts.one(Count::SessionsNotKept);
        }
    }

    /// A REKEY takes effect, and is acknowledged, once the new keys are in the store and the new epoch is in the ledger.
    pub(super) fn persist_rekey(
        &mut self,
        core: &Core,
        session: SessionRef,
        token: CommitToken,
        source: Path,
    ) {
        let record = self
            .machine
            .pending_rekey()
            .and_then(|pending| self.record(core, &pending.after, Some(keys_for_the_store(&pending.before))));
        let asked = match (&core.keeper, record) {
            (Some(keeper), Some(record)) => keeper.keep(record, Some(Kept { session, token, source })),
            _ => false,
        };
        if !asked {
            self.machine.rekey_refused(token);
        }
    }
}

impl<P: Provider> UdpSessions<P> {
    /// Sessions that came with a slot: they sleep until they speak.
    pub(crate) fn adopt(&mut self, core: &Core, sessions: Vec<SessionState>) {
        let until = core.now + self.config.idle_timeout;
        for state in sessions {
            self.dormant.insert(state, until);
        }
    }

    /// Takes a sealed frame for a slot of this shard whose session is not awake.
    pub(crate) fn wake(&mut self, core: &Core, path: Path, prefix: [u8; 8], datagram: &[u8]) {
        match self.dormant.wake(prefix, path, datagram) {
            Woken::Unknown => core.counts.one(Count::DroppedUnknownSession),
            Woken::Replaced => core.counts.one(Count::DroppedWaking),
            Woken::Ask(state) => {
                if !core.keeper.as_ref().is_some_and(|keeper| keeper.find(core.now, &state)) {
                    self.dormant.sleep_on(prefix);
                    core.counts.one(Count::DroppedWaking);
                }
            }
        }
    }

    /// The store has answered about a session that sleeps.
    pub(crate) fn found(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        handshakes: &mut UdpHandshakes<P>,
        session: SessionId,
        found: Found,
    ) {
        let prefix = session.prefix();
        let slot = slot_in(prefix);
        let found = match found {
            Found::NoAnswer => {
                core.counts.one(Count::KeyLookupsFailed);
                return self.dormant.sleep_on(prefix);
            }
            Found::Nothing => None,
            Found::Record { record, may_connect, looked_up } => Some((record, may_connect, looked_up)),
        };
        // A slot that is leaving takes its sleepers along; the next owner asks again.
        let Some(generation) =
            core.slots.get(slot).filter(|owned| owned.leaving.is_none()).map(|owned| owned.generation)
        else {
            return self.dormant.sleep_on(prefix);
        };
        // An answer to a question from before the slot went away and came back; the session's next datagram asks anew.
        if !self.dormant.is_asked(prefix) {
            return;
        }
        let Some((state, held)) = self.dormant.take(*session.as_bytes()) else { return };
        let secrets = found.as_ref().and_then(|(record, ..)| from_the_store(record, state.epoch));
        let next_seq = generation.checked_sub(state.birth).and_then(first_number);
        let (Some((record, may_connect, looked_up)), Some(secrets), Some(next_seq)) =
            (found, secrets, next_seq)
        else {
            // Without its keys nobody can go on with it; the device comes again with a handshake.
            core.counts.one(Count::SessionsOrphaned);
            return core.journal(slot, LedgerEntry::Closed { session: *session.as_bytes() });
        };
        let Some(mut held) = held else { return };
        let tenant = core.tenants.number(&record.tenant);
        let (Some(seed), true) = (random().map(u32::from_le_bytes), core.take_place_of_resumed(tenant))
        else {
            core.counts.one(Count::DroppedNoSession);
            return self.dormant.insert(state, core.now + self.config.idle_timeout);
        };
        let resumed = Resumed {
            secrets,
            committed: state.committed,
            fragment_open: state.fragment_open,
            next_seq,
            established: state.committed.is_some() || state.epoch > 0,
        };
        let established = resumed.established;
        let machine = UdpSession::resumed(core.now, resumed, held.path, seed, &self.config);
        let facts = Facts {
            opened: core.now,
            device: record.device,
            established,
            // Its first message is kept until the fleet, which hears of revocations, has taken the session in.
            turn: Turn::Waits,
            tenant,
            key_epoch: record.key_epoch.0,
            device_epoch: record.device_epoch,
            serial: core.next_serial(),
            messages: 0,
            birth: state.birth,
        };
        let Some(at) = self.insert(core, Live::new(machine, facts)) else {
            return self.dormant.insert(state, core.now + self.config.idle_timeout);
        };
        core.counts.one(Count::SessionsResumed);
        let named = core.session_ref(false, at, facts.serial);
        let (device, epoch) = (facts.device, record.device_epoch);
        core.fleet.tell(ToFleet::Resumed {
            session: named,
            device,
            id: session,
            established,
            epoch,
            may_connect,
            looked_up,
        });
        let path = held.path;
        let frame_type = held.datagram().get(3).map_or(FrameType::Unknown(0), |&code| FrameType::from(code));
        self.sealed(core, out, handshakes, path, (prefix, frame_type), held.datagram());
    }

    /// The new keys of a session are in the store, or will not be.
    pub(crate) fn kept(&mut self, core: &mut Core, kept: Kept, written: bool) {
        let Kept { session, token, source } = kept;
        let live = self.table.get_mut(session.index);
        let Some(live) = live.filter(|live| live.facts.serial == session.serial) else { return };
        if !written {
            return live.machine.rekey_refused(token);
        }
        let entry = match live.state() {
            LedgerEntry::State { session, device, birth, .. } => LedgerEntry::State {
                session,
                device,
                birth,
                epoch: token.epoch.saturating_add(1),
                committed: None,
                fragment_open: false,
            },
            other => other,
        };
        let message = Message { session, token, source: Some(source), kind: Kind::Rekey };
        match core.slots.get_mut(slot_in(live.machine.session_id().prefix())) {
            Some(owned) => owned.records.journal(&core.counts, entry, Some(message)),
            None => live.machine.rekey_refused(token),
        }
    }

    /// The session has its number among those of its device: its record says so to whoever goes on with it.
    pub(crate) fn claimed(
        &mut self,
        core: &mut Core,
        session: SessionRef,
        epoch: DeviceEpoch,
        suspected: bool,
    ) {
        let live = self.table.get_mut(session.index);
        let Some(live) = live.filter(|live| live.facts.serial == session.serial) else { return };
        live.facts.device_epoch = epoch;
        if core.slots.are_shared() {
            live.keep(core);
        }
        if suspected {
            let named = Named { device: live.facts.device, tenant: live.facts.tenant };
            core.refuse(SecurityReason::SuspectedClone, Some(named), Transport::Udp);
        }
    }

    /// Ends a session of the device that sleeps, if it does; nobody can say BYE for it without its keys.
    pub(crate) fn close_sleeping(&mut self, core: &mut Core, device: DeviceId, session: SessionId) {
        if self.dormant.take_of(*device.as_bytes(), *session.as_bytes()) {
            core.counts.one(Count::SessionsReplacedAsleep);
            core.journal(slot_in(session.prefix()), LedgerEntry::Closed { session: *session.as_bytes() });
            if let Some(keeper) = &core.keeper {
                keeper.forget(device, session);
            }
        }
    }

    /// Whether a session of the slot has sent a part of a message.
    pub(crate) fn is_mid_message(&self, slot: u16) -> bool {
        self.table.iter().any(|(_, live)| {
            live.machine.fragment_open() && slot_in(live.machine.session_id().prefix()) == slot
        })
    }

    /// The slot goes to another owner, or has one: its sessions are not ours any more, and no word is said to their devices.
    pub(crate) fn suspend(&mut self, core: &mut Core, handshakes: &mut UdpHandshakes<P>, slot: u16) {
        let of_slot = |prefix| slot_in(prefix) == slot;
        self.dormant.forget(of_slot);
        let here = self.table.iter().filter(|(_, live)| of_slot(live.machine.session_id().prefix()));
        let here: Vec<_> = here.map(|(at, live)| (at, live.known())).collect();
        for (at, known) in here {
            let Some(mut live) = self.unlink(core, handshakes, at, known) else { continue };
            self.downlink -= live.give_up(&core.counts);
            let gone = core.session_ref(false, at, live.facts.serial);
            Self::part(core, gone, &mut live);
            core.fleet.tell(ToFleet::Ended { session: gone, device: live.facts.device, moved: true });
            core.give_back_session_place(live.facts.tenant);
            core.counts.one(Count::SessionsClosedUdp);
            core.counts.one(Count::SessionsSuspended);
            let _zeroized = live.machine.suspend(&mut core.buffers);
        }
    }

    /// What time brings for sessions that say nothing.
    pub(super) fn turn_shared(&mut self, core: &mut Core) {
        if !core.slots.are_shared() {
            return;
        }
        for state in self.dormant.expire(core.now) {
            let session = SessionId::from_bytes(state.session);
            core.counts.one(Count::SessionsExpired);
            core.journal(slot_in(session.prefix()), LedgerEntry::Closed { session: state.session });
            if let Some(keeper) = &core.keeper {
                keeper.forget(DeviceId::from_bytes(state.device), session);
            }
        }
        for at in self.told_again.due(core.now, self.table.reach()) {
            let Some(live) = self.table.get(at) else { continue };
            core.journal(slot_in(live.machine.session_id().prefix()), live.state());
            // The key that its record is sealed under is destroyed some time after it was followed by another.
            live.keep(core);
        }
        self.turn_snapshots(core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_looked_at_within_the_time_that_is_set() {
        for all in [TOLD_AGAIN, Duration::from_secs(3900), Duration::from_secs(60), Duration::from_millis(10)]
        {
            for places in [1, 7, 256, 25_600, 1_000_192] {
                let mut repeater = Repeater::within(Instant::ZERO, all);
                let mut seen = 0;
                let mut now = Instant::ZERO;
                while seen < places {
                    now = now + EACH;
                    let due = repeater.due(now, places);
                    assert_eq!(due.start, seen, "none is left out");
                    seen = due.end;
                }
                assert!(
                    now <= Instant::ZERO + all.max(EACH),
                    "{places} places took until {now:?}, not {all:?}"
                );
                assert_eq!(repeater.due(now + EACH, places).start, 0, "then from the beginning");
            }
        }
    }
}
