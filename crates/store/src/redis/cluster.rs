//! What the pods share, on Redis: the ring, the list of pods, hints and snapshots of slots.

use std::time::Duration;

use ::redis::{Script, cmd};
use sluice_types::PodId;

use super::key::SlotPart;
use super::{Redis, millis};
use crate::StoreError;
use crate::backend::POD_FORGOTTEN_AFTER;
use crate::pod::{MAX_POD_BYTES, MAX_PODS, PodRow};
use crate::record::Stored;
use crate::slot::{
    MAX_CHUNK_BYTES, MAX_HEAD_BYTES, MAX_SLOTS, OWNERS_TTL, Place, SNAPSHOT_TTL, SlotRow, SnapshotId,
};

/// Largest stored ring: 16 keys take under 3 KiB.
const MAX_RING_BYTES: usize = 16 << 10;
/// Fields of each owner: generation, offset, bytes.
const OWNER_FIELDS: usize = 3;

pub(super) struct ClusterScripts {
    read_ring: Script,
    announce_pod: Script,
    pods: Script,
    retire_pod: Script,
    put_newer: Script,
    read_slots: Script,
    put_chunk: Script,
    read_chunk: Script,
}

impl ClusterScripts {
    pub(super) fn new() -> Self {
        Self {
            read_ring: Script::new(include_str!("scripts/read_ring.lua")),
            announce_pod: Script::new(include_str!("scripts/announce_pod.lua")),
            pods: Script::new(include_str!("scripts/pods.lua")),
            retire_pod: Script::new(include_str!("scripts/retire_pod.lua")),
            put_newer: Script::new(include_str!("scripts/put_newer.lua")),
            read_slots: Script::new(include_str!("scripts/read_slots.lua")),
            put_chunk: Script::new(include_str!("scripts/put_chunk.lua")),
            read_chunk: Script::new(include_str!("scripts/read_chunk.lua")),
        }
    }
}

/// Name, generation, offset, bytes.
type SlotFields = (String, String, String, Vec<u8>);

impl Redis {
    pub(crate) async fn read_ring(&self) -> Result<(u64, Option<Stored>), StoreError> {
        let mut invocation = self.cluster.read_ring.key(self.keys.ring());
        invocation.arg(MAX_RING_BYTES);
        let (now, version, blob): (u64, Option<u64>, Option<Vec<u8>>) = self.script(&invocation).await?;
        // Half a ring is none that anybody can trust; an empty one is refused as malformed.
        let stored = (version.is_some() || blob.is_some())
            .then(|| Stored { version: version.unwrap_or_default(), blob: blob.unwrap_or_default() });
        Ok((now, stored))
    }

    pub(crate) async fn swap_ring(&self, expected: u64, new: Stored) -> Result<bool, StoreError> {
        self.swap_record(&self.keys.ring(), expected, new).await
    }

    pub(crate) async fn announce_pod(
        &self,
        pod: PodId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut invocation = self.cluster.announce_pod.key(self.keys.pods("records"));
        invocation
            .key(self.keys.pods("until"))
            .arg(pod.to_string())
            .arg(blob)
            .arg(millis(ttl))
            .arg(millis(POD_FORGOTTEN_AFTER))
            .arg(MAX_PODS);
        let _: i64 = self.script(&invocation).await?;
        Ok(())
    }

