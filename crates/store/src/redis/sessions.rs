//! What belongs to the sessions of a device or of a tenant, on Redis.

use std::time::Duration;

use ::redis::{Script, cmd};
use sluice_types::{DeviceId, SessionId, TenantId};

use super::{Redis, millis};
use crate::StoreError;
use crate::hold::MAX_HOLD_BYTES;
use crate::limit::{Limit, LimitSubject};
use crate::location::{ClaimRow, DISPLACEMENT_WINDOW, HolderRow, MAX_DISPLACEMENTS, MAX_HOLDER_BYTES};
use crate::places::{MAX_LESSEES, PlacesRequest};

/// How long a device epoch is kept after it was taken; a lost one does no harm.
const EPOCH_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) struct SessionScripts {
    put_session: Script,
    take_epoch: Script,
    take_token: Script,
    claim_device: Script,
    renew_device: Script,
    holder: Script,
    release_device: Script,
    lease_places: Script,
    hold_device: Script,
    read_hold: Script,
    end_hold: Script,
    replace_of_device: Script,
}

impl SessionScripts {
    pub(super) fn new() -> Self {
        Self {
            put_session: Script::new(include_str!("scripts/put_session.lua")),
            take_epoch: Script::new(include_str!("scripts/take_epoch.lua")),
            take_token: Script::new(include_str!("scripts/take_token.lua")),
            claim_device: Script::new(include_str!("scripts/claim_device.lua")),
            renew_device: Script::new(include_str!("scripts/renew_device.lua")),
            holder: Script::new(include_str!("scripts/holder.lua")),
            release_device: Script::new(include_str!("scripts/release_device.lua")),
            lease_places: Script::new(include_str!("scripts/lease_places.lua")),
            hold_device: Script::new(include_str!("scripts/hold_device.lua")),
            read_hold: Script::new(include_str!("scripts/read_hold.lua")),
            end_hold: Script::new(include_str!("scripts/end_hold.lua")),
            replace_of_device: Script::new(include_str!("scripts/replace_of_device.lua")),
        }
    }
}

impl Redis {
    pub(crate) async fn put_session(
        &self,
        device: DeviceId,
        session: SessionId,
        epoch: u32,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut invocation = self.sessions.put_session.key(self.keys.session(device, session));
        invocation.arg(epoch).arg(blob).arg(millis(ttl).max(1));
        self.script(&invocation).await
    }

    pub(crate) async fn read_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<Option<(u32, Vec<u8>)>, StoreError> {
        let key = self.keys.session(device, session);
        let fields: (Option<u32>, Option<Vec<u8>>) =
            self.command(cmd("HMGET").arg(&key).arg("e").arg("b")).await?;
        match fields {
            (None, None) => Ok(None),
            (epoch, blob) => Ok(Some((epoch.unwrap_or_default(), blob.unwrap_or_default()))),
        }
    }

    pub(crate) async fn delete_session(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let _: i64 = self.command(cmd("DEL").arg(self.keys.session(device, session))).await?;
        Ok(())
    }

    pub(crate) async fn take_device_epoch(&self, device: DeviceId) -> Result<u64, StoreError> {
        let mut invocation = self.sessions.take_epoch.key(self.keys.epoch(device));
        self.script(invocation.arg(millis(EPOCH_TTL))).await
    }

    pub(crate) async fn device_epoch(&self, device: DeviceId) -> Result<Option<u64>, StoreError> {
        self.command(cmd("GET").arg(self.keys.epoch(device))).await
    }

    pub(crate) async fn take_token(
        &self,
        subject: &LimitSubject,
        limit: &Limit,
    ) -> Result<Duration, StoreError> {
        let key = match subject {
            LimitSubject::Device(id) => self.keys.device_limit(*id, limit.name),
            LimitSubject::Tenant(id) => self.keys.tenant_limit(id, limit.name),
        };
        let mut invocation = self.sessions.take_token.key(key);
        invocation.arg(limit.burst_at_least_one()).arg(limit.refill_micros());
        self.script(&invocation).await.map(Duration::from_micros)
    }

    pub(crate) async fn claim_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<ClaimRow, StoreError> {
        let mut invocation = self.sessions.claim_device.key(self.keys.epoch(device));
        invocation
            .key(self.keys.holder(device))
            .key(self.keys.displaced(device))
            .arg(session.to_string())
            .arg(blob)
            .arg(millis(ttl).max(1))
            .arg(millis(EPOCH_TTL))
            .arg(millis(DISPLACEMENT_WINDOW))
            .arg(MAX_DISPLACEMENTS)
            .arg(MAX_HOLDER_BYTES);
        let (epoch, before, blob, displaced): (u64, Option<u64>, Option<Vec<u8>>, u32) =
            self.script(&invocation).await?;
        let previous = before.map(|epoch| HolderRow { epoch, blob: blob.unwrap_or_default() });
        Ok(ClaimRow { epoch, previous, displaced })
    }

    pub(crate) async fn renew_device(
        &self,
        device: DeviceId,
        session: SessionId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut invocation = self.sessions.renew_device.key(self.keys.holder(device));
        self.script(invocation.arg(session.to_string()).arg(blob).arg(millis(ttl).max(1))).await
    }

    pub(crate) async fn device_holder(&self, device: DeviceId) -> Result<Option<HolderRow>, StoreError> {
        let mut invocation = self.sessions.holder.key(self.keys.holder(device));
        let (epoch, blob): (Option<u64>, Option<Vec<u8>>) =
            self.script(invocation.arg(MAX_HOLDER_BYTES)).await?;
        Ok(epoch.map(|epoch| HolderRow { epoch, blob: blob.unwrap_or_default() }))
    }

    pub(crate) async fn release_device(
        &self,
        device: DeviceId,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let mut invocation = self.sessions.release_device.key(self.keys.holder(device));
        let _: i64 = self.script(invocation.arg(session.to_string())).await?;
        Ok(())
    }

    pub(crate) async fn hold_device(
        &self,
        device: DeviceId,
        blob: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let mut invocation = self.sessions.hold_device.key(self.keys.hold(device));
        let _: i64 = self.script(invocation.arg(blob).arg(millis(ttl).max(1))).await?;
        Ok(())
    }

    pub(crate) async fn device_hold(&self, device: DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut invocation = self.sessions.read_hold.key(self.keys.hold(device));
        self.script(invocation.arg(MAX_HOLD_BYTES)).await
    }

    pub(crate) async fn end_hold(&self, device: DeviceId) -> Result<bool, StoreError> {
        let mut invocation = self.sessions.end_hold.key(self.keys.hold(device));
        self.script(invocation.key(self.keys.displaced(device))).await
    }

    pub(crate) async fn replace_of_device(
        &self,
        device: DeviceId,
        old: Vec<u8>,
        new: Vec<u8>,
    ) -> Result<(), StoreError> {
        let mut invocation = self.sessions.replace_of_device.key(self.keys.hold(device));
        let _: i64 = self.script(invocation.key(self.keys.holder(device)).arg(old).arg(new)).await?;
        Ok(())
    }

    pub(crate) async fn lease_places(
        &self,
        tenant: &TenantId,
        request: PlacesRequest,
    ) -> Result<u32, StoreError> {
        let mut invocation = self.sessions.lease_places.key(self.keys.tenant_places(tenant));
        invocation
            .arg(request.pod.to_string())
            .arg(request.limit)
            .arg(request.wanted)
            .arg(millis(request.ttl).max(1))
            .arg(MAX_LESSEES);
        self.script(&invocation).await
    }
}
