//! What the commands do to devices in a store, and what they say when it refuses.

use anyhow::{Context as _, Error, Result, anyhow, bail};
use sluice_store::{
    Device, DeviceHold, DeviceState, KeyLookup, LogPosition, NewDevice, NewKey, PageRequest, Reason,
    RegistryError, Store,
};
use sluice_types::{DeviceId, KeyEpoch, Psk, TenantId, Timestamp};

use crate::control::{DeviceView, HoldView, KeyView, Withdrawal};

/// Devices listed per request to the store.
pub(super) const PAGE: u16 = 500;

pub(crate) async fn add(store: &Store, id: DeviceId, tenant: TenantId, psk: &Psk) -> Result<DeviceView> {
    let device = NewDevice { tenant, ..NewDevice::raw(id, NewKey::Individual(psk.clone())) };
    match store.create_device(device).await {
        Ok(device) => Ok(view(device)),
        Err(RegistryError::Exists(id)) => {
            let revoked = store.device(id).await?.is_some_and(|device| device.state == DeviceState::Revoked);
            Err(if revoked { anyhow!(revoked_for_good(id)) } else { anyhow!(exists(id)) })
        }
        Err(error) => Err(told(error)),
    }
}

fn exists(id: DeviceId) -> String {
    format!(
        "device {id} is registered already: `sluice device key add {id}` gives it another key, \
         `sluice device remove {id}` takes it out of the registry"
    )
}

fn revoked_for_good(id: DeviceId) -> String {
    format!(
        "device {id} is revoked, which is for good: `sluice device remove {id}` takes it out of the registry, and \
         `sluice device add {id}` registers it anew with another key"
    )
}

/// What the registry refused, with the command that helps.
fn told(error: RegistryError) -> Error {
    match error {
        RegistryError::NotFound(id) => anyhow!(unknown(id)),
        RegistryError::State { device, state: DeviceState::Revoked } => anyhow!(revoked_for_good(device)),
        RegistryError::State { device, state: DeviceState::Decommissioned } => {
            anyhow!(
                "device {device} was decommissioned: its keys are erased and its id stays refused for good"
            )
        }
        RegistryError::TooManyKeys => {
            Error::new(RegistryError::TooManyKeys).context("`sluice device key retire` takes one away")
        }
        other => other.into(),
    }
}

pub(crate) async fn add_key(store: &Store, id: DeviceId, psk: &Psk) -> Result<DeviceView> {
    match store.handshake_keys(id).await? {
        KeyLookup::Known(keys) => {
            // Two numbers for one key: whoever retires the older one believes that it opens nothing any more.
            if let Some((epoch, _)) = keys.psks.iter().find(|(_, known)| known == psk) {
                bail!("this is key {epoch} of device {id} already: give it another one");
            }
        }
        KeyLookup::Refused { state: DeviceState::Revoked, .. } => bail!(revoked_for_good(id)),
        _ => {}
    }
    store.add_key(id, psk).await.map_err(told)?;
    registered(store, id).await
}

pub(crate) async fn retire_key(store: &Store, id: DeviceId, key: KeyEpoch) -> Result<DeviceView> {
    match store.retire_key(id, key).await {
        Ok(()) => registered(store, id).await,
        Err(RegistryError::NoSuchKey(key)) => {
            let has: Vec<_> =
                registered(store, id).await?.keys.iter().map(|key| key.epoch.to_string()).collect();
            bail!("device {id} has no key {key}, it has {}", has.join(", "))
        }
        Err(RegistryError::LastKey(key)) => bail!(
            "key {key} is the last one of device {id}: add another first with `sluice device key add {id}`, or revoke the device"
        ),
        Err(error) => Err(told(error)),
    }
}

async fn registered(store: &Store, id: DeviceId) -> Result<DeviceView> {
    Ok(view(store.device(id).await?.with_context(|| unknown(id))?))
}

pub(crate) async fn list(store: &Store, tenant: Option<TenantId>) -> Result<Vec<DeviceView>> {
    let mut devices = Vec::new();
    let mut request = PageRequest { tenant, after: None, limit: PAGE };
    loop {
        let page = store.list(&request).await?;
        devices.extend(page.devices.into_iter().map(view));
        match page.next {
            None => return Ok(devices),
            next => request.after = next,
        }
    }
}

