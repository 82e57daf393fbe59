//! Decides which slots this pod serves: adopts those of the dead, takes those that are handed over, gives away what is another pod's.
//!
//! Every pod decides for itself from what it sees; when two decide the same, Kafka's fence makes the later one the owner and the other
//! one notice. A wrong guess costs a moment, never a record.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_bus::{LedgerReader, Owner};
use sluice_peers::{AdoptionPause, Aside, Control, PeerState, PeersHandle, View, owner_of_slot};
use sluice_store::Store;
use sluice_types::PodId;
use tokio::sync::{mpsc, oneshot, watch};

use super::adoption::{Ledgers, News, NotAdopted, Settle, adopt_slot, outcome};
use super::announcement::{announce, announced, drains, says_it_drains};
use super::holding::{Slot, State, Targets, serving_all};
use super::inbound::FromPeers;
use super::pulse::{PULSE, Pulse};
use super::slot_map::{Place, SlotMap};
use super::start::ShardPort;
use crate::clock::Clock;
use crate::link::{AdoptedSlot, Command, ToCluster, ToShard};

/// How often everything is looked at, beside what happens.
const LOOK: Duration = Duration::from_millis(100);
/// A pod that starts waits this long for others to say what they serve before it takes what looks free.
const GRACE: Duration = Duration::from_secs(1);
/// Adoptions at once.
const AT_ONCE: usize = 8;
/// For so long a slot is not given back to the pod it came from; by then the store has told whether that pod drains.
const GIVEN: Duration = Duration::from_secs(5);
/// A pod that is given a slot and stands aside keeps it for so long: who gave it may have found a moment sooner that all is well again.
const UNFIT: Duration = Duration::from_secs(1);
/// How long a link may take a hand-over.
const LINK: Duration = Duration::from_millis(500);
/// Pause after one that failed.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a slot that leaves waits for what it took; what is not committed then is said again to the next owner.
const LEAVING: Duration = Duration::from_secs(5);
/// How often a pod looks whether there are others to take off the store's list.
const RETIRE: Duration = Duration::from_secs(3);
/// How often a pod says which slots it serves, and how long that is believed: a hand-over can be lost with a link, and then each of two
/// pods takes the other one for the owner.
const ANNOUNCE: Duration = Duration::from_millis(1500);
const BELIEVED: Duration = Duration::from_secs(5);

/// What comes of an adoption.
pub(super) type AdoptionResult = (u16, Result<AdoptedSlot, NotAdopted>);

pub(super) struct Owners {
    pub(super) me: PodId,
    pub(super) bus: Ledgers,
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
    /// Begun so far.
    adoptions: u64,
    pulse: Pulse,
    /// Who waits for the end of the drain.
    drained: Option<oneshot::Sender<()>>,
    retire_next: Instant,
    targets: Targets,
    /// Pods that said themselves that they drain, before the store does; none of them takes that back.
    drains: HashSet<PodId>,
}

fn now() -> Instant {
    // The runtime's, so that a simulation's time is this one's too.
    tokio::time::Instant::now().into_std()
}

