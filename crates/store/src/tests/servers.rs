//! Stores on real servers.

use sluice_test_env::{Redis, RedisCluster, RedisSentinel, unique};

use super::cluster::{pod, pod_record, session_id};
use super::{DEADLINE, conformance, id, individual, reason, ring};
use crate::backend::Backend;
use crate::config::{RedisConfig, Topology};
use crate::{LogPosition, Store};

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
            "accepted",
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

/// The key whose name ends like this.
fn key(redis: &Redis, part: &str) -> String {
    let keys = redis.command(&["--raw", "KEYS", &format!("*{part}")]).expect("an answer");
    keys.lines().next().expect("a key").to_owned()
}

fn run(redis: &Redis, arguments: &[&str]) {
    let answer = redis.command(arguments).expect("an answer");
    assert!(!answer.contains("ERR"), "{arguments:?}: {answer}");
}

/// What others put in place of ours costs no memory and keeps nobody out.
#[tokio::test]
async fn values_that_are_longer_or_more_than_ours_are_not_read() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    let fill = |key: &str, field: &str| {
        let script = "return redis.call('HSET', KEYS[1], ARGV[1], string.rep('x', 1048576))";
        run(&redis, &["EVAL", script, "1", key, field]);
    };
    let many = |key: &str, command: &str| {
        let script = format!("for n = 1, 5000 do redis.call('{command}', KEYS[1], n, n) end return 1");
        run(&redis, &["EVAL", &script, "1", key]);
    };
    let secrets = store.cluster_secrets().await.expect("a ring");
    fill(&key(&redis, "{cluster}:ring"), "b");
    let again = store.cluster_secrets().await.expect("put back");
    assert_eq!((again.current_id(), store.distrusted_values()), (secrets.current_id(), 1));

    store.announce_pod(&pod_record(1, 1), DEADLINE).await.expect("announced");
    fill(&key(&redis, "{pods}:records"), &pod(1).to_string());
    assert_eq!(store.pods().await.expect("an answer"), []);
    many(&key(&redis, "{pods}:until"), "ZADD");
    store.announce_pod(&pod_record(1, 2), DEADLINE).await.expect("announced");
    assert_eq!(store.pods().await.expect("an answer"), [pod_record(1, 2)]);

    store.claim_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("claimed");
    fill(&key(&redis, ":holder"), "b");
    assert_eq!(store.device_location(id(1)).await.expect("an answer"), None);
    let claim = store.claim_device(id(1), pod(2), session_id(2), DEADLINE).await.expect("claimed");
    assert_eq!(claim.previous, None);

    store.put_slot_owner(3, pod(1), 9).await.expect("written");
    fill(&key(&redis, "{slots}:owners"), "3b");
    assert_eq!(store.slot_owners().await.expect("an answer"), []);
    store.put_slot_owner(3, pod(2), 1).await.expect("written");
    assert_eq!(store.slot_owners().await.expect("an answer").len(), 1);
    many(&key(&redis, "{slots}:owners"), "HSET");
    assert_eq!(store.slot_owners().await.expect("an answer"), []);

    store.put_slot_snapshot(3, 7, 100, b"state").await.expect("written");
    fill(&key(&redis, "{slot:3}:snapshot"), "b");
    assert!(store.slot_snapshot(3).await.is_err());
    assert!(store.put_slot_snapshot(3, 1, 1, b"state").await.expect("written"));
    assert!(store.put_slot_snapshot(4, 1, 1, b"state").await.expect("written"));
    fill(&key(&redis, "{slot:4}:chunks:*"), "0");
    assert!(store.slot_snapshot(4).await.is_err());

    let acme = super::tenant("acme");
    assert_eq!(store.lease_places(&acme, pod(1), 10, 5, DEADLINE).await.expect("leased"), 5);
    many(&key(&redis, ":places"), "HSET");
    assert_eq!(store.lease_places(&acme, pod(1), 10, 5, DEADLINE).await.expect("leased"), 5);
}

