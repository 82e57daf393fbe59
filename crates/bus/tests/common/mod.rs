//! What the tests of this crate share.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod slot;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use sluice_bus::{ApplyOptions, BusConfig, Group, Outcome, Start, Tail, TailedRecord, Telemetry, Writer};

pub(crate) const LONG: Duration = Duration::from_secs(120);
pub(crate) const RECEIVED_MS: i64 = 1_795_680_930_123;

/// A writer, and the groups it gives back.
pub(crate) struct Rig {
    pub(crate) config: BusConfig,
    pub(crate) writer: Writer,
    pub(crate) settled: Receiver<Group>,
}

impl Rig {
    pub(crate) fn start(config: &BusConfig) -> Self {
        let (settle, settled) = sync_channel(64);
        let settle = move |group| settle.send(group).expect("the test waits");
        let writer = Writer::start("writer", config, settle).expect("a writer");
        Self { config: config.clone(), writer, settled }
    }

    pub(crate) fn submit(&self, group: Group) {
        assert!(self.writer.try_submit(group).is_ok(), "the writer has room");
    }

    pub(crate) fn settled(&self) -> Group {
        self.settled.recv_timeout(LONG).expect("the group comes back")
    }

    pub(crate) fn commit(&self, group: Group) {
        self.submit(group);
        all_committed(&self.settled());
    }

    pub(crate) fn topic(&self, short_name: &str) -> String {
        format!("{}.{short_name}", self.config.topic_prefix)
    }

    /// At least so many records of a topic from its beginning, and whatever lies beyond them.
    pub(crate) fn read(&self, short_name: &str, least: usize) -> Vec<TailedRecord> {
        let tail =
            Tail::open(&self.config, &self.topic(short_name), Start::Beginning).expect("the topic is there");
        read_from(&tail, least)
    }
}

pub(crate) fn read_from(tail: &Tail, least: usize) -> Vec<TailedRecord> {
    let mut found = Vec::new();
    let since = now();
    while found.len() < least {
        found.extend(tail.next(Duration::from_millis(100)).expect("readable"));
        assert!(now() - since < LONG, "{} of {least} records after {LONG:?}", found.len());
    }
    while let Some(more) = tail.next(Duration::from_millis(500)).expect("readable") {
        found.push(more);
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "the test drives real servers")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn all_committed(group: &Group) {
    for (token, outcome) in group.outcomes() {
        assert_eq!(outcome, Outcome::Committed, "token {token}");
    }
}

/// Record `seq` of one of seven devices; its payload starts with its number.
pub(crate) fn push(group: &mut Group, seq: u32, size: usize) {
    let mut device = *b"02a1b2c3d400";
    device[11] = b'0' + u8::try_from(seq % 7).expect("below 7");
    let mut payload = vec![0x5a; size.max(4)];
    payload[..4].copy_from_slice(&seq.to_be_bytes());
    let record = Telemetry {
        tenant: "default",
        device,
        session: [0xab; 16],
        epoch: 2,
        seq,
        received_ms: RECEIVED_MS,
        payload: &payload,
    };
    group.push_telemetry(&record, u64::from(seq)).expect("room");
}

pub(crate) fn group_of(records: std::ops::Range<u32>, size: usize) -> Group {
    let mut group = Group::new(20_000, 8 << 20);
    for seq in records {
        push(&mut group, seq, size);
    }
    group
}

pub(crate) fn seq_of(record: &TailedRecord) -> u32 {
    u32::from_be_bytes(*record.payload.first_chunk().expect("four bytes"))
}

/// Every record once, under its id, and those of one device in their order.
pub(crate) fn assert_complete_once_and_ordered(records: &[TailedRecord], expected: std::ops::Range<u32>) {
    let mut seqs: Vec<_> = records.iter().map(seq_of).collect();
    let mut last = BTreeMap::new();
    for record in records {
        let seq = seq_of(record);
        let id = format!("{}.2.{seq}", "ab".repeat(16));
        assert_eq!(record.header("ce_id"), Some(id.as_str()));
        let before = last.insert(record.key.clone(), seq);
        assert!(before.is_none_or(|before| before < seq), "{before:?} is before {seq}");
    }
    seqs.sort_unstable();
    assert_eq!(seqs, expected.collect::<Vec<_>>());
}

pub(crate) fn options(partitions: i32, replication_factor: i32) -> ApplyOptions {
    ApplyOptions { partitions, replication_factor, exact_partitions: true }
}

/// Kafka's own partition of a key: `Utils.toPositive(Utils.murmur2(key)) % partitions` of its Java client.
pub(crate) fn java_partition(key: &[u8], partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ u32::try_from(key.len()).expect("short");
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (shift, &byte) in tail.iter().enumerate().rev() {
        hash ^= u32::from(byte) << (8 * shift);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    i32::try_from(hash & 0x7fff_ffff).expect("31 bits") % partitions
}
