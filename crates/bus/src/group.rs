//! Hot path: a record is copied once into the group's arena. No allocation after warm-up, no lock, no log.

use std::ops::Range;

use rdkafka::error::RDKafkaErrorCode;

use crate::Topic;
use crate::ledger::{LedgerEntry, MAX_ENTRY_BYTES, append_entry};

/// Start of every `ce_source`.
pub(crate) const SOURCE_ROOT: &[u8] = b"//sluice/";

/// More records than a report's number can name.
const MAX_RECORDS: usize = 1 << 24;

/// A message of a device, on its way to the telemetry topic.
#[derive(Debug, Clone, Copy)]
pub struct Telemetry<'a> {
    /// Whose device it is.
    pub tenant: &'a str,
    /// The device as 12 lowercase hex digits.
    pub device: [u8; 12],
    /// The session that authenticated it.
    pub session: [u8; 16],
    /// Rekey epoch of the session.
    pub epoch: u32,
    /// Sequence number of the message's last frame.
    pub seq: u32,
    /// When the edge took it, in milliseconds since the Unix epoch.
    pub received_ms: i64,
    /// The device's plaintext.
    pub payload: &'a [u8],
}

/// An event for the lifecycle or security topic, encoded by [`EventEncoder`](crate::EventEncoder).
#[derive(Debug, Clone, Copy)]
pub struct EventRecord<'a> {
    /// Where it goes.
    pub topic: Topic,
    /// The record's key.
    pub key: &'a [u8],
    /// Unique id of the event; the same in a repeat.
    pub id: &'a str,
    /// Path behind `//sluice/`, such as `tenants/default/devices/02a1b2c3d4e5`, or `edge`.
    pub source: &'a str,
    /// When it happened, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The encoded message.
    pub payload: &'a [u8],
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Kafka acknowledged it with `acks=all`.
    Committed,
    /// Kafka will never take it; it went to the dead-letter topic. Not to be acknowledged.
    Refused(Refusal),
    /// The writer was stopped before Kafka answered: it may be in the log or not. Not to be acknowledged.
    Unknown,
}

/// Why Kafka will never take a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Refusal {
    TooLarge,
    InvalidRecord,
    NotAuthorized,
    Policy,
    /// Kafka kept giving an error that has no place in our list.
    Unclassified,
}

impl Refusal {
    /// A label for headers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::InvalidRecord => "invalid_record",
            Self::NotAuthorized => "not_authorized",
            Self::Policy => "policy",
            Self::Unclassified => "unclassified",
        }
    }
}

/// The group holds as many records or bytes as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFull;

/// Records that are committed together. The driver fills it, the writer settles it, the driver clears and fills it again.
#[derive(Debug)]
pub struct Group {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    max_records: usize,
    max_bytes: usize,
    snapshot_offset: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) token: u64,
    pub(crate) topic: Topic,
    pub(crate) key: Range<u32>,
    pub(crate) payload: Range<u32>,
    pub(crate) meta: Meta,
    pub(crate) outcome: Option<Outcome>,
    /// What was said when it was last produced.
    pub(crate) answer: Answer,
    /// Its batch was refused for this; whether for its own sake is not known yet.
    pub(crate) suspected: Option<Refusal>,
    /// Answers that no verdict fits.
    pub(crate) tries: u8,
    /// What of a refused record is still for the dead-letter topic.
    pub(crate) letter: Letter,
}

/// What of a refused record goes to the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Letter {
    /// As much of it as that topic takes.
    Whole,
    /// Its headers alone.
    Bare,
    /// That topic takes none of it.
    Lost,
}

/// What Kafka, or librdkafka, said about a record that was produced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// Nothing yet.
    None,
    /// It is in the log.
    Taken,
    Failed {
        code: RDKafkaErrorCode,
        /// librdkafka said it at once, before the record was in a batch with others.
        local: bool,
    },
}

impl Entry {
    const fn new(token: u64, topic: Topic, key: Range<u32>, payload: Range<u32>, meta: Meta) -> Self {
        Self {
            token,
            topic,
            key,
            payload,
            meta,
            outcome: None,
            answer: Answer::None,
            suspected: None,
            tries: 0,
            letter: Letter::Whole,
        }
    }

