//! What both transports of a shard share: time, counters, records, randomness, budgets, the way to the fleet.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_bus::{EventEncoder, GroupFull, LedgerEntry};
use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use sluice_types::{DeviceId, TenantId, Timestamp};
use tokio::sync::mpsc;
use usmp::crypto::Provider;
use usmp::{Instant, Secret, SessionId};

use super::buffers::Buffers;
use super::cookies::Cookies;
use super::records::{Message, Records};
use super::session::{Facts, Session};
use super::slots::{Owned, Slots, records_of};
use super::turn::{Held, Turn, Waiting};
use crate::admission::Penalties;
use crate::clock::Clock;
use crate::cluster::Keeper;
use crate::config::EdgeConfig;
use crate::counts::{Count, Counts};
use crate::events::{self, Change};
use crate::link::{SessionRef, ToCluster, ToFleet};
use crate::lookups::Lookups;
use crate::secrets::Secrets;
use crate::security::{Named, SecurityLog};
use crate::session_ids::{SessionIds, slot_in};
use crate::tenant_places::TenantPlaces;

/// Everything a shard has but its sockets and sessions.
pub(crate) struct Core {
    pub(crate) shard: u16,
    pub(crate) config: Arc<EdgeConfig>,
    pub(crate) clock: Clock,
    /// The time of this turn.
    pub(crate) now: Instant,
    /// The wall clock at this turn.
    pub(crate) wall: Timestamp,
    pub(crate) counts: Arc<Counts>,
    pub(crate) records: Records,
    pub(crate) waiting: Waiting,
    /// The fleet waits until the group of this number is settled.
    watched: u64,
    pub(crate) slots: Slots,
    /// Keeps sessions for other pods, where there are some.
    pub(crate) keeper: Option<Keeper>,
    /// Hears what becomes of slots, where they are shared.
    pub(crate) cluster: Option<mpsc::Sender<ToCluster>>,
    /// Writes events of slots.
    pub(crate) encoder: EventEncoder,
    pub(crate) security: SecurityLog,
    pub(crate) penalties: Penalties,
    pub(crate) ids: SessionIds,
    pub(crate) lookups: Lookups,
    pub(crate) buffers: Buffers,
    pub(crate) fleet: FleetLink,
    pub(crate) tenants: Tenants,
    /// A key that no device has.
    pub(crate) decoy: Arc<Secret<32>>,
    pub(crate) places: Places,
    pub(crate) accepting: bool,
    /// Whether messages are still taken; not once a drain commits the last ones.
    pub(crate) taking: bool,
    exchanges_left: u32,
    serial: u32,
}

/// What [`Core::new`] is made of.
pub(crate) struct Parts {
    pub(crate) shard: u16,
    pub(crate) config: Arc<EdgeConfig>,
    pub(crate) clock: Clock,
    pub(crate) counts: Arc<Counts>,
    pub(crate) records: Records,
    pub(crate) slots: Slots,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) cluster: Option<mpsc::Sender<ToCluster>>,
    pub(crate) encoder: EventEncoder,
    pub(crate) ids: SessionIds,
    pub(crate) lookups: Lookups,
    pub(crate) fleet: mpsc::Sender<ToFleet>,
    pub(crate) places: Places,
    pub(crate) penalties: Penalties,
    pub(crate) decoy: Secret<32>,
}

/// What became of the message that a session sent before its turn.
pub(crate) enum Released {
    Nothing,
    Message(Facts),
    /// It must wait for room.
    NoRoom,
}

