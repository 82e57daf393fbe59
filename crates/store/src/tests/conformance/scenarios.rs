//! What every back end must do. Each scenario gets an empty store of its own.

use std::time::Duration;

use sluice_types::{DeviceEpoch, KeyEpoch, Psk, SessionId, Timestamp};

use super::super::{DEADLINE, eventually, id, individual, keys, psk, reason, tenant};
use crate::record::RecordState;
use crate::registry::move_to;
use crate::{
    DeviceState, KeyLookup, KeySource, LastRekey, Limit, LimitOutcome, LimitSubject, LogPosition, NewDevice,
    NewKey, PageRequest, Profile, RecordError, RegistryError, SecretKey, SessionKeys, SessionRecord, Store,
    StoreError, clock, derived_psk,
};

pub(crate) async fn created_device_connects_under_its_key(store: Store) {
    let device = store.create_device(individual(1)).await.expect("created");
    assert_eq!(
        (device.state, device.profile, device.key_source),
        (DeviceState::Active, Profile::Raw, KeySource::Individual)
    );
    assert_eq!(device.keys.len(), 1);
    let KeyLookup::Known(found) = store.handshake_keys(id(1)).await.expect("an answer") else {
        panic!("a registered device is known");
    };
    assert_eq!(found.psks, [(KeyEpoch(1), psk(1))]);
    assert_eq!(found.tenant.as_str(), "default");
    assert_eq!(store.device(id(1)).await.expect("an answer"), Some(device));
}

pub(crate) async fn unknown_device_is_a_normal_answer(store: Store) {
    assert!(matches!(store.handshake_keys(id(1)).await, Ok(KeyLookup::Unknown)));
    assert!(matches!(store.device(id(1)).await, Ok(None)));
    let outcome = store.revoke(id(1), &reason("")).await;
    assert!(matches!(outcome, Err(RegistryError::NotFound(_))), "{outcome:?}");
    let outcome = store.add_key(id(1), &psk(1)).await;
    assert!(matches!(outcome, Err(RegistryError::NotFound(_))), "{outcome:?}");
    assert_eq!(store.revocations_after(LogPosition::START).await.expect("an answer").entries, []);
}

pub(crate) async fn second_registration_of_an_id_is_refused(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let again = NewDevice { tenant: tenant("other"), key: NewKey::Individual(psk(9)), ..individual(1) };
    let outcome = store.create_device(again).await;
    assert!(matches!(outcome, Err(RegistryError::Exists(_))), "{outcome:?}");
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
}

pub(crate) async fn simultaneous_registrations_have_one_winner(store: Store) {
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 1..=8 {
        let store = store.clone();
        let new = NewDevice::raw(id(1), NewKey::Individual(psk(byte)));
        tasks.spawn(async move { store.create_device(new).await.map(|_| psk(byte)) });
    }
    let outcomes = tasks.join_all().await;
    let winners: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().cloned()).collect();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(RegistryError::Exists(_)))).count();
    assert_eq!((winners.len(), refused), (1, 7), "{outcomes:?}");
    assert_eq!(keys(&store, id(1)).await, winners);
}

pub(crate) async fn rotation_keeps_the_old_key_until_it_is_retired(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let last = store.retire_key(id(1), KeyEpoch(1)).await;
    assert!(matches!(last, Err(RegistryError::LastKey(KeyEpoch(1)))), "{last:?}");
    assert_eq!(store.add_key(id(1), &psk(2)).await.expect("added"), KeyEpoch(2));
    assert_eq!(store.add_key(id(1), &psk(3)).await.expect("added"), KeyEpoch(3));
    let fourth = store.add_key(id(1), &psk(4)).await;
    assert!(matches!(fourth, Err(RegistryError::TooManyKeys)), "{fourth:?}");
    assert_eq!(keys(&store, id(1)).await, [psk(1), psk(2), psk(3)]);
    store.retire_key(id(1), KeyEpoch(1)).await.expect("retired");
    assert_eq!(keys(&store, id(1)).await, [psk(2), psk(3)]);
    let again = store.retire_key(id(1), KeyEpoch(1)).await;
    assert!(matches!(again, Err(RegistryError::NoSuchKey(KeyEpoch(1)))), "{again:?}");
    // An epoch is never given twice.
    assert_eq!(store.add_key(id(1), &psk(5)).await.expect("added"), KeyEpoch(4));
}

