//! Shared values that are not what was written, put there under the sealing through the back end.

use std::time::Duration;

use prost::Message;
use sluice_proto::store::v1 as proto;

use super::cluster::{pod, pod_record, session_id};
use super::{DEADLINE, id, memory, ring};
use crate::cluster::ring::Ring;
use crate::location::{self, HolderRow};
use crate::record::Stored;
use crate::slot::{Place, SlotRow, SnapshotId};
use crate::{
    DeviceHold, HoldReason, KekRing, LogPosition, PodRecord, Purpose, RecordError, RevocationOutcome,
    SecretKey, SlotOwner, SlotSnapshot, Store, StoreError,
};

/// Every value that differs from a good one by a bit, or by its end.
fn damaged(good: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let flipped = (0..good.len()).map(|place| {
        let mut bad = good.to_vec();
        bad[place] ^= 1 << (place % 8);
        bad
    });
    flipped.chain((0..good.len()).map(|length| good[..length].to_vec()))
}

async fn stored_ring(store: &Store) -> Stored {
    store.backend.read_ring().await.expect("an answer").1.expect("a ring")
}

async fn replace_ring(store: &Store, value: Stored) {
    let current = stored_ring(store).await.version;
    assert!(store.backend.swap_ring(current, value.version, value.blob).await.expect("an answer"));
}

#[tokio::test]
async fn every_changed_byte_and_every_cut_of_the_ring_is_noticed() {
    let store = memory().await;
    store.cluster_secrets().await.expect("a ring");
    let good = stored_ring(&store).await;
    for blob in damaged(&good.blob) {
        assert!(Ring::decode(&store.kek, &Stored { version: good.version, blob }).is_err());
    }
    let renamed = Stored { version: good.version + 1, ..good };
    assert_eq!(Ring::decode(&store.kek, &renamed).err(), Some(RecordError::Tampered));
}

#[tokio::test]
async fn a_changed_ring_is_put_back_by_who_knows_it_and_made_anew_by_who_does_not() {
    let store = memory().await;
    let before = store.cluster_secrets().await.expect("a ring");
    let version = before.version() + 5;
    replace_ring(&store, Stored { version, blob: b"nonsense".to_vec() }).await;
    let after = store.cluster_secrets().await.expect("put back");
    let cookie = before.secret(before.current_id(), Purpose::Cookie);
    assert_eq!((after.current_id(), store.distrusted_values()), (before.current_id(), 1));
    assert_eq!(after.secret(after.current_id(), Purpose::Cookie), cookie);
    let newcomer = store.newcomer().cluster_secrets().await.expect("read");
    assert_eq!(newcomer.secret(after.current_id(), Purpose::Cookie), cookie);

    replace_ring(&store, Stored { version: after.version() + 5, blob: Vec::new() }).await;
    let newcomer = store.newcomer();
    let fresh = newcomer.cluster_secrets().await.expect("made");
    assert_ne!(fresh.secret(fresh.current_id(), Purpose::Cookie), cookie);
    assert_eq!(newcomer.distrusted_values(), 1);
    // Who knew the old one still has it, and joins it to the new one.
    let joined = store.cluster_secrets().await.expect("joined");
    let known = |id| joined.secret(id, Purpose::Cookie);
    assert_eq!(known(fresh.current_id()), fresh.secret(fresh.current_id(), Purpose::Cookie));
    if fresh.current_id() != before.current_id() {
        assert_eq!(known(before.current_id()), cookie);
    }
}

#[tokio::test]
async fn a_ring_put_back_from_before_brings_no_destroyed_key_back() {
    let store = memory().await;
    let first = store.cluster_secrets().await.expect("a ring");
    let old = stored_ring(&store).await;
    let mut later = Ring::decode(&store.kek, &old).expect("good").0;
    later.version += 1;
    let day = 24 * 3600 * 1000;
    let now = store.backend.read_ring().await.expect("an answer").0;
    later.advance(now + day, &store.cluster_keys).expect("randomness");
    later.advance(now + 2 * day, &store.cluster_keys).expect("randomness");
    let blob = later.encode(&store.kek).expect("sealed");
    replace_ring(&store, Stored { version: later.version, blob }).await;
    let seen = store.newcomer();
    let gone = |ring: &crate::ClusterSecrets| ring.secret(first.current_id(), Purpose::Cookie).is_none();
    assert!(gone(&seen.cluster_secrets().await.expect("the later ring")));
    replace_ring(&store, old).await;
    assert!(gone(&seen.cluster_secrets().await.expect("put right")));
    assert!(gone(&store.newcomer().cluster_secrets().await.expect("for everybody")));
}

