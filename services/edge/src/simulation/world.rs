//! One run: the world between pods and devices, a step at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_peers::simulated::{BEAT, Said};
use sluice_store::simulated::SimulatedStore;
use sluice_store::{KekRing, NewDevice, NewKey, Store};
use sluice_types::PodId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::device::Device;
use super::gate::{Gate, StoreFaults, StoreMood};
use super::kafka::{Kafka, KafkaMood, Lacking};
use super::network::{Arrival, Network};
use super::plan::Plan;
use super::pod::{Making, Pod};
use super::tally::Tally;
use super::time::{Dice, PodClock};
use crate::secrets::Secrets;

/// Longest time without a look at everything.
const LOOK: Duration = Duration::from_millis(20);
/// How often a pod's peers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long what a pod says of itself in the store is kept there. (That store's time is the real one, which hardly passes.)
const LISTED: Duration = Duration::from_secs(15);
/// How long the balancer goes on sending flows to a pod that is gone.
const BALANCER: Duration = Duration::from_millis(600);

/// What is put right at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    Start,
    Resume(usize),
    /// What a pod got while it stood still comes out of its links a moment later than out of its sockets.
    Hear(usize),
    ReachKafka(usize),
    ReachStore(usize),
    ReachDevices(usize),
    Link(usize, usize),
    Proofs,
    Network,
    Store,
    Kafka,
    FailOver,
    /// What a dead pod said of itself in the store expires.
    Expire(usize),
}

/// Everything there is.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) begin: Instant,
    pub(super) pods: Vec<Pod>,
    pub(super) devices: Vec<Device>,
    pub(super) network: Network,
    pub(super) kafka: Kafka,
    pub(super) store: SimulatedStore,
    pub(super) store_mood: Arc<Mutex<StoreMood>>,
    pub(super) dice: Dice,
    pub(super) tally: Tally,
    /// States of the store that can come back.
    pub(super) remembered: usize,
    /// What went wrong when.
    pub(super) diary: Vec<String>,
    pub(super) cut_links: BTreeSet<(usize, usize)>,
    pub(super) cut_pods: BTreeSet<usize>,
    pub(super) remedies: Vec<(Instant, Remedy)>,
    /// What arrived at a pod that stands still.
    held: BTreeMap<usize, Vec<Arrival>>,
    flows: HashMap<SocketAddr, usize>,
    /// Flows go to another pod just before the proof of their handshake.
    pub(super) remaps_proofs: bool,
    gone: BTreeMap<usize, Instant>,
    kek: [u8; 32],
    secrets: Secrets,
    operator: Option<Store>,
    /// Pods whose address refuses connections.
    refusing: BTreeSet<usize>,
    alarm: Arc<Notify>,
    seed: u64,
    tick: Instant,
    beat: Instant,
    remember: Instant,
}

impl World {
    pub(super) async fn new(seed: u64, lacking: Lacking, plan: impl FnOnce(&Dice) -> Plan) -> Self {
        let part = |part| Dice::new(seed, part);
        let dice = part(1);
        let plan = plan(&dice);
        let tally = Tally::default();
        let now = Instant::now();
        let mut world = Self {
            begin: now,
            pods: Vec::new(),
            devices: Vec::new(),
            network: Network::new(part(2), tally.clone()),
            kafka: Kafka::new(plan.slots, part(3), tally.clone(), lacking),
            store: SimulatedStore::new().expect("memory"),
            store_mood: Arc::new(Mutex::new(StoreMood::GOOD)),
            kek: dice.bytes(),
            secrets: Secrets::own().expect("seeded"),
            dice,
            tally,
            remembered: 0,
            diary: Vec::new(),
            cut_links: BTreeSet::new(),
            cut_pods: BTreeSet::new(),
            remedies: Vec::new(),
            held: BTreeMap::new(),
            flows: HashMap::new(),
            remaps_proofs: false,
            gone: BTreeMap::new(),
            operator: None,
            refusing: BTreeSet::new(),
            alarm: Arc::default(),
            seed,
            tick: now,
            beat: now,
            remember: now,
            plan,
        };
        world.kafka.set_mood(KafkaMood::good(world.plan.kafka_ms, world.plan.stale));
        world.register_devices().await;
        for _ in 0..world.plan.pods {
            world.start_pod().await;
        }
        world
    }

    async fn open_store(&self, gate: Gate) -> Store {
        let key = sluice_store::SecretKey::new(self.kek);
        let faults = StoreFaults {
            gate,
            mood: Arc::clone(&self.store_mood),
            dice: Dice::new(self.seed, 100 + self.pods.len() as u64),
            tally: self.tally.clone(),
        };
        self.store.open(KekRing::new(&key, &[]), Arc::new(faults)).await.expect("ours")
    }

