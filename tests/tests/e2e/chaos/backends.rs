//! Redis and Kafka fail, or pods are cut off from them or from each other, while devices send to three edges.

use sluice_store::{RedisConfig, Topology};
use sluice_test_env::{Kafka, Redis, RedisCluster};
use sluice_tests::chaos::{Cluster, ClusterOptions, Fleet, Reaches, Wiring};
use sluice_tests::{Condition, now, wait_for};

use super::{DEVICES, GoesOn, PROGRESS, devices_go_on, print_recoveries};

/// Who is cut off.
const CUT: usize = 0;

/// Devices that get further at least while a third of the pods serves nobody: flows and sessions are spread by chance.
const SOME: usize = DEVICES / 4;

/// Messages of each of these meanwhile, one each 50 ms at best.
#[cfg(not(feature = "long"))]
const MEANWHILE: usize = 40;
#[cfg(feature = "long")]
const MEANWHILE: usize = 400;

fn options(seed: u64) -> ClusterOptions {
    ClusterOptions { pods: 3, seed, ..ClusterOptions::default() }
}

/// Three pods on lines to this Redis, and to a Kafka which is shared or theirs.
fn three_pods(seed: u64, redis: &Redis, kafka: Option<&Kafka>) -> Cluster {
    let bootstrap = kafka.map_or_else(|| Kafka::shared().unwrap().bootstrap(), Kafka::bootstrap);
    Cluster::wired(redis, &bootstrap, Wiring::new(redis, kafka).unwrap(), options(seed)).unwrap()
}

/// Kills the pod that was hurt, and sees that devices do not need it.
fn without(pod: usize, cluster: &mut Cluster, devices: &Fleet) {
    cluster.kill(pod);
    devices.wait_progress(3, PROGRESS).unwrap();
    print_recoveries("and then it is killed", &cluster.balancer().recoveries());
}

#[test]
fn a_pod_cut_off_from_redis_goes_on() {
    let redis = Redis::start().unwrap();
    let cluster = three_pods(0xc4a0_0010, &redis, None);
    devices_go_on("one pod cut off from Redis", cluster, GoesOn::Devices, |cluster, devices| {
        cluster.set_lines(&[CUT], Reaches::Redis, Condition::Dark).unwrap();
        devices.wait_progress_of(DEVICES - SOME, MEANWHILE, PROGRESS * 4).unwrap();
        print_recoveries("cut off from Redis", &cluster.balancer().recoveries());
        cluster.set_lines(&[CUT], Reaches::Redis, Condition::Open).unwrap();
        devices.wait_progress(3, PROGRESS).unwrap();
        without(CUT, cluster, devices);
    });
}

/// Waits until others have adopted every slot that these pods served.
fn adopted_by_others(cluster: &Cluster, gone: &[usize]) {
    wait_for("others to adopt all slots", PROGRESS * 2, || {
        let owners = cluster.owners().map_err(|error| format!("{error:#}"))?;
        if owners.values().any(|pod| gone.contains(pod)) { Err(format!("{owners:?}")) } else { Ok(()) }
    })
    .unwrap();
}

#[test]
fn devices_of_a_pod_cut_off_from_kafka_go_on_at_others() {
    let (redis, kafka) = (Redis::start().unwrap(), Wiring::kafka(3).unwrap());
    let cluster = three_pods(0xc4a0_0011, &redis, Some(&kafka));
    devices_go_on("one pod cut off from Kafka", cluster, GoesOn::Devices, |cluster, devices| {
        let begin = now();
        cluster.set_lines(&[CUT], Reaches::Kafka, Condition::Dark).unwrap();
        adopted_by_others(cluster, &[CUT]);
        eprintln!("its slots were adopted after {:?}", begin.elapsed());
        // Flows that stay are relayed.
        devices.wait_progress_of(DEVICES - SOME, 3, PROGRESS * 2).unwrap();
        print_recoveries("cut off from Kafka, flows stay", &cluster.balancer().recoveries());
        cluster.follow_readiness(CUT, false, PROGRESS).unwrap();
        devices.wait_progress(MEANWHILE, PROGRESS * 4).unwrap();
        print_recoveries("and flows go elsewhere", &cluster.balancer().recoveries());
        cluster.set_lines(&[CUT], Reaches::Kafka, Condition::Open).unwrap();
        cluster.follow_readiness(CUT, true, PROGRESS).unwrap();
        cluster.wait_at_rest().unwrap();
        devices.wait_progress(3, PROGRESS * 2).unwrap();
        print_recoveries("and back", &cluster.balancer().recoveries());
    });
}