/// Draws for a session's name before its device has to try again.
const MINT_TRIES: u8 = 16;

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let config = parts.config;
        let handshake = &config.handshake;
        Self {
            shard: parts.shard,
            clock: parts.clock,
            now: parts.clock.now(),
            wall: parts.clock.wall(),
            counts: parts.counts,
            records: parts.records,
            waiting: Waiting::default(),
            watched: 0,
            slots: parts.slots,
            keeper: parts.keeper,
            cluster: parts.cluster,
            encoder: parts.encoder,
            security: SecurityLog::new(
                config.security_events.window,
                config.security_events.watched_per_shard.get() as usize,
            ),
            penalties: parts.penalties,
            ids: parts.ids,
            lookups: parts.lookups,
            buffers: Buffers::new(config.limits.reassembly_buffers_per_shard.get()),
            fleet: FleetLink { sender: parts.fleet, backlog: VecDeque::new() },
            tenants: Tenants::default(),
            decoy: Arc::new(parts.decoy),
            places: parts.places,
            accepting: true,
            taking: true,
            exchanges_left: handshake.key_exchanges_per_turn.get(),
            serial: 0,
            config,
        }
    }

    /// Begins a turn: looks at the clock once, renews the budgets.
    pub(crate) fn begin_turn(&mut self) {
        self.now = self.clock.now();
        self.wall = self.clock.wall();
        self.exchanges_left = self.config.handshake.key_exchanges_per_turn.get();
    }

    /// Whether what is read now finds room.
    pub(crate) fn has_room(&self) -> bool {
        self.taking && self.records.has_room()
    }

    /// Whether a message of a session in this slot finds room.
    /// `continues` one that began before.
    pub(crate) fn has_room_in(&self, slot: u16, continues: bool) -> bool {
        match &self.slots {
            Slots::Alone => self.has_room(),
            Slots::Shared { .. } => {
                let takes = |owned: &&Owned| match &owned.leaving {
                    None => true,
                    Some(leaving) => continues && leaving.is_finishing(self.now),
                };
                let found = self.slots.get(slot).filter(takes);
                self.taking && found.is_some_and(|owned| owned.records.has_room())
            }
        }
    }

    /// Names sessions, and answers unknown devices, by these from now on; gives the way to make cookies by them.
    pub(crate) fn follow<P: Provider>(&mut self, secrets: Secrets) -> Cookies {
        let Secrets { ids, cookies, decoy } = secrets;
        self.ids = ids;
        self.decoy = Arc::new(decoy);
        Cookies::new::<P>(cookies, self.wall.as_millis().max(0) as u64 / 1000)
    }

    /// A number that no other session or handshake of this shard has had lately.
    pub(crate) const fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub(crate) const fn session_ref(&self, tcp: bool, index: u32, serial: u32) -> SessionRef {
        SessionRef { shard: self.shard, tcp, index, serial }
    }

    /// Takes one of the turn's X25519 operations.
    pub(crate) const fn take_exchange(&mut self) -> bool {
        match self.exchanges_left.checked_sub(1) {
            Some(left) => {
                self.exchanges_left = left;
                true
            }
            None => false,
        }
    }

    pub(crate) const fn may_exchange(&self) -> bool {
        self.exchanges_left > 0
    }

    /// Ends a writer, on a thread of its own: the shard does not wait for it.
    pub(crate) fn retire(&self, records: Records) {
        #[cfg(test)]
        if records.is_simulated() {
            let _given_up = records.shutdown(std::time::Duration::ZERO);
            return;
        }
        let ending = std::thread::Builder::new().name("slot-end".to_owned());
        if let Err(error) = ending.spawn(move || records.shutdown(std::time::Duration::ZERO)) {
            tracing::warn!(%error, "no thread for the end of a slot's writer; the shard waited for it");
        }
    }

    /// Lets the ledger of a slot of ours say something.
    pub(crate) fn journal(&mut self, slot: u16, entry: LedgerEntry) {
        self.journal_for(slot, entry, None);
    }

    /// As [`Self::journal`]; `message` waits for it, in vain if there is no room and no slot.
    pub(crate) fn journal_for(&mut self, slot: u16, entry: LedgerEntry, message: Option<Message>) {
        match self.slots.get_mut(slot) {
            Some(owned) => owned.records.journal(&self.counts, entry, message),
            None => self.counts.one(Count::JournalEntriesLost),
        }
    }

    /// A name for a new session that lives and dies with this shard.
    pub(crate) fn mint<P: Provider>(&self) -> Option<SessionId> {
        random().map(|random| self.ids.mint::<P>(self.shard, random))
    }

    /// A name for a session over UDP, in a slot that takes it, whose visible part is not taken. With a million sessions one draw in
    /// sixty-four meets a taken one.
    pub(crate) fn mint_unless<P: Provider>(&mut self, taken: impl Fn([u8; 8]) -> bool) -> Option<SessionId> {
        let slot = if self.slots.are_shared() { self.slots.birthplace(self.now)? } else { self.shard };
        (0..MINT_TRIES).find_map(|_| {
            let id = random().map(|random| self.ids.mint::<P>(slot, random))?;
            (!taken(id.prefix())).then_some(id)
        })
    }

    /// Reports a refusal. `device` only when it is in the registry.
    pub(crate) fn refuse(&mut self, reason: SecurityReason, device: Option<Named>, transport: Transport) {
        if let Some(refusals) = self.security.note(self.now, reason, device, transport) {
            let event = events::security(self.wall, &refusals, &self.tenants);
            self.records.event(&self.counts, event);
        }
    }

    /// Counts, penalises and reports a wrong proof from a verified address.
    pub(crate) fn refuse_proof(
        &mut self,
        device: usmp::DeviceId,
        address: IpAddr,
        (reason, tenant): (SecurityReason, Option<TenantId>),
        transport: Transport,
    ) {
        self.counts.one(Count::DroppedProof);
        self.penalties.failed(self.now, address, device);
        let named = tenant.map(|tenant| self.named(device, &tenant));
        self.refuse(reason, named, transport);
    }

    pub(crate) fn named(&mut self, device: usmp::DeviceId, tenant: &TenantId) -> Named {
        Named { device: DeviceId::from_bytes(device.0), tenant: self.tenants.number(tenant) }
    }

    /// Takes one of the process's places for sessions, and one of the tenant's.
    pub(crate) fn take_session_place(&self, tenant: u32) -> Result<(), NoPlace> {
        if !take(&self.places.sessions, self.config.limits.sessions.get()) {
            return Err(NoPlace::Process);
        }
        if !self.places.tenants.take(self.tenants.name(tenant)) {
            give_back(&self.places.sessions);
            return Err(NoPlace::Tenant);
        }
        Ok(())
    }

    /// Takes a place for a session that was opened elsewhere: its tenant's limit was looked at there.
    pub(crate) fn take_place_of_resumed(&self, tenant: u32) -> bool {
        let taken = take(&self.places.sessions, self.config.limits.sessions.get());
        if taken {
            self.places.tenants.came(self.tenants.name(tenant));
        }
        taken
    }

    pub(crate) fn give_back_session_place(&self, tenant: u32) {
        give_back(&self.places.sessions);
        self.places.tenants.give_back(self.tenants.name(tenant));
    }

    /// Counts, and reports where it is the tenant's doing, that a right proof opens no session.
    pub(crate) fn refuse_place(&mut self, why: NoPlace, named: Named, transport: Transport) {
        match why {
            NoPlace::Process => self.counts.one(Count::DroppedNoSession),
            NoPlace::Tenant => {
                self.counts.one(Count::DroppedTenantFull);
                self.refuse(SecurityReason::TenantLimit, Some(named), transport);
            }
        }
    }

    /// Reports the windows that are over.
    pub(crate) fn report_repeats(&mut self) {
        let (wall, counts, records, tenants) = (self.wall, &self.counts, &mut self.records, &self.tenants);
        self.security
            .expire(self.now, |refusals| records.event(counts, events::security(wall, &refusals, tenants)));
    }

    /// Reports what was counted, at the end.
    pub(crate) fn report_rest(&mut self) {
        let (wall, counts, records, tenants) = (self.wall, &self.counts, &mut self.records, &self.tenants);
        self.security.flush(|refusals| records.event(counts, events::security(wall, &refusals, tenants)));
    }

    /// Tells the fleet that nothing more of a session is handed over, and up to which group it was.
    pub(crate) fn part(&mut self, session: SessionRef, facts: &mut Facts) {
        if std::mem::replace(&mut facts.turn, Turn::Parted) != Turn::Parted {
            // What is on its way in a slot is not waited for: docs/records.md.
            let plain = session.tcp || !self.slots.are_shared();
            let mark = if plain && facts.messages > 0 { self.records.mark() } else { 0 };
            self.watched = self.watched.max(mark);
            self.fleet.tell(ToFleet::Parted { session, device: facts.device, mark });
        }
    }

    /// Tells the fleet how far groups are settled, while it waits for one.
    pub(crate) fn tell_settled(&mut self) {
        let up_to = self.records.settled();
        if self.watched > 0 {
            self.fleet.tell_settled(self.shard, up_to);
        }
        if self.watched <= up_to {
            self.watched = 0;
        }
    }

    /// Hands over what a session said before its turn, and gives its facts at that time.
    pub(crate) fn release(&mut self, session: SessionRef) -> Released {
        if !self.waiting.holds(session) {
            return Released::Nothing;
        }
        let slot = match self.waiting.session(session) {
            Some(held) if !held.tcp && self.slots.are_shared() => Some(slot_in(held.id.prefix())),
            _ => None,
        };
        if !slot.map_or_else(|| self.records.has_room(), |slot| self.has_room_in(slot, false)) {
            // A slot that went elsewhere took its sessions along: what they said is said again there.
            if slot.is_some_and(|slot| self.slots.get(slot).is_none_or(|owned| owned.leaving.is_some())) {
                let _dropped = self.waiting.take(session);
                return Released::Nothing;
            }
            return Released::NoRoom;
        }
        let Some(Held { at, session, message, payload }) = self.waiting.take(session) else {
            return Released::Nothing;
        };
        let tenant = self.tenants.name(session.facts.tenant).map_or("", |tenant| tenant.as_str());
        let records = match slot {
            None => Some(&mut self.records),
            Some(slot) => records_of(&mut self.slots, &mut self.records, slot),
        };
        let added = records.map(|records| records.message(at, &session, tenant, message, &payload));
        let added = added.unwrap_or(Err(GroupFull));
        self.counts.one(Count::MessagesReleased);
        self.counts.one(if added.is_ok() { Count::MessagesReceived } else { Count::DroppedBehind });
        Released::Message(Facts { messages: 1, ..session.facts })
    }

    /// Hands over what was taken.
    pub(crate) fn submit(&mut self) {
        self.records.submit(&self.counts);
        for owned in self.slots.owned_mut() {
            owned.records.submit(&self.counts);
        }
    }

    /// Whether nothing that was taken waits for its commit, or nothing will be committed any more.
    pub(crate) fn is_through(&self) -> bool {
        let plain = self.records.is_idle() && self.waiting.len() == 0 || !self.records.has_writer();
        plain && self.slots.owned().iter().all(|owned| owned.records.is_idle())
    }

    /// Gives back the session's place and tells everybody that it is over.
    pub(crate) fn session_ended(&mut self, session: &Session, at: u32, reason: CloseReason) {
        self.give_back_session_place(session.facts.tenant);
        let lasted = self.now - session.facts.opened;
        self.announce(session, Change::Closed { reason, lasted });
        let gone = self.session_ref(session.tcp, at, session.facts.serial);
        self.fleet.tell(ToFleet::Ended { session: gone, device: session.facts.device, moved: false });
    }

    pub(crate) fn announce(&mut self, session: &Session, change: Change) {
        let event = events::lifecycle(self.wall, session, &self.tenants, change);
        self.records.event(&self.counts, event);
    }
}

