//! What is stored, between its encoded form and ours. Decoding checks everything that later code relies on.

use prost::Message;
use sluice_proto::store::v1 as proto;
use sluice_types::{DeviceId, KeyEpoch, Psk, TenantId, Timestamp};

use crate::device::{DeviceState, KeySource, MAX_KEYS, Profile};
use crate::kek::KekRing;
use crate::seal::{self, Name, check_revision};
use crate::{Device, KeyInfo, RecordError, SecretKey, Tenant};

/// Schema revision of every message here.
const REVISION: u32 = 1;

const DEVICE: &str = "sluice/device";
const DEVICE_KEY: &str = "sluice/device-key";
const TENANT: &str = "sluice/tenant";
const TENANT_ROOT: &str = "sluice/tenant-root";
const REVOCATION: &str = "sluice/revocation";
const IDENTITY: &str = "sluice/store-identity";

/// A value with the version that the store compares and swaps by. The version is in the authenticated value too; the two
/// must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) blob: Vec<u8>,
}

/// Names one change, so that a writer without an answer knows its own work when it reads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChangeId(pub(crate) [u8; 16]);

impl ChangeId {
    pub(crate) fn generate() -> std::io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(Self(id))
    }
}

/// The version after `current`: higher than it, and higher than any this record had before a store was emptied, as long as
/// clocks are not behind by more than that.
pub(crate) fn next_version(current: u64, now_millis: u64) -> u64 {
    now_millis.max(current.saturating_add(1))
}

/// [`DeviceState`], and the mark that keeps the version of a device that was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordState {
    Device(DeviceState),
    Removed,
}

#[derive(Debug, Clone)]
pub(crate) struct DeviceData {
    pub(crate) id: DeviceId,
    pub(crate) version: u64,
    pub(crate) tenant: TenantId,
    pub(crate) state: RecordState,
    pub(crate) profile: Profile,
    pub(crate) key_source: KeySource,
    pub(crate) keys: Vec<DeviceKeyData>,
    pub(crate) last_key_epoch: KeyEpoch,
    pub(crate) created: Timestamp,
    pub(crate) changed: Timestamp,
    pub(crate) reason: String,
    pub(crate) change_id: ChangeId,
}

#[derive(Debug, Clone)]
pub(crate) struct DeviceKeyData {
    pub(crate) info: KeyInfo,
    pub(crate) psk: Psk,
}

impl DeviceData {
    pub(crate) fn encode(&self, ring: &KekRing) -> std::io::Result<Vec<u8>> {
        let keys = self.keys.iter().map(|key| key.encode(ring, self.id)).collect::<Result<_, _>>()?;
        let message = proto::DeviceRecord {
            revision: REVISION,
            version: self.version,
            device: self.id.as_bytes().to_vec(),
            tenant: self.tenant.as_str().to_owned(),
            state: self.state.encode().into(),
            profile: encode_profile(self.profile).into(),
            key_source: match self.key_source {
                KeySource::Individual => proto::KeySource::Individual,
                KeySource::Derived => proto::KeySource::Derived,
            }
            .into(),
            keys,
            last_key_epoch: self.last_key_epoch.0,
            created_unix_ms: self.created.as_millis(),
            changed_unix_ms: self.changed.as_millis(),
            reason: self.reason.clone(),
            change_id: self.change_id.0.to_vec(),
        };
        Ok(seal::authenticate(ring, DEVICE, message.encode_to_vec()))
    }

    pub(crate) fn decode(ring: &KekRing, id: DeviceId, stored: &Stored) -> Result<Self, RecordError> {
        let body = seal::verify(ring, DEVICE, &stored.blob)?;
        let message = proto::DeviceRecord::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        if message.device != id.as_bytes() {
            return Err(RecordError::Swapped);
        }
        check_version(message.version, stored.version)?;
        if message.keys.len() > MAX_KEYS {
            return Err(RecordError::Malformed);
        }
        let state = RecordState::decode(message.state())?;
        let profile = decode_profile(message.profile())?;
        let key_source = match message.key_source() {
            proto::KeySource::Individual => KeySource::Individual,
            proto::KeySource::Derived => KeySource::Derived,
            proto::KeySource::Unspecified => return Err(RecordError::Malformed),
        };
        let keys =
            message.keys.iter().map(|key| DeviceKeyData::decode(ring, id, key)).collect::<Result<_, _>>()?;
        Ok(Self {
            id,
            version: message.version,
            tenant: message.tenant.parse().map_err(|_| RecordError::Malformed)?,
            state,
            profile,
            key_source,
            keys,
            last_key_epoch: KeyEpoch(message.last_key_epoch),
            created: Timestamp(message.created_unix_ms),
            changed: Timestamp(message.changed_unix_ms),
            reason: message.reason,
            change_id: ChangeId(fixed(&message.change_id)?),
        })
    }