    pub(crate) async fn pods(&self) -> Result<Vec<PodRow>, StoreError> {
        let mut invocation = self.cluster.pods.key(self.keys.pods("records"));
        invocation
            .key(self.keys.pods("until"))
            .arg(millis(POD_FORGOTTEN_AFTER))
            .arg(MAX_PODS)
            .arg(MAX_POD_BYTES);
        let rows: Vec<(Vec<u8>, Vec<u8>, bool)> = self.script(&invocation).await?;
        let row = |(pod, blob, live): (Vec<u8>, _, _)| PodRow {
            pod: String::from_utf8_lossy(&pod).into_owned(),
            blob,
            live,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    pub(crate) async fn retire_pod(&self, pod: PodId) -> Result<(), StoreError> {
        let mut invocation = self.cluster.retire_pod.key(self.keys.pods("records"));
        let _: i64 = self.script(invocation.key(self.keys.pods("until")).arg(pod.to_string())).await?;
        Ok(())
    }

    pub(crate) async fn put_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
        blob: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut invocation = self.cluster.put_chunk.key(self.keys.slot(slot, SlotPart::Chunks(id)));
        let _: i64 = self.script(invocation.arg(index).arg(blob).arg(millis(SNAPSHOT_TTL))).await?;
        Ok(())
    }

    pub(crate) async fn read_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut invocation = self.cluster.read_chunk.key(self.keys.slot(slot, SlotPart::Chunks(id)));
        self.script(invocation.arg(index).arg(MAX_CHUNK_BYTES)).await
    }

    pub(crate) async fn drop_chunks(&self, slot: u16, id: SnapshotId) -> Result<(), StoreError> {
        let key = self.keys.slot(slot, SlotPart::Chunks(id));
        let _: i64 = self.command(cmd("UNLINK").arg(key)).await?;
        Ok(())
    }

    pub(crate) async fn put_head(
        &self,
        slot: u16,
        head: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        let mut invocation = self.cluster.put_newer.key(self.keys.slot(slot, SlotPart::Snapshot));
        put_newer(invocation.arg(""), &head, bad, SNAPSHOT_TTL);
        self.script(&invocation).await.map(outcome)
    }

    pub(crate) async fn read_head(&self, slot: u16) -> Result<Option<SlotRow>, StoreError> {
        let mut invocation = self.cluster.read_slots.key(self.keys.slot(slot, SlotPart::Snapshot));
        let rows: Vec<SlotFields> = self.script(invocation.arg(MAX_HEAD_BYTES).arg(OWNER_FIELDS)).await?;
        Ok(rows.into_iter().next().map(|(_, generation, offset, blob)| row(&generation, &offset, blob)))
    }

    pub(crate) async fn put_owner(
        &self,
        slot: u16,
        owner: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        let mut invocation = self.cluster.put_newer.key(self.keys.owners());
        put_newer(invocation.arg(slot), &owner, bad, OWNERS_TTL);
        self.script(&invocation).await.map(outcome)
    }

    pub(crate) async fn owners(&self) -> Result<Vec<(u16, SlotRow)>, StoreError> {
        let mut invocation = self.cluster.read_slots.key(self.keys.owners());
        invocation.arg(MAX_HEAD_BYTES).arg(OWNER_FIELDS * usize::from(MAX_SLOTS));
        let rows: Vec<SlotFields> = self.script(&invocation).await?;
        let owner = |(slot, generation, offset, blob): SlotFields| {
            Some((slot.parse().ok()?, row(&generation, &offset, blob)))
        };
        Ok(rows.into_iter().filter_map(owner).collect())
    }
}

fn put_newer(invocation: &mut ::redis::ScriptInvocation<'_>, new: &SlotRow, bad: &[u8], ttl: Duration) {
    invocation
        .arg(new.place.generation)
        .arg(new.place.offset)
        .arg(new.blob.as_slice())
        .arg(millis(ttl))
        .arg(bad)
        .arg(MAX_HEAD_BYTES);
}

fn outcome(
    (written, generation, offset, blob): (bool, Option<String>, Option<String>, Option<Vec<u8>>),
) -> Result<Option<SlotRow>, SlotRow> {
    let before = blob.map(|blob| row(&generation.unwrap_or_default(), &offset.unwrap_or_default(), blob));
    match before {
        Some(later) if !written => Err(later),
        before => Ok(before),
    }
}

/// A place that is none of ours becomes one under which nothing opens.
fn row(generation: &str, offset: &str, blob: Vec<u8>) -> SlotRow {
    let place =
        Place { generation: generation.parse().unwrap_or(u32::MAX), offset: offset.parse().unwrap_or(-1) };
    SlotRow { place, blob }
}
