//! The device registry, wherever it is: asked over the socket of a running `sluice dev`, or in a configured store.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use sluice_store::{
    Device, DeviceHold, KeyLookup, LogPosition, NewDevice, NewKey, PageRequest, Reason, RegistryError, Store,
    StoreKind,
};
use sluice_types::{DeviceId, Psk, TenantId, Timestamp};

use crate::args::Global;
use crate::control::{Answer, DeviceView, HoldView, Info, Request, ask};

/// Devices listed per request to the store.
const PAGE: u16 = 500;

pub(crate) enum Registry {
    /// The process that runs on this data folder.
    Running(PathBuf),
    /// The store of a configuration file.
    Store { store: Store, shared: bool, udp: SocketAddr },
}

impl Registry {
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        let Some(file) = &global.config else { return Ok(Self::Running(crate::folder::data_dir(global)?)) };
        let config = crate::config::load(file)?;
        let udp = config.edge.udp.address().or_else(|| config.edge.tcp.address());
        let store = Store::open(&config.store).await?;
        let shared = config.store.kind == StoreKind::Redis;
        Ok(Self::Store { store, shared, udp: udp.context("the configuration has no listener")? })
    }

    pub(crate) async fn add(&self, id: DeviceId, tenant: TenantId, psk: &Psk) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => add(store, id, tenant, psk).await,
            Self::Running(folder) => {
                let request = Request::AddDevice { id, tenant, psk_hex: hex::encode(psk.expose()) };
                expect_device(ask(folder, request).await?)
            }
        }
    }

    pub(crate) async fn list(&self, tenant: Option<TenantId>) -> Result<Vec<DeviceView>> {
        match self {
            Self::Store { store, .. } => list(store, tenant).await,
            Self::Running(folder) => match ask(folder, Request::ListDevices { tenant }).await? {
                Answer::Devices { devices } => Ok(devices),
                _ => bail!(OTHER_ANSWER),
            },
        }
    }

    pub(crate) async fn show(&self, id: DeviceId, reveal: bool) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => show(store, id, reveal).await,
            Self::Running(folder) => expect_device(ask(folder, Request::ShowDevice { id, reveal }).await?),
        }
    }

    /// The store, if many processes share it.
    pub(crate) const fn shared_store(&self) -> Option<&Store> {
        match self {
            Self::Store { store, shared: true, .. } => Some(store),
            _ => None,
        }
    }

    /// The store, unless it is that of the running `sluice dev`.
    pub(crate) const fn store(&self) -> Option<&Store> {
        match self {
            Self::Store { store, .. } => Some(store),
            Self::Running(_) => None,
        }
    }

    /// Gives the entry's place in the revocation log, where the log is at hand.
    pub(crate) async fn revoke(&self, id: DeviceId, reason: &str) -> Result<Option<LogPosition>> {
        match self {
            Self::Store { store, .. } => revoke(store, id, reason).await.map(Some),
            Self::Running(folder) => {
                match ask(folder, Request::RevokeDevice { id, reason: reason.to_owned() }).await? {
                    Answer::Done => Ok(None),
                    _ => bail!(OTHER_ANSWER),
                }
            }
        }
    }

    /// Gives what the device was held for, `None` when it was not held.
    pub(crate) async fn release(&self, id: DeviceId) -> Result<Option<HoldView>> {
        match self {
            Self::Store { store, .. } => release(store, id).await,
            Self::Running(folder) => match ask(folder, Request::ReleaseDevice { id }).await? {
                Answer::Released { hold } => Ok(hold),
                _ => bail!(OTHER_ANSWER),
            },
        }
    }

    /// Writes the records of all devices and of their tenants anew, and the store's own; returns how many devices. Safe to repeat, and beside a fleet at work.
    pub(crate) async fn reseal(&self) -> Result<u64> {
        let Self::Store { store, .. } = self else {
            bail!("name the store whose key-encryption key was changed with `--config FILE`");
        };
        let again =
            "stopped half-way, nothing is lost: run it again, and leave the old key in the file until then";
        let (mut count, mut tenants) = (0_u64, BTreeSet::new());
        for device in list(store, None).await? {
            match store.reseal(device.device).await {
                Ok(()) => count = count.saturating_add(1),
                // Removed meanwhile: nothing is left to seal.
                Err(RegistryError::NotFound(_)) => {}
                Err(error) => return Err(error).context(again),
            }
            tenants.insert(device.tenant);
        }
        for tenant in &tenants {
            store.reseal_tenant(tenant).await.context(again)?;
        }
        // Last: from here on the new key alone opens the store.
        store.reseal_identity().await.context(again)?;
        Ok(count)
    }

    /// Where a device would dial, for snippets.
    pub(crate) async fn device_address(&self) -> Result<SocketAddr> {
        let listen = match self {
            Self::Store { udp, .. } => *udp,
            Self::Running(folder) => match ask(folder, Request::Info).await? {
                Answer::Info(Info { udp, .. }) => udp.parse().context(OTHER_ANSWER)?,
                _ => bail!(OTHER_ANSWER),
            },
        };
        Ok(super::reachable(listen))
    }
}

const OTHER_ANSWER: &str = "the running `sluice dev` gave an answer to another question: restart it";

fn expect_device(answer: Answer) -> Result<DeviceView> {
    match answer {
        Answer::Device(view) => Ok(view),
        _ => bail!(OTHER_ANSWER),
    }
}

pub(crate) async fn add(store: &Store, id: DeviceId, tenant: TenantId, psk: &Psk) -> Result<DeviceView> {
    let device = NewDevice { tenant, ..NewDevice::raw(id, NewKey::Individual(psk.clone())) };
    Ok(view(store.create_device(device).await?))
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
    let device = store.device(id).await?.with_context(|| unknown(id))?;
    let mut view = view(device);
    view.hold = store.device_hold(id).await?.map(hold_view);
    if reveal {
        let KeyLookup::Known(keys) = store.handshake_keys(id).await? else {
            bail!("{id} may not connect ({}), its key is not given out", view.state)
        };
        view.psk_hex = keys.psks.first().map(|(_, psk)| hex::encode(psk.expose()));
    }
    Ok(view)
}

pub(crate) async fn revoke(store: &Store, id: DeviceId, reason: &str) -> Result<LogPosition> {
    let reason: Reason = reason.parse()?;
    Ok(store.revoke(id, &reason).await?)
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
        key_epochs: device.keys.iter().map(|key| key.epoch.0).collect(),
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