    async fn register_devices(&mut self) {
        let store = self.open_store(Gate::open()).await;
        for number in 1..=self.plan.devices {
            let dice = Dice::new(self.seed, 1000 + u64::from(number));
            let device = Device::new(number, dice, self.tally.clone());
            let id = sluice_types::DeviceId::from_bytes(device.id);
            let psk = sluice_types::Psk::new(&device.psk).expect("32 bytes");
            let new = NewDevice { id, key: NewKey::Individual(psk), ..new_device(id) };
            store.create_device(new).await.expect("a new device");
            self.devices.push(device);
        }
        self.operator = Some(store);
        self.remember();
    }

    /// Keeps the store's state, so that it can come back.
    pub(super) fn remember(&mut self) {
        self.remembered = self.store.remember().expect("memory");
        self.remember = Instant::now() + Duration::from_secs(2);
    }

    /// Starts a pod, as one that nobody has seen before.
    pub(super) async fn start_pod(&mut self) {
        let mood = std::mem::replace(&mut *self.mood(), StoreMood::GOOD);
        let gate = Gate::open();
        let store = self.open_store(gate.clone()).await;
        *self.mood() = mood;
        let per_million = self.dice.within(980_000, 1_020_000);
        let clock = PodClock::new(self.begin, per_million, self.dice.millis(0, 3000));
        self.pods.push(Pod::new(Making {
            id: PodId::from_bytes(self.dice.bytes()),
            shards: self.plan.shards,
            slots: self.plan.slots,
            clock,
            gate,
            kafka: self.kafka.clone(),
            store,
            secrets: self.secrets.duplicate(),
            world: Arc::clone(&self.alarm),
        }));
        let to = self.pods.len() - 1;
        for from in self.refusing.clone() {
            let wait = self.dice.millis(20, 700);
            self.network.after(wait, Arrival::Refused { to, from });
        }
    }

