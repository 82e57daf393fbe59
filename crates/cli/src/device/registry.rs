//! The device registry, wherever it is: asked over the socket of a running `sluice dev`, or in a configured store.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sluice_store::{LogPosition, PageRequest, RegistryError, Store, StoreKind};
use sluice_types::{DeviceId, KeyEpoch, Psk, TenantId};

use super::stored;
use crate::args::Global;
use crate::control::{Answer, DeviceView, HoldView, Info, Request, Withdrawal, ask};

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
            Self::Store { store, .. } => stored::add(store, id, tenant, psk).await,
            Self::Running(folder) => {
                let request = Request::AddDevice { id, tenant, psk_hex: hex::encode(psk.expose()) };
                expect_device(ask(folder, request).await?)
            }
        }
    }

    pub(crate) async fn list(&self, tenant: Option<TenantId>) -> Result<Vec<DeviceView>> {
        match self {
            Self::Store { store, .. } => stored::list(store, tenant).await,
            Self::Running(folder) => match ask(folder, Request::ListDevices { tenant }).await? {
                Answer::Devices { devices } => Ok(devices),
                _ => bail!(OTHER_ANSWER),
            },
        }
    }

    pub(crate) async fn show(&self, id: DeviceId, reveal: bool) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => stored::show(store, id, reveal).await,
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

    /// Gives the device, with the new key as its last one.
    pub(crate) async fn add_key(&self, id: DeviceId, psk: &Psk) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => stored::add_key(store, id, psk).await,
            Self::Running(folder) => {
                let request = Request::AddKey { id, psk_hex: hex::encode(psk.expose()) };
                expect_device(ask(folder, request).await?)
            }
        }
    }

    /// Gives the device with the keys that are left.
    pub(crate) async fn retire_key(&self, id: DeviceId, key: KeyEpoch) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => stored::retire_key(store, id, key).await,
            Self::Running(folder) => expect_device(ask(folder, Request::RetireKey { id, key: key.0 }).await?),
        }
    }

    /// Gives the entry's place in the revocation log, where the log is at hand.
    pub(crate) async fn withdraw(&self, id: DeviceId, how: Withdrawal) -> Result<Option<LogPosition>> {
        match self {
            Self::Store { store, .. } => stored::withdraw(store, id, how).await.map(Some),
            Self::Running(folder) => match ask(folder, Request::Withdraw { id, how }).await? {
                Answer::Done => Ok(None),
                _ => bail!(OTHER_ANSWER),
            },
        }
    }

    pub(crate) async fn resume(&self, id: DeviceId) -> Result<DeviceView> {
        match self {
            Self::Store { store, .. } => stored::resume(store, id).await,
            Self::Running(folder) => expect_device(ask(folder, Request::ResumeDevice { id }).await?),
        }
    }

    /// Gives what the device was held for, `None` when it was not held.
    pub(crate) async fn release(&self, id: DeviceId) -> Result<Option<HoldView>> {
        match self {
            Self::Store { store, .. } => stored::release(store, id).await,
            Self::Running(folder) => match ask(folder, Request::ReleaseDevice { id }).await? {
                Answer::Released { hold } => Ok(hold),
                _ => bail!(OTHER_ANSWER),
            },
        }
    }

    /// Brings the first key of the key-encryption key file into force and writes everything anew under it; returns how many devices and
    /// revocations. Safe to repeat, and beside a fleet at work.
    pub(crate) async fn reseal(&self) -> Result<Resealed> {
        let Self::Store { store, .. } = self else {
            bail!("name the store whose key-encryption key was changed with `--config FILE`");
        };
        store.begin_rotation(PODS_FOLLOW_WITHIN).await?;
        let again =
            "stopped half-way, nothing is lost: run it again, and leave the old key in the file until then";
        let mut resealed = Resealed { devices: 0, revocations: store.reseal_shared().await.context(again)? };
        let mut tenants = BTreeSet::new();
        let mut request = PageRequest { tenant: None, after: None, limit: stored::PAGE };
        loop {
            let page = store.list(&request).await.context(again)?;
            for device in page.devices {
                match store.reseal(device.id).await {
                    Ok(()) => resealed.devices = resealed.devices.saturating_add(1),
                    // Removed meanwhile: nothing is left to seal.
                    Err(RegistryError::NotFound(_)) => {}
                    Err(error) => return Err(error).context(again),
                }
                tenants.insert(device.tenant);
            }
            match page.next {
                None => break,
                next => request.after = next,
            }
        }
        for tenant in &tenants {
            store.reseal_tenant(tenant).await.context(again)?;
        }
        Ok(resealed)
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

/// What was written anew under another key-encryption key.
pub(crate) struct Resealed {
    pub(crate) devices: u64,
    pub(crate) revocations: u64,
}

/// How long pods may take to seal under a key that came into force; they look at the store each second.
const PODS_FOLLOW_WITHIN: Duration = Duration::from_secs(30);

const OTHER_ANSWER: &str = "the running `sluice dev` gave an answer to another question: restart it";

fn expect_device(answer: Answer) -> Result<DeviceView> {
    match answer {
        Answer::Device(view) => Ok(view),
        _ => bail!(OTHER_ANSWER),
    }
}
