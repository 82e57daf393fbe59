//! A pod whose settings do not fit the fleet it comes to: another store, another guarantee, an address that leads nowhere. None of them
//! touches a slot.

use std::time::Duration;

use sluice_test_env::{Kafka, Redis};
use sluice_tests::{Edge, EdgeOptions, Sdk, Transport, World, wait_for};

use crate::rolled_back::operator;

const WITHIN: Duration = Duration::from_secs(60);

fn pod() -> EdgeOptions {
    EdgeOptions::default()
        .with("edge.cluster.enabled", true)
        .with("edge.cluster.listen", "127.0.0.1:0")
        .with("edge.cluster.advertise", "127.0.0.1:0")
}

/// Waits until that stands in its log.
fn says(edge: &Edge, text: &str) {
    wait_for(text, WITHIN, || {
        let log = edge.log().map_err(|error| format!("{error:#}"))?;
        if log.contains(text) { Ok(()) } else { Err("not so far".to_owned()) }
    })
    .unwrap();
}

/// It is alive, or a probe would end it, and not ready.
fn waits(edge: &Edge) -> bool {
    let status = |path| edge.ask("GET", path, b"").unwrap().0;
    (status("/livez"), status("/readyz")) == (200, 503) && !was_ready(edge)
}

fn was_ready(edge: &Edge) -> bool {
    edge.log().unwrap().contains(r#""message":"ready""#)
}

fn adopted(edge: &Edge) -> f64 {
    edge.metric("sluice_edge_slots_adopted_total", &[]).unwrap()
}

const NOT_ITS_OWN: &str = "the ledgers belong to the pods of another store";

#[test]
fn a_pod_of_another_deployment_takes_no_slot_of_a_fleet_whose_topics_it_was_given_by_mistake() {
    let [fleet, other] = [World::shared().unwrap(), World::shared().unwrap()];
    let edge = Edge::start(&fleet, &pod()).unwrap();
    let device = fleet.device().unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let device = sdk.device(&device, Transport::Udp, edge.address());
    device.connect().unwrap();
    device.send(b"before").unwrap();

    let prefix = fleet.bus_config().topic_prefix.as_str();
    let mut stranger = Edge::begin(&other, &pod().with("bus.topic_prefix", prefix)).unwrap();
    says(&stranger, NOT_ITS_OWN);
    for text in [prefix, "bus.topic_prefix", "store.redis.key_prefix", "sluice store accept"] {
        assert!(stranger.log().unwrap().contains(text), "it does not say {text}");
    }
    device.send(b"meanwhile").unwrap();
    assert!(was_ready(&edge) && waits(&stranger));
    assert_eq!(edge.metric("sluice_edge_slots_lost_total", &[]).unwrap(), 0.0, "nothing was taken");
    assert!(stranger.terminate(WITHIN).unwrap().success(), "it waits for nothing that holds it up");

    // With a name of its own it serves.
    Edge::start(&other, &pod()).unwrap();
}

#[test]
fn pods_on_a_redis_that_was_emptied_while_none_ran_wait_for_an_operator_and_go_on_when_he_accepts_it() {
    let redis = Redis::start().unwrap();
    let world = World::on(&redis.url(), &Kafka::shared().unwrap().bootstrap()).unwrap();
    let mut edge = Edge::start(&world, &pod()).unwrap();
    wait_for("a slot of its own", WITHIN, || if adopted(&edge) > 0.0 { Ok(()) } else { Err(String::new()) })
        .unwrap();
    assert!(edge.terminate(WITHIN).unwrap().success());
    redis.flush().unwrap();

    // Nothing was ever revoked, so that nothing is missing; but nobody knows whose slots these are.
    let waiting = [Edge::begin(&world, &pod()).unwrap(), Edge::begin(&world, &pod()).unwrap()];
    for edge in &waiting {
        says(edge, NOT_ITS_OWN);
        assert!(waits(edge));
    }
    operator(&waiting[0], &["store", "accept"]);
    for edge in &waiting {
        edge.wait_ready_again().unwrap();
    }
    // For good, also where one slot is still the old store's.
    edge.restart().unwrap();
}

#[test]
fn a_pod_that_promises_less_than_the_others_is_refused() {
    let world = World::shared().unwrap();
    let options = pod().with("bus.guarantee", "exactly_once").with("bus.slots", 1024);
    let edge = Edge::start(&world, &options).unwrap();
    says(&edge, "bus.slots is 1024, but");
    says(&edge, r#""guarantee":"exactly_once""#);
    let options = pod().with("bus.guarantee", "at_least_once").without_parent();
    let mut other = Edge::begin(&world, &options).unwrap();
    says(&other, "a pod of this fleet runs bus.guarantee");
    assert!(!other.ended(WITHIN).unwrap().success());
    says(&other, "To change it for all, stop all pods");
    assert!(!was_ready(&other));
    assert_eq!(edge.metric("sluice_edge_slots_lost_total", &[]).unwrap(), 0.0, "nothing was taken");

    // A fleet that was stopped starts with the other one.
    drop(other);
    let mut edge = edge;
    assert!(edge.terminate(WITHIN).unwrap().success());
    Edge::start(&world, &options).unwrap();
}

#[test]
fn a_pod_under_a_name_that_nobody_knows_takes_no_slot() {
    let world = World::shared().unwrap();
    let options = pod().with("edge.cluster.advertise", "edge.invalid:0");
    let edge = Edge::begin(&world, &options).unwrap();
    says(&edge, "waiting for the name in edge.cluster.advertise");
    assert!(waits(&edge));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(sluice_bus::witnesses(world.bus_config())).unwrap();
    assert_eq!(found.last, [], "nobody's slots");
}
