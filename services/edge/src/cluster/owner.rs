//! Decides which slots this pod serves: adopts those of the dead, takes those that are handed over, gives away what is another pod's.
//!
//! Every pod decides for itself from what it sees; when two decide the same, Kafka's fence makes the later one the owner and the other
//! one notice. A wrong guess costs a moment, never a record.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use sluice_bus::{
    AdoptError, Adopted, BusConfig, Group, LedgerReader, Outcome, Owner, SlotLost, SlotSettle, adopt,
};
use sluice_peers::{AdoptionPause, Control, PeersHandle, View, owner_of_slot};
use sluice_store::Store;
use sluice_types::PodId;
use tokio::sync::{mpsc, oneshot, watch};

use super::inbound::FromPeers;
use super::slot_map::{Place, SlotMap};
use super::start::ShardPort;
use crate::clock::Clock;
use crate::link::{AdoptedSlot, Command, SlotNews, ToCluster, ToShard};

/// How often everything is looked at, beside what happens.
const LOOK: Duration = Duration::from_millis(100);
/// A pod that starts waits this long for others to say what they serve before it takes what looks free.
const GRACE: Duration = Duration::from_secs(1);
/// Adoptions at once.
const AT_ONCE: usize = 8;
/// How long one may take.
const ADOPTION: Duration = Duration::from_secs(20);
/// Pause after one that failed.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a slot that leaves waits for what it took; what is not committed then is said again to the next owner.
const LEAVING: Duration = Duration::from_secs(5);
/// Questions to Kafka whether it answers.
const PULSE: Duration = Duration::from_millis(400);

/// What this pod does with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Elsewhere,
    Adopting,
    Ours { generation: u32 },
    Leaving,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    /// Who was last heard to serve it, and since which generation.
    owner: Option<(PodId, u32)>,
    /// It was handed over to this pod.
    given: bool,
    not_before: Option<Instant>,
}

/// What comes of an adoption.
pub(super) type AdoptionResult = (u16, Result<Adopted, AdoptError>);

pub(super) struct Owners {
    pub(super) me: PodId,
    pub(super) bus: BusConfig,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) peers: PeersHandle,
    pub(super) shards: Vec<ShardPort>,
    pub(super) map: watch::Sender<Arc<SlotMap>>,
    pub(super) draining: watch::Sender<bool>,
    readers: Arc<Mutex<Vec<LedgerReader>>>,
    slots: Vec<Slot>,
    pause: AdoptionPause,
    started: Instant,
    adopting: usize,
    /// Who waits for the end of the drain.
    drained: Option<oneshot::Sender<()>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this decides by the real clock; what it decides on is tested in sluice-peers"
)]
fn now() -> Instant {
    Instant::now()
}

pub(super) struct Beginning {
    pub(super) me: PodId,
    pub(super) bus: BusConfig,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) peers: PeersHandle,
    pub(super) shards: Vec<ShardPort>,
    pub(super) map: watch::Sender<Arc<SlotMap>>,
    pub(super) draining: watch::Sender<bool>,
    pub(super) slots: u16,
}

