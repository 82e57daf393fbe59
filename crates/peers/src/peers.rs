use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluice_types::PodId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::{HEARTBEAT, PeerConfig};
use crate::counts::{Count, PeerCounts};
use crate::identity::IdentityError;
use crate::inbound::Inbound;
use crate::liveness::{Evidence, Member, PeerState};
use crate::observer::{View, observe, within_bounds};
use crate::secret::PeerSecrets;
use crate::sender::{Outbox, PeerSender};
use crate::shared::{KafkaPulse, Senders, Shared};
use crate::tls::Tls;
use crate::{incoming, outgoing};

/// Observations that wait for the observer; links wait when it is full.
const SEEN: usize = 1024;
/// How often a fresh certificate is issued; it is valid for a day.
const REISSUE: Duration = Duration::from_secs(3600);

/// Why the peer links did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen for peers on {address}: free the address or choose another one")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No certificates.
    #[error("no identity for peer links")]
    Identity(#[from] IdentityError),
}

/// Why the peer links ended by themselves. The pod is blind without them: end it.
#[derive(Debug, thiserror::Error)]
#[error("the task `{task}` of the peer links ended by itself")]
pub struct PeersEnded {
    /// Which one.
    pub task: &'static str,
    /// The panic, if it was one.
    #[source]
    pub source: Option<tokio::task::JoinError>,
}

/// Runs the peer links of this pod; dropped, it ends them.
#[derive(Debug)]
pub struct Peers {
    handle: PeersHandle,
    task: JoinHandle<Result<(), PeersEnded>>,
    stop: Option<oneshot::Sender<()>>,
}

/// Looks at and speaks to the peers; cheap to clone.
#[derive(Debug, Clone)]
pub struct PeersHandle {
    pub(crate) address: SocketAddr,
    pub(crate) advertise: Arc<str>,
    pub(crate) senders: watch::Receiver<Arc<Senders>>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) beat: watch::Receiver<u64>,
    pub(crate) counts: Arc<PeerCounts>,
    pub(crate) kafka: Arc<KafkaPulse>,
}

impl Peers {
    /// Listens, dials every member but this pod, and watches who lives. `members` may name this pod or not; whoever fills it leaves
    /// it as it is while the records cannot be read. Give it a runtime that shares no thread with heavy work, or heartbeats are
    /// late.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: PeerConfig,
        pod: PodId,
        secrets: watch::Receiver<PeerSecrets>,
        members: watch::Receiver<Vec<Member>>,
        inbound: Arc<dyn Inbound>,
    ) -> Result<Self, StartError> {
        let mut secrets = secrets;
        let first = Tls::new(pod, &secrets.borrow_and_update().clone(), wall_clock())?;
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let advertise = match config.advertise.strip_suffix(":0") {
            Some(host) => format!("{host}:{}", address.port()).into(),
            None => config.advertise.as_str().into(),
        };

        let (tls_tx, tls) = watch::channel(Arc::new(first));
        let (seen_tx, seen) = mpsc::channel(SEEN);
        let (beat_tx, beat) = watch::channel(0);
        let (view_tx, view) = watch::channel(Arc::new(View::of(pod)));
        let (senders_tx, senders) = watch::channel(Arc::new(Senders::new()));
        let counts = Arc::new(PeerCounts::new());
        let kafka = Arc::new(KafkaPulse::new());
        let shared = Arc::new(Shared {
            me: pod,
            config,
            counts: Arc::clone(&counts),
            tls,
            members,
            inbound,
            seen: seen_tx,
            beat: beat.clone(),
            kafka: Arc::clone(&kafka),
        });

        let mut core = Core { tasks: JoinSet::new(), names: HashMap::new() };
        core.spawn("accept", incoming::accept_all(Arc::clone(&shared), listener));
        core.spawn("observe", observe(Arc::clone(&shared), seen, view_tx, senders.clone()));
        core.spawn("beat", beat_for_ever(beat_tx));
        core.spawn("identity", keep_identity(Arc::clone(&shared), secrets, tls_tx));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(core.run(shared, senders_tx, stopped));
        let handle = PeersHandle { address, advertise, senders, view, beat, counts, kafka };
        Ok(Self { handle, task, stop: Some(stop) })
    }

    /// For everybody who looks at or speaks to peers.
    #[must_use]
    pub fn handle(&self) -> PeersHandle {
        self.handle.clone()
    }

    /// Waits until a task ends that never should. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`PeersEnded`], always: end the pod.
    pub async fn ended(&mut self) -> Result<(), PeersEnded> {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(source) => Err(PeersEnded { task: "root", source: Some(source) }),
        }
    }

    /// Closes the listener and all links. Peers see their links reset and their dials refused, which is what they should see.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PeersHandle {
    /// The address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// `host:port` for the member record.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.advertise
    }

    /// The sender to one peer; `None` while it has no member record.
    #[must_use]
    pub fn sender(&self, pod: PodId) -> Option<PeerSender> {
        self.senders.borrow().get(&pod).cloned()
    }

    /// All senders by pod, whether linked or not. A thread on the packet path keeps the map it has and looks with `has_changed`,
    /// which takes no lock.
    #[must_use]
    pub fn senders(&self) -> watch::Receiver<Arc<std::collections::BTreeMap<PodId, PeerSender>>> {
        self.senders.clone()
    }

    /// Links this pod dialled that do not rest on the current secret: 0, but for the seconds after a change of secrets.
    #[must_use]
    pub fn links_by_older_secret(&self) -> usize {
        let senders = self.senders.borrow();
        senders.values().filter(|sender| sender.is_linked() && !sender.is_by_current_secret()).count()
    }

    /// Who lives, now and from now on.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// This pod's heartbeat counter, for its member record.
    #[must_use]
    pub fn counter(&self) -> u64 {
        *self.beat.borrow()
    }

    /// Milliseconds since Kafka last answered this pod, for its member record.
    #[must_use]
    pub fn kafka_ok_within_ms(&self) -> Option<u32> {
        self.kafka.age_ms()
    }

    /// Pods with a member record that this pod does not hear over a link, for its own record, by their ids; at most so many. One whose address
    /// refuses connections is known to be gone and not among them.
    #[must_use]
    pub fn unlinked(&self, most: usize) -> Vec<PodId> {
        let view = self.view.borrow();
        let lacks = |peer: &&PeerState| peer.listed && !peer.heard && peer.dead != Some(Evidence::Refused);
        view.peers.iter().filter(lacks).map(|peer| peer.pod).take(most).collect()
    }

    /// Kafka has answered this pod just now. From any thread, as often as it happens.
    pub fn kafka_answered(&self) {
        self.kafka.beat();
    }

    /// What happened on the links so far.
    #[must_use]
    pub fn counts(&self) -> &Arc<PeerCounts> {
        &self.counts
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the driver; certificates carry wall-clock dates")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

async fn beat_for_ever(beat: watch::Sender<u64>) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beat.send_modify(|counter| *counter = counter.wrapping_add(1));
    }
}

