//! A store that is set back as a whole: by a fail-over that lost writes, or by an old copy of its file.

use std::path::Path;

use super::cluster::pod_record;
use super::{DEADLINE, id, individual, reason, ring};
use crate::clock;
use crate::record::{Identity, Stored};
use crate::witness::Acceptance;
use crate::{
    KekRing, KeyLookup, LogPosition, PodRecord, RegistryError, SecretKey, Store, StoreError, StoreWitness,
};

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

#[tokio::test]
async fn a_later_revocation_does_not_hide_that_an_earlier_one_was_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    let mut watch = store.in_front_of(old.backend.clone()).watch_revocations(position);
    store.revocations_after(LogPosition::START).await.expect("the entry is remembered");
    // Before the pod looks again somebody revokes something else.
    let later = old.newcomer().revoke(id(2), &reason("sold")).await.expect("revoked");
    assert!(later > position);

    let batch = watch.next().await.expect("put back, and read on");
    let devices: Vec<_> = batch.entries.iter().map(|entry| entry.device).collect();
    assert_eq!(devices, [id(2), id(1)]);
    let newcomer = old.newcomer();
    newcomer.revocations_after(LogPosition::START).await.expect("readable");
    let keys = newcomer.handshake_keys(id(1)).await;
    assert!(matches!(keys, Err(StoreError::Record { .. })), "its revocation is known again: {keys:?}");
    assert_eq!(store.distrusted_values(), 1);
}

#[tokio::test]
async fn a_later_revocation_does_not_hide_one_that_only_another_pod_knew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    let pod = old.newcomer();
    let later = old.newcomer().revoke(id(2), &reason("sold")).await.expect("revoked");
    assert!(later > position);
    pod.log.hear(position.0);
    for round in 1..=2 {
        pod.revocations_after(LogPosition::START).await.expect("what there is is heard");
        assert!(matches!(pod.handshake_keys(id(1)).await, Err(StoreError::RolledBack)), "round {round}");
    }
    // The other pod is still there.
    store.revocations_after(LogPosition::START).await.expect("the entry is remembered");
    store.in_front_of(old.backend.clone()).check().await.expect("put back");
    pod.revocations_after(later).await.expect("readable");
    assert!(matches!(pod.handshake_keys(id(1)).await, Err(StoreError::Record { .. })), "revoked, as it was");
}

#[tokio::test]
async fn a_server_whose_clock_is_behind_hides_nothing_from_those_who_had_read_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _, old) = revoked_after_a_copy(folder.path()).await;
    // Of the time of the server that was lost: an hour ahead of the one that follows it.
    let ahead = clock::now_millis() + 3_600_000;
    store.create_device(individual(3)).await.expect("created");
    store.log.found(ahead);
    let position = store.revoke(id(3), &reason("lost")).await.expect("revoked");
    assert!(position.0 > ahead);
    let both = store.revocations_after(LogPosition::START).await.expect("readable");
    assert_eq!(both.position, position);
    let low = old.newcomer().revoke(id(2), &reason("sold")).await.expect("revoked");
    assert!(low < position);

    // Asked by somebody else, who does not read: the watch goes on from where both logs are the same all the same.
    let pod = store.in_front_of(old.backend.clone());
    pod.check().await.expect("put back");
    let batch = pod.revocations_after(position).await.expect("read on");
    let devices: Vec<_> = batch.entries.iter().map(|entry| entry.device).collect();
    assert_eq!(devices, [id(2), id(1), id(3)]);
    assert!(batch.entries[1].position > position, "another pod that had read on hears it, too");
    let again = pod.revocations_after(batch.position).await.expect("readable");
    assert_eq!((again.entries.len(), again.position), (0, batch.position), "once");
}

#[tokio::test]
async fn a_log_that_lost_more_than_is_remembered_is_put_back_as_far_as_it_is_and_not_trusted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, position, old) = revoked_after_a_copy(folder.path()).await;
    let pod = store.newcomer();
    pod.log.missed(position.0);
    let second = store.revoke(id(2), &reason("sold")).await.expect("revoked");
    assert_eq!(pod.revocations_after(position).await.expect("readable").entries.len(), 1);

    let pod = pod.in_front_of(old.backend.clone());
    let mut after = second;
    for round in 1..=2 {
        let batch = pod.revocations_after(after).await.expect("what there is is heard");
        assert_eq!(batch.entries.len(), usize::from(round == 1), "round {round}");
        after = batch.position;
        assert!(matches!(pod.handshake_keys(id(1)).await, Err(StoreError::RolledBack)), "round {round}");
    }
    assert_eq!(old.revocations_after(LogPosition::START).await.expect("readable").entries.len(), 1);
    old.newcomer().accept_log(None).await.expect("accepted");
    pod.check().await.expect("accepted");
    assert!(matches!(pod.handshake_keys(id(1)).await, Ok(KeyLookup::Known(_))), "as was accepted");
    assert!(matches!(pod.handshake_keys(id(2)).await, Err(StoreError::Record { .. })));
}

