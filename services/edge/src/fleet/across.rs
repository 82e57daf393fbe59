//! Take-over between pods: the store numbers a device's sessions and says which one the newest displaces; the pod that has it is told.
//!
//! What is told may be lost with a link. It is found out again when the session wakes elsewhere, and by the round that renews what the
//! sessions of this pod hold.

use std::sync::Arc;
use std::time::Duration;

use sluice_peers::{Control, PeersHandle};
use sluice_proto::events::v1::CloseReason;
use sluice_store::{DeviceLocation, Store, StoreError};
use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId};
use tokio::sync::watch;

use super::{Answer, Claimed, Fleet, Unclaimed, holds, not_numbered};
use crate::cluster::{Place, SlotMap};
use crate::link::{SessionRef, ToShard};
use crate::session_ids::slot_in;

/// How long a session holds its device without renewing it. While it does, the one that takes its place is told of it.
pub(super) const HOLD: Duration = Duration::from_secs(24 * 3600);

/// In which time all holds of this pod are renewed.
const RENEWED_WITHIN: Duration = Duration::from_secs(6 * 3600);

/// Pause between two steps of that.
pub(super) const EACH: Duration = Duration::from_secs(1);

/// Displacements of a device within ten minutes from which on two holders of its key are suspected: a device that restarts or loses its
/// network has fewer.
const CLONE_FROM: u32 = 6;

/// The way to the other pods.
#[derive(Debug)]
pub(crate) struct Across {
    me: PodId,
    peers: PeersHandle,
    slots: watch::Receiver<Arc<SlotMap>>,
    renewals: Renewals,
}

impl Across {
    pub(crate) fn new(peers: PeersHandle, slots: watch::Receiver<Arc<SlotMap>>) -> Self {
        let me = peers.view().borrow().me;
        Self { me, peers, slots, renewals: Renewals::default() }
    }

    pub(super) const fn me(&self) -> PodId {
        self.me
    }

    fn place(&self, session: SessionId) -> Place {
        self.slots.borrow().of(slot_in(session.prefix()))
    }

    /// Tells whoever may have the session: the pod that the store names, and the one that serves the session's slot now.
    fn tell(&self, device: DeviceId, old: &DeviceLocation, epoch: DeviceEpoch) {
        let owner = match self.place(old.session) {
            Place::Pod(pod) => Some(pod),
            Place::Shard(_) | Place::Nowhere => None,
        };
        for pod in others(self.me, old.pod, owner) {
            let reason = CloseReason::TakenOver as u8;
            let close = Control::CloseSession { device, session: old.session, epoch, reason };
            // Without a link the pod is dead or cannot be reached: see the top of this file.
            if let Some(sender) = self.peers.sender(pod)
                && let Err(error) = sender.try_control(close)
            {
                tracing::debug!(%error, %pod, "a pod was not told of a session that was taken over");
            }
        }
    }
}

/// Whom to tell: each once, and not this pod.
fn others(me: PodId, holder: PodId, owner: Option<PodId>) -> impl Iterator<Item = PodId> {
    let owner = owner.filter(|owner| *owner != holder);
    [Some(holder), owner].into_iter().flatten().filter(move |pod| *pod != me)
}

/// Who holds a device, as asked for one of its sessions.
#[derive(Debug)]
pub(super) enum Holder {
    /// The session itself.
    Itself,
    /// Nobody: the store forgot, or the time ran out.
    Nobody,
    Other(DeviceLocation),
}

/// Renews what a session holds, or finds out who holds it instead.
pub(super) async fn still_held(
    store: &Store,
    me: PodId,
    device: DeviceId,
    session: SessionId,
) -> Result<Holder, StoreError> {
    if store.renew_device(device, me, session, HOLD).await? {
        return Ok(Holder::Itself);
    }
    Ok(store.device_location(device).await?.map_or(Holder::Nobody, Holder::Other))
}

