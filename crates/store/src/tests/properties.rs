//! Random operations against a model, and random bytes against the decoders. Failing cases are printed by proptest with what
//! reproduces them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sluice_types::{KeyEpoch, Timestamp};

use super::{id, individual, memory, psk, reason, ring, tenant};
use crate::cluster::ring::Ring;
use crate::location::HolderRow;
use crate::record::{ChangeId, DeviceData, DeviceKeyData, RecordState, RevocationData, Stored, TenantData};
use crate::session_record::open_session;
use crate::slot::{Place, SlotRow};
use crate::{ClusterSecrets, PodRecord, SlotOwner, location};
use crate::{DeviceState, KeyInfo, KeyLookup, KeySource, LogPosition, PageRequest, Profile, Store};

#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    Remove,
    Set(DeviceState),
    AddKey,
    RetireKey(u32),
}

fn operation() -> impl Strategy<Value = (u32, Operation)> {
    let state = prop::sample::select(vec![
        DeviceState::Provisioned,
        DeviceState::Active,
        DeviceState::Suspended,
        DeviceState::Revoked,
        DeviceState::Decommissioned,
    ]);
    let operation = prop_oneof![
        3 => Just(Operation::Create),
        1 => Just(Operation::Remove),
        3 => state.prop_map(Operation::Set),
        3 => Just(Operation::AddKey),
        2 => (1u32..6).prop_map(Operation::RetireKey),
    ];
    (1u32..4, operation)
}

#[derive(Debug, Default, Clone)]
struct Model {
    /// `None`: taken out.
    state: Option<DeviceState>,
    epochs: Vec<u32>,
    last_epoch: u32,
}

impl Model {
    /// What must come of an operation: whether it succeeds.
    fn apply(&mut self, operation: Operation) -> bool {
        let Some(state) = self.state else {
            if matches!(operation, Operation::Remove) {
                // Asking again is no change; who was never there cannot be taken out.
                return self.last_epoch > 0;
            }
            if !matches!(operation, Operation::Create) {
                return false;
            }
            self.state = Some(DeviceState::Active);
            self.last_epoch += 1;
            self.epochs = vec![self.last_epoch];
            return true;
        };
        let ended = state == DeviceState::Decommissioned;
        match operation {
            Operation::Create => false,
            // Asking for the state that is there is no change, not even at the end.
            Operation::Set(target) if target == state && !target.may_connect() => true,
            _ if ended => false,
            Operation::Remove => {
                self.state = None;
                self.epochs.clear();
                true
            }
            Operation::Set(target) => {
                if state == DeviceState::Revoked && target != DeviceState::Decommissioned {
                    return false;
                }
                self.state = Some(target);
                if target == DeviceState::Decommissioned {
                    self.epochs.clear();
                }
                true
            }
            Operation::AddKey => {
                if self.epochs.len() == 3 {
                    return false;
                }
                self.last_epoch += 1;
                self.epochs.push(self.last_epoch);
                true
            }
            Operation::RetireKey(epoch) => {
                if !self.epochs.contains(&epoch) || self.epochs.len() == 1 {
                    return false;
                }
                self.epochs.retain(|&active| active != epoch);
                true
            }
        }
    }
}

async fn perform(store: &Store, number: u32, operation: Operation) -> bool {
    match operation {
        Operation::Create => store.create_device(individual(number)).await.is_ok(),
        Operation::Remove => store.remove(id(number)).await.is_ok(),
        Operation::Set(state) => store.set_state(id(number), state, &reason("")).await.is_ok(),
        Operation::AddKey => store.add_key(id(number), &psk(1)).await.is_ok(),
        Operation::RetireKey(epoch) => store.retire_key(id(number), KeyEpoch(epoch)).await.is_ok(),
    }
}

