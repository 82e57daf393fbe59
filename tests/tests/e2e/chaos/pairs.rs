//! Two pods do not hear each other, and a third hears both.

use sluice_test_env::{Kafka, Redis};
use sluice_tests::chaos::{Cluster, ClusterOptions, Wiring};
use sluice_tests::{Condition, wait_for};

use super::{DEVICES, GoesOn, PROGRESS, devices_go_on, print_recoveries};

/// Devices that need not get further meanwhile: those whose datagrams come to one of the two, and whose session is at the other.
const APART: usize = DEVICES * 3 / 4;

#[test]
fn two_pods_that_only_a_third_one_hears_tell_no_lies() {
    let redis = Redis::start().unwrap();
    let wiring = Wiring::new(&redis, None).unwrap();
    let options = ClusterOptions { pods: 3, seed: 0xc4a0_0018, ..ClusterOptions::default() };
    let cluster = Cluster::wired(&redis, &Kafka::shared().unwrap().bootstrap(), wiring, options).unwrap();
    devices_go_on("two of three pods apart", cluster, GoesOn::Devices, |cluster, devices| {
        wait_for("each pod to be dialed by both others", PROGRESS, || {
            let dialers = [0, 1, 2].map(|pod| cluster.dialers(pod).map_err(|error| error.to_string()));
            if dialers == [Ok(vec![1, 2]), Ok(vec![0, 2]), Ok(vec![0, 1])] {
                Ok(())
            } else {
                Err(format!("{dialers:?}"))
            }
        })
        .unwrap();
        // First one direction alone, then both.
        for (from, to) in [(0, 1), (1, 0)] {
            cluster.set_peer_line(from, to, Condition::Dark).unwrap();
            devices.wait_progress_of(DEVICES - APART, 40, PROGRESS * 2).unwrap();
            cluster.balancer().remap_flows(1);
            devices.wait_progress_of(DEVICES - APART, 40, PROGRESS * 2).unwrap();
            print_recoveries("apart", &cluster.balancer().recoveries());
        }
        cluster.print_moves().unwrap();
        for (from, to) in [(0, 1), (1, 0)] {
            cluster.set_peer_line(from, to, Condition::Open).unwrap();
        }
        devices.wait_progress(3, PROGRESS * 2).unwrap();
        print_recoveries("and back", &cluster.balancer().recoveries());
    });
}