pub(crate) async fn simultaneous_additions_never_pass_three_keys(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 2..=6 {
        let store = store.clone();
        tasks.spawn(async move { store.add_key(id(1), &psk(byte)).await });
    }
    let outcomes = tasks.join_all().await;
    let mut epochs: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [KeyEpoch(2), KeyEpoch(3)], "{outcomes:?}");
    assert_eq!(keys(&store, id(1)).await.len(), 3);
}

pub(crate) async fn revoked_device_is_refused_at_once_and_logged_once(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let position = store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    let found = store.handshake_keys(id(1)).await;
    assert!(matches!(found, Ok(KeyLookup::Refused { state: DeviceState::Revoked, .. })), "{found:?}");
    assert_eq!(store.revoke(id(1), &reason("again")).await.expect("still revoked"), position);
    let batch = store.revocations_after(LogPosition::START).await.expect("an answer");
    assert_eq!(
        (batch.entries.len(), batch.position, batch.missed, batch.distrusted),
        (1, position, false, 0)
    );
    let entry = &batch.entries[0];
    assert_eq!(
        (entry.device, entry.state, entry.reason.as_str()),
        (id(1), Some(DeviceState::Revoked), "stolen")
    );
    assert_eq!(store.revocations_after(position).await.expect("an answer").entries, []);
    let device = store.device(id(1)).await.expect("an answer").expect("still registered");
    assert_eq!(device.reason, "stolen");
}

pub(crate) async fn suspended_device_comes_back(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let away = store.set_state(id(1), DeviceState::Suspended, &reason("in repair")).await.expect("suspended");
    assert!(away.is_some());
    let found = store.handshake_keys(id(1)).await;
    assert!(matches!(found, Ok(KeyLookup::Refused { state: DeviceState::Suspended, .. })), "{found:?}");
    let back = store.set_state(id(1), DeviceState::Active, &reason("")).await.expect("active");
    assert_eq!(back, None);
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
    // Suspending once more is a new event.
    let again = store.set_state(id(1), DeviceState::Suspended, &reason("")).await.expect("suspended");
    assert!(again > away, "{again:?} after {away:?}");
}

pub(crate) async fn decommissioned_id_is_refused_for_good(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    store.set_state(id(1), DeviceState::Decommissioned, &reason("scrapped")).await.expect("decommissioned");
    let device = store.device(id(1)).await.expect("an answer").expect("it stays listed");
    assert_eq!(device.keys, []);
    let outcome = store.create_device(individual(1)).await;
    assert!(matches!(outcome, Err(RegistryError::Decommissioned(_))), "{outcome:?}");
    for state in [DeviceState::Active, DeviceState::Revoked] {
        let outcome = store.set_state(id(1), state, &reason("")).await;
        assert!(matches!(outcome, Err(RegistryError::State { .. })), "{state:?}: {outcome:?}");
    }
    assert!(matches!(store.remove(id(1)).await, Err(RegistryError::State { .. })));
    assert!(matches!(store.add_key(id(1), &psk(2)).await, Err(RegistryError::State { .. })));
}

pub(crate) async fn removed_id_can_be_registered_again(store: Store) {
    let first = store.create_device(individual(1)).await.expect("created");
    let position = store.remove(id(1)).await.expect("removed");
    assert!(matches!(store.handshake_keys(id(1)).await, Ok(KeyLookup::Unknown)));
    assert_eq!(store.device(id(1)).await.expect("an answer"), None);
    assert!(store.list(&PageRequest::default()).await.expect("an answer").devices.is_empty());
    let entry = &store.revocations_after(LogPosition::START).await.expect("an answer").entries[0];
    assert_eq!((entry.position, entry.state), (position, None));
    let again = NewDevice::raw(id(1), NewKey::Individual(psk(2)));
    let second = store.create_device(again).await.expect("created again");
    assert!(second.version > first.version);
    assert_eq!(second.keys[0].epoch, KeyEpoch(2), "a key epoch is never given twice");
    assert_eq!(keys(&store, id(1)).await, [psk(2)]);
}

