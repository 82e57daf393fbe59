//! The key-encryption key is changed as docs/operations.md says, under devices at work.

use std::path::Path;
use std::process::{Command, Output};

use sluice_store::KekRing;
use sluice_tests::chaos::{Cluster, Fleet};
use sluice_tests::program;

use super::{DRAIN, GoesOn, PROGRESS, devices_go_on, two_pods};

fn put(file: &Path, keys: &[&str]) {
    std::fs::write(file, keys.join("\n")).unwrap();
}

/// Every pod is replaced, one after the other; the numbers of those that follow.
fn replace_all(cluster: &mut Cluster, devices: &Fleet, pods: [usize; 2]) -> [usize; 2] {
    pods.map(|pod| replace(cluster, devices, pod))
}

fn replace(cluster: &mut Cluster, devices: &Fleet, pod: usize) -> usize {
    let status = cluster.drain(pod, false, DRAIN).unwrap();
    assert!(status.success(), "{status}: {}", cluster.pod(pod).log().unwrap());
    let next = cluster.replace(pod, &program("sluice-edge").unwrap()).unwrap();
    cluster.wait_at_rest().unwrap();
    devices.wait_progress(3, PROGRESS).unwrap();
    next
}

fn reseal(cluster: &Cluster, pod: usize) -> Output {
    let mut sluice = Command::new(program("sluice").unwrap());
    sluice.args(["device", "reseal", "--config"]).arg(cluster.pod(pod).config()).output().unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}: {out}{err}", output.status)
}

fn nothing_was_distrusted(cluster: &Cluster, pods: &[usize]) {
    for &pod in pods {
        let distrusted = cluster.pod(pod).metric("sluice_edge_store_distrusted_total", &[]).unwrap_or(0.0);
        assert!(distrusted == 0.0, "pod {pod} distrusted {distrusted}: {}", cluster.pod(pod).log().unwrap());
    }
}

#[test]
fn a_new_key_encryption_key_comes_into_force_under_devices_at_work() {
    devices_go_on("rotation", two_pods(0xc4a0_0012), GoesOn::WholeMessages, |cluster, devices| {
        let file = cluster.world().file("kek");
        let old = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        let next = cluster.world().file("next-kek");
        KekRing::create_file(&next).unwrap();
        let new = std::fs::read_to_string(next).unwrap().trim().to_owned();
        let revoked = cluster.world().device().unwrap();
        cluster.world().revoke(revoked.id).unwrap();

        put(&file, &[&new, &old]);
        let first = replace(cluster, devices, 0);
        nothing_was_distrusted(cluster, &[first, 1]);
        let too_early = reseal(cluster, first);
        assert!(!too_early.status.success(), "pod 1 has the old key alone: {}", said(&too_early));
        let without = cluster.pod(1).pod_id().unwrap().to_string();
        assert!(said(&too_early).contains(&without), "{without} is not named: {}", said(&too_early));
        devices.wait_progress(3, PROGRESS).unwrap();
        let second = replace(cluster, devices, 1);

        let resealed = reseal(cluster, first);
        assert!(resealed.status.success(), "{}", said(&resealed));
        devices.wait_progress(3, PROGRESS).unwrap();
        nothing_was_distrusted(cluster, &[first, second]);

        put(&file, &[&new]);
        let alone = replace_all(cluster, devices, [first, second]);
        nothing_was_distrusted(cluster, &alone);
        for pod in alone {
            let log = cluster.pod(pod).log().unwrap();
            assert!(!log.contains("cannot be trusted") && !log.contains("left out an entry"), "{log}");
        }
        // The old key alone opens nothing any more.
        put(&file, &[&old]);
        let refused = reseal(cluster, alone[0]);
        assert!(
            !refused.status.success() && said(&refused).contains("another key-encryption key"),
            "{}",
            said(&refused)
        );
        put(&file, &[&new]);
    });
}
