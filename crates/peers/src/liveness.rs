//! Who lives, from evidence alone: no I/O, no clock.
//!
//! Two kinds of evidence make a pod dead. *Refusal*: no link to it stands and its address refuses a connection (or another pod
//! answers there); the kernel says so at once, and it always counts. *Silence*: its heartbeat counter, by link or by member
//! record, has not changed for [`SILENCE`] of the observer's own time, or [`SILENCE_OF_RECORDS`]. Silence may just as well be the observer's own trouble, so it
//! counts only with support: with three or more pods, fewer than half may look dead; with two, Kafka must have answered this pod
//! within the last second. A wrong guess costs latency, never a record: who may write is decided by the fence in Kafka.
//!
//! A pod may also live and be of no use: see [`Aside`]. Every pod judges that of itself and of the others from the same words.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use sluice_types::PodId;

mod links;
mod reach;
mod standing;

use self::links::Node;
pub use self::links::{LINKS_LOST, LINKS_STEADY, MAX_NAMED};
pub use self::reach::{KAFKA_LOST, KAFKA_STEADY};
use self::standing::Standing;

/// A counter unchanged for this long is silence.
pub const SILENCE: Duration = Duration::from_secs(1);
/// The same of a pod that has not been heard over a link for some time: records are written, and read, every 500 ms.
pub const SILENCE_OF_RECORDS: Duration = Duration::from_secs(2);
/// With two pods, Kafka must have answered this recently.
pub const KAFKA_ANSWER: Duration = Duration::from_secs(1);
/// How often [`Liveness::handle_timeout`] wants to be called.
pub const TICK: Duration = Duration::from_millis(100);
/// A peer this long without a beat looks dead when the others are counted, and is not relied on. Half of [`SILENCE`]: when this pod is cut off, the
/// others' last beats lie up to a beat apart, and the first to cross the second must not be alone in looking dead.
const OVERDUE: Duration = Duration::from_millis(500);
/// So many records of a pod that was refused prove that it lives. The first may be from before its end.
const DISPROVED: u32 = 2;
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
    /// Milliseconds since Kafka last answered it, when it wrote the record.
    pub kafka_ok_within_ms: Option<u32>,
    /// Pods with a member record that it does not hear over a link; not necessarily all of them.
    pub unlinked: Vec<PodId>,
}

impl Member {
    /// One that does not drain and says nothing else of itself.
    #[must_use]
    pub fn new(pod: PodId, address: impl Into<String>, counter: u64) -> Self {
        let (address, unlinked) = (address.into(), Vec::new());
        Self { pod, address, counter, draining: false, kafka_ok_within_ms: None, unlinked }
    }
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
    /// A living pod, this one or another, steps aside, or serves again.
    Aside(PodId, Option<Aside>),
}

/// Why a pod that lives is given no slot and loses those it has, while others can serve them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aside {
    /// Kafka has not answered it for [`KAFKA_LOST`], and steadily answers another one that may be given slots. It is over when Kafka
    /// has answered it for [`KAFKA_STEADY`]. While Kafka answers nobody, nobody steps aside, and nobody comes back.
    NoKafka,
    /// For [`LINKS_LOST`] it has lacked a link to one of the pods that serve: those that are all linked with each other, where the ones that
    /// lack the fewest links come first, then those with the smallest ids. Judged from what pods that reach the store say there of their
    /// links. Over once it has belonged to them for [`LINKS_STEADY`].
    NoLinks,
}

/// Which end dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKafka => {
                "Kafka does not answer this pod, and answers others, which serve its slots: look at the way from this pod to bus.brokers"
            }
            Self::NoLinks => {
                "no link to a pod that serves its slots: look at edge.cluster.advertise and the network"
            }
        })
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "its address refuses connections, or another pod answers there",
            Self::Silent => "nothing is heard of it",
            Self::Left => "it has left",
        })
    }
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
    /// Its beats come over a link.
    pub heard: bool,
    /// Kafka answers it, by what it says. No age of that: a view differs from the one before only when something has changed.
    pub kafka_answers: bool,
    /// Why it is given no slot although it lives.
    pub aside: Option<Aside>,
}