pub(crate) async fn states_that_lead_nowhere_are_refused(store: Store) {
    for state in [DeviceState::Revoked, DeviceState::Decommissioned] {
        let outcome = store.create_device(NewDevice { state, ..individual(1) }).await;
        assert!(matches!(outcome, Err(RegistryError::State { .. })), "{outcome:?}");
    }
    store
        .create_device(NewDevice { state: DeviceState::Provisioned, ..individual(1) })
        .await
        .expect("created");
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
    store.revoke(id(1), &reason("")).await.expect("revoked");
    for state in [DeviceState::Active, DeviceState::Provisioned, DeviceState::Suspended] {
        let outcome = store.set_state(id(1), state, &reason("")).await;
        assert!(matches!(outcome, Err(RegistryError::State { .. })), "{state:?}: {outcome:?}");
    }
    store.set_state(id(1), DeviceState::Decommissioned, &reason("")).await.expect("decommissioned");
}

pub(crate) async fn lists_go_by_tenant_and_id_over_pages(store: Store) {
    // In no order, and with a tenant whose name starts like another one's.
    for number in [5, 3, 9, 1] {
        store.create_device(individual(number)).await.expect("created");
        let new = NewDevice { tenant: tenant("acme"), ..individual(100 + number) };
        store.create_device(new).await.expect("created");
    }
    let new = NewDevice { tenant: tenant("acme-eu"), ..individual(200) };
    store.create_device(new).await.expect("created");
    let mut request = PageRequest { limit: 3, ..PageRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = store.list(&request).await.expect("a page");
        assert!(page.devices.len() <= 3);
        seen.extend(page.devices.into_iter().map(|device| (device.tenant.to_string(), device.id)));
        let Some(next) = page.next else { break };
        request.after = Some(next.to_string().parse().expect("its own text"));
    }
    let expected: Vec<_> = [("acme", 101), ("acme", 103), ("acme", 105), ("acme", 109), ("acme-eu", 200)]
        .into_iter()
        .chain([("default", 1), ("default", 3), ("default", 5), ("default", 9)])
        .map(|(tenant, number)| (tenant.to_owned(), id(number)))
        .collect();
    assert_eq!(seen, expected);
    let acme = PageRequest { tenant: Some(tenant("acme")), ..PageRequest::default() };
    let page = store.list(&acme).await.expect("a page");
    assert_eq!((page.devices.len(), page.next), (4, None));
    let nobody = PageRequest { tenant: Some(tenant("nobody")), ..PageRequest::default() };
    assert!(store.list(&nobody).await.expect("a page").devices.is_empty());
}

pub(crate) async fn derived_keys_follow_the_roots_of_the_tenant(store: Store) {
    let acme = tenant("acme");
    let new = NewDevice { tenant: acme.clone(), key: NewKey::Derived, ..individual(1) };
    let early = store.create_device(new.clone()).await;
    assert!(matches!(early, Err(RegistryError::NoRoot(_))), "{early:?}");
    let (first, second) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    let epoch = store.add_tenant_root(&acme, first.clone()).await.expect("added");
    store.create_device(new).await.expect("created");
    assert_eq!(keys(&store, id(1)).await, [derived_psk(&first, epoch, id(1))]);
    let next = store.add_tenant_root(&acme, second.clone()).await.expect("added");
    let both = [derived_psk(&first, epoch, id(1)), derived_psk(&second, next, id(1))];
    assert_eq!(keys(&store, id(1)).await, both);
    store.retire_tenant_root(&acme, epoch).await.expect("retired");
    assert_eq!(keys(&store, id(1)).await, both[1..]);
    let own = store.add_key(id(1), &psk(1)).await;
    assert!(matches!(own, Err(RegistryError::DerivedKeys(_))), "{own:?}");
    assert_eq!(store.tenant(&acme).await.expect("an answer").expect("known").root_epochs, [next]);
}

