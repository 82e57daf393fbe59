//! What pods share: scenarios for every back end.

use crate::{Purpose, Store};

pub(super) async fn pods_that_start_at_once_share_one_ring(store: Store) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let pod = store.newcomer();
        tasks.spawn(async move { pod.cluster_secrets().await.expect("a ring") });
    }
    let rings = tasks.join_all().await;
    let first = store.cluster_secrets().await.expect("a ring");
    assert_eq!(first.ids().collect::<Vec<_>>(), [first.current_id()]);
    for ring in rings {
        assert_eq!((ring.current_id(), ring.version()), (first.current_id(), first.version()));
        for purpose in [Purpose::SessionIdTag, Purpose::Cookie, Purpose::Decoy, Purpose::PeerCa] {
            let secret = ring.secret(ring.current_id(), purpose);
            assert!(secret.is_some() && secret == first.secret(first.current_id(), purpose), "{purpose:?}");
        }
        assert_eq!(ring.secret((ring.current_id() + 1) % 16, Purpose::Cookie), None);
    }
    let cookie = first.secret(first.current_id(), Purpose::Cookie);
    assert_ne!(cookie, first.secret(first.current_id(), Purpose::Decoy));
}
