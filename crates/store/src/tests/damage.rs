//! Stored values that are not what was written, put there under the sealing through the back end.

use super::{DEADLINE, eventually, id, individual, keys, memory, psk, reason, ring, tenant};
use crate::backend::Listing;
use crate::record::{DeviceData, RecordState, Stored};
use crate::registry::move_to;
use crate::session_record::{open_session, seal_session};
use crate::{
    DeviceState, KekRing, KeyLookup, LogPosition, NewDevice, NewKey, RecordError, RegistryError, SecretKey,
    Store, StoreError,
};

async fn stored(store: &Store, number: u32) -> Stored {
    store.backend.read_device(id(number)).await.expect("an answer").expect("there")
}

/// Puts a value in the place of whatever is there.
async fn replace(store: &Store, number: u32, value: Stored) {
    let current =
        store.backend.read_device(id(number)).await.expect("an answer").map_or(0, |stored| stored.version);
    let owner = tenant("default");
    let listing = Listing { tenant: &owner, listed: true };
    assert!(store.backend.swap_device(id(number), listing, current, value).await.expect("an answer"));
}

/// Nothing that reads the record may take it for true.
async fn refusal(store: &Store, number: u32) -> RecordError {
    let handshake = store.handshake_keys(id(number)).await;
    let Err(StoreError::Record { record, source }) = handshake else { panic!("given out: {handshake:?}") };
    assert!(record.contains(&id(number).to_string()), "{record}");
    assert!(matches!(store.device(id(number)).await, Err(StoreError::Record { .. })));
    let changed = store.add_key(id(number), &psk(9)).await;
    assert!(matches!(changed, Err(RegistryError::Store(StoreError::Record { .. }))), "{changed:?}");
    let revoked = store.revoke(id(number), &reason("")).await;
    assert!(matches!(revoked, Err(RegistryError::Store(StoreError::Record { .. }))), "{revoked:?}");
    source
}

#[tokio::test]
async fn every_changed_byte_of_a_record_is_noticed() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let good = stored(&store, 1).await;
    for place in 0..good.blob.len() {
        let mut bad = good.clone();
        bad.blob[place] ^= 1 << (place % 8);
        let outcome = DeviceData::decode(&store.kek, id(1), &bad);
        assert!(outcome.is_err(), "byte {place} of {} may be changed", good.blob.len());
    }
    let mut bad = good.clone();
    *bad.blob.last_mut().expect("not empty") ^= 1;
    replace(&store, 1, bad).await;
    assert_eq!(refusal(&store, 1).await, RecordError::Tampered);
}

#[tokio::test]
async fn a_record_cut_at_any_place_is_refused() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let good = stored(&store, 1).await;
    for length in 0..good.blob.len() {
        let bad = Stored { blob: good.blob[..length].to_vec(), ..good };
        assert!(
            DeviceData::decode(&store.kek, id(1), &bad).is_err(),
            "{length} bytes of {}",
            good.blob.len()
        );
    }
    replace(&store, 1, Stored { blob: Vec::new(), ..good }).await;
    assert_eq!(refusal(&store, 1).await, RecordError::Malformed);
}

#[tokio::test]
async fn a_record_of_another_device_is_refused() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    store.create_device(NewDevice::raw(id(2), NewKey::Individual(psk(2)))).await.expect("created");
    let other = stored(&store, 2).await;
    replace(&store, 1, other).await;
    assert_eq!(refusal(&store, 1).await, RecordError::Swapped);
    assert_eq!(keys(&store, id(2)).await, [psk(2)]);
}

#[tokio::test]
async fn a_sealed_key_moved_within_its_record_is_refused() {
    use prost::Message;
    use sluice_proto::store::v1::{Authenticated, DeviceRecord};

    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    store.add_key(id(1), &psk(2)).await.expect("added");
    let good = stored(&store, 1).await;
    let body = Authenticated::decode(good.blob.as_slice()).expect("an envelope").body;
    let mut record = DeviceRecord::decode(body.as_slice()).expect("a record");
    record.keys.swap(0, 1);
    let (first, second) = record.keys.split_at_mut(1);
    std::mem::swap(&mut first[0].epoch, &mut second[0].epoch);
    // Even by somebody who can make the outer MAC.
    let blob = crate::seal::authenticate(&store.kek, "sluice/device", record.encode_to_vec());
    replace(&store, 1, Stored { blob, ..good }).await;
    assert_eq!(refusal(&store, 1).await, RecordError::Tampered);
}

