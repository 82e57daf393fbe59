//! Session records, device epochs and limits of the local store.

use std::time::Duration;

use redb::{Durability, ReadableTable};
use sluice_types::{DeviceId, SessionId};

use super::Local;
use super::tables::{EPOCHS, SESSION_ENDS, SESSIONS, session_key};
use crate::StoreError;
use crate::clock::now_millis;
use crate::limit::{Limit, LimitSubject};

/// Expired records cleared away with each write, so that they never pile up: more than one write adds.
const CLEARED_PER_WRITE: usize = 8;

impl Local {
    pub(crate) async fn put_session(
        &self,
        device: DeviceId,
        session: SessionId,
        epoch: u32,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.write(Durability::None, move |transaction| {
            let now = now_millis();
            let key = session_key(device, session);
            let mut sessions = transaction.open_table(SESSIONS)?;
            let mut ends = transaction.open_table(SESSION_ENDS)?;
            for _ in 0..CLEARED_PER_WRITE {
                let oldest = ends.first()?.map(|(entry, _)| (entry.value().0, entry.value().1.to_vec()));
                let Some((end, expired)) = oldest.filter(|(end, _)| *end <= now) else { break };
                ends.remove((end, expired.as_slice()))?;
                sessions.remove(expired.as_slice())?;
            }
            let before = sessions.get(key.as_slice())?.map(|found| (found.value().0, found.value().1));
            if let Some((end, stored_epoch)) = before {
                if stored_epoch > epoch && end > now {
                    return Ok(false);
                }
                ends.remove((end, key.as_slice()))?;
            }
            let end = now.saturating_add(ttl.max(1));
            sessions.insert(key.as_slice(), (end, epoch, blob.as_slice()))?;
            ends.insert((end, key.as_slice()), ())?;
            Ok(true)
        })
        .await
    }

    pub(crate) async fn read_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<Option<(u32, Vec<u8>)>, StoreError> {
        self.read(move |transaction| {
            let sessions = transaction.open_table(SESSIONS)?;
            let found = sessions.get(session_key(device, session).as_slice())?;
            Ok(found.and_then(|found| {
                let (end, epoch, blob) = found.value();
                (end > now_millis()).then(|| (epoch, blob.to_vec()))
            }))
        })
        .await
    }

    pub(crate) async fn delete_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            let key = session_key(device, session);
            let mut sessions = transaction.open_table(SESSIONS)?;
            let end = sessions.remove(key.as_slice())?.map(|found| found.value().0);
            if let Some(end) = end {
                transaction.open_table(SESSION_ENDS)?.remove((end, key.as_slice()))?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn take_device_epoch(&self, device: DeviceId) -> Result<u64, StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut epochs = transaction.open_table(EPOCHS)?;
            let key = device.as_bytes().as_slice();
            let last = epochs.get(key)?.map_or(0, |found| found.value());
            let next = now_millis().saturating_mul(1000).max(last.saturating_add(1));
            epochs.insert(key, next)?;
            Ok(next)
        })
        .await
    }

    pub(crate) async fn device_epoch(&self, device: DeviceId) -> Result<Option<u64>, StoreError> {
        self.read(move |transaction| {
            let epochs = transaction.open_table(EPOCHS)?;
            Ok(epochs.get(device.as_bytes().as_slice())?.map(|found| found.value()))
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "the store is a driver: buckets refill by the real clock")]
    #[expect(clippy::unused_async, reason = "the same shape as the other back end")]
    pub(crate) async fn take_token(
        &self,
        subject: &LimitSubject,
        limit: &Limit,
    ) -> Result<Duration, StoreError> {
        // The map is whole after every statement, so a poisoned lock is as good as another.
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(buckets.take(subject, limit, std::time::Instant::now()))
    }
}

#[cfg(test)]
impl Local {
    /// Session records in the file, expired ones too.
    pub(crate) async fn session_rows(&self) -> Result<u64, StoreError> {
        use redb::ReadableTableMetadata;
        self.read(|transaction| {
            let (sessions, ends) = (transaction.open_table(SESSIONS)?, transaction.open_table(SESSION_ENDS)?);
            assert_eq!(sessions.len()?, ends.len()?, "each record has one end");
            Ok(sessions.len()?)
        })
        .await
    }
}
