use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sluice_types::{DeviceId, KeyEpoch, Psk, TenantId, Timestamp};

use crate::derive::derived_psk;
use crate::device::{HandshakeKeys, KeyLookup, KeySource, Profile};
use crate::record::{DeviceData, RecordState};
use crate::store::Store;
use crate::{DeviceState, RecordError, SecretKey, StoreError, clock};

/// How long the roots of a tenant are used before they are read again.
const ROOTS_FOR: Duration = Duration::from_secs(30);
/// Tenants whose roots are kept; when full, all are dropped and read again on use.
const TENANTS: usize = 1024;

impl Store {
    /// The keys under which a device may open a session, in one round trip (a second one every 30 s and tenant where keys are
    /// derived).
    ///
    /// A withdrawn right shows at once. Any error means that the key state is not known: open no session.
    ///
    /// # Errors
    ///
    /// [`StoreError`], above all [`StoreError::Record`] and [`StoreError::Replaced`].
    pub async fn handshake_keys(&self, id: DeviceId) -> Result<KeyLookup, StoreError> {
        match self.trusted_device(id).await? {
            Some(data) => self.lookup(data).await,
            None => Ok(KeyLookup::Unknown),
        }
    }

    /// As [`Store::handshake_keys`], for a listener that belongs to one tenant: a device without an entry is known when the
    /// tenant has roots, under the keys derived from them and with the raw profile. An entry of another tenant is unknown here.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn handshake_keys_of_tenant(
        &self,
        tenant: &TenantId,
        id: DeviceId,
    ) -> Result<KeyLookup, StoreError> {
        match self.trusted_device(id).await? {
            Some(data) if data.tenant != *tenant => Ok(KeyLookup::Unknown),
            Some(data) if data.state != RecordState::Removed => self.lookup(data).await,
            _ => {
                let psks = self.derived(tenant, id).await?;
                if psks.is_empty() {
                    return Ok(KeyLookup::Unknown);
                }
                Ok(KeyLookup::Known(HandshakeKeys {
                    state: DeviceState::Active,
                    tenant: tenant.clone(),
                    profile: Profile::Raw,
                    psks,
                }))
            }
        }
    }

    async fn lookup(&self, data: DeviceData) -> Result<KeyLookup, StoreError> {
        let state = match data.state {
            RecordState::Removed => return Ok(KeyLookup::Unknown),
            RecordState::Device(state) if !state.may_connect() => {
                return Ok(KeyLookup::Refused { tenant: data.tenant, state });
            }
            RecordState::Device(state) => state,
        };
        let psks = match data.key_source {
            KeySource::Derived => self.derived(&data.tenant, data.id).await?,
            KeySource::Individual => {
                let now = clock::now();
                let in_force = |not_after: Option<Timestamp>| not_after.is_none_or(|deadline| now < deadline);
                let keys = data.keys.into_iter().rev().filter(|key| in_force(key.info.not_after));
                keys.map(|key| (key.info.epoch, key.psk)).collect()
            }
        };
        Ok(KeyLookup::Known(HandshakeKeys { state, tenant: data.tenant, profile: data.profile, psks }))
    }

    /// Reads a device record and refuses one older than was seen before, or none where one was seen.
    pub(crate) async fn trusted_device(&self, id: DeviceId) -> Result<Option<DeviceData>, StoreError> {
        self.trusted()?;
        // Before the read: a version that another task sees meanwhile is not held against this read.
        let floor = self.floors.of(id);
        let found = self.read_device(id, floor).await?;
        if found.is_none() && floor > 0 {
            return Err(device_error(id, RecordError::RolledBack { found: 0, expected: floor }));
        }
        Ok(found)
    }

    /// Reads a device record of version `floor` or above, or none.
    pub(crate) async fn read_device(
        &self,
        id: DeviceId,
        floor: u64,
    ) -> Result<Option<DeviceData>, StoreError> {
        let Some(stored) = self.backend.read_device(id).await? else { return Ok(None) };
        let data = DeviceData::decode(&self.kek, id, &stored).map_err(|error| device_error(id, error))?;
        if data.version < floor {
            return Err(device_error(id, RecordError::RolledBack { found: data.version, expected: floor }));
        }
        self.floors.raise(id, data.version);
        Ok(Some(data))
    }

    async fn derived(&self, tenant: &TenantId, device: DeviceId) -> Result<Vec<(KeyEpoch, Psk)>, StoreError> {
        let roots = match self.roots.recall(tenant) {
            Some(roots) => roots,
            None => {
                let found = self.read_tenant(tenant).await?;
                let roots: Roots = found.map_or_else(Vec::new, |data| {
                    data.roots.into_iter().rev().map(|root| (root.epoch, root.root)).collect()
                });
                self.roots.remember(tenant.clone(), roots.clone());
                roots
            }
        };
        Ok(roots.iter().map(|(epoch, root)| (*epoch, derived_psk(root, *epoch, device))).collect())
    }
}

pub(crate) fn device_error(id: DeviceId, source: RecordError) -> StoreError {
    StoreError::Record { record: format!("the record of device {id}"), source }
}

/// Newest first.
type Roots = Vec<(KeyEpoch, SecretKey)>;

/// Roots of tenants for [`ROOTS_FOR`], so that a handshake with a derived key reads the device record alone.
#[derive(Default)]
pub(crate) struct RootCache(Mutex<HashMap<TenantId, (Instant, Roots)>>);

impl RootCache {
    fn recall(&self, tenant: &TenantId) -> Option<Roots> {
        let cache = self.lock();
        let (since, roots) = cache.get(tenant)?;
        (since.elapsed() < ROOTS_FOR).then(|| roots.clone())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the store is a driver: what it caches ages by the real clock"
    )]
    fn remember(&self, tenant: TenantId, roots: Roots) {
        let mut cache = self.lock();
        if cache.len() >= TENANTS && !cache.contains_key(&tenant) {
            cache.clear();
        }
        cache.insert(tenant, (Instant::now(), roots));
    }

    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.lock().remove(tenant);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, (Instant, Roots)>> {
        // The map is whole after every statement, so a poisoned lock is as good as another.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
