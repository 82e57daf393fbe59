//! The key-encryption key changes under processes at work.

use std::time::Duration;

use super::super::{DEADLINE, eventually, id, individual, keys, psk, reason, tenant};
use super::cluster::{pod, pod_record, session_id};
use crate::seal::key_of;
use crate::{
    HoldReason, KekRing, KeyLookup, LogPosition, Purpose, RecordError, RotationError, SecretKey, Store,
    StoreError,
};

const OLD: SecretKey = SecretKey::new([0x4b; 32]);
const NEW: SecretKey = SecretKey::new([0x2d; 32]);
/// For pods that never do what is waited for.
const BRIEF: Duration = Duration::from_millis(1);

/// Another process on the same store, with these keys in its file, that has looked at the store.
async fn process(store: &Store, first: &SecretKey, below: &[SecretKey]) -> Store {
    let process = store.newcomer().with_kek(KekRing::new(first, below));
    process.check().await.expect("it has the key in force");
    process
}

/// The key under which a pod announces itself now.
async fn announced_under(store: &Store, byte: u8) -> bool {
    store.announce_pod(&pod_record(byte, 1), DEADLINE).await.expect("announced");
    let rows = store.backend.pods().await.expect("an answer");
    let row = rows.iter().find(|row| row.pod == pod(byte).to_string()).expect("listed");
    key_of(&row.blob) == Some(KekRing::new(&NEW, &[]).first_id())
}

pub(crate) async fn new_key_alone_opens_what_was_resealed(store: Store) {
    for number in 1..=3 {
        store.create_device(individual(number)).await.expect("created");
    }
    store.add_tenant_root(&tenant("default"), SecretKey::new([7; 32])).await.expect("a root");
    let revoked = store.revoke(id(2), &reason("stolen")).await.expect("revoked");
    store.remove(id(3)).await.expect("removed");
    store.hold_device(id(1), HoldReason::SuspectedClone, DEADLINE).await.expect("held");
    store.claim_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("claimed");
    store.put_slot_owner(3, pod(1), 9).await.expect("told");
    store.accept_log(Some(LogPosition(1))).await.expect("accepted");
    let ring = store.cluster_secrets().await.expect("a ring");
    let before = store.revocations_after(LogPosition::START).await.expect("readable");
    let after = store.newcomer().with_kek(KekRing::new(&NEW, &[]));
    let unknown = after.check().await;
    assert!(
        matches!(&unknown, Err(StoreError::Record { source: RecordError::UnknownKek { .. }, .. })),
        "opened before it was resealed: {unknown:?}"
    );

    let rotating = process(&store, &NEW, &[OLD]).await;
    // Again is the same as once.
    for _ in 0..2 {
        rotating.begin_rotation(DEADLINE).await.expect("nobody else is there");
        assert_eq!(rotating.reseal_shared().await.expect("the rest"), 2);
        for number in 1..=2 {
            rotating.reseal(id(number)).await.expect("the device");
        }
        rotating.reseal_tenant(&tenant("default")).await.expect("the tenant");
        rotating.reseal_tenant(&tenant("nobody")).await.expect("nothing to do");
    }

    after.check().await.expect("the same life of the store");
    assert_eq!(after.accept_log(Some(LogPosition(1))).await.expect("readable"), LogPosition(1));
    assert_eq!(after.revocations_after(LogPosition::START).await.expect("readable"), before);
    assert_eq!(after.revoke(id(2), &reason("stolen")).await.expect("logged once"), revoked);
    assert_eq!(keys(&after, id(1)).await, [psk(1)]);
    assert!(matches!(after.handshake_keys(id(2)).await, Ok(KeyLookup::Refused { .. })));
    after.create_device(individual(3)).await.expect("a removed device may come again");
    assert!(after.tenant(&tenant("default")).await.expect("read").is_some());
    assert!(after.tenant(&tenant("nobody")).await.expect("read").is_none(), "made by resealing");
    let hold = after.device_hold(id(1)).await.expect("read").expect("still held");
    assert_eq!(hold.reason, HoldReason::SuspectedClone);
    let place = after.device_location(id(1)).await.expect("read").expect("still there");
    assert_eq!((place.pod, place.session), (pod(1), session_id(1)));
    assert_eq!(after.slot_owners().await.expect("read").len(), 1);
    let same = after.cluster_secrets().await.expect("read");
    assert_eq!(
        same.secret(ring.current_id(), Purpose::Cookie),
        ring.secret(ring.current_id(), Purpose::Cookie)
    );
    assert_eq!(after.distrusted_values(), 1, "the look before, and nothing since");
    // Whoever was left with the old key alone does not take the store for its own.
    assert!(matches!(
        store.check().await,
        Err(StoreError::Record { source: RecordError::UnknownKek { .. }, .. })
    ));
    assert!(store.handshake_keys(id(1)).await.is_err());
}

