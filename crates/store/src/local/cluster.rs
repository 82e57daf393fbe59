//! What pods share, in the local store: it serves one process, and keeps the same promises.

use std::time::Duration;

use redb::{Durability, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use sluice_types::PodId;

use super::holders::{end, millis};
use super::tables::{CHUNKS, HEADS, OWNERS, PODS, RING};
use super::{Local, Outcome, stored};
use crate::StoreError;
use crate::backend::POD_FORGOTTEN_AFTER;
use crate::clock::now_millis;
use crate::pod::{MAX_PODS, PodRow};
use crate::record::Stored;
use crate::slot::{OWNERS_TTL, Place, SNAPSHOT_TTL, SlotRow, SnapshotId};

/// The one ring there is.
const ONLY: &str = "ring";

type Slots = TableDefinition<'static, u16, (u32, i64, u64, &'static [u8])>;

impl Local {
    pub(crate) async fn read_ring(&self) -> Result<(u64, Option<Stored>), StoreError> {
        self.read(|transaction| {
            let ring = transaction.open_table(RING)?;
            Ok((now_millis(), ring.get(ONLY)?.map(|found| stored(found.value()))))
        })
        .await
    }

    pub(crate) async fn swap_ring(&self, expected: u64, new: Stored) -> Result<bool, StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut ring = transaction.open_table(RING)?;
            if ring.get(ONLY)?.map_or(0, |found| found.value().0) != expected {
                return Ok(false);
            }
            ring.insert(ONLY, (new.version, new.blob.as_slice()))?;
            Ok(true)
        })
        .await
    }

    pub(crate) async fn announce_pod(
        &self,
        pod: PodId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut pods = transaction.open_table(PODS)?;
            let oldest = now_millis().saturating_sub(millis(POD_FORGOTTEN_AFTER));
            pods.retain(|_, (until, _)| until > oldest)?;
            pods.insert(pod.as_bytes().as_slice(), (end(ttl), blob.as_slice()))?;
            while pods.len()? > MAX_PODS as u64 {
                let mut silent: Option<(u64, Vec<u8>)> = None;
                for entry in pods.iter()? {
                    let (pod, value) = entry?;
                    let until = value.value().0;
                    if silent.as_ref().is_none_or(|(first, _)| until < *first) {
                        silent = Some((until, pod.value().to_vec()));
                    }
                }
                let Some((_, pod)) = silent else { break };
                pods.remove(pod.as_slice())?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn pods(&self) -> Result<Vec<PodRow>, StoreError> {
        self.read(|transaction| {
            let now = now_millis();
            let mut rows = Vec::new();
            for entry in transaction.open_table(PODS)?.iter()?.take(MAX_PODS) {
                let (pod, value) = entry?;
                let (until, blob) = value.value();
                if until.saturating_add(millis(POD_FORGOTTEN_AFTER)) > now {
                    let pod = hex::encode(pod.value());
                    rows.push(PodRow { pod, blob: blob.to_vec(), live: until > now });
                }
            }
            Ok(rows)
        })
        .await
    }

    pub(crate) async fn retire_pod(&self, pod: PodId) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            transaction.open_table(PODS)?.remove(pod.as_bytes().as_slice())?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn put_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
        blob: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut chunks = transaction.open_table(CHUNKS)?;
            // Once for each snapshot: pieces that a writer who died left behind.
            if index == 0 {
                let now = now_millis();
                chunks
                    .retain_in((slot, [].as_slice(), 0)..(slot + 1, [].as_slice(), 0), |_, (until, _)| {
                        until > now
                    })?;
            }
            chunks.insert((slot, id.0.as_slice(), index), (end(SNAPSHOT_TTL), blob.as_slice()))?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn read_chunk(
        &self,
        slot: u16,
        id: SnapshotId,
        index: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |transaction| {
            let chunks = transaction.open_table(CHUNKS)?;
            let found = chunks.get((slot, id.0.as_slice(), index))?;
            Ok(found.and_then(|found| {
                let (until, blob) = found.value();
                (until > now_millis()).then(|| blob.to_vec())
            }))
        })
        .await
    }

    pub(crate) async fn drop_chunks(&self, slot: u16, id: SnapshotId) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut chunks = transaction.open_table(CHUNKS)?;
            let all = (slot, id.0.as_slice(), 0)..=(slot, id.0.as_slice(), u32::MAX);
            chunks.retain_in(all, |_, _| false)?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn put_head(
        &self,
        slot: u16,
        head: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        self.put_newer(HEADS, slot, head, bad, SNAPSHOT_TTL).await
    }

    pub(crate) async fn read_head(&self, slot: u16) -> Result<Option<SlotRow>, StoreError> {
        self.read(move |transaction| row(&transaction.open_table(HEADS)?, slot)).await
    }

    pub(crate) async fn put_owner(
        &self,
        slot: u16,
        owner: SlotRow,
        bad: &[u8],
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        self.put_newer(OWNERS, slot, owner, bad, OWNERS_TTL).await
    }

    pub(crate) async fn owners(&self) -> Result<Vec<(u16, SlotRow)>, StoreError> {
        self.read(|transaction| {
            let owners = transaction.open_table(OWNERS)?;
            let mut rows = Vec::new();
            for entry in owners.iter()? {
                let slot = entry?.0.value();
                rows.extend(row(&owners, slot)?.map(|row| (slot, row)));
            }
            Ok(rows)
        })
        .await
    }

    async fn put_newer(
        &self,
        table: Slots,
        slot: u16,
        new: SlotRow,
        bad: &[u8],
        ttl: Duration,
    ) -> Result<Result<Option<SlotRow>, SlotRow>, StoreError> {
        let bad = bad.to_vec();
        self.write(Durability::None, move |transaction: &WriteTransaction| {
            let mut slots: Table<'_, _, _> = transaction.open_table(table)?;
            let before = row(&slots, slot)?;
            if let Some(later) = &before
                && later.place > new.place
                && (bad.is_empty() || later.blob != bad)
            {
                return Ok(Err(later.clone()));
            }
            let Place { generation, offset } = new.place;
            slots.insert(slot, (generation, offset, end(ttl), new.blob.as_slice()))?;
            Ok(Ok(before))
        })
        .await
    }
}

/// What is there for a slot, if its time is not over.
fn row(
    slots: &impl ReadableTable<u16, (u32, i64, u64, &'static [u8])>,
    slot: u16,
) -> Outcome<Option<SlotRow>> {
    let found = slots.get(slot)?;
    Ok(found.and_then(|found| {
        let (generation, offset, until, blob) = found.value();
        let place = Place { generation, offset };
        (until > now_millis()).then(|| SlotRow { place, blob: blob.to_vec() })
    }))
}