#[tokio::test]
async fn what_an_operator_accepted_is_not_put_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _, old) = revoked_after_a_copy(folder.path()).await;
    store.revocations_after(LogPosition::START).await.expect("the entry is remembered");
    old.newcomer().accept_log(None).await.expect("accepted");
    let pod = store.in_front_of(old.backend.clone());
    pod.check().await.expect("accepted");
    assert_eq!(old.revocations_after(LogPosition::START).await.expect("readable").entries, []);
}

/// As [`revoked_after_a_copy`], seen by a process that starts when no other runs, and what the others left outside.
async fn nobody_remembers(folder: &Path) -> (StoreWitness, Store) {
    let (store, position, old) = revoked_after_a_copy(folder).await;
    store.revocations_after(LogPosition::START).await.expect("readable");
    let witness = store.witness();
    assert_eq!(witness.position, position);
    (witness, old.newcomer())
}

#[tokio::test]
async fn an_old_copy_that_nobody_remembers_is_found_out_by_what_was_left_outside_and_can_be_accepted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (witness, store) = nobody_remembers(folder.path()).await;
    store.check().await.expect("by itself it cannot know");
    assert!(matches!(store.hear_witness(witness).await, Err(StoreError::RolledBack)));
    for number in 1..=2 {
        let keys = store.handshake_keys(id(number)).await;
        assert!(matches!(keys, Err(StoreError::RolledBack)), "device {number}: {keys:?}");
    }
    assert_eq!(store.distrusted_values(), 1);
    assert_eq!(store.witness(), witness, "whoever starts next must hear of it, too");

    // A later revocation is heard, and hides nothing.
    let later = store.newcomer().revoke(id(2), &reason("stolen")).await.expect("revoked");
    assert!(later > witness.position);
    let batch = store.revocations_after(LogPosition::START).await.expect("live sessions hear of it");
    assert_eq!((batch.entries.len(), batch.entries[0].device), (1, id(2)));
    assert!(matches!(store.check().await, Err(StoreError::RolledBack)));
    assert_eq!(store.distrusted_values(), 1, "told once");

    let operator = store.newcomer();
    operator.accept_log(None).await.expect("accepted");
    store.revocations_after(LogPosition::START).await.expect("readable");
    assert!(matches!(store.handshake_keys(id(1)).await, Ok(KeyLookup::Known(_))), "as was accepted");
    assert!(matches!(store.handshake_keys(id(2)).await, Ok(KeyLookup::Refused { .. })));
    // It stays accepted for those who hear the old word later.
    let next = store.newcomer();
    next.hear_witness(witness).await.expect("accepted");
    assert!(matches!(next.handshake_keys(id(1)).await, Ok(KeyLookup::Known(_))));
}

#[tokio::test]
async fn only_as_much_is_accepted_as_the_operator_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (witness, store) = nobody_remembers(folder.path()).await;
    let operator = store.newcomer();
    let before = LogPosition(witness.position.0 - 1);
    assert_eq!(operator.accept_log(Some(before)).await.expect("accepted"), before);
    assert!(matches!(store.hear_witness(witness).await, Err(StoreError::RolledBack)));
    assert_eq!(operator.accept_log(Some(witness.position)).await.expect("accepted"), witness.position);
    store.check().await.expect("now it is enough");
    let lower = operator.accept_log(Some(before)).await.expect("nothing to do");
    assert_eq!(lower, witness.position, "what was accepted stays so");
}

#[tokio::test]
async fn an_acceptance_of_another_store_or_by_somebody_without_the_key_is_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (witness, store) = nobody_remembers(folder.path()).await;
    let up_to = LogPosition(u64::MAX);
    let of_another = Acceptance { up_to, ..Acceptance::none(Identity([9; 16])) }.encode(&store.kek);
    let ours = |up_to| Acceptance { up_to, ..Acceptance::none(store.identity) };
    let by_another = ours(up_to).encode(&KekRing::generate().expect("bytes"));
    let mut changed = ours(LogPosition(1)).encode(&store.kek);
    let last = changed.len() - 1;
    changed[last] ^= 1;
    for (version, blob) in (1..).zip([of_another, by_another, changed, Vec::new()]) {
        let written = store.backend.swap_accepted(version - 1, Stored { version, blob }).await;
        assert!(written.expect("the store"), "version {version}");
        assert!(matches!(store.newcomer().hear_witness(witness).await, Err(StoreError::RolledBack)));
    }
    store.newcomer().accept_log(None).await.expect("in place of what is none");
    store.newcomer().hear_witness(witness).await.expect("accepted");
}