#[tokio::test]
async fn an_emptied_store_gets_its_ring_back_from_any_pod() {
    let store = memory().await;
    let before = store.cluster_secrets().await.expect("a ring");
    let emptied = memory().await;
    let pod = store.in_front_of(emptied.backend.clone());
    pod.cluster_secrets().await.expect("put back");
    let newcomer = emptied.cluster_secrets().await.expect("read");
    let id = before.current_id();
    assert_eq!(newcomer.secret(id, Purpose::PeerCa), before.secret(id, Purpose::PeerCa));
}

#[tokio::test]
async fn a_ring_under_another_key_or_of_a_newer_release_is_left_alone() {
    let store = memory().await;
    store.cluster_secrets().await.expect("a ring");
    let good = stored_ring(&store).await;
    let stranger = store.newcomer().with_kek(KekRing::new(&SecretKey::new([9; 32]), &[]));
    let refused = stranger.cluster_secrets().await;
    let unknown = matches!(&refused, Err(StoreError::Record { source: RecordError::UnknownKek { .. }, .. }));
    assert!(unknown, "{refused:?}");

    let mut sealed = proto::Sealed::decode(good.blob.as_slice()).expect("an envelope");
    sealed.revision = 3;
    let newer = Stored { version: good.version, blob: sealed.encode_to_vec() };
    replace_ring(&store, newer.clone()).await;
    let refused = store.newcomer().cluster_secrets().await;
    let too_new =
        matches!(&refused, Err(StoreError::Record { source: RecordError::TooNew { revision: 3 }, .. }));
    assert!(too_new, "{refused:?}");
    assert_eq!(stored_ring(&store).await, newer);
}

#[tokio::test]
async fn a_new_key_encryption_key_takes_the_ring_over() {
    let (old, new) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    let store = Store::in_memory(KekRing::new(&old, &[])).await.expect("memory");
    let before = store.cluster_secrets().await.expect("a ring");
    let rotating = store.newcomer().with_kek(KekRing::new(&new, &[old]));
    rotating.cluster_secrets().await.expect("written anew");
    let after = store.newcomer().with_kek(KekRing::new(&new, &[])).cluster_secrets().await.expect("read");
    let id = before.current_id();
    assert_eq!(after.secret(id, Purpose::Cookie), before.secret(id, Purpose::Cookie));
}

async fn pod_blob(store: &Store, byte: u8) -> Vec<u8> {
    let rows = store.backend.pods().await.expect("an answer");
    rows.into_iter().find(|row| row.pod == pod(byte).to_string()).expect("listed").blob
}

#[tokio::test]
async fn a_pod_that_nobody_with_the_key_announced_is_no_pod() {
    let store = memory().await;
    store.announce_pod(&pod_record(1, 1), DEADLINE).await.expect("announced");
    let good = pod_blob(&store, 1).await;
    for blob in damaged(&good) {
        assert!(PodRecord::decode(&store.kek, &pod(1).to_string(), &blob).is_err());
    }
    // A forged one, and a true one under the name of another.
    let forger = store.with_kek(KekRing::new(&SecretKey::new([9; 32]), &[]));
    forger.announce_pod(&pod_record(2, 1), DEADLINE).await.expect("written");
    store.backend.announce_pod(pod(3), good, DEADLINE).await.expect("written");
    assert_eq!(store.pods().await.expect("an answer"), [pod_record(1, 1)]);
    assert_eq!(store.distrusted_values(), 2);
    // Nor has it applied anything, whatever it says.
    let outcome = store.revocation_complete(LogPosition::START, Duration::ZERO).await.expect("an answer");
    assert_eq!(outcome, RevocationOutcome::Outstanding(vec![pod(2), pod(3)]));
}

