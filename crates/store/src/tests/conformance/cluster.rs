//! What pods share: scenarios for every back end.

use std::time::Duration;

use sluice_types::{PodId, SessionId, Timestamp};

use super::super::{DEADLINE, eventually, id, individual, reason, tenant};
use crate::pod::MAX_PODS;
use crate::{
    ClusterKeysConfig, DeviceLocation, HoldReason, LogPosition, PodRecord, Purpose, RecordError,
    RevocationOutcome, SlotOwner, SlotSnapshot, Store, StoreError,
};

pub(crate) async fn pods_that_start_at_once_share_one_ring(store: Store) {
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

/// Keys that change while the test looks on.
fn quick() -> ClusterKeysConfig {
    ClusterKeysConfig {
        rotate_after: Duration::from_millis(150),
        keep: Duration::from_millis(150),
        ahead: Duration::from_millis(50),
    }
}

pub(crate) async fn ring_rotates_by_itself_and_forgets(store: Store) {
    let store = store.with_cluster_keys(quick());
    let first = store.cluster_secrets().await.expect("a ring");
    let id = first.current_id();
    let old = first.secret(id, Purpose::SessionRecord);
    assert!(old.is_some());
    eventually("the first key is destroyed", || async {
        let now = store.cluster_secrets().await.expect("a ring");
        assert!(now.secret(now.current_id(), Purpose::Cookie).is_some(), "there is always a key in force");
        now.current_id() != id && now.secret(id, Purpose::SessionRecord).is_none()
    })
    .await;
    let now = store.cluster_secrets().await.expect("a ring");
    let tag = now.secret(id, Purpose::SessionIdTag);
    assert_eq!(tag, first.secret(id, Purpose::SessionIdTag), "session ids outlive the key");
    // And nobody who starts now can get it back.
    let newcomer = store.newcomer().cluster_secrets().await.expect("a ring");
    assert_eq!(newcomer.secret(id, Purpose::SessionRecord), None);
}

pub(crate) async fn destroyed_key_closes_the_records_it_sealed(store: Store) {
    let store = store.with_cluster_keys(quick());
    let record = super::scenarios::session(1);
    let (device, name) = (record.device, record.session);
    assert!(store.put_session(&record, DEADLINE).await.expect("written"));
    eventually("the record does not open any more", || async {
        store.cluster_secrets().await.expect("a ring");
        let destroyed = store.session(device, name, 0).await;
        matches!(destroyed, Err(StoreError::Record { source: RecordError::KeyDestroyed { .. }, .. }))
    })
    .await;
    assert!(store.put_session(&record, DEADLINE).await.expect("written anew"));
    assert_eq!(store.session(device, name, 0).await.expect("an answer"), Some(record));
}

pub(crate) async fn record_of_a_pod_with_a_newer_key_is_read(store: Store) {
    let behind = store.newcomer().with_cluster_keys(quick());
    let old = behind.cluster_secrets().await.expect("a ring");
    let ahead = store.newcomer().with_cluster_keys(quick());
    eventually("another pod rotates", || async {
        ahead.cluster_secrets().await.expect("a ring").current_id() != old.current_id()
    })
    .await;
    let record = super::scenarios::session(1);
    assert!(ahead.put_session(&record, DEADLINE).await.expect("written"));
    let read = behind.session(record.device, record.session, 0).await.expect("an answer");
    assert_eq!(read, Some(record));
}

pub(crate) fn pod(byte: u8) -> PodId {
    PodId::from_bytes([byte; 16])
}

pub(crate) fn session_id(byte: u8) -> SessionId {
    SessionId::from_bytes([byte; 16])
}

pub(crate) fn pod_record(byte: u8, counter: u64) -> PodRecord {
    PodRecord {
        pod: pod(byte),
        address: format!("10.0.0.{byte}:7443"),
        counter,
        draining: false,
        version: "0.1.0".to_owned(),
        started: Timestamp(1_764_000_000_000),
        applied: LogPosition::START,
        kafka_ok_within_ms: None,
        unlinked: Vec::new(),
        exactly_once: None,
    }
}

async fn pods(store: &Store) -> Vec<PodRecord> {
    let mut pods = store.pods().await.expect("an answer");
    pods.sort_by_key(|record| record.pod);
    pods
}

pub(crate) async fn pods_are_listed_while_they_say_so(store: Store) {
    assert_eq!(pods(&store).await, []);
    store.announce_pod(&pod_record(1, 1), DEADLINE).await.expect("announced");
    store.announce_pod(&pod_record(2, 1), Duration::from_millis(50)).await.expect("announced");
    store.announce_pod(&PodRecord { draining: true, ..pod_record(1, 2) }, DEADLINE).await.expect("announced");
    eventually("the silent one is gone", || async { pods(&store).await.len() == 1 }).await;
    assert_eq!(pods(&store).await, [PodRecord { draining: true, ..pod_record(1, 2) }]);
    assert_eq!(store.silent_pods().await.expect("an answer"), [pod(2)]);
    store.announce_pod(&pod_record(2, 2), DEADLINE).await.expect("announced again");
    assert_eq!(pods(&store).await.len(), 2);
    store.retire_pod(pod(1)).await.expect("retired");
    store.retire_pod(pod(1)).await.expect("nothing to retire");
    assert_eq!(pods(&store).await, [pod_record(2, 2)]);
    // The longest there can be is read back whole.
    let whole = PodRecord {
        address: "x".repeat(259),
        version: "v".repeat(64),
        counter: u64::MAX,
        draining: true,
        kafka_ok_within_ms: Some(u32::MAX),
        unlinked: (100..228).map(pod).collect(),
        exactly_once: Some(false),
        ..pod_record(3, 1)
    };
    store.announce_pod(&whole, DEADLINE).await.expect("announced");
    assert_eq!(pods(&store).await, [pod_record(2, 2), whole.clone()]);
    let long = PodRecord { address: "x".repeat(260), ..pod_record(3, 1) };
    let many = PodRecord { unlinked: (100..229).map(pod).collect(), ..pod_record(3, 1) };
    for unfit in [long, many] {
        assert!(matches!(store.announce_pod(&unfit, DEADLINE).await, Err(StoreError::Record { .. })));
    }
}

pub(crate) async fn old_sign_of_life_put_back_is_none(store: Store) {
    let seen = store.newcomer();
    store.announce_pod(&pod_record(1, 7), DEADLINE).await.expect("announced");
    assert_eq!(pods(&seen).await.len(), 1);
    store.announce_pod(&pod_record(1, 6), DEADLINE).await.expect("put back");
    assert_eq!(pods(&seen).await, []);
    assert_eq!(seen.distrusted_values(), 1);
}

pub(crate) async fn number_of_pods_is_bounded(store: Store) {
    for number in 0..MAX_PODS + 2 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let record = PodRecord { pod: PodId::from_bytes(bytes), ..pod_record(1, 1) };
        // The first ones are the first to fall silent.
        let ttl = DEADLINE + Duration::from_secs(number as u64);
        store.announce_pod(&record, ttl).await.expect("announced");
    }
    let listed = pods(&store).await;
    assert_eq!(listed.len(), MAX_PODS);
    assert_eq!(listed[0].pod.as_bytes()[7], 2, "those silent for the longest went first");
}

