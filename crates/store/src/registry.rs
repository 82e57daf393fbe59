use sluice_types::{DeviceId, KeyEpoch, MIN_PSK_BYTES, Psk, Timestamp};

use crate::backend::Listing;
use crate::change::Versioned;
use crate::device::{
    Device, DevicePage, DeviceState, KeyInfo, KeySource, MAX_KEYS, NewDevice, NewKey, PageRequest, PageToken,
    Reason,
};
use crate::error::RegistryError;
use crate::record::{ChangeId, DeviceData, DeviceKeyData, RecordState, Stored, TenantData};
use crate::revocation::LogPosition;
use crate::store::Store;
use crate::{StoreError, clock};

/// Largest page of devices.
const MAX_PAGE: u16 = 1000;

impl Versioned for DeviceData {
    type Id = DeviceId;

    fn version(&self) -> u64 {
        self.version
    }

    fn change_id(&self) -> ChangeId {
        self.change_id
    }

    fn stamp(&mut self, version: u64, change_id: ChangeId) {
        self.version = version;
        self.change_id = change_id;
        self.changed = clock::now();
    }

    async fn read(store: &Store, id: &DeviceId) -> Result<Option<Self>, StoreError> {
        store.trusted()?;
        // A record that was rolled back must not be written anew, which would make it true again. One that is gone may be:
        // that is how an operator brings devices back.
        store.read_device(*id, store.floors.of(*id)).await
    }

    async fn write(&self, store: &Store, id: &DeviceId, expected: u64) -> Result<bool, StoreError> {
        let blob = self.encode(&store.kek).map_err(StoreError::Randomness)?;
        let listing = Listing { tenant: &self.tenant, listed: self.state != RecordState::Removed };
        let new = Stored { version: self.version, blob };
        let written = store.backend.swap_device(*id, listing, expected, new).await?;
        if written {
            store.floors.raise(*id, self.version);
        }
        Ok(written)
    }
}

impl Versioned for TenantData {
    type Id = sluice_types::TenantId;

    fn version(&self) -> u64 {
        self.version
    }

    fn change_id(&self) -> ChangeId {
        self.change_id
    }

    fn stamp(&mut self, version: u64, change_id: ChangeId) {
        self.version = version;
        self.change_id = change_id;
    }

    async fn read(store: &Store, id: &Self::Id) -> Result<Option<Self>, StoreError> {
        store.read_tenant(id).await
    }

    async fn write(&self, store: &Store, id: &Self::Id, expected: u64) -> Result<bool, StoreError> {
        let blob = self.encode(&store.kek).map_err(StoreError::Randomness)?;
        store.backend.swap_tenant(id, expected, Stored { version: self.version, blob }).await
    }
}

impl Store {
    /// Registers a device. When it returns, the device can connect.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Exists`], [`RegistryError::Decommissioned`], [`RegistryError::ShortKey`],
    /// [`RegistryError::NoRoot`], [`RegistryError::State`] for a first state that is none, [`RegistryError::Store`].
    pub async fn create_device(&self, new: NewDevice) -> Result<Device, RegistryError> {
        if matches!(new.state, DeviceState::Revoked | DeviceState::Decommissioned) {
            return Err(RegistryError::State { device: new.id, state: new.state });
        }
        let now = clock::now();
        let (key_source, first) = match &new.key {
            NewKey::Derived => {
                if self.read_tenant(&new.tenant).await?.is_none_or(|tenant| tenant.roots.is_empty()) {
                    return Err(RegistryError::NoRoot(new.tenant));
                }
                (KeySource::Derived, None)
            }
            NewKey::Individual(psk) => {
                (KeySource::Individual, Some(self.admit(&new.tenant, psk, now).await?))
            }
        };
        let id = new.id;
        let data = self
            .change(&id, |found: Option<DeviceData>| {
                let last_key_epoch = match found {
                    None => KeyEpoch(0),
                    Some(DeviceData { state: RecordState::Removed, last_key_epoch, .. }) => last_key_epoch,
                    Some(DeviceData { state: RecordState::Device(DeviceState::Decommissioned), .. }) => {
                        return Err(RegistryError::Decommissioned(id));
                    }
                    Some(_) => return Err(RegistryError::Exists(id)),
                };
                let mut data = DeviceData {
                    id,
                    version: 0,
                    tenant: new.tenant.clone(),
                    state: RecordState::Device(new.state),
                    profile: new.profile,
                    key_source,
                    keys: Vec::new(),
                    last_key_epoch,
                    created: now,
                    changed: now,
                    reason: String::new(),
                    change_id: ChangeId::default(),
                };
                if let Some((psk, info)) = &first {
                    add(&mut data, psk, *info)?;
                }
                Ok(data)
            })
            .await?;
        Ok(data.describe().expect("a device that was just created is not a removed one"))
    }