#[derive(Debug)]
struct Peer {
    listed: bool,
    draining: bool,
    dead: Option<Evidence>,
    links_out: u32,
    links_in: u32,
    refused: bool,
    /// Records that have come of it since it was refused, and no link stood.
    records_since: u32,
    by_link: Option<u64>,
    /// When that came.
    heard: Option<Instant>,
    by_record: Option<u64>,
    changed: Instant,
    standing: Standing,
    /// When its record was last seen to change.
    recorded: Instant,
}

impl PeerState {
    /// It may be given slots if nobody better can: alive, not draining, and within reach. Whether it stands aside is asked beside.
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
            records_since: 0,
            by_link: None,
            heard: None,
            by_record: None,
            changed: now,
            standing: Standing::new(now),
            recorded: now,
        }
    }

    /// It goes on writing records: something in front of it refuses connections, as a firewall does, and will go on with it. It is not dead,
    /// but a pod without links, until one stands.
    const fn is_refusal_disproved(&self) -> bool {
        self.records_since >= DISPROVED
    }

    fn is_candidate(&self) -> bool {
        self.dead.is_none() && !self.draining && (self.listed || self.links_out > 0)
    }

    /// It may be given slots, and Kafka answers it.
    fn serves(&self, now: Instant) -> bool {
        self.is_candidate() && self.standing.aside().is_none() && self.standing.kafka.is_answered(now)
    }

    /// A link from it is no link while nothing comes over it: a network that swallows what is sent ends no connection for long.
    fn is_heard(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < links::HEARD;
        self.links_in > 0 && self.heard.is_some_and(recent)
    }

    /// How long it may stand still. Of who is known by records alone less is heard, and later.
    fn silence(&self, now: Instant) -> Duration {
        let recent = |at: Instant| now.saturating_duration_since(at) < links::HEARD;
        if self.heard.is_some_and(recent) { SILENCE } else { SILENCE_OF_RECORDS }
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
    standing: Standing,
    /// This pod's counter in its own record, and when that was last seen to change: what it says of its links others see no sooner.
    recorded: Option<(u64, Instant)>,
    last_turn: Instant,
    events: VecDeque<Event>,
}

