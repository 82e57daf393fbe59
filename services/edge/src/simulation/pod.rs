//! A pod: everything that an edge is made of but its threads, sockets and links.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use sluice_bus::{EventEncoder, EventFormat};
use sluice_peers::Inbound;
use sluice_peers::simulated::SimulatedPeers;
use sluice_store::{LogPosition, Store};
use sluice_types::PodId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::kafka::{Kafka, Ledgers, SlotWriter};
use super::time::PodClock;
use super::watched::Watched;
use super::wire::{Alarm, PodWire};
use crate::clock::Clock;
use crate::cluster::{Keeper, KeeperPool, Place, ShardPort, Simulated, Simulation, SlotMap, simulate};
use crate::config::EdgeConfig;
use crate::counts::{Count, Counts};
use crate::fleet::{Across, Bounds, Fleet};
use crate::limits::Limits;
use crate::link::{Command, ShardLink, ShardWaker, ToFleet, ToShard};
use crate::lookups::Lookups;
use crate::secrets::Secrets;
use crate::shard::{Cookies, Core, Inputs, Parts, PeerShard, Places, Records, Relay, Shard, Sink, Slots};

/// How a pod is going about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// It gives its slots away.
    Draining,
    /// Its shards say farewell.
    Leaving,
    Dead,
}

/// A shard and its ends.
pub(super) struct SimulatedShard {
    shard: Option<Shard<Watched>>,
    pub(super) wire: PodWire,
    alarm: Alarm,
    link: ShardLink,
    counts: Arc<Counts>,
    due: Instant,
}

/// A pod of the simulation.
pub(super) struct Pod {
    pub(super) id: PodId,
    pub(super) gate: Gate,
    pub(super) life: Life,
    pub(super) peers: SimulatedPeers,
    pub(super) links: Arc<dyn Inbound>,
    pub(super) members: watch::Receiver<Vec<sluice_peers::Member>>,
    pub(super) shards: Vec<SimulatedShard>,
    clock: Clock,
    map: watch::Receiver<Arc<SlotMap>>,
    drain: mpsc::Sender<oneshot::Sender<()>>,
    drained: Option<oneshot::Receiver<()>>,
    stop: CancellationToken,
    /// Keeps the fleet's way open.
    _commands: mpsc::Sender<Command>,
}

/// What a pod is made of.
pub(super) struct Making {
    pub(super) id: PodId,
    pub(super) shards: u16,
    pub(super) slots: u16,
    pub(super) clock: PodClock,
    pub(super) gate: Gate,
    pub(super) kafka: Kafka,
    pub(super) store: Store,
    pub(super) secrets: Secrets,
    pub(super) world: Arc<Notify>,
}

fn config(shards: u16) -> EdgeConfig {
    let mut config = EdgeConfig { shards: NonZeroUsize::new(usize::from(shards)), ..EdgeConfig::default() };
    // Snapshots are to matter within a run.
    config.cluster.snapshot_interval = Duration::from_secs(3);
    config
}

impl Pod {
    pub(super) fn new(making: Making) -> Self {
        let Making { id, shards: count, slots, clock, gate, kafka, store, secrets, world } = making;
        let config = Arc::new(config(count));
        let clock = Clock::simulated(clock);
        let (map, map_seen) =
            watch::channel(Arc::new(SlotMap::new(vec![Place::Nowhere; usize::from(slots)])));
        let (applied, applied_seen) = watch::channel(LogPosition::START);
        let peers = SimulatedPeers::new(id);
        let tasks = TaskTracker::new();
        let idle = config.session.udp_idle_timeout;
        let keepers = KeeperPool::new(store.clone(), idle, Handle::current(), tasks.clone());
        let (to_fleet, from_shards) = mpsc::channel::<ToFleet>(8192);
        let (commands, asked) = mpsc::channel(256);
        let (to_cluster, given_up) = mpsc::channel(1024);
        let encoder = EventEncoder::new(EventFormat::Protobuf).expect("the messages are known");
        let limits = Limits::new(&config, &store, clock).expect("nothing is limited");
        let (limits, news) = limits.telling();
        let (places, budget) = (Places::new(limits.tenants.clone()), Arc::new(Semaphore::new(64)));

        // As `edge.rs` does it: first the ways between shards, then the shards.
        let prepared: Vec<_> = (0..count)
            .map(|_| {
                let alarm = Alarm::new(Arc::clone(&world));
                let waker = ShardWaker::Simulated(alarm.clone());
                let (sender, inbox) = mpsc::channel(4096);
                let (datagrams, relayed) = sync_channel(256);
                let (news, slots) = sync_channel(4096);
                let link = ShardLink::new(sender, waker.clone());
                let port = ShardPort { link: link.clone(), news, waker: waker.clone() };
                (alarm, link, inbox, PeerShard { datagrams, waker }, relayed, port, slots)
            })
            .collect();
        let ports: Vec<_> = prepared.iter().map(|found| found.5.clone()).collect();
        let peer_shards: Vec<_> = prepared.iter().map(|found| found.3.clone()).collect();
        let links: Vec<_> = prepared.iter().map(|found| found.1.clone()).collect();

        let mut shards = Vec::new();
        for (number, (alarm, link, inbox, peer, relayed, _, news)) in prepared.into_iter().enumerate() {
            let (returned, settled) = sync_channel(64);
            let waker = peer.waker;
            let plain = SlotWriter::plain(&kafka, &gate, move |group| {
                if returned.try_send(group).is_ok() {
                    let _ = waker.wake();
                }
            });
            let counts = Arc::new(Counts::default());
            let core = Core::new(Parts {
                shard: number as u16,
                config: Arc::clone(&config),
                clock,
                counts: Arc::clone(&counts),
                records: Records::new(Sink::Simulated(plain), encoder.clone(), &config.limits),
                slots: Slots::shared(),
                keeper: Some(Keeper::new(Arc::clone(&keepers), link.clone())),
                cluster: Some(to_cluster.clone()),
                encoder: encoder.clone(),
                ids: secrets.ids.duplicate(),
                lookups: Lookups {
                    store: store.clone(),
                    budget: Arc::clone(&budget),
                    timeout: config.handshake.key_lookup_timeout,
                    runtime: Handle::current(),
                    tasks: tasks.clone(),
                    shard: link.clone(),
                    tenants: limits.tenants.clone(),
                },
                fleet: to_fleet.clone(),
                places: places.clone(),
                penalties: limits.penalties.clone(),
                decoy: secrets.decoy.duplicate(),
            });
            let now_unix_s = clock.wall().as_millis().max(0) as u64 / 1000;
            let cookies = Cookies::new::<Watched>(secrets.cookies.duplicate(), now_unix_s);
            let relay = Relay::new(map.subscribe(), Some(&peers.handle()));
            let inputs = Inputs { inbox, settled, relayed, slots: news };
            let wire = PodWire::default();
            let end = crate::udp_io::Wire::Simulated(wire.clone());
            let shard = Shard::simulated(core, end, cookies, peer_shards.clone(), relay, inputs);
            let shard = Some(shard.expect("nothing of the system is needed"));
            shards.push(SimulatedShard { shard, wire, alarm, link, counts, due: Instant::now() });
        }

        let across = Across::new(peers.handle(), map.subscribe());
        let bounds = Bounds::new(&config, Arc::clone(&limits.counts));
        let (_, revocations) = mpsc::channel(1);
        let fleet = Fleet::new(store.clone(), clock, links, bounds, applied, tasks, Some(across));
        tokio::spawn(fleet.run(from_shards, asked, revocations));
        let Simulated { links, drain, members, stop } = simulate(Simulation {
            me: id,
            ledgers: Ledgers { kafka, gate: gate.clone() },
            store,
            clock,
            peers: peers.handle(),
            ports,
            shards: peer_shards,
            map,
            slots,
            from_shards: given_up,
            fleet: commands.clone(),
            applied: applied_seen,
            limits,
            news,
        });
        Self {
            id,
            gate,
            life: Life::Serving,
            peers,
            links,
            members,
            shards,
            clock,
            map: map_seen,
            drain,
            drained: None,
            stop,
            _commands: commands,
        }
    }

