//! What a record claims to be, by its key and headers (docs/records.md).

use sluice_types::{DeviceId, SessionId, TenantId};

use crate::TailedRecord;
use crate::group::SOURCE_ROOT;

/// Why a record cannot be told apart from others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A header that must be there once.
    #[error("header {0} is there {1} times, not once")]
    Times(&'static str, usize),
    /// A header that is no text.
    #[error("header {0} is no text")]
    NotText(&'static str),
    /// A format that this release does not know.
    #[error("{header} is not `{known}`, the one this release knows")]
    Version {
        /// The header.
        header: &'static str,
        /// What would have been right.
        known: &'static str,
    },
    /// `ce_id` is not SESSION.EPOCH.SEQUENCE.
    #[error("ce_id is not SESSION.EPOCH.SEQUENCE")]
    Id,
    /// `ce_sequence` is another number than the one in `ce_id`.
    #[error("ce_sequence is not the sequence in ce_id")]
    Sequence,
    /// `ce_source` names no device.
    #[error("ce_source is not //sluice/tenants/TENANT/devices/DEVICE")]
    Source,
    /// The key names no device.
    #[error("the key is not TENANT/DEVICE")]
    Key,
}

/// What a record says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) session: SessionId,
    pub(super) epoch: u32,
    pub(super) sequence: u32,
    /// By `ce_source`.
    pub(super) device: DeviceId,
    /// By the key, which decides the partition.
    pub(super) key_device: DeviceId,
    pub(super) tenants_agree: bool,
}

impl Claim {
    pub(super) fn read(record: &TailedRecord) -> Result<Self, Malformed> {
        for (header, known) in [("ce_specversion", "1.0"), ("ce_type", "sluice.telemetry.raw.v1")] {
            if only(record, header)? != known {
                return Err(Malformed::Version { header, known });
            }
        }
        let (session, epoch, sequence) = id(only(record, "ce_id")?).ok_or(Malformed::Id)?;
        if number(only(record, "ce_sequence")?) != Some(sequence) {
            return Err(Malformed::Sequence);
        }
        let (tenant, device) = source(only(record, "ce_source")?).ok_or(Malformed::Source)?;
        let key = std::str::from_utf8(&record.key).ok().and_then(|key| key.split_once('/'));
        let (key_tenant, key_device) = key.and_then(named).ok_or(Malformed::Key)?;
        Ok(Self { session, epoch, sequence, device, key_device, tenants_agree: tenant == key_tenant })
    }
}

/// The text of the one header of that name.
fn only<'a>(record: &'a TailedRecord, name: &'static str) -> Result<&'a str, Malformed> {
    let mut found = record.headers.iter().filter(|(header, _)| header == name);
    match (found.next(), found.count()) {
        (Some((_, value)), 0) => std::str::from_utf8(value).map_err(|_| Malformed::NotText(name)),
        (first, more) => Err(Malformed::Times(name, usize::from(first.is_some()) + more)),
    }
}

fn id(text: &str) -> Option<(SessionId, u32, u32)> {
    let mut parts = text.split('.');
    let session = parts.next().filter(|digits| !digits.bytes().any(|byte| byte.is_ascii_uppercase()))?;
    let id = (session.parse().ok()?, number(parts.next()?)?, number(parts.next()?)?);
    parts.next().is_none().then_some(id)
}

/// Decimal as we write it: one number has one text.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical)
}

fn source(text: &str) -> Option<(&str, DeviceId)> {
    let path = std::str::from_utf8(text.as_bytes().strip_prefix(SOURCE_ROOT)?).ok()?;
    named(path.strip_prefix("tenants/")?.split_once("/devices/")?)
}

fn named<'a>((tenant, device): (&'a str, &'a str)) -> Option<(&'a str, DeviceId)> {
    tenant.parse::<TenantId>().ok()?;
    let id = device.parse::<DeviceId>().ok()?;
    (id.to_hex() == device.as_bytes()).then_some((tenant, id))
}