#[test]
fn of_pods_cut_off_from_each_other_one_serves_all_devices() {
    let redis = Redis::start().unwrap();
    let cluster = three_pods(0xc4a0_0012, &redis, None);
    devices_go_on("pods cut off from each other", cluster, GoesOn::Devices, |cluster, devices| {
        let begin = now();
        cluster.set_peer_lines(Condition::Dark).unwrap();
        let others = wait_for("all but one to be not ready", PROGRESS, || {
            let is_ready = |pod: usize| cluster.is_ready(pod).is_ok_and(|(is, _)| is);
            let others: Vec<usize> = (0..3).filter(|pod| !is_ready(*pod)).collect();
            if others.len() == 2 { Ok(others) } else { Err(format!("not ready: {others:?}")) }
        })
        .unwrap();
        adopted_by_others(cluster, &others);
        eprintln!("{others:?} gave way, and all slots were adopted, after {:?}", begin.elapsed());
        for pod in &others {
            cluster.follow_readiness(*pod, false, PROGRESS).unwrap();
        }
        devices.wait_progress(MEANWHILE, PROGRESS * 4).unwrap();
        print_recoveries("cut off from each other", &cluster.balancer().recoveries());
        cluster.print_moves().unwrap();
        cluster.set_peer_lines(Condition::Open).unwrap();
        for pod in &others {
            cluster.follow_readiness(*pod, true, PROGRESS).unwrap();
        }
        cluster.wait_at_rest().unwrap();
        devices.wait_progress(3, PROGRESS * 2).unwrap();
        print_recoveries("and back", &cluster.balancer().recoveries());
    });
}

#[test]
fn a_pod_that_no_other_hears_gives_way() {
    let redis = Redis::start().unwrap();
    let cluster = three_pods(0xc4a0_0018, &redis, None);
    devices_go_on("one pod cut off from the others", cluster, GoesOn::Devices, |cluster, devices| {
        let begin = now();
        cluster.set_peer_lines_to(CUT, Condition::Dark).unwrap();
        adopted_by_others(cluster, &[CUT]);
        eprintln!("its slots were adopted after {:?}", begin.elapsed());
        cluster.follow_readiness(CUT, false, PROGRESS).unwrap();
        devices.wait_progress(MEANWHILE, PROGRESS * 4).unwrap();
        print_recoveries("cut off from the others", &cluster.balancer().recoveries());
        cluster.set_peer_lines_to(CUT, Condition::Open).unwrap();
        cluster.follow_readiness(CUT, true, PROGRESS).unwrap();
        cluster.wait_at_rest().unwrap();
        devices.wait_progress(3, PROGRESS * 2).unwrap();
        print_recoveries("and back", &cluster.balancer().recoveries());
    });
}

