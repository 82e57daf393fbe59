//! Where a device's session is, and who displaced whom.

use std::time::Duration;

use prost::Message;
use sluice_proto::store::v1 as proto;
use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId};

use crate::kek::KekRing;
use crate::seal::{self, check_revision};
use crate::store::Store;
use crate::{RecordError, StoreError};

/// Within this time displacements of a device are counted.
pub(crate) const DISPLACEMENT_WINDOW: Duration = Duration::from_secs(600);
/// Displacements counted at most.
pub(crate) const MAX_DISPLACEMENTS: usize = 16;
/// Largest stored record of a holder; a longer value is not ours and is not read.
pub(crate) const MAX_HOLDER_BYTES: usize = 512;
/// Schema revision of the message.
const REVISION: u32 = 1;
const HOLDER: &str = "sluice/device-holder";

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLocation {
    /// The pod that opened its session. A UDP session may have moved since: ask the owner of its slot.
    pub pod: PodId,
    /// Its session.
    pub session: SessionId,
    /// The session's number among all of the device. Told by the store alone: to order sessions by, not to trust.
    pub epoch: DeviceEpoch,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The number of the claiming session: every session of the device with a lower one is to be closed.
    pub epoch: DeviceEpoch,
    /// Who held the device until now: tell it to close that session. It must check that the session is of this device.
    pub previous: Option<DeviceLocation>,
    /// How often a session of this device took the place of another that was still open, this time included, in the last 10
    /// minutes; 16 stands for all higher numbers. Two holders of one key show by it: they displace each other.
    pub displaced_recently: u32,
}

/// A holder as the back end knows it.
#[derive(Debug, Clone)]
pub(crate) struct HolderRow {
    pub(crate) epoch: u64,
    /// Empty when it was too long to be ours.
    pub(crate) blob: Vec<u8>,
}

/// A claim as the back end answers it.
pub(crate) struct ClaimRow {
    pub(crate) epoch: u64,
    pub(crate) previous: Option<HolderRow>,
    pub(crate) displaced: u32,
}

pub(crate) fn encode(ring: &KekRing, device: DeviceId, pod: PodId, session: SessionId) -> Vec<u8> {
    let message = proto::DeviceHolder {
        revision: REVISION,
        device: device.as_bytes().to_vec(),
        pod: pod.as_bytes().to_vec(),
        session: session.as_bytes().to_vec(),
    };
    seal::authenticate(ring, HOLDER, message.encode_to_vec())
}

pub(crate) fn decode(
    ring: &KekRing,
    device: DeviceId,
    row: &HolderRow,
) -> Result<DeviceLocation, RecordError> {
    let body = seal::verify(ring, HOLDER, &row.blob)?;
    let message = proto::DeviceHolder::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
    check_revision(message.revision, REVISION)?;
    if message.device != device.as_bytes() {
        return Err(RecordError::Swapped);
    }
    let bytes = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| RecordError::Malformed);
    Ok(DeviceLocation {
        pod: PodId::from_bytes(bytes(&message.pod)?),
        session: SessionId::from_bytes(bytes(&message.session)?),
        epoch: DeviceEpoch(row.epoch),
    })
}

impl Store {
    /// Takes a device over for a session, which holds it for `ttl` unless it renews that: gives the session the device's next
    /// number ([`take_device_epoch`](Self::take_device_epoch)) and names the session it displaces.
    ///
    /// Safe to repeat for the same session: it keeps its number, and the one displaced is named again.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn claim_device(
        &self,
        device: DeviceId,
        pod: PodId,
        session: SessionId,
        ttl: Duration,
    ) -> Result<Claim, StoreError> {
        let blob = encode(&self.kek, device, pod, session);
        let row = self.backend.claim_device(device, session, blob, ttl).await?;
        Ok(Claim {
            epoch: DeviceEpoch(row.epoch),
            previous: row.previous.and_then(|holder| self.trusted_holder(device, &holder)),
            displaced_recently: row.displaced,
        })
    }

    /// Lets a session hold its device for `ttl` from now on, with the pod it is on now. `false` when it does not hold it any
    /// more.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn renew_device(
        &self,
        device: DeviceId,
        pod: PodId,
        session: SessionId,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let blob = encode(&self.kek, device, pod, session);
        self.backend.renew_device(device, session, blob, ttl).await
    }

    /// Where a device is, as far as anybody said; a record that cannot be trusted counts as none.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn device_location(&self, device: DeviceId) -> Result<Option<DeviceLocation>, StoreError> {
        let row = self.backend.device_holder(device).await?;
        Ok(row.and_then(|row| self.trusted_holder(device, &row)))
    }

    /// Gives a device up, if the session still holds it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn release_device(&self, device: DeviceId, session: SessionId) -> Result<(), StoreError> {
        self.backend.release_device(device, session).await
    }

    fn trusted_holder(&self, device: DeviceId, row: &HolderRow) -> Option<DeviceLocation> {
        let holder = decode(&self.kek, device, row);
        holder.inspect_err(|error| self.distrust("the holder of a device", error)).ok()
    }
}
