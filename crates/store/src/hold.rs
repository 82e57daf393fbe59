//! Devices that are refused for a time by what they did: every pod asks at each handshake, so all of them know at once.

use std::time::Duration;

use prost::Message;
use serde::Serialize;
use sluice_proto::store::v1 as proto;
use sluice_types::{DeviceId, Timestamp};

use crate::kek::KekRing;
use crate::seal::{self, check_revision};
use crate::store::Store;
use crate::{RecordError, StoreError, clock};

/// Largest stored record; a longer value is not ours and is not read.
pub(crate) const MAX_HOLD_BYTES: usize = 512;
/// Longest time for which a device is held; longer ones are cut. For good is an operator's decision.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Schema revision of the message.
const REVISION: u32 = 1;
const HOLD: &str = "sluice/device-hold";

/// What a device did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// Its sessions kept taking each other's place: two holders of its key are suspected.
    SuspectedClone,
    /// It opened more sessions than it may.
    RateLimited,
}

impl HoldReason {
    /// The lowercase name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SuspectedClone => "suspected_clone",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// A device that is refused for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceHold {
    /// The device.
    pub device: DeviceId,
    /// Why.
    pub reason: HoldReason,
    /// Since when.
    pub since: Timestamp,
    /// Until when, by the clock of the pod that said so; the store ends it by its own.
    pub until: Timestamp,
}

impl DeviceHold {
    pub(crate) fn encode(&self, ring: &KekRing) -> Vec<u8> {
        let reason = match self.reason {
            HoldReason::SuspectedClone => proto::HoldReason::SuspectedClone,
            HoldReason::RateLimited => proto::HoldReason::RateLimited,
        };
        let message = proto::DeviceHold {
            revision: REVISION,
            device: self.device.as_bytes().to_vec(),
            reason: reason.into(),
            since_unix_ms: self.since.as_millis(),
            until_unix_ms: self.until.as_millis(),
        };
        seal::authenticate(ring, HOLD, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, device: DeviceId, blob: &[u8]) -> Result<Self, RecordError> {
        let body = seal::verify(ring, HOLD, blob)?;
        let message = proto::DeviceHold::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        if message.device != device.as_bytes() {
            return Err(RecordError::Swapped);
        }
        let reason = match message.reason() {
            proto::HoldReason::SuspectedClone => HoldReason::SuspectedClone,
            proto::HoldReason::RateLimited => HoldReason::RateLimited,
            proto::HoldReason::Unspecified => return Err(RecordError::Malformed),
        };
        let (since, until) = (Timestamp(message.since_unix_ms), Timestamp(message.until_unix_ms));
        Ok(Self { device, reason, since, until })
    }
}

impl Store {
    /// Lets all pods refuse a device for `duration`, at most 30 days. One that is held for longer already stays so, for the reason it has.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Safe to repeat.
    pub async fn hold_device(
        &self,
        device: DeviceId,
        reason: HoldReason,
        duration: Duration,
    ) -> Result<(), StoreError> {
        let duration = duration.clamp(Duration::from_millis(1), LONGEST);
        let since = clock::now();
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let until = Timestamp(since.as_millis().saturating_add(millis));
        let blob = DeviceHold { device, reason, since, until }.encode(&self.kek);
        self.backend.hold_device(device, blob, duration).await
    }

    /// Whether a device is refused now, and why. A record that cannot be trusted counts as none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn device_hold(&self, device: DeviceId) -> Result<Option<DeviceHold>, StoreError> {
        let Some(blob) = self.backend.device_hold(device).await? else { return Ok(None) };
        let hold = DeviceHold::decode(&self.kek, device, &blob);
        Ok(hold.inspect_err(|error| self.distrust("the hold of a device", error)).ok())
    }

    /// Ends the hold of a device, and forgets how often its sessions took each other's place. `false` when it was not held.
    ///
    /// # Errors
    ///
    /// [`StoreError`]. Safe to repeat.
    pub async fn end_hold(&self, device: DeviceId) -> Result<bool, StoreError> {
        self.backend.end_hold(device).await
    }
}
