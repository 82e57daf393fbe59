//! Pods in one process, which share a store and a broker.
#![cfg(feature = "embedded-broker")]

use std::collections::HashSet;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use sluice_bus::{BusConfig, EmbeddedBroker, Start, Tail};
use sluice_edge::config::EdgeConfig;
use sluice_edge::{Count, Deps, Edge};
use sluice_peers::owner_of_slot;
use sluice_store::{HoldReason, KekRing, NewDevice, NewKey, Store};
use sluice_types::{PodId, Psk};

use super::{PSK, config, eventually, id, registered};

/// Partitions of the embedded broker's ledger.
pub const SLOTS: u16 = 4;

/// Devices of the registry.
pub const DEVICES: u8 = 12;

pub struct Pods {
    pub runtime: tokio::runtime::Runtime,
    pub deps: Deps,
    pub broker: EmbeddedBroker,
}

impl Pods {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
        let store = runtime.block_on(Store::in_memory(KekRing::generate().expect("random bytes")));
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let bus = broker.configure(&BusConfig::default());
        let deps = Deps { store: store.expect("a store in memory"), bus, meter };
        for number in 1..=DEVICES {
            let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
            let device = NewDevice::raw(registered(id(number)), key);
            runtime.block_on(deps.store.create_device(device)).expect("a new device");
        }
        Self { runtime, deps, broker }
    }

    pub fn listed(&self) -> Vec<PodId> {
        let pods = self.runtime.block_on(self.deps.store.pods()).expect("a store in memory");
        pods.iter().map(|pod| pod.pod).collect()
    }

    /// Two pods that both serve slots. A pod's name is drawn, and one in eight times either of two would have them all.
    pub fn two(&self) -> (Edge, Edge) {
        self.two_with(|_| {})
    }

    pub fn two_with(&self, change: impl Fn(&mut EdgeConfig) + Copy) -> (Edge, Edge) {
        let first = self.join_with(change);
        eventually("all slots are served", || first.handle().count(Count::SlotsAdopted) == u64::from(SLOTS));
        loop {
            let second = self.join_with(change);
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

    pub fn hold(&self, number: u8) -> Option<HoldReason> {
        let hold = self.runtime.block_on(self.deps.store.device_hold(registered(id(number))));
        hold.expect("a store in memory").map(|hold| hold.reason)
    }

    /// Waits for an event that holds all of these words.
    pub fn event(&self, topic: &str, words: &[&str]) {
        let tail =
            Tail::open(&self.deps.bus, &format!("sluice.{topic}"), Start::Beginning).expect("a consumer");
        let mut seen = Vec::new();
        eventually(&format!("{words:?} in {topic}"), || {
            let record = tail.next(Duration::from_millis(200)).expect("a readable topic");
            seen.extend(record.and_then(|record| record.event()).map(|event| event.to_string()));
            seen.iter().any(|event| words.iter().all(|word| event.contains(word)))
        });
    }

    pub fn drain(&self, pods: impl IntoIterator<Item = Edge>) {
        for pod in pods {
            let _devices_are_told = self.runtime.block_on(pod.drain());
        }
    }

    /// The slots that have a snapshot.
    pub fn snapshots(&self) -> Vec<u16> {
        let slots = 0..SLOTS;
        let found = |slot: &u16| self.runtime.block_on(self.deps.store.slot_snapshot(*slot));
        slots.filter(|slot| found(slot).expect("a store in memory").is_some()).collect()
    }

    pub fn join_with(&self, change: impl FnOnce(&mut EdgeConfig)) -> Edge {
        let mut config = config();
        config.cluster.enabled = true;
        config.cluster.snapshot_interval = Duration::from_millis(100);
        config.cluster.listen = "127.0.0.1:0".parse().expect("an address");
        change(&mut config);
        self.runtime.block_on(Edge::join(config, &self.deps)).expect("one of many pods")
    }
}
