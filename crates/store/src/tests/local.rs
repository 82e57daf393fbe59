//! What only a local file can do.

use std::path::Path;

use super::{DEADLINE, id, individual, keys, psk, reason, ring, tenant};
use crate::backend::Backend;
use crate::local::Local;
use crate::{
    DeviceState, KekRing, KeyLookup, LocalConfig, LogPosition, OpenError, PageRequest, SecretKey, Store,
    StoreConfig,
};

pub(super) async fn open(path: &Path, kek: KekRing) -> Store {
    let local = Local::open(path.to_owned()).await.expect("opens");
    Store::assemble(Backend::Local(local), kek, path.display().to_string()).await.expect("ours")
}

fn config(folder: &Path) -> StoreConfig {
    let kek_file = folder.join("kek");
    if !kek_file.exists() {
        KekRing::create_file(&kek_file).expect("made");
    }
    StoreConfig { kek_file, local: LocalConfig { path: folder.join("store.redb") }, ..StoreConfig::default() }
}

#[tokio::test]
async fn devices_revocations_and_roots_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path());
    let store = Store::open(&config).await.expect("opens");
    store.create_device(individual(1)).await.expect("created");
    store.create_device(individual(2)).await.expect("created");
    let position = store.revoke(id(2), &reason("lost")).await.expect("revoked");
    let root = SecretKey::new([3; 32]);
    store.add_tenant_root(&tenant("acme"), root).await.expect("added");
    let epoch = store.take_device_epoch(id(1)).await.expect("taken");
    drop(store);

    let store = Store::open(&config).await.expect("opens again");
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
    let found = store.handshake_keys(id(2)).await;
    assert!(matches!(found, Ok(KeyLookup::Refused { state: DeviceState::Revoked, .. })), "{found:?}");
    assert_eq!(store.revocations_after(LogPosition::START).await.expect("a batch").position, position);
    assert_eq!(store.list(&PageRequest::default()).await.expect("a page").devices.len(), 2);
    assert!(store.tenant(&tenant("acme")).await.expect("an answer").is_some());
    assert!(store.take_device_epoch(id(1)).await.expect("taken") > epoch);
    // The log goes on above what it had.
    store.create_device(individual(3)).await.expect("created");
    assert!(store.revoke(id(3), &reason("")).await.expect("revoked") > position);
}

#[tokio::test]
async fn a_second_process_is_told_which_file_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path());
    let first = Store::open(&config).await.expect("opens");
    let refused = Store::open(&config).await.expect_err("taken");
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("store.redb") && refused.to_string().contains("stop it"),
        "{refused}"
    );
    first.create_device(individual(1)).await.expect("the first one is not disturbed");
    drop(first);
    Store::open(&config).await.expect("free again");
}

#[tokio::test]
async fn the_wrong_key_file_is_noticed_at_once_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path());
    let store = Store::open(&config).await.expect("opens");
    store.create_device(individual(1)).await.expect("created");
    drop(store);

    let other = StoreConfig { kek_file: folder.path().join("other"), ..config.clone() };
    let missing = Store::open(&other).await.expect_err("no key file");
    assert!(missing.to_string().contains("other") && missing.to_string().contains("openssl"), "{missing}");
    KekRing::create_file(&other.kek_file).expect("made");
    let wrong = Store::open(&other).await.expect_err("another key");
    assert!(matches!(wrong, OpenError::WrongKek { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("other"), "{wrong}");

    let store = Store::open(&config).await.expect("opens with its own");
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
}

#[tokio::test]
async fn a_file_that_is_no_store_is_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path());
    std::fs::write(&config.local.path, b"something else entirely, a shopping list for instance")
        .expect("writable");
    let refused = Store::open(&config).await.expect_err("no store");
    assert!(refused.to_string().contains("store.redb"), "{refused}");
    assert!(std::fs::read(&config.local.path).expect("there").starts_with(b"something else"));

    let nowhere = LocalConfig { path: folder.path().join("missing/store.redb") };
    let refused = Store::open(&StoreConfig { local: nowhere, ..config }).await.expect_err("no folder");
    assert!(refused.to_string().contains("missing"), "{refused}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_readable_by_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(folder.path());
    let _store = Store::open(&config).await.expect("opens");
    let metadata = std::fs::metadata(&config.local.path).expect("there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn expired_session_records_do_not_pile_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = open(&folder.path().join("store.redb"), ring()).await;
    for number in 0..200 {
        let record = crate::SessionRecord { device: id(number), ..super::scenarios::session(0) };
        let ttl = if number < 100 { std::time::Duration::from_millis(1) } else { DEADLINE };
        store.put_session(&record, ttl).await.expect("written");
    }
    let Backend::Local(local) = &*store.backend else { panic!("a local store") };
    let kept = local.session_rows().await.expect("an answer");
    assert!(kept <= 110, "{kept} records kept, 100 are alive");
}

#[tokio::test]
async fn a_process_that_starts_with_a_new_key_on_the_first_line_seals_under_the_one_in_force() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.redb");
    let (old, new) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    let before = || KekRing::new(&old, &[]);
    drop(open(&path, before()).await);
    // Nothing was asked of the store yet but whether it is this key's.
    let store = open(&path, KekRing::new(&new, std::slice::from_ref(&old))).await;
    store.create_device(individual(1)).await.expect("created");
    drop(store);
    assert_eq!(keys(&open(&path, before()).await, id(1)).await, [psk(1)]);
}
