//! Starts the shards and what stands beside them, and brings them to their end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use mio::{Poll, Waker};
use opentelemetry::metrics::Meter;
use sluice_bus::{BusConfig, BusError, EventEncoder, Writer, WriterStats};
use sluice_peers::PeersHandle;
use sluice_store::{LogPosition, Store};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use usmp::crypto::AwsLc;

use crate::clock::Clock;
use crate::cluster::{
    self, ClusterParts, JoinError, Joined, Joining, Keeper, KeeperPool, ShardPort, SlotMap,
};
use crate::config::{EdgeConfig, EdgeConfigError};
use crate::counts::{self, Counts};
use crate::fleet::{Across, Bounds, Fleet};
use crate::gauges;
use crate::handle::{Addresses, EdgeHandle};
use crate::limits::Limits;
use crate::link::{Relayed, ShardLink, ShardWaker, SlotNews, ToCluster, ToFleet, ToShard};
use crate::lookups::Lookups;
use crate::pulse::Pulse;
use crate::revocations;
use crate::secrets::Secrets;
use crate::shard::{
    Cookies, Core, Inputs, Parts, PeerShard, Places, Records, Relay, Shard, Sink, Slots, WAKER,
};
use crate::sockets::{BindError, ShardSockets, bind};

/// Messages to a shard that wait to be read. Look-ups, closings and downlink are bounded by themselves.
const INBOX: usize = 4096;
/// Messages from all shards to the fleet; what does not fit waits in the shards.
const FLEET: usize = 8192;
/// Questions from outside.
const COMMANDS: usize = 256;
/// Datagrams on their way from one shard to another, per shard.
const RELAYED: usize = 256;
/// Slots that shards gave up and the cluster has not heard of: each once, and there are 1024 at most.
const SLOTS_GIVEN_UP: usize = 1024;
/// Groups of slots that come back to a shard and wait: more than the slots of one shard have.
const SLOT_NEWS: usize = 4096;
/// Time kept back of a drain's deadline for the end of the threads.
const RESERVE: Duration = Duration::from_millis(500);

/// What the edge works with.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Devices, keys, revocations.
    pub store: Store,
    /// Where Kafka is. Each shard has a writer of its own.
    pub bus: BusConfig,
    /// Where counters are shown.
    pub meter: Meter,
}

/// Why an edge does not start. Nothing is left running then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting that cannot be used.
    #[error(transparent)]
    Config(#[from] EdgeConfigError),
    /// An address that cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The bus refuses its settings.
    #[error("the writer to Kafka does not start: {0}")]
    Bus(#[from] BusError),
    /// It cannot be one of many pods.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The system has no more threads, descriptors or random bytes.
    #[error("the system refuses a resource: {0}")]
    System(#[from] io::Error),
}

/// How an edge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything received was committed and every device told.
    Complete,
    /// The deadline came first: so many records were given up, none of them acknowledged.
    Late {
        /// Records whose outcome nobody knows.
        unknown_records: usize,
    },
}

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    handle: EdgeHandle,
    config: Arc<EdgeConfig>,
    clock: Clock,
    shards: Vec<Running>,
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: Option<oneshot::Receiver<()>>,
    writers: Vec<Arc<WriterStats>>,
    joined: Option<Joined>,
}

#[derive(Debug)]
struct Running {
    link: ShardLink,
    /// What its thread ended with: records given up.
    ended: oneshot::Receiver<usize>,
    writer: Arc<WriterStats>,
}

/// What a shard is made of before its thread starts.
struct Prepared {
    poll: Poll,
    sockets: ShardSockets,
    link: ShardLink,
    inbox: mpsc::Receiver<ToShard>,
    peer: PeerShard,
    relayed: std::sync::mpsc::Receiver<Relayed>,
    news: SyncSender<SlotNews>,
    slots: std::sync::mpsc::Receiver<SlotNews>,
}

