//! Slots, and the loads on them.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sluice_bus::{
    Adopted, BusConfig, Group, Guarantee, LedgerEntry, LedgerReader, Outcome, Owner, SlotLost, SlotSettle,
    Telemetry, adopt,
};

const PAYLOAD: [u8; 128] = [0x5a; 128];
/// Slots that are adopted at once.
const TOGETHER: u16 = 8;
const LIMIT: Duration = Duration::from_secs(60);
/// Records of a group, and groups of a slot, at full load.
const RECORDS: u32 = 100;
const GROUPS: usize = 2;
/// How the records of a paced load fared.
pub(crate) struct Took {
    pub(crate) records: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

struct Back(usize, SyncSender<(usize, Instant, Group)>);

impl SlotSettle for Back {
    fn settle(&mut self, group: Group) {
        let _ = self.1.send((self.0, now(), group));
    }

    fn lost(&mut self, why: SlotLost) {
        println!("slot {} is lost: {why}", self.0);
    }
}

/// All slots of a topic, each with a writer.
pub(crate) struct Slots {
    adopted: Vec<Adopted>,
    back: Receiver<(usize, Instant, Group)>,
    /// Of each slot.
    seq: Vec<u32>,
    /// A transaction leaves its record and its end in the ledger.
    per_commit: f64,
}

impl Slots {
    pub(crate) fn adopt(config: &BusConfig) -> Self {
        let (settled, back) = sync_channel(GROUPS * usize::from(config.slots) + 4096);
        let adopt_some = |first: u16| {
            let mut reader = LedgerReader::open(config).expect("the ledger is there");
            let owner = Owner { pod: [1; 16], address: "127.0.0.1:7400".to_owned() };
            let mut some = Vec::new();
            for slot in (first..config.slots).step_by(TOGETHER.into()) {
                let settle = Back(slot.into(), settled.clone());
                let adopted = adopt(config, slot, &owner, None, &mut reader, settle, LIMIT);
                some.push((slot, adopted.expect("the slot is adopted")));
            }
            some
        };
        let mut adopted: Vec<_> = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..TOGETHER).map(|first| scope.spawn(move || adopt_some(first))).collect();
            parts.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
        });
        adopted.sort_by_key(|(slot, _)| *slot);
        let adopted: Vec<_> = adopted.into_iter().map(|(_, adopted)| adopted).collect();
        let per_commit = if config.guarantee() == Guarantee::ExactlyOnce { 2.0 } else { 1.0 };
        Self { seq: vec![0; adopted.len()], adopted, back, per_commit }
    }

    /// Commits of all slots so far.
    pub(crate) fn commits(&self) -> f64 {
        let positions = self.adopted.iter().map(|slot| slot.writer.position());
        f64::from(u32::try_from(positions.sum::<i64>()).unwrap_or(u32::MAX)) / self.per_commit
    }

    fn fill(&mut self, slot: usize, group: &mut Group, records: u32) {
        group.clear();
        let session = [u8::try_from(slot % 256).expect("a byte"); 16];
        for _ in 0..records {
            let seq = self.seq[slot];
            self.seq[slot] += 1;
            let mut device = *b"02a1b2c3d400";
            device[8..].copy_from_slice(format!("{:04}", (slot + seq as usize) % 10_000).as_bytes());
            let record = Telemetry {
                tenant: "default",
                device,
                session,
                epoch: 0,
                seq,
                received_ms: 1_795_680_930_123,
                payload: &PAYLOAD,
            };
            group.push_telemetry(&record, 0).expect("room");
            let number = LedgerEntry::Number { session, epoch: 0, seq, fragment_open: false };
            group.push_ledger(&number, 1).expect("room");
        }
    }

    /// One record after the other, each in the next slot, so many a second; from the time it is due until it is back.
    pub(crate) fn paced(&mut self, run: Duration, pace: u32) -> Took {
        let pause = Duration::from_secs(1) / pace;
        let slots = self.adopted.len();
        let mut free: Vec<_> = (0..4 * slots.max(64)).map(|_| Group::new(2, 4 << 10)).collect();
        let mut under_way: Vec<_> = vec![VecDeque::new(); slots];
        let (start, mut next, mut slot, mut open, mut took) = (now(), now(), 0, 0, Vec::new());
        while now() - start < run || open > 0 {
            // Late records are late from their intended time.
            while next <= now()
                && next - start < run
                && let Some(mut group) = free.pop()
            {
                self.fill(slot, &mut group, 1);
                match self.adopted[slot].writer.try_submit(group) {
                    Ok(()) => {
                        under_way[slot].push_back(next);
                        open += 1;
                        next += pause;
                    }
                    // The slot has as much as it takes: the next one gets it.
                    Err(refused) => free.push(refused),
                }
                slot = (slot + 1) % slots;
            }
            match self.back.recv_timeout(pause / 2) {
                Ok((slot, at, group)) => {
                    took.extend(under_way[slot].pop_front().map(|intended| at - intended));
                    open -= 1;
                    free.push(group);
                }
                Err(_) if now() - start > run + LIMIT => break,
                Err(_) => {}
            }
        }
        took.sort_unstable();
        let of = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
        let records = f64::from(u32::try_from(took.len()).unwrap_or(u32::MAX));
        Took { records, p50: of(50), p99: of(99) }
    }

    /// As many groups as the slots take; gives committed records per second.
    pub(crate) fn full(&mut self, run: Duration) -> f64 {
        let (start, mut open, mut committed) = (now(), 0, 0_u32);
        for slot in 0..self.adopted.len() {
            for _ in 0..GROUPS {
                let mut group = Group::new(2 * RECORDS as usize, 256 << 10);
                self.fill(slot, &mut group, RECORDS);
                open += usize::from(self.adopted[slot].writer.try_submit(group).is_ok());
            }
        }
        while open > 0 {
            let Ok((slot, at, mut group)) = self.back.recv_timeout(LIMIT) else { break };
            // One of the paced load that was given up: it is too small.
            if group.outcomes().count() <= 2 {
                continue;
            }
            if at - start < run {
                let done = group.outcomes().filter(|outcome| *outcome == (0, Outcome::Committed)).count();
                committed += u32::try_from(done).unwrap_or(0);
                self.fill(slot, &mut group, RECORDS);
                if self.adopted[slot].writer.try_submit(group).is_ok() {
                    continue;
                }
            }
            open -= 1;
        }
        f64::from(committed) / run.as_secs_f64()
    }
}
