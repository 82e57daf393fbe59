//! Who lives, from evidence alone: no I/O, no clock.
//!
//! Two kinds of evidence make a pod dead. *Refusal*: no link to it stands and its address refuses a connection (or another pod
//! answers there); the kernel says so at once, and it always counts. *Silence*: its heartbeat counter, by link or by member
//! record, has not changed for [`SILENCE`] of the observer's own time. Silence may just as well be the observer's own trouble, so it
//! counts only with support: with three or more pods, fewer than half may look dead; with two, Kafka must have answered this pod
//! within the last second. A wrong guess costs latency, never a record: who may write is decided by the fence in Kafka.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sluice_types::PodId;

/// A counter unchanged for this long is silence.
pub const SILENCE: Duration = Duration::from_secs(1);
/// With two pods, Kafka must have answered this recently.
pub const KAFKA_ANSWER: Duration = Duration::from_secs(1);
/// How often [`Liveness::handle_timeout`] wants to be called.
pub const TICK: Duration = Duration::from_millis(100);
/// A peer this long without a beat looks dead when the others are counted, and is not relied on. Half of [`SILENCE`]: when this pod is cut off, the
/// others' last beats lie up to a beat apart, and the first to cross the second must not be alone in looking dead.
const OVERDUE: Duration = Duration::from_millis(500);
/// A turn that comes this late means that this pod slept, not its peers.
const ASLEEP: Duration = Duration::from_millis(500);

/// A pod as the member records show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which pod.
    pub pod: PodId,
    /// `host:port` where its peers reach it.
    pub address: String,
    /// Its heartbeat counter when it wrote the record.
    pub counter: u64,
    /// It hands its slots over: no new ones.
    pub draining: bool,
}

/// Why a pod is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// No link to it stands and its address refused a connection.
    Refused,
    /// Its counter stood still.
    Silent,
    /// Its member record is gone and no link to it stands.
    Left,
}

/// What changed; read with [`Liveness::poll_event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A pod is there, for the first time or again.
    Alive(PodId),
    /// A pod is dead: others adopt its slots.
    Dead(PodId, Evidence),
    /// A living pod began or ended its draining.
    Draining(PodId, bool),
}

/// Which end dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

/// How one peer looks right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerState {
    /// Which pod.
    pub pod: PodId,
    /// `None`: it lives.
    pub dead: Option<Evidence>,
    /// It has a member record.
    pub listed: bool,
    /// It hands its slots over.
    pub draining: bool,
    /// A link that this pod dialled stands.
    pub linked: bool,
    /// Milliseconds since Kafka last answered that pod, as it said in its last heartbeat.
    pub kafka_ok_within_ms: Option<u32>,
}

#[derive(Debug)]
struct Peer {
    listed: bool,
    draining: bool,
    dead: Option<Evidence>,
    links_out: u32,
    links_in: u32,
    refused: bool,
    by_link: Option<u64>,
    by_record: Option<u64>,
    changed: Instant,
    kafka_ok_within_ms: Option<u32>,
}

impl PeerState {
    /// It may be given slots: alive, not draining, and within reach.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        self.dead.is_none() && !self.draining && (self.listed || self.linked)
    }
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            listed: false,
            draining: false,
            dead: None,
            links_out: 0,
            links_in: 0,
            refused: false,
            by_link: None,
            by_record: None,
            changed: now,
            kafka_ok_within_ms: None,
        }
    }

    fn links(&self) -> u32 {
        self.links_out.saturating_add(self.links_in)
    }
}

/// The machine. After any input, read events until `None`; call [`Liveness::handle_timeout`] at [`Liveness::poll_timeout`], early
/// or extra calls are harmless.
#[derive(Debug)]
pub struct Liveness {
    me: PodId,
    peers: BTreeMap<PodId, Peer>,
    kafka_answered: Option<Instant>,
    last_turn: Instant,
    events: VecDeque<Event>,
}

impl Liveness {
    /// Knows nobody but itself.
    #[must_use]
    pub fn new(now: Instant, me: PodId) -> Self {
        Self { me, peers: BTreeMap::new(), kafka_answered: None, last_turn: now, events: VecDeque::new() }
    }

    /// The member records as they stand. Whoever is not among them and has no standing link is forgotten; while records cannot be
    /// read, do not call this with fewer.
    pub fn members(&mut self, now: Instant, members: &[Member]) {
        self.woke(now);
        self.peers.values_mut().for_each(|peer| peer.listed = false);
        let me = self.me;
        for member in members.iter().filter(|member| member.pod != me) {
            let mut new = false;
            let peer = self.peers.entry(member.pod).or_insert_with(|| {
                new = true;
                Peer { draining: member.draining, by_record: Some(member.counter), ..Peer::new(now) }
            });
            peer.listed = true;
            if new {
                self.events.push_back(Event::Alive(member.pod));
            }
            if peer.draining != member.draining {
                peer.draining = member.draining;
                self.events.push_back(Event::Draining(member.pod, member.draining));
            }
            if peer.by_record != Some(member.counter) {
                peer.by_record = Some(member.counter);
                peer.changed = now;
                // After a refusal a record proves nothing: it may have been written just before the end.
                if peer.dead == Some(Evidence::Silent) {
                    self.revive(member.pod);
                }
            }
        }
        self.forget();
        self.judge(now);
    }