pub(crate) async fn show(store: &Store, id: DeviceId, reveal: bool) -> Result<DeviceView> {
    let mut view = registered(store, id).await?;
    view.hold = store.device_hold(id).await?.map(hold_view);
    if reveal {
        let KeyLookup::Known(keys) = store.handshake_keys(id).await? else {
            bail!("{id} may not connect ({}), its key is not given out", view.state)
        };
        view.psk_hex = keys.psks.first().map(|(_, psk)| hex::encode(psk.expose()));
    }
    Ok(view)
}

pub(crate) async fn withdraw(store: &Store, id: DeviceId, how: Withdrawal) -> Result<LogPosition> {
    let (state, reason) = match how {
        Withdrawal::Remove => return store.remove(id).await.map_err(told),
        Withdrawal::Revoke { reason } => (DeviceState::Revoked, reason),
        Withdrawal::Suspend { reason } => (DeviceState::Suspended, reason),
    };
    let reason: Reason = reason.parse()?;
    let position = store.set_state(id, state, &reason).await.map_err(told)?;
    position.context("the store gave no place in the revocation log: ask again with the same command")
}

pub(crate) async fn resume(store: &Store, id: DeviceId) -> Result<DeviceView> {
    let before = store.device(id).await?.with_context(|| unknown(id))?;
    if !before.state.may_connect() {
        store.set_state(id, DeviceState::Active, &Reason::default()).await.map_err(told)?;
    }
    registered(store, id).await
}

pub(crate) async fn release(store: &Store, id: DeviceId) -> Result<Option<HoldView>> {
    store.device(id).await?.with_context(|| unknown(id))?;
    let hold = store.device_hold(id).await?;
    // Also without one that can be read: what led to it is forgotten, and what cannot be trusted goes.
    store.end_hold(id).await?;
    Ok(hold.map(hold_view))
}

fn hold_view(hold: DeviceHold) -> HoldView {
    HoldView {
        reason: hold.reason.as_str().to_owned(),
        since: rfc3339(hold.since),
        until: rfc3339(hold.until),
    }
}

fn unknown(id: DeviceId) -> String {
    format!("no device {id} is registered: `sluice device list` shows those that are")
}

fn view(device: Device) -> DeviceView {
    let profile = match device.profile {
        sluice_store::Profile::Raw => "raw",
        sluice_store::Profile::Managed => "managed",
    };
    DeviceView {
        device: device.id,
        tenant: device.tenant,
        state: device.state.as_str().to_owned(),
        profile: profile.to_owned(),
        keys: device
            .keys
            .iter()
            .map(|key| KeyView {
                epoch: key.epoch.0,
                created: rfc3339(key.created),
                not_after: key.not_after.map(rfc3339),
            })
            .collect(),
        created: rfc3339(device.created),
        hold: None,
        psk_hex: None,
    }
}

fn rfc3339(time: Timestamp) -> String {
    let system = std::time::UNIX_EPOCH
        + std::time::Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0));
    humantime_serde::re::humantime::format_rfc3339_millis(system).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_store::{HoldReason, KekRing};

    use super::*;

    #[tokio::test]
    async fn a_held_device_is_shown_with_the_reason_and_released_once() {
        let store = Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store");
        let id = DeviceId::from_bytes([2, 0, 0, 0, 0, 1]);
        assert!(release(&store, id).await.is_err(), "not in the registry");
        add(&store, id, TenantId::default(), &Psk::new(&[0x5a; 32]).expect("32 bytes")).await.expect("new");
        assert!(show(&store, id, false).await.expect("registered").hold.is_none());
        let hour = Duration::from_secs(3600);
        store.hold_device(id, HoldReason::SuspectedClone, hour).await.expect("held");
        let shown = show(&store, id, false).await.expect("registered").hold.expect("held");
        assert!(shown.reason == "suspected_clone" && shown.since < shown.until, "{shown:?}");
        let released = release(&store, id).await.expect("an answer").expect("it was held");
        assert_eq!(released.until, shown.until);
        assert!(release(&store, id).await.expect("an answer").is_none(), "it is over");
        assert!(show(&store, id, false).await.expect("registered").hold.is_none());
    }
}