#[tokio::test]
async fn a_newer_copy_ends_the_doubt_and_a_whole_log_raises_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _, old) = revoked_after_a_copy(folder.path()).await;
    let fresh = store.newcomer();
    store.revocations_after(LogPosition::START).await.expect("readable");
    fresh
        .hear_witness(store.witness())
        .await
        .expect("the entry is there, though this process has not read it");
    let pod = old.newcomer();
    assert!(matches!(pod.hear_witness(store.witness()).await, Err(StoreError::RolledBack)));
    let restored = pod.in_front_of(store.backend.clone());
    restored.check().await.expect("the entry is there");
    assert!(matches!(restored.handshake_keys(id(2)).await, Ok(KeyLookup::Known(_))));
}

#[tokio::test]
async fn another_life_of_the_store_is_accepted_by_an_operator_and_not_by_itself() {
    let store = super::memory().await;
    let before = StoreWitness { position: LogPosition(1), store: [7; 16] };
    assert!(matches!(store.hear_witness(before).await, Err(StoreError::RolledBack)));
    let accepted = store.newcomer().accept_log(Some(before.position)).await.expect("accepted");
    store.check().await.expect("accepted");
    // Not even by an entry that happens to have the same number here.
    store.create_device(individual(1)).await.expect("created");
    let position = store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    store.revocations_after(LogPosition::START).await.expect("readable");
    assert!(position > accepted);
    let same_number = StoreWitness { position, store: [9; 16] };
    assert!(matches!(store.newcomer().hear_witness(same_number).await, Err(StoreError::RolledBack)));
    let nothing_revoked = StoreWitness { position: LogPosition::START, store: [8; 16] };
    store.hear_witness(nothing_revoked).await.expect("nothing can be missing");
}

#[tokio::test]
async fn a_store_stands_in_the_place_of_another_one_only_where_an_operator_said_so_of_that_one() {
    let (store, other, third) = (super::memory().await, [7; 16], [8; 16]);
    let may_follow = async |life| store.newcomer().stands_in_place_of(life).await.expect("an answer");
    assert!(may_follow(store.identity.0).await, "its own ledgers");
    assert!(!may_follow(other).await);
    store.accept_log(None).await.expect("accepted");
    assert!(!may_follow(other).await, "what may be missing here says nothing of another store's ledgers");

    let first = store.accept_in_place_of(None, &[other, store.identity.0]).await.expect("accepted");
    assert!(may_follow(other).await && !may_follow(third).await);
    let lower = store.newcomer().accept_in_place_of(Some(LogPosition(1)), &[third]).await.expect("accepted");
    assert_eq!(lower, first, "what was accepted stays so");
    assert!(may_follow(other).await && may_follow(third).await);
    store.reseal_shared().await.expect("sealed anew");
    assert!(may_follow(other).await && may_follow(third).await, "under another key as well");

    for life in 100..=130 {
        store.accept_in_place_of(None, &[[life; 16]]).await.expect("accepted");
    }
    assert!(
        !may_follow(other).await && may_follow(third).await && may_follow([130; 16]).await,
        "the last 32"
    );
}

#[tokio::test]
async fn what_was_put_back_under_other_numbers_is_not_looked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (store, _, old) = revoked_after_a_copy(folder.path()).await;
    store.revocations_after(LogPosition::START).await.expect("readable");
    let witness = store.witness();
    store.in_front_of(old.backend.clone()).check().await.expect("put back");
    let newcomer = old.newcomer();
    newcomer.hear_witness(witness).await.expect("it was put back");
    newcomer.revocations_after(LogPosition::START).await.expect("readable");
    assert!(matches!(newcomer.handshake_keys(id(2)).await, Ok(KeyLookup::Known(_))));
}

#[tokio::test]
async fn what_was_accepted_is_readable_under_the_next_key_encryption_key_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (witness, store) = nobody_remembers(folder.path()).await;
    store.newcomer().accept_log(None).await.expect("accepted");
    let (before, next) = (SecretKey::new([0x4b; 32]), SecretKey::new([0x2d; 32]));
    let both = KekRing::new(&next, &[before]);
    let rotating = store.with_kek(both);
    rotating.begin_rotation(DEADLINE).await.expect("nobody else is there");
    rotating.reseal_shared().await.expect("sealed anew");
    store.newcomer().with_kek(KekRing::new(&next, &[])).hear_witness(witness).await.expect("accepted before");
}