    /// Whether it is an entry for the ledger rather than a record of its own.
    pub(crate) const fn is_ledger(&self) -> bool {
        matches!(self.meta, Meta::Ledger)
    }
}

/// What the headers are made of, when the record is produced.
#[derive(Debug, Clone)]
pub(crate) enum Meta {
    Telemetry {
        session: [u8; 16],
        epoch: u32,
        seq: u32,
        received_ms: i64,
    },
    Event {
        id: Range<u32>,
        source: Range<u32>,
        time_ms: i64,
    },
    /// No record of its own: it becomes part of the slot's ledger record.
    Ledger,
}

impl Group {
    /// An empty group with its memory reserved.
    #[must_use]
    pub fn new(max_records: usize, max_bytes: usize) -> Self {
        let max_bytes = max_bytes.min(u32::MAX as usize);
        let max_records = max_records.min(MAX_RECORDS);
        Self {
            bytes: Vec::with_capacity(max_bytes),
            entries: Vec::with_capacity(max_records),
            max_records,
            max_bytes,
            snapshot_offset: None,
        }
    }

    /// Adds a device's message under a token of the driver's.
    ///
    /// # Errors
    ///
    /// [`GroupFull`]; nothing was added.
    pub fn push_telemetry(&mut self, record: &Telemetry<'_>, token: u64) -> Result<(), GroupFull> {
        let key_length = record.tenant.len() + 1 + record.device.len();
        self.reserve(key_length + record.payload.len())?;
        let key = self.append(&[record.tenant.as_bytes(), b"/", &record.device]);
        let payload = self.append(&[record.payload]);
        let Telemetry { session, epoch, seq, received_ms, .. } = *record;
        let meta = Meta::Telemetry { session, epoch, seq, received_ms };
        self.entries.push(Entry::new(token, Topic::Telemetry, key, payload, meta));
        Ok(())
    }

    /// Adds an event under a token of the driver's.
    ///
    /// # Errors
    ///
    /// [`GroupFull`]; nothing was added.
    pub fn push_event(&mut self, record: &EventRecord<'_>, token: u64) -> Result<(), GroupFull> {
        let length = record.key.len() + record.id.len() + record.source.len() + record.payload.len();
        self.reserve(length + SOURCE_ROOT.len())?;
        let key = self.append(&[record.key]);
        let id = self.append(&[record.id.as_bytes()]);
        let source = self.append(&[SOURCE_ROOT, record.source.as_bytes()]);
        let payload = self.append(&[record.payload]);
        let meta = Meta::Event { id, source, time_ms: record.time_ms };
        self.entries.push(Entry::new(token, record.topic, key, payload, meta));
        Ok(())
    }

    /// Adds an entry for the ledger of a slot, under a token of the driver's. All entries of a group become final with its records;
    /// only a [`SlotWriter`](crate::SlotWriter) has a ledger, with any other writer their outcome stays [`Outcome::Unknown`].
    ///
    /// # Errors
    ///
    /// [`GroupFull`]; nothing was added.
    pub fn push_ledger(&mut self, entry: &LedgerEntry, token: u64) -> Result<(), GroupFull> {
        self.reserve(MAX_ENTRY_BYTES)?;
        let start = offset(self.bytes.len());
        append_entry(&mut self.bytes, entry);
        let payload = start..offset(self.bytes.len());
        self.entries.push(Entry::new(token, Topic::Ledger, start..start, payload, Meta::Ledger));
        Ok(())
    }

    /// Where reading the ledger goes on for a [`Snapshot`](crate::Snapshot) that knows this group and every one settled before it by
    /// the same writer. `None` if the groups committed with it had no entry, or Kafka did not name the offset.
    #[must_use]
    pub const fn snapshot_offset(&self) -> Option<i64> {
        self.snapshot_offset
    }

    pub(crate) const fn set_snapshot_offset(&mut self, offset: Option<i64>) {
        self.snapshot_offset = offset;
    }

    /// The group's entries for the ledger, as they stand within a record; not the numbers of refused records, which are nobody's to
    /// acknowledge.
    pub(crate) fn ledger_entries(&self) -> impl Iterator<Item = &[u8]> {
        let refused = self.refused_numbers();
        let entries = self.entries.iter().filter(|entry| entry.is_ledger());
        entries
            .map(|entry| self.bytes(&entry.payload))
            .filter(move |entry| !refused.iter().any(|number| number == entry))
    }

