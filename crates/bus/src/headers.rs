//! CloudEvents 1.0 headers in binary mode, made when a record is produced (docs/records.md).

use std::io::Write as _;

use rdkafka::message::{Header, OwnedHeaders};

use crate::Topic;
use crate::group::{Entry, Group, Meta};

/// Fewer than these never fit the longest value: an id has 54 bytes, a source 104.
const SCRATCH: usize = 256;

/// Room for one header's value, without allocating.
struct Scratch {
    bytes: [u8; SCRATCH],
    length: usize,
}

impl Scratch {
    fn write(parts: std::fmt::Arguments<'_>) -> Self {
        let mut bytes = [0; SCRATCH];
        let mut rest = bytes.as_mut_slice();
        // What does not fit is cut; every value written here is shorter.
        let _ = rest.write_fmt(parts);
        let length = SCRATCH - rest.len();
        Self { bytes, length }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Hex digits of a session id.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// RFC 3339 in UTC with milliseconds, by the civil calendar of days since 1970.
struct Rfc3339(i64);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{time:.3}")
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn push(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// The headers of a record of this group.
pub(crate) fn headers(group: &Group, entry: &Entry) -> OwnedHeaders {
    let headers = push(OwnedHeaders::new_with_capacity(10), "ce_specversion", b"1.0");
    match &entry.meta {
        Meta::Telemetry { session, epoch, seq, received_ms } => {
            let key = text(group.bytes(&entry.key));
            let (tenant, device) = key.split_once('/').unwrap_or((key, ""));
            let id = Scratch::write(format_args!("{}.{epoch}.{seq}", Hex(session)));
            let source = Scratch::write(format_args!("//sluice/tenants/{tenant}/devices/{device}"));
            let time = Scratch::write(format_args!("{}", Rfc3339(*received_ms)));
            let sequence = Scratch::write(format_args!("{seq}"));
            let headers = push(headers, "ce_id", id.as_bytes());
            let headers = push(headers, "ce_source", source.as_bytes());
            let headers = push(headers, "ce_type", b"sluice.telemetry.raw.v1");
            let headers = push(headers, "ce_time", time.as_bytes());
            let headers = push(headers, "ce_timesource", b"received");
            let headers = push(headers, "ce_recordedtime", time.as_bytes());
            let headers = push(headers, "ce_sequence", sequence.as_bytes());
            push(headers, "content-type", b"application/octet-stream")
        }
        Meta::Event { id, source, time_ms } => {
            let source = Scratch::write(format_args!("//sluice/{}", text(group.bytes(source))));
            let time = Scratch::write(format_args!("{}", Rfc3339(*time_ms)));
            let kind: &[u8] = match entry.topic {
                Topic::Lifecycle => b"sluice.events.v1.LifecycleEvent",
                _ => b"sluice.events.v1.SecurityEvent",
            };
            // Protobuf's JSON mapping always starts with a brace, its binary form here never does.
            let json = group.bytes(&entry.payload).first() == Some(&b'{');
            let content: &[u8] = if json { b"application/json" } else { b"application/protobuf" };
            let headers = push(headers, "ce_id", group.bytes(id));
            let headers = push(headers, "ce_source", source.as_bytes());
            let headers = push(headers, "ce_type", kind);
            let headers = push(headers, "ce_time", time.as_bytes());
            push(headers, "content-type", content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_680_930_123, "2026-11-26T08:15:30.123Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(Rfc3339(millis).to_string(), expected);
        }
    }
}