pub(crate) async fn listener_of_a_tenant_knows_devices_without_entry(store: Store) {
    let (acme, other) = (tenant("acme"), tenant("other"));
    let unknown = store.handshake_keys_of_tenant(&acme, id(1)).await;
    assert!(matches!(unknown, Ok(KeyLookup::Unknown)), "{unknown:?}");
    let root = SecretKey::new([1; 32]);
    let epoch = store.add_tenant_root(&acme, root.clone()).await.expect("added");
    let KeyLookup::Known(found) = store.handshake_keys_of_tenant(&acme, id(1)).await.expect("an answer")
    else {
        panic!("a tenant with roots knows every device");
    };
    assert_eq!(found.psks, [(epoch, derived_psk(&root, epoch, id(1)))]);
    let elsewhere = store.handshake_keys_of_tenant(&other, id(1)).await;
    assert!(matches!(elsewhere, Ok(KeyLookup::Unknown)), "{elsewhere:?}");
    // An entry takes precedence: a revoked device stays out, and a device of one tenant is none of another.
    let new = NewDevice { tenant: acme.clone(), key: NewKey::Derived, ..individual(1) };
    store.create_device(new).await.expect("created");
    store.revoke(id(1), &reason("")).await.expect("revoked");
    let refused = store.handshake_keys_of_tenant(&acme, id(1)).await;
    assert!(matches!(refused, Ok(KeyLookup::Refused { .. })), "{refused:?}");
    store.create_device(NewDevice { tenant: other, ..individual(2) }).await.expect("created");
    let foreign = store.handshake_keys_of_tenant(&acme, id(2)).await;
    assert!(matches!(foreign, Ok(KeyLookup::Unknown)), "{foreign:?}");
}

pub(crate) async fn short_key_is_taken_only_by_permission_and_until_the_deadline(store: Store) {
    let short = Psk::new_dangerously_short(b"sixteen bytes of").expect("16 bytes");
    let new = || NewDevice::raw(id(1), NewKey::Individual(short.clone()));
    let outcome = store.create_device(new()).await;
    assert!(matches!(outcome, Err(RegistryError::ShortKey { length: 16 })), "{outcome:?}");
    let passed = Timestamp(clock::now().as_millis() - 1);
    store.dangerously_accept_short_psk(&tenant("default"), Some(passed)).await.expect("set");
    let outcome = store.create_device(new()).await;
    assert!(matches!(outcome, Err(RegistryError::ShortKey { length: 16 })), "{outcome:?}");

    let deadline = Timestamp(clock::now().as_millis() + 1500);
    store.dangerously_accept_short_psk(&tenant("default"), Some(deadline)).await.expect("set");
    let device = store.create_device(new()).await.expect("permitted");
    assert_eq!((device.keys[0].short, device.keys[0].not_after), (true, Some(deadline)));
    eventually("the short key opens no session after its deadline", || async {
        keys(&store, id(1)).await.is_empty()
    })
    .await;
    assert!(clock::now() >= deadline, "the key was refused before its deadline");
}

pub(crate) async fn watch_hears_a_revocation_at_once(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    let mut watch = store.watch_revocations(LogPosition::START);
    let hearing = tokio::spawn(async move { watch.next().await });
    let position = store.revoke(id(1), &reason("lost")).await.expect("revoked");
    let heard =
        tokio::time::timeout(DEADLINE, hearing).await.expect("in time").expect("no panic").expect("a batch");
    assert_eq!((heard.entries[0].device, heard.position), (id(1), position));
}

pub(crate) async fn watch_goes_on_where_it_was_told(store: Store) {
    let mut positions = Vec::new();
    for number in 1..=5 {
        store.create_device(individual(number)).await.expect("created");
        positions.push(store.revoke(id(number), &reason("")).await.expect("revoked"));
    }
    assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
    let mut watch = store.watch_revocations(positions[2]);
    let batch = watch.next().await.expect("a batch");
    let devices: Vec<_> = batch.entries.iter().map(|entry| entry.device).collect();
    assert_eq!((devices, watch.position()), (vec![id(4), id(5)], positions[4]));
}

