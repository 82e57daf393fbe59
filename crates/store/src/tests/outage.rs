//! Servers that die, stall, forget and fail over. What is asserted is promise P5: no key without a trustworthy answer.

use std::time::{Duration, Instant};

use sluice_test_env::{Redis, RedisCluster, RedisSentinel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::servers::{cluster, open, sentinel, single};
use super::{DEADLINE, eventually, id, individual, keys, psk, reason, ring};
use crate::backend::Backend;
use crate::config::RedisConfig;
use crate::{
    KeyLookup, LogPosition, OpenError, Purpose, RecordError, RegistryError, Store, StoreError, StoreErrorKind,
};

/// Slack of a loaded machine on top of a configured timeout.
const SLACK: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "measures how long a failure takes")]
fn stopwatch() -> Instant {
    Instant::now()
}

/// Whether keys are given again.
async fn serves(store: &Store) -> bool {
    matches!(store.handshake_keys(id(1)).await, Ok(KeyLookup::Known(_)))
}

async fn failure(store: &Store) -> StoreErrorKind {
    let started = stopwatch();
    let outcome = store.handshake_keys(id(1)).await;
    assert!(started.elapsed() < Duration::from_secs(2) + SLACK, "took {:?}", started.elapsed());
    match outcome {
        Err(error) => error.kind(),
        Ok(found) => panic!("keys without a trustworthy answer: {found:?}"),
    }
}

#[tokio::test]
async fn killed_server_gives_clear_errors_and_is_found_again() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).expect("a server");
    let store = open(&single(&redis)).await;
    store.create_device(individual(1)).await.expect("created");
    redis.kill();
    for _ in 0..20 {
        assert_eq!(failure(&store).await, StoreErrorKind::Unavailable);
    }
    let changed = store.add_key(id(1), &psk(2)).await;
    assert!(matches!(changed, Err(RegistryError::Store(StoreError::Unavailable { .. }))), "{changed:?}");
    redis.restart().expect("up again");
    eventually("keys are given again", || serves(&store)).await;
    assert_eq!(keys(&store, id(1)).await, [psk(1)]);
    store.check().await.expect("the same store");
}

#[tokio::test]
async fn watch_goes_on_without_a_gap_after_a_restart() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).expect("a server");
    let store = open(&single(&redis)).await;
    for number in 1..=3 {
        store.create_device(individual(number)).await.expect("created");
    }
    let first = store.revoke(id(1), &reason("")).await.expect("revoked");
    let mut watch = store.watch_revocations(LogPosition::START);
    assert_eq!(watch.next().await.expect("a batch").position, first);
    redis.kill();
    assert!(watch.next().await.is_err());
    assert_eq!(watch.position(), first);
    redis.restart().expect("up again");
    let mut last = first;
    eventually("revocations are taken again", || async { store.revoke(id(2), &reason("")).await.is_ok() })
        .await;
    for number in 2..=3 {
        last = store.revoke(id(number), &reason("")).await.expect("revoked");
    }
    let mut heard = Vec::new();
    let listening = tokio::time::timeout(DEADLINE, async {
        while watch.position() < last {
            if let Ok(batch) = watch.next().await {
                heard.extend(batch.entries.into_iter().map(|entry| entry.device));
            }
        }
    });
    listening.await.expect("caught up in time");
    assert_eq!(heard, [id(2), id(3)]);
}

#[tokio::test]
async fn paused_server_is_a_timeout_and_comes_back() {
    let redis = Redis::start().expect("a server");
    let config = RedisConfig {
        response_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(300),
        ..single(&redis)
    };
    let store = open(&config).await;
    store.create_device(individual(1)).await.expect("created");
    redis.pause().expect("paused");
    assert_eq!(failure(&store).await, StoreErrorKind::Timeout);
    // The connection was given up, and no new one is answered.
    assert_eq!(failure(&store).await, StoreErrorKind::Unavailable);
    redis.resume().expect("resumed");
    eventually("keys are given again", || serves(&store)).await;
}

#[tokio::test]
async fn change_that_was_cut_off_by_a_pause_is_made_once() {
    let redis = Redis::start().expect("a server");
    let config = RedisConfig {
        response_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(200),
        ..single(&redis)
    };
    let store = open(&config).await;
    store.create_device(individual(1)).await.expect("created");
    redis.pause().expect("paused");
    let outcome = store.add_key(id(1), &psk(2)).await;
    assert!(matches!(outcome, Err(RegistryError::Store(_))), "{outcome:?}");
    redis.resume().expect("resumed");
    eventually("keys are given again", || serves(&store)).await;
    // Unknown to the caller: the device has the key or not, and asking again is safe.
    let found = keys(&store, id(1)).await;
    assert!(found == [psk(1)] || found == [psk(1), psk(2)], "{} keys", found.len());
}

