//! Stores on real servers.

use sluice_test_env::{Redis, RedisCluster, RedisSentinel, unique};

use super::{conformance, ring};
use crate::Store;
use crate::backend::Backend;
use crate::config::{RedisConfig, Topology};

pub(super) fn single(redis: &Redis) -> RedisConfig {
    configured(Topology::Single, vec![redis.url()])
}

pub(super) fn cluster(cluster: &RedisCluster) -> RedisConfig {
    configured(Topology::Cluster, cluster.urls())
}

pub(super) fn sentinel(group: &RedisSentinel) -> RedisConfig {
    RedisConfig {
        sentinel_master: group.master_name().to_owned(),
        ..configured(Topology::Sentinel, group.sentinel_urls())
    }
}

/// A prefix of its own, so that stores share a server without meeting.
fn configured(topology: Topology, urls: Vec<String>) -> RedisConfig {
    RedisConfig { topology, urls, key_prefix: unique("store"), ..RedisConfig::default() }
}

pub(super) async fn open(config: &RedisConfig) -> Store {
    let redis = crate::redis::Redis::new(config).expect("usable settings");
    let address = config.urls.join(", ");
    Store::assemble(Backend::Redis(Box::new(redis)), ring(), address).await.expect("a reachable server")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_server_passes_the_suite() {
    let redis = Redis::start().expect("a server");
    conformance::run_all(|| async { open(&single(&redis)).await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_of_three_masters_passes_the_suite() {
    let servers = RedisCluster::start(3, 0).expect("a cluster");
    conformance::run_all(|| async { open(&cluster(&servers)).await }).await;
    for node in servers.nodes() {
        let keys: u64 = node.command(&["DBSIZE"]).expect("an answer").trim().parse().expect("a number");
        assert!(keys > 0, "every master holds a part");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn master_behind_sentinels_passes_the_suite() {
    let group = RedisSentinel::start().expect("a master, a replica and sentinels");
    conformance::run_all(|| async { open(&sentinel(&group)).await }).await;
}

#[tokio::test]
async fn every_key_lives_as_documented() {
    let redis = Redis::start().expect("a server");
    conformance::run_all(|| async { open(&single(&redis)).await }).await;
    let listed = redis.command(&["--raw", "KEYS", "*"]).expect("an answer");
    let mut seen = 0;
    for key in listed.lines().filter(|line| !line.is_empty()) {
        let ttl: i64 = redis.command(&["PTTL", key]).expect("an answer").trim().parse().expect("a number");
        let part = key.split_once("}:").expect("a hash tag").1;
        let for_good = [
            "device",
            "tenant",
            "devices",
            "names",
            "identity",
            "stream",
            "head",
            "logged",
            "announced",
            "ring",
        ];
        if ttl == -1 {
            assert!(for_good.contains(&part), "`{key}` lives for good without a reason");
        }
        seen += 1;
    }
    assert!(seen > 20, "only {seen} keys");
}

#[tokio::test]
async fn no_secret_lies_in_clear_on_the_server() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    let planted = b"planted-device-key-abcdefghijklm";
    let key = crate::NewKey::Individual(sluice_types::Psk::new(planted).expect("32 bytes"));
    store.create_device(crate::NewDevice::raw(super::id(1), key)).await.expect("created");
    store.put_session(&super::scenarios::session(0), super::DEADLINE).await.expect("written");
    store.add_tenant_root(&super::tenant("acme"), crate::SecretKey::new(*planted)).await.expect("added");
    redis.command(&["SAVE"]).expect("dumped");
    let dump = std::fs::read(redis.dir().join("dump.rdb")).expect("a dump");
    let holds = |part: &[u8]| dump.windows(part.len()).any(|window| window == part);
    assert!(holds(b":device"), "the dump holds what was written");
    assert!(!holds(&planted[..16]), "a key is in the dump");
    assert!(!holds(&[0xc2; 16]) && !holds(&[0x52; 16]), "a session key is in the dump");
}