#[tokio::test]
async fn a_revoked_device_does_not_come_back_with_its_old_record() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let active = stored(&store, 1).await;
    store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    let expected = stored(&store, 1).await.version;
    replace(&store, 1, active.clone()).await;
    assert_eq!(refusal(&store, 1).await, RecordError::RolledBack { found: active.version, expected });
}

#[tokio::test]
async fn an_old_record_under_the_new_version_is_refused() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let old = stored(&store, 1).await;
    store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    let version = stored(&store, 1).await.version;
    replace(&store, 1, Stored { version, blob: old.blob }).await;
    assert_eq!(refusal(&store, 1).await, RecordError::RolledBack { found: old.version, expected: version });
}

#[tokio::test]
async fn a_process_that_reads_the_log_recognises_a_record_from_before_it_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.redb");
    let store = super::local::open(&path, ring()).await;
    store.create_device(individual(1)).await.expect("created");
    let active = stored(&store, 1).await;
    store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    replace(&store, 1, active).await;
    drop(store);

    let store = super::local::open(&path, ring()).await;
    // By the record alone nobody can tell; the log names the version that took the right away.
    store.watch_revocations(LogPosition::START).next().await.expect("a batch");
    assert!(matches!(refusal(&store, 1).await, RecordError::RolledBack { .. }));
}

#[tokio::test]
async fn a_record_that_vanished_is_no_stranger() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    // As after a fail-over that lost the last writes: another store behind the same process.
    let emptied = memory().await;
    let store = store.in_front_of(emptied.backend);
    let found = store.handshake_keys(id(1)).await;
    let gone =
        matches!(found, Err(StoreError::Record { source: RecordError::RolledBack { found: 0, .. }, .. }));
    assert!(gone, "{found:?}");
    // An operator may bring it back, and then it counts.
    store.create_device(individual(1)).await.expect("created again");
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
}

#[tokio::test]
async fn an_emptied_store_gives_no_keys_until_it_is_back() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let (full, emptied) = (store.clone(), memory().await);
    let store = store.in_front_of(emptied.backend);
    assert!(matches!(store.check().await, Err(StoreError::Replaced)));
    assert!(matches!(store.handshake_keys(id(7)).await, Err(StoreError::Replaced)));
    let created = store.create_device(individual(8)).await;
    assert!(matches!(created, Err(RegistryError::Store(StoreError::Replaced))), "{created:?}");
    full.check().await.expect("the true store is back");
    assert_eq!(keys(&full, id(1)).await, [psk(1)]);
}