pub(crate) async fn log_that_was_written_anew_goes_on_and_wakes_who_waits(store: Store) {
    for number in 1..=300 {
        store.create_device(individual(number)).await.expect("created");
        store.revoke(id(number), &reason("sold")).await.expect("revoked");
    }
    let mut watch = store.watch_revocations(LogPosition::START);
    let mut heard = 0;
    while heard < 300 {
        heard += watch.next().await.expect("readable").entries.len();
    }
    store.create_device(individual(301)).await.expect("created");
    let waiting = tokio::spawn(async move { (watch.next().await, watch) });
    assert_eq!(store.reseal_shared().await.expect("written anew"), 300);
    store.revoke(id(301), &reason("stolen")).await.expect("revoked");
    let (batch, mut watch) =
        tokio::time::timeout(DEADLINE, waiting).await.expect("in time").expect("no panic");
    let mut batch = batch.expect("readable");
    while batch.entries.is_empty() {
        batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time").expect("readable");
    }
    assert_eq!(batch.entries.iter().map(|entry| entry.device).collect::<Vec<_>>(), [id(301)]);
    assert!(!batch.missed);
    assert_eq!(store.distrusted_values(), 0, "the log was never shorter than it was known to be");
}

pub(crate) async fn copy_of_the_log_takes_its_place_only_when_it_has_all(store: Store) {
    for number in 1..=3 {
        store.create_device(individual(number)).await.expect("created");
    }
    for number in 1..=2 {
        store.revoke(id(number), &reason("sold")).await.expect("revoked");
    }
    let page = store.look_at_log(0, 10).await.expect("readable");
    let last = page.entries.last().expect("two entries").0;
    store.backend.begin_log_copy().await.expect("begun");
    store.backend.copy_to_log(page.entries).await.expect("copied");
    // Somebody revokes meanwhile.
    let later = store.revoke(id(3), &reason("stolen")).await.expect("revoked");
    assert!(!store.backend.end_log_copy(last).await.expect("an answer"), "it lacks the last one");
    let rest = store.look_at_log(last, 10).await.expect("readable").entries;
    store.backend.copy_to_log(rest).await.expect("copied");
    assert!(store.backend.end_log_copy(later.0).await.expect("an answer"));
    let log = store.revocations_after(LogPosition::START).await.expect("readable");
    let devices: Vec<_> = log.entries.iter().map(|entry| entry.device).collect();
    assert_eq!((devices, log.position), (vec![id(1), id(2), id(3)], later));
}

pub(crate) async fn key_of_the_identity_seals_whatever_the_order_of_the_file(store: Store) {
    let one = process(&store, &NEW, &[OLD]).await;
    let other = process(&store, &OLD, &[NEW]).await;
    assert!(!announced_under(&one, 1).await, "others may not have the new key yet");
    assert!(!announced_under(&other, 2).await);
    assert_eq!(store.pods().await.expect("an answer").len(), 2, "with the old key alone both are read");

    let ring = one.cluster_secrets().await.expect("a ring");
    assert_eq!(store.cluster_secrets().await.expect("readable").version(), ring.version());
}

pub(crate) async fn pod_without_the_next_key_keeps_it_from_coming_into_force(store: Store) {
    let (one, late) = (process(&store, &NEW, &[OLD]).await, process(&store, &OLD, &[]).await);
    assert!(!announced_under(&one, 1).await);
    assert!(!announced_under(&late, 2).await);
    let refused = one.begin_rotation(DEADLINE).await;
    assert!(matches!(&refused, Err(RotationError::Lacking(pods)) if *pods == [pod(2)]), "{refused:?}");
    assert!(refused.expect_err("refused").to_string().contains(&pod(2).to_string()));
    late.check().await.expect("it still has the key in force");

    // It is started anew, with both.
    let late = process(&store, &NEW, &[OLD]).await;
    late.announce_pod(&pod_record(2, 2), DEADLINE).await.expect("announced");
    let waiting = one.begin_rotation(BRIEF).await;
    assert!(matches!(&waiting, Err(RotationError::Behind(pods)) if pods.len() == 2), "{waiting:?}");
    // Each hears of it with its next look at the store.
    for (byte, process) in [(1, &one), (2, &late)] {
        process.check().await.expect("the same store");
        process.announce_pod(&pod_record(byte, 3), DEADLINE).await.expect("announced");
    }
    one.begin_rotation(DEADLINE).await.expect("all of them seal under it");
    eventually("what is announced is read with the new key alone", || async {
        process(&store, &NEW, &[]).await.pods().await.expect("an answer").len() == 2
    })
    .await;
}