#[test]
fn two_pods_that_both_believe_to_be_alone_tell_no_lies() {
    let redis = Redis::start().unwrap();
    let kafka = Kafka::shared().unwrap().bootstrap();
    let options = ClusterOptions { pods: 2, ..options(0xc4a0_0017) };
    let cluster = Cluster::wired(&redis, &kafka, Wiring::new(&redis, None).unwrap(), options).unwrap();
    devices_go_on("two pods, each alone", cluster, GoesOn::Devices, |cluster, devices| {
        let adopted = |cluster: &Cluster| [0, 1].map(|pod| cluster.adoptions(pod).unwrap());
        let before = adopted(cluster);
        cluster.set_lines(&[0, 1], Reaches::Redis, Condition::Dark).unwrap();
        cluster.set_peer_lines(Condition::Dark).unwrap();
        // Only Kafka is left, whose fence decides.
        wait_for("each to adopt what the other has", PROGRESS * 2, || {
            let now = adopted(cluster);
            if now[0] > before[0] && now[1] > before[1] {
                Ok(())
            } else {
                Err(format!("{before:?}, {now:?}"))
            }
        })
        .unwrap();
        cluster.balancer().remap_flows(1);
        cluster.set_lines(&[0, 1], Reaches::Redis, Condition::Open).unwrap();
        cluster.set_peer_lines(Condition::Open).unwrap();
        devices.wait_progress(3, PROGRESS * 2).unwrap();
        print_recoveries("and back", &cluster.balancer().recoveries());
    });
}

#[cfg(feature = "long")]
#[test]
fn a_pod_killed_beside_a_slow_redis_is_gone_on_from() {
    let redis = Redis::start().unwrap();
    let cluster = three_pods(0xc4a0_0013, &redis, None);
    devices_go_on("slow Redis", cluster, GoesOn::Devices, |cluster, devices| {
        let slow = Condition::Slow(std::time::Duration::from_millis(150));
        cluster.set_lines(&[0, 1, 2], Reaches::Redis, slow).unwrap();
        devices.wait_progress(5, PROGRESS).unwrap();
        without(CUT, cluster, devices);
    });
}

#[test]
fn live_sessions_go_on_while_redis_is_empty_and_others_when_its_backup_is_restored() {
    let mut redis = Redis::start().unwrap();
    let cluster = Cluster::on(&redis.url(), &Kafka::shared().unwrap().bootstrap(), options(0xc4a0_0014));
    devices_go_on("emptied Redis", cluster.unwrap(), GoesOn::Devices, |cluster, devices| {
        redis.command(&["SAVE"]).unwrap();
        redis.flush().unwrap();
        devices.wait_progress_of(DEVICES - SOME, MEANWHILE, PROGRESS * 4).unwrap();
        // It starts with what was saved.
        redis.restart().unwrap();
        devices.wait_progress(3, PROGRESS).unwrap();
        without(CUT, cluster, devices);
    });
}

#[test]
fn sessions_go_on_over_a_fail_over_of_a_redis_cluster() {
    let mut redis = RedisCluster::start(3, 1).unwrap();
    let config = RedisConfig { topology: Topology::Cluster, urls: redis.urls(), ..RedisConfig::default() };
    let cluster =
        Cluster::on_redis(config, &Kafka::shared().unwrap().bootstrap(), options(0xc4a0_0015)).unwrap();
    devices_go_on("fail-over of Redis", cluster, GoesOn::Devices, |cluster, devices| {
        // What is not copied yet is lost with a master: that is no promise of Redis.
        redis.nodes()[0].wait_replicated().unwrap();
        redis.node(0).kill();
        devices.wait_progress(10, PROGRESS).unwrap();
        redis.wait_replaced().unwrap();
        without(CUT, cluster, devices);
    });
}

#[cfg(feature = "long")]
#[test]
fn sessions_go_on_over_a_fail_over_by_sentinels() {
    let mut redis = sluice_test_env::RedisSentinel::start().unwrap();
    let config = RedisConfig {
        topology: Topology::Sentinel,
        urls: redis.sentinel_urls(),
        sentinel_master: redis.master_name().to_owned(),
        ..RedisConfig::default()
    };
    let cluster =
        Cluster::on_redis(config, &Kafka::shared().unwrap().bootstrap(), options(0xc4a0_0016)).unwrap();
    devices_go_on("fail-over by sentinels", cluster, GoesOn::Devices, |cluster, devices| {
        redis.fail_over().unwrap();
        devices.wait_progress(10, PROGRESS).unwrap();
        without(CUT, cluster, devices);
    });
}