/// Takes a device over for a session. One whose keys were looked up before its device was to be refused finds that out here.
pub(super) async fn claim(
    store: &Store,
    me: PodId,
    device: DeviceId,
    session: SessionId,
) -> Result<Claimed, StoreError> {
    let claim = store.claim_device(device, me, session, HOLD).await?;
    let hold = store.device_hold(device).await?;
    Ok((claim, hold.map(|hold| hold.reason)))
}

/// Goes through all that hold something, a few at a time.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    left: Vec<(DeviceId, SessionRef)>,
    /// Steps until all are through.
    steps: u32,
}

impl Renewals {
    /// What is to be renewed in this step.
    fn step<I>(&mut self, all: impl FnOnce() -> I) -> Vec<(DeviceId, SessionRef)>
    where
        I: Iterator<Item = (DeviceId, SessionRef)>,
    {
        if self.steps == 0 {
            self.left = all().collect();
            self.steps = (RENEWED_WITHIN.as_secs() / EACH.as_secs()) as u32;
        }
        let now = self.left.len().div_ceil(self.steps as usize);
        self.steps -= 1;
        self.left.split_off(self.left.len() - now)
    }
}

impl Fleet {
    /// The store has numbered a session that has spoken, or will be asked again.
    pub(super) async fn claimed(&mut self, unclaimed: Unclaimed, claim: Result<Claimed, StoreError>) {
        let Unclaimed { device, session, id, .. } = unclaimed;
        let Ok((claim, hold)) = claim.inspect_err(not_numbered) else {
            // One at most for each session: the next answer comes when this was asked again.
            self.unclaimed.push_back(unclaimed);
            return self.take_over(device, session, 0).await;
        };
        let epoch = claim.epoch;
        if self.directory.id(session, device) != Some(id) {
            // It ended meanwhile, and gave nothing back then.
            self.release_held(device, id);
        }
        self.take_over(device, session, epoch.0).await;
        let clone_suspected = claim.displaced_recently >= CLONE_FROM;
        if let Some(shard) = self.shards.get(usize::from(session.shard)) {
            shard.send(ToShard::Claimed { session, epoch, clone_suspected }).await;
        }
        if let Some(old) = claim.previous.filter(|old| old.session != id) {
            self.displaced(device, old.session, epoch).await;
            if let Some(across) = &self.across {
                across.tell(device, &old, epoch);
            }
            if clone_suspected {
                self.quarantine(device);
            }
        }
        if let Some(reason) = hold {
            self.close(session, holds::why(reason)).await;
        }
    }

    /// A session has a successor of this number at some pod: it is closed if it is here, awake or asleep.
    pub(super) async fn displaced(&mut self, device: DeviceId, id: SessionId, by: DeviceEpoch) {
        if let Some(session) = self.directory.displaced(device, id, by) {
            return self.close(session, CloseReason::TakenOver).await;
        }
        let place = self.across.as_ref().map(|across| across.place(id));
        if let Some(Place::Shard(shard)) = place
            && let Some(shard) = self.shards.get(usize::from(shard))
        {
            shard.send(ToShard::CloseSleeping { device, session: id }).await;
        }
    }

    /// A session is over: another pod need not be told of it any more.
    pub(super) fn release(&self, session: SessionRef, device: DeviceId) {
        if let Some((id, _)) = self.directory.holds(session, device) {
            self.release_held(device, id);
        }
    }

    fn release_held(&self, device: DeviceId, id: SessionId) {
        if self.across.is_none() {
            return;
        }
        let (store, permits) = (self.store.clone(), Arc::clone(&self.store_calls));
        self.tasks.spawn(async move {
            let Ok(_permit) = permits.acquire().await else { return };
            if let Err(error) = store.release_device(device, id).await {
                tracing::debug!(%error, "what a session held stays until it expires");
            }
        });
    }

