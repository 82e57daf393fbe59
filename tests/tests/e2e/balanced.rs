//! A balancer before a single edge.

use std::time::Duration;

use sluice_bus::Topic;
use sluice_tests::chaos::{Fleet, Verdict};
use sluice_tests::{Balancer, Edge, EdgeOptions, Recovery, World};

const DEVICES: usize = 20;
const INTERVAL: Duration = Duration::from_millis(50);
const PROGRESS: Duration = Duration::from_secs(30);

#[test]
fn devices_whose_flows_are_forgotten_keep_their_sessions_at_a_single_pod() {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let balancer = Balancer::start(&[edge.address()], 0x5eed_0005).unwrap();
    let fleet = world.devices(DEVICES).unwrap();
    let devices = Fleet::start(&fleet, balancer.address(), INTERVAL).unwrap();
    for _ in 0..3 {
        devices.wait_progress(3, PROGRESS).unwrap();
        balancer.fault(&[]);
        balancer.forget_flows();
    }
    devices.wait_progress(3, PROGRESS).unwrap();
    let recoveries = balancer.recoveries();
    assert_eq!(recoveries.len(), DEVICES);
    eprintln!("answered after {:?}", recoveries.iter().filter_map(Recovery::unanswered).max());
    let logs = devices.stop(PROGRESS).unwrap();
    let verdict = Verdict::new(&logs, &world.committed(Topic::Telemetry).unwrap());
    eprintln!("{verdict}, {:?}", balancer.counts());
    assert!(verdict.is_kept(), "{verdict}");
    assert_eq!(verdict.handshakes, 0, "{verdict}");
    assert!(balancer.counts().flows >= 4 * DEVICES as u64, "{:?}", balancer.counts());
}