/// What shards need to be part of many pods.
struct Shared {
    map: watch::Sender<Arc<SlotMap>>,
    peers: Option<PeersHandle>,
    keepers: Option<Arc<KeeperPool>>,
    cluster: Option<mpsc::Sender<ToCluster>>,
    /// How far the revocation log is applied here.
    applied: watch::Sender<LogPosition>,
    /// The way to sessions at other pods.
    across: Option<Across>,
    limits: Limits,
    /// Hears of each shard's turns.
    pulse: Pulse,
    /// Called by the writers' threads for each group.
    settling: fn(),
}

impl Edge {
    /// Binds the sockets and starts the threads. Devices are served when this returns. Its sessions are its own: `edge.cluster` is
    /// not looked at, [`Edge::join`] does.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start(config: EdgeConfig, deps: &Deps) -> Result<Self, StartError> {
        Self::start_with(config, deps, || {})
    }

    fn start_with(config: EdgeConfig, deps: &Deps, settling: fn()) -> Result<Self, StartError> {
        config.validate()?;
        let sockets = bind(&config, config.shard_count())?;
        Self::start_on(config, deps, sockets, Pulse::default(), settling)
    }

    fn start_on(
        config: EdgeConfig,
        deps: &Deps,
        sockets: Vec<ShardSockets>,
        pulse: Pulse,
        settling: fn(),
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let prepared = prepare_all(sockets)?;
        let (map, _) = watch::channel(Arc::new(SlotMap::alone(config.shard_count() as u16)));
        let (applied, _) = watch::channel(LogPosition::START);
        let secrets = Secrets::own().ok_or_else(|| io::Error::other("no random bytes"))?;
        let clock = Clock::start();
        let limits = Limits::new(&config, &deps.store, clock)?;
        let shared = Shared {
            map,
            peers: None,
            keepers: None,
            cluster: None,
            applied,
            across: None,
            limits,
            pulse,
            settling,
        };
        let tasks = TaskTracker::new();
        Self::assemble(config, deps, clock, prepared, shared, secrets, tasks).map(|(edge, _)| edge)
    }

    /// The same as one of many pods, if `edge.cluster` says so: sessions over UDP outlive it.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn join(config: EdgeConfig, deps: &Deps) -> Result<Self, StartError> {
        config.validate()?;
        let sockets = bind(&config, config.shard_count())?;
        Self::join_on(config, deps, sockets, Pulse::default()).await
    }

    /// The same on these sockets: as many as there are shards, of valid settings. Each shard is a part of `pulse` while it runs.
    pub(crate) async fn join_on(
        config: EdgeConfig,
        deps: &Deps,
        sockets: Vec<ShardSockets>,
        pulse: Pulse,
    ) -> Result<Self, StartError> {
        if !config.cluster.enabled {
            return Self::start_on(config, deps, sockets, pulse, || {});
        }
        let parts = ClusterParts::read(&config.cluster, &deps.store, &deps.bus).await?;
        let config = Arc::new(config);
        let prepared = prepare_all(sockets)?;
        let (clock, tasks) = (Clock::start(), TaskTracker::new());
        let (map, _) = watch::channel(Arc::new(parts.slot_map()));
        let (applied, seen) = watch::channel(LogPosition::START);
        let (limits, news) = Limits::new(&config, &deps.store, clock)?.telling();
        let linked = cluster::join(Joining {
            config: &config.cluster,
            bus: deps.bus.clone(),
            store: deps.store.clone(),
            clock,
            parts: &parts,
            shards: prepared.iter().map(|shard| shard.peer.clone()).collect(),
            map: map.clone(),
            applied: seen,
            penalties: limits.penalties.clone(),
            news,
            counts: Arc::clone(&limits.counts),
        })
        .await?;
        counts::export_peers(&deps.meter, linked.peers().counts());
        gauges::export_cluster(&deps.meter, linked.peers(), &map.subscribe());
        let ports = prepared.iter().map(|shard| ShardPort {
            link: shard.link.clone(),
            news: shard.news.clone(),
            waker: shard.peer.waker.clone(),
        });
        let ports: Vec<_> = ports.collect();
        let (to_cluster, from_shards) = mpsc::channel(SLOTS_GIVEN_UP);
        let idle = config.session.udp_idle_timeout;
        let keepers = KeeperPool::new(deps.store.clone(), idle, Handle::current(), tasks.clone());
        let across = Across::new(linked.peers().clone(), map.subscribe());
        let shared = Shared {
            map,
            peers: Some(linked.peers().clone()),
            keepers: Some(keepers),
            cluster: Some(to_cluster),
            applied,
            across: Some(across),
            limits,
            pulse,
            settling: || {},
        };
        let none = || io::Error::other("no secret of the cluster is in force");
        let secrets = Secrets::shared(parts.secrets()).ok_or_else(none)?;
        let (mut edge, failure) = Self::assemble(config, deps, clock, prepared, shared, secrets, tasks)?;
        let commands = edge.handle.commands.clone();
        let alarms = [Alarm(Arc::clone(&failure)), Alarm(failure)];
        edge.joined = Some(linked.serve(alarms, ports, from_shards, commands));
        Ok(edge)
    }

    fn assemble(
        config: Arc<EdgeConfig>,
        deps: &Deps,
        clock: Clock,
        prepared: Vec<Prepared>,
        mut shared: Shared,
        secrets: Secrets,
        tasks: TaskTracker,
    ) -> Result<(Self, Failure), StartError> {
        let across = shared.across.take();
        let limits = shared.limits.clone();
        let count = prepared.len();
        let addresses = addresses(&prepared)?;
        let counts: Arc<[Arc<Counts>]> =
            (0..count).map(|_| Arc::default()).chain([Arc::clone(&limits.counts)]).collect();
        counts::export(&deps.meter, &counts);
        counts::export_store(&deps.meter, deps.store.clone());

        let stop = CancellationToken::new();
        let (to_fleet, from_shards) = mpsc::channel(FLEET);
        let (commands, asked) = mpsc::channel(COMMANDS);
        let links: Vec<ShardLink> = prepared.iter().map(|shard| shard.link.clone()).collect();
        let peers: Vec<PeerShard> = prepared.iter().map(|shard| shard.peer.clone()).collect();
        let (applied, seen) = (shared.applied.clone(), shared.applied.subscribe());
        let common = Common::new(&config, deps, clock, tasks.clone(), to_fleet, shared, secrets)?;
        let (failure, failed) = oneshot::channel();
        let failure = Arc::new(std::sync::Mutex::new(Some(failure)));
        let mut shards = Vec::with_capacity(count);
        for (number, shard) in prepared.into_iter().enumerate() {
            let counts = Arc::clone(counts.get(number).ok_or_else(no_shard)?);
            match common.spawn(number, shard, counts, peers.clone(), Arc::clone(&failure)) {
                Ok(running) => shards.push(running),
                Err(error) => {
                    // The ones that run end when their inbox says so.
                    for running in &shards {
                        running.link.try_stop();
                    }
                    return Err(error);
                }
            }
        }
        drop(common);
        let (batches, revocations) = mpsc::channel(16);
        let following = revocations::follow(deps.store.clone(), batches, stop.clone());
        tasks.spawn(alarmed(Alarm(Arc::clone(&failure)), following));
        tasks.spawn(revocations::report(deps.store.clone(), config.name(), seen, stop.clone()));
        tasks.spawn(limits.tenants.keep(stop.clone()));
        let bounds = Bounds::new(&config, limits.counts);
        let fleet = Fleet::new(deps.store.clone(), clock, links, bounds, applied, tasks.clone(), across);
        tasks.spawn(alarmed(Alarm(Arc::clone(&failure)), fleet.run(from_shards, asked, revocations)));
        let handle = EdgeHandle { addresses, commands, counts };
        let writers: Vec<_> = shards.iter().map(|shard| Arc::clone(&shard.writer)).collect();
        counts::export_writers(&deps.meter, &writers);
        let edge =
            Self { handle, config, clock, shards, stop, tasks, failed: Some(failed), writers, joined: None };
        Ok((edge, failure))
    }

    /// The way into it.
    #[must_use]
    pub fn handle(&self) -> EdgeHandle {
        self.handle.clone()
    }

    /// Waits until all writers know the topics and may write, so that the first record of a device waits for its commit alone, and, as
    /// one of many pods, until a slot is served here, where sessions can be born. `false` when that took too long: records then wait for
    /// Kafka, as ever.
    pub async fn warm(&self, within: Duration) -> bool {
        let mut waiting = tokio::task::JoinSet::new();
        for writer in &self.writers {
            let writer = Arc::clone(writer);
            waiting.spawn_blocking(move || writer.await_warm(within));
        }
        let serves = async {
            match &self.joined {
                Some(joined) => joined.serves(within).await,
                None => true,
            }
        };
        let (writers, serves) = tokio::join!(waiting.join_all(), serves);
        serves && writers.into_iter().all(|warm| warm)
    }

    /// How the deployment looks from here; `None` where there are no other pods.
    pub(crate) fn view(&self) -> Option<watch::Receiver<Arc<sluice_peers::View>>> {
        self.joined.as_ref().map(Joined::view)
    }

    /// Waits until a part of the edge ends by itself, which is a fault; never otherwise. Drain it then.
    pub async fn failure(&mut self) {
        if let Some(failed) = &mut self.failed
            && failed.await.is_ok()
        {
            self.failed = None;
            return;
        }
        std::future::pending().await
    }

    /// Ends it: nobody new, then what was received is committed, devices are told, the writers flush. Bounded by the configured
    /// deadline.
    pub async fn drain(mut self) -> Ending {
        for shard in &self.shards {
            shard.link.send(ToShard::StopAccepting).await;
        }
        let (begun, drain) = (self.clock.now(), &self.config.drain);
        let slots = async {
            if let Some(joined) = &self.joined {
                // Devices that the balancer still sends here are relayed until the end.
                joined.drain(drain.notice + drain.deadline / 2).await;
            }
        };
        tokio::join!(slots, tokio::time::sleep(drain.notice));
        // Slots that took longer than the notice have used some of the deadline.
        let over = (self.clock.now() - begun).saturating_sub(drain.notice);
        let deadline = drain.deadline.saturating_sub(over);
        let until = self.clock.now() + deadline.saturating_sub(RESERVE);
        for shard in &self.shards {
            shard.link.send(ToShard::Farewell { until }).await;
        }
        let deadline = tokio::time::sleep(deadline);
        tokio::pin!(deadline);
        let (mut unknown_records, mut late) = (0, false);
        for Running { link, mut ended, .. } in std::mem::take(&mut self.shards) {
            let given_up = tokio::select! {
                given_up = &mut ended => given_up.unwrap_or(0),
                () = &mut deadline, if !late => {
                    late = true;
                    link.send(ToShard::Stop).await;
                    ended.await.unwrap_or(0)
                }
            };
            unknown_records += given_up;
        }
        self.stop.cancel();
        if let Some(joined) = self.joined.take() {
            joined.leave().await;
        }
        self.tasks.close();
        // Look-ups have their own time limits; what still runs serves nobody.
        let _ = tokio::time::timeout(RESERVE, self.tasks.wait()).await;
        if late || unknown_records > 0 { Ending::Late { unknown_records } } else { Ending::Complete }
    }
}

