//! How a pod joins the others, and leaves them.

mod advertised;
mod parts;

use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_bus::{BusConfig, BusError};
use sluice_peers::{Member, PeerConfig, Peers, PeersHandle, View};
use sluice_store::{ClusterSecrets, LogPosition, Store, StoreError};
use sluice_types::PodId;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::adoption::Ledgers;
use super::inbound::{self, Links};
use super::members::{Myself, member, tell_and_listen};
use super::owner::{Beginning, Owners};
use super::penalties::tell_others;
use super::questions::Questions;
use super::ring::{follow_ring, hand_out, peer_secrets};
use super::slot_map::SlotMap;
use crate::admission::{Failed, Penalties};
use crate::clock::Clock;
use crate::config::ClusterConfig;
use crate::counts::Counts;
use crate::link::{Command, ShardLink, ShardWaker, SlotNews, ToCluster};
use crate::shard::{PeerShard, random};

pub(crate) use self::parts::ClusterParts;
pub(super) use self::parts::promised;

/// How the links look up the owner of a slot.
pub(super) type SlotMapReader = watch::Receiver<Arc<SlotMap>>;

/// How long a pod that ends tries to be taken off the list.
const OFF_THE_LIST: Duration = Duration::from_secs(2);

/// Messages from links that wait for the cluster's task.
pub(super) const FROM_PEERS: usize = 4096;

/// How the cluster reaches a shard.
#[derive(Debug, Clone)]
pub(crate) struct ShardPort {
    pub(crate) link: ShardLink,
    pub(crate) news: SyncSender<SlotNews>,
    pub(crate) waker: ShardWaker,
}

/// Why a pod does not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The secrets that all pods share cannot be had.
    #[error("the secrets that all pods share cannot be read from the store: {0}")]
    Secrets(#[source] StoreError),
    /// There is no ledger, or Kafka does not answer.
    #[error("edge.cluster.enabled needs the ledger topic (`sluice topics apply` makes it): {0}")]
    Ledger(#[source] BusError),
    /// The store is another one now, or does not say which pods there are.
    #[error("the store does not let this pod join the others: {0}")]
    Store(#[source] StoreError),
    /// Nobody could reach this pod.
    #[error(
        "edge.cluster.advertise is `{given}`, which is no address for the other pods: {source}. Write a name that is known to their resolver, or the host's address, as HOST:PORT (in Kubernetes the pod's own address; a headless service names a pod that is not ready yet only with publishNotReadyAddresses: true)"
    )]
    Advertise {
        /// What is configured.
        given: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// Pods that live promise something else.
    #[error(
        "the pods of this fleet, such as {address}, run bus.guarantee = \"{theirs}\", and this one is configured \"{ours}\": set the same. To change it for all, stop all pods, and then start them with the new one"
    )]
    Guarantee {
        /// What is configured here.
        ours: &'static str,
        /// What they have.
        theirs: &'static str,
        /// One of them.
        address: String,
    },
    /// Links to other pods cannot be had.
    #[error(transparent)]
    Peers(#[from] sluice_peers::StartError),
    /// The system has no more threads or random bytes.
    #[error("the system refuses a resource: {0}")]
    System(#[from] io::Error),
}

/// This pod among the others.
pub(crate) struct Joined {
    /// Holds the links until told to stop.
    links: Option<tokio::task::JoinHandle<()>>,
    handle: PeersHandle,
    drain: mpsc::Sender<oneshot::Sender<()>>,
    stop: CancellationToken,
    serving: SlotMapReader,
    /// Heartbeats must not be late because something else is busy.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("address", &self.handle.address()).finish_non_exhaustive()
    }
}

