//! Two pods in one process, which share a store and a broker.
#![cfg(feature = "embedded-broker")]

mod common;

use std::collections::HashSet;

use common::device::{PATIENCE, TcpDevice, UdpDevice};
use common::{PSK, config, eventually, id, registered};
use opentelemetry::metrics::MeterProvider as _;
use sluice_bus::{BusConfig, EmbeddedBroker, Start, Tail};
use sluice_edge::{Count, Deps, Edge};
use sluice_peers::owner_of_slot;
use sluice_store::{KekRing, NewDevice, NewKey, Store};
use sluice_types::{PodId, Psk};
use usmp::wire::FrameType;

/// Partitions of the embedded broker's ledger.
const SLOTS: u16 = 4;

struct Pods {
    runtime: tokio::runtime::Runtime,
    deps: Deps,
    _broker: EmbeddedBroker,
}

impl Pods {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
        let store = runtime.block_on(Store::in_memory(KekRing::generate().expect("random bytes")));
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let bus = broker.configure(&BusConfig::default());
        let deps = Deps { store: store.expect("a store in memory"), bus, meter };
        let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
        let device = NewDevice::raw(registered(id(1)), key);
        runtime.block_on(deps.store.create_device(device)).expect("a new device");
        Self { runtime, deps, _broker: broker }
    }

    fn listed(&self) -> Vec<PodId> {
        let pods = self.runtime.block_on(self.deps.store.pods()).expect("a store in memory");
        pods.iter().map(|pod| pod.pod).collect()
    }

    /// Two pods that both serve slots. A pod's name is drawn, and one in eight times either of two would have them all.
    fn two(&self) -> (Edge, Edge) {
        let first = self.join();
        eventually("all slots are served", || first.handle().count(Count::SlotsAdopted) == u64::from(SLOTS));
        loop {
            let second = self.join();
            eventually("both pods say that they live", || self.listed().len() == 2);
            let owners: HashSet<_> =
                (0..SLOTS).filter_map(|slot| owner_of_slot(slot, &self.listed())).collect();
            if owners.len() == 2 {
                // It has slots once it hears the other pod, and is heard by it.
                eventually("the second has its share", || second.handle().count(Count::SlotsAdopted) > 0);
                return (first, second);
            }
            let _nothing_is_lost = self.runtime.block_on(second.drain());
            eventually("it is off the list", || self.listed().len() == 1);
        }
    }

    /// The slots that have a snapshot.
    fn snapshots(&self) -> Vec<u16> {
        let slots = 0..SLOTS;
        let found = |slot: &u16| self.runtime.block_on(self.deps.store.slot_snapshot(*slot));
        slots.filter(|slot| found(slot).expect("a store in memory").is_some()).collect()
    }

    fn join(&self) -> Edge {
        let mut config = config();
        config.cluster.enabled = true;
        config.cluster.snapshot_interval = std::time::Duration::from_millis(100);
        config.cluster.listen = "127.0.0.1:0".parse().expect("an address");
        self.runtime.block_on(Edge::join(config, &self.deps)).expect("one of many pods")
    }
}

#[test]
fn a_device_that_comes_to_another_pod_ends_its_older_session_there() {
    let pods = Pods::new();
    let (first, second) = pods.two();

    let mut old = TcpDevice::connect(first.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    old.send(b"one");
    eventually("the first message is committed", || first.handle().count(Count::MessagesCommitted) == 1);
    let holder = pods.runtime.block_on(pods.deps.store.device_location(registered(id(1))));
    let before = holder.expect("a store in memory").expect("the device is held");

    let mut new = TcpDevice::connect(second.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    new.send(b"two");
    eventually("the older session ends", || first.handle().count(Count::SessionsClosedTcp) == 1);
    assert_eq!(second.handle().count(Count::SessionsClosedTcp), 0, "the newer one goes on");
    new.send(b"three");
    eventually("so does what it says", || second.handle().count(Count::MessagesCommitted) == 2);
    let holder = pods.runtime.block_on(pods.deps.store.device_location(registered(id(1))));
    let after = holder.expect("a store in memory").expect("the device is held");
    assert!(after.pod != before.pod && after.epoch > before.epoch, "{before:?} then {after:?}");

    let tail = Tail::open(&pods.deps.bus, "sluice.lifecycle", Start::Beginning).expect("a consumer");
    let mut reasons = Vec::new();
    eventually("the lifecycle says why", || {
        let record = tail.next(std::time::Duration::from_millis(200)).expect("a readable topic");
        let event = record.and_then(|record| record.event());
        reasons.extend(event.map(|event| event["closed"]["reason"].to_string()));
        reasons.iter().any(|reason| reason.contains("TAKEN_OVER"))
    });
    for pod in [first, second] {
        let _devices_are_told = pods.runtime.block_on(pod.drain());
    }
}

#[test]
fn a_session_over_udp_goes_on_from_a_snapshot_and_ends_asleep_when_its_device_comes_anew() {
    let pods = Pods::new();
    let (first, second) = pods.two();
    let udp = |pod: &Edge| pod.handle().addresses().udp.expect("listening");
    let mut device = UdpDevice::connect(udp(&first), id(1), &PSK);
    let seq = device.transmit(FrameType::Data, b"one");
    assert!(device.is_acknowledged(FrameType::Data, seq, PATIENCE));
    eventually("its slot has a snapshot", || !pods.snapshots().is_empty());

    // The one pod dies; the other one has the session, which says nothing.
    drop(first);
    eventually("the slots of the dead pod are served", || {
        second.handle().count(Count::SlotsAdopted) - second.handle().count(Count::SlotsLeft)
            == u64::from(SLOTS)
    });
    assert_eq!(second.handle().count(Count::SnapshotsDiscarded), 0);
    assert_eq!(second.handle().count(Count::SessionsOrphaned), 0);

    let mut new = TcpDevice::connect(second.handle().addresses().tcp.expect("listening"), id(1), &PSK);
    new.send(b"two");
    eventually("the sleeping session is over", || second.handle().count(Count::SessionsReplacedAsleep) == 1);
    let _device_is_told = pods.runtime.block_on(second.drain());
}
