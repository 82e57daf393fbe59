//! Redis dies, or stands still, while devices work: without a trustworthy key state no new session is opened; live ones go on.

use std::time::Duration;

use sluice_bus::Topic;
use sluice_test_env::{Kafka, Redis};
use sluice_tests::expect::SOON;
use sluice_tests::{Edge, EdgeOptions, Sdk, Transport, World, payload, wait_for};

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Hurts Redis by `hurt`, sees what goes on and what does not, heals it by `heal`.
fn live_sessions_go_on_and_no_new_one_is_opened(
    redis: &mut Redis,
    hurt: impl FnOnce(&mut Redis),
    heal: impl FnOnce(&mut Redis),
) {
    let world = World::on(&redis.url(), &Kafka::shared().unwrap().bootstrap()).unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let live = BOTH.map(|transport| sdk.device(&world.device().unwrap(), transport, edge.address()));
    let late = BOTH.map(|transport| sdk.device(&world.device().unwrap(), transport, edge.address()));
    for device in &live {
        device.connect().unwrap();
        device.send(&payload(0, 100)).unwrap();
    }
    hurt(redis);
    let refused = late.each_ref().map(|device| device.start_connect(Duration::from_secs(6)).unwrap());
    for index in 1..=10 {
        for device in &live {
            device.send(&payload(index, 100)).unwrap();
        }
    }
    world.reader(Topic::Telemetry).unwrap().read_exactly(22, SOON).unwrap();
    for connecting in refused {
        eprintln!("a new session without Redis: {}", connecting.failure().unwrap());
    }
    let failed = edge.metric("sluice_edge_key_lookups_failed_total", &[]).unwrap();
    assert!(failed >= 2.0, "{failed} failed look-ups counted");
    heal(redis);
    for device in &late {
        wait_for("a session after Redis is back", Duration::from_secs(30), || {
            device.connect().map_err(|error| format!("{error:#}"))
        })
        .unwrap();
        device.send(&payload(11, 100)).unwrap();
    }
    for device in &live {
        device.send(&payload(12, 100)).unwrap();
    }
    world.reader(Topic::Telemetry).unwrap().read_exactly(26, SOON).unwrap();
}

#[test]
fn redis_is_killed_and_comes_back_with_its_data() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    live_sessions_go_on_and_no_new_one_is_opened(&mut redis, Redis::kill, |redis| redis.restart().unwrap());
}

#[test]
fn redis_stands_still() {
    let mut redis = Redis::start().unwrap();
    let (pause, resume) = (|r: &mut Redis| r.pause().unwrap(), |r: &mut Redis| r.resume().unwrap());
    live_sessions_go_on_and_no_new_one_is_opened(&mut redis, pause, resume);
}

#[test]
fn a_redis_that_comes_back_empty_opens_no_session_for_anybody() {
    let mut redis = Redis::start().unwrap();
    let world = World::on(&redis.url(), &Kafka::shared().unwrap().bootstrap()).unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let credentials = world.device().unwrap();
    let live = sdk.device(&credentials, Transport::Udp, edge.address());
    live.connect().unwrap();
    live.send(b"before").unwrap();
    redis.restart().unwrap();
    let late = sdk.device(&credentials, Transport::Udp, edge.address());
    let refused = late.start_connect(Duration::from_secs(5)).unwrap();
    live.send(b"after").unwrap();
    eprintln!("with an emptied Redis: {}", refused.failure().unwrap());
    world.reader(Topic::Telemetry).unwrap().read_exactly(2, SOON).unwrap();
}
