//! Hints and snapshots of slots. The ledger says how things are; what lies here only makes reading it shorter.

use std::time::Duration;

use prost::Message;
use sluice_proto::store::v1 as proto;
use sluice_types::PodId;
use zeroize::Zeroizing;

use crate::cluster::{ClusterSecrets, Purpose};
use crate::kek::KekRing;
use crate::seal::{self, Name, check_revision};
use crate::store::Store;
use crate::{RecordError, StoreError};

/// Slots there can be.
pub const MAX_SLOTS: u16 = 1024;
/// Largest snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 32 << 20;
/// Bytes of a snapshot in one stored value, which stays below 512 KiB with what sealing adds.
const CHUNK: usize = 480 << 10;
/// Longest stored chunk, head and owner; a longer value is not ours and is not read.
pub(crate) const MAX_CHUNK_BYTES: usize = 512 << 10;
pub(crate) const MAX_HEAD_BYTES: usize = 512;
/// As long as the ledger keeps what a snapshot stands for.
pub(crate) const SNAPSHOT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Owners put their hints anew well within this time.
pub(crate) const OWNERS_TTL: Duration = Duration::from_secs(24 * 3600);
/// Reads of a snapshot that others replace meanwhile.
const READS: u32 = 4;
/// Schema revision of the messages.
const REVISION: u32 = 1;
const SNAPSHOT: &str = "sluice/slot-snapshot";
const SNAPSHOT_CHUNK: &str = "sluice/slot-snapshot-chunk";
const OWNER: &str = "sluice/slot-owner";

/// The state of a slot up to a place in its ledger.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSnapshot {
    /// The slot's generation then.
    pub generation: u32,
    /// The first offset of the ledger's partition that is not in it.
    pub offset: i64,
    /// The state, in the writer's encoding.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for SlotSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotSnapshot")
            .field("generation", &self.generation)
            .field("offset", &self.offset)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Who owns a slot, as far as anybody said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotOwner {
    /// The slot.
    pub slot: u16,
    /// Its owner.
    pub pod: PodId,
    /// The slot's generation, which grows with every owner.
    pub generation: u32,
}

/// Orders what is stored for a slot: nothing older takes the place of something newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) generation: u32,
    pub(crate) offset: i64,
}

/// A head or an owner as the back end knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub(crate) place: Place,
    /// Empty when it was too long to be ours.
    pub(crate) blob: Vec<u8>,
}

/// Names one write of a snapshot, so that the chunks of two never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotId(pub(crate) [u8; 16]);

/// What is in the sealed head.
struct Head {
    id: SnapshotId,
    length: usize,
    chunks: u32,
}

