//! P9: no secret in anything that can be formatted, and none in clear in what is stored.

use sluice_types::{Psk, Timestamp};

use super::{DEADLINE, id, reason, tenant};
use crate::cluster::ring::Ring;
use crate::record::{DeviceData, TenantData};
use crate::{ClusterSecrets, Purpose};
use crate::{
    KekRing, LastRekey, LogPosition, NewDevice, NewKey, SecretKey, SessionKeys, SessionRecord, Store,
};

const PLANTED: [&[u8; 32]; 5] = [
    b"planted-device-key-abcdefghijklm",
    b"planted-tenant-root-abcdefghijkl",
    b"planted-c2s-key-abcdefghijklmnop",
    b"planted-s2c-key-abcdefghijklmnop",
    b"planted-kek-abcdefghijklmnopqrst",
];

/// Every way in which `Debug`, `Display` or a dump might show bytes.
fn spellings(secret: &[u8]) -> [String; 4] {
    let decimal = format!("{:?}", &secret[8..16]);
    [
        String::from_utf8_lossy(&secret[8..16]).into_owned(),
        hex::encode(&secret[8..16]),
        hex::encode_upper(&secret[8..16]),
        decimal.trim_matches(['[', ']']).to_owned(),
    ]
}

fn assert_clean(what: &str, shown: &str) {
    for secret in PLANTED {
        for spelling in spellings(secret) {
            assert!(!shown.contains(&spelling), "{what} shows `{spelling}`: {shown}");
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn no_value_shows_a_secret_however_it_is_formatted() {
    let [key, root, c2s, s2c, kek] = PLANTED;
    let ring = KekRing::new(&SecretKey::new(*kek), &[]);
    assert_clean("the key ring", &format!("{ring:?} {ring:#?}"));
    let store = Store::in_memory(ring).await.expect("memory");
    assert_clean("the store", &format!("{store:?} {store:#?}"));

    let new = NewDevice::raw(id(1), NewKey::Individual(Psk::new(key).expect("32 bytes")));
    assert_clean("a new device", &format!("{new:?}"));
    let device = store.create_device(new.clone()).await.expect("created");
    assert_clean(
        "a device",
        &format!("{device:?} {}", serde_json::to_string(&device).expect("plain values")),
    );
    assert_clean("an error", &format!("{:?}", store.create_device(new).await));
    assert_clean("a lookup", &format!("{:?}", store.handshake_keys(id(1)).await));

    let acme = tenant("acme");
    store.add_tenant_root(&acme, SecretKey::new(*root)).await.expect("added");
    assert_clean("a tenant", &format!("{:?}", store.tenant(&acme).await));
    assert_clean("derived keys", &format!("{:?}", store.handshake_keys_of_tenant(&acme, id(2)).await));

    let keys = SessionKeys { c2s: SecretKey::new(*c2s), s2c: SecretKey::new(*s2c) };
    let old = LastRekey { old_c2s: keys.s2c.clone(), fingerprint: [9; 8], seq: 1, at: Timestamp(1) };
    let record = SessionRecord {
        current: keys.clone(),
        previous: Some(keys),
        last_rekey: Some(old),
        ..super::scenarios::session(1)
    };
    assert_clean("a session", &format!("{record:?}"));
    store.put_session(&record, DEADLINE).await.expect("written");
    assert_clean("a read session", &format!("{:?}", store.session(record.device, record.session, 0).await));

    let secrets = ClusterSecrets::golden();
    let shown = format!("{secrets:?} {secrets:#?} {:?}", secrets.secret(4, Purpose::Cookie));
    for spelling in spellings(&[0x7f; 32]).iter().chain(&spellings(&[0x74; 32])) {
        assert!(!shown.contains(spelling), "the ring shows `{spelling}`: {shown}");
    }

    store.revoke(id(1), &reason("why not")).await.expect("revoked");
    let mut watch = store.watch_revocations(LogPosition::START);
    assert_clean("a watch", &format!("{watch:?} {:?}", watch.next().await));

    // Inside the crate as well: what is one refactoring away from an error message.
    let stored = store.backend.read_device(id(1)).await.expect("an answer").expect("there");
    assert_clean("device data", &format!("{:?}", DeviceData::decode(&store.kek, id(1), &stored)));
    let stored = store.backend.read_tenant(&acme).await.expect("an answer").expect("there");
    assert_clean("tenant data", &format!("{:?}", TenantData::decode(&store.kek, &acme, &stored)));
}

#[tokio::test]
async fn nothing_stored_holds_a_secret_in_clear() {
    let [key, root, c2s, s2c, kek] = PLANTED;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("store.redb");
    let store = super::local::open(&path, KekRing::new(&SecretKey::new(*kek), &[])).await;
    let new = NewDevice::raw(id(1), NewKey::Individual(Psk::new(key).expect("32 bytes")));
    store.create_device(new).await.expect("created");
    store.add_tenant_root(&tenant("acme"), SecretKey::new(*root)).await.expect("added");
    let ring = Ring::golden();
    let blob = ring.encode(&store.kek).expect("sealed");
    assert!(store.backend.swap_ring(0, ring.version, blob).await.expect("an answer"));
    let current = SessionKeys { c2s: SecretKey::new(*c2s), s2c: SecretKey::new(*s2c) };
    let record = SessionRecord { current, ..super::scenarios::session(0) };
    store.put_session(&record, DEADLINE).await.expect("written");
    // One more durable write, so that what went before is in the file.
    store.create_device(super::individual(2)).await.expect("created");
    drop(store);
    let file = std::fs::read(&path).expect("there");
    assert!(contains(&file, b"acme"), "the file holds what was written");
    for secret in PLANTED.into_iter().chain([&[0x7f; 32], &[0x74; 32]]) {
        assert!(!contains(&file, &secret[..16]), "{} is in the file", String::from_utf8_lossy(secret));
    }
}