#[tokio::test]
async fn emptied_server_gives_no_keys_and_no_registrations() {
    let redis = Redis::start().expect("a server");
    let store = open(&single(&redis)).await;
    store.create_device(individual(1)).await.expect("created");
    let mut watch = store.watch_revocations(LogPosition::START);
    redis.flush().expect("emptied");
    // A device that was there is no stranger, even before anybody looks at the identity.
    let found = store.handshake_keys(id(1)).await;
    let vanished =
        matches!(&found, Err(StoreError::Record { source: RecordError::RolledBack { found: 0, .. }, .. }));
    assert!(vanished, "{found:?}");
    assert!(matches!(watch.next().await, Err(StoreError::Replaced)));
    for number in 1..=2 {
        let found = store.handshake_keys(id(number)).await;
        assert!(matches!(found, Err(StoreError::Replaced)), "{found:?}");
    }
    let created = store.create_device(individual(3)).await;
    assert!(matches!(created, Err(RegistryError::Store(StoreError::Replaced))), "{created:?}");
}

#[tokio::test]
async fn refusals_of_the_server_say_what_to_check() {
    let redis = Redis::start_with(&["--requirepass", "right"]).expect("a server");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "planted-wrong-password\n").expect("writable");
    for file in [None, Some(password_file.clone())] {
        let config = RedisConfig { password_file: file, ..single(&redis) };
        let refused = assemble(&config).await.expect_err("the server wants its password");
        let OpenError::Unreachable { source, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(source.kind(), StoreErrorKind::Refused, "{refused:?}");
        let shown = format!("{refused} {refused:?}");
        assert!(source.to_string().contains("password") && !shown.contains("planted"), "{shown}");
    }
    std::fs::write(&password_file, "right\n").expect("writable");
    assemble(&RedisConfig { password_file: Some(password_file), ..single(&redis) }).await.expect("let in");
}

#[tokio::test]
async fn server_that_is_not_there_is_named() {
    let mut redis = Redis::start().expect("a server");
    let config = single(&redis);
    redis.kill();
    let refused = assemble(&config).await.expect_err("nobody answers");
    assert!(refused.to_string().contains(&redis.url()), "{refused}");
}

async fn assemble(config: &RedisConfig) -> Result<Store, OpenError> {
    let redis = crate::redis::Redis::new(config)?;
    Store::assemble(Backend::Redis(Box::new(redis)), ring(), config.urls.join(", ")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_over_is_followed_through_the_sentinels() {
    let mut group = RedisSentinel::start().expect("a master, a replica and sentinels");
    let store = open(&sentinel(&group)).await;
    store.create_device(individual(1)).await.expect("created");
    let position = store.revoke(id(1), &reason("lost")).await.expect("revoked");
    store.create_device(individual(2)).await.expect("created");
    let mut watch = store.watch_revocations(position);
    let group = tokio::task::spawn_blocking(move || {
        group.fail_over().expect("another master");
        group
    })
    .await
    .expect("no panic");
    eventually("the new master is used", || async { store.add_key(id(2), &psk(2)).await.is_ok() }).await;
    let found = store.handshake_keys(id(1)).await;
    assert!(matches!(found, Ok(KeyLookup::Refused { .. })), "{found:?}");
    let later = store.revoke(id(2), &reason("too")).await.expect("revoked");
    let heard = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Ok(batch) = watch.next().await {
                break batch;
            }
        }
    });
    assert_eq!(heard.await.expect("in time").position, later);
    drop(group);
}

#[tokio::test]
async fn emptied_server_gets_ring_and_sessions_back_from_their_pod() {
    let redis = Redis::start().expect("a server");
    let pod = open(&single(&redis)).await;
    let record = super::scenarios::session(1);
    let before = pod.cluster_secrets().await.expect("a ring");
    assert!(pod.put_session(&record, DEADLINE).await.expect("written"));
    redis.command(&["FLUSHALL"]).expect("emptied");
    assert!(pod.check().await.is_err(), "no new sessions");
    // Live ones go on, and what they need is put back.
    pod.cluster_secrets().await.expect("put back");
    assert!(pod.put_session(&record, DEADLINE).await.expect("put back"));
    let another = pod.newcomer();
    let found = another.session(record.device, record.session, 1).await.expect("an answer");
    assert_eq!(found.as_ref(), Some(&record));
    let id = before.current_id();
    let after = another.cluster_secrets().await.expect("read");
    assert_eq!(after.secret(id, Purpose::SessionIdTag), before.secret(id, Purpose::SessionIdTag));
}

