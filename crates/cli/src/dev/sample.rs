//! The device that the start message names, so that there is something to connect with at once.

use anyhow::Result;
use sluice_store::{KeyLookup, Store};
use sluice_types::{DeviceId, Psk, TenantId};

use crate::device::{KeyForm, fresh_key, stored};

/// Locally administered, out of the way of real boards and of the simulated devices.
const ID: DeviceId = DeviceId::from_bytes([0x02, 0xff, 0xff, 0xff, 0xff, 0x01]);

pub(crate) struct Sample {
    pub(crate) id: DeviceId,
    /// `None` once somebody revoked it.
    pub(crate) psk: Option<Psk>,
}

/// Registers the device at the first start; later starts show the same one.
pub(crate) async fn device(store: &Store) -> Result<Sample> {
    let psk = key_or_add(store, ID, KeyForm::Text).await?;
    Ok(Sample { id: ID, psk })
}

/// The key of a device, which is registered if it is not yet. `None` for one that may not connect.
pub(super) async fn key_or_add(store: &Store, id: DeviceId, form: KeyForm) -> Result<Option<Psk>> {
    match store.handshake_keys(id).await? {
        KeyLookup::Known(keys) => Ok(keys.psks.into_iter().next().map(|(_, psk)| psk)),
        KeyLookup::Unknown => {
            let psk = fresh_key(form)?;
            stored::add(store, id, TenantId::default(), &psk).await?;
            Ok(Some(psk))
        }
        _ => Ok(None),
    }
}