async fn compare(store: &Store, number: u32, model: &Model) -> Result<(), TestCaseError> {
    let found = store.handshake_keys(id(number)).await.expect("a trustworthy answer");
    match (model.state, found) {
        (None, KeyLookup::Unknown) => {}
        (Some(expected), KeyLookup::Refused { state, .. }) => {
            prop_assert_eq!(expected, state);
            prop_assert!(!state.may_connect());
        }
        (Some(expected), KeyLookup::Known(keys)) => {
            prop_assert_eq!(expected, keys.state);
            prop_assert!(keys.state.may_connect());
            let epochs: Vec<_> = keys.psks.iter().rev().map(|(epoch, _)| epoch.0).collect();
            prop_assert_eq!(&epochs, &model.epochs);
        }
        (expected, found) => prop_assert!(false, "device {number}: expected {expected:?}, saw {found:?}"),
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_registry_does_what_the_model_says(operations in prop::collection::vec(operation(), 1..40)) {
        runtime().block_on(async {
            let store = memory().await;
            let mut models: BTreeMap<u32, Model> = BTreeMap::new();
            for (number, operation) in operations {
                let model = models.entry(number).or_default();
                let expected = model.apply(operation);
                let seen = perform(&store, number, operation).await;
                prop_assert_eq!(expected, seen, "device {} {:?}", number, operation);
                compare(&store, number, model).await?;
            }
            let listed = store.list(&PageRequest::default()).await.expect("a page").devices;
            let listed: Vec<_> = listed.iter().map(|device| (device.id, device.state)).collect();
            let expected: Vec<_> =
                models.iter().filter_map(|(&number, model)| Some((id(number), model.state?))).collect();
            prop_assert_eq!(listed, expected);
            // The last entry of each device says what it is, unless it may connect again since.
            let log = store.revocations_after(LogPosition::START).await.expect("a batch");
            for (&number, model) in &models {
                let last = log.entries.iter().rfind(|entry| entry.device == id(number));
                if model.state.is_none_or(|state| !state.may_connect()) && model.last_epoch > 0 {
                    prop_assert_eq!(last.map(|entry| entry.state), Some(model.state));
                }
            }
            Ok(())
        })?;
    }
}

proptest! {
    #[test]
    fn any_record_is_read_back_as_it_was_written(
        number: u32,
        version in 1u64..,
        lengths in prop::collection::vec(32usize..200, 0..4),
        text in "[a-z ]{0,40}",
        millis: i64,
        change in any::<[u8; 16]>(),
    ) {
        let keys = lengths.iter().enumerate().map(|(index, &length)| {
            let byte = u8::try_from(index).expect("small") + 3;
            let epoch = KeyEpoch(u32::from(byte));
            let info = KeyInfo { epoch, created: Timestamp(millis), not_after: None, short: false };
            DeviceKeyData { info, psk: sluice_types::Psk::new(&vec![byte; length]).expect("long enough") }
        });
        let data = DeviceData {
            id: id(number),
            version,
            tenant: tenant("acme"),
            state: RecordState::Device(DeviceState::Suspended),
            profile: Profile::Managed,
            key_source: KeySource::Individual,
            keys: keys.collect(),
            last_key_epoch: KeyEpoch(9),
            created: Timestamp(millis),
            changed: Timestamp(millis),
            reason: text,
            change_id: ChangeId(change),
        };
        let blob = data.encode(&ring()).expect("randomness");
        let read = DeviceData::decode(&ring(), id(number), &Stored { version, blob }).expect("just written");
        prop_assert_eq!(read.describe(), data.describe());
        prop_assert_eq!(read.change_id, data.change_id);
        let keys = |data: &DeviceData| data.keys.iter().map(|key| key.psk.clone()).collect::<Vec<_>>();
        prop_assert_eq!(keys(&read), keys(&data));
    }

    #[test]
    fn no_bytes_are_taken_for_a_record_and_none_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), version: u64) {
        let (ring, stored) = (ring(), Stored { version, blob: bytes });
        prop_assert!(DeviceData::decode(&ring, id(1), &stored).is_err());
        prop_assert!(TenantData::decode(&ring, &tenant("acme"), &stored).is_err());
        prop_assert!(RevocationData::decode(&ring, &stored.blob).is_err());
        let session = sluice_types::SessionId::from_bytes([1; 16]);
        let secrets = ClusterSecrets::golden();
        prop_assert!(open_session(&ring, &secrets, id(1), session, 0, &stored.blob).is_err());
        prop_assert!(Ring::decode(&ring, &stored).is_err());
        prop_assert!(PodRecord::decode(&ring, &"00".repeat(16), &stored.blob).is_err());
        let holder = HolderRow { epoch: version, blob: stored.blob.clone() };
        prop_assert!(location::decode(&ring, id(1), &holder).is_err());
        let row = SlotRow { place: Place { generation: 1, offset: 1 }, blob: stored.blob };
        prop_assert!(SlotOwner::decode(&ring, 1, &row).is_err());
    }
}