/// An edge that is dropped instead of drained stops at once: nothing more is acknowledged, devices come again.
impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.cancel();
        for shard in &self.shards {
            shard.link.try_stop();
        }
    }
}

fn prepare_all(sockets: Vec<ShardSockets>) -> io::Result<Vec<Prepared>> {
    sockets.into_iter().map(prepare).collect()
}

fn prepare(sockets: ShardSockets) -> io::Result<Prepared> {
    let poll = Poll::new()?;
    let waker = ShardWaker::Poll(Arc::new(Waker::new(poll.registry(), WAKER)?));
    let (sender, inbox) = mpsc::channel(INBOX);
    let (datagrams, relayed) = sync_channel(RELAYED);
    let (news, slots) = sync_channel(SLOT_NEWS);
    let link = ShardLink::new(sender, waker.clone());
    Ok(Prepared { poll, sockets, link, inbox, peer: PeerShard { datagrams, waker }, relayed, news, slots })
}

fn addresses(prepared: &[Prepared]) -> io::Result<Addresses> {
    let first = prepared.first().ok_or_else(no_shard)?;
    let tcp = first.sockets.tcp.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
    let udp = first.sockets.udp.as_ref().map(std::net::UdpSocket::local_addr).transpose()?;
    Ok(Addresses { tcp, udp }).inspect(|found| log_addresses(found.tcp, found.udp))
}

