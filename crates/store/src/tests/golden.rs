//! Bytes written by revision 1, kept for good: every later release must read them. Never made anew to make a test pass.

use sluice_types::{KeyEpoch, Timestamp};

use super::{id, psk, ring, tenant};
use crate::record::{
    ChangeId, DeviceData, DeviceKeyData, Identity, RecordState, RevocationData, Stored, TenantData,
    TenantRootData,
};
use crate::session_record::open_session;
use crate::{DeviceState, KeyInfo, KeySource, Profile, SecretKey, SessionRecord};

/// One hex line per file; white space does not count.
fn golden(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).expect("hex")
}

fn device() -> DeviceData {
    let key = |epoch: u32, byte: u8, not_after: Option<i64>| DeviceKeyData {
        info: KeyInfo {
            epoch: KeyEpoch(epoch),
            created: Timestamp(1_764_000_000_123),
            not_after: not_after.map(Timestamp),
            short: false,
        },
        psk: psk(byte),
    };
    DeviceData {
        id: id(1),
        version: 1_764_000_000_456,
        tenant: tenant("acme"),
        state: RecordState::Device(DeviceState::Suspended),
        profile: Profile::Managed,
        key_source: KeySource::Individual,
        keys: vec![key(4, 1, None), key(5, 2, Some(1_999_000_000_000))],
        last_key_epoch: KeyEpoch(6),
        created: Timestamp(1_764_000_000_000),
        changed: Timestamp(1_764_000_000_789),
        reason: "in repair".to_owned(),
        change_id: ChangeId([0xc1; 16]),
    }
}

fn tenant_data() -> TenantData {
    let root = |epoch: u32, byte: u8| TenantRootData {
        epoch: KeyEpoch(epoch),
        created: Timestamp(1_764_000_000_000),
        root: SecretKey::new([byte; 32]),
    };
    TenantData {
        id: tenant("acme"),
        version: 1_764_000_000_456,
        roots: vec![root(1, 0x11), root(2, 0x22)],
        last_key_epoch: KeyEpoch(2),
        short_psk_until: Some(Timestamp(1_999_000_000_000)),
        change_id: ChangeId([0xc2; 16]),
    }
}

fn revocation() -> RevocationData {
    RevocationData {
        device: id(1),
        tenant: tenant("acme"),
        state: RecordState::Device(DeviceState::Revoked),
        reason: "stolen".to_owned(),
        at: Timestamp(1_764_000_000_789),
        device_version: 1_764_000_000_456,
    }
}

#[test]
fn device_record_of_revision_1_is_read() {
    let expected = device();
    let stored =
        Stored { version: expected.version, blob: golden(include_str!("../../tests/golden/device-r1.hex")) };
    let read = DeviceData::decode(&ring(), id(1), &stored).expect("revision 1");
    assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    let keys: Vec<_> = read.keys.iter().map(|key| key.psk.clone()).collect();
    assert_eq!(keys, [psk(1), psk(2)]);
}

#[test]
fn tenant_record_of_revision_1_is_read() {
    let expected = tenant_data();
    let stored =
        Stored { version: expected.version, blob: golden(include_str!("../../tests/golden/tenant-r1.hex")) };
    let read = TenantData::decode(&ring(), &tenant("acme"), &stored).expect("revision 1");
    assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    let roots: Vec<_> = read.roots.iter().map(|root| root.root.clone()).collect();
    assert_eq!(roots, [SecretKey::new([0x11; 32]), SecretKey::new([0x22; 32])]);
}

#[test]
fn log_entry_of_revision_1_is_read() {
    let read = RevocationData::decode(&ring(), &golden(include_str!("../../tests/golden/revocation-r1.hex")));
    assert_eq!(format!("{:?}", read.expect("revision 1")), format!("{:?}", revocation()));
}

#[tokio::test]
async fn session_record_of_revision_1_is_read() {
    // It knew no generation, and its last REKEY cannot be answered from what it kept.
    let expected = SessionRecord { birth_generation: 0, last_rekey: None, ..super::scenarios::session(3) };
    let blob = golden(include_str!("../../tests/golden/session-r1.hex"));
    let secrets = super::memory().await.cluster_secrets().await.expect("any ring");
    let read = open_session(&ring(), &secrets, expected.device, expected.session, 3, &blob);
    assert_eq!(read.expect("revision 1"), expected);
}

#[test]
fn store_identity_of_revision_1_is_read() {
    let read = Identity::decode(&ring(), &golden(include_str!("../../tests/golden/identity-r1.hex")));
    assert_eq!(read.expect("revision 1"), Identity([0x1d; 16]));
}