    pub(super) fn runs(&self) -> bool {
        let condition = self.gate.condition();
        condition.runs && !condition.dead
    }

    pub(super) fn is_dead(&self) -> bool {
        self.life == Life::Dead
    }

    /// Whether the balancer may send new flows here.
    pub(super) fn takes_flows(&self) -> bool {
        self.life == Life::Serving && self.is_ready()
    }

    /// What a balancer that asks is told, as by the real process.
    pub(super) fn is_ready(&self) -> bool {
        let view = self.peers.handle().view();
        let view = view.borrow();
        view.aside.is_none() || !view.others_serve_instead
    }

    /// Slots that it believes to serve.
    pub(super) fn serves(&self, slot: u16) -> bool {
        matches!(self.map.borrow().of(slot), Place::Shard(_))
    }

    /// Lets each shard that has a reason take a turn; whether one has more to do at once.
    pub(super) fn turn(&mut self) -> bool {
        let now = Instant::now();
        let mut busy = false;
        let mut over = true;
        for end in &mut self.shards {
            let Some(shard) = &mut end.shard else { continue };
            if end.alarm.take() || end.wire.has_arrivals() || end.due <= now {
                if shard.simulated_turn() {
                    let sleep = shard.simulated_sleep();
                    busy |= sleep.is_zero();
                    // A pod whose clock is slow looks once more.
                    end.due = now + sleep.max(Duration::from_millis(1));
                } else {
                    end.shard = None;
                }
            }
            over &= end.shard.is_none();
        }
        if over && !self.is_dead() {
            self.end();
        }
        busy
    }

    /// When a shard is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.shards.iter().filter(|end| end.shard.is_some()).map(|end| end.due).min()
    }

    /// It is gone at once, with everything in it.
    pub(super) fn end(&mut self) {
        self.life = Life::Dead;
        self.gate.change(|condition| condition.dead = true);
        self.stop.cancel();
        self.shards.iter_mut().for_each(|end| end.shard = None);
    }

    /// Gives its slots away, then says farewell.
    pub(super) fn drain(&mut self) {
        if self.life == Life::Serving {
            self.life = Life::Draining;
            let (done, drained) = oneshot::channel();
            let _ = self.drain.try_send(done);
            self.drained = Some(drained);
            for end in &self.shards {
                tell(&end.link, || ToShard::StopAccepting);
            }
        }
    }

    /// Goes on with a drain.
    pub(super) fn follow_drain(&mut self) {
        if self.life == Life::Draining
            && let Some(drained) = &mut self.drained
            && drained.try_recv().is_ok()
        {
            self.life = Life::Leaving;
            let until = self.clock.now() + Duration::from_secs(5);
            for end in &self.shards {
                tell(&end.link, || ToShard::Farewell { until });
            }
        }
    }

    pub(super) fn count(&self, count: Count) -> u64 {
        self.shards.iter().map(|end| end.counts.value(count)).sum()
    }
}

fn tell(link: &ShardLink, message: impl FnOnce() -> ToShard) {
    let (link, message) = (link.clone(), message());
    tokio::spawn(async move { link.send(message).await });
}
