use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_types::{DeviceId, TenantId, Timestamp};

use crate::backend::LogWaiter;
use crate::device::{DeviceState, Reason};
use crate::error::RegistryError;
use crate::log_memory::LoggedEntry;
use crate::record::{DeviceData, RecordState, RevocationData};
use crate::registry::move_to;
use crate::store::Store;
use crate::{StoreError, StoreErrorKind, clock};

/// Entries read at a time.
const BATCH: usize = 256;
/// Pause before a watch that failed asks again: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A place in the revocation log. Numbers only grow, also over a loss of the store (they start from the clock, in
/// milliseconds), and have gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// Before the first entry.
    pub const START: Self = Self(0);
}

/// An entry of the log: a device lost its right to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Where it stands.
    pub position: LogPosition,
    /// The device; close its sessions.
    pub device: DeviceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it became; `None` when it was taken out of the registry.
    pub state: Option<DeviceState>,
    /// Why, in the operator's words.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// What the log holds after a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationBatch {
    /// The entries, in order. More may follow.
    pub entries: Vec<Revocation>,
    /// Go on from here: behind what was asked for when the log was set back meanwhile.
    pub position: LogPosition,
    /// Entries after the position asked for were dropped from the log before they could be read: look up every device with
    /// a session. Never set when reading from the start.
    pub missed: bool,
    /// Entries that cannot be trusted and were left out.
    pub distrusted: u32,
}

/// How far a pod has applied the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedPosition {
    /// The pod, by the name it gave.
    pub pod: String,
    /// The last entry it applied.
    pub position: LogPosition,
    /// How long ago it said so.
    pub age: Duration,
}

