//! Bringing the next key-encryption key into force, and writing anew what was made under the one before.
//!
//! The order is what keeps a fleet at work undisturbed: every process has the next key before any seals under it, every process seals
//! under it before anything is written anew, and only then can the key before be taken out.

use std::time::Duration;

use sluice_types::{DeviceId, PodId};

use crate::change::Versioned;
use crate::error::RegistryError;
use crate::hold::DeviceHold;
use crate::location;
use crate::pod::PodRow;
use crate::record::{DeviceData, Identity, RecordState, RevocationData};
use crate::seal::key_of;
use crate::store::Store;
use crate::{StoreError, clock};

/// Entries of the revocation log copied at a time.
const BATCH: usize = 256;
/// Times a record is read again because somebody else changed it.
const ATTEMPTS: u32 = 8;
/// Rounds in which a copy of the log follows one that grows.
const ROUNDS: u32 = 64;
/// How often a wait for the pods looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a key-encryption key did not come into force, or nothing was written anew under it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// Somebody could not read what would be sealed from now on.
    #[error(
        "nothing is changed: the first key of the key file is not in that of every pod, or they are of a release that does not say so: {}; put it into their key files, keep the old one below it, restart them, and run this again",
        names(.0)
    )]
    Lacking(Vec<PodId>),
    /// Somebody still seals under the key before.
    #[error(
        "the key is in force, and these pods do not seal under it yet: {}; leave the old key in the file and run this again when they reach the store, or have ended",
        names(.0)
    )]
    Behind(Vec<PodId>),
    /// The store gave no trustworthy answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn names(pods: &[PodId]) -> String {
    pods.iter().map(PodId::to_string).collect::<Vec<_>>().join(", ")
}

impl Store {
    /// Brings the first key of the key file into force, if every pod that lives has it, and waits, for as long as `patience`, until all of
    /// them seal under it. Processes that are not one of many pods are not seen here: they must have the key as well.
    ///
    /// Safe to repeat.
    ///
    /// # Errors
    ///
    /// [`RotationError`].
    pub async fn begin_rotation(&self, patience: Duration) -> Result<(), RotationError> {
        let next = self.kek.first_id();
        let has_it = |row: &PodRow| self.announced(row).is_some_and(|pod| pod.keks.contains(&next));
        let lacking = self.live_pods_but(has_it).await?;
        if !lacking.is_empty() {
            return Err(RotationError::Lacking(lacking));
        }
        self.seal_identity_under_first().await?;
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let behind = self.live_pods_but(|row| key_of(&row.blob) == Some(next)).await?;
            if behind.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(RotationError::Behind(behind));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Writes what belongs to no device and no tenant anew under the key in force: what was accepted of the revocation log, the ring of
    /// the cluster, who owns which slot, and the revocation log with the records of the devices that it names as removed. Returns the entries of the log.
    ///
    /// # Errors
    ///
    /// [`StoreError::Contended`] when somebody else does the same at this moment; [`StoreError`]. Safe to repeat.
    pub async fn reseal_shared(&self) -> Result<u64, RegistryError> {
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        self.reseal_acceptance(&page).await?;
        self.cluster_secrets().await?;
        for owner in self.slot_owners().await? {
            self.put_slot_owner(owner.slot, owner.pod, owner.generation).await?;
        }
        self.reseal_log().await
    }

    /// Writes all of a device anew under the key in force: its record, and for as long as they last its hold and where its session is.
    /// The record keeps its version, since nothing in it changes.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`], [`RegistryError::Store`]. Safe to repeat.
    pub async fn reseal(&self, id: DeviceId) -> Result<(), RegistryError> {
        self.reseal_record(id).await?;
        if let Some(old) = self.backend.device_hold(id).await?
            && let Ok(hold) = DeviceHold::decode(&self.kek, id, &old)
        {
            self.replace(id, old, hold.encode(&self.kek)).await?;
        }
        if let Some(row) = self.backend.device_holder(id).await?
            && let Ok(holder) = location::decode(&self.kek, id, &row)
        {
            let new = location::encode(&self.kek, id, holder.pod, holder.session);
            self.replace(id, row.blob, new).await?;
        }
        Ok(())
    }

    async fn reseal_record(&self, id: DeviceId) -> Result<(), RegistryError> {
        for _ in 0..ATTEMPTS {
            let found = DeviceData::read(self, &id).await?.ok_or(RegistryError::NotFound(id))?;
            if found.write(self, &id, found.version).await? {
                return Ok(());
            }
        }
        Err(StoreError::Contended.into())
    }

    /// What changed meanwhile was written by somebody else, under the key in force.
    async fn replace(&self, id: DeviceId, old: Vec<u8>, new: Vec<u8>) -> Result<(), StoreError> {
        if old == new { Ok(()) } else { self.backend.replace_of_device(id, old, new).await }
    }

    async fn live_pods_but(
        &self,
        fits: impl Fn(&PodRow) -> bool + Send + Sync,
    ) -> Result<Vec<PodId>, StoreError> {
        let rows = self.backend.pods().await?;
        Ok(rows.iter().filter(|row| row.live && !fits(row)).filter_map(|row| row.pod.parse().ok()).collect())
    }

    /// From here on every process that looks at the store seals under the first key, and the key alone opens the store.
    async fn seal_identity_under_first(&self) -> Result<(), StoreError> {
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        let old = page.identity.ok_or(StoreError::Replaced)?;
        let before = self.kek.current_id();
        if before == self.kek.first_id() {
            return Ok(());
        }
        self.kek.seal_under(self.kek.first_id());
        let new = Identity::encode(self.identity, &self.kek, clock::now());
        match self.backend.swap_identity(old, new).await {
            Ok(true) => Ok(()),
            other => {
                // Unknown for now: the next look at the identity says which one seals.
                self.kek.seal_under(before);
                other.and(Err(StoreError::Contended))
            }
        }
    }

    /// The log is copied beside, entry by entry under the numbers it has, and the copy takes its place in one step; nobody who reads or
    /// waits notices.
    async fn reseal_log(&self) -> Result<u64, RegistryError> {
        self.backend.begin_log_copy().await?;
        let (mut copied, mut after) = (0_u64, 0);
        for _ in 0..ROUNDS {
            loop {
                let page = self.look_at_log(after, BATCH).await?;
                let Some(&(last, _)) = page.entries.last() else { break };
                let mut copies = Vec::with_capacity(page.entries.len());
                for (number, blob) in page.entries {
                    // What cannot be trusted stays as it is: to be left out by all readers, and looked into.
                    let Ok(entry) = RevocationData::decode(&self.kek, &blob) else {
                        copies.push((number, blob));
                        continue;
                    };
                    if entry.state == RecordState::Removed {
                        match self.reseal(entry.device).await {
                            Ok(()) | Err(RegistryError::NotFound(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    copies.push((number, entry.encode(&self.kek)));
                    copied = copied.saturating_add(1);
                }
                self.backend.copy_to_log(copies).await?;
                after = last;
            }
            if self.backend.end_log_copy(after).await? {
                return Ok(copied);
            }
        }
        Err(StoreError::Contended.into())
    }
}
