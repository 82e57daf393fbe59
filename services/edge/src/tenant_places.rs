//! Places for sessions of a tenant, out of a number for all pods together: leased from the store in blocks, handed out here.
//!
//! A lease is asked for where the keys of a handshake are looked up, and renewed by a task of its own, so no shard waits for the store and
//! no record costs an operation. While the store is away what is leased can still be handed out until the lease is over; then nobody new
//! comes in, and sessions that are open go on. A dead pod's places are free when its lease ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_store::Store;
use sluice_types::{PodId, TenantId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use usmp::Instant;

use crate::clock::Clock;
use crate::counts::{Count, Counts};

/// How long places are leased; a dead pod's are free after it.
const LEASE: Duration = Duration::from_secs(30);
/// For so much of that they are handed out: the store's clock may be a little faster than ours.
const USED_FOR: Duration = Duration::from_secs(25);
/// What is left of it when it is renewed.
const RENEWED_AT: Duration = Duration::from_secs(10);
/// How often all leases are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// For so long the store is not asked again that had fewer places than were wanted.
const FULL: Duration = Duration::from_millis(500);
/// Tenants about which the store is asked at once: a slow one must not take longer for a round than leases are used.
const AT_ONCE: usize = 16;

/// What one process has of a tenant.
#[derive(Debug, Default)]
struct Share {
    /// Sessions here.
    used: u32,
    /// Handshakes that may become sessions soon, at most a block.
    coming: u32,
    granted: u32,
    /// Places are handed out until then.
    until: Option<Instant>,
    /// The store had too few: not asked before.
    not_before: Option<Instant>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Share {
    fn in_force(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn free(&self, now: Instant) -> u32 {
        if self.in_force(now) { self.granted.saturating_sub(self.used) } else { 0 }
    }

    fn wanted(&self, block: u32) -> u32 {
        self.used.saturating_add(self.coming).saturating_add(block)
    }
}

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Clock,
    counts: Arc<Counts>,
    me: PodId,
    limit: u32,
    /// Tenants of the registry that have sessions here, or had lately.
    shares: Mutex<HashMap<TenantId, Share>>,
}

/// Clones mean the same places.
#[derive(Debug, Clone)]
pub(crate) struct TenantPlaces(Option<Arc<Inner>>);

impl TenantPlaces {
    /// Any number for anybody.
    pub(crate) const fn unlimited() -> Self {
        Self(None)
    }

    /// `limit` for each tenant at all processes of this store together; this one is `me` among them.
    pub(crate) fn new(store: Store, clock: Clock, counts: Arc<Counts>, me: PodId, limit: u32) -> Self {
        Self(Some(Arc::new(Inner { store, clock, counts, me, limit, shares: Mutex::default() })))
    }

    /// Sees to it that there is a place for a session that may come, if the tenant has one left. `false` when the store does not answer
    /// and nothing is at hand.
    pub(crate) async fn prepare(&self, tenant: &TenantId) -> bool {
        let Some(inner) = &self.0 else { return true };
        let asking = {
            let mut shares = inner.shares();
            let share = shares.entry(tenant.clone()).or_default();
            share.coming = share.coming.saturating_add(1).min(inner.block());
            if share.free(inner.clock.now()) >= share.coming {
                return true;
            }
            Arc::clone(&share.asking)
        };
        let _one_at_a_time = asking.lock().await;
        let now = inner.clock.now();
        let answered = |share: &Share| {
            share.free(now) >= share.coming || share.not_before.is_some_and(|not_before| now < not_before)
        };
        if inner.shares().get(tenant).is_some_and(answered) {
            return true;
        }
        inner.lease(tenant).await || inner.shares().get(tenant).is_some_and(|share| share.free(now) > 0)
    }

    /// Takes a place for a session; `false` when none is leased.
    pub(crate) fn take(&self, tenant: Option<&TenantId>) -> bool {
        let (Some(inner), Some(tenant)) = (&self.0, tenant) else { return true };
        let now = inner.clock.now();
        let mut shares = inner.shares();
        let Some(share) = shares.get_mut(tenant).filter(|share| share.free(now) > 0) else { return false };
        share.used += 1;
        share.coming = share.coming.saturating_sub(1);
        true
    }

    /// A session came from another pod: it is not refused, and its place is leased with the next renewal, if there is one.
    pub(crate) fn came(&self, tenant: Option<&TenantId>) {
        if let (Some(inner), Some(tenant)) = (&self.0, tenant) {
            let mut shares = inner.shares();
            let share = shares.entry(tenant.clone()).or_default();
            share.used = share.used.saturating_add(1);
        }
    }

    /// A session is over here.
    pub(crate) fn give_back(&self, tenant: Option<&TenantId>) {
        if let (Some(inner), Some(tenant)) = (&self.0, tenant)
            && let Some(share) = inner.shares().get_mut(tenant)
        {
            share.used = share.used.saturating_sub(1);
        }
    }

    /// Renews what is needed and gives back what is not, until told to stop; then everything.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let Some(inner) = self.0 else { return };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let round = async {
                look.tick().await;
                inner.look().await;
            };
            tokio::select! {
                () = round => {}
                // A round that a store which is away makes long is not waited for.
                () = stop.cancelled() => break,
            }
        }
        let tenants: Vec<_> = inner.shares().keys().cloned().collect();
        for tenant in tenants {
            // One that cannot be given back ends by itself.
            if inner.give_up(&tenant).await.is_err() {
                return;
            }
        }
    }
}