pub(super) struct Beginning {
    pub(super) me: PodId,
    pub(super) bus: Ledgers,
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
            slots: vec![Slot::FREE; usize::from(slots)],
            pause: AdoptionPause::new(slots),
            started: now(),
            adopting: 0,
            adoptions: 0,
            pulse: Pulse::default(),
            drained: None,
            retire_next: now(),
            targets: Targets::default(),
            drains: HashSet::new(),
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
        let mut announce = tokio::time::interval(ANNOUNCE);
        announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // What is rare first; what peers can make many of last.
            tokio::select! {
                biased;
                _ = look.tick() => {}
                _ = announce.tick() => self.announce(),
                _ = pulse.tick() => self.pulse.ask(&self.bus, &self.readers, &self.peers),
                Ok(()) = view.changed() => {}
                Some(done) = drain.recv() => {
                    self.drained = Some(done);
                    self.begin_drain().await;
                }
                Some((slot, result)) = adopted.recv() => self.adopted(slot, result).await,
                message = from_shards.recv() => match message {
                    Some(message) => self.left(message).await,
                    None => return,
                },
                Some(message) = from_peers.recv() => self.heard(message, &fleet).await,
            }
            let seen = Arc::clone(&view.borrow_and_update());
            self.forget_silent();
            self.reconcile(&seen, &done).await;
            self.retire(&seen);
        }
    }

    async fn heard(&mut self, message: FromPeers, fleet: &mpsc::Sender<Command>) {
        match message {
            FromPeers::Changed => {}
            FromPeers::LinkUp(pod) => {
                if let Some(sender) = self.peers.sender(pod) {
                    // A link that ends comes up again, and with it this.
                    let _ = sender.try_control(announce(self.ours()));
                }
            }
            FromPeers::Control { from, control } => match control {
                Control::SlotMoved { slot, owner, generation } => self.moved(slot, owner, generation).await,
                Control::HandOver { slot } if *self.draining.borrow() => self.decline(slot, from).await,
                Control::HandOver { slot } => {
                    if let Some(found) = self.slots.get_mut(usize::from(slot)) {
                        tracing::debug!(slot, %from, "a slot is handed over");
                        found.given = true;
                        found.giver = Some((from, now()));
                        found.owner = None;
                        found.not_before = None;
                    }
                }
                Control::CloseSession { device, session, epoch, .. } => {
                    // The fleet waits for shards alone, and they for nobody.
                    let _gone_at_the_end =
                        fleet.send(Command::Displaced { device, session, by: epoch }).await;
                }
                Control::Other { kind, bytes } if says_it_drains(kind, &bytes) => {
                    self.drains.insert(from);
                }
                Control::Other { kind, bytes } => {
                    for (slot, generation) in announced(kind, &bytes) {
                        self.moved(slot, from, generation).await;
                    }
                }
                _ => {}
            },
        }
    }

    async fn moved(&mut self, slot: u16, owner: PodId, generation: u32) {
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        if found.owner == Some((owner, generation)) {
            found.heard = Some(now());
        } else if owner != self.me && found.owner.is_none_or(|(_, known)| known <= generation) {
            found.owner = Some((owner, generation));
            found.heard = Some(now());
            found.given = false;
            self.pause.moved(now(), slot);
            // An idle slot does not notice that it was fenced, and would open sessions that are lost.
            if matches!(found.state, State::Ours { .. }) {
                if self.peers.view().borrow().aside.is_some() {
                    // Which was told with the reason.
                    tracing::info!(slot, %owner, generation, "this slot has another owner, since this pod stands aside");
                } else {
                    tracing::warn!(slot, %owner, generation, "this slot has another owner, which took this pod for dead");
                }
                found.state = State::Leaving;
                let until = self.clock.now();
                if let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) {
                    port.link.send(ToShard::SlotLeaves { slot, until }).await;
                }
            }
            self.publish();
        }
    }

    /// Says again which slots are served here.
    fn announce(&self) {
        let senders = Arc::clone(&self.peers.senders().borrow());
        for sender in senders.values() {
            // Said again soon.
            let _ = sender.try_control(announce(self.ours()));
        }
    }

    /// Forgets owners that have not said so for some time.
    fn forget_silent(&mut self) {
        let (me, now) = (self.me, now());
        let mut forgot = false;
        for found in &mut self.slots {
            let is_silent = found.heard.is_none_or(|heard| heard + BELIEVED <= now);
            if found.owner.is_some_and(|(pod, _)| pod != me) && is_silent {
                found.owner = None;
                forgot = true;
            }
        }
        if forgot {
            self.publish();
        }
    }

    fn ours(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        (0..).zip(&self.slots).filter_map(|(slot, found)| match found.state {
            State::Ours { generation } => Some((slot, generation)),
            _ => None,
        })
    }

    /// Tells the others, so that none of them gives a slot to this pod meanwhile, and passes on those that were given and not begun.
    async fn begin_drain(&mut self) {
        self.draining.send_replace(true);
        let senders = Arc::clone(&self.peers.senders().borrow());
        for sender in senders.values() {
            // One that does not hear it hears it when it gives a slot.
            let _ = sender.try_control(drains());
        }
        let slots = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        for slot in 0..slots {
            let Some(found) = self.slots.get(usize::from(slot)) else { continue };
            if found.given && found.state == State::Elsewhere {
                self.hand_over(slot).await;
            }
        }
    }

    /// A slot that was given to this pod, which drains, goes to the next one at once.
    async fn decline(&mut self, slot: u16, from: PodId) {
        tracing::info!(slot, %from, "a slot was given to this pod, which drains: it goes on to another one");
        if let Some(sender) = self.peers.sender(from) {
            let _ = sender.try_control(drains());
        }
        if self.slots.get(usize::from(slot)).is_some_and(|found| found.state == State::Elsewhere) {
            self.hand_over(slot).await;
        }
    }

    /// Which pods may be given slots, as far as is known; this one among them or not.
    fn candidates(&self, view: &View, with_me: bool) -> Vec<PodId> {
        view.candidates_but(with_me, |pod| self.drains.contains(&pod))
    }

    /// Gives a slot that is nobody's to the pod whose share it is, if there is another one.
    async fn hand_over(&mut self, slot: u16) {
        let view = Arc::clone(&self.peers.view().borrow());
        let successor = owner_of_slot(slot, &self.candidates(&view, false));
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        found.given = false;
        found.owner = None;
        if let Some(successor) = successor {
            found.owner = Some((successor, 0));
            found.heard = Some(now());
            if let Some(sender) = self.peers.sender(successor) {
                // One that is lost is made up for when nobody claims the slot for some time: see `BELIEVED`.
                let handed = tokio::time::timeout(LINK, sender.control(Control::HandOver { slot })).await;
                if !matches!(handed, Ok(Ok(()))) {
                    tracing::warn!(slot, %successor, "a slot could not be handed over; it is free in some seconds");
                }
            }
        }
        self.publish();
    }

    /// A shard gave a slot up.
    async fn left(&mut self, message: ToCluster) {
        let (slot, lost) = match message {
            ToCluster::Lost { slot } => (slot, true),
            ToCluster::Left { slot } => (slot, false),
        };
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        found.state = State::Elsewhere;
        if found.owner.is_some_and(|(pod, _)| pod == self.me) {
            found.owner = None;
        }
        if found.owner.is_some() {
            // Another pod has adopted it: nobody needs it from us.
        } else if lost {
            // Its writer has warned of it.
            tracing::debug!(slot, "a slot is lost, adopting it anew if it is ours");
            found.not_before = Some(now() + AGAIN);
        } else {
            return self.hand_over(slot).await;
        }
        self.publish();
    }

    async fn adopted(&mut self, slot: u16, result: Result<AdoptedSlot, NotAdopted>) {
        self.adopting -= 1;
        let Some(found) = self.slots.get_mut(usize::from(slot)) else { return };
        match result {
            Ok(adopted) => {
                let generation = adopted.generation;
                found.state = State::Ours { generation };
                found.owner = Some((self.me, generation));
                found.given = false;
                self.peers.kafka_answered();
                if let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) {
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
                if error.is_a_race() {
                    tracing::debug!(%error, slot, "another pod has adopted the slot at the same time");
                } else {
                    tracing::warn!(%error, slot, "the slot was not adopted, trying again");
                }
                found.state = State::Elsewhere;
                found.not_before = Some(now() + AGAIN);
                // Whoever was faster serves it, and was perhaps heard meanwhile.
                self.publish();
            }
        }
    }

    /// Brings what is served and what should be together.
    async fn reconcile(&mut self, view: &View, done: &mpsc::Sender<AdoptionResult>) {
        let draining = *self.draining.borrow();
        self.drains.retain(|pod| view.peer(*pod).is_some());
        let candidates = self.candidates(view, !draining);
        let fit = candidates.contains(&self.me);
        // Those that have links find that out from the same records, and adopt without being asked.
        let unheard = view.aside == Some(Aside::NoLinks) && !fit;
        let now = now();
        let settled_in = now >= self.started + GRACE;
        let slots = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        self.targets.follow(slots, &candidates);
        for slot in 0..slots {
            let Some(found) = self.slots.get(usize::from(slot)).copied() else { continue };
            let target = self.targets.of(slot);
            match found.state {
                State::Elsewhere => {
                    let holder = found.owner.map(|(pod, _)| pod).filter(|pod| *pod != self.me);
                    let held =
                        holder.and_then(|pod| view.peer(pod)).is_some_and(|peer| holds_on(peer, &candidates));
                    let wanted = found.given && fit || target == Some(self.me) && settled_in && !held;
                    let due = found.not_before.is_none_or(|at| at <= now);
                    let since = found.giver.map_or(self.started, |(_, at)| at);
                    if found.given && !fit && !draining && now >= since + UNFIT {
                        tracing::info!(
                            slot,
                            "a slot was given to this pod, which cannot serve it: it goes on to another one"
                        );
                        self.hand_over(slot).await;
                    }
                    let may = !draining && wanted && due && self.adopting < AT_ONCE;
                    // A slot that was given is not limited.
                    if may && (found.given || self.pause.claim(now, slot).is_ok()) {
                        self.begin(slot, done.clone());
                    }
                }
                // Cut off from Kafka nothing can be finished: the slot stays until another pod says that it has adopted it.
                State::Ours { .. } if view.aside == Some(Aside::NoKafka) && !draining => {}
                // Only to a pod that hears of it, if any does, and not back to one that has just given it away.
                State::Ours { .. }
                    if target.is_some_and(|pod| {
                        pod != self.me
                            && (unheard || view.peer(pod).is_some_and(|peer| peer.linked))
                            && found.giver.is_none_or(|(giver, at)| giver != pod || now >= at + GIVEN)
                    }) =>
                {
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

    /// Takes pods off the store's list that say nothing any more and have no slot, so that nobody waits for a word of theirs. One that
    /// comes back puts itself on it again.
    fn retire(&mut self, view: &View) {
        let now = now();
        if now < self.retire_next {
            return;
        }
        let Some(serving) = serving_all(&self.slots) else { return };
        self.retire_next = now + RETIRE;
        let lives = |pod: &PodId| view.peer(*pod).is_some_and(|peer| peer.dead.is_none());
        let known: HashSet<PodId> =
            view.peers.iter().map(|peer| peer.pod).filter(lives).chain(serving).collect();
        let store = self.store.clone();
        tokio::spawn(async move {
            // The next time is soon.
            let Ok(silent) = store.silent_pods().await else { return };
            for pod in silent.into_iter().filter(|pod| !known.contains(pod)) {
                match store.retire_pod(pod).await {
                    Ok(()) => tracing::info!(%pod, "a silent pod is off the list: others serve its slots"),
                    Err(error) => tracing::debug!(%error, %pod, "a silent pod stays on the list for now"),
                }
            }
        });
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
        self.publish();
        self.adoptions += 1;
        let adoption = self.adoptions;
        let Some(port) = self.shards.get(usize::from(self.shard_of(slot))) else { return };
        let (news, waker) = (port.news.clone(), port.waker.clone());
        let (peers, store) = (self.peers.clone(), self.store.clone());
        let settle = Settle { news: News { slot, adoption, news, waker }, peers, store };
        let owner = Owner { pod: *self.me.as_bytes(), address: self.peers.address().to_owned() };
        let (bus, readers) = (self.bus.clone(), Arc::clone(&self.readers));
        let adopting = adopt_slot(bus, readers, self.store.clone(), owner, settle);
        tokio::spawn(async move {
            // The task is gone only when the process ends.
            let _ = done.send((slot, outcome(adopting).await)).await;
        });
    }

    fn publish(&self) {
        let places = (0..).zip(&self.slots).map(|(slot, found)| match (found.state, found.owner) {
            (State::Ours { .. } | State::Leaving, _) => Place::Shard(self.shard_of(slot)),
            // What comes meanwhile waits: whoever had it is dead, or given up for dead.
            (State::Adopting, _) => Place::Nowhere,
            (_, Some((pod, _))) if pod != self.me => Place::Pod(pod),
            _ => Place::Nowhere,
        });
        let map = SlotMap::new(places.collect()).while_adopting(self.adopting);
        self.map.send_replace(Arc::new(map));
    }
}

/// Whether nobody need adopt what that pod serves. One that stands aside cannot serve it, unless there is nobody better.
fn holds_on(peer: &PeerState, candidates: &[PodId]) -> bool {
    let in_vain = peer.aside.is_some() && !candidates.contains(&peer.pod);
    peer.dead.is_none() && (!peer.draining || peer.linked) && !in_vain
}