#[tokio::test]
async fn a_record_under_an_unknown_key_is_named_and_opens_again_with_it() {
    let (old, new) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    let store = Store::in_memory(KekRing::new(&old, &[])).await.expect("memory");
    store.create_device(individual(1)).await.expect("created");

    let stranger = store.with_kek(KekRing::new(&new, &[]));
    let found = stranger.handshake_keys(id(1)).await;
    let Err(StoreError::Record { source: RecordError::UnknownKek { kek_id }, .. }) = &found else {
        panic!("opened without its key: {found:?}");
    };
    assert_eq!(*kek_id, store.kek.current_id().to_string());

    let rotating = store.with_kek(KekRing::new(&new, &[old]));
    assert_eq!(keys(&rotating, id(1)).await, [psk(1)]);
    rotating.reseal(id(1)).await.expect("written anew");
    assert_eq!(keys(&stranger, id(1)).await, [psk(1)]);
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_refused_as_such() {
    use prost::Message;
    use sluice_proto::store::v1::{Authenticated, DeviceRecord};

    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let good = stored(&store, 1).await;
    let mut envelope = Authenticated::decode(good.blob.as_slice()).expect("an envelope");
    envelope.revision = 2;
    replace(&store, 1, Stored { blob: envelope.encode_to_vec(), ..good }).await;
    assert_eq!(refusal(&store, 1).await, RecordError::TooNew { revision: 2 });

    let mut record = DeviceRecord::decode(envelope.body.as_slice()).expect("a record");
    record.revision = 2;
    let blob = crate::seal::authenticate(&store.kek, "sluice/device", record.encode_to_vec());
    replace(&store, 1, Stored { blob, ..good }).await;
    assert_eq!(refusal(&store, 1).await, RecordError::TooNew { revision: 2 });
}

#[tokio::test]
async fn a_session_record_is_bound_to_its_device_name_and_epoch() {
    let store = memory().await;
    let record = super::scenarios::session(1);
    let (device, name) = (record.device, record.session);
    let secrets = store.cluster_secrets().await.expect("made");
    let blob = seal_session(&secrets, &record).expect("sealed");
    let ttl = DEADLINE;
    let other_name = sluice_types::SessionId::from_bytes([7; 16]);
    for (device, name, epoch) in [(id(2), name, 1), (device, other_name, 1), (device, name, 2)] {
        store.backend.put_session(device, name, epoch, blob.clone(), ttl).await.expect("written");
        let found = store.session(device, name, 0).await;
        let refused = matches!(&found, Err(StoreError::Record { source: RecordError::Tampered, .. }));
        assert!(refused, "{device} {name} {epoch}: {found:?}");
        store.delete_session(device, name).await.expect("deleted");
    }
    assert_eq!(store.distrusted_values(), 3);
    for length in 0..blob.len() {
        let cut = open_session(&store.kek, &secrets, device, name, 1, &blob[..length]);
        assert!(cut.is_err(), "{length} bytes");
    }
    for place in 0..blob.len() {
        let mut bad = blob.clone();
        bad[place] ^= 0x10;
        assert!(open_session(&store.kek, &secrets, device, name, 1, &bad).is_err(), "byte {place}");
    }
}

#[tokio::test]
async fn a_log_entry_that_cannot_be_trusted_is_left_out_and_counted() {
    let store = memory().await;
    store.create_device(individual(1)).await.expect("created");
    let before = store.backend.append(id(5), 1, b"nonsense".to_vec(), 0).await.expect("appended");
    let position = store.revoke(id(1), &reason("")).await.expect("revoked");
    let batch = store.revocations_after(LogPosition::START).await.expect("a batch");
    assert_eq!((batch.distrusted, batch.entries.len(), batch.position), (1, 1, position));
    assert!(position.0 > before);
}

#[tokio::test]
async fn announcements_that_cannot_be_finished_hide_no_revocation_and_no_other_announcement() {
    const DAMAGED: u32 = 100;
    let store = memory().await;
    for number in 1..=DAMAGED + 2 {
        store.create_device(individual(number)).await.expect("created");
    }
    for number in 1..=DAMAGED {
        let mut bad = stored(&store, number).await;
        *bad.blob.last_mut().expect("not empty") ^= 1;
        replace(&store, number, bad).await;
        store.backend.announce(id(number)).await.expect("announced");
    }
    // What a caller leaves behind who dies between the record and the log.
    let half = id(DAMAGED + 1);
    let target = RecordState::Device(DeviceState::Revoked);
    store.change_device(half, |data| move_to(data, target, &reason("half"))).await.expect("changed");
    store.backend.announce(half).await.expect("announced");
    let whole = id(DAMAGED + 2);
    store.revoke(whole, &reason("whole")).await.expect("revoked");

    eventually("the announcements are overdue", || async {
        !store.backend.log_after(0, 1, 0).await.expect("a page").pending.is_empty()
    })
    .await;
    let mut heard = Vec::new();
    let mut after = LogPosition::START;
    let both = tokio::time::timeout(DEADLINE, async {
        while heard.len() < 2 {
            let batch = store.revocations_after(after).await.expect("readable");
            after = batch.position;
            heard.extend(batch.entries.iter().map(|entry| entry.device));
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    both.await.expect("in time");
    assert_eq!(heard, [whole, half]);
}

#[tokio::test]
async fn tenant_roots_are_bound_to_their_tenant() {
    let store = memory().await;
    let (acme, other) = (tenant("acme"), tenant("other"));
    store.add_tenant_root(&acme, SecretKey::new([1; 32])).await.expect("added");
    let stolen = store.backend.read_tenant(&acme).await.expect("an answer").expect("there");
    assert!(store.backend.swap_tenant(&other, 0, stolen).await.expect("an answer"));
    let found = store.tenant(&other).await;
    assert!(matches!(&found, Err(StoreError::Record { source: RecordError::Swapped, .. })), "{found:?}");
    let found = store.handshake_keys_of_tenant(&other, id(1)).await;
    assert!(matches!(found, Err(StoreError::Record { .. })), "{found:?}");
    assert!(matches!(store.handshake_keys_of_tenant(&acme, id(1)).await, Ok(KeyLookup::Known(_))));
}
