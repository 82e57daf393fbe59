//! Which device has which session, over all shards: take-over, revocation, half-open sessions, the way to a device.
//!
//! One task owns the directory. It hears of each session four times in its life, never of a packet.

mod across;
mod directory;
mod holds;
mod sweep;
mod unclaimed;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sluice_proto::events::v1::CloseReason;
use sluice_store::{Claim, HoldReason, KeyLookup, LogPosition, RevocationBatch, Store, StoreError};
use sluice_types::{DeviceEpoch, DeviceId, SessionId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;
use usmp::Instant;

pub(crate) use self::across::Across;
use self::across::Holder;
use self::directory::Directory;
pub(crate) use self::holds::Bounds;
use self::sweep::Sweep;
use self::unclaimed::Unclaimed;
use crate::clock::Clock;
use crate::link::{Command, SendError, SessionRef, ShardLink, ToFleet, ToShard};

/// How long a revocation is remembered against sessions whose keys were looked up before it: longer than any handshake.
const REMEMBERED: Duration = Duration::from_secs(120);

/// Revocations remembered so; beyond that every session born of an older look-up is looked up again.
const MAX_REMEMBERED: usize = 65_536;

/// Store calls at once for take-over and re-checks, apart from the look-ups of handshakes.
const STORE_CALLS: usize = 64;

/// What store calls give back.
enum Answer {
    Epoch {
        device: DeviceId,
        session: SessionRef,
        epoch: Result<DeviceEpoch, StoreError>,
    },
    Claim {
        unclaimed: Unclaimed,
        claim: Result<Claimed, StoreError>,
    },
    /// Another session of the device spoke later, and has this number.
    Older {
        unclaimed: Unclaimed,
        by: DeviceEpoch,
    },
    Holder {
        device: DeviceId,
        session: SessionRef,
        holder: Result<Holder, StoreError>,
    },
    OverRate {
        device: DeviceId,
        session: SessionRef,
        over: Result<bool, StoreError>,
    },
    Quarantined {
        device: DeviceId,
        held: Result<(), StoreError>,
    },
    MayConnect {
        device: DeviceId,
        answer: Result<KeyLookup, StoreError>,
    },
}

/// A session's number, and whether its device is refused meanwhile.
type Claimed = (Claim, Option<HoldReason>);

pub(crate) struct Fleet {
    store: Store,
    clock: Clock,
    shards: Vec<ShardLink>,
    bounds: Bounds,
    directory: Directory,
    revoked: HashMap<DeviceId, Instant>,
    /// Look-ups before this are no longer covered by `revoked`.
    forgotten_before: Instant,
    /// How far the revocation log is applied.
    applied: watch::Sender<LogPosition>,
    store_calls: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    answered: mpsc::Receiver<Answer>,
    tasks: TaskTracker,
    sweep: Sweep,
    unclaimed: VecDeque<Unclaimed>,
    /// Where devices may have sessions at other pods.
    across: Option<Across>,
}

impl Fleet {
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        shards: Vec<ShardLink>,
        bounds: Bounds,
        applied: watch::Sender<LogPosition>,
        tasks: TaskTracker,
        across: Option<Across>,
    ) -> Self {
        let (answers, answered) = mpsc::channel(STORE_CALLS);
        Self {
            store,
            clock,
            shards,
            bounds,
            directory: Directory::default(),
            revoked: HashMap::new(),
            forgotten_before: Instant::from_micros(0),
            applied,
            store_calls: Arc::new(Semaphore::new(STORE_CALLS)),
            answers,
            answered,
            tasks,
            sweep: Sweep::default(),
            unclaimed: VecDeque::new(),
            across,
        }
    }

    /// Runs until every shard is gone.
    pub(crate) async fn run(
        mut self,
        mut from_shards: mpsc::Receiver<ToFleet>,
        mut commands: mpsc::Receiver<Command>,
        mut revocations: mpsc::Receiver<RevocationBatch>,
    ) {
        let mut each = tokio::time::interval(across::EACH);
        each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // What is rare first; what others can make many of last.
            tokio::select! {
                biased;
                _ = each.tick() => {
                    self.renew_some();
                    self.claim_some();
                    self.sweep_on();
                }
                Some(batch) = revocations.recv() => self.apply(batch).await,
                Some(answer) = self.answered.recv() => self.answer(answer).await,
                message = from_shards.recv() => match message {
                    Some(message) => self.heard(message).await,
                    None => break,
                },
                Some(command) = commands.recv() => self.command(command).await,
            }
        }
    }

    async fn heard(&mut self, message: ToFleet) {
        match message {
            ToFleet::Born { session, device, id, looked_up } => {
                self.born(session, device, id, looked_up).await;
                self.count_opened(session, device);
            }
            ToFleet::Established { session, device } => self.established(session, device),
            ToFleet::Resumed { session, device, id, may_connect: false, .. } => {
                self.directory.born(session, device, id);
                self.close(session, CloseReason::Revoked).await;
            }
            ToFleet::Resumed { session, device, id, established, epoch, looked_up, .. } => {
                self.born(session, device, id, looked_up).await;
                self.resumed(session, device, epoch, established).await;
            }
            ToFleet::Parted { session, device, mark } => {
                self.directory.parted(session, device, mark);
                self.let_go(device).await;
            }
            ToFleet::Ended { session, device, moved } => {
                if !moved {
                    self.release(session, device);
                }
                self.directory.ended(session, device);
                self.let_go(device).await;
            }
            ToFleet::Settled { writer, up_to } => {
                for device in self.directory.settled(writer, up_to) {
                    self.let_go(device).await;
                }
            }
        }
    }

    /// Tells the sessions of a device whose turn has come.
    async fn let_go(&mut self, device: DeviceId) {
        while let Some(session) = self.directory.next_turn(device) {
            if let Some(shard) = self.shards.get(usize::from(session.shard)) {
                shard.send(ToShard::Go { session }).await;
            }
        }
    }

    async fn born(&mut self, session: SessionRef, device: DeviceId, id: SessionId, looked_up: Instant) {
        self.directory.born(session, device, id);
        // A revocation that came between the look-up and now found no session to close.
        if self.revoked.get(&device).is_some_and(|&at| at >= looked_up) {
            self.close(session, CloseReason::Revoked).await;
            return;
        }
        if looked_up < self.forgotten_before {
            self.check_again(device);
        }
        self.let_go(device).await;
        for session in self.directory.surplus(device, self.bounds.half_open_per_device()) {
            self.close(session, CloseReason::NeverEstablished).await;
        }
    }

    /// A session came from another pod. A newer one of its device may be here already.
    async fn resumed(
        &mut self,
        session: SessionRef,
        device: DeviceId,
        epoch: DeviceEpoch,
        established: bool,
    ) {
        let ends = self.directory.resumed(session, device, epoch);
        if let Some(ends) = ends {
            self.close(ends, CloseReason::TakenOver).await;
        }
        if ends != Some(session) {
            if established {
                self.directory.established(session, device);
            }
            self.ask_whether_it_holds(session, device);
        }
    }

    /// The store numbers the device's sessions; the one with the highest number stays.
    fn established(&mut self, session: SessionRef, device: DeviceId) {
        if !self.directory.established(session, device) {
            return;
        }
        let store = self.store.clone();
        let Some((me, id)) = self.across.as_ref().map(Across::me).zip(self.directory.id(session, device))
        else {
            return self.ask(async move {
                Answer::Epoch { device, session, epoch: store.take_device_epoch(device).await }
            });
        };
        let unclaimed = Unclaimed { device, session, id, since: self.clock.wall() };
        self.ask(async move {
            let claim = across::claim(&store, me, device, id).await;
            Answer::Claim { unclaimed, claim }
        });
    }

    fn ask(&self, question: impl Future<Output = Answer> + Send + 'static) {
        let (permits, answers) = (Arc::clone(&self.store_calls), self.answers.clone());
        self.tasks.spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            let answer = question.await;
            // The fleet is gone when nobody listens.
            let _ = answers.send(answer).await;
        });
    }

    async fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Epoch { device, session, epoch } => {
                let epoch = epoch.inspect_err(not_numbered).map_or(0, |epoch| epoch.0);
                self.take_over(device, session, epoch).await;
            }
            Answer::Claim { unclaimed, claim } => self.claimed(unclaimed, claim).await,
            Answer::Older { unclaimed, by } => self.displaced(unclaimed.device, unclaimed.id, by).await,
            Answer::Holder { device, session, holder } => self.found_holder(device, session, holder).await,
            Answer::OverRate { device, session, over } => self.counted(device, session, over).await,
            Answer::Quarantined { device, held } => self.quarantined(device, held).await,
            Answer::MayConnect { device, answer } => {
                // Not known is not revoked: live sessions go on while the store is away.
                let is_known = answer.is_ok();
                if answer.is_ok_and(|found| !matches!(found, KeyLookup::Known(_))) {
                    self.close_all(device, CloseReason::Revoked).await;
                }
                self.looked_at(device, is_known);
            }
        }
    }

    async fn take_over(&mut self, device: DeviceId, session: SessionRef, epoch: u64) {
        for (session, reason) in self.directory.take_over(session, device, epoch) {
            self.close(session, reason).await;
        }
    }

    async fn apply(&mut self, batch: RevocationBatch) {
        let now = self.clock.now();
        for entry in &batch.entries {
            self.revoked.insert(entry.device, now);
            self.close_all(entry.device, CloseReason::Revoked).await;
        }
        if self.revoked.len() > MAX_REMEMBERED {
            self.revoked.retain(|_, at| now - *at < REMEMBERED);
        }
        if self.revoked.len() > MAX_REMEMBERED {
            self.revoked.clear();
            self.forgotten_before = now;
        }
        if batch.missed || batch.distrusted > 0 {
            self.forgotten_before = now;
            self.check_all();
        }
        self.applied.send_replace(batch.position);
    }

    async fn close_all(&self, device: DeviceId, reason: CloseReason) {
        for session in self.directory.sessions(device) {
            self.close(session, reason).await;
        }
    }

    async fn close(&self, session: SessionRef, reason: CloseReason) {
        if let Some(shard) = self.shards.get(usize::from(session.shard)) {
            shard.send(ToShard::Close { session, reason }).await;
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Connected { device, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.directory.current(device).is_some());
            }
            Command::Displaced { device, session, by } => self.displaced(device, session, by).await,
            Command::Send { device, payload, done } => {
                let found = self.directory.current(device);
                let Some((session, shard)) =
                    found.and_then(|session| Some((session, self.shards.get(usize::from(session.shard))?)))
                else {
                    let _ = done.send(Err(SendError::NotConnected));
                    return;
                };
                shard.send(ToShard::Send { session, payload, done }).await;
            }
        }
    }
}

fn not_numbered(error: &StoreError) {
    tracing::warn!(%error, "a session has no number yet: until the store answers, take-over goes by the order of arrival in this process");
}