    /// What may be shown; `None` for a device that was taken out.
    pub(crate) fn describe(&self) -> Option<Device> {
        let RecordState::Device(state) = self.state else { return None };
        Some(Device {
            id: self.id,
            tenant: self.tenant.clone(),
            state,
            reason: self.reason.clone(),
            profile: self.profile,
            key_source: self.key_source,
            keys: self.keys.iter().map(|key| key.info).collect(),
            created: self.created,
            changed: self.changed,
            version: self.version,
        })
    }
}

impl DeviceKeyData {
    fn encode(&self, ring: &KekRing, device: DeviceId) -> std::io::Result<proto::DeviceKey> {
        let epoch = self.info.epoch.0.to_be_bytes();
        let name = Name { purpose: DEVICE_KEY, parts: &[device.as_bytes(), &epoch] };
        Ok(proto::DeviceKey {
            epoch: self.info.epoch.0,
            created_unix_ms: self.info.created.as_millis(),
            not_after_unix_ms: encode_time(self.info.not_after),
            sealed: Some(seal::seal(ring, name, self.psk.expose())?),
            short: self.info.short,
        })
    }

    fn decode(ring: &KekRing, device: DeviceId, key: &proto::DeviceKey) -> Result<Self, RecordError> {
        let epoch = key.epoch.to_be_bytes();
        let name = Name { purpose: DEVICE_KEY, parts: &[device.as_bytes(), &epoch] };
        let bytes = seal::open(ring, name, key.sealed.as_ref().ok_or(RecordError::Malformed)?)?;
        let psk = if key.short { Psk::new_dangerously_short(&bytes) } else { Psk::new(&bytes) };
        Ok(Self {
            info: KeyInfo {
                epoch: KeyEpoch(key.epoch),
                created: Timestamp(key.created_unix_ms),
                not_after: decode_time(key.not_after_unix_ms),
                short: key.short,
            },
            psk: psk.map_err(|_| RecordError::Malformed)?,
        })
    }
}

impl RecordState {
    pub(crate) fn encode(self) -> proto::DeviceState {
        match self {
            Self::Device(DeviceState::Provisioned) => proto::DeviceState::Provisioned,
            Self::Device(DeviceState::Active) => proto::DeviceState::Active,
            Self::Device(DeviceState::Suspended) => proto::DeviceState::Suspended,
            Self::Device(DeviceState::Revoked) => proto::DeviceState::Revoked,
            Self::Device(DeviceState::Decommissioned) => proto::DeviceState::Decommissioned,
            Self::Removed => proto::DeviceState::Removed,
        }
    }