fn log_addresses(tcp: Option<SocketAddr>, udp: Option<SocketAddr>) {
    if let Some(address) = tcp {
        tracing::info!(%address, "listening for devices over TCP");
    }
    if let Some(address) = udp {
        tracing::info!(%address, "listening for devices over UDP");
    }
}

fn no_shard() -> io::Error {
    io::Error::other("no shard")
}

type Failure = Arc<std::sync::Mutex<Option<oneshot::Sender<()>>>>;

/// Tells that a shard, its writer, or a task without which revocations would go unheard, has ended, however it did.
struct Alarm(Failure);

async fn alarmed(alarm: Alarm, task: impl Future<Output = ()>) {
    task.await;
    drop(alarm);
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(failure) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            // In a drain nobody listens any more.
            let _ = failure.send(());
        }
    }
}

/// What all shards get a copy of.
struct Common {
    config: Arc<EdgeConfig>,
    bus: BusConfig,
    encoder: EventEncoder,
    clock: Clock,
    shared: Shared,
    secrets: Secrets,
    places: Places,
    store: Store,
    budget: Arc<Semaphore>,
    tasks: TaskTracker,
    fleet: mpsc::Sender<ToFleet>,
    runtime: Handle,
}

impl Common {
    fn new(
        config: &Arc<EdgeConfig>,
        deps: &Deps,
        clock: Clock,
        tasks: TaskTracker,
        fleet: mpsc::Sender<ToFleet>,
        shared: Shared,
        secrets: Secrets,
    ) -> Result<Self, StartError> {
        Ok(Self {
            config: Arc::clone(config),
            bus: deps.bus.clone(),
            encoder: EventEncoder::new(deps.bus.event_format)?,
            clock,
            secrets,
            places: Places::new(shared.limits.tenants.clone()),
            shared,
            store: deps.store.clone(),
            budget: Arc::new(Semaphore::new(config.handshake.key_lookups.get() as usize)),
            tasks,
            fleet,
            runtime: Handle::current(),
        })
    }

