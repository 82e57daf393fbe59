//! The narrow interface below which the back ends differ: bytes under names, and the few operations that must be atomic.
//! Everything else, sealing above all, is above it and the same for all.

use std::time::Duration;

use sluice_types::{DeviceId, PodId, SessionId, TenantId};

use crate::StoreError;
use crate::limit::{Limit, LimitSubject};
use crate::local::Local;
use crate::location::{ClaimRow, HolderRow};
use crate::places::PlacesRequest;
use crate::pod::PodRow;
use crate::record::Stored;
use crate::redis::Redis;
use crate::slot::{SlotRow, SnapshotId};

/// Entries that the revocation log keeps; the oldest go first. A pod that was away for longer is told that it missed some.
pub(crate) const LOG_ENTRIES: u64 = 65_536;
/// How long an announced withdrawal may take before anybody finishes it.
pub(crate) const PENDING_AFTER: Duration = Duration::from_secs(2);
/// How long a pod that reports nothing counts as one that may still serve.
pub(crate) const POD_FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// One look at the revocation log.
#[derive(Debug, Default)]
pub(crate) struct LogPage {
    /// The store's identity record, when there is one.
    pub(crate) identity: Option<Vec<u8>>,
    /// Highest number that was given.
    pub(crate) head: u64,
    /// Highest number that was dropped from the log.
    pub(crate) trimmed: u64,
    /// What of the log may be missing, when somebody has accepted that.
    pub(crate) accepted: Option<Stored>,
    /// The number that was asked for, 0 for none, and whether the log has it.
    pub(crate) known: u64,
    pub(crate) has_known: bool,
    /// Entries with their numbers, in order.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    /// Devices whose withdrawal was announced a while ago and not logged since.
    pub(crate) pending: Vec<DeviceId>,
}

/// How far a pod has got.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) pod: String,
    pub(crate) position: u64,
    pub(crate) age: Duration,
}

/// Where a write of a device record also shows in the lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) listed: bool,
}

pub(crate) enum Backend {
    Local(Local),
    Redis(Box<Redis>),
    #[cfg(feature = "simulated")]
    Simulated(crate::simulated::Simulated),
}

macro_rules! delegate {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            Self::Local($backend) => $call.await,
            Self::Redis($backend) => $call.await,
            #[cfg(feature = "simulated")]
            Self::Simulated(simulated) => {
                let $backend = &simulated.local;
                simulated.call($call).await
            }
        }
    };
}

impl Backend {
    /// Stores `blob` as identity if there is none, and gives the one that is there.
    pub(crate) async fn identity(&self, blob: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        delegate!(self, backend => backend.identity(blob))
    }

