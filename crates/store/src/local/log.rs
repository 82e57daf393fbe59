//! The revocation log in the local file.

use std::time::Duration;

use redb::{Durability, ReadableTable, ReadableTableMetadata, WriteTransaction};
use sluice_types::DeviceId;

use super::tables::{ACCEPTED, ANNOUNCED, APPLIED, IDENTITY, LOG, LOGGED, META, TRIMMED, logged_key};
use super::{Local, Outcome};
use crate::StoreError;
use crate::backend::{Applied, LOG_ENTRIES, LogPage, PENDING_AFTER, POD_FORGOTTEN_AFTER};
use crate::clock::now_millis;
use crate::record::{Stored, next_version};

/// Announcements handed out at a time.
const PENDING_AT_ONCE: usize = 64;

/// Highest number ever given.
pub(super) fn head(transaction: &WriteTransaction) -> Outcome<u64> {
    head_of(&transaction.open_table(LOG)?, &transaction.open_table(META)?)
}

fn head_of(
    log: &impl ReadableTable<u64, (&'static [u8], &'static [u8])>,
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Outcome<u64> {
    let last = log.last()?.map_or(0, |(number, _)| number.value());
    let trimmed = meta.get(TRIMMED)?.map_or(0, |value| number(value.value()));
    Ok(last.max(trimmed))
}

impl Local {
    pub(crate) fn log_head(&self) -> tokio::sync::watch::Receiver<u64> {
        self.head.subscribe()
    }

    pub(crate) async fn announce(&self, device: DeviceId) -> Result<(), StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            transaction.open_table(ANNOUNCED)?.insert(device.as_bytes().as_slice(), now_millis())?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn settle(&self, device: DeviceId) -> Result<(), StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            transaction.open_table(ANNOUNCED)?.remove(device.as_bytes().as_slice())?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn append(
        &self,
        device: DeviceId,
        version: u64,
        blob: Vec<u8>,
        above: u64,
    ) -> Result<u64, StoreError> {
        let (number, grown) = self
            .write(Durability::Immediate, move |transaction| {
                transaction.open_table(ANNOUNCED)?.remove(device.as_bytes().as_slice())?;
                let request = logged_key(device, version);
                let mut logged = transaction.open_table(LOGGED)?;
                if let Some(number) = logged.get(request.as_slice())? {
                    return Ok((number.value(), false));
                }
                let number = next_version(head(transaction)?.max(above), now_millis());
                let mut log = transaction.open_table(LOG)?;
                log.insert(number, (request.as_slice(), blob.as_slice()))?;
                logged.insert(request.as_slice(), number)?;
                while log.len()? > LOG_ENTRIES
                    && let Some((oldest, entry)) = log.pop_first()?
                {
                    logged.remove(entry.value().0)?;
                    let oldest = oldest.value().to_be_bytes();
                    transaction.open_table(META)?.insert(TRIMMED, oldest.as_slice())?;
                }
                Ok((number, true))
            })
            .await?;
        if grown {
            self.head.send_modify(|head| *head = number.max(*head));
        }
        Ok(number)
    }

    pub(crate) async fn log_after(
        &self,
        after: u64,
        limit: usize,
        known: u64,
    ) -> Result<LogPage, StoreError> {
        self.read(move |transaction| {
            let (log, meta) = (transaction.open_table(LOG)?, transaction.open_table(META)?);
            let mut page = LogPage {
                head: head_of(&log, &meta)?,
                identity: meta.get(IDENTITY)?.map(|value| value.value().to_vec()),
                trimmed: meta.get(TRIMMED)?.map_or(0, |value| number(value.value())),
                accepted: meta.get(ACCEPTED)?.and_then(|value| accepted(value.value())),
                known,
                has_known: log.get(known)?.is_some(),
                ..LogPage::default()
            };
            if let Some(first) = after.checked_add(1) {
                for entry in log.range(first..)?.take(limit) {
                    let (number, value) = entry?;
                    page.entries.push((number.value(), value.value().1.to_vec()));
                }
            }
            let now = now_millis();
            for entry in transaction.open_table(ANNOUNCED)?.iter()? {
                let (device, since) = entry?;
                let overdue = age(now, since.value()) >= PENDING_AFTER;
                if overdue && page.pending.len() < PENDING_AT_ONCE {
                    page.pending.extend(device.value().try_into().ok().map(DeviceId::from_bytes));
                }
            }
            Ok(page)
        })
        .await
    }

    /// Nothing to begin: entries are written anew where they are.
    #[expect(clippy::unused_async, reason = "as the other back end has it")]
    pub(crate) async fn begin_log_copy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    pub(crate) async fn copy_to_log(&self, copies: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut log = transaction.open_table(LOG)?;
            for (number, blob) in &copies {
                let request = log.get(number)?.map(|entry| entry.value().0.to_vec());
                if let Some(request) = request {
                    log.insert(number, (request.as_slice(), blob.as_slice()))?;
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn end_log_copy(&self, last: u64) -> Result<bool, StoreError> {
        self.read(move |transaction| {
            Ok(transaction.open_table(LOG)?.last()?.is_none_or(|(number, _)| number.value() <= last))
        })
        .await
    }

    pub(crate) async fn swap_accepted(&self, expected: u64, new: Stored) -> Result<bool, StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(ACCEPTED)?.and_then(|value| accepted(value.value()));
            if found.map_or(0, |stored| stored.version) != expected {
                return Ok(false);
            }
            let value = [new.version.to_be_bytes().as_slice(), &new.blob].concat();
            meta.insert(ACCEPTED, value.as_slice())?;
            Ok(true)
        })
        .await
    }

    pub(crate) async fn report_applied(&self, pod: &str, position: u64) -> Result<(), StoreError> {
        let pod = pod.to_owned();
        self.write(Durability::None, move |transaction| {
            let now = now_millis();
            let mut applied = transaction.open_table(APPLIED)?;
            applied.retain(|_, (_, seen)| age(now, seen) < POD_FORGOTTEN_AFTER)?;
            let before = applied.get(pod.as_str())?.map_or(0, |value| value.value().0);
            applied.insert(pod.as_str(), (position.max(before), now))?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn applied(&self) -> Result<Vec<Applied>, StoreError> {
        self.read(move |transaction| {
            let now = now_millis();
            let mut all = Vec::new();
            for entry in transaction.open_table(APPLIED)?.iter()? {
                let (pod, value) = entry?;
                let (position, seen) = value.value();
                all.push(Applied { pod: pod.value().to_owned(), position, age: age(now, seen) });
            }
            all.retain(|entry| entry.age < POD_FORGOTTEN_AFTER);
            Ok(all)
        })
        .await
    }
}

fn age(now: u64, since: u64) -> Duration {
    Duration::from_millis(now.saturating_sub(since))
}

fn accepted(value: &[u8]) -> Option<Stored> {
    let (version, blob) = value.split_first_chunk()?;
    Some(Stored { version: u64::from_be_bytes(*version), blob: blob.to_vec() })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_be_bytes).unwrap_or_default()
}
