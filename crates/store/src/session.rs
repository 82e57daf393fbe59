use std::time::Duration;

use sluice_types::{DeviceEpoch, DeviceId, KeyEpoch, SessionId, TenantId, Timestamp};

use crate::device::Profile;
use crate::session_record::{open_session, seal_session};
use crate::store::Store;
use crate::{RecordError, SecretKey, StoreError};

/// What another pod needs to go on with a session. Sealed in the store under a subkey of its own, of the cluster key in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session.
    pub session: SessionId,
    /// Whose session it is.
    pub device: DeviceId,
    /// Whose device it is.
    pub tenant: TenantId,
    /// What its messages are.
    pub profile: Profile,
    /// The session's number among all of this device.
    pub device_epoch: DeviceEpoch,
    /// How often it was re-keyed.
    pub rekey_epoch: u32,
    /// The generation of the session's slot when it was opened in it: the server's sequence numbers start from there.
    pub birth_generation: u32,
    /// The keys in force.
    pub current: SessionKeys,
    /// The keys before the last REKEY, until that is in the slot's ledger: who adopts the slot and finds the epoch before there
    /// goes on with these, and the device repeats its REKEY. Write the record without them once it is.
    pub previous: Option<SessionKeys>,
    /// The last REKEY, so that its repeat is still answered.
    pub last_rekey: Option<LastRekey>,
    /// The key epoch that the device proved.
    pub key_epoch: KeyEpoch,
    /// When it was opened.
    pub opened: Timestamp,
}

/// The two keys of a session (WIRE.md section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKeys {
    /// Device to server.
    pub c2s: SecretKey,
    /// Server to device.
    pub s2c: SecretKey,
}

/// What the repeat of a REKEY is known and answered by (WIRE.md section 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRekey {
    /// The key, device to server, under which the REKEY came.
    pub old_c2s: SecretKey,
    /// Tells this REKEY from another one of the same number.
    pub fingerprint: [u8; 8],
    /// Its sequence number under the old key.
    pub seq: u32,
    /// When it came.
    pub at: Timestamp,
}

impl Store {
    /// Writes a session record that lives for `ttl` unless written again.
    ///
    /// Safe to repeat. A record of a lower re-key epoch than the stored one changes nothing and gives `false`: a late writer
    /// does not bring old keys back.
    ///
    /// Write each live session's record again within `ttl`, and within half of `store.cluster_keys.keep`: the key it is sealed
    /// under is destroyed some time after it was followed by another.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; after a timeout, write again.
    pub async fn put_session(&self, record: &SessionRecord, ttl: Duration) -> Result<bool, StoreError> {
        let secrets = self.known_secrets().await?;
        let blob = seal_session(&secrets, record).map_err(StoreError::Randomness)?;
        self.backend.put_session(record.device, record.session, record.rekey_epoch, blob, ttl).await
    }

    /// Reads a session record; `None` when there is none or it has expired.
    ///
    /// `at_least` is the re-key epoch that the caller knows of from elsewhere: an older record is refused, because its keys
    /// are no longer the session's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] for one that was changed, moved, cut, or rolled back, or whose key was destroyed: close the
    /// session; [`StoreError`].
    pub async fn session(
        &self,
        device: DeviceId,
        session: SessionId,
        at_least: u32,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let Some((epoch, blob)) = self.backend.read_session(device, session).await? else { return Ok(None) };
        let mut secrets = self.known_secrets().await?;
        let mut opened = open_session(&self.kek, &secrets, device, session, epoch, &blob);
        if let Err(RecordError::KeyDestroyed { .. }) = opened {
            // Or by a pod that knows a newer key.
            secrets = self.cluster_secrets().await?;
            opened = open_session(&self.kek, &secrets, device, session, epoch, &blob);
        }
        let record = opened.and_then(|record| {
            if record.rekey_epoch < at_least {
                Err(RecordError::RolledBack { found: record.rekey_epoch.into(), expected: at_least.into() })
            } else {
                Ok(record)
            }
        });
        // A key is destroyed in its time, whoever needed it still.
        if let Err(error) = &record
            && !matches!(error, RecordError::KeyDestroyed { .. })
        {
            self.distrust("the record of a session", error);
        }
        record.map(Some).map_err(|source| StoreError::Record {
            record: format!("the record of session {session}"),
            source,
        })
    }

    /// Deletes a session record; there may be none. Safe to repeat.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn delete_session(&self, device: DeviceId, session: SessionId) -> Result<(), StoreError> {
        self.backend.delete_session(device, session).await
    }

    /// Takes the device's next session number: every session with a lower one is to be closed. Numbers only grow, also over a
    /// loss of the store (they start from the clock, in microseconds); they have gaps. After a timeout take another.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn take_device_epoch(&self, device: DeviceId) -> Result<DeviceEpoch, StoreError> {
        self.backend.take_device_epoch(device).await.map(DeviceEpoch)
    }

    /// The number last taken; `None` when none was in the last 30 days.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn device_epoch(&self, device: DeviceId) -> Result<Option<DeviceEpoch>, StoreError> {
        Ok(self.backend.device_epoch(device).await?.map(DeviceEpoch))
    }
}
