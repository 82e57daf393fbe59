//! Holders and holds of devices, and places of tenants in the local store.

use std::time::Duration;

use redb::{Durability, ReadableTable, Table};
use sluice_types::{DeviceId, SessionId, TenantId};

use super::tables::{DISPLACED, EPOCHS, HOLDERS, HOLDS, HolderValue, PLACES};
use super::{Local, Outcome};
use crate::StoreError;
use crate::clock::now_millis;
use crate::location::{ClaimRow, DISPLACEMENT_WINDOW, HolderRow, MAX_DISPLACEMENTS};
use crate::places::{MAX_LESSEES, PlacesRequest};

/// What is kept for a device that is held.
struct Held {
    session: Vec<u8>,
    epoch: u64,
    blob: Vec<u8>,
    displaced: Option<HolderRow>,
}

/// The holder, if its time is not over.
fn held(holders: &impl ReadableTable<&'static [u8], HolderValue>, device: DeviceId) -> Outcome<Option<Held>> {
    let Some(found) = holders.get(device.as_bytes().as_slice())? else { return Ok(None) };
    let (session, epoch, until, blob, before, before_blob) = found.value();
    Ok((until > now_millis()).then(|| Held {
        session: session.to_vec(),
        epoch,
        blob: blob.to_vec(),
        displaced: before.map(|epoch| HolderRow { epoch, blob: before_blob.to_vec() }),
    }))
}

fn put(
    holders: &mut Table<'_, &'static [u8], HolderValue>,
    device: DeviceId,
    new: &Held,
    ttl: Duration,
) -> Outcome<()> {
    let until = end(ttl);
    let (before, blob) = match &new.displaced {
        Some(row) => (Some(row.epoch), row.blob.as_slice()),
        None => (None, &[][..]),
    };
    let value = (new.session.as_slice(), new.epoch, until, new.blob.as_slice(), before, blob);
    holders.insert(device.as_bytes().as_slice(), value)?;
    Ok(())
}