/// Makes certificates anew at every change of the ring and once an hour.
async fn keep_identity(
    shared: Arc<Shared>,
    mut secrets: watch::Receiver<PeerSecrets>,
    tls: watch::Sender<Arc<Tls>>,
) {
    loop {
        // A ring whose keeper is gone changes no more; an error is no reason to spin.
        let changed = async {
            if secrets.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = timeout(REISSUE, changed).await;
        let ring = secrets.borrow_and_update().clone();
        match Tls::new(shared.me, &ring, wall_clock()) {
            Ok(fresh) => drop(tls.send_replace(Arc::new(fresh))),
            Err(error) => {
                shared.counts.add(Count::IdentityFailed);
                tracing::error!(%error, "keeps the peer certificates it has");
            }
        }
    }
}

/// What a task was.
#[derive(Debug, Clone, Copy)]
enum Task {
    Core(&'static str),
    Peer(PodId),
}

struct Core {
    tasks: JoinSet<()>,
    names: HashMap<tokio::task::Id, Task>,
}

impl Core {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, Task::Core(name));
    }

    async fn run(
        mut self,
        shared: Arc<Shared>,
        senders: watch::Sender<Arc<Senders>>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<(), PeersEnded> {
        let mut members = shared.members.clone();
        members.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = members.changed() => {
                    let listed = members.borrow_and_update().clone();
                    self.dial_new(&shared, &senders, &listed);
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    let (id, error) = match ended {
                        Ok((id, ())) => (id, None),
                        Err(error) => (error.id(), Some(error)),
                    };
                    match self.names.remove(&id) {
                        Some(Task::Core(task)) => return Err(PeersEnded { task, source: error }),
                        Some(Task::Peer(pod)) => {
                            senders.send_modify(|senders| drop(Arc::make_mut(senders).remove(&pod)));
                            if let Some(error) = error {
                                // Not at once, or a fault that repeats would spin.
                                tracing::error!(peer = %pod, %error, "a peer's task panicked; starts at the next change of members");
                            } else {
                                // It may have been listed again in the meantime.
                                let listed = shared.members.borrow().clone();
                                self.dial_new(&shared, &senders, &listed);
                            }
                        }
                        None => {}
                    }
                }
                _ = &mut stopped => {
                    self.tasks.shutdown().await;
                    return Ok(());
                }
            }
        }
    }

    fn dial_new(&mut self, shared: &Arc<Shared>, senders: &watch::Sender<Arc<Senders>>, members: &[Member]) {
        for member in within_bounds(shared, members).iter().filter(|member| member.pod != shared.me) {
            let pod = member.pod;
            if senders.borrow().contains_key(&pod) || senders.borrow().len() >= shared.config.max_peers {
                continue;
            }
            let (outbox, queue) = Outbox::new(pod, shared.config.ring, Arc::clone(&shared.counts));
            senders.send_modify(|senders| {
                Arc::make_mut(senders).insert(pod, PeerSender(Arc::clone(&outbox)));
            });
            let id = self.tasks.spawn(outgoing::keep(Arc::clone(shared), outbox, queue)).id();
            self.names.insert(id, Task::Peer(pod));
        }
    }
}
