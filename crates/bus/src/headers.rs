//! CloudEvents 1.0 headers in binary mode, made when a record is produced. Hot path: no allocation of ours, no lock, no log.

use std::io::Write as _;

use rdkafka::message::{Header, OwnedHeaders};

use crate::Topic;
use crate::group::{Entry, Group, Meta, SOURCE_ROOT};
use crate::ledger::{WITNESS_HEADER, Witness};

/// Longest value made here: a `ce_source` with a tenant of 63 bytes has 104.
const SCRATCH: usize = 256;

/// `2026-11-26T08:15:30.123Z`.
const TIME: usize = 24;

/// Makes the headers of records; remembers the last time it wrote out, since neighbours share it.
#[derive(Debug, Default)]
pub(crate) struct HeaderMaker {
    received: CachedTime,
}

/// What a dead letter says beside the headers of the record it was.
#[derive(Debug)]
pub(crate) struct DeadLetter<'a> {
    /// Why the record was refused.
    pub(crate) reason: &'a str,
    /// The topic it was for.
    pub(crate) topic: &'a str,
    /// Its length before it was cut to what the dead-letter topic takes.
    pub(crate) payload_bytes: usize,
}

/// What a ledger record says of the store.
pub(crate) fn witness_headers(witness: Witness) -> OwnedHeaders {
    push(OwnedHeaders::new_with_capacity(1), WITNESS_HEADER, &witness.encode())
}

impl HeaderMaker {
    pub(crate) fn record(&mut self, group: &Group, entry: &Entry) -> OwnedHeaders {
        self.make(group, entry, 0)
    }

    pub(crate) fn dead_letter(
        &mut self,
        group: &Group,
        entry: &Entry,
        letter: &DeadLetter<'_>,
    ) -> OwnedHeaders {
        let mut bytes = Scratch::new();
        bytes.decimal(letter.payload_bytes as u64);
        let headers = self.make(group, entry, 3);
        let headers = push(headers, "sluice_dlq_reason", letter.reason.as_bytes());
        let headers = push(headers, "sluice_dlq_topic", letter.topic.as_bytes());
        push(headers, "sluice_dlq_payload_bytes", bytes.as_bytes())
    }

    fn make(&mut self, group: &Group, entry: &Entry, more: usize) -> OwnedHeaders {
        let headers = push(OwnedHeaders::new_with_capacity(9 + more), "ce_specversion", b"1.0");
        match &entry.meta {
            Meta::Telemetry { session, epoch, seq, received_ms } => {
                let mut id = Scratch::new();
                id.hex(session);
                id.text(b".");
                id.decimal(u64::from(*epoch));
                id.text(b".");
                id.decimal(u64::from(*seq));
                let key = group.bytes(&entry.key);
                let slash = key.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                let mut source = Scratch::new();
                source.text(SOURCE_ROOT);
                source.text(b"tenants/");
                source.text(&key[..slash]);
                source.text(b"/devices");
                source.text(&key[slash..]);
                let mut sequence = Scratch::new();
                sequence.decimal(u64::from(*seq));
                let time = self.received.of(*received_ms);
                let headers = push(headers, "ce_id", id.as_bytes());
                let headers = push(headers, "ce_source", source.as_bytes());
                let headers = push(headers, "ce_type", b"sluice.telemetry.raw.v1");
                let headers = push(headers, "ce_time", time);
                let headers = push(headers, "ce_timesource", b"received");
                let headers = push(headers, "ce_recordedtime", time);
                let headers = push(headers, "ce_sequence", sequence.as_bytes());
                push(headers, "content-type", b"application/octet-stream")
            }
            Meta::Event { id, source, time_ms } => {
                let kind: &[u8] = match entry.topic {
                    Topic::Lifecycle => b"sluice.events.v1.LifecycleEvent",
                    Topic::Security | Topic::Telemetry | Topic::Dlq | Topic::Ledger => {
                        b"sluice.events.v1.SecurityEvent"
                    }
                };
                // Protobuf's JSON mapping always starts with a brace, its binary form here never does.
                let json = group.bytes(&entry.payload).first() == Some(&b'{');
                let content: &[u8] = if json { b"application/json" } else { b"application/protobuf" };
                let headers = push(headers, "ce_id", group.bytes(id));
                let headers = push(headers, "ce_source", group.bytes(source));
                let headers = push(headers, "ce_type", kind);
                let headers = push(headers, "ce_time", self.received.of(*time_ms));
                push(headers, "content-type", content)
            }
            // Part of a record that has no headers.
            Meta::Ledger => headers,
        }
    }
}