/// What [`join`] is made of.
pub(crate) struct Joining<'a> {
    pub(crate) config: &'a ClusterConfig,
    pub(crate) bus: BusConfig,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) parts: &'a ClusterParts,
    pub(crate) shards: Vec<PeerShard>,
    pub(crate) map: watch::Sender<Arc<SlotMap>>,
    pub(crate) applied: watch::Receiver<LogPosition>,
    /// Who waits after failed proofs, here and, as `news`, what is told of it to the others.
    pub(crate) penalties: Penalties,
    pub(crate) news: mpsc::Receiver<Failed>,
    pub(crate) counts: Arc<Counts>,
}

/// A pod whose links stand; it serves no slot before [`Linked::serve`].
pub(crate) struct Linked {
    joined: Joined,
    peers: Peers,
    /// Says that this pod lives, and takes it off the list at the end.
    told: tokio::task::JoinHandle<()>,
    followed: tokio::task::JoinHandle<()>,
    beginning: Beginning,
    from_peers: mpsc::Receiver<inbound::FromPeers>,
    drains: mpsc::Receiver<oneshot::Sender<()>>,
    ring: watch::Receiver<ClusterSecrets>,
}

/// Opens the links to the other pods.
///
/// # Errors
///
/// [`JoinError`]; nothing runs then.
pub(crate) async fn join(joining: Joining<'_>) -> Result<Linked, JoinError> {
    let Joining { config, bus, store, clock, parts, shards, map, applied, penalties, news, counts } = joining;
    let no_random = || io::Error::other("no random bytes");
    let me = PodId::from_bytes(random().ok_or_else(no_random)?);
    let secrets = peer_secrets(parts.secrets())
        .ok_or_else(|| io::Error::other("no secret of the cluster is in force"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("peers")
        .enable_all()
        .build()?;
    let (cluster, from_peers) = mpsc::channel(FROM_PEERS);
    let (members_tx, members) = watch::channel(known_members(&store).await);
    let (secrets_tx, secrets) = watch::channel(secrets);
    let (ring_tx, ring) = watch::channel(parts.secrets().clone());
    let (draining, drains_seen) = watch::channel(false);
    let questions = Mutex::new(Questions::new(clock.now()));
    let counted = Arc::clone(&counts);
    let slots = map.subscribe();
    let links = Arc::new(Links { shards, slots, cluster, penalties, clock, questions, counts: counted });
    let mut peer_config = PeerConfig::new(config.listen, config.advertised());
    peer_config.release = env!("CARGO_PKG_VERSION").to_owned();
    let started = runtime.spawn(Peers::start(peer_config, me, secrets, members, links));
    let peers = match started.await {
        Ok(started) => started,
        Err(error) => return Err(io::Error::other(error).into()),
    };
    let peers = match peers {
        Ok(peers) => peers,
        Err(error) => {
            runtime.shutdown_background();
            return Err(error.into());
        }
    };
    let handle = peers.handle();
    let guarantee = bus.guarantee();
    tracing::info!(
        pod = %me,
        address = handle.address(),
        slots = parts.slots(),
        guarantee = guarantee.as_str(),
        "one of many pods"
    );
    let stop = CancellationToken::new();
    let myself = Myself {
        pod: me,
        address: handle.address().to_owned(),
        started: clock.wall(),
        draining: drains_seen,
        applied,
        guarantee,
    };
    let told =
        runtime.spawn(tell_and_listen(store.clone(), myself, handle.clone(), members_tx, stop.clone()));
    runtime.spawn(tell_others(handle.clone(), news, counts, stop.clone()));
    let followed = runtime.spawn(follow_ring(store.clone(), ring_tx, secrets_tx, stop.clone()));
    let (drain, drains) = mpsc::channel(1);
    let slots = parts.slots();
    let beginning = Beginning {
        me,
        bus: Ledgers::Kafka(bus),
        store,
        clock,
        peers: handle.clone(),
        shards: Vec::new(),
        map,
        draining,
        slots,
    };
    let serving = beginning.map.subscribe();
    let joined = Joined { links: None, handle, drain, stop, serving, runtime: Some(runtime) };
    Ok(Linked { joined, peers, told, followed, beginning, from_peers, drains, ring })
}

/// Who is there already, so that the links to them stand before anything is adopted.
async fn known_members(store: &Store) -> Vec<Member> {
    match store.pods().await {
        Ok(pods) => pods.iter().map(member).collect(),
        Err(error) => {
            tracing::warn!(%error, "the store does not say which pods there are; asking again");
            Vec::new()
        }
    }
}

impl Linked {
    pub(crate) fn peers(&self) -> &PeersHandle {
        &self.joined.handle
    }

    /// Serves slots by these shards from now on. `alarms` are dropped when the links, or who decides about slots, end by themselves.
    pub(crate) fn serve<A: Send + 'static>(
        self,
        alarms: [A; 2],
        shards: Vec<ShardPort>,
        from_shards: mpsc::Receiver<ToCluster>,
        fleet: mpsc::Sender<Command>,
    ) -> Joined {
        let Self { mut joined, mut peers, mut told, mut followed, beginning, from_peers, drains, ring } =
            self;
        let [links_alarm, owners_alarm] = alarms;
        if let Some(runtime) = &joined.runtime {
            let links = shards.iter().map(|shard| shard.link.clone()).collect();
            let mut handed_out = runtime.spawn(hand_out(ring, links));
            let owners = Owners::new(Beginning { shards, ..beginning });
            runtime.spawn(async move {
                owners.run(from_peers, from_shards, drains, fleet).await;
                drop(owners_alarm);
            });
            let stop = joined.stop.clone();
            joined.links = Some(runtime.spawn(async move {
                // Without any of them others see a pod that stands still, or this one sees a world that does: it ends.
                tokio::select! {
                    ended = peers.ended() => if let Err(error) = ended {
                        tracing::error!(%error, "the links to other pods have ended");
                    },
                    _ = &mut told => ended_by_itself("tells the store that this pod lives", &stop),
                    _ = &mut followed => ended_by_itself("follows the keys of all pods", &stop),
                    _ = &mut handed_out => ended_by_itself("hands the keys of all pods to the shards", &stop),
                    () = stop.cancelled() => {}
                }
                peers.stop().await;
                // A record that stays has revocations wait for this pod; one that fails may still serve.
                if stop.is_cancelled()
                    && !told.is_finished()
                    && tokio::time::timeout(OFF_THE_LIST, told).await.is_err()
                {
                    tracing::warn!(
                        "the store does not answer: the record of this pod stays until it expires"
                    );
                }
                drop(links_alarm);
            }));
        }
        joined
    }
}

/// A task that ends before it is told to is a mistake of ours.
fn ended_by_itself(task: &str, stop: &CancellationToken) {
    if !stop.is_cancelled() {
        tracing::error!(task, "a task ended by itself, which is a mistake in this program; please report it");
    }
}

impl Joined {
    /// How the deployment looks from here.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.handle.view()
    }

    /// Waits until this pod serves a slot, so that devices can open sessions over UDP here. `false` when that took too long.
    pub(crate) async fn serves(&self, within: Duration) -> bool {
        let mut serving = self.serving.clone();
        let serves = serving.wait_for(|map| map.home_of(0).is_some());
        matches!(tokio::time::timeout(within, serves).await, Ok(Ok(_)))
    }

    /// Gives all slots to other pods, if there are any; this one goes on relaying to them.
    pub(crate) async fn drain(&self, within: Duration) {
        let (done, drained) = oneshot::channel();
        let drained = async {
            if self.drain.send(done).await.is_ok() {
                // A task that is gone has nothing to give.
                let _ = drained.await;
            }
        };
        if tokio::time::timeout(within, drained).await.is_err() {
            tracing::warn!(
                "not every slot was given away in time; the other pods adopt them when this one is gone"
            );
        }
    }

    /// Closes the links: the others see at once that this pod is gone.
    pub(crate) async fn leave(mut self) {
        self.stop.cancel();
        if let Some(links) = self.links.take() {
            let _ = links.await;
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