    /// Reads a device without its keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn device(&self, id: DeviceId) -> Result<Option<Device>, StoreError> {
        Ok(self.trusted_device(id).await?.and_then(|data| data.describe()))
    }

    /// Lists devices by tenant, then id. A record that cannot be trusted fails the page.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn list(&self, request: &PageRequest) -> Result<DevicePage, StoreError> {
        let limit = usize::from(request.limit.clamp(1, MAX_PAGE));
        let mut tenant = match (&request.tenant, &request.after) {
            (Some(tenant), _) => Some(tenant.clone()),
            (None, Some(token)) => self.backend.tenant_from(Some(&token.tenant), true).await?,
            (None, None) => self.backend.tenant_from(None, true).await?,
        };
        let mut after = request.after.clone();
        let mut devices = Vec::new();
        while let Some(current) = tenant {
            let from = after.take().filter(|token| token.tenant == current).map(|token| token.device);
            let wanted = limit - devices.len();
            let ids = self.backend.list_devices(&current, from, wanted).await?;
            for &id in &ids {
                // Gone since, or never written: the index is ahead of the records.
                let Some(data) = self.read_device(id, self.floors.of(id)).await? else { continue };
                devices.extend(data.describe().filter(|device| device.tenant == current));
            }
            if ids.len() == wanted
                && let Some(&last) = ids.last()
            {
                return Ok(DevicePage { devices, next: Some(PageToken { tenant: current, device: last }) });
            }
            if request.tenant.is_some() {
                break;
            }
            tenant = self.backend.tenant_from(Some(&current), false).await?;
        }
        Ok(DevicePage { devices, next: None })
    }

    /// Changes what a device may do. A state that takes the right to connect away goes through the revocation log, and its
    /// position is given: wait until all pods have applied it. Asking again for the state that is there gives the same position.
    ///
    /// A revoked device can only be decommissioned or removed, a decommissioned one stays so.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`], [`RegistryError::State`], [`RegistryError::Store`]; after a timeout ask again.
    pub async fn set_state(
        &self,
        id: DeviceId,
        state: DeviceState,
        reason: &Reason,
    ) -> Result<Option<LogPosition>, RegistryError> {
        let target = RecordState::Device(state);
        if state.may_connect() {
            self.change_device(id, |data| move_to(data, target, reason)).await?;
            return Ok(None);
        }
        self.withdraw(id, target, reason).await.map(Some)
    }

    /// Revokes a device: no new session from now on, and the running ones end when the pods have heard of it.
    ///
    /// # Errors
    ///
    /// As [`Store::set_state`].
    pub async fn revoke(&self, id: DeviceId, reason: &Reason) -> Result<LogPosition, RegistryError> {
        self.withdraw(id, RecordState::Device(DeviceState::Revoked), reason).await
    }

    /// Takes a device out of the registry and erases its keys; its id may be registered again. To refuse the id for good, set
    /// [`DeviceState::Decommissioned`] instead. Asking again gives the same position.
    ///
    /// # Errors
    ///
    /// As [`Store::set_state`].
    pub async fn remove(&self, id: DeviceId) -> Result<LogPosition, RegistryError> {
        self.withdraw(id, RecordState::Removed, &Reason::default()).await
    }

    /// Adds a key to a device; the ones it has stay active until they are retired.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TooManyKeys`] with three active, [`RegistryError::ShortKey`],
    /// [`RegistryError::DerivedKeys`], [`RegistryError::NotFound`], [`RegistryError::State`],
    /// [`RegistryError::Store`].
    pub async fn add_key(&self, id: DeviceId, psk: &Psk) -> Result<KeyEpoch, RegistryError> {
        let Some(data) = self.trusted_device(id).await? else { return Err(RegistryError::NotFound(id)) };
        let (psk, info) = self.admit(&data.tenant, psk, clock::now()).await?;
        let data = self
            .change_device(id, |data| {
                individual(data)?;
                add(data, &psk, info)
            })
            .await?;
        Ok(data.last_key_epoch)
    }

    /// Retires a key: no session is opened under it from now on. Running sessions go on, they have keys of their own.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NoSuchKey`], [`RegistryError::LastKey`], [`RegistryError::DerivedKeys`],
    /// [`RegistryError::NotFound`], [`RegistryError::State`], [`RegistryError::Store`].
    pub async fn retire_key(&self, id: DeviceId, epoch: KeyEpoch) -> Result<(), RegistryError> {
        self.change_device(id, |data| {
            individual(data)?;
            let place = data.keys.iter().position(|key| key.info.epoch == epoch);
            let place = place.ok_or(RegistryError::NoSuchKey(epoch))?;
            if data.keys.len() == 1 {
                return Err(RegistryError::LastKey(epoch));
            }
            data.keys.remove(place);
            Ok(())
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn change_device(
        &self,
        id: DeviceId,
        mut change: impl FnMut(&mut DeviceData) -> Result<(), RegistryError> + Send,
    ) -> Result<DeviceData, RegistryError> {
        self.change(&id, |found: Option<DeviceData>| match found {
            Some(mut data) if data.state != RecordState::Removed => {
                change(&mut data)?;
                Ok(data)
            }
            _ => Err(RegistryError::NotFound(id)),
        })
        .await
    }

    /// Checks a key against its tenant's rules and describes it as it would be stored.
    async fn admit(
        &self,
        tenant: &sluice_types::TenantId,
        psk: &Psk,
        now: Timestamp,
    ) -> Result<(Psk, KeyInfo), RegistryError> {
        let length = psk.expose().len();
        let short = length < MIN_PSK_BYTES;
        let not_after = if short {
            let deadline = self.read_tenant(tenant).await?.and_then(|data| data.short_psk_until);
            Some(deadline.filter(|&until| now < until).ok_or(RegistryError::ShortKey { length })?)
        } else {
            None
        };
        Ok((psk.clone(), KeyInfo { epoch: KeyEpoch(0), created: now, not_after, short }))
    }
}

/// Moves a device to a state, if the way is open.
pub(crate) fn move_to(
    data: &mut DeviceData,
    target: RecordState,
    reason: &Reason,
) -> Result<(), RegistryError> {
    let RecordState::Device(current) = data.state else { return Err(RegistryError::NotFound(data.id)) };
    let open = match (current, target) {
        (DeviceState::Decommissioned, _) => false,
        (DeviceState::Revoked, RecordState::Device(next)) => {
            matches!(next, DeviceState::Revoked | DeviceState::Decommissioned)
        }
        _ => true,
    };
    if !open {
        return Err(RegistryError::State { device: data.id, state: current });
    }
    data.state = target;
    reason.as_str().clone_into(&mut data.reason);
    if matches!(target, RecordState::Removed | RecordState::Device(DeviceState::Decommissioned)) {
        data.keys.clear();
    }
    Ok(())
}

fn individual(data: &DeviceData) -> Result<(), RegistryError> {
    match (data.key_source, data.state) {
        (KeySource::Derived, _) => Err(RegistryError::DerivedKeys(data.id)),
        (_, RecordState::Device(state @ DeviceState::Decommissioned)) => {
            Err(RegistryError::State { device: data.id, state })
        }
        _ => Ok(()),
    }
}

fn add(data: &mut DeviceData, psk: &Psk, info: KeyInfo) -> Result<(), RegistryError> {
    if data.keys.len() >= MAX_KEYS {
        return Err(RegistryError::TooManyKeys);
    }
    let epoch = data.last_key_epoch.next().ok_or(RegistryError::TooManyKeys)?;
    data.last_key_epoch = epoch;
    data.keys.push(DeviceKeyData { info: KeyInfo { epoch, ..info }, psk: psk.clone() });
    Ok(())
}