#[tokio::test]
async fn no_stored_value_is_longer_than_half_a_mebibyte() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    // As many bytes as 100,000 sessions take.
    let state: Vec<u8> = (0..5_000_000u32).map(|index| (index % 251) as u8).collect();
    assert!(store.put_slot_snapshot(3, 7, 100, &state).await.expect("written"));
    let chunks = key(&redis, ":chunks:*");
    let lengths = "local longest = 0
        for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
            longest = math.max(longest, redis.call('HSTRLEN', KEYS[1], field))
        end
        return longest";
    let longest = redis.command(&["--raw", "EVAL", lengths, "1", &chunks]).expect("an answer");
    let longest: usize = longest.trim().parse().expect("a number");
    assert!((400 << 10..=512 << 10).contains(&longest), "{longest} bytes");
    assert!(store.slot_snapshot(3).await.expect("an answer").expect("there").bytes == state);
    // Only the last one is kept.
    assert!(store.put_slot_snapshot(3, 7, 101, &state).await.expect("written"));
    let kept = redis.command(&["--raw", "KEYS", "*:chunks:*"]).expect("an answer");
    assert_eq!(kept.lines().filter(|line| !line.is_empty()).count(), 1, "{kept}");
}

/// Scripts that the server ran.
fn scripts(redis: &Redis) -> u64 {
    let stats = redis.command(&["--raw", "INFO", "commandstats"]).expect("an answer");
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    let calls = line.and_then(|line| line.split_once("calls=")?.1.split(',').next()?.parse().ok());
    calls.unwrap_or_default()
}

#[tokio::test]
async fn each_shared_operation_costs_the_server_one_script() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    let record = super::scenarios::session(1);
    let acme = super::tenant("acme");
    // The first round loads the scripts and reads the ring.
    for round in 0..3 {
        let before = scripts(&redis);
        store.put_session(&record, DEADLINE).await.expect("written");
        store.cluster_secrets().await.expect("a ring");
        store.announce_pod(&pod_record(1, 1), DEADLINE).await.expect("announced");
        store.pods().await.expect("an answer");
        store.claim_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("claimed");
        store.renew_device(id(1), pod(1), session_id(1), DEADLINE).await.expect("renewed");
        store.device_location(id(1)).await.expect("an answer");
        store.lease_places(&acme, pod(1), 10, 5, DEADLINE).await.expect("leased");
        store.put_slot_owner(3, pod(1), 1).await.expect("written");
        store.slot_owners().await.expect("an answer");
        let spent = scripts(&redis) - before;
        assert!(round == 0 || spent == 10, "10 operations cost {spent} scripts");
    }
}

#[tokio::test]
async fn server_that_lost_its_log_gets_the_revocations_back() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    store.create_device(individual(1)).await.expect("created");
    let position = store.revoke(id(1), &reason("stolen")).await.expect("revoked");
    let mut watch = store.watch_revocations(LogPosition::START);
    assert_eq!(watch.next().await.expect("a batch").position, position);
    for part in ["{log}:stream", "{log}:head", "{log}:logged"] {
        let key = key(&redis, part);
        run(&redis, &["DEL", &key]);
    }
    let again = tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time");
    let batch = again.expect("the entry again, under a later number");
    assert_eq!((batch.entries.len(), batch.entries[0].device), (1, id(1)));
    assert!(batch.position > position);
    store.check().await.expect("put right");
}

#[tokio::test]
async fn no_secret_lies_in_clear_on_the_server() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    let planted = b"planted-device-key-abcdefghijklm";
    let key = crate::NewKey::Individual(sluice_types::Psk::new(planted).expect("32 bytes"));
    store.create_device(crate::NewDevice::raw(id(1), key)).await.expect("created");
    store.put_session(&super::scenarios::session(0), DEADLINE).await.expect("written");
    store.add_tenant_root(&super::tenant("acme"), crate::SecretKey::new(*planted)).await.expect("added");
    redis.command(&["SAVE"]).expect("dumped");
    let dump = std::fs::read(redis.dir().join("dump.rdb")).expect("a dump");
    let holds = |part: &[u8]| dump.windows(part.len()).any(|window| window == part);
    assert!(holds(b":device"), "the dump holds what was written");
    assert!(!holds(&planted[..16]), "a key is in the dump");
    assert!(!holds(&[0xc2; 16]) && !holds(&[0x52; 16]), "a session key is in the dump");
}
