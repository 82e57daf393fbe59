//! What decides about slots, in a simulation: everything that [`join`](super::join) starts but the links.

use std::sync::{Arc, Mutex};

use sluice_bus::Guarantee;
use sluice_peers::{Inbound, Member, PeersHandle};
use sluice_store::{LogPosition, Store};
use sluice_types::PodId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::adoption::Ledgers;
use super::inbound::Links;
use super::members::{Myself, tell_and_listen};
use super::owner::{Beginning, Owners};
use super::penalties::tell_others;
use super::questions::Questions;
use super::slot_map::SlotMap;
use super::start::{FROM_PEERS, ShardPort};
use crate::admission::Failed;
use crate::clock::Clock;
use crate::limits::Limits;
use crate::link::{Command, ToCluster};
use crate::shard::PeerShard;

/// What a simulated pod is made of.
pub(crate) struct Simulation {
    pub(crate) me: PodId,
    pub(crate) ledgers: crate::simulation::Ledgers,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) peers: PeersHandle,
    pub(crate) ports: Vec<ShardPort>,
    pub(crate) shards: Vec<PeerShard>,
    pub(crate) map: watch::Sender<Arc<SlotMap>>,
    pub(crate) slots: u16,
    pub(crate) from_shards: mpsc::Receiver<ToCluster>,
    pub(crate) fleet: mpsc::Sender<Command>,
    pub(crate) applied: watch::Receiver<LogPosition>,
    pub(crate) limits: Limits,
    /// What is told to the others of penalties.
    pub(crate) news: mpsc::Receiver<Failed>,
}

/// How the world reaches it.
pub(crate) struct Simulated {
    /// For what links bring in.
    pub(crate) links: Arc<dyn Inbound>,
    /// Asks for a drain; told when it is through.
    pub(crate) drain: mpsc::Sender<oneshot::Sender<()>>,
    /// The pods that the store lists.
    pub(crate) members: watch::Receiver<Vec<Member>>,
    /// Ends what this pod says of itself in the store.
    pub(crate) stop: CancellationToken,
}

/// Begins to decide.
pub(crate) fn simulate(simulation: Simulation) -> Simulated {
    let Simulation {
        me,
        ledgers,
        store,
        clock,
        peers,
        ports,
        shards,
        map,
        slots,
        from_shards,
        fleet,
        applied,
        limits,
        news,
    } = simulation;
    let (cluster, from_peers) = mpsc::channel(FROM_PEERS);
    let (members, listed) = watch::channel(Vec::new());
    let (draining, drains_seen) = watch::channel(false);
    let links = Arc::new(Links {
        shards,
        slots: map.subscribe(),
        cluster,
        penalties: limits.penalties,
        clock,
        questions: Mutex::new(Questions::new(clock.now())),
        counts: Arc::clone(&limits.counts),
    });
    let stop = CancellationToken::new();
    tokio::spawn(tell_others(peers.clone(), news, limits.counts, stop.clone()));
    let myself = Myself {
        pod: me,
        address: peers.address().to_owned(),
        started: clock.wall(),
        draining: drains_seen,
        applied,
        guarantee: Guarantee::ExactlyOnce,
    };
    tokio::spawn(tell_and_listen(store.clone(), myself, peers.clone(), members, stop.clone()));
    let (drain, drains) = mpsc::channel(1);
    let bus = Ledgers::Simulated(ledgers);
    let owners = Owners::new(Beginning { me, bus, store, clock, peers, shards: ports, map, draining, slots });
    tokio::spawn(owners.run(from_peers, from_shards, drains, fleet));
    Simulated { links, drain, members: listed, stop }
}