    /// The entries that say of a refused record that it is committed. Allocates only when there is one.
    fn refused_numbers(&self) -> Vec<Vec<u8>> {
        let refused = self.entries.iter().filter(|entry| matches!(entry.outcome, Some(Outcome::Refused(_))));
        refused
            .filter_map(|entry| match entry.meta {
                Meta::Telemetry { session, epoch, seq, .. } => {
                    let mut bytes = Vec::with_capacity(MAX_ENTRY_BYTES);
                    append_entry(
                        &mut bytes,
                        &LedgerEntry::Number { session, epoch, seq, fragment_open: false },
                    );
                    Some(bytes)
                }
                Meta::Event { .. } | Meta::Ledger => None,
            })
            .collect()
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a record with this many bytes of payload surely fits.
    #[must_use]
    pub fn has_room(&self, payload: usize) -> bool {
        // A tenant's name has at most 63 bytes, a key 76.
        const KEY: usize = 80;
        self.entries.len() < self.max_records && self.bytes.len() + KEY + payload <= self.max_bytes
    }

    /// Token and outcome of each record, in the order they were added. A group that was not settled has only
    /// [`Outcome::Unknown`].
    pub fn outcomes(&self) -> impl Iterator<Item = (u64, Outcome)> {
        self.entries.iter().map(|entry| (entry.token, entry.outcome.unwrap_or(Outcome::Unknown)))
    }

    /// Empties the group; its memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.snapshot_offset = None;
    }

    fn reserve(&self, bytes: usize) -> Result<(), GroupFull> {
        if self.entries.len() >= self.max_records || self.bytes.len() + bytes > self.max_bytes {
            return Err(GroupFull);
        }
        Ok(())
    }

    fn append(&mut self, parts: &[&[u8]]) -> Range<u32> {
        let start = offset(self.bytes.len());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        start..offset(self.bytes.len())
    }

    /// The writer numbers records by [`Group::len`], so an index always fits.
    pub(crate) fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    pub(crate) fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }

    pub(crate) fn bytes(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }
}

fn offset(length: usize) -> u32 {
    u32::try_from(length).expect("a group is bounded below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(payload: &[u8]) -> Telemetry<'_> {
        Telemetry {
            tenant: "default",
            device: *b"02a1b2c3d4e5",
            session: [7; 16],
            epoch: 1,
            seq: 41,
            received_ms: 0,
            payload,
        }
    }

    #[test]
    fn a_full_group_takes_nothing_more_and_keeps_what_it_has() {
        let mut group = Group::new(2, 1000);
        assert_eq!(group.push_telemetry(&telemetry(b"a"), 1), Ok(()));
        assert_eq!(group.push_telemetry(&telemetry(&[0; 2000]), 2), Err(GroupFull), "too many bytes");
        assert_eq!(group.push_telemetry(&telemetry(b"b"), 3), Ok(()));
        assert_eq!(group.push_telemetry(&telemetry(b"c"), 4), Err(GroupFull), "too many records");
        assert!(!group.has_room(1));
        let tokens: Vec<_> = group.outcomes().collect();
        assert_eq!(tokens, [(1, Outcome::Unknown), (3, Outcome::Unknown)], "nothing is committed by itself");
    }

    #[test]
    fn key_and_payload_are_kept_byte_for_byte() {
        let mut group = Group::new(2, 1000);
        group.push_telemetry(&telemetry(b"\0\xff"), 1).expect("room");
        let entry = group.entry(0);
        assert_eq!(group.bytes(&entry.key), b"default/02a1b2c3d4e5");
        assert_eq!(group.bytes(&entry.payload), b"\0\xff");
    }

    #[test]
    fn a_cleared_group_needs_no_new_memory() {
        let mut group = Group::new(4, 1000);
        for _ in 0..3 {
            let before = group.bytes.as_ptr();
            group.push_telemetry(&telemetry(&[1; 800]), 1).expect("room");
            assert_eq!(group.bytes.as_ptr(), before);
            group.clear();
        }
    }
}
