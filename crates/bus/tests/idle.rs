//! Measures the processor's time. One test in its own process: the time is for all threads.
#![cfg(feature = "embedded")]

mod common;

use std::time::Duration;

use common::{Rig, group_of, now};
use sluice_bus::{BusConfig, EmbeddedBroker};

const WATCHED: Duration = Duration::from_secs(3);

#[test]
fn writer_without_work_or_without_brokers_leaves_the_processor_alone() {
    let broker = EmbeddedBroker::start("t", 4).expect("a broker");
    let idle = Rig::start(&broker.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() }));
    idle.commit(group_of(0..10, 10));
    let gone = EmbeddedBroker::start("t", 4).expect("a broker");
    let waiting =
        Rig::start(&gone.configure(&BusConfig { topic_prefix: "t".into(), ..BusConfig::default() }));
    drop(gone);
    waiting.submit(group_of(0..1000, 10));

    let (start, before) = (now(), processor_time());
    let settled = waiting.settled.recv_timeout(WATCHED);
    assert!(settled.is_err(), "settled without a broker");
    let (passed, used) = (now() - start, processor_time() - before);
    // A thread that spins uses all of it; two that wait a few per cent, most of it librdkafka's attempts to connect.
    assert!(used < passed / 4, "used {used:?} of {passed:?}");
}

/// User and system time of this process.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    // proc(5): utime and stime are fields 14 and 15, in ticks of 10 ms; the first one here is field 3.
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}