    /// Writes the identity anew if it is still `old` byte for byte; `false` when it is not.
    pub(crate) async fn swap_identity(&self, old: Vec<u8>, new: Vec<u8>) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.swap_identity(old, new))
    }

    /// Writes what of the log may be missing, if the stored version is `expected`, 0 for none.
    pub(crate) async fn swap_accepted(&self, expected: u64, new: Stored) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.swap_accepted(expected, new))
    }

    pub(crate) async fn read_device(&self, id: DeviceId) -> Result<Option<Stored>, StoreError> {
        delegate!(self, backend => backend.read_device(id))
    }

    /// Writes if the stored version is `expected`, 0 for none.
    pub(crate) async fn swap_device(
        &self,
        id: DeviceId,
        listing: Listing<'_>,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.swap_device(id, listing, expected, new))
    }

    /// Ids of a tenant's devices after `after`, in order. May name devices that are gone.
    pub(crate) async fn list_devices(
        &self,
        tenant: &TenantId,
        after: Option<DeviceId>,
        limit: usize,
    ) -> Result<Vec<DeviceId>, StoreError> {
        delegate!(self, backend => backend.list_devices(tenant, after, limit))
    }

    /// The first tenant with devices at or after `from`, in order of names.
    pub(crate) async fn tenant_from(
        &self,
        from: Option<&TenantId>,
        inclusive: bool,
    ) -> Result<Option<TenantId>, StoreError> {
        delegate!(self, backend => backend.tenant_from(from, inclusive))
    }

    pub(crate) async fn read_tenant(&self, id: &TenantId) -> Result<Option<Stored>, StoreError> {
        delegate!(self, backend => backend.read_tenant(id))
    }

    pub(crate) async fn swap_tenant(
        &self,
        id: &TenantId,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.swap_tenant(id, expected, new))
    }

    /// Announces that a device is about to lose its right, so that somebody logs it even if the caller dies in between.
    pub(crate) async fn announce(&self, device: DeviceId) -> Result<(), StoreError> {
        delegate!(self, backend => backend.announce(device))
    }

    /// Takes an announcement back.
    pub(crate) async fn settle(&self, device: DeviceId) -> Result<(), StoreError> {
        delegate!(self, backend => backend.settle(device))
    }

    /// Appends to the log, under a number above `above`, and settles the announcement. The same (device, version) gets the same number
    /// again.
    pub(crate) async fn append(
        &self,
        device: DeviceId,
        device_version: u64,
        blob: Vec<u8>,
        above: u64,
    ) -> Result<u64, StoreError> {
        delegate!(self, backend => backend.append(device, device_version, blob, above))
    }

    /// Entries after a number, and whether the log has the entry `known`.
    pub(crate) async fn log_after(
        &self,
        after: u64,
        limit: usize,
        known: u64,
    ) -> Result<LogPage, StoreError> {
        delegate!(self, backend => backend.log_after(after, limit, known))
    }

    /// Begins a copy of the log, in place of one that was left half-way.
    pub(crate) async fn begin_log_copy(&self) -> Result<(), StoreError> {
        delegate!(self, backend => backend.begin_log_copy())
    }

    /// Adds entries of the log, in order, with other bytes under the same numbers; those that the log has no more are left out.
    pub(crate) async fn copy_to_log(&self, copies: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError> {
        delegate!(self, backend => backend.copy_to_log(copies))
    }

    /// Puts the copy, which goes up to `last`, in the place of the log; `false` when the log has entries after that.
    ///
    /// # Errors
    ///
    /// [`StoreError::Contended`] when it is not a copy of this log.
    pub(crate) async fn end_log_copy(&self, last: u64) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.end_log_copy(last))
    }

    pub(crate) async fn report_applied(&self, pod: &str, position: u64) -> Result<(), StoreError> {
        delegate!(self, backend => backend.report_applied(pod, position))
    }

    pub(crate) async fn applied(&self) -> Result<Vec<Applied>, StoreError> {
        delegate!(self, backend => backend.applied())
    }

    /// `false` when a record of a higher epoch is there.
    pub(crate) async fn put_session(
        &self,
        device: DeviceId,
        session: SessionId,
        epoch: u32,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.put_session(device, session, epoch, blob, ttl))
    }

    pub(crate) async fn read_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<Option<(u32, Vec<u8>)>, StoreError> {
        delegate!(self, backend => backend.read_session(device, session))
    }

    pub(crate) async fn delete_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.delete_session(device, session))
    }

    pub(crate) async fn take_device_epoch(&self, device: DeviceId) -> Result<u64, StoreError> {
        delegate!(self, backend => backend.take_device_epoch(device))
    }

    pub(crate) async fn device_epoch(&self, device: DeviceId) -> Result<Option<u64>, StoreError> {
        delegate!(self, backend => backend.device_epoch(device))
    }

    /// Zero: taken. Otherwise how long until one is there.
    pub(crate) async fn take_token(
        &self,
        subject: &LimitSubject,
        limit: &Limit,
    ) -> Result<Duration, StoreError> {
        delegate!(self, backend => backend.take_token(subject, limit))
    }

    /// The ring of the cluster, and the store's clock in ms.
    pub(crate) async fn read_ring(&self) -> Result<(u64, Option<Stored>), StoreError> {
        delegate!(self, backend => backend.read_ring())
    }

    /// Writes if the stored version is `expected`, 0 for none.
    pub(crate) async fn swap_ring(
        &self,
        expected: u64,
        version: u64,
        blob: Vec<u8>,
    ) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.swap_ring(expected, Stored { version, blob }))
    }

    pub(crate) async fn announce_pod(
        &self,
        pod: PodId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.announce_pod(pod, blob, ttl))
    }

    /// All pods announced within the last hour and not retired, at most [`MAX_PODS`](crate::pod::MAX_PODS).
    pub(crate) async fn pods(&self) -> Result<Vec<PodRow>, StoreError> {
        delegate!(self, backend => backend.pods())
    }

    pub(crate) async fn retire_pod(&self, pod: PodId) -> Result<(), StoreError> {
        delegate!(self, backend => backend.retire_pod(pod))
    }

    pub(crate) async fn claim_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<ClaimRow, StoreError> {
        delegate!(self, backend => backend.claim_device(device, session, blob, ttl))
    }

    /// `false` when the session does not hold the device.
    pub(crate) async fn renew_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.renew_device(device, session, blob, ttl))
    }

    pub(crate) async fn device_holder(&self, device: DeviceId) -> Result<Option<HolderRow>, StoreError> {
        delegate!(self, backend => backend.device_holder(device))
    }

    pub(crate) async fn release_device(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.release_device(device, session))
    }

    /// Keeps a hold that ends later.
    pub(crate) async fn hold_device(
        &self,
        device: DeviceId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.hold_device(device, blob, ttl))
    }

    pub(crate) async fn device_hold(&self, device: DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        delegate!(self, backend => backend.device_hold(device))
    }

    /// Ends it, and forgets displacements. `false` when there was none.
    pub(crate) async fn end_hold(&self, device: DeviceId) -> Result<bool, StoreError> {
        delegate!(self, backend => backend.end_hold(device))
    }

    /// Replaces the hold or the holder of a device, byte for byte `old`, for as long as it would have lasted.
    pub(crate) async fn replace_of_device(
        &self,
        device: DeviceId,
        old: Vec<u8>,
        new: Vec<u8>,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.replace_of_device(device, old, new))
    }

    pub(crate) async fn lease_places(
        &self,
        tenant: &TenantId,
        request: PlacesRequest,
    ) -> Result<u32, StoreError> {
        delegate!(self, backend => backend.lease_places(tenant, request))
    }

    pub(crate) async fn put_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
        blob: Vec<u8>,
    ) -> Result<(), StoreError> {
        delegate!(self, backend => backend.put_chunk(slot, id, index, blob))
    }

    /// `None` when there is none, or one that is too long to be ours.
    pub(crate) async fn read_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        delegate!(self, backend => backend.read_chunk(slot, id, index))
    }

    pub(crate) async fn drop_chunks(&self, slot: u16, id: SnapshotId) -> Result<(), StoreError> {
        delegate!(self, backend => backend.drop_chunks(slot, id))
    }

    /// Writes a head unless one of a later place is there, and gives what was there before; the later one as error. One whose
    /// bytes are `bad` is replaced all the same.
    pub(crate) async fn put_head(
        &self,
        slot: u16,
        head: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        delegate!(self, backend => backend.put_head(slot, head, bad))
    }

    pub(crate) async fn read_head(&self, slot: u16) -> Result<Option<SlotRow>, StoreError> {
        delegate!(self, backend => backend.read_head(slot))
    }

    /// As [`put_head`](Self::put_head).
    pub(crate) async fn put_owner(
        &self,
        slot: u16,
        owner: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        delegate!(self, backend => backend.put_owner(slot, owner, bad))
    }

    pub(crate) async fn owners(&self) -> Result<Vec<(u16, SlotRow)>, StoreError> {
        delegate!(self, backend => backend.owners())
    }

    /// A waiter of its own, so that waiting holds nobody else up.
    pub(crate) fn waiter(&self) -> LogWaiter {
        match self {
            Self::Local(local) => LogWaiter::Local(local.log_head()),
            Self::Redis(redis) => LogWaiter::Redis(Box::new(redis.waiter())),
            #[cfg(feature = "simulated")]
            Self::Simulated(simulated) => LogWaiter::Local(simulated.local.log_head()),
        }
    }
}

/// Waits for the log to grow.
pub(crate) enum LogWaiter {
    Local(tokio::sync::watch::Receiver<u64>),
    Redis(Box<crate::redis::LogTail>),
}

impl LogWaiter {
    /// Returns when an entry after `after` may be there, at the latest after about a second.
    ///
    /// # Cancellation Safety
    ///
    /// Nothing is consumed.
    pub(crate) async fn wait(&mut self, after: u64) -> Result<(), StoreError> {
        match self {
            Self::Local(head) => {
                let grown = head.wait_for(|&number| number > after);
                // Elapsed, grown or store closed: the caller looks again in each case.
                let _ = tokio::time::timeout(Duration::from_secs(1), grown).await;
                Ok(())
            }
            Self::Redis(tail) => tail.wait(after).await,
        }
    }
}