fn push(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// RFC 3339 in UTC with milliseconds, kept for as long as the same millisecond is asked for.
#[derive(Debug)]
struct CachedTime {
    millis: i64,
    text: [u8; TIME],
}

impl Default for CachedTime {
    fn default() -> Self {
        Self { millis: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl CachedTime {
    fn of(&mut self, millis: i64) -> &[u8] {
        if self.millis != millis {
            // Years behind 9999 do not fit the format; no clock says them, and a wrong one must not end the thread.
            let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            let mut scratch = Scratch::new();
            let _ = write!(scratch.rest(), "{time:.3}");
            if let Some(text) = scratch.bytes.first_chunk() {
                (self.millis, self.text) = (millis, *text);
            }
        }
        &self.text
    }
}

/// Room for one header's value, without allocating. What does not fit is cut; every value written here is shorter.
struct Scratch {
    bytes: [u8; SCRATCH],
    length: usize,
}

impl Scratch {
    const fn new() -> Self {
        Self { bytes: [0; SCRATCH], length: 0 }
    }

    fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.length..]
    }

    fn text(&mut self, text: &[u8]) {
        let rest = self.rest();
        let length = text.len().min(rest.len());
        rest[..length].copy_from_slice(&text[..length]);
        self.length += length;
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in bytes {
            self.text(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }

    fn decimal(&mut self, mut number: u64) {
        // u64::MAX has 20 digits.
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            if number == 0 {
                return self.text(&digits[first..]);
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::{EventRecord, Telemetry};

    fn shown(headers: &OwnedHeaders) -> Vec<(String, String)> {
        let text =
            |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).expect("text");
        headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        let mut cached = CachedTime::default();
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_680_930_123, "2026-11-26T08:15:30.123Z"),
            (1_795_680_930_123, "2026-11-26T08:15:30.123Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (i64::MAX, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(cached.of(millis), expected.as_bytes());
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 4_294_967_295, u64::MAX] {
            let mut scratch = Scratch::new();
            scratch.decimal(number);
            assert_eq!(scratch.as_bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn telemetry_names_session_device_and_time() {
        let mut group = Group::new(4, 4096);
        let record = Telemetry {
            tenant: "acme",
            device: *b"02a1b2c3d4e5",
            session: [0xab; 16],
            epoch: 2,
            seq: 4_294_967_295,
            received_ms: 1_795_680_930_123,
            payload: b"x",
        };
        group.push_telemetry(&record, 1).expect("room");
        let made = HeaderMaker::default().record(&group, group.entry(0));
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "abababababababababababababababab.2.4294967295"),
            ("ce_source", "//sluice/tenants/acme/devices/02a1b2c3d4e5"),
            ("ce_type", "sluice.telemetry.raw.v1"),
            ("ce_time", "2026-11-26T08:15:30.123Z"),
            ("ce_timesource", "received"),
            ("ce_recordedtime", "2026-11-26T08:15:30.123Z"),
            ("ce_sequence", "4294967295"),
            ("content-type", "application/octet-stream"),
        ];
        assert_eq!(shown(&made), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_dead_letter_says_what_it_was() {
        let mut group = Group::new(4, 4096);
        let record = EventRecord {
            topic: Topic::Lifecycle,
            key: b"k",
            id: "i",
            source: "edge",
            time_ms: 0,
            payload: b"{}",
        };
        group.push_event(&record, 1).expect("room");
        let letter = DeadLetter { reason: "too_large", topic: "sluice.lifecycle", payload_bytes: 2 };
        let made = shown(&HeaderMaker::default().dead_letter(&group, group.entry(0), &letter));
        for (key, value) in [
            ("ce_source", "//sluice/edge"),
            ("ce_type", "sluice.events.v1.LifecycleEvent"),
            ("content-type", "application/json"),
            ("sluice_dlq_reason", "too_large"),
            ("sluice_dlq_topic", "sluice.lifecycle"),
            ("sluice_dlq_payload_bytes", "2"),
        ] {
            assert!(made.contains(&(key.to_owned(), value.to_owned())), "{key} in {made:?}");
        }
    }
}
