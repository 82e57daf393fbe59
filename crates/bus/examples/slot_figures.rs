//! What a slot does on one Kafka node, by guarantee and group interval: `cargo run -p sluice-bus --features backends --example
//! slot_figures [SECONDS]`.
//!
//! Two runs each. Throughput: as many groups as the slot takes. Latency: a group of 20 records every 5 ms, from its submission until
//! it is back. Broker, writer and this program share the machine. Nothing is asserted.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sluice_bus::{
    ApplyOptions, BusConfig, Group, Guarantee, LedgerEntry, LedgerReader, Outcome, Owner, SlotLost,
    SlotSettle, SlotWriter, Telemetry, adopt, apply,
};
use sluice_test_env::{Kafka, unique};

const PAYLOAD: [u8; 128] = [0x5a; 128];
const SESSION: [u8; 16] = [0xab; 16];

struct Back(SyncSender<(Instant, Group)>);

impl SlotSettle for Back {
    fn settle(&mut self, group: Group) {
        let _ = self.0.send((now(), group));
    }

    fn lost(&mut self, why: SlotLost) {
        println!("lost: {why}");
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

fn fill(group: &mut Group, first: u32, records: u32) {
    group.clear();
    for seq in first..first + records {
        let mut device = *b"02a1b2c3d400";
        device[10] = b'0' + u8::try_from(seq / 10 % 10).expect("a digit");
        device[11] = b'0' + u8::try_from(seq % 10).expect("a digit");
        let record = Telemetry {
            tenant: "default",
            device,
            session: SESSION,
            epoch: 0,
            seq,
            received_ms: 1_795_680_930_123,
            payload: &PAYLOAD,
        };
        let number = LedgerEntry::Number { session: SESSION, epoch: 0, seq, fragment_open: false };
        group.push_telemetry(&record, 0).expect("room");
        group.push_ledger(&number, 1).expect("room");
    }
}

fn committed(group: &Group) -> usize {
    group.outcomes().filter(|outcome| *outcome == (0, Outcome::Committed)).count()
}

fn throughput(writer: &SlotWriter, back: &Receiver<(Instant, Group)>, run: Duration) -> f64 {
    const RECORDS: u32 = 2000;
    let mut free: Vec<_> = (0..8).map(|_| Group::new(2 * RECORDS as usize, 2 << 20)).collect();
    let (start, mut seq, mut done, mut under_way) = (now(), 0, 0, 0);
    while now() - start < run {
        while let Some(mut group) = free.pop() {
            fill(&mut group, seq, RECORDS);
            if let Err(refused) = writer.try_submit(group) {
                free.push(refused);
                break;
            }
            (seq, under_way) = (seq + RECORDS, under_way + 1);
        }
        let Ok((_, group)) = back.recv_timeout(Duration::from_secs(30)) else { break };
        (done, under_way) = (done + committed(&group), under_way - 1);
        free.push(group);
    }
    let rate = f64::from(u32::try_from(done).unwrap_or(u32::MAX)) / (now() - start).as_secs_f64();
    for _ in 0..under_way {
        let _ = back.recv_timeout(Duration::from_secs(30));
    }
    rate
}

fn latency(writer: &SlotWriter, back: &Receiver<(Instant, Group)>, run: Duration) -> (Duration, Duration) {
    let (start, mut next, mut seq) = (now(), now(), 0);
    let (mut sent, mut took) = (std::collections::VecDeque::new(), Vec::new());
    let mut free: Vec<_> = (0..16).map(|_| Group::new(100, 64 << 10)).collect();
    while now() - start < run {
        if now() >= next
            && let Some(mut group) = free.pop()
        {
            next += Duration::from_millis(5);
            fill(&mut group, seq, 20);
            seq += 20;
            let at = now();
            match writer.try_submit(group) {
                Ok(()) => sent.push_back(at),
                Err(refused) => free.push(refused),
            }
        }
        if let Ok((at, group)) = back.recv_timeout(Duration::from_micros(500)) {
            took.extend(sent.pop_front().map(|sent| at - sent));
            free.push(group);
        }
    }
    took.sort_unstable();
    let of = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    (of(50), of(99))
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    let run = Duration::from_secs(seconds);
    let kafka = Kafka::shared().expect("a Kafka");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!(
        "{:<14} {:>9} {:>12} {:>9} {:>9} {:>8} {:>9}",
        "guarantee", "interval", "records/s", "p50", "p99", "ledger", "adopted"
    );
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
        for interval in [0, 2, 3, 5] {
            let config = BusConfig {
                brokers: kafka.bootstrap().split(',').map(str::to_owned).collect(),
                topic_prefix: unique("figures"),
                slots: 1,
                guarantee: Some(guarantee),
                group_interval: Duration::from_millis(interval),
                ..BusConfig::default()
            };
            let options = ApplyOptions { partitions: 12, replication_factor: 1, exact_partitions: true };
            runtime.block_on(apply(&config, options)).expect("topics");
            let (settle, back) = sync_channel(64);
            let owner = Owner { pod: [1; 16], address: "127.0.0.1:7400".to_owned() };
            let mut reader = LedgerReader::open(&config).expect("the ledger is there");
            let limit = Duration::from_secs(30);
            let adopted = adopt(&config, 0, &owner, None, &mut reader, Back(settle), limit)
                .expect("the slot is adopted");
            let rate = throughput(&adopted.writer, &back, run);
            let (p50, p99) = latency(&adopted.writer, &back, run);
            drop(adopted);
            let (settle, _back) = sync_channel(64);
            let start = now();
            let again = adopt(&config, 0, &owner, None, &mut reader, Back(settle), limit);
            let (took, read) = (now() - start, again.expect("the slot is adopted").read);
            println!(
                "{guarantee:<14?} {interval:>7}ms {rate:>12.0} {p50:>9.1?} {p99:>9.1?} {read:>8} {took:>9.1?}"
            );
        }
    }
}