/// Random secret bytes, as [`random`].
pub(crate) fn random_secret() -> Option<Secret<32>> {
    let mut secret = Secret::zeroed();
    fill(secret.expose_mut())?;
    Some(secret)
}

/// Random bytes; `None` when the system has none, in which case nothing that needs them happens.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Some(bytes)
}

fn fill(bytes: &mut [u8]) -> Option<()> {
    #[cfg(test)]
    if crate::simulation::fill(bytes) {
        return Some(());
    }
    getrandom::fill(bytes).ok()
}

/// An address as bytes for cookies: the same each time.
pub(crate) fn address_bytes(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    let (host, port) = bytes.split_at_mut(16);
    host.copy_from_slice(&ip.octets());
    port.copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// The way to the fleet. What does not fit into the queue waits here; four messages per session, and one on what is settled for
/// each of them, bound it.
pub(crate) struct FleetLink {
    sender: mpsc::Sender<ToFleet>,
    backlog: VecDeque<ToFleet>,
}

impl FleetLink {
    pub(crate) fn tell(&mut self, message: ToFleet) {
        self.backlog.push_back(message);
        self.flush();
    }

    /// As [`Self::tell`]; one such message after the other would only repeat it.
    fn tell_settled(&mut self, writer: u16, up_to: u64) {
        if let Some(ToFleet::Settled { up_to: last, .. }) = self.backlog.back_mut() {
            *last = up_to;
        } else {
            self.tell(ToFleet::Settled { writer, up_to });
        }
    }

    /// Hands over what waits; `true` when nothing is left.
    pub(crate) fn flush(&mut self) -> bool {
        while let Some(message) = self.backlog.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    self.backlog.push_front(message);
                    return false;
                }
                // The fleet is gone only when the process ends.
                Err(mpsc::error::TrySendError::Closed(_)) => self.backlog.clear(),
            }
        }
        true
    }
}