pub(crate) async fn log_tells_whether_it_has_an_entry_and_numbers_go_on_above_a_known_one(store: Store) {
    let one = store.backend.append(id(1), 1, b"one".to_vec(), 0).await.expect("appended");
    let two = store.backend.append(id(2), 1, b"two".to_vec(), one + 3_600_000).await.expect("appended");
    assert!(two > one + 3_600_000, "{one}, {two}");
    assert_eq!(
        store.backend.append(id(2), 1, b"two".to_vec(), u64::from(u32::MAX)).await.expect("known"),
        two
    );
    let three = store.backend.append(id(3), 1, b"three".to_vec(), 0).await.expect("appended");
    assert_eq!(three, two + 1);
    for (number, there) in [(one, true), (two, true), (one - 1, false), (one + 1, false), (0, false)] {
        let page = store.backend.log_after(two, 1, number).await.expect("a page");
        assert_eq!((page.known, page.has_known), (number, there));
        assert_eq!(page.entries, [(three, b"three".to_vec())]);
    }
}

pub(crate) async fn announced_revocation_is_finished_by_a_watcher(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    // What a caller leaves behind who dies between the record and the log.
    store.backend.announce(id(1)).await.expect("announced");
    let target = RecordState::Device(DeviceState::Revoked);
    store.change_device(id(1), |data| move_to(data, target, &reason("half"))).await.expect("changed");
    assert_eq!(store.revocations_after(LogPosition::START).await.expect("an answer").entries, []);
    let mut watch = store.watch_revocations(LogPosition::START);
    let heard = tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!((heard.entries[0].device, heard.entries[0].reason.as_str()), (id(1), "half"));
    // The caller who asks again gets the same entry.
    assert_eq!(store.revoke(id(1), &reason("half")).await.expect("revoked"), heard.position);
}

pub(crate) async fn announcement_without_a_revocation_is_dropped(store: Store) {
    store.create_device(individual(1)).await.expect("created");
    store.backend.announce(id(1)).await.expect("announced");
    eventually("the announcement is overdue", || async {
        !store.backend.log_after(0, 1, 0).await.expect("a page").pending.is_empty()
    })
    .await;
    assert_eq!(store.revocations_after(LogPosition::START).await.expect("an answer").entries, []);
    assert!(store.backend.log_after(0, 1, 0).await.expect("a page").pending.is_empty());
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
}

pub(crate) async fn pods_report_how_far_they_are(store: Store) {
    store.report_applied("edge-0", LogPosition(7)).await.expect("noted");
    store.report_applied("edge-1", LogPosition(9)).await.expect("noted");
    store.report_applied("edge-0", LogPosition(5)).await.expect("ignored, a late repeat");
    let mut pods = store.applied_positions().await.expect("an answer");
    pods.sort_by(|one, other| one.pod.cmp(&other.pod));
    let seen: Vec<_> = pods.iter().map(|entry| (entry.pod.as_str(), entry.position)).collect();
    assert_eq!(seen, [("edge-0", LogPosition(7)), ("edge-1", LogPosition(9))]);
    assert!(pods.iter().all(|entry| entry.age < DEADLINE), "{pods:?}");
}

pub(crate) fn session(rekey_epoch: u32) -> SessionRecord {
    let key = |byte: u8| SecretKey::new([byte; 32]);
    SessionRecord {
        session: SessionId::from_bytes(*b"session-0123456!"),
        device: id(1),
        tenant: tenant("acme"),
        profile: Profile::Raw,
        device_epoch: DeviceEpoch(77),
        rekey_epoch,
        current: SessionKeys { c2s: key(0xc2), s2c: key(0x52) },
        previous: (rekey_epoch > 0).then(|| SessionKeys { c2s: key(1), s2c: key(2) }),
        birth_generation: 9,
        last_rekey: (rekey_epoch > 0).then(|| LastRekey {
            old_c2s: key(1),
            fingerprint: [9; 8],
            seq: 41,
            at: Timestamp(1_764_000_000_500),
        }),
        key_epoch: KeyEpoch(3),
        opened: Timestamp(1_764_000_000_000),
    }
}

