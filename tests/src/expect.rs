//! What a record of a device must look like (docs/records.md).

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use sluice_proto::events::v1::{CloseReason, LifecycleEvent, SecurityEvent, SecurityReason, lifecycle_event};
use sluice_types::DeviceId;

use crate::topic::{Record, TopicReader};
use crate::world::World;

/// How long what happened may need to be seen in Kafka, on a busy machine.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A message of a device, as it must be committed.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Whose.
    pub device: DeviceId,
    /// 32 hex digits.
    pub session: &'a str,
    /// Changes of keys before it.
    pub epoch: u32,
    /// Sequence number of its last frame.
    pub seq: u32,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl Expected<'_> {
    /// Checks everything that stands in the record.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn check(&self, record: &Record) -> Result<()> {
        let Self { device, session, epoch, seq, payload } = *self;
        ensure!(
            record.payload == payload,
            "payload {} instead of {}",
            hex::encode(&record.payload),
            hex::encode(payload)
        );
        let key = format!("default/{device}");
        ensure!(record.key == key.as_bytes(), "key {} instead of {key}", record.key_text());
        let time = record.header("ce_time")?;
        let expected = [
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", format!("{session}.{epoch}.{seq}")),
            ("ce_source", format!("//sluice/tenants/default/devices/{device}")),
            ("ce_type", "sluice.telemetry.raw.v1".to_owned()),
            ("ce_timesource", "received".to_owned()),
            ("ce_recordedtime", time.to_owned()),
            ("ce_sequence", seq.to_string()),
            ("content-type", "application/octet-stream".to_owned()),
        ];
        for (name, value) in &expected {
            let found = record.header(name)?;
            ensure!(found == value, "header {name} is {found} instead of {value}");
        }
        ensure!(record.headers.len() == expected.len() + 1, "more headers: {:?}", record.headers);
        // `2026-11-26T08:15:30.123Z`
        let shape = time.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
        let shape = String::from_utf8(shape.collect()).context("no text")?;
        ensure!(shape == "0000-00-00T00:00:00.000Z", "ce_time {time}");
        Ok(())
    }
}

/// The partition Kafka's Java producers choose for a key: murmur2.
#[must_use]
pub fn java_partition(key: &[u8], partitions: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).expect("keys are short");
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) % partitions
}

/// What the lifecycle topic says of a device, in order.
///
/// # Errors
/// A record there is no event.
pub fn lifecycle(reader: &TopicReader, device: DeviceId) -> Result<Vec<LifecycleEvent>> {
    let events = reader.records().iter().map(|record| LifecycleEvent::decode(record.payload.as_slice()));
    let events = events.collect::<std::result::Result<Vec<_>, _>>().context("no lifecycle event")?;
    let id = device.to_string();
    Ok(events.into_iter().filter(|event| event.device == id).collect())
}

/// Waits until the lifecycle topic says that a session was closed, and gives the reason.
///
/// # Errors
/// It does not say so soon.
pub fn closed(world: &World, device: DeviceId, session: &str) -> Result<CloseReason> {
    let mut reader = world.reader(sluice_bus::Topic::Lifecycle)?;
    let reason_of = |records: &[Record]| {
        records.iter().filter_map(|record| LifecycleEvent::decode(record.payload.as_slice()).ok()).find_map(
            |event| match event.change {
                Some(lifecycle_event::Change::Closed(closed))
                    if event.session == session && event.device == device.to_string() =>
                {
                    Some(closed.reason())
                }
                _ => None,
            },
        )
    };
    let what = format!("the end of session {session} of {device}");
    let records = reader.read_until(&what, SOON, |records| reason_of(records).is_some())?;
    reason_of(records).context("it was just there")
}

/// Waits for a security event of that reason that names a registered device, or nobody.
///
/// # Errors
/// There is none soon.
pub fn security(world: &World, reason: SecurityReason, device: Option<DeviceId>) -> Result<SecurityEvent> {
    let mut reader = world.reader(sluice_bus::Topic::Security)?;
    let named = device.map_or_else(Default::default, |device| ("default".to_owned(), device.to_string()));
    let event_of = |records: &[Record]| {
        let events =
            records.iter().filter_map(|record| SecurityEvent::decode(record.payload.as_slice()).ok());
        events
            .into_iter()
            .find(|event| event.reason() == reason && (&event.tenant, &event.device) == (&named.0, &named.1))
    };
    let what = format!("a security event {} of {named:?}", reason.as_str_name());
    let records = reader.read_until(&what, SOON, |records| event_of(records).is_some())?;
    event_of(records).context("it was just there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_the_partitions_of_kafkas_own_tests() {
        // Values of org.apache.kafka.common.utils.UtilsTest.testMurmur2, made positive, of 2^31 partitions.
        for (text, hash) in
            [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            let positive = u32::from_ne_bytes(i32::to_ne_bytes(hash)) & 0x7fff_ffff;
            assert_eq!(java_partition(text.as_bytes(), 1 << 31), positive, "{text}");
        }
    }
}