    pub(super) fn mood(&self) -> std::sync::MutexGuard<'_, StoreMood> {
        self.store_mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the world go on until that time.
    pub(super) async fn run_until(&mut self, until: Instant) {
        while Instant::now() < until {
            self.put_right().await;
            self.arrivals();
            self.look_at_peers();
            self.let_devices_act();
            let busy = self.let_pods_act();
            self.carry_what_peers_said();
            if Instant::now() >= self.remember {
                self.remember();
            }
            if busy {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.next().min(until);
            tokio::select! {
                biased;
                () = self.alarm.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn next(&self) -> Instant {
        let pods = self.pods.iter().filter(|pod| pod.runs()).filter_map(Pod::due);
        let devices = self.devices.iter().map(|device| device.due);
        let remedies = self.remedies.iter().map(|(at, _)| *at);
        let next = pods.chain(devices).chain(remedies).chain(self.network.next()).min();
        let soonest = Instant::now() + Duration::from_millis(1);
        next.unwrap_or(soonest).clamp(soonest, soonest + LOOK)
    }

    fn arrivals(&mut self) {
        while let Some(arrival) = self.network.arrived() {
            self.arrive(arrival);
        }
    }

    /// What a pod that stands still is to get, it gets when it goes on.
    fn holds(&self, pod: usize) -> bool {
        let waits = !self.pods[pod].runs() || self.held.contains_key(&pod);
        !self.pods[pod].is_dead() && waits
    }

    pub(super) fn release_held(&mut self, pod: usize) {
        for arrival in self.held.remove(&pod).unwrap_or_default() {
            self.arrive(arrival);
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::ToDevice { address, mut datagram } => {
                if let Some(device) = self.devices.iter_mut().find(|device| device.address == address) {
                    device.handle_datagram(&mut datagram);
                    device.due = Instant::now();
                }
            }
            Arrival::ToPod { pod, source, datagram } => {
                if self.pods[pod].is_dead() || self.cut_pods.contains(&pod) {
                    return self.tally.one("network: nobody there");
                }
                // The kernel takes it, whether or not the process runs.
                let shards = &self.pods[pod].shards;
                let shard = usize::from(source.port()) % shards.len();
                shards[shard].wire.deliver(source, datagram);
            }
            Arrival::FromPeer { to, .. } | Arrival::Beat { to, .. } | Arrival::Refused { to, .. }
                if self.holds(to) =>
            {
                self.held.entry(to).or_default().push(arrival);
            }
            Arrival::FromPeer { to, from, said } => self.hear(to, from, said),
            Arrival::Beat { to, from, counter, kafka } => {
                if self.is_linked(from, to) {
                    let from = self.pods[from].id;
                    let pod = &mut self.pods[to];
                    for event in pod.peers.heard(from, counter, kafka) {
                        pod.links.changed(event);
                    }
                }
            }
            Arrival::Refused { to, from } => {
                let from = self.pods[from].id;
                let pod = &mut self.pods[to];
                for event in pod.peers.refused(from) {
                    pod.links.changed(event);
                }
            }
        }
    }

    fn hear(&self, to: usize, from: usize, said: Said) {
        if self.pods[to].is_dead() || self.cut_links.contains(&pair(from, to)) {
            return;
        }
        let (links, from) = (&self.pods[to].links, self.pods[from].id);
        match said {
            Said::Datagram { flow, source, mut bytes } => links.datagram(from, flow, source, &mut bytes),
            Said::Handshake { flow, source, mut bytes } => links.handshake(from, flow, source, &mut bytes),
            Said::Reply { flow, destination, mut bytes } => links.reply(from, flow, destination, &mut bytes),
            // Room enough in each run; a real link would end and begin again.
            Said::Control(control) => drop(links.control(from, control)),
        }
    }

    /// Whether two pods can speak with each other.
    fn is_linked(&self, one: usize, other: usize) -> bool {
        let lives = |pod: usize| !self.pods[pod].is_dead();
        lives(one) && lives(other) && !self.cut_links.contains(&pair(one, other))
    }

    fn look_at_peers(&mut self) {
        let now = Instant::now();
        if now < self.tick {
            return;
        }
        self.tick = now + TICK;
        let beats = now >= self.beat;
        if beats {
            self.beat = now + BEAT;
        }
        let ids: Vec<PodId> = self.pods.iter().map(|pod| pod.id).collect();
        for at in 0..self.pods.len() {
            if !self.pods[at].runs() {
                continue;
            }
            let members = self.pods[at].members.borrow_and_update().clone();
            let mut events = self.pods[at].peers.members(&members);
            for other in (0..ids.len()).filter(|other| *other != at) {
                let stands = self.is_linked(at, other);
                let stood = self.pods[at].peers.handle().sender(ids[other]);
                let stood = stood.is_some_and(|sender| sender.is_linked());
                events.extend(self.pods[at].peers.link(ids[other], stands));
                if stands && !stood {
                    self.pods[at].links.link_up(ids[other]);
                } else if stood && !stands {
                    self.pods[at].links.link_down(ids[other]);
                }
            }
            events.extend(self.pods[at].peers.tick());
            for event in events {
                self.pods[at].links.changed(event);
            }
            if beats {
                let (counter, kafka) = self.pods[at].peers.beat();
                for to in (0..ids.len()).filter(|to| *to != at) {
                    if self.is_linked(at, to) {
                        self.network.between(at, to, Arrival::Beat { to, from: at, counter, kafka });
                    }
                }
            }
            self.pods[at].follow_drain();
        }
    }

    fn carry_what_peers_said(&mut self) {
        for from in self.living() {
            for to in self.living().into_iter().filter(|to| *to != from) {
                let id = self.pods[to].id;
                for said in self.pods[from].peers.said(id) {
                    if self.is_linked(from, to) {
                        match &said {
                            Said::Datagram { .. } => self.tally.one("datagram relayed to another pod"),
                            Said::Handshake { bytes, .. } if bytes.get(3) == Some(&1) => {
                                self.tally.one("HELLO handed on to another pod");
                            }
                            Said::Handshake { .. } => self.tally.one("handshake relayed to another pod"),
                            _ => {}
                        }
                        self.network.between(from, to, Arrival::FromPeer { to, from, said });
                    }
                }
            }
        }
    }

    fn let_devices_act(&mut self) {
        let now = Instant::now();
        for at in 0..self.devices.len() {
            if self.devices[at].due > now {
                continue;
            }
            let mut sent = Vec::new();
            self.devices[at].turn(&self.kafka, &mut |datagram| sent.push(datagram.to_vec()));
            for datagram in sent {
                if self.remaps_proofs && is_proof(&datagram) {
                    self.remap_before_proof(at);
                }
                let source = self.devices[at].address;
                self.network.overhear(source, &datagram);
                self.send_to_pods(source, &datagram);
            }
        }
    }

    /// The balancer sends each flow to one pod, as long as it thinks that this one is there.
    pub(super) fn send_to_pods(&mut self, source: SocketAddr, datagram: &[u8]) {
        let now = Instant::now();
        let known = self.flows.get(&source).copied();
        let known = known.filter(|pod| self.gone.get(pod).is_none_or(|at| now < *at));
        // A health check finds a pod that stands aside.
        let known = known
            .filter(|pod| self.plan.flows_stay || self.pods[*pod].is_dead() || self.pods[*pod].is_ready());
        let Some(pod) = known.or_else(|| self.some_pod()) else { return };
        self.flows.insert(source, pod);
        self.network.datagram(|datagram| Arrival::ToPod { pod, source, datagram }, datagram);
    }

    /// The balancer forgets the flow of a device that is about to prove its key, which then may come from another address, too.
    fn remap_before_proof(&mut self, device: usize) {
        let address = self.devices[device].address;
        let before = self.flows.remove(&address);
        if self.dice.happens(0.4) {
            self.devices[device].rebind();
        }
        let others: Vec<_> = (0..self.pods.len())
            .filter(|pod| Some(*pod) != before && self.pods[*pod].takes_flows())
            .collect();
        if let Some(other) = others.get(self.dice.below(others.len())) {
            self.tally.one("proof sent to another pod than HELLO");
            self.flows.insert(self.devices[device].address, *other);
        }
    }

    /// Forgets where flows go.
    pub(super) fn forget_flows(&mut self) {
        let mut flows: Vec<_> = self.flows.keys().copied().collect();
        flows.sort_unstable();
        for flow in flows {
            if self.dice.happens(0.6) {
                self.flows.remove(&flow);
            }
        }
    }

    fn some_pod(&self) -> Option<usize> {
        let now = Instant::now();
        let takes = |at: &usize| {
            self.pods[*at].takes_flows()
                || self.pods[*at].is_dead() && self.gone.get(at).is_some_and(|at| now < *at)
        };
        let takes: Vec<_> = (0..self.pods.len()).filter(takes).collect();
        takes.get(self.dice.below(takes.len())).copied()
    }

    fn let_pods_act(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.pods.len() {
            if self.pods[at].is_dead() {
                continue;
            }
            if self.pods[at].runs() {
                busy |= self.pods[at].turn();
                if self.pods[at].is_dead() {
                    self.is_gone(at, true);
                }
            }
            let reaches = !self.cut_pods.contains(&at);
            for shard in 0..self.pods[at].shards.len() {
                for (address, datagram) in self.pods[at].shards[shard].wire.sent() {
                    if reaches {
                        self.network.datagram(|datagram| Arrival::ToDevice { address, datagram }, &datagram);
                    }
                }
            }
        }
        busy
    }

    /// A pod has ended; its address refuses connections, or says nothing at all.
    pub(super) fn is_gone(&mut self, pod: usize, refuses: bool) {
        self.gone.insert(pod, Instant::now() + BALANCER);
        self.held.remove(&pod);
        self.remedies.push((Instant::now() + LISTED, Remedy::Expire(pod)));
        if refuses {
            self.refusing.insert(pod);
            for to in (0..self.pods.len()).filter(|to| *to != pod) {
                let wait = self.dice.millis(20, 300);
                self.network.after(wait, Arrival::Refused { to, from: pod });
            }
        }
    }

    /// Notes what happens.
    pub(super) fn note(&mut self, what: &str) {
        let at = self.begin.elapsed().as_millis();
        self.diary.push(format!("{at:>6} ms {what}"));
    }

    /// Takes a pod off the store's list.
    pub(super) async fn expire(&self, pod: usize) {
        if let Some(operator) = &self.operator {
            let mood = std::mem::replace(&mut *self.mood(), StoreMood::GOOD);
            operator.retire_pod(self.pods[pod].id).await.expect("nothing is wrong with it now");
            *self.mood() = mood;
        }
    }

    /// Pods that live.
    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.pods.len()).filter(|at| !self.pods[*at].is_dead()).collect()
    }
}

fn is_proof(datagram: &[u8]) -> bool {
    usmp::wire::Frame::parse(datagram)
        .is_ok_and(|frame| frame.header().frame_type == usmp::wire::FrameType::HelloAck)
}

fn new_device(id: sluice_types::DeviceId) -> NewDevice {
    NewDevice {
        id,
        tenant: sluice_types::TenantId::default(),
        profile: sluice_store::Profile::Raw,
        state: sluice_store::DeviceState::Active,
        key: NewKey::Derived,
    }
}

/// Two pods, whichever is named first.
pub(super) fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}
