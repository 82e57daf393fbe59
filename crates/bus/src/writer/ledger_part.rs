//! The ledger's share of a commit: one record with the entries of all groups, or a few where it would be too large.

use std::ops::Range;

use crate::BusConfig;
use crate::group::{Answer, Group};
use crate::ledger::{MAX_ENTRY_BYTES, Witness, begin_entries, seal};

/// What a record's batch takes beside its value, with room to spare.
const AROUND: usize = 512;

/// Records for the ledger that are produced with the groups under way.
#[derive(Debug)]
pub(crate) struct LedgerPart {
    slot: u16,
    generation: u32,
    bytes: Vec<u8>,
    records: Vec<Part>,
    witness: Option<Witness>,
    /// Longest record.
    most_bytes: usize,
}

#[derive(Debug)]
struct Part {
    range: Range<usize>,
    answer: Answer,
    offset: Option<i64>,
}

impl LedgerPart {
    pub(crate) fn new(config: &BusConfig) -> Self {
        let most_bytes = (config.message_max_bytes as usize).saturating_sub(AROUND);
        Self { slot: 0, generation: 0, bytes: Vec::new(), records: Vec::new(), witness: None, most_bytes }
    }

    /// Says whose ledger it is. The generation is known only after reading it.
    pub(crate) const fn belongs_to(&mut self, slot: u16, generation: u32) {
        (self.slot, self.generation) = (slot, generation);
    }

    /// What each record says of the store from here on.
    pub(crate) const fn testify(&mut self, witness: Option<Witness>) {
        self.witness = witness;
    }

    pub(crate) const fn witness(&self) -> Option<Witness> {
        self.witness
    }

    pub(crate) fn partition(&self) -> i32 {
        i32::from(self.slot)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// Takes the entries of all groups; none if there are none.
    pub(crate) fn compose(&mut self, groups: &[Group]) {
        self.clear();
        let mut from = 0;
        for entry in groups.iter().flat_map(Group::ledger_entries) {
            let is_full = self.bytes.len() - from + MAX_ENTRY_BYTES > self.most_bytes;
            if self.bytes.len() == from || is_full {
                self.end(from);
                from = self.bytes.len();
                begin_entries(&mut self.bytes, self.generation);
            }
            self.bytes.extend_from_slice(entry);
        }
        self.end(from);
    }

    /// One record without entries.
    pub(crate) fn compose_heartbeat(&mut self) {
        self.clear();
        begin_entries(&mut self.bytes, self.generation);
        self.end(0);
    }

    /// One record that was encoded elsewhere.
    pub(crate) fn compose_whole(&mut self, record: &[u8]) {
        self.clear();
        self.bytes.extend_from_slice(record);
        self.push(0);
    }

    fn end(&mut self, from: usize) {
        if self.bytes.len() > from {
            seal(&mut self.bytes, from);
            self.push(from);
        }
    }

    fn push(&mut self, from: usize) {
        self.records.push(Part { range: from..self.bytes.len(), answer: Answer::None, offset: None });
    }

    pub(crate) const fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn record(&self, index: usize) -> &[u8] {
        self.records.get(index).map_or(&[], |part| &self.bytes[part.range.clone()])
    }

    pub(super) fn set_answer(&mut self, index: usize, answer: Answer, offset: Option<i64>) {
        if let Some(part) = self.records.get_mut(index) {
            (part.answer, part.offset) = (answer, offset);
        }
    }

    /// The first answer that is not a yes.
    pub(crate) fn failure(&self) -> Option<Answer> {
        self.records.iter().map(|part| part.answer).find(|answer| !matches!(answer, Answer::Taken))
    }

    /// Offsets of the first and the last record, if Kafka named them.
    pub(crate) fn offsets(&self) -> Option<(i64, i64)> {
        Some((self.records.first()?.offset?, self.records.last()?.offset?))
    }
}
