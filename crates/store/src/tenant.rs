use serde::Serialize;
use sluice_types::{KeyEpoch, TenantId, Timestamp};

use crate::device::MAX_KEYS;
use crate::error::RegistryError;
use crate::record::{TenantData, TenantRootData};
use crate::store::Store;
use crate::{SecretKey, StoreError};

/// A tenant's settings, without its roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// Active root epochs of derived keys, oldest first.
    pub root_epochs: Vec<KeyEpoch>,
    /// Until when keys of 16 to 31 bytes are accepted; `None` for not at all.
    pub dangerously_accept_short_psk_until: Option<Timestamp>,
}

impl Store {
    /// Reads a tenant's settings; `None` when nobody has set any, which is what most tenants are.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>, StoreError> {
        Ok(self.read_tenant(id).await?.map(|data| data.describe()))
    }

    /// Adds a root from which keys of this tenant's devices are derived, and gives its epoch. A leaked root is the
    /// whole tenant.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TooManyKeys`] with three roots active, or [`RegistryError::Store`].
    pub async fn add_tenant_root(&self, id: &TenantId, root: SecretKey) -> Result<KeyEpoch, RegistryError> {
        let now = crate::clock::now();
        let data = self
            .change_tenant(id, |data| {
                if data.roots.len() >= MAX_KEYS {
                    return Err(RegistryError::TooManyKeys);
                }
                let epoch = data.last_key_epoch.next().ok_or(RegistryError::TooManyKeys)?;
                data.last_key_epoch = epoch;
                data.roots.push(TenantRootData { epoch, created: now, root: root.clone() });
                Ok(())
            })
            .await?;
        Ok(data.last_key_epoch)
    }

    /// Takes a root away: no session is opened under keys derived from it any more. Other pods notice within 30 s.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoSuchKey`], or [`RegistryError::Store`].
    pub async fn retire_tenant_root(&self, id: &TenantId, epoch: KeyEpoch) -> Result<(), RegistryError> {
        self.change_tenant(id, |data| {
            let before = data.roots.len();
            data.roots.retain(|root| root.epoch != epoch);
            if data.roots.len() == before { Err(RegistryError::NoSuchKey(epoch)) } else { Ok(()) }
        })
        .await?;
        Ok(())
    }

    /// Lets a tenant take in old devices with keys of 16 to 31 bytes until a deadline, or ends that with `None`. Such a key
    /// is open to guessing from one recorded handshake (WIRE.md section 14, W4). The deadline is written into each key when
    /// it is taken; ending the permission later does not shorten it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Store`].
    pub async fn dangerously_accept_short_psk(
        &self,
        id: &TenantId,
        until: Option<Timestamp>,
    ) -> Result<(), RegistryError> {
        self.change_tenant(id, |data| {
            data.short_psk_until = until;
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Writes the record of a tenant anew, under the current key-encryption key, if it has one.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Store`].
    pub async fn reseal_tenant(&self, id: &TenantId) -> Result<(), RegistryError> {
        if self.read_tenant(id).await?.is_some() {
            self.change_tenant(id, |_| Ok(())).await?;
        }
        Ok(())
    }

    async fn change_tenant(
        &self,
        id: &TenantId,
        mut change: impl FnMut(&mut TenantData) -> Result<(), RegistryError> + Send,
    ) -> Result<TenantData, RegistryError> {
        let data = self
            .change(id, |found: Option<TenantData>| {
                let mut data = found.unwrap_or_else(|| TenantData::new(id.clone()));
                change(&mut data)?;
                Ok(data)
            })
            .await?;
        self.roots.forget(id);
        Ok(data)
    }

    pub(crate) async fn read_tenant(&self, id: &TenantId) -> Result<Option<TenantData>, StoreError> {
        let Some(stored) = self.backend.read_tenant(id).await? else { return Ok(None) };
        TenantData::decode(&self.kek, id, &stored)
            .map(Some)
            .map_err(|source| StoreError::Record { record: format!("the record of tenant {id}"), source })
    }
}