#[tokio::test]
async fn a_holder_is_bound_to_its_device() {
    let store = memory().await;
    store.claim_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("claimed");
    let good = store.backend.device_holder(id(1)).await.expect("an answer").expect("held");
    for blob in damaged(&good.blob) {
        assert!(location::decode(&store.kek, id(1), &HolderRow { epoch: good.epoch, blob }).is_err());
    }
    store.backend.claim_device(id(2), session_id(1), good.blob, DEADLINE).await.expect("moved there");
    assert_eq!(store.device_location(id(2)).await.expect("an answer"), None);
    // Nobody is told to close what is not known to be the device's.
    let claim = store.claim_device(id(2), pod(2), session_id(2), DEADLINE).await.expect("claimed");
    assert_eq!((claim.previous, store.distrusted_values()), (None, 2));
}

#[tokio::test]
async fn a_hold_is_bound_to_its_device() {
    let store = memory().await;
    store.hold_device(id(1), HoldReason::SuspectedClone, DEADLINE).await.expect("held");
    let good = store.backend.device_hold(id(1)).await.expect("an answer").expect("held");
    for blob in damaged(&good) {
        assert!(DeviceHold::decode(&store.kek, id(1), &blob).is_err());
    }
    // Nobody who can write to the store, and has no key, gets another device refused.
    store.backend.hold_device(id(2), good, DEADLINE).await.expect("moved there");
    assert_eq!((store.device_hold(id(2)).await.expect("an answer"), store.distrusted_values()), (None, 1));
}

#[tokio::test]
async fn an_owner_is_bound_to_its_slot_and_generation() {
    let store = memory().await;
    store.put_slot_owner(3, pod(1), 5).await.expect("written");
    let (slot, good) = store.backend.owners().await.expect("an answer").remove(0);
    for blob in damaged(&good.blob) {
        assert!(SlotOwner::decode(&store.kek, slot, &SlotRow { blob, ..good }).is_err());
    }
    assert_eq!(SlotOwner::decode(&store.kek, 4, &good).err(), Some(RecordError::Swapped));
    let raised = SlotRow { place: Place { generation: 9, offset: 0 }, blob: good.blob };
    let outcome = store.backend.put_owner(3, raised, &[]).await.expect("an answer");
    assert!(outcome.is_ok(), "the back end knows no better");
    assert_eq!(store.slot_owners().await.expect("an answer"), []);
    // It keeps nobody out.
    store.put_slot_owner(3, pod(2), 6).await.expect("written");
    let owner = SlotOwner { slot: 3, pod: pod(2), generation: 6 };
    assert_eq!(store.slot_owners().await.expect("an answer"), [owner]);
}

/// Two chunks of the same length, so that an exchange shows in nothing else.
fn state(byte: u8) -> Vec<u8> {
    (0..2 * 480 * 1024u32).map(|index| (index % 251) as u8 ^ byte).collect()
}

async fn head(store: &Store, slot: u16) -> SlotRow {
    store.backend.read_head(slot).await.expect("an answer").expect("a head")
}

async fn put_head(store: &Store, slot: u16, head: SlotRow) {
    let current = store.backend.read_head(slot).await.expect("an answer").map_or(Vec::new(), |row| row.blob);
    let outcome = store.backend.put_head(slot, head, &current).await.expect("an answer");
    assert!(outcome.is_ok());
}

async fn refusal(store: &Store, slot: u16) -> RecordError {
    match store.slot_snapshot(slot).await {
        Err(StoreError::Record { source, .. }) => source,
        other => panic!("expected a refusal, saw {other:?}"),
    }
}

#[tokio::test]
async fn a_snapshot_is_bound_to_its_slot_and_its_place() {
    let store = memory().await;
    assert!(store.put_slot_snapshot(3, 7, 100, b"state").await.expect("written"));
    let good = head(&store, 3).await;
    for blob in damaged(&good.blob) {
        put_head(&store, 3, SlotRow { blob, ..good }).await;
        refusal(&store, 3).await;
    }
    for place in [Place { generation: 8, offset: 100 }, Place { generation: 7, offset: 101 }] {
        put_head(&store, 3, SlotRow { place, ..good.clone() }).await;
        assert_eq!(refusal(&store, 3).await, RecordError::Tampered);
    }
    put_head(&store, 4, good).await;
    assert_eq!(refusal(&store, 4).await, RecordError::Tampered);
    // The damage keeps no good one out.
    let place = Place { generation: u32::MAX, offset: i64::MAX };
    put_head(&store, 3, SlotRow { place, blob: b"nonsense".to_vec() }).await;
    assert!(store.put_slot_snapshot(3, 7, 100, b"state").await.expect("written"));
    let expected = SlotSnapshot { generation: 7, offset: 100, bytes: b"state".to_vec() };
    assert_eq!(store.slot_snapshot(3).await.expect("an answer"), Some(expected));
    assert!(store.distrusted_values() > 0);
}

