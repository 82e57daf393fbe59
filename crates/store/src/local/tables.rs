//! Tables of the local file and the form of their keys.

use redb::{TableDefinition, WriteTransaction};
use sluice_types::{DeviceId, SessionId, TenantId};

/// Device id -> version, authenticated record.
pub(super) const DEVICES: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("devices");
/// Tenant, zero byte, device id -> nothing: the lists.
pub(super) const INDEX: TableDefinition<'_, &[u8], ()> = TableDefinition::new("device_index");
/// Tenant -> version, authenticated record.
pub(super) const TENANTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("tenants");
/// Number -> device id and version of its record (14 bytes), authenticated entry.
pub(super) const LOG: TableDefinition<'_, u64, (&[u8], &[u8])> = TableDefinition::new("revocations");
/// Device id and version -> number: what is in the log already.
pub(super) const LOGGED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("revocations_logged");
/// Device id -> time of the announcement, ms.
pub(super) const ANNOUNCED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("revocations_announced");
/// Pod -> position, time of the report, ms.
pub(super) const APPLIED: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("revocations_applied");
/// Device and session id -> end of life in ms, re-key epoch, sealed record.
pub(super) const SESSIONS: TableDefinition<'_, &[u8], (u64, u32, &[u8])> = TableDefinition::new("sessions");
/// End of life in ms, device and session id -> nothing: what to clear away next.
pub(super) const SESSION_ENDS: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("session_ends");
/// Device id -> epoch last taken.
pub(super) const EPOCHS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("device_epochs");
/// Device id -> what `claim_device` keeps.
pub(super) const HOLDERS: TableDefinition<'_, &[u8], HolderValue> = TableDefinition::new("device_holders");
/// Device id -> times of displacements in ms, the newest last.
pub(super) const DISPLACED: TableDefinition<'_, &[u8], Vec<u64>> = TableDefinition::new("device_displaced");
/// Device id -> end of the hold in ms, authenticated record.
pub(super) const HOLDS: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("device_holds");
/// Tenant and pod -> places, end of the lease in ms.
pub(super) const PLACES: TableDefinition<'_, (&str, &[u8]), (u32, u64)> =
    TableDefinition::new("tenant_places");
/// Name -> version, sealed value: the ring.
pub(super) const RING: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("cluster_ring");
/// Pod -> end of its life in ms, authenticated record.
pub(super) const PODS: TableDefinition<'_, &[u8], (u64, &[u8])> = TableDefinition::new("pods");
/// Slot -> generation, offset, end of life in ms, sealed head.
pub(super) const HEADS: TableDefinition<'_, u16, (u32, i64, u64, &[u8])> = TableDefinition::new("slot_heads");
/// Slot, snapshot and index -> end of life in ms, sealed chunk.
pub(super) const CHUNKS: TableDefinition<'_, ChunkKey, (u64, &[u8])> = TableDefinition::new("slot_chunks");
/// Slot -> generation, offset, end of life in ms, authenticated owner.
pub(super) const OWNERS: TableDefinition<'_, u16, (u32, i64, u64, &[u8])> =
    TableDefinition::new("slot_owners");
/// Single values.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// In [`META`]: the authenticated identity of the store.
pub(super) const IDENTITY: &str = "identity";
/// In [`META`]: highest number dropped from the log, u64 big endian.
pub(super) const TRIMMED: &str = "revocations_trimmed";

/// In [`META`]: version of what was accepted of the log, u64 big endian, then the authenticated record.
pub(super) const ACCEPTED: &str = "revocations_accepted";

/// Slot, snapshot, index.
pub(super) type ChunkKey = (u16, &'static [u8], u32);

/// Session, its number, end of the holding in ms, authenticated record; then number and record of the one displaced.
pub(super) type HolderValue = (&'static [u8], u64, u64, &'static [u8], Option<u64>, &'static [u8]);

pub(super) fn create_all(transaction: &WriteTransaction) -> Result<(), redb::TableError> {
    transaction.open_table(DEVICES)?;
    transaction.open_table(INDEX)?;
    transaction.open_table(TENANTS)?;
    transaction.open_table(LOG)?;
    transaction.open_table(LOGGED)?;
    transaction.open_table(ANNOUNCED)?;
    transaction.open_table(APPLIED)?;
    transaction.open_table(SESSIONS)?;
    transaction.open_table(SESSION_ENDS)?;
    transaction.open_table(EPOCHS)?;
    transaction.open_table(HOLDERS)?;
    transaction.open_table(DISPLACED)?;
    transaction.open_table(HOLDS)?;
    transaction.open_table(PLACES)?;
    transaction.open_table(RING)?;
    transaction.open_table(PODS)?;
    transaction.open_table(HEADS)?;
    transaction.open_table(CHUNKS)?;
    transaction.open_table(OWNERS)?;
    transaction.open_table(META)?;
    Ok(())
}

pub(super) fn index_key(tenant: &TenantId, device: DeviceId) -> Vec<u8> {
    let mut key = tenant.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(device.as_bytes());
    key
}

/// From the first entry of a tenant, or the one after a device, up to the end of the tenant (not included).
pub(super) fn index_range(tenant: &TenantId, after: Option<DeviceId>) -> (Vec<u8>, Vec<u8>) {
    let name = tenant.as_str().as_bytes();
    let start = match after {
        // The shortest key above the device's own.
        Some(device) => [index_key(tenant, device).as_slice(), &[0]].concat(),
        None => [name, &[0]].concat(),
    };
    (start, [name, &[1]].concat())
}

pub(super) fn index_device(key: &[u8]) -> Option<DeviceId> {
    key.last_chunk::<6>().map(|id| DeviceId::from_bytes(*id))
}

pub(super) fn index_tenant(key: &[u8]) -> Option<TenantId> {
    let name = key.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

pub(super) fn session_key(device: DeviceId, session: SessionId) -> Vec<u8> {
    [device.as_bytes().as_slice(), session.as_bytes()].concat()
}

pub(super) fn logged_key(device: DeviceId, version: u64) -> Vec<u8> {
    [device.as_bytes().as_slice(), &version.to_be_bytes()].concat()
}
