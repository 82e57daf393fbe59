use std::collections::BTreeSet;

use sluice_peers::Control;
use sluice_store::KekRing;

use super::super::announcement::{drains, says_it_drains};
use super::super::inbound::FromPeers;
use super::*;

/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

const SLOTS: u16 = 8;

/// A pod of this store, without shards and with its links only. Its Kafka is nowhere.
async fn pod(store: &Store) -> Linked {
    let config = ClusterConfig { listen: "127.0.0.1:0".parse().expect("an address"), ..Default::default() };
    let secrets = store.cluster_secrets().await.expect("a ring");
    let parts = ClusterParts::new(secrets, SLOTS);
    let joining = Joining {
        config: &config,
        bus: BusConfig::default(),
        store: store.clone(),
        clock: Clock::start(),
        parts: &parts,
        shards: Vec::new(),
        map: watch::channel(Arc::new(parts.slot_map())).0,
        applied: watch::channel(LogPosition::default()).1,
        penalties: Penalties::new(5, Duration::from_secs(60), 16),
        news: mpsc::channel(1).1,
        counts: Arc::default(),
    };
    join(joining).await.expect("one of many pods")
}

/// What a pod is told next by another one.
async fn told(pod: &mut Linked) -> Control {
    loop {
        match pod.from_peers.recv().await.expect("links") {
            FromPeers::Control { control, .. } => return control,
            FromPeers::LinkUp(_) | FromPeers::Changed => {}
        }
    }
}

/// Says something to a pod as soon as there is a link.
async fn say(pod: &Linked, to: PodId, control: Control) {
    let mut senders = pod.peers().senders();
    loop {
        let sender = senders.borrow_and_update().get(&to).cloned();
        if sender.is_some_and(|sender| sender.try_control(control.clone()).is_ok()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_pod_that_drains_passes_on_what_it_is_given_and_says_so() {
    let kek = KekRing::generate().expect("random bytes");
    let store = Store::in_memory(kek).await.expect("a store");
    let (draining, mut giver, mut next) = (pod(&store).await, pod(&store).await, pod(&store).await);
    let to = draining.beginning.me;
    let (done, _drained) = oneshot::channel();
    draining.joined.drain.try_send(done).expect("room");
    let (_shards, from_shards) = mpsc::channel(1);
    let (fleet, _commands) = mpsc::channel(1);
    let draining = draining.serve([(), ()], Vec::new(), from_shards, fleet);

    let passed_on = async {
        // The giver drains as well: nothing comes back to it.
        say(&giver, to, drains()).await;
        // Once it has links to both of them, which the giver cannot see.
        let (from, other) = (giver.beginning.me, next.beginning.me);
        let is_linked = |pod| draining.handle.sender(pod).is_some_and(|sender| sender.is_linked());
        let hears = || {
            let is_candidate = draining.handle.view().borrow().candidates(false).contains(&other);
            is_candidate && is_linked(from) && is_linked(other)
        };
        while !hears() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut slots = BTreeSet::new();
        while slots.len() < usize::from(SLOTS) {
            // Again those that went nowhere, since the next one looked dead for a moment on a busy machine: nobody here adopts them.
            for slot in (0..SLOTS).filter(|slot| !slots.contains(slot)) {
                say(&giver, to, Control::HandOver { slot }).await;
            }
            let all = async {
                while slots.len() < usize::from(SLOTS) {
                    if let Control::HandOver { slot } = told(&mut next).await {
                        slots.insert(slot);
                    }
                }
            };
            let _late = tokio::time::timeout(Duration::from_secs(5), all).await;
        }
        loop {
            match told(&mut giver).await {
                Control::Other { kind, bytes } if says_it_drains(kind, &bytes) => return slots,
                Control::HandOver { slot } => panic!("slot {slot} came back to a pod that drains"),
                _ => {}
            }
        }
    };
    let slots = tokio::time::timeout(PATIENCE, passed_on).await.expect("a word from the pod that drains");
    assert_eq!(slots, (0..SLOTS).collect());
    drop(draining);
}