fn head_name<R>(slot: u16, place: Place, with: impl FnOnce(Name<'_>) -> R) -> R {
    let (slot, generation, offset) =
        (slot.to_be_bytes(), place.generation.to_be_bytes(), place.offset.to_be_bytes());
    with(Name { purpose: SNAPSHOT, parts: &[&slot, &generation, &offset] })
}

fn chunk_name<R>(slot: u16, id: SnapshotId, index: u32, with: impl FnOnce(Name<'_>) -> R) -> R {
    let (slot, index) = (slot.to_be_bytes(), index.to_be_bytes());
    with(Name { purpose: SNAPSHOT_CHUNK, parts: &[&slot, &id.0, &index] })
}

impl Head {
    fn seal(&self, secrets: &ClusterSecrets, slot: u16, place: Place) -> std::io::Result<Vec<u8>> {
        let message = proto::SlotSnapshot {
            revision: REVISION,
            id: self.id.0.to_vec(),
            length: self.length as u64,
            chunks: self.chunks,
        };
        let keys = secrets.keys_for(Purpose::Snapshot);
        let plain = message.encode_to_vec();
        Ok(head_name(slot, place, |name| seal::seal(&keys, name, &plain))?.encode_to_vec())
    }

    fn open(secrets: &ClusterSecrets, slot: u16, row: &SlotRow) -> Result<Self, RecordError> {
        let plain = head_name(slot, row.place, |name| open(secrets, name, &row.blob))?;
        let message = proto::SlotSnapshot::decode(plain.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        let length = usize::try_from(message.length).unwrap_or(usize::MAX);
        let id = message.id.as_slice().try_into().map(SnapshotId);
        if length > MAX_SNAPSHOT_BYTES || message.chunks as usize != length.div_ceil(CHUNK) {
            return Err(RecordError::Malformed);
        }
        Ok(Self { id: id.map_err(|_| RecordError::Malformed)?, length, chunks: message.chunks })
    }
}

fn open(secrets: &ClusterSecrets, name: Name<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    let sealed = proto::Sealed::decode(blob).map_err(|_| RecordError::Malformed)?;
    seal::open(&secrets.keys_for(Purpose::Snapshot), name, &sealed)
}

/// The id in a good head.
#[cfg(test)]
pub(crate) fn snapshot_id(
    secrets: &ClusterSecrets,
    slot: u16,
    row: &SlotRow,
) -> Result<SnapshotId, RecordError> {
    Head::open(secrets, slot, row).map(|head| head.id)
}

impl SlotOwner {
    pub(crate) fn encode(&self, ring: &KekRing) -> Vec<u8> {
        let message = proto::SlotOwner {
            revision: REVISION,
            slot: self.slot.into(),
            pod: self.pod.as_bytes().to_vec(),
            generation: self.generation,
        };
        seal::authenticate(ring, OWNER, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, slot: u16, row: &SlotRow) -> Result<Self, RecordError> {
        let body = seal::verify(ring, OWNER, &row.blob)?;
        let message = proto::SlotOwner::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        if message.slot != u32::from(slot) {
            return Err(RecordError::Swapped);
        }
        if message.generation != row.place.generation {
            return Err(RecordError::RolledBack {
                found: message.generation.into(),
                expected: row.place.generation.into(),
            });
        }
        let pod = message.pod.as_slice().try_into().map(PodId::from_bytes);
        Ok(Self { slot, pod: pod.map_err(|_| RecordError::Malformed)?, generation: message.generation })
    }
}

impl Store {
    /// Writes a snapshot of a slot, in place of an older one; `false` when one of a later generation, or of a later offset in
    /// the same, is there. It lives for 24 hours, and no longer than the cluster key it is sealed under.
    ///
    /// Safe to repeat.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] for more than 32 MiB, a slot above 1023 or an offset below 0; [`StoreError`].
    pub async fn put_slot_snapshot(
        &self,
        slot: u16,
        generation: u32,
        offset: i64,
        bytes: &[u8],
    ) -> Result<bool, StoreError> {
        if slot >= MAX_SLOTS || offset < 0 || bytes.len() > MAX_SNAPSHOT_BYTES {
            return Err(snapshot_error(slot, RecordError::Malformed));
        }
        let place = Place { generation, offset };
        let secrets = self.known_secrets().await?;
        let mut id = SnapshotId([0; 16]);
        getrandom::fill(&mut id.0).map_err(|error| StoreError::Randomness(error.into()))?;
        let mut chunks = 0;
        for chunk in bytes.chunks(CHUNK) {
            let keys = secrets.keys_for(Purpose::Snapshot);
            let sealed = chunk_name(slot, id, chunks, |name| seal::seal(&keys, name, chunk));
            let blob = sealed.map_err(StoreError::Randomness)?.encode_to_vec();
            self.backend.put_chunk(slot, id, chunks, blob).await?;
            chunks += 1;
        }
        let head = Head { id, length: bytes.len(), chunks }.seal(&secrets, slot, place);
        let head = SlotRow { place, blob: head.map_err(StoreError::Randomness)? };
        let replaced = self.swap_head(slot, head, &secrets).await;
        match replaced {
            Ok(Some(old)) => {
                if let Some(old) = old.and_then(|row| Head::open(&secrets, slot, &row).ok()) {
                    self.drop_chunks(slot, old.id).await;
                }
                Ok(true)
            }
            Ok(None) => {
                self.drop_chunks(slot, id).await;
                Ok(false)
            }
            // Written or not: the chunks stay, and go by themselves in 24 hours.
            Err(error) => Err(error),
        }
    }

    /// `None`: a newer one is there. Otherwise what was there before.
    async fn swap_head(
        &self,
        slot: u16,
        head: SlotRow,
        secrets: &ClusterSecrets,
    ) -> Result<Option<Option<SlotRow>>, StoreError> {
        match self.backend.put_head(slot, head.clone(), &[]).await? {
            Ok(old) => Ok(Some(old)),
            Err(newer) => match Head::open(secrets, slot, &newer) {
                Ok(_) => Ok(None),
                // Nobody could ever use it: it must not keep good ones out.
                Err(error) => {
                    self.distrust("the snapshot of a slot", &error);
                    Ok(self.backend.put_head(slot, head, &newer.blob).await?.ok())
                }
            },
        }
    }

    /// The pieces go by themselves in 24 hours; until then they only take room.
    async fn drop_chunks(&self, slot: u16, id: SnapshotId) {
        if let Err(error) = self.backend.drop_chunks(slot, id).await {
            tracing::debug!(slot, %error, "left an old snapshot to expire");
        }
    }

    /// Reads the snapshot of a slot; `None` when there is none.
    ///
    /// An old one put back in the place of a newer one is not noticed, and does no harm: the ledger is read from its offset
    /// on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] for one that was changed, cut or moved, or whose key was destroyed;
    /// [`StoreError::Contended`] when others kept replacing it; [`StoreError`]. Read the ledger from its start then.
    pub async fn slot_snapshot(&self, slot: u16) -> Result<Option<SlotSnapshot>, StoreError> {
        let mut secrets = self.known_secrets().await?;
        for read in 0..READS {
            let Some(row) = self.backend.read_head(slot).await? else { return Ok(None) };
            let head = match Head::open(&secrets, slot, &row) {
                // By a pod that knows a newer key.
                Err(RecordError::KeyDestroyed { .. }) if read == 0 => {
                    secrets = self.cluster_secrets().await?;
                    continue;
                }
                head => head.map_err(|error| snapshot_error(slot, error))?,
            };
            if let Some(bytes) = self.read_chunks(slot, &head, &secrets).await? {
                let Place { generation, offset } = row.place;
                return Ok(Some(SlotSnapshot { generation, offset, bytes }));
            }
        }
        Err(StoreError::Contended)
    }

    /// `None` when a chunk is gone: somebody wrote another snapshot meanwhile.
    async fn read_chunks(
        &self,
        slot: u16,
        head: &Head,
        secrets: &ClusterSecrets,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut bytes = Vec::new();
        for index in 0..head.chunks {
            let Some(blob) = self.backend.read_chunk(slot, head.id, index).await? else { return Ok(None) };
            let chunk = chunk_name(slot, head.id, index, |name| open(secrets, name, &blob));
            bytes.extend_from_slice(&chunk.map_err(|error| snapshot_error(slot, error))?);
        }
        if bytes.len() != head.length {
            return Err(snapshot_error(slot, RecordError::Malformed));
        }
        Ok(Some(bytes))
    }

    /// Says who owns a slot, unless a later generation said so already. Put it anew at least every few hours.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] for a slot above 1023; [`StoreError`].
    pub async fn put_slot_owner(&self, slot: u16, pod: PodId, generation: u32) -> Result<(), StoreError> {
        if slot >= MAX_SLOTS {
            let record = format!("the owner of slot {slot}");
            return Err(StoreError::Record { record, source: RecordError::Malformed });
        }
        let blob = SlotOwner { slot, pod, generation }.encode(&self.kek);
        let row = SlotRow { place: Place { generation, offset: 0 }, blob };
        if let Err(newer) = self.backend.put_owner(slot, row.clone(), &[]).await?
            && let Err(error) = SlotOwner::decode(&self.kek, slot, &newer)
        {
            self.distrust("the owner of a slot", &error);
            // Whoever came first meanwhile may be the newer one: it is a hint.
            let _ = self.backend.put_owner(slot, row, &newer.blob).await?;
        }
        Ok(())
    }

    /// Who owns which slot, as far as anybody said, in no order: a hint, true or not. What cannot be trusted is left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn slot_owners(&self) -> Result<Vec<SlotOwner>, StoreError> {
        let rows = self.backend.owners().await?;
        let owner = |(slot, row): &(u16, SlotRow)| {
            let owner = SlotOwner::decode(&self.kek, *slot, row);
            owner.inspect_err(|error| self.distrust("the owner of a slot", error)).ok()
        };
        Ok(rows.iter().filter_map(owner).collect())
    }
}

fn snapshot_error(slot: u16, source: RecordError) -> StoreError {
    StoreError::Record { record: format!("the snapshot of slot {slot}"), source }
}