pub(crate) async fn session_record_is_read_back_until_it_expires(store: Store) {
    let record = session(1);
    let (device, name) = (record.device, record.session);
    assert_eq!(store.session(device, name, 0).await.expect("an answer"), None);
    assert!(store.put_session(&record, Duration::from_secs(60)).await.expect("written"));
    assert_eq!(store.session(device, name, 1).await.expect("an answer").as_ref(), Some(&record));
    store.delete_session(device, name).await.expect("deleted");
    store.delete_session(device, name).await.expect("nothing to delete");
    assert_eq!(store.session(device, name, 0).await.expect("an answer"), None);
    assert!(store.put_session(&record, Duration::from_millis(50)).await.expect("written"));
    eventually("the record expires", || async {
        store.session(device, name, 0).await.expect("an answer").is_none()
    })
    .await;
}

pub(crate) async fn late_writer_does_not_bring_old_session_keys_back(store: Store) {
    let (old, new) = (session(1), session(2));
    assert!(store.put_session(&new, DEADLINE).await.expect("written"));
    assert!(!store.put_session(&old, DEADLINE).await.expect("refused"));
    assert!(store.put_session(&new, DEADLINE).await.expect("written again"));
    assert_eq!(store.session(new.device, new.session, 0).await.expect("an answer"), Some(new));
}

pub(crate) async fn session_older_than_known_is_refused(store: Store) {
    let record = session(2);
    store.put_session(&record, DEADLINE).await.expect("written");
    let refused = store.session(record.device, record.session, 3).await;
    let expected = RecordError::RolledBack { found: 2, expected: 3 };
    assert!(matches!(&refused, Err(StoreError::Record { source, .. }) if *source == expected), "{refused:?}");
}

pub(crate) async fn device_epochs_grow_for_everybody(store: Store) {
    assert_eq!(store.device_epoch(id(1)).await.expect("an answer"), None);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { store.take_device_epoch(id(1)).await.expect("taken") });
    }
    let mut taken = tasks.join_all().await;
    taken.sort_unstable();
    assert!(taken.is_sorted_by(|one, next| one < next), "{taken:?}");
    assert_eq!(store.device_epoch(id(1)).await.expect("an answer").as_ref(), taken.last());
    let next = store.take_device_epoch(id(1)).await.expect("taken");
    assert!(Some(&next) > taken.last());
    assert_eq!(store.device_epoch(id(2)).await.expect("an answer"), None);
}

pub(crate) async fn bucket_gives_its_burst_and_refills(store: Store) {
    let limit = Limit { name: "handshake", burst: 4, refill: Duration::from_secs(3600) };
    let device = LimitSubject::Device(id(1));
    for _ in 0..4 {
        assert_eq!(store.take_token(&device, &limit).await.expect("an answer"), LimitOutcome::Allowed);
    }
    let LimitOutcome::RetryAfter(wait) = store.take_token(&device, &limit).await.expect("an answer") else {
        panic!("a fifth token from a bucket of four");
    };
    assert!(wait > Duration::from_secs(800) && wait <= Duration::from_secs(901), "{wait:?}");
    for other in [LimitSubject::Device(id(2)), LimitSubject::Tenant(tenant("acme"))] {
        assert_eq!(store.take_token(&other, &limit).await.expect("an answer"), LimitOutcome::Allowed);
    }
    let other_name = Limit { name: "publish", ..limit };
    assert_eq!(store.take_token(&device, &other_name).await.expect("an answer"), LimitOutcome::Allowed);
    let quick = Limit { name: "quick", burst: 1, refill: Duration::from_millis(100) };
    assert_eq!(store.take_token(&device, &quick).await.expect("an answer"), LimitOutcome::Allowed);
    eventually("the bucket refills", || async {
        store.take_token(&device, &quick).await.expect("an answer") == LimitOutcome::Allowed
    })
    .await;
}

pub(crate) async fn check_passes_on_a_healthy_store(store: Store) {
    store.check().await.expect("healthy");
}
