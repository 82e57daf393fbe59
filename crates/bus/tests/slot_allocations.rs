//! Counts allocations on the way of a record through a slot. One test in its own process: the count is for all threads.
#![cfg(feature = "embedded")]

mod common;

use std::alloc::System;

use common::slot::{ENTRY, Slot, number, open_session, reader};
use sluice_bus::{BusConfig, EmbeddedBroker, Group};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: u32 = 5000;

fn fill(group: &mut Group, round: u32) {
    let payload = [7; 64];
    for seq in round * RECORDS..(round + 1) * RECORDS {
        let record = sluice_bus::Telemetry {
            tenant: "default",
            device: *b"02a1b2c3d4e5",
            session: common::slot::SESSION,
            epoch: common::slot::EPOCH,
            seq,
            received_ms: common::RECEIVED_MS,
            payload: &payload,
        };
        group.push_telemetry(&record, u64::from(seq)).expect("room");
        group.push_ledger(&number(seq), ENTRY + u64::from(seq)).expect("room");
    }
}

#[test]
fn record_and_its_ledger_entry_cost_no_allocation_of_ours_after_warm_up() {
    let broker = EmbeddedBroker::start("t", 4).expect("a broker");
    let config = broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() });
    let slot = Slot::adopt(&config, &mut reader(&config));
    slot.commit(open_session());
    let mut group = Group::new(2 * RECORDS as usize, 2 << 20);
    for round in 0..3 {
        group.clear();
        fill(&mut group, round);
        group = slot.commit(group);
    }

    group.clear();
    let filling = Region::new(COUNTING);
    fill(&mut group, 3);
    let filled = filling.change();
    assert_eq!((filled.allocations, filled.reallocations), (0, 0), "filling a group");

    let committing = Region::new(COUNTING);
    slot.submit(group);
    let group = slot.settled();
    let committed = committing.change();
    common::all_committed(&group);
    // One is rdkafka's own: it copies the topic's name for C at each send. Beyond it some per batch of reports; none per entry.
    let most = RECORDS as usize + RECORDS as usize / 10;
    assert!(committed.allocations + committed.reallocations <= most, "{committed:?} for {RECORDS} records");
}