    /// Takes the next step of renewing what the sessions here hold.
    pub(super) fn renew_some(&mut self) {
        let Some(across) = &mut self.across else { return };
        for (device, session) in across.renewals.step(|| self.directory.holders()) {
            self.ask_whether_it_holds(session, device);
        }
    }

    pub(super) fn ask_whether_it_holds(&self, session: SessionRef, device: DeviceId) {
        let me = self.across.as_ref().map(Across::me);
        if let (Some(me), Some((id, _))) = (me, self.directory.holds(session, device)) {
            let store = self.store.clone();
            self.ask(async move {
                let holder = still_held(&store, me, device, id).await;
                Answer::Holder { device, session, holder }
            });
        }
    }

    pub(super) async fn found_holder(
        &mut self,
        device: DeviceId,
        session: SessionRef,
        holder: Result<Holder, StoreError>,
    ) {
        match holder {
            Ok(Holder::Itself | Holder::Nobody) => {}
            Ok(Holder::Other(other)) => {
                let here = self.directory.holds(session, device);
                if let Some((id, _)) = here.filter(|(_, epoch)| *epoch < other.epoch) {
                    self.displaced(device, id, other.epoch).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the store does not say who holds a device; its session goes on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_store::KekRing;

    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([2, 0, 0, 0, 0, 1]);

    fn pod(byte: u8) -> PodId {
        PodId::from_bytes([byte; 16])
    }

    fn id(byte: u8) -> SessionId {
        SessionId::from_bytes([byte; 16])
    }

    #[test]
    fn the_holder_and_the_owner_of_the_slot_are_told_once_each() {
        let told = |holder, owner: Option<u8>| -> Vec<PodId> {
            others(pod(1), pod(holder), owner.map(pod)).collect()
        };
        assert_eq!(told(2, None), [pod(2)]);
        assert_eq!(told(2, Some(2)), [pod(2)]);
        assert_eq!(told(2, Some(3)), [pod(2), pod(3)]);
        assert_eq!(told(1, Some(3)), [pod(3)]);
        assert_eq!(told(1, None), []);
    }

    #[test]
    fn every_hold_is_renewed_in_a_round_and_no_step_takes_them_all() {
        let all = |count: u32| {
            (0..count).map(|serial| (DEVICE, SessionRef { shard: 0, tcp: true, index: serial, serial }))
        };
        for count in [0, 1, 50_000, 250_000] {
            let mut renewals = Renewals::default();
            let mut seen = std::collections::HashSet::new();
            let first = renewals.step(|| all(count));
            seen.extend(first);
            while renewals.steps > 0 {
                let step = renewals.step(|| -> std::iter::Empty<_> { panic!("in the middle of a round") });
                assert!(step.len() <= count as usize / 21_000 + 1, "{} at once of {count}", step.len());
                seen.extend(step);
            }
            assert_eq!(seen.len(), count as usize);
        }
    }

    #[tokio::test]
    async fn a_session_learns_that_another_pod_has_its_device() {
        let store = Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store");
        let held = |pod, session| {
            let store = store.clone();
            async move { still_held(&store, pod, DEVICE, session).await.expect("a store in memory") }
        };
        assert!(matches!(held(pod(1), id(1)).await, Holder::Nobody), "a store that forgot says nothing");
        let first = store.claim_device(DEVICE, pod(1), id(1), HOLD).await.expect("a store in memory");
        assert!(matches!(held(pod(1), id(1)).await, Holder::Itself));
        // The session moves with its slot, and is found where it is now.
        assert!(matches!(held(pod(2), id(1)).await, Holder::Itself));
        let second = store.claim_device(DEVICE, pod(3), id(2), HOLD).await.expect("a store in memory");
        assert_eq!(second.previous.map(|old| (old.pod, old.session)), Some((pod(2), id(1))));
        match held(pod(2), id(1)).await {
            Holder::Other(other) => {
                assert_eq!((other.session, other.epoch), (id(2), second.epoch));
                assert!(first.epoch < other.epoch);
            }
            holder => panic!("{holder:?}"),
        }
    }
}
