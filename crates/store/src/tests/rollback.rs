//! A store that is set back as a whole: by a fail-over that lost writes, or by an old copy of its file.

use std::path::Path;

use super::cluster::pod_record;
use super::{DEADLINE, id, individual, reason, ring};
use crate::{KeyLookup, LogPosition, PodRecord, RegistryError, Store, StoreError};

/// A store with devices 1 and 2, a copy of its file from then, and the first device's revocation after that.
async fn revoked_after_a_copy(folder: &Path) -> (Store, LogPosition, Store) {
    let (path, copy) = (folder.join("store.redb"), folder.join("copy.redb"));
    let store = super::local::open(&path, ring()).await;
    for number in 1..=2 {
        store.create_device(individual(number)).await.expect("created");
    }
    drop(store);
    std::fs::copy(&path, &copy).expect("copied");
    let store = super::local::open(&path, ring()).await;
    let position = store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    (store, position, super::local::open(&copy, ring()).await)
}

#[tokio::test]
async fn revocations_that_the_store_lost_are_put_back_by_a_pod_that_heard_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    let mut watch = store.watch_revocations(LogPosition::START);
    assert_eq!(watch.next().await.expect("a batch").position, position);

    let pod = store.in_front_of(old.backend.clone());
    pod.check().await.expect("put back and go on");
    // Everybody hears it again, a pod that starts now among them, which then refuses the device's old record too.
    let newcomer = old.newcomer();
    let mut watch = newcomer.watch_revocations(LogPosition::START);
    let batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!((batch.entries.len(), batch.entries[0].device), (1, id(1)));
    assert!(batch.position > position, "{:?} is after {position:?}", batch.position);
    for store in [&pod, &newcomer] {
        assert!(matches!(store.handshake_keys(id(1)).await, Err(StoreError::Record { .. })));
        assert!(matches!(store.handshake_keys(id(2)).await, Ok(KeyLookup::Known(_))));
    }
}

#[tokio::test]
async fn a_pod_that_cannot_put_it_right_gives_no_keys_until_somebody_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    // It has the position from a caller, and never read the entry.
    let pod = store.newcomer();
    pod.log.hear(position.0);
    let pod = pod.in_front_of(old.backend.clone());
    assert!(matches!(pod.check().await, Err(StoreError::RolledBack)));
    assert!(matches!(pod.handshake_keys(id(2)).await, Err(StoreError::RolledBack)));
    let created = pod.create_device(individual(8)).await;
    assert!(matches!(created, Err(RegistryError::Store(StoreError::RolledBack))), "{created:?}");

    store.revocations_after(LogPosition::START).await.expect("the entry is remembered");
    store.in_front_of(old.backend.clone()).check().await.expect("put back");
    pod.check().await.expect("the log is as long as it was");
    assert!(matches!(pod.handshake_keys(id(2)).await, Ok(KeyLookup::Known(_))));
}

#[tokio::test]
async fn a_pod_that_starts_on_an_old_copy_learns_it_from_any_living_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    let newcomer = old.newcomer();
    newcomer.check().await.expect("alone it cannot know");
    let living = PodRecord { applied: position, ..pod_record(1, 1) };
    store.in_front_of(old.backend.clone()).announce_pod(&living, DEADLINE).await.expect("announced");
    assert_eq!(newcomer.pods().await.expect("an answer").len(), 1);
    assert!(matches!(newcomer.check().await, Err(StoreError::RolledBack)));
    assert!(matches!(newcomer.handshake_keys(id(1)).await, Err(StoreError::RolledBack)));
}

#[tokio::test]
async fn a_pod_of_another_life_of_the_store_is_no_witness() {
    let (before, store) = (super::memory().await, super::memory().await);
    let living = PodRecord { applied: LogPosition(u64::MAX), ..pod_record(1, 1) };
    before.in_front_of(store.backend.clone()).announce_pod(&living, DEADLINE).await.expect("announced");
    assert_eq!(store.pods().await.expect("an answer").len(), 1);
    store.check().await.expect("a new life starts from nothing");
}