impl Local {
    pub(crate) async fn claim_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<ClaimRow, StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut holders = transaction.open_table(HOLDERS)?;
            let mut displaced = transaction.open_table(DISPLACED)?;
            let now = now_millis();
            let recent = |at: &u64| now.saturating_sub(*at) < millis(DISPLACEMENT_WINDOW);
            let key = device.as_bytes().as_slice();
            let mut times = displaced.get(key)?.map(|times| times.value()).unwrap_or_default();
            times.retain(recent);
            let holder = held(&holders, device)?;
            let new = match holder {
                Some(mine) if mine.session == session.as_bytes() => Held { blob, ..mine },
                other => {
                    if other.is_some() {
                        times.push(now);
                        let surplus = times.len().saturating_sub(MAX_DISPLACEMENTS);
                        times.drain(..surplus);
                        displaced.insert(key, times.clone())?;
                    } else if times.is_empty() {
                        displaced.remove(key)?;
                    }
                    let mut epochs = transaction.open_table(EPOCHS)?;
                    let last = epochs.get(key)?.map_or(0, |found| found.value());
                    let epoch = now.saturating_mul(1000).max(last.saturating_add(1));
                    epochs.insert(key, epoch)?;
                    let displaced = other.map(|held| HolderRow { epoch: held.epoch, blob: held.blob });
                    Held { session: session.as_bytes().to_vec(), epoch, blob, displaced }
                }
            };
            put(&mut holders, device, &new, ttl)?;
            let displaced = u32::try_from(times.len()).unwrap_or(u32::MAX);
            Ok(ClaimRow { epoch: new.epoch, previous: new.displaced, displaced })
        })
        .await
    }

    pub(crate) async fn renew_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut holders = transaction.open_table(HOLDERS)?;
            let mine = held(&holders, device)?.filter(|held| held.session == session.as_bytes());
            let Some(mine) = mine else { return Ok(false) };
            put(&mut holders, device, &Held { blob, ..mine }, ttl)?;
            Ok(true)
        })
        .await
    }

    pub(crate) async fn device_holder(&self, device: DeviceId) -> Result<Option<HolderRow>, StoreError> {
        self.read(move |transaction| {
            let holder = held(&transaction.open_table(HOLDERS)?, device)?;
            Ok(holder.map(|held| HolderRow { epoch: held.epoch, blob: held.blob }))
        })
        .await
    }

    pub(crate) async fn release_device(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        self.write(Durability::None, move |transaction| {
            let mut holders = transaction.open_table(HOLDERS)?;
            if held(&holders, device)?.is_some_and(|held| held.session == session.as_bytes()) {
                holders.remove(device.as_bytes().as_slice())?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn hold_device(
        &self,
        device: DeviceId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut holds = transaction.open_table(HOLDS)?;
            let now = now_millis();
            holds.retain(|_, (until, _)| until > now)?;
            let (key, until) = (device.as_bytes().as_slice(), end(ttl));
            let stays = holds.get(key)?.is_some_and(|found| found.value().0 >= until);
            if !stays {
                holds.insert(key, (until, blob.as_slice()))?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn device_hold(&self, device: DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |transaction| {
            let holds = transaction.open_table(HOLDS)?;
            let found = holds.get(device.as_bytes().as_slice())?;
            Ok(found.and_then(|found| {
                let (until, blob) = found.value();
                (until > now_millis()).then(|| blob.to_vec())
            }))
        })
        .await
    }

    pub(crate) async fn end_hold(&self, device: DeviceId) -> Result<bool, StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let key = device.as_bytes().as_slice();
            transaction.open_table(DISPLACED)?.remove(key)?;
            let mut holds = transaction.open_table(HOLDS)?;
            let removed = holds.remove(key)?.is_some_and(|found| found.value().0 > now_millis());
            Ok(removed)
        })
        .await
    }

    pub(crate) async fn replace_of_device(
        &self,
        device: DeviceId,
        old: Vec<u8>,
        new: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let key = device.as_bytes().as_slice();
            let mut holds = transaction.open_table(HOLDS)?;
            let until = holds.get(key)?.and_then(|found| {
                let (until, blob) = found.value();
                (blob == old).then_some(until)
            });
            if let Some(until) = until {
                holds.insert(key, (until, new.as_slice()))?;
                return Ok(());
            }
            let mut holders = transaction.open_table(HOLDERS)?;
            let Some(mine) = held(&holders, device)?.filter(|held| held.blob == old) else { return Ok(()) };
            let until = holders.get(key)?.map_or(0, |found| found.value().2);
            let ttl = Duration::from_millis(until.saturating_sub(now_millis()));
            put(&mut holders, device, &Held { blob: new, ..mine }, ttl)
        })
        .await
    }

    pub(crate) async fn lease_places(
        &self,
        tenant: &TenantId,
        request: PlacesRequest,
    ) -> Result<u32, StoreError> {
        let tenant = tenant.clone();
        self.write(Durability::None, move |transaction| {
            let mut places = transaction.open_table(PLACES)?;
            let now = now_millis();
            let pod = request.pod.as_bytes().as_slice();
            let (mut used, mut pods) = (0u32, 0);
            let mut gone = Vec::new();
            for entry in places.range((tenant.as_str(), [].as_slice())..)? {
                let (key, value) = entry?;
                let ((whose, lessee), (number, until)) = (key.value(), value.value());
                if whose != tenant.as_str() {
                    break;
                }
                if until <= now {
                    gone.push(lessee.to_vec());
                } else if lessee != pod {
                    used = used.saturating_add(number);
                    pods += 1;
                }
            }
            for lessee in gone {
                places.remove((tenant.as_str(), lessee.as_slice()))?;
            }
            let granted = request.wanted.min(request.limit.saturating_sub(used));
            if granted == 0 || pods >= MAX_LESSEES {
                places.remove((tenant.as_str(), pod))?;
                return Ok(0);
            }
            places.insert((tenant.as_str(), pod), (granted, end(request.ttl)))?;
            Ok(granted)
        })
        .await
    }
}

/// The time after `ttl`, at least a millisecond from now.
pub(super) fn end(ttl: Duration) -> u64 {
    now_millis().saturating_add(millis(ttl).max(1))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