/// The id in a sealed head, for the tests that move chunks about.
async fn snapshot_id(store: &Store, slot: u16) -> SnapshotId {
    let secrets = store.cluster_secrets().await.expect("a ring");
    crate::slot::snapshot_id(&secrets, slot, &head(store, slot).await).expect("a good head")
}

#[tokio::test]
async fn chunks_of_a_snapshot_are_bound_to_it_and_to_their_order() {
    let store = memory().await;
    assert!(store.put_slot_snapshot(3, 7, 100, &state(1)).await.expect("written"));
    assert!(store.put_slot_snapshot(4, 7, 100, &state(2)).await.expect("written"));
    let (mine, other) = (snapshot_id(&store, 3).await, snapshot_id(&store, 4).await);
    let chunk = async |slot, id, index| {
        store.backend.read_chunk(slot, id, index).await.expect("an answer").expect("a chunk")
    };
    let (first, second) = (chunk(3, mine, 0).await, chunk(3, mine, 1).await);
    assert!(first.len() <= 512 << 10, "no stored value is larger: {}", first.len());
    let mut flipped = second.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let cut = second[..second.len() - 1].to_vec();
    for bad in [chunk(4, other, 1).await, first.clone(), flipped, cut, Vec::new()] {
        store.backend.put_chunk(3, mine, 1, bad).await.expect("put there");
        refusal(&store, 3).await;
    }
    store.backend.put_chunk(3, mine, 0, second.clone()).await.expect("put there");
    assert_eq!(refusal(&store, 3).await, RecordError::Tampered);
    store.backend.put_chunk(3, mine, 0, first).await.expect("put back");
    store.backend.put_chunk(3, mine, 1, second).await.expect("put back");
    let read = store.slot_snapshot(3).await.expect("an answer").expect("there");
    assert!(read.bytes == state(1));
    store.backend.drop_chunks(3, mine).await.expect("dropped");
    assert!(matches!(store.slot_snapshot(3).await, Err(StoreError::Contended)));
}

#[tokio::test]
async fn an_old_snapshot_put_back_is_an_old_snapshot() {
    let store = memory().await;
    assert!(store.put_slot_snapshot(3, 7, 100, b"old").await.expect("written"));
    let (old, id) = (head(&store, 3).await, snapshot_id(&store, 3).await);
    let chunk = store.backend.read_chunk(3, id, 0).await.expect("an answer").expect("a chunk");
    assert!(store.put_slot_snapshot(3, 8, 200, b"new").await.expect("written"));
    assert_eq!(store.backend.read_chunk(3, id, 0).await.expect("an answer"), None, "its chunks are gone");
    put_head(&store, 3, old).await;
    store.backend.put_chunk(3, id, 0, chunk).await.expect("put back");
    // True for its own offset: the ledger says what came after.
    let read = store.slot_snapshot(3).await.expect("an answer");
    assert_eq!(read, Some(SlotSnapshot { generation: 7, offset: 100, bytes: b"old".to_vec() }));
}

#[tokio::test]
async fn nothing_shared_opens_under_another_key_encryption_key() {
    let store = memory().await;
    store.put_slot_snapshot(3, 7, 100, b"state").await.expect("written");
    store.put_session(&super::scenarios::session(1), DEADLINE).await.expect("written");
    assert_eq!(ring().current_id(), store.kek.current_id());
    let stranger = store.newcomer().with_kek(KekRing::new(&SecretKey::new([9; 32]), &[]));
    assert!(stranger.slot_snapshot(3).await.is_err());
    let record = super::scenarios::session(1);
    assert!(stranger.session(record.device, record.session, 0).await.is_err());
}
