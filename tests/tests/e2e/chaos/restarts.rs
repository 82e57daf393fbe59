//! Pods are replaced one after the other.

use sluice_tests::chaos::{Cluster, ClusterOptions, Crossing, not_taken};
use sluice_tests::{EdgeOptions, program, program_beside};

use super::{
    DEVICES, DRAIN, GoesOn, PROGRESS, devices_and_others_go_on, devices_go_on, print_recoveries, two_pods,
};

#[test]
fn a_rolling_restart_loses_and_doubles_nothing() {
    devices_go_on("rolling restart", two_pods(0xc4a0_0006), GoesOn::Devices, |cluster, devices| {
        for old in 0..2 {
            cluster.add().unwrap();
            cluster.wait_at_rest().unwrap();
            devices.wait_progress(3, PROGRESS).unwrap();
            let status = cluster.drain(old, old == 1, DRAIN).unwrap();
            assert!(status.success(), "{status}: {}", cluster.pod(old).log().unwrap());
            print_recoveries("one pod drained", &cluster.balancer().recoveries());
        }
    });
}

/// Whether this is a pod of the present release: the first three are of the old one, the next three follow them, and the last is of the
/// old one again.
fn is_new(pod: usize) -> bool {
    (3..6).contains(&pod)
}

fn takes_all(cluster: &Cluster, pod: usize) {
    let not_taken = not_taken(cluster.pod(pod), !is_new(pod)).unwrap();
    assert!(not_taken.is_empty(), "pod {pod}, new: {}, did not take everything: {not_taken:#?}", is_new(pod));
}

/// Slots with sessions that a pod of the one release adopted after one of the other.
fn print_adoptions_across(cluster: &Cluster) {
    let all = cluster.all_adoptions().unwrap();
    let across = |to_new: bool| {
        let pairs = all.windows(2).filter(|pair| {
            let [from, to] = pair else { return false };
            from.slot == to.slot && is_new(from.pod) != to_new && is_new(to.pod) == to_new
        });
        pairs.map(|pair| pair[1].sessions).filter(|&sessions| sessions > 0).collect::<Vec<_>>()
    };
    let (to_new, to_old) = (across(true), across(false));
    eprintln!(
        "slots with sessions adopted: {} by the new release after the old one, with {} sessions; {} by the old one after the new, with {}",
        to_new.len(),
        to_new.iter().sum::<u32>(),
        to_old.len(),
        to_old.iter().sum::<u32>()
    );
    assert!(!to_new.is_empty() && !to_old.is_empty(), "nothing went from one release to the other: {all:?}");
}

#[test]
fn an_old_release_and_this_one_go_on_with_each_others_sessions_in_both_directions() {
    let (old, new) = (program_beside().unwrap(), program("sluice-edge").unwrap());
    let edge = EdgeOptions::default()
        .of_program(&old)
        .with("edge.cluster.snapshot_interval", "5s")
        .with("edge.clones.quarantine", "1h")
        .with("edge.admission.sessions_per_tenant", 100_000)
        .with("edge.admission.new_sessions_per_device", 10_000);
    let options = ClusterOptions { pods: 3, seed: 0xc4a0_000b, edge, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).unwrap();
    devices_and_others_go_on("old beside new", cluster, GoesOn::WholeMessages, |cluster, devices| {
        let mut others = Crossing::new(u32::try_from(DEVICES).unwrap() + 1).unwrap();
        for (step, (goes, program)) in [(0, &new), (1, &new), (2, &new), (5, &old)].into_iter().enumerate() {
            // Its counters end with it.
            takes_all(cluster, goes);
            let status = cluster.drain(goes, step % 2 == 1, DRAIN).unwrap();
            assert!(status.success(), "{status}: {}", cluster.pod(goes).log().unwrap());
            print_recoveries("one pod drained", &cluster.balancer().recoveries());
            let comes = cluster.replace(goes, program).unwrap();
            eprintln!("pod {comes} follows pod {goes}, new: {}", is_new(comes));
            cluster.wait_at_rest().unwrap();
            devices.wait_progress(3, PROGRESS).unwrap();
            // What comes to the wrong pod is handed on, whatever its release.
            for seed in 1..=2 {
                cluster.balancer().fault(&[]);
                cluster.balancer().remap_flows(seed);
                devices.wait_progress(3, PROGRESS).unwrap();
            }
            let (news, olds): (Vec<_>, Vec<_>) = cluster.running().into_iter().partition(|&pod| is_new(pod));
            if let (Some(&new), Some(&old)) = (news.first(), olds.first()) {
                others.all(cluster, old, new).unwrap();
                others.all(cluster, new, old).unwrap();
            }
        }
        for pod in cluster.running() {
            takes_all(cluster, pod);
        }
        print_adoptions_across(cluster);
        others.into_logs()
    });
}