    fn spawn(
        &self,
        number: usize,
        shard: Prepared,
        counts: Arc<Counts>,
        peers: Vec<PeerShard>,
        failure: Failure,
    ) -> Result<Running, StartError> {
        let Prepared { poll, sockets, link, inbox, peer, relayed, slots, .. } = shard;
        let groups = self.config.limits.groups_per_shard.get() as usize;
        let (returned, settled) = sync_channel(groups);
        let settle = settle(returned, peer.waker, self.shared.settling, Alarm(Arc::clone(&failure)));
        let writer = Writer::start(&format!("kafka-{number}"), &self.bus, settle)?;
        let stats = Arc::clone(writer.stats());
        let core = Core::new(Parts {
            shard: number as u16,
            config: Arc::clone(&self.config),
            clock: self.clock,
            counts,
            records: Records::new(Sink::Writer(writer), self.encoder.clone(), &self.config.limits),
            slots: if self.shared.cluster.is_some() { Slots::shared() } else { Slots::Alone },
            keeper: self.shared.keepers.as_ref().map(|pool| Keeper::new(Arc::clone(pool), link.clone())),
            cluster: self.shared.cluster.clone(),
            encoder: self.encoder.clone(),
            ids: self.secrets.ids.duplicate(),
            lookups: Lookups {
                store: self.store.clone(),
                budget: Arc::clone(&self.budget),
                timeout: self.config.handshake.key_lookup_timeout,
                runtime: self.runtime.clone(),
                tasks: self.tasks.clone(),
                shard: link.clone(),
                tenants: self.shared.limits.tenants.clone(),
            },
            fleet: self.fleet.clone(),
            places: self.places.clone(),
            penalties: self.shared.limits.penalties.clone(),
            decoy: self.secrets.decoy.duplicate(),
        });
        let now_unix_s = self.clock.wall().as_millis().max(0) as u64 / 1000;
        let cookies = Cookies::new::<AwsLc>(self.secrets.cookies.duplicate(), now_unix_s);
        let inputs = Inputs { inbox, settled, relayed, slots };
        let relay = Relay::new(self.shared.map.subscribe(), self.shared.peers.as_ref());
        let (ending, ended) = oneshot::channel();
        let (started, start) = sync_channel(1);
        let turns = self.shared.pulse.part(format!("shard-{number}"));
        std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            let _alarm = Alarm(failure);
            // Made where it runs: the buffers of its system calls do not move between threads.
            let given_up = match Shard::<AwsLc>::new(core, &poll, sockets, cookies, peers, relay, inputs) {
                Ok(shard) => {
                    let _ = started.send(Ok(()));
                    shard.run(poll, &turns).unwrap_or_else(|error| {
                        tracing::error!(%error, shard = number, "a shard cannot go on");
                        0
                    })
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            // Whoever started the edge may be gone.
            let _ = ending.send(given_up);
        })?;
        start.recv().unwrap_or_else(|_| Err(io::Error::other("a shard ended at its start")))?;
        Ok(Running { link, ended, writer: stats })
    }
}