#[tokio::test]
async fn server_that_is_away_leaves_the_secrets_at_hand_usable() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).expect("a server");
    let store = open(&single(&redis)).await;
    let before = store.cluster_secrets().await.expect("a ring");
    redis.kill();
    let outcome = store.cluster_secrets().await;
    assert!(matches!(outcome, Err(StoreError::Unavailable { .. })), "{outcome:?}");
    assert!(before.secret(before.current_id(), Purpose::Cookie).is_some());
    redis.restart().expect("up again");
    eventually("the ring is read again", || async { store.cluster_secrets().await.is_ok() }).await;
    assert_eq!(store.cluster_secrets().await.expect("a ring").version(), before.version());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demoted_master_that_still_answers_is_left() {
    let mut group = RedisSentinel::start().expect("a master, a replica and sentinels");
    let store = open(&sentinel(&group)).await;
    store.create_device(individual(1)).await.expect("created");
    let old = group.servers()[0].url();
    let group = tokio::task::spawn_blocking(move || {
        group.fail_over().expect("another master");
        group.restore().expect("the old one follows");
        group
    })
    .await
    .expect("no panic");
    assert!(group.servers().iter().any(|server| server.url() == old));
    eventually("writes go to the new master", || async { store.add_key(id(1), &psk(2)).await.is_ok() }).await;
    assert_eq!(keys(&store, id(1)).await, [psk(1), psk(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_master_of_a_cluster_fails_its_devices_alone_and_is_replaced() {
    let mut servers = RedisCluster::start(3, 1).expect("a cluster with replicas");
    let store = open(&cluster(&servers)).await;
    for number in 1..=12 {
        store.create_device(individual(number)).await.expect("created");
    }
    // Until the replicas have it all: the promise is about what was replicated.
    for node in servers.nodes().iter().take(servers.masters()) {
        node.wait_replicated().expect("a replica that follows");
    }
    servers.node(0).kill();
    for number in 1..=12 {
        let found = store.handshake_keys(id(number)).await;
        assert!(!matches!(found, Ok(KeyLookup::Unknown | KeyLookup::Refused { .. })), "{number}: {found:?}");
    }
    for number in 1..=12 {
        eventually("a replica takes over", || async {
            matches!(store.handshake_keys(id(number)).await, Ok(KeyLookup::Known(_)))
        })
        .await;
    }
}

/// Passes bytes on between the store and a server, the server's answers late by as much as it is told.
async fn late_relay(port: u16, delay: tokio::sync::watch::Receiver<Duration>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let delay = delay.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                    let late = *delay.borrow();
                    tokio::time::sleep(late).await;
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    format!("redis://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_late_never_belong_to_another_question() {
    let redis = Redis::start().expect("a server");
    let (delay, seen) = tokio::sync::watch::channel(Duration::ZERO);
    let url = late_relay(redis.port(), seen).await;
    let config =
        RedisConfig { urls: vec![url], response_timeout: Duration::from_millis(150), ..single(&redis) };
    let store = open(&config).await;
    for number in 1..=8 {
        let key = crate::NewKey::Individual(psk(u8::try_from(number).expect("small")));
        store.create_device(crate::NewDevice::raw(id(number), key)).await.expect("created");
    }
    let mut timeouts = 0;
    for round in 0..24 {
        let late = if round % 3 == 0 { 400 } else { 0 };
        delay.send(Duration::from_millis(late)).expect("the relay listens");
        let number = round % 8 + 1;
        match store.handshake_keys(id(number)).await {
            Ok(KeyLookup::Known(found)) => {
                assert_eq!(found.psks[0].1, psk(u8::try_from(number).expect("small")), "device {number}");
            }
            Ok(other) => panic!("device {number}: {other:?}"),
            Err(error) if error.kind() == StoreErrorKind::Timeout => timeouts += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}"),
        }
    }
    assert!(timeouts > 0, "no answer was late");
    delay.send(Duration::ZERO).expect("the relay listens");
    eventually("keys are given again", || serves(&store)).await;
}