/// Names of tenants by small numbers, so that a session holds four bytes. A deployment has few; numbers are never reused.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    names: Vec<TenantId>,
}

impl Tenants {
    pub(crate) fn number(&mut self, tenant: &TenantId) -> u32 {
        let found = self.names.iter().position(|name| name == tenant);
        found.unwrap_or_else(|| {
            self.names.push(tenant.clone());
            self.names.len() - 1
        }) as u32
    }

    pub(crate) fn name(&self, number: u32) -> Option<&TenantId> {
        self.names.get(number as usize)
    }
}

/// How many of a thing the whole process may have. Taken when one is made, given back when it ends; never on the way of a packet.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) sessions: Arc<AtomicU32>,
    pub(crate) connections: Arc<AtomicU32>,
    /// Those of tenants, at all pods together.
    pub(crate) tenants: TenantPlaces,
}

impl Places {
    pub(crate) fn new(tenants: TenantPlaces) -> Self {
        Self { sessions: Arc::default(), connections: Arc::default(), tenants }
    }
}

/// Which place is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// One of the process.
    Process,
    /// One of the device's tenant.
    Tenant,
}

/// Takes one place; `false` when `limit` are taken.
pub(crate) fn take(places: &AtomicU32, limit: u32) -> bool {
    places
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then(|| taken + 1))
        .is_ok()
}

pub(crate) fn give_back(places: &AtomicU32) {
    places.fetch_sub(1, Ordering::Relaxed);
}