impl Liveness {
    /// Knows nobody but itself.
    #[must_use]
    pub fn new(now: Instant, me: PodId) -> Self {
        Self {
            me,
            peers: BTreeMap::new(),
            kafka_answered: None,
            standing: Standing::new(now),
            recorded: None,
            last_turn: now,
            events: VecDeque::new(),
        }
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
                peer.recorded = now;
                // What comes by a link is newer.
                if !peer.is_heard(now) {
                    let age = member.kafka_ok_within_ms.map(|ms| Duration::from_millis(ms.into()));
                    peer.standing.kafka.told(now, age);
                }
                if peer.refused {
                    peer.records_since = peer.records_since.saturating_add(1);
                }
                // After a refusal one record proves nothing: it may have been written just before the end.
                if peer.dead == Some(Evidence::Silent) || peer.is_refusal_disproved() {
                    self.revive(member.pod);
                }
            }
        }
        self.forget();
        self.look_at_links(now, members);
        self.judge(now);
    }

    /// A heartbeat came over a link.
    pub fn heard(&mut self, now: Instant, pod: PodId, counter: u64, kafka_ok_within_ms: Option<u32>) {
        let Some(peer) = self.peers.get_mut(&pod) else { return };
        peer.standing.kafka.told(now, kafka_ok_within_ms.map(|ms| Duration::from_millis(ms.into())));
        if peer.by_link != Some(counter) {
            peer.by_link = Some(counter);
            peer.heard = Some(now);
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
        if direction == Direction::In {
            peer.heard = Some(now);
        }
        (peer.refused, peer.records_since) = (false, 0);
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
            heard: peer.is_heard(self.last_turn),
            kafka_answers: peer.standing.kafka.is_answered(self.last_turn),
            aside: peer.standing.aside(),
        })
    }

    /// Whose beats have been missing for a while, by pod id, whether or not that makes them dead.
    pub(crate) fn overdue(&self, now: Instant) -> impl Iterator<Item = (PodId, bool)> {
        self.peers
            .iter()
            .map(move |(pod, peer)| (*pod, now.saturating_duration_since(peer.changed) >= OVERDUE))
    }

    /// Why this pod is to serve no slot, if that is so.
    #[must_use]
    pub const fn aside(&self) -> Option<Aside> {
        self.standing.aside()
    }

    /// Kafka has not answered this pod for [`KAFKA_LOST`], whether or not it answers others.
    #[must_use]
    pub fn kafka_is_lost(&self) -> bool {
        self.standing.kafka.is_lost()
    }

    /// This pod stands aside, and at least one other is known to serve at this moment: devices should be sent there.
    #[must_use]
    pub fn others_serve_instead(&self) -> bool {
        self.aside().is_some() && self.peers.values().any(|peer| peer.serves(self.last_turn))
    }

    /// This pod slept (a stopped process, a starved host): its peers' silence is its own, all of them start anew.
    fn woke(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_turn) >= TICK + ASLEEP {
            for peer in self.peers.values_mut() {
                peer.changed = now;
                if peer.links_in > 0 {
                    peer.heard = Some(now);
                }
            }
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
        self.judge_deaths(now);
        self.judge_standing(now);
    }

    /// Who lives and steps aside, or serves again.
    fn judge_standing(&mut self, now: Instant) {
        let answered = self.kafka_answered.map(|at| now.saturating_duration_since(at));
        self.standing.kafka.told(now, answered);
        // Whoever only lacks links is one too: it may serve again once those that had them lack Kafka.
        let is_witness = |peer: &Peer| {
            peer.is_candidate() && !peer.standing.lacks_kafka() && peer.standing.kafka.is_steady(now)
        };
        let me = !self.standing.lacks_kafka() && self.standing.kafka.is_steady(now);
        let witnessed = me || self.peers.values().any(is_witness);
        if self.recorded.is_none_or(|(_, at)| now.saturating_duration_since(at) >= links::FRESH) {
            // The store does not answer: who has links now is not known, and others cannot know it of this pod.
            self.standing.links.told(now, None);
            self.peers.values_mut().for_each(|peer| peer.standing.links.told(now, None));
        }
        let me = (self.me, &mut self.standing);
        let peers = self.peers.iter_mut().map(|(pod, peer)| (*pod, &mut peer.standing));
        for (pod, standing) in std::iter::once(me).chain(peers) {
            if standing.judge(now, witnessed) {
                self.events.push_back(Event::Aside(pod, standing.aside()));
            }
        }
    }

    /// Who is linked with whom, as the records of all who reach the store say it.
    fn look_at_links(&mut self, now: Instant, members: &[Member]) {
        let own = members.iter().find(|member| member.pod == self.me);
        if let Some(own) = own
            && self.recorded.is_none_or(|(counter, _)| counter != own.counter)
        {
            self.recorded = Some((own.counter, now));
        }
        let fresh = |at: Instant| now.saturating_duration_since(at) < links::FRESH;
        let serves = |member: &&Member| {
            !member.draining
                && match self.peers.get(&member.pod) {
                    Some(peer) => {
                        let refused = peer.dead == Some(Evidence::Refused);
                        fresh(peer.recorded) && !refused && !peer.standing.lacks_kafka()
                    }
                    None => member.pod == self.me && !self.standing.lacks_kafka(),
                }
        };
        let nodes: Vec<_> = members
            .iter()
            .filter(serves)
            .map(|member| Node { pod: member.pod, unlinked: &member.unlinked })
            .collect();
        let serving = links::serving(&nodes);
        let is_in = |pod: PodId| nodes.iter().any(|node| node.pod == pod).then(|| serving.contains(&pod));
        self.standing.links.told(now, is_in(self.me));
        for (pod, peer) in &mut self.peers {
            peer.standing.links.told(now, is_in(*pod));
        }
    }

    fn judge_deaths(&mut self, now: Instant) {
        for (pod, peer) in &mut self.peers {
            if peer.refused
                && !peer.is_refusal_disproved()
                && peer.links() == 0
                && peer.dead != Some(Evidence::Refused)
            {
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
            if peer.dead.is_none() && quiet(peer) >= peer.silence(now) {
                peer.dead = Some(Evidence::Silent);
                self.events.push_back(Event::Dead(*pod, Evidence::Silent));
            }
        }
    }
}

#[cfg(test)]
mod aside_tests;
#[cfg(test)]
mod tests;