pub(crate) async fn revocation_is_complete_when_every_pod_applied_it(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let position = store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    let patience = Duration::from_millis(100);
    let outcome = store.revocation_complete(position, patience).await.expect("an answer");
    assert_eq!(outcome, RevocationOutcome::Completed, "there is no pod");

    let behind = PodRecord { applied: LogPosition::START, ..pod_record(1, 1) };
    store.announce_pod(&behind, DEADLINE).await.expect("announced");
    // Silent now, and nobody knows whether it serves.
    let silent = PodRecord { applied: LogPosition::START, ..pod_record(2, 1) };
    store.announce_pod(&silent, Duration::from_millis(1)).await.expect("announced");
    store
        .announce_pod(&PodRecord { applied: position, ..pod_record(3, 1) }, DEADLINE)
        .await
        .expect("announced");
    let outcome = store.revocation_complete(position, patience).await.expect("an answer");
    let RevocationOutcome::Outstanding(mut late) = outcome else { panic!("two pods have not applied it") };
    late.sort_unstable();
    assert_eq!(late, [pod(1), pod(2)]);

    let waiting = tokio::spawn({
        let store = store.newcomer();
        async move { store.revocation_complete(position, DEADLINE).await }
    });
    let applied = PodRecord { applied: position, ..pod_record(1, 2) };
    store.announce_pod(&applied, DEADLINE).await.expect("announced");
    store.retire_pod(pod(2)).await.expect("its slots are others' now");
    let outcome = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(outcome, RevocationOutcome::Completed);
}