impl Inner {
    fn shares(&self) -> MutexGuard<'_, HashMap<TenantId, Share>> {
        // Each change is whole before the next begins, so a panic elsewhere leaves nothing half-done.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places leased beyond the sessions that are there: few of a small number, for what one pod has to spare another one lacks.
    fn block(&self) -> u32 {
        (self.limit / 32).clamp(1, 256)
    }

    async fn look(self: &Arc<Self>) {
        let now = self.clock.now();
        let (mut idle, mut due) = (Vec::new(), Vec::new());
        for (tenant, share) in self.shares().iter_mut() {
            if share.used == 0 && share.coming == 0 {
                idle.push(tenant.clone());
            } else if share.until.is_none_or(|until| until <= now + RENEWED_AT) {
                due.push(tenant.clone());
            }
            // Handshakes that came to nothing are forgotten little by little.
            share.coming -= share.coming.div_ceil(8);
        }
        // What runs out comes before what can wait.
        self.each(due, async |inner, tenant| inner.renew(&tenant).await).await;
        self.each(idle, async |inner, tenant| inner.leave(&tenant).await).await;
    }

    /// Does this for each of them, [`AT_ONCE`]; what fails for one of them is no matter of the others.
    async fn each<W>(self: &Arc<Self>, tenants: Vec<TenantId>, work: impl Fn(Arc<Self>, TenantId) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = JoinSet::new();
        for tenant in tenants {
            if under_way.len() >= AT_ONCE {
                under_way.join_next().await;
            }
            under_way.spawn(work(Arc::clone(self), tenant));
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Leases again what a tenant needs.
    async fn renew(&self, tenant: &TenantId) {
        let asking = self.shares().get(tenant).map(|share| Arc::clone(&share.asking));
        let Some(asking) = asking else { return };
        let _one_at_a_time = asking.lock().await;
        // One that fails is counted, and due again.
        let _ = self.lease(tenant).await;
    }

    /// Gives back the places of a tenant that has no session here, and forgets it.
    async fn leave(&self, tenant: &TenantId) {
        let asking = self.shares().get(tenant).map(|share| Arc::clone(&share.asking));
        let Some(asking) = asking else { return };
        let Ok(_one_at_a_time) = asking.try_lock() else { return };
        {
            let mut shares = self.shares();
            let Some(share) = shares.get_mut(tenant).filter(|share| share.used == 0 && share.coming == 0)
            else {
                return;
            };
            // From here on none is handed out, so what is given back is not used. The share stays: who wants a place meanwhile waits
            // until the store has answered, and what it then leases is not taken away by what we say now.
            (share.granted, share.until) = (0, None);
        }
        if self.give_up(tenant).await.is_err() {
            // The next look tries again: nobody knows whether the store has heard of it.
            return;
        }
        let mut shares = self.shares();
        // Whoever waits has the same lock as we do, and needs the share that it is of.
        let nobody =
            |share: &Share| share.used == 0 && share.coming == 0 && Arc::strong_count(&share.asking) == 2;
        if shares.get(tenant).is_some_and(nobody) {
            shares.remove(tenant);
        }
    }

    async fn give_up(&self, tenant: &TenantId) -> Result<(), sluice_store::StoreError> {
        self.store.lease_places(tenant, self.me, self.limit, 0, LEASE).await.map(|_none| ())
    }

    /// Leases what is wanted now. Whoever calls it holds the tenant's `asking`.
    async fn lease(&self, tenant: &TenantId) -> bool {
        let asked = self.clock.now();
        let wanted = {
            let mut shares = self.shares();
            let Some(share) = shares.get_mut(tenant) else { return true };
            let wanted = share.wanted(self.block());
            // What is about to be given back is not handed out meanwhile.
            share.granted = share.granted.min(wanted);
            wanted
        };
        self.counts.one(Count::TenantLeases);
        let granted = self.store.lease_places(tenant, self.me, self.limit, wanted, LEASE).await;
        let mut shares = self.shares();
        let share = shares.get_mut(tenant);
        match granted {
            Ok(granted) => {
                if let Some(share) = share {
                    share.granted = granted;
                    share.until = Some(asked + USED_FOR);
                    share.not_before = (granted < wanted).then(|| self.clock.now() + FULL);
                }
                true
            }
            Err(error) => {
                self.counts.one(Count::TenantLeasesFailed);
                tracing::debug!(%error, %tenant, "places of a tenant could not be leased");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;

    use sluice_store::KekRing;
    use sluice_store::simulated::{Fate, Faults, SimulatedStore};
    use tokio::sync::watch;

    use super::*;

    fn acme() -> TenantId {
        "acme".parse().expect("a tenant")
    }

    async fn store() -> Store {
        Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store")
    }

    fn pod(store: &Store, number: u8, limit: u32) -> TenantPlaces {
        let me = PodId::from_bytes([number; 16]);
        TenantPlaces::new(store.clone(), Clock::start(), Arc::default(), me, limit)
    }

    /// Opens sessions until one is refused, at most so many.
    async fn open(places: &TenantPlaces, most: u32) -> u32 {
        for number in 0..most {
            assert!(places.prepare(&acme()).await, "the store answers");
            if !places.take(Some(&acme())) {
                return number;
            }
        }
        most
    }

    #[tokio::test]
    async fn two_pods_never_open_more_sessions_of_a_tenant_than_it_may_have() {
        let store = store().await;
        let (first, second) = (pod(&store, 1, 100), pod(&store, 2, 100));
        assert_eq!(open(&first, 60).await, 60);
        let rest = open(&second, 100).await;
        // What the first pod has to spare is not the second one's.
        assert!((30..=40).contains(&rest), "{rest} of 40");
        assert!(!second.take(Some(&acme())));
        let other = "other".parse().expect("a tenant");
        assert!(second.prepare(&other).await && second.take(Some(&other)), "another tenant has its own");
    }

    #[tokio::test]
    async fn sessions_that_end_make_room_at_another_pod() {
        let store = store().await;
        let (first, second) = (pod(&store, 1, 4), pod(&store, 2, 4));
        assert_eq!(open(&first, 9).await, 4);
        assert_eq!(open(&second, 1).await, 0);
        for _ in 0..4 {
            first.give_back(Some(&acme()));
        }
        let inner = first.0.as_ref().expect("limited");
        // The first look forgets handshakes that came to nothing, the second one gives back.
        inner.look().await;
        inner.look().await;
        assert!(inner.shares().is_empty(), "{:?}", inner.shares());
        assert!(!first.take(Some(&acme())), "what was given back is not handed out");
        let third = pod(&store, 3, 4);
        assert_eq!(open(&third, 9).await, 4);
    }

    #[tokio::test]
    async fn a_session_that_came_from_a_dead_pod_is_counted_and_not_refused() {
        let store = store().await;
        let places = pod(&store, 1, 2);
        for _ in 0..3 {
            places.came(Some(&acme()));
        }
        assert_eq!(open(&places, 1).await, 0, "it has more than it may");
        places.give_back(Some(&acme()));
        places.give_back(Some(&acme()));
        let inner = places.0.as_ref().expect("limited");
        assert!(inner.lease(&acme()).await);
        assert!(places.take(Some(&acme())));
        assert!(!places.take(Some(&acme())));
    }

    #[tokio::test]
    async fn handshakes_that_come_to_nothing_take_no_more_than_a_block() {
        let store = store().await;
        let places = pod(&store, 1, 64);
        for _ in 0..1000 {
            assert!(places.prepare(&acme()).await);
        }
        let inner = places.0.as_ref().expect("limited");
        let (granted, leases) = (inner.shares()[&acme()].granted, inner.counts.value(Count::TenantLeases));
        assert!(granted <= 2 * inner.block(), "{granted} places for no session");
        assert!(leases <= 2, "{leases} leases");
    }

    /// Says how late the next calls are; those after them are answered at once.
    #[derive(Default)]
    struct Late {
        next: Mutex<VecDeque<Fate>>,
        calls: watch::Sender<u32>,
    }

    impl Late {
        fn say(&self, fates: impl IntoIterator<Item = Fate>) {
            self.next.lock().expect("not poisoned").extend(fates);
        }

        /// Waits until the store was called so many times since `from`.
        async fn called(&self, from: u32, times: u32) {
            let seen =
                self.calls.subscribe().wait_for(|calls| *calls >= from + times).await.map(|calls| *calls);
            assert_eq!(seen.expect("it lives"), from + times);
        }
    }

    impl Faults for Late {
        fn next(&self) -> Fate {
            self.calls.send_modify(|calls| *calls += 1);
            let at_once = Fate::Answered { before: Duration::ZERO, after: Duration::ZERO };
            self.next.lock().expect("not poisoned").pop_front().unwrap_or(at_once)
        }

        fn runs(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::ready(()))
        }
    }

    async fn late_store() -> (Store, Arc<Late>) {
        let late = Arc::new(Late::default());
        let kek = KekRing::generate().expect("random bytes");
        let faults: Arc<dyn Faults> = Arc::clone(&late) as _;
        (SimulatedStore::new().expect("memory").open(kek, faults).await.expect("a store"), late)
    }

    const SLOW: Duration = Duration::from_millis(250);
    const SLOWLY: Fate = Fate::Answered { before: SLOW, after: Duration::ZERO };

    #[tokio::test(start_paused = true)]
    async fn who_wants_a_place_while_places_are_given_back_leases_after_it() {
        let (store, late) = late_store().await;
        let (first, second) = (pod(&store, 1, 64), pod(&store, 2, 64));
        let inner = Arc::clone(first.0.as_ref().expect("limited"));
        assert_eq!(open(&first, 1).await, 1);
        first.give_back(Some(&acme()));
        late.say([SLOWLY]);
        let before = *late.calls.borrow();
        let looking = tokio::spawn(async move { inner.look().await });
        late.called(before, 1).await;
        let mut had = open(&first, 1).await;
        looking.await.expect("a look");
        while first.take(Some(&acme())) {
            had += 1;
        }
        assert!(had >= 1, "it was leased a place");
        let rest = open(&second, 100).await;
        assert!(had + rest <= 64, "{had} and {rest} sessions of 64");
    }

    #[tokio::test(start_paused = true)]
    async fn places_that_the_store_did_not_take_back_are_given_back_again() {
        let (store, late) = late_store().await;
        let (first, second) = (pod(&store, 1, 64), pod(&store, 2, 64));
        let inner = first.0.as_ref().expect("limited");
        assert_eq!(open(&first, 10).await, 10);
        for _ in 0..10 {
            first.give_back(Some(&acme()));
        }
        late.say([Fate::Lost { after: SLOW }]);
        inner.look().await;
        assert!(!first.take(Some(&acme())), "what is being given back is not handed out");
        inner.look().await;
        assert!(inner.shares().is_empty(), "{:?}", inner.shares());
        assert_eq!(open(&second, 100).await, 64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_renews_many_tenants_at_once_and_one_failure_ends_nothing() {
        const TENANTS: u32 = 320;
        let (store, late) = late_store().await;
        let places = pod(&store, 1, 64);
        let inner = places.0.as_ref().expect("limited");
        for number in 0..TENANTS {
            places.came(Some(&format!("tenant-{number}").parse().expect("a tenant")));
        }
        late.say([Fate::Lost { after: SLOW }]);
        late.say((1..TENANTS).map(|_| SLOWLY));
        let begun = tokio::time::Instant::now();
        inner.look().await;
        let took = begun.elapsed();
        assert!(took < RENEWED_AT, "{TENANTS} tenants in {took:?}");
        let granted = inner.shares().values().filter(|share| share.granted > 0).count();
        assert_eq!(granted, TENANTS as usize - 1);
        assert_eq!(inner.counts.value(Count::TenantLeasesFailed), 1);
        inner.look().await;
        assert!(inner.shares().values().all(|share| share.granted > 0), "the one that failed is due again");
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_leased() {
        let places = TenantPlaces::unlimited();
        assert_eq!(open(&places, 10).await, 10);
    }
}