impl Store {
    /// Reads up to 256 entries of the log after a position.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn revocations_after(&self, after: LogPosition) -> Result<RevocationBatch, StoreError> {
        let mut page = self.look_at_log(after.0, BATCH).await?;
        self.check_identity(page.identity.as_deref())?;
        let accepted = self.check_log(&page).await?;
        let set_back = self.log.read_again_after();
        let after = match set_back {
            Some(earlier) if earlier < after.0 => {
                page = self.look_at_log(earlier, BATCH).await?;
                self.check_identity(page.identity.as_deref())?;
                LogPosition(earlier)
            }
            _ => after,
        };
        match self.settle_doubts(&page, accepted).await {
            // No keys are given out; what is revoked meanwhile is heard all the same.
            Ok(()) | Err(StoreError::RolledBack) => {}
            Err(error) => return Err(error),
        }
        self.finish_withdrawals(page.pending).await;
        let mut batch = RevocationBatch {
            entries: Vec::with_capacity(page.entries.len()),
            position: after,
            missed: after > LogPosition::START && after.0 < page.trimmed,
            distrusted: 0,
        };
        if batch.missed {
            self.log.missed(page.trimmed);
            batch.position = LogPosition(page.trimmed);
        }
        for (number, blob) in page.entries {
            batch.position = LogPosition(number);
            match RevocationData::decode(&self.kek, &blob) {
                Ok(entry) => {
                    self.floors.raise(entry.device, entry.device_version);
                    self.log.remember(LoggedEntry {
                        number,
                        device: entry.device,
                        device_version: entry.device_version,
                        blob,
                    });
                    batch.entries.push(Revocation {
                        position: LogPosition(number),
                        device: entry.device,
                        tenant: entry.tenant,
                        state: match entry.state {
                            RecordState::Device(state) => Some(state),
                            RecordState::Removed => None,
                        },
                        reason: entry.reason,
                        at: entry.at,
                    });
                }
                Err(error) => {
                    tracing::warn!(position = number, %error, "left out an entry of the revocation log");
                    batch.distrusted = batch.distrusted.saturating_add(1);
                }
            }
        }
        self.log.has_gone_on(set_back);
        Ok(batch)
    }

    /// Follows the log from a position on; start at [`LogPosition::START`], so that a record older than its own revocation is
    /// recognised too.
    #[must_use]
    pub fn watch_revocations(&self, after: LogPosition) -> RevocationWatch {
        RevocationWatch { store: self.clone(), waiter: self.backend.waiter(), position: after, pause: None }
    }

    /// Says how far a pod has applied the log; repeat it each few seconds as a sign of life. A lower position than before is
    /// ignored.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn report_applied(&self, pod: &str, position: LogPosition) -> Result<(), StoreError> {
        self.backend.report_applied(pod, position.0).await
    }

    /// How far each pod that reported within the last day has got. Which age still counts as alive is the caller's decision.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn applied_positions(&self) -> Result<Vec<AppliedPosition>, StoreError> {
        let applied = self.backend.applied().await?;
        Ok(applied
            .into_iter()
            .map(|entry| AppliedPosition {
                pod: entry.pod,
                position: LogPosition(entry.position),
                age: entry.age,
            })
            .collect())
    }

    /// Announce, change the record, log: in this order, so that a caller who dies leaves either nothing, or an announcement that
    /// any watching pod finishes. The record and the log lie on different nodes of a cluster and cannot change as one.
    pub(crate) async fn withdraw(
        &self,
        id: DeviceId,
        target: RecordState,
        reason: &Reason,
    ) -> Result<LogPosition, RegistryError> {
        let found = self.trusted_device(id).await?;
        if let Some(data) = found.filter(|data| data.state == target) {
            return Ok(self.log_withdrawal(&data).await?);
        }
        self.backend.announce(id).await?;
        match self.change_device(id, |data| move_to(data, target, reason)).await {
            Ok(data) => Ok(self.log_withdrawal(&data).await?),
            Err(RegistryError::Store(error)) => Err(error.into()),
            Err(refused) => {
                self.backend.settle(id).await?;
                Err(refused)
            }
        }
    }

    /// Logs that a device record has taken the right away; the same version of the record is logged once.
    async fn log_withdrawal(&self, data: &DeviceData) -> Result<LogPosition, StoreError> {
        let entry = RevocationData {
            device: data.id,
            tenant: data.tenant.clone(),
            state: data.state,
            reason: data.reason.clone(),
            at: data.changed,
            device_version: data.version,
        };
        let number =
            self.backend.append(data.id, data.version, entry.encode(&self.kek), self.log.highest()).await?;
        self.log.hear(number);
        Ok(LogPosition(number))
    }

    /// Finishes what others announced and did not log. What cannot be finished now stays announced, behind the others, and keeps nobody
    /// from hearing of what is logged.
    async fn finish_withdrawals(&self, devices: Vec<DeviceId>) {
        let mut failed = 0_u32;
        for device in devices {
            let Err(error) = self.finish_withdrawal(device).await else { continue };
            failed = failed.saturating_add(1);
            if failed == 1 {
                tracing::warn!(%device, %error, "a revocation was announced and cannot be finished; trying again");
            }
            if error.kind() == StoreErrorKind::Unavailable || self.backend.announce(device).await.is_err() {
                return;
            }
        }
    }

    /// Finishes what somebody announced and did not log: logs it if the record says so, else drops the announcement. Nobody connects
    /// under a record that cannot be trusted; its announcement stays, for when it is repaired.
    async fn finish_withdrawal(&self, device: DeviceId) -> Result<(), StoreError> {
        let data = self.read_device(device, self.floors.of(device)).await?;
        let withdrawn = data.filter(|data| match data.state {
            RecordState::Removed => true,
            RecordState::Device(state) => !state.may_connect(),
        });
        match withdrawn {
            Some(data) => {
                tracing::info!(%device, since = %clock::now().as_millis(), "finished a revocation that was announced");
                self.log_withdrawal(&data).await.map(drop)
            }
            None => self.backend.settle(device).await,
        }
    }
}

/// Follows the revocation log without gaps, through outages of the store.
pub struct RevocationWatch {
    store: Store,
    waiter: LogWaiter,
    position: LogPosition,
    pause: Option<Duration>,
}

impl std::fmt::Debug for RevocationWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationWatch").field("position", &self.position).finish_non_exhaustive()
    }
}

impl RevocationWatch {
    /// The position up to which entries were handed out.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        self.position
    }

    /// Waits for entries after the position. Looks at the store at least each second, also for its identity.
    ///
    /// # Errors
    ///
    /// [`StoreError`] each time the store cannot be followed; call again, the watch pauses by itself (50 ms, doubling to 1 s)
    /// and goes on from the same position.
    ///
    /// # Cancellation Safety
    ///
    /// An abandoned call loses nothing.
    pub async fn next(&mut self) -> Result<RevocationBatch, StoreError> {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
        }
        match self.follow().await {
            Ok(batch) => {
                self.pause = None;
                self.position = batch.position;
                Ok(batch)
            }
            Err(error) => {
                self.pause = Some(self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
                Err(error)
            }
        }
    }

    async fn follow(&mut self) -> Result<RevocationBatch, StoreError> {
        loop {
            let batch = self.store.revocations_after(self.position).await?;
            // It goes back when the log was set back: what was put in its place is handed out from there.
            if batch.missed || batch.position != self.position {
                return Ok(batch);
            }
            self.pause = None;
            self.waiter.wait(self.position.0).await?;
        }
    }
}
