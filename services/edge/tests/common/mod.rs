//! An edge with everything around it in this process: an embedded broker, a store in memory, real sockets on loopback.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod device;
pub mod pods;

use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider as _;
use sluice_bus::{BusConfig, EmbeddedBroker, Start, Tail, TailedRecord};
use sluice_edge::config::{EdgeConfig, Listen};
use sluice_edge::{Count, Deps, Edge, EdgeHandle, Ending};
use sluice_store::{KekRing, NewDevice, NewKey, Store};
use sluice_types::Psk;

/// The key of every device that the fixture registers.
pub const PSK: [u8; 32] = [0x5a; 32];

pub struct Fixture {
    pub runtime: tokio::runtime::Runtime,
    pub broker: EmbeddedBroker,
    pub bus: BusConfig,
    pub store: Store,
    pub edge: Option<Edge>,
    pub handle: EdgeHandle,
}

/// Listens on loopback, with two shards.
pub fn config() -> EdgeConfig {
    let any = Listen::On("127.0.0.1:0".parse().expect("an address"));
    EdgeConfig { tcp: any, udp: any, shards: std::num::NonZeroUsize::new(2), ..EdgeConfig::default() }
}

/// A device id with this number.
pub const fn id(number: u8) -> usmp::DeviceId {
    usmp::DeviceId([2, 0, 0, 0, 0, number])
}

/// One of more ids than a byte numbers.
pub fn nth_id(number: u64) -> usmp::DeviceId {
    let [.., a, b, c, d, e] = number.to_be_bytes();
    usmp::DeviceId([2, a, b, c, d, e])
}

/// How many idle sessions a test opens: `SLUICE_TEST_IDLE_SESSIONS`, or a number of its own.
pub fn idle_sessions(otherwise: u64) -> u64 {
    let given = std::env::var("SLUICE_TEST_IDLE_SESSIONS").ok();
    given.map_or(otherwise, |number| number.parse().expect("SLUICE_TEST_IDLE_SESSIONS is a number"))
}

pub const fn registered(device: usmp::DeviceId) -> sluice_types::DeviceId {
    sluice_types::DeviceId::from_bytes(device.0)
}

impl Fixture {
    pub fn start() -> Self {
        Self::with(config())
    }

    pub fn with(config: EdgeConfig) -> Self {
        Self::started(config, |_| {})
    }

    pub fn started(config: EdgeConfig, change: impl FnOnce(&mut BusConfig)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
        let mut bus = broker.configure(&BusConfig::default());
        change(&mut bus);
        let store = runtime
            .block_on(Store::in_memory(KekRing::generate().expect("random bytes")))
            .expect("a store in memory");
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let deps = Deps { store: store.clone(), bus: bus.clone(), meter };
        let entered = runtime.enter();
        let edge = Edge::start(config, &deps).expect("free ports");
        drop(entered);
        let handle = edge.handle();
        Self { runtime, broker, bus, store, edge: Some(edge), handle }
    }

    /// Registers devices 1 to `count` under [`PSK`].
    pub fn register(&self, count: u8) {
        for number in 1..=count {
            let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
            let device = NewDevice::raw(registered(id(number)), key);
            self.runtime.block_on(self.store.create_device(device)).expect("a new device");
        }
    }

    /// Registers so many devices with the ids of [`nth_id`] under [`PSK`].
    pub fn register_many(&self, count: u64) {
        for number in 0..count {
            let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
            let device = NewDevice::raw(registered(nth_id(number)), key);
            self.runtime.block_on(self.store.create_device(device)).expect("a new device");
        }
    }

    pub fn tcp(&self) -> std::net::SocketAddr {
        self.handle.addresses().tcp.expect("listening")
    }

    pub fn udp(&self) -> std::net::SocketAddr {
        self.handle.addresses().udp.expect("listening")
    }

    /// The first `count` records of a topic, from its beginning.
    pub fn records(&self, topic: &str, count: usize) -> Vec<TailedRecord> {
        let tail = Tail::open(&self.bus, &format!("sluice.{topic}"), Start::Beginning).expect("a consumer");
        let deadline = deadline();
        let mut records = Vec::new();
        while records.len() < count {
            records.extend(tail.next(Duration::from_millis(200)).expect("a readable topic"));
            assert!(!is_over(deadline), "{} of {count} records in {topic}: {records:?}", records.len());
        }
        records
    }

    /// The events of a topic until one fits.
    pub fn event(&self, topic: &str, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let tail = Tail::open(&self.bus, &format!("sluice.{topic}"), Start::Beginning).expect("a consumer");
        let deadline = deadline();
        let mut seen = Vec::new();
        loop {
            if let Some(record) = tail.next(Duration::from_millis(200)).expect("a readable topic") {
                let event = record.event().expect("an event");
                if fits(&event) {
                    return event;
                }
                seen.push(event);
            }
            assert!(!is_over(deadline), "no such event in {topic}: {seen:#?}");
        }
    }

    /// Waits until a counter has reached a value.
    pub fn await_count(&self, count: Count, least: u64) {
        eventually(&format!("{count:?} at {least}"), || self.handle.count(count) >= least);
    }

    pub fn drain(&mut self) -> Ending {
        let edge = self.edge.take().expect("not drained yet");
        self.runtime.block_on(edge.drain())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(edge) = self.edge.take() {
            self.runtime.block_on(edge.drain());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "real sockets need the real clock")]
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[expect(clippy::disallowed_methods, reason = "real sockets need the real clock")]
fn is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

/// Waits for an effect outside of the test, up to a deadline.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = deadline();
    while !happened() {
        assert!(!is_over(deadline), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