impl Owners {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning { me, bus, store, clock, peers, shards, map, draining, slots } = beginning;
        let free = Slot { state: State::Elsewhere, owner: None, given: false, not_before: None };
        Self {
            me,
            bus,
            store,
            clock,
            peers,
            shards,
            map,
            draining,
            readers: Arc::default(),
            slots: vec![free; usize::from(slots)],
            pause: AdoptionPause::new(slots),
            started: now(),
            adopting: 0,
            drained: None,
        }
    }

    /// Runs until nobody can tell it anything more.
    pub(super) async fn run(
        mut self,
        mut from_peers: mpsc::Receiver<FromPeers>,
        mut from_shards: mpsc::Receiver<ToCluster>,
        mut drain: mpsc::Receiver<oneshot::Sender<()>>,
        fleet: mpsc::Sender<Command>,
    ) {
        let (done, mut adopted) = mpsc::channel::<AdoptionResult>(AT_ONCE);
        let mut view = self.peers.view();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(message) = from_peers.recv() => self.heard(message, &fleet).await,
                message = from_shards.recv() => match message {
                    Some(message) => self.left(message).await,
                    None => return,
                },
                Some((slot, result)) = adopted.recv() => self.adopted(slot, result).await,
                Some(done) = drain.recv() => {
                    self.draining.send_replace(true);
                    self.drained = Some(done);
                }
                _ = view.changed() => {}
                _ = look.tick() => {}
                _ = pulse.tick() => self.ask_kafka(),
            }
            let seen = Arc::clone(&view.borrow_and_update());
            self.reconcile(&seen, &done).await;
        }
    }

    async fn heard(&mut self, message: FromPeers, fleet: &mpsc::Sender<Command>) {
        match message {
            FromPeers::Changed => {}
            FromPeers::LinkUp(pod) => {
                let ours: Vec<_> = self.ours().collect();
                if let Some(sender) = self.peers.sender(pod) {
                    for (slot, generation) in ours {
                        let moved = Control::SlotMoved { slot, owner: self.me, generation };
                        // A link that ends comes up again, and with it this.
                        let _ = sender.control(moved).await;
                    }
                }
            }
            FromPeers::Control { from, control } => match control {
                Control::SlotMoved { slot, owner, generation } => self.moved(slot, owner, generation),
                Control::HandOver { slot } => {
                    if let Some(found) = self.slots.get_mut(usize::from(slot)) {
                        tracing::debug!(slot, %from, "a slot is handed over");
                        found.given = true;
                        found.owner = None;
                        found.not_before = None;
                    }
                }
                Control::CloseSession { device, session, epoch, .. } => {
                    // The fleet waits for shards alone, and they for nobody.
                    let _gone_at_the_end =
                        fleet.send(Command::Displaced { device, session, by: epoch }).await;
                }
                _ => {}
            },
        }
    }

    fn moved(&mut self, slot: u16, owner: PodId, generation: u32) {
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        if owner != self.me && found.owner.is_none_or(|(_, known)| known <= generation) {
            found.owner = Some((owner, generation));
            self.pause.moved(now(), slot);
            self.publish();
        }
    }

    fn ours(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        (0..).zip(&self.slots).filter_map(|(slot, found)| match found.state {
            State::Ours { generation } => Some((slot, generation)),
            _ => None,
        })
    }

    /// A shard gave a slot up.
    async fn left(&mut self, message: ToCluster) {
        let (slot, lost) = match message {
            ToCluster::Lost { slot } => (slot, true),
            ToCluster::Left { slot } => (slot, false),
        };
        let successor = {
            let view = self.peers.view();
            let candidates = view.borrow().candidates(false);
            owner_of_slot(slot, &candidates)
        };
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        found.state = State::Elsewhere;
        if found.owner.is_some_and(|(pod, _)| pod == self.me) {
            found.owner = None;
        }
        if lost {
            tracing::warn!(
                slot,
                "this slot has another owner, or its last transaction is in doubt; adopting anew if it is ours"
            );
            found.not_before = Some(now() + AGAIN);
        } else if let Some(successor) = successor {
            found.owner = Some((successor, 0));
            if let Some(sender) = self.peers.sender(successor) {
                // Should the link end, the successor sees the slot without an owner, since nobody claims it.
                let _ = sender.control(Control::HandOver { slot }).await;
            }
        }
        self.publish();
    }

    async fn adopted(&mut self, slot: u16, result: Result<Adopted, AdoptError>) {
        self.adopting -= 1;
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        match result {
            Ok(adopted) => {
                let generation = adopted.generation;
                tracing::info!(
                    slot,
                    generation,
                    sessions = adopted.sessions.len(),
                    read = adopted.read,
                    "slot adopted"
                );
                found.state = State::Ours { generation };
                found.owner = Some((self.me, generation));
                found.given = false;
                self.peers.kafka_answered();
                if let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) {
                    let Adopted { writer, sessions, .. } = adopted;
                    let adopted = AdoptedSlot { slot, generation, writer, sessions };
                    port.link.send(ToShard::SlotAdopted(Box::new(adopted))).await;
                }
                self.publish();
                let senders = Arc::clone(&self.peers.senders().borrow());
                for sender in senders.values() {
                    let _ = sender.try_control(Control::SlotMoved { slot, owner: self.me, generation });
                }
                let (store, me) = (self.store.clone(), self.me);
                tokio::spawn(async move {
                    // A hint for people; nobody decides by it.
                    if let Err(error) = store.put_slot_owner(slot, me, generation).await {
                        tracing::debug!(%error, slot, "the store was not told of the slot's owner");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, slot, "the slot was not adopted, trying again");
                found.state = State::Elsewhere;
                found.not_before = Some(now() + AGAIN);
            }
        }
    }

    /// Brings what is served and what should be together.
    async fn reconcile(&mut self, view: &View, done: &mpsc::Sender<AdoptionResult>) {
        let draining = *self.draining.borrow();
        let candidates = view.candidates(!draining);
        let now = now();
        let settled_in = now >= self.started + GRACE;
        let slots = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        for slot in 0..slots {
            let Some(found) = self.slots.get(usize::from(slot)).copied() else { continue };
            let target = owner_of_slot(slot, &candidates);
            match found.state {
                State::Elsewhere => {
                    let holder = found.owner.map(|(pod, _)| pod).filter(|pod| *pod != self.me);
                    let held = holder
                        .and_then(|pod| view.peer(pod))
                        .is_some_and(|peer| peer.dead.is_none() && (!peer.draining || peer.linked));
                    let wanted = found.given || target == Some(self.me) && settled_in && !held;
                    let due = found.not_before.is_none_or(|at| at <= now);
                    let may = !draining && wanted && due && self.adopting < AT_ONCE;
                    // A slot that was given is not limited.
                    if may && (found.given || self.pause.claim(now, slot).is_ok()) {
                        self.begin(slot, done.clone());
                    }
                }
                State::Ours { .. } if target.is_some_and(|pod| pod != self.me) => {
                    self.set(slot, State::Leaving);
                    let until = self.clock.now() + LEAVING;
                    if let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) {
                        port.link.send(ToShard::SlotLeaves { slot, until }).await;
                    }
                }
                State::Ours { .. } | State::Adopting | State::Leaving => {}
            }
        }
        let busy = |slot: &Slot| matches!(slot.state, State::Ours { .. } | State::Leaving | State::Adopting);
        // Without another pod the slots stay until the end, and are found again by the next one.
        let alone = candidates.is_empty();
        if draining
            && (alone || !self.slots.iter().any(busy))
            && let Some(drained) = self.drained.take()
        {
            let _nobody_waits = drained.send(());
        }
    }

    fn set(&mut self, slot: u16, state: State) {
        if let Some(found) = self.slots.get_mut(usize::from(slot)) {
            found.state = state;
        }
    }

    fn shard_of(&self, slot: u16) -> u16 {
        slot.checked_rem(u16::try_from(self.shards.len()).unwrap_or(1)).unwrap_or(0)
    }

    fn begin(&mut self, slot: u16, done: mpsc::Sender<AdoptionResult>) {
        self.set(slot, State::Adopting);
        self.adopting += 1;
        let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) else { return };
        let settle = Settle {
            slot,
            news: port.news.clone(),
            waker: Arc::clone(&port.waker),
            peers: self.peers.clone(),
        };
        let owner = Owner { pod: *self.me.as_bytes(), address: self.peers.address().to_owned() };
        let (bus, readers) = (self.bus.clone(), Arc::clone(&self.readers));
        tokio::task::spawn_blocking(move || {
            let result = take_reader(&readers, &bus).and_then(|mut reader| {
                let result = adopt(&bus, slot, &owner, None, &mut reader, settle, ADOPTION);
                // One that failed may be in a state that the next adoption should not start from.
                if result.is_ok() {
                    readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
                }
                result
            });
            // The task is gone only when the process ends.
            let _ = done.blocking_send((slot, result));
        });
    }

    fn publish(&self) {
        let places = (0..).zip(&self.slots).map(|(slot, found)| match (found.state, found.owner) {
            (State::Ours { .. } | State::Leaving, _) => Place::Shard(self.shard_of(slot)),
            (_, Some((pod, _))) if pod != self.me => Place::Pod(pod),
            _ => Place::Nowhere,
        });
        self.map.send_replace(Arc::new(SlotMap::new(places.collect())));
    }

    /// Keeps the knowledge fresh whether Kafka answers this pod: two pods that do not hear each other judge by it.
    fn ask_kafka(&self) {
        let (readers, bus, peers) = (Arc::clone(&self.readers), self.bus.clone(), self.peers.clone());
        tokio::task::spawn_blocking(move || {
            let Ok(reader) = take_reader(&readers, &bus) else { return };
            if reader.kafka_answers(PULSE) {
                peers.kafka_answered();
            }
            readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        });
    }
}

fn take_reader(readers: &Mutex<Vec<LedgerReader>>, bus: &BusConfig) -> Result<LedgerReader, AdoptError> {
    let warm = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
    warm.map_or_else(|| LedgerReader::open(bus).map_err(AdoptError::from), Ok)
}

/// Brings a slot's groups back to its shard.
struct Settle {
    slot: u16,
    news: SyncSender<SlotNews>,
    waker: Arc<Waker>,
    peers: PeersHandle,
}

impl Settle {
    fn tell(&self, news: SlotNews) {
        // The queue has a place for each group that there is; a shard that is gone waits for nothing.
        if self.news.try_send(news).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

impl SlotSettle for Settle {
    fn settle(&mut self, group: Group) {
        if group.outcomes().any(|(_, outcome)| outcome == Outcome::Committed) {
            self.peers.kafka_answered();
        }
        self.tell(SlotNews::Settled { slot: self.slot, group });
    }

    fn lost(&mut self, why: SlotLost) {
        tracing::warn!(slot = self.slot, error = %why, "a slot's writer is at its end");
        self.tell(SlotNews::Lost { slot: self.slot });
    }
}
