//! Counts allocations on the way of a record. One test in its own process: the count is for all threads.
#![cfg(feature = "embedded")]

mod common;

use std::alloc::System;

use common::{Rig, all_committed, push};
use sluice_bus::{BusConfig, EmbeddedBroker, Group};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: u32 = 5000;

#[test]
fn record_costs_no_allocation_of_ours_after_warm_up() {
    let broker = EmbeddedBroker::start("t", 4).expect("a broker");
    let rig = Rig::start(&broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() }));
    let mut group = Group::new(RECORDS as usize, 1 << 20);
    for _ in 0..3 {
        group.clear();
        (0..RECORDS).for_each(|seq| push(&mut group, seq, 64));
        rig.submit(group);
        group = rig.settled();
        all_committed(&group);
    }

    group.clear();
    let payload = [7; 64];
    let record = sluice_bus::Telemetry {
        tenant: "default",
        device: *b"02a1b2c3d4e5",
        session: [1; 16],
        epoch: 0,
        seq: 0,
        received_ms: common::RECEIVED_MS,
        payload: &payload,
    };
    let filling = Region::new(COUNTING);
    for seq in 0..RECORDS {
        group.push_telemetry(&sluice_bus::Telemetry { seq, ..record }, u64::from(seq)).expect("room");
    }
    let filled = filling.change();
    assert_eq!((filled.allocations, filled.reallocations), (0, 0), "filling a group");

    let committing = Region::new(COUNTING);
    rig.submit(group);
    let group = rig.settled();
    let committed = committing.change();
    all_committed(&group);
    // One is rdkafka's own: it copies the topic's name for C at each send. Beyond it some per batch of reports.
    let most = RECORDS as usize + RECORDS as usize / 10;
    assert!(committed.allocations + committed.reallocations <= most, "{committed:?} for {RECORDS} records");
}