pub(crate) async fn take_over_names_the_session_displaced(store: Store) {
    let claim = |byte: u8| store.claim_device(id(1), pod(byte), session_id(byte), DEADLINE);
    assert_eq!(store.device_location(id(1)).await.expect("an answer"), None);
    let first = claim(1).await.expect("claimed");
    assert_eq!((&first.previous, first.displaced_recently), (&None, 0));
    let held = DeviceLocation { pod: pod(1), session: session_id(1), epoch: first.epoch };
    assert_eq!(store.device_location(id(1)).await.expect("an answer"), Some(held));
    let second = claim(2).await.expect("claimed");
    assert!(second.epoch > first.epoch);
    assert_eq!((second.previous, second.displaced_recently), (Some(held), 1));
    // The answer was lost: the same again, and nobody is displaced by himself.
    assert_eq!(claim(2).await.expect("claimed"), second);
    // Epochs are one line for both ways to take them.
    assert_eq!(store.device_epoch(id(1)).await.expect("an answer"), Some(second.epoch));
    assert!(store.take_device_epoch(id(1)).await.expect("taken") > second.epoch);

    store.release_device(id(1), session_id(1)).await.expect("not the holder");
    assert!(store.device_location(id(1)).await.expect("an answer").is_some());
    store.release_device(id(1), session_id(2)).await.expect("released");
    assert_eq!(store.device_location(id(1)).await.expect("an answer"), None);
    let third = claim(3).await.expect("claimed");
    assert_eq!((third.previous, third.displaced_recently), (None, 1), "nobody was displaced this time");
    assert_eq!(store.device_location(id(2)).await.expect("an answer"), None);
}

pub(crate) async fn holder_that_does_not_renew_loses_the_device(store: Store) {
    let brief = Duration::from_millis(50);
    store.claim_device(id(1), pod(1), session_id(1), brief).await.expect("claimed");
    assert!(!store.renew_device(id(1), pod(1), session_id(2), DEADLINE).await.expect("not the holder"));
    eventually("its time is over", || async {
        store.device_location(id(1)).await.expect("an answer").is_none()
    })
    .await;
    assert!(!store.renew_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("too late"));
    let next = store.claim_device(id(1), pod(2), session_id(2), brief).await.expect("claimed");
    assert_eq!((next.previous, next.displaced_recently), (None, 0));
    assert!(store.renew_device(id(1), pod(3), session_id(2), DEADLINE).await.expect("renewed"));
    let moved = store.device_location(id(1)).await.expect("an answer").expect("held");
    assert_eq!((moved.pod, moved.session, moved.epoch), (pod(3), session_id(2), next.epoch));
}

pub(crate) async fn two_holders_of_one_key_show_by_displacing_each_other(store: Store) {
    let mut seen = Vec::new();
    for round in 0..20 {
        // Each connects anew under a session of its own.
        let claim = store.claim_device(id(1), pod(round % 2), session_id(round), DEADLINE).await;
        seen.push(claim.expect("claimed").displaced_recently);
    }
    let expected: Vec<u32> = (0..20).map(|round: u32| round.min(16)).collect();
    assert_eq!(seen, expected);
}

pub(crate) async fn device_is_held_until_its_time_is_over_or_it_is_released(store: Store) {
    let held = |number| {
        let store = store.newcomer();
        async move { store.device_hold(id(number)).await.expect("an answer").map(|hold| hold.reason) }
    };
    assert_eq!(held(1).await, None);
    assert!(!store.end_hold(id(1)).await.expect("an answer"), "nothing to end");
    store.hold_device(id(1), HoldReason::SuspectedClone, DEADLINE).await.expect("held");
    assert_eq!((held(1).await, held(2).await), (Some(HoldReason::SuspectedClone), None));
    assert!(store.end_hold(id(1)).await.expect("an answer"));
    assert!(!store.end_hold(id(1)).await.expect("an answer"), "it is over");
    assert_eq!(held(1).await, None);
    store.hold_device(id(2), HoldReason::RateLimited, Duration::from_millis(50)).await.expect("held");
    eventually("it ends by itself", || async { held(2).await.is_none() }).await;
}

pub(crate) async fn later_end_of_a_hold_stays(store: Store) {
    store.hold_device(id(1), HoldReason::SuspectedClone, 10 * DEADLINE).await.expect("held");
    let first = store.device_hold(id(1)).await.expect("an answer").expect("held");
    assert!(first.until > first.since);
    store.hold_device(id(1), HoldReason::RateLimited, DEADLINE).await.expect("an answer");
    assert_eq!(store.device_hold(id(1)).await.expect("an answer"), Some(first));
    store.hold_device(id(1), HoldReason::RateLimited, 20 * DEADLINE).await.expect("held for longer");
    let second = store.device_hold(id(1)).await.expect("an answer").expect("held");
    assert!(second.reason == HoldReason::RateLimited && second.until > first.until, "{second:?}");
}

pub(crate) async fn released_device_begins_anew(store: Store) {
    let claim = |byte| store.claim_device(id(1), pod(1), session_id(byte), DEADLINE);
    for byte in 0..7 {
        claim(byte).await.expect("claimed");
    }
    assert_eq!(claim(7).await.expect("claimed").displaced_recently, 7);
    store.hold_device(id(1), HoldReason::SuspectedClone, DEADLINE).await.expect("held");
    assert!(store.end_hold(id(1)).await.expect("an answer"));
    assert_eq!(claim(8).await.expect("claimed").displaced_recently, 1, "what was before does not count");
}

