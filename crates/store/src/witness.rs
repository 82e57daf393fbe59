//! What is known outside the store of how far its revocation log had got, and what an operator has accepted all the same.
//!
//! A process that runs remembers the log ([`LogMemory`](crate::log_memory::LogMemory)). One that starts when no other runs remembers
//! nothing, and would take a store that was set back for a whole one; so pods leave word outside of it, and hear it at their start.

use prost::Message;
use sluice_proto::store::v1 as proto;

use crate::backend::LogPage;
use crate::kek::KekRing;
use crate::record::{Identity, Stored};
use crate::seal::{self, check_revision};
use crate::store::Store;
use crate::{LogPosition, RecordError, StoreError};

/// Schema revision of the message.
const REVISION: u32 = 1;
const ACCEPTANCE: &str = "sluice/log-acceptance";

/// That a life of the store had got as far as this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreWitness {
    /// The last entry of the revocation log that is known.
    pub position: LogPosition,
    /// Which life of the store: another one after it was emptied.
    pub store: [u8; 16],
}

/// Up to where entries may be missing from the log of this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acceptance {
    pub(crate) store: Identity,
    pub(crate) up_to: LogPosition,
}

impl Acceptance {
    pub(crate) fn encode(self, ring: &KekRing) -> Vec<u8> {
        let message =
            proto::LogAcceptance { revision: REVISION, store: self.store.0.to_vec(), up_to: self.up_to.0 };
        seal::authenticate(ring, ACCEPTANCE, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, blob: &[u8]) -> Result<Self, RecordError> {
        let body = seal::verify(ring, ACCEPTANCE, blob)?;
        let message = proto::LogAcceptance::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        let store = message.store.as_slice().try_into().map_err(|_| RecordError::Malformed)?;
        Ok(Self { store: Identity(store), up_to: LogPosition(message.up_to) })
    }
}

impl Store {
    /// What this process knows of the revocation log, to be kept outside the store. While something that was heard is missing from the
    /// log, it is that: whoever starts next must hear of it, too.
    #[must_use]
    pub fn witness(&self) -> StoreWitness {
        let highest = StoreWitness { position: LogPosition(self.log.highest()), store: self.identity.0 };
        self.log.doubts().pop().unwrap_or(highest)
    }

    /// Hears how far the revocation log had got, from outside the store. A log that does not have that entry, or a store of another life,
    /// is one that was rolled back or replaced: no keys are given out until the entry is there, or an operator accepts the store as it is
    /// ([`Store::accept_log`]).
    ///
    /// # Errors
    ///
    /// [`StoreError::RolledBack`] in that case. [`StoreError`] when the store does not answer; it is not trusted until it does.
    pub async fn hear_witness(&self, witness: StoreWitness) -> Result<(), StoreError> {
        let is_ours = witness.store == self.identity.0;
        // Nothing was ever revoked in that life, or this process has read the very entry.
        if witness.position == LogPosition::START || (is_ours && self.log.has_read(witness.position.0)) {
            return Ok(());
        }
        self.log.doubt(witness);
        self.check().await
    }

    /// Accepts a store whose revocation log lacks entries up to `up_to`; by default whatever may be missing until now. Pods give keys out
    /// again within a second. Devices that were revoked by such entries alone can connect again: revoke them anew first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] as [`Store::check`]; [`StoreError::Contended`] when somebody else does the same at this moment;
    /// [`StoreError`].
    pub async fn accept_log(&self, up_to: Option<LogPosition>) -> Result<LogPosition, StoreError> {
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        let up_to = match up_to {
            Some(up_to) => up_to,
            // Numbers are times by the store's clock, or above the last one.
            None => LogPosition(self.backend.read_ring().await?.0.max(page.head)),
        };
        self.write_acceptance(&page, up_to).await
    }

    /// Writes it unless a higher one is there.
    pub(crate) async fn write_acceptance(
        &self,
        page: &LogPage,
        up_to: LogPosition,
    ) -> Result<LogPosition, StoreError> {
        let known = self.accepted(page);
        if known >= up_to {
            return Ok(known);
        }
        let before = page.accepted.as_ref().map_or(0, |stored| stored.version);
        let blob = Acceptance { store: self.identity, up_to }.encode(&self.kek);
        let new = Stored { version: before.saturating_add(1), blob };
        if self.backend.swap_accepted(before, new).await? { Ok(up_to) } else { Err(StoreError::Contended) }
    }

    /// Writes an acceptance anew under the current key-encryption key.
    pub(crate) async fn reseal_acceptance(&self, page: &LogPage) -> Result<(), StoreError> {
        let (Some(stored), accepted) = (&page.accepted, self.accepted(page)) else { return Ok(()) };
        if accepted == LogPosition::START {
            return Ok(());
        }
        let blob = Acceptance { store: self.identity, up_to: accepted }.encode(&self.kek);
        let new = Stored { version: stored.version.saturating_add(1), blob };
        if self.backend.swap_accepted(stored.version, new).await? {
            Ok(())
        } else {
            Err(StoreError::Contended)
        }
    }

    /// Up to where entries may be missing.
    pub(crate) fn accepted(&self, page: &LogPage) -> LogPosition {
        let Some(stored) = &page.accepted else { return LogPosition::START };
        match Acceptance::decode(&self.kek, &stored.blob) {
            Ok(acceptance) if acceptance.store == self.identity => acceptance.up_to,
            Ok(_) => {
                self.distrust("the acceptance of the revocation log", &RecordError::Swapped);
                LogPosition::START
            }
            Err(error) => {
                self.distrust("the acceptance of the revocation log", &error);
                LogPosition::START
            }
        }
    }

    /// Looks whether what is missing was accepted, or is there after all.
    pub(crate) async fn settle_doubts(
        &self,
        page: &LogPage,
        accepted: LogPosition,
    ) -> Result<(), StoreError> {
        for doubt in self.log.doubts() {
            let is_ours = doubt.store == self.identity.0;
            if doubt.position <= accepted || (is_ours && self.log_has(page, doubt.position.0).await?) {
                self.log.settle_doubt(doubt);
            } else if self.log.tell_doubt(doubt) {
                self.count_distrusted();
                tracing::error!(
                    missing = doubt.position.0,
                    another_life = !is_ours,
                    "the store was rolled back or replaced: a pod knew of a revocation that it does not have; no keys are given out until a pod that still knows it puts it back, or you restore a newer copy, or revoke anew what must not connect and run `sluice store accept`"
                );
            }
        }
        if self.log.doubts().is_empty() { Ok(()) } else { Err(StoreError::RolledBack) }
    }
}