/// Gives groups back to their shard. The queue has a place for each group there is.
///
/// The alarm is the writer's: it goes with its thread, and a thread that panics lets everything go that it holds.
fn settle(
    returned: SyncSender<sluice_bus::Group>,
    waker: ShardWaker,
    settling: fn(),
    alarm: Alarm,
) -> impl FnMut(sluice_bus::Group) + Send + 'static {
    move |group| {
        let _kept = &alarm;
        settling();
        // A shard that is gone waits for nothing.
        if returned.try_send(group).is_ok() {
            let _ = waker.wake();
        }
    }
}

#[cfg(all(test, feature = "embedded-broker"))]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use sluice_bus::EmbeddedBroker;
    use sluice_store::KekRing;

    use super::*;
    use crate::config::Listen;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_panics_is_a_failure_and_the_drain_says_what_was_given_up() {
        let broker = EmbeddedBroker::start("sluice", 1).expect("a broker");
        let store = Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store");
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let deps = Deps { store, bus: broker.configure(&BusConfig::default()), meter };
        let any = Listen::On("127.0.0.1:0".parse().expect("an address"));
        let mut config = EdgeConfig { tcp: any, udp: Listen::Off, ..EdgeConfig::default() };
        config.shards = std::num::NonZeroUsize::new(1);
        // Far longer than a drain may take that has nothing to wait for.
        config.drain.deadline = Duration::from_secs(120);
        let mut edge = Edge::start_with(config, &deps, || panic!("on purpose")).expect("free ports");
        let address = edge.handle().addresses().tcp.expect("listening");
        // Version 0x01 is refused, and that is a record.
        let mut peer = std::net::TcpStream::connect(address).expect("listening");
        io::Write::write_all(&mut peer, b"UM\x01\x01\x00\x00\x00\x00\x00\x00\x00").expect("room");
        let patience = Duration::from_secs(30);
        tokio::time::timeout(patience, edge.failure()).await.expect("the writer's end is told");
        let ending = tokio::time::timeout(patience, edge.drain()).await.expect("nothing is waited for");
        let Ending::Late { unknown_records } = ending else { panic!("{ending:?}") };
        assert_eq!(unknown_records, 1);
    }
}