pub(crate) async fn places_of_a_tenant_are_shared_and_come_back(store: Store) {
    let (acme, other) = (tenant("acme"), tenant("other"));
    let lease = |byte: u8, wanted, ttl| store.lease_places(&acme, pod(byte), 100, wanted, ttl);
    assert_eq!(lease(1, 60, DEADLINE).await.expect("leased"), 60);
    assert_eq!(lease(2, 60, DEADLINE).await.expect("leased"), 40);
    assert_eq!(lease(3, 60, DEADLINE).await.expect("none left"), 0);
    assert_eq!(lease(1, 60, DEADLINE).await.expect("renewed"), 60);
    assert_eq!(lease(1, 20, DEADLINE).await.expect("given back"), 20);
    assert_eq!(lease(2, 200, DEADLINE).await.expect("leased"), 80);
    assert_eq!(store.lease_places(&other, pod(2), 5, 9, DEADLINE).await.expect("leased"), 5);
    assert_eq!(lease(2, 0, DEADLINE).await.expect("given back"), 0);
    // A pod that dies gives nothing back: its time ends.
    assert_eq!(lease(2, 80, Duration::from_millis(50)).await.expect("leased"), 80);
    assert_eq!(lease(3, 80, DEADLINE).await.expect("none left"), 0);
    eventually("the dead pod's places are free", || async {
        lease(3, 80, DEADLINE).await.expect("an answer") == 80
    })
    .await;
    // A limit that fell takes places away at the next renewal.
    assert_eq!(store.lease_places(&acme, pod(3), 50, 80, DEADLINE).await.expect("leased"), 30);
}

pub(crate) async fn simultaneous_leases_never_pass_the_limit(store: Store) {
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 0..16 {
        let store = store.clone();
        tasks.spawn(async move {
            store.lease_places(&tenant("acme"), pod(byte), 100, 9, DEADLINE).await.expect("an answer")
        });
    }
    let granted: u32 = tasks.join_all().await.into_iter().sum();
    assert_eq!(granted, 100, "16 pods wanted 144");
}

pub(crate) async fn newer_snapshot_stays_and_is_read_back(store: Store) {
    assert_eq!(store.slot_snapshot(3).await.expect("an answer"), None);
    // Three chunks, no two alike.
    let large: Vec<u8> = (0..1_200_000u32).map(|index| (index >> 8) as u8 ^ index as u8).collect();
    assert!(store.put_slot_snapshot(3, 7, 100, &large).await.expect("written"));
    let other = store.newcomer();
    let read = other.slot_snapshot(3).await.expect("an answer").expect("there");
    assert_eq!((read.generation, read.offset, read.bytes == large), (7, 100, true));
    assert!(store.put_slot_snapshot(3, 7, 100, &large).await.expect("written again"));
    assert!(!store.put_slot_snapshot(3, 7, 99, b"old").await.expect("older offset"));
    assert!(!store.put_slot_snapshot(3, 6, 200, b"old").await.expect("older generation"));
    assert!(store.put_slot_snapshot(3, 8, 5, b"").await.expect("a new owner"));
    let expected = SlotSnapshot { generation: 8, offset: 5, bytes: Vec::new() };
    assert_eq!(other.slot_snapshot(3).await.expect("an answer"), Some(expected));
    assert_eq!(store.slot_snapshot(4).await.expect("an answer"), None);
    for (slot, offset) in [(1024, 0), (3, -1)] {
        let refused = store.put_slot_snapshot(slot, 9, offset, b"x").await;
        assert!(matches!(refused, Err(StoreError::Record { .. })), "{refused:?}");
    }
}

pub(crate) async fn owner_of_the_latest_generation_is_named(store: Store) {
    assert_eq!(store.slot_owners().await.expect("an answer"), []);
    store.put_slot_owner(3, pod(1), 1).await.expect("written");
    store.put_slot_owner(3, pod(2), 3).await.expect("written");
    store.put_slot_owner(3, pod(1), 2).await.expect("a late word");
    store.put_slot_owner(1023, pod(9), 1).await.expect("written");
    let mut owners = store.slot_owners().await.expect("an answer");
    owners.sort_by_key(|owner| owner.slot);
    let owner = |slot, byte, generation| SlotOwner { slot, pod: pod(byte), generation };
    assert_eq!(owners, [owner(3, 2, 3), owner(1023, 9, 1)]);
    assert!(store.put_slot_owner(1024, pod(1), 1).await.is_err());
}
