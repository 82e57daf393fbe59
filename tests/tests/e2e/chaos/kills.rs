//! Pods die one after the other, for as long as it takes to see what is seen once in a hundred times.

use sluice_test_env::{Kafka, KafkaOptions, Redis};
use sluice_tests::chaos::{Cluster, ClusterOptions, Fleet};

use super::{DEVICES, GoesOn, PROGRESS, devices_go_on, print_recoveries, two_pods};

/// Devices that must have got further before the next pod dies. Were it all of them, one whose message of two frames was cut in two, which
/// is given up after twelve seconds, would set the pace; all are waited for now and then.
const MOST: usize = DEVICES - 2;

/// Kills after which every device must have got further.
const ALL_AFTER: usize = 10;

/// Kills so many times: twice a whole pod, before which another has come, then a worker alone, whose parent starts another. Every other
/// pod dies in the middle of what the coming of the new one moves. It is now a pod that has just come, now an older one.
fn kill(cluster: &mut Cluster, devices: &Fleet, kills: usize) {
    for kill in 0..kills {
        let worker_alone = kill % 3 == 2;
        if !worker_alone {
            cluster.add().unwrap();
        }
        if kill % 2 == 0 {
            cluster.wait_at_rest().unwrap();
        }
        let running = cluster.running();
        let victim = running[kill % running.len()];
        if worker_alone {
            cluster.kill_worker(victim).unwrap();
            // Now the balancer notices, now it does not.
            cluster.set_healthy(victim, kill % 2 == 0);
        } else {
            cluster.kill(victim);
        }
        devices.wait_progress_of(MOST, 3, PROGRESS * 2).unwrap();
        let what = if worker_alone { "worker" } else { "pod" };
        print_recoveries(&format!("kill {}, of a {what}", kill + 1), &cluster.balancer().recoveries());
        if worker_alone {
            cluster.pod(victim).wait_ready_again().unwrap();
            cluster.set_healthy(victim, true);
        }
        if (kill + 1) % ALL_AFTER == 0 {
            devices.wait_progress(3, PROGRESS * 2).unwrap();
        }
    }
}

#[test]
fn a_hundred_kills_lose_and_double_nothing() {
    devices_go_on("kills", two_pods(0xc4a0_0007), GoesOn::Devices, |cluster, devices| {
        kill(cluster, devices, 100);
    });
}

#[test]
fn kills_beside_a_broker_that_dies_lose_and_double_nothing_on_three_nodes() {
    let redis = Redis::shared().unwrap();
    let mut kafka = Kafka::start(KafkaOptions { nodes: 3, ..KafkaOptions::default() }).unwrap();
    let options = ClusterOptions { copies: 3, seed: 0xc4a0_0008, ..ClusterOptions::default() };
    let cluster = Cluster::on(&redis.url(), &kafka.bootstrap(), options).unwrap();
    devices_go_on("kills on three nodes", cluster, GoesOn::Devices, |cluster, devices| {
        kill(cluster, devices, 3);
        kafka.kill(1).unwrap();
        devices.wait_progress(3, PROGRESS).unwrap();
        kill(cluster, devices, 3);
        kafka.restart(1).unwrap();
        kill(cluster, devices, 3);
    });
}
