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

/// Up to where entries may be missing from the log of this store, and whose ledgers it goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acceptance {
    pub(crate) store: Identity,
    pub(crate) up_to: LogPosition,
    /// The one accepted last comes last; at most [`PLACES`].
    pub(crate) in_place_of: Vec<[u8; 16]>,
}

/// Stores in whose place one stands; when there are more, those that were accepted first are forgotten.
const PLACES: usize = 32;

impl Acceptance {
    pub(crate) const fn none(store: Identity) -> Self {
        Self { store, up_to: LogPosition::START, in_place_of: Vec::new() }
    }

    pub(crate) fn encode(&self, ring: &KekRing) -> Vec<u8> {
        let message = proto::LogAcceptance {
            revision: REVISION,
            store: self.store.0.to_vec(),
            up_to: self.up_to.0,
            in_place_of: self.in_place_of.concat(),
        };
        seal::authenticate(ring, ACCEPTANCE, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, blob: &[u8]) -> Result<Self, RecordError> {
        let body = seal::verify(ring, ACCEPTANCE, blob)?;
        let message = proto::LogAcceptance::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        let store = message.store.as_slice().try_into().map_err(|_| RecordError::Malformed)?;
        let (in_place_of, []) = message.in_place_of.as_chunks::<16>() else {
            return Err(RecordError::Malformed);
        };
        if in_place_of.len() > PLACES {
            return Err(RecordError::Malformed);
        }
        let in_place_of = in_place_of.to_vec();
        Ok(Self { store: Identity(store), up_to: LogPosition(message.up_to), in_place_of })
    }

    /// This one, and up to there and these stores besides.
    fn and(mut self, up_to: LogPosition, in_place_of: &[[u8; 16]]) -> Self {
        self.up_to = self.up_to.max(up_to);
        for other in in_place_of {
            if *other != self.store.0 && !self.in_place_of.contains(other) {
                self.in_place_of.push(*other);
            }
        }
        let over = self.in_place_of.len().saturating_sub(PLACES);
        self.in_place_of.drain(..over);
        self
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

    /// Which life of the store this process works with: another one after the store was emptied.
    #[must_use]
    pub const fn life(&self) -> [u8; 16] {
        self.identity.0
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

    /// Whether a pod of this store may go on with ledgers whose last owner worked with that store: it is this one, or an operator has
    /// accepted that this one stands in its place ([`Store::accept_in_place_of`]). Otherwise that store may be another deployment's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] as [`Store::check`]; [`StoreError`].
    pub async fn stands_in_place_of(&self, other: [u8; 16]) -> Result<bool, StoreError> {
        if other == self.identity.0 {
            return Ok(true);
        }
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        Ok(self.acceptance(&page).in_place_of.contains(&other))
    }

    /// Accepts a store whose revocation log lacks entries up to `up_to`; by default whatever may be missing until now. Pods give keys out
    /// again within a second. Devices that were revoked by such entries alone can connect again: revoke them anew first.
    ///
    /// # Errors
    ///
    /// As [`Store::accept_in_place_of`].
    pub async fn accept_log(&self, up_to: Option<LogPosition>) -> Result<LogPosition, StoreError> {
        self.accept_in_place_of(up_to, &[]).await
    }

    /// As [`Store::accept_log`], and accepts besides that this store stands in the place of these, so that its pods go on with their
    /// ledgers. Those that were accepted before stay so, the last 32 of all.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] as [`Store::check`]; [`StoreError::Contended`] when somebody else does the same at this moment;
    /// [`StoreError`].
    pub async fn accept_in_place_of(
        &self,
        up_to: Option<LogPosition>,
        others: &[[u8; 16]],
    ) -> Result<LogPosition, StoreError> {
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        let up_to = match up_to {
            Some(up_to) => up_to,
            // Numbers are times by the store's clock, or above the last one.
            None => LogPosition(self.backend.read_ring().await?.0.max(page.head)),
        };
        self.write_acceptance(&page, up_to, others).await
    }

    /// Writes it unless as much is accepted already.
    pub(crate) async fn write_acceptance(
        &self,
        page: &LogPage,
        up_to: LogPosition,
        others: &[[u8; 16]],
    ) -> Result<LogPosition, StoreError> {
        let known = self.acceptance(page);
        let new = known.clone().and(up_to, others);
        if new != known {
            self.swap_acceptance(page, &new).await?;
        }
        Ok(new.up_to)
    }

    /// Writes an acceptance anew under the current key-encryption key.
    pub(crate) async fn reseal_acceptance(&self, page: &LogPage) -> Result<(), StoreError> {
        let known = self.acceptance(page);
        if known == Acceptance::none(self.identity) {
            Ok(())
        } else {
            self.swap_acceptance(page, &known).await
        }
    }

    async fn swap_acceptance(&self, page: &LogPage, new: &Acceptance) -> Result<(), StoreError> {
        let before = page.accepted.as_ref().map_or(0, |stored| stored.version);
        let stored = Stored { version: before.saturating_add(1), blob: new.encode(&self.kek) };
        if self.backend.swap_accepted(before, stored).await? { Ok(()) } else { Err(StoreError::Contended) }
    }

    /// Up to where entries may be missing.
    pub(crate) fn accepted(&self, page: &LogPage) -> LogPosition {
        self.acceptance(page).up_to
    }

    /// What an operator has accepted.
    fn acceptance(&self, page: &LogPage) -> Acceptance {
        let none = Acceptance::none(self.identity);
        let Some(stored) = &page.accepted else { return none };
        match Acceptance::decode(&self.kek, &stored.blob) {
            Ok(acceptance) if acceptance.store == self.identity => acceptance,
            Ok(_) => {
                self.distrust("the acceptance of the revocation log", &RecordError::Swapped);
                none
            }
            Err(error) => {
                self.distrust("the acceptance of the revocation log", &error);
                none
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