    /// A heartbeat came over a link.
    pub fn heard(&mut self, now: Instant, pod: PodId, counter: u64, kafka_ok_within_ms: Option<u32>) {
        let Some(peer) = self.peers.get_mut(&pod) else { return };
        peer.kafka_ok_within_ms = kafka_ok_within_ms;
        if peer.by_link != Some(counter) {
            peer.by_link = Some(counter);
            peer.changed = now;
            self.revive(pod);
        }
    }

    /// A link stands, authenticated in both directions. A pod that is not listed yet may dial first; how many may is bounded by
    /// whoever accepts links.
    pub(crate) fn link_up(&mut self, now: Instant, pod: PodId, direction: Direction) {
        let events = &mut self.events;
        let peer = self.peers.entry(pod).or_insert_with(|| {
            events.push_back(Event::Alive(pod));
            Peer::new(now)
        });
        let links = match direction {
            Direction::Out => &mut peer.links_out,
            Direction::In => &mut peer.links_in,
        };
        *links = links.saturating_add(1);
        peer.refused = false;
        peer.changed = now;
        self.revive(pod);
    }

    /// A link ended, in whatever way.
    pub(crate) fn link_down(&mut self, now: Instant, pod: PodId, direction: Direction) {
        let Some(peer) = self.peers.get_mut(&pod) else { return };
        let links = match direction {
            Direction::Out => &mut peer.links_out,
            Direction::In => &mut peer.links_in,
        };
        *links = links.saturating_sub(1);
        self.forget();
        self.judge(now);
    }

    /// The pod's address refused a connection, or another pod of the cluster answers there.
    pub fn refused(&mut self, now: Instant, pod: PodId) {
        if let Some(peer) = self.peers.get_mut(&pod) {
            peer.refused = true;
        }
        self.judge(now);
    }

    /// Kafka answered this pod.
    pub fn kafka_answered(&mut self, at: Instant) {
        self.kafka_answered = self.kafka_answered.max(Some(at));
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.judge(now);
    }

    /// When to call [`Liveness::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.last_turn + TICK
    }

    /// The next thing that changed.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// All peers that are known, by pod id.
    pub fn peers(&self) -> impl Iterator<Item = PeerState> {
        self.peers.iter().map(|(pod, peer)| PeerState {
            pod: *pod,
            dead: peer.dead,
            listed: peer.listed,
            draining: peer.draining,
            linked: peer.links_out > 0,
            kafka_ok_within_ms: peer.kafka_ok_within_ms,
        })
    }

    /// Whose beats have been missing for a while, by pod id, whether or not that makes them dead.
    pub(crate) fn overdue(&self, now: Instant) -> impl Iterator<Item = (PodId, bool)> {
        self.peers
            .iter()
            .map(move |(pod, peer)| (*pod, now.saturating_duration_since(peer.changed) >= OVERDUE))
    }

    /// This pod slept (a stopped process, a starved host): its peers' silence is its own, all of them start anew.
    fn woke(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_turn) >= TICK + ASLEEP {
            self.peers.values_mut().for_each(|peer| peer.changed = now);
        }
        self.last_turn = self.last_turn.max(now);
    }

    fn revive(&mut self, pod: PodId) {
        if let Some(peer) = self.peers.get_mut(&pod)
            && peer.dead.take().is_some()
        {
            peer.refused = false;
            self.events.push_back(Event::Alive(pod));
        }
    }

    fn forget(&mut self) {
        let events = &mut self.events;
        self.peers.retain(|pod, peer| {
            let keep = peer.listed || peer.links() > 0;
            if !keep && peer.dead.is_none() {
                events.push_back(Event::Dead(*pod, Evidence::Left));
            }
            keep
        });
    }

    fn judge(&mut self, now: Instant) {
        self.woke(now);
        for (pod, peer) in &mut self.peers {
            if peer.refused && peer.links() == 0 && peer.dead != Some(Evidence::Refused) {
                if peer.dead.is_none() {
                    self.events.push_back(Event::Dead(*pod, Evidence::Refused));
                }
                peer.dead = Some(Evidence::Refused);
            }
        }
        // Who is proven dead says nothing about this pod's own view; the rest are the voters, this pod among them.
        let quiet = |peer: &Peer| now.saturating_duration_since(peer.changed);
        let voters = self.peers.values().filter(|peer| peer.dead != Some(Evidence::Refused));
        let (count, dark) = voters.fold((1_usize, 0_usize), |(count, dark), peer| {
            let looks_dead = quiet(peer) >= OVERDUE;
            (count.saturating_add(1), dark.saturating_add(usize::from(looks_dead)))
        });
        let supported = if count >= 3 {
            dark.saturating_mul(2) < count
        } else {
            self.kafka_answered.is_some_and(|at| now.saturating_duration_since(at) < KAFKA_ANSWER)
        };
        if !supported {
            return;
        }
        for (pod, peer) in &mut self.peers {
            if peer.dead.is_none() && quiet(peer) >= SILENCE {
                peer.dead = Some(Evidence::Silent);
                self.events.push_back(Event::Dead(*pod, Evidence::Silent));
            }
        }
    }
}

#[cfg(test)]
mod tests;
