//! Bytes written by revision 1, kept for good: every later release must read them. Never made anew to make a test pass.

use sluice_types::{DeviceEpoch, KeyEpoch, Timestamp};

use super::cluster::{pod, pod_record, session_id};
use super::{id, psk, ring, tenant};
use crate::cluster::ring::Ring;
use crate::location::{self, HolderRow};
use crate::record::{
    ChangeId, DeviceData, DeviceKeyData, Identity, RecordState, RevocationData, Stored, TenantData,
    TenantRootData,
};
use crate::session_record::open_session;
use crate::slot::{Place, SlotRow, SnapshotId, snapshot_id};
use crate::witness::Acceptance;
use crate::{
    ClusterSecrets, DeviceHold, DeviceLocation, DeviceState, HoldReason, KeyInfo, KeySource, LogPosition,
    PodRecord, Profile, Purpose, SecretKey, SessionRecord, SlotOwner,
};

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

#[test]
fn session_record_of_revision_1_is_read() {
    // It knew no generation, and its last REKEY cannot be answered from what it kept.
    let expected = SessionRecord { birth_generation: 0, last_rekey: None, ..super::scenarios::session(3) };
    let blob = golden(include_str!("../../tests/golden/session-r1.hex"));
    let secrets = ClusterSecrets::golden();
    let read = open_session(&ring(), &secrets, expected.device, expected.session, 3, &blob);
    assert_eq!(read.expect("revision 1"), expected);
}

#[test]
fn store_identity_of_revision_1_is_read() {
    let read = Identity::decode(&ring(), &golden(include_str!("../../tests/golden/identity-r1.hex")));
    assert_eq!(read.expect("revision 1"), Identity([0x1d; 16]));
}

#[test]
fn session_record_of_revision_2_is_read() {
    let expected = super::scenarios::session(3);
    let blob = golden(include_str!("../../tests/golden/session-r2.hex"));
    let secrets = ClusterSecrets::golden();
    let read = open_session(&ring(), &secrets, expected.device, expected.session, 3, &blob);
    assert_eq!(read.expect("revision 2"), expected);
}

#[test]
fn ring_of_revision_1_is_read() {
    let expected = Ring::golden();
    let stored =
        Stored { version: expected.version, blob: golden(include_str!("../../tests/golden/ring-r1.hex")) };
    let (read, current_kek) = Ring::decode(&ring(), &stored).expect("revision 1");
    assert!(read == expected && current_kek);
}

/// A ring key has these secrets in every release, or pods of two releases would not understand each other.
#[test]
fn secrets_of_a_ring_key_are_the_same_in_every_release() {
    let secrets = ClusterSecrets::golden();
    let expected = include_str!("../../tests/golden/ring-secrets-r1.txt");
    let mut found = String::new();
    for (name, purpose) in [
        ("session-id-tag", Purpose::SessionIdTag),
        ("cookie", Purpose::Cookie),
        ("decoy", Purpose::Decoy),
        ("peer-ca", Purpose::PeerCa),
        ("session-record", Purpose::SessionRecord),
        ("snapshot", Purpose::Snapshot),
    ] {
        let secret = secrets.secret(4, purpose).expect("in force");
        found += &format!("{name} {}\n", hex::encode(secret.expose()));
    }
    assert_eq!(found, expected);
}

#[test]
fn pod_record_of_revision_1_is_read() {
    let expected = PodRecord { applied: LogPosition(1_764_000_000_789), ..pod_record(7, 42) };
    let blob = golden(include_str!("../../tests/golden/pod-r1.hex"));
    let read = PodRecord::decode(&ring(), &expected.pod.to_string(), &blob);
    let read = read.expect("revision 1");
    assert_eq!((read.record, read.store, read.keks), (expected, Identity([0x1d; 16]), Vec::new()));
}

#[test]
fn pod_record_that_says_what_is_promised_and_which_keys_it_has_is_read() {
    let expected = PodRecord { exactly_once: Some(false), ..pod_record(7, 42) };
    let blob = golden(include_str!("../../tests/golden/pod-r1-guarantee-keks.hex"));
    assert_eq!(hex::encode(expected.encode(&ring(), Identity([0x1d; 16]))), hex::encode(&blob));
    let read = PodRecord::decode(&ring(), &expected.pod.to_string(), &blob).expect("revision 1");
    let keks: Vec<_> = ring().names().collect();
    assert_eq!((read.record, read.store, read.keks), (expected, Identity([0x1d; 16]), keks));
}

#[test]
fn device_holder_of_revision_1_is_read() {
    let blob = golden(include_str!("../../tests/golden/holder-r1.hex"));
    let read = location::decode(&ring(), id(1), &HolderRow { epoch: 77, blob });
    let expected = DeviceLocation { pod: pod(7), session: session_id(9), epoch: DeviceEpoch(77) };
    assert_eq!(read.expect("revision 1"), expected);
}

#[test]
fn device_hold_of_revision_1_is_read() {
    let expected = DeviceHold {
        device: id(1),
        reason: HoldReason::SuspectedClone,
        since: Timestamp(1_764_000_000_123),
        until: Timestamp(1_764_000_600_123),
    };
    let blob = golden(include_str!("../../tests/golden/hold-r1.hex"));
    assert_eq!(hex::encode(expected.encode(&ring())), hex::encode(&blob));
    assert_eq!(DeviceHold::decode(&ring(), id(1), &blob).expect("revision 1"), expected);
}

#[test]
fn log_acceptance_of_revision_1_is_read() {
    let up_to = LogPosition(1_764_000_000_789);
    let alone = Acceptance { up_to, ..Acceptance::none(Identity([0x1d; 16])) };
    let in_place_of = vec![[0x2e; 16], [0x3f; 16]];
    let followed = Acceptance { in_place_of, ..alone };
    for (expected, text) in [
        (alone, include_str!("../../tests/golden/acceptance-r1.hex")),
        (followed, include_str!("../../tests/golden/acceptance-r1-places.hex")),
    ] {
        let blob = golden(text);
        assert_eq!(hex::encode(expected.encode(&ring())), hex::encode(&blob));
        assert_eq!(Acceptance::decode(&ring(), &blob).expect("revision 1"), expected);
    }
}

#[test]
fn slot_owner_of_revision_1_is_read() {
    let expected = SlotOwner { slot: 11, pod: pod(7), generation: 5 };
    let row = SlotRow {
        place: Place { generation: 5, offset: 0 },
        blob: golden(include_str!("../../tests/golden/owner-r1.hex")),
    };
    assert_eq!(SlotOwner::decode(&ring(), 11, &row).expect("revision 1"), expected);
}

#[test]
fn snapshot_head_of_revision_1_is_read() {
    let row = SlotRow {
        place: Place { generation: 5, offset: 1234 },
        blob: golden(include_str!("../../tests/golden/snapshot-r1.hex")),
    };
    let read = snapshot_id(&ClusterSecrets::golden(), 11, &row);
    assert_eq!(read.expect("revision 1"), SnapshotId([0x5d; 16]));
}