    pub(crate) fn decode(state: proto::DeviceState) -> Result<Self, RecordError> {
        Ok(match state {
            proto::DeviceState::Provisioned => Self::Device(DeviceState::Provisioned),
            proto::DeviceState::Active => Self::Device(DeviceState::Active),
            proto::DeviceState::Suspended => Self::Device(DeviceState::Suspended),
            proto::DeviceState::Revoked => Self::Device(DeviceState::Revoked),
            proto::DeviceState::Decommissioned => Self::Device(DeviceState::Decommissioned),
            proto::DeviceState::Removed => Self::Removed,
            // A state of another release: nobody connects under a state that this one does not know.
            proto::DeviceState::Unspecified => return Err(RecordError::Malformed),
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TenantData {
    pub(crate) id: TenantId,
    pub(crate) version: u64,
    pub(crate) roots: Vec<TenantRootData>,
    pub(crate) last_key_epoch: KeyEpoch,
    pub(crate) short_psk_until: Option<Timestamp>,
    pub(crate) change_id: ChangeId,
}

#[derive(Debug, Clone)]
pub(crate) struct TenantRootData {
    pub(crate) epoch: KeyEpoch,
    pub(crate) created: Timestamp,
    pub(crate) root: SecretKey,
}

impl TenantData {
    pub(crate) fn new(id: TenantId) -> Self {
        Self {
            id,
            version: 0,
            roots: Vec::new(),
            last_key_epoch: KeyEpoch(0),
            short_psk_until: None,
            change_id: ChangeId::default(),
        }
    }

    pub(crate) fn encode(&self, ring: &KekRing) -> std::io::Result<Vec<u8>> {
        let roots = self.roots.iter().map(|root| root.encode(ring, &self.id)).collect::<Result<_, _>>()?;
        let message = proto::TenantRecord {
            revision: REVISION,
            version: self.version,
            tenant: self.id.as_str().to_owned(),
            roots,
            last_key_epoch: self.last_key_epoch.0,
            short_psk_until_unix_ms: encode_time(self.short_psk_until),
            change_id: self.change_id.0.to_vec(),
        };
        Ok(seal::authenticate(ring, TENANT, message.encode_to_vec()))
    }

    pub(crate) fn decode(ring: &KekRing, id: &TenantId, stored: &Stored) -> Result<Self, RecordError> {
        let body = seal::verify(ring, TENANT, &stored.blob)?;
        let message = proto::TenantRecord::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        if message.tenant != id.as_str() {
            return Err(RecordError::Swapped);
        }
        check_version(message.version, stored.version)?;
        if message.roots.len() > MAX_KEYS {
            return Err(RecordError::Malformed);
        }
        let roots = message
            .roots
            .iter()
            .map(|root| TenantRootData::decode(ring, id, root))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: id.clone(),
            version: message.version,
            roots,
            last_key_epoch: KeyEpoch(message.last_key_epoch),
            short_psk_until: decode_time(message.short_psk_until_unix_ms),
            change_id: ChangeId(fixed(&message.change_id)?),
        })
    }

    pub(crate) fn describe(&self) -> Tenant {
        Tenant {
            id: self.id.clone(),
            root_epochs: self.roots.iter().map(|root| root.epoch).collect(),
            dangerously_accept_short_psk_until: self.short_psk_until,
        }
    }
}

impl TenantRootData {
    fn encode(&self, ring: &KekRing, tenant: &TenantId) -> std::io::Result<proto::TenantRoot> {
        let epoch = self.epoch.0.to_be_bytes();
        let name = Name { purpose: TENANT_ROOT, parts: &[&epoch, tenant.as_str().as_bytes()] };
        Ok(proto::TenantRoot {
            epoch: self.epoch.0,
            created_unix_ms: self.created.as_millis(),
            sealed: Some(seal::seal(ring, name, self.root.expose())?),
        })
    }

    fn decode(ring: &KekRing, tenant: &TenantId, root: &proto::TenantRoot) -> Result<Self, RecordError> {
        let epoch = root.epoch.to_be_bytes();
        let name = Name { purpose: TENANT_ROOT, parts: &[&epoch, tenant.as_str().as_bytes()] };
        let bytes = seal::open(ring, name, root.sealed.as_ref().ok_or(RecordError::Malformed)?)?;
        Ok(Self {
            epoch: KeyEpoch(root.epoch),
            created: Timestamp(root.created_unix_ms),
            root: SecretKey::from_slice(&bytes).ok_or(RecordError::Malformed)?,
        })
    }
}

/// An entry of the revocation log before it has its number.
#[derive(Debug, Clone)]
pub(crate) struct RevocationData {
    pub(crate) device: DeviceId,
    pub(crate) tenant: TenantId,
    pub(crate) state: RecordState,
    pub(crate) reason: String,
    pub(crate) at: Timestamp,
    pub(crate) device_version: u64,
}

impl RevocationData {
    pub(crate) fn encode(&self, ring: &KekRing) -> Vec<u8> {
        let message = proto::RevocationEntry {
            revision: REVISION,
            device: self.device.as_bytes().to_vec(),
            tenant: self.tenant.as_str().to_owned(),
            state: self.state.encode().into(),
            reason: self.reason.clone(),
            at_unix_ms: self.at.as_millis(),
            device_version: self.device_version,
        };
        seal::authenticate(ring, REVOCATION, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, blob: &[u8]) -> Result<Self, RecordError> {
        let body = seal::verify(ring, REVOCATION, blob)?;
        let message = proto::RevocationEntry::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        Ok(Self {
            device: DeviceId::from_bytes(fixed(&message.device)?),
            state: RecordState::decode(message.state())?,
            tenant: message.tenant.parse().map_err(|_| RecordError::Malformed)?,
            reason: message.reason,
            at: Timestamp(message.at_unix_ms),
            device_version: message.device_version,
        })
    }
}

/// Which life of a store this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) [u8; 16]);

impl Identity {
    pub(crate) fn generate() -> std::io::Result<Self> {
        ChangeId::generate().map(|id| Self(id.0))
    }

    pub(crate) fn encode(self, ring: &KekRing, now: Timestamp) -> Vec<u8> {
        let message = proto::StoreIdentity {
            revision: REVISION,
            id: self.0.to_vec(),
            created_unix_ms: now.as_millis(),
        };
        seal::authenticate(ring, IDENTITY, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, blob: &[u8]) -> Result<Self, RecordError> {
        let body = seal::verify(ring, IDENTITY, blob)?;
        let message = proto::StoreIdentity::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        fixed(&message.id).map(Self)
    }
}

pub(crate) fn encode_profile(profile: Profile) -> proto::DeviceProfile {
    match profile {
        Profile::Raw => proto::DeviceProfile::Raw,
        Profile::Managed => proto::DeviceProfile::Managed,
    }
}

pub(crate) fn decode_profile(profile: proto::DeviceProfile) -> Result<Profile, RecordError> {
    match profile {
        proto::DeviceProfile::Raw => Ok(Profile::Raw),
        proto::DeviceProfile::Managed => Ok(Profile::Managed),
        proto::DeviceProfile::Unspecified => Err(RecordError::Malformed),
    }
}

fn encode_time(time: Option<Timestamp>) -> i64 {
    time.map_or(0, Timestamp::as_millis)
}

fn decode_time(millis: i64) -> Option<Timestamp> {
    (millis != 0).then_some(Timestamp(millis))
}

fn check_version(inside: u64, outside: u64) -> Result<(), RecordError> {
    if inside == outside { Ok(()) } else { Err(RecordError::RolledBack { found: inside, expected: outside }) }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| RecordError::Malformed)
}
