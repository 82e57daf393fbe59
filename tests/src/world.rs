//! A corner of Redis and Kafka that no other test sees.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt as _;
use sluice_bus::{ApplyOptions, BusConfig, Scan, ScanOptions, Step, TailedRecord, Topic, TopicNames};
use sluice_store::{
    KekRing, LogPosition, NewDevice, NewKey, RedisConfig, RevocationOutcome, Store, StoreConfig, StoreKind,
};
use sluice_test_env::{Kafka, Redis, unique};
use sluice_types::{DeviceId, PodId, Psk};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::topic::TopicReader;

/// Partitions of each topic.
const PARTITIONS: i32 = 4;

/// Slots where a test does not care.
const SLOTS: u16 = 4;

/// What a device proves itself with.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its id.
    pub id: DeviceId,
    /// Its key.
    pub psk: Psk,
}

impl Credentials {
    /// A fresh id and a fresh random key that nobody has registered.
    #[must_use]
    pub fn unregistered() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let [a, b, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let psk = Psk::new(&rand::rng().random::<[u8; 32]>()).expect("32 random bytes are a key");
        Self { id: DeviceId::from_bytes([0x02, 0x00, a, b, c, d]), psk }
    }
}

/// A key prefix in Redis, a topic prefix in Kafka, and the registry in it.
#[derive(Debug)]
pub struct World {
    runtime: Runtime,
    store: Store,
    store_config: StoreConfig,
    bus: BusConfig,
    folder: TempDir,
}

impl World {
    /// On the shared servers, which must not be hurt.
    ///
    /// # Errors
    /// A server cannot be started or reached.
    pub fn shared() -> Result<Self> {
        Self::on(&Redis::shared()?.url(), &Kafka::shared()?.bootstrap())
    }

    /// On these servers.
    ///
    /// # Errors
    /// They cannot be reached.
    pub fn on(redis_url: &str, kafka: &str) -> Result<Self> {
        Self::with_slots(redis_url, kafka, SLOTS, 1)
    }

    /// On these servers, with so many slots for the sessions over UDP, and so many copies of each topic.
    ///
    /// # Errors
    /// They cannot be reached.
    pub fn with_slots(redis_url: &str, kafka: &str, slots: u16, copies: i32) -> Result<Self> {
        let redis = RedisConfig { urls: vec![redis_url.to_owned()], ..RedisConfig::default() };
        Self::with_redis(redis, kafka, slots, copies)
    }

    /// The same with whatever servers of Redis; the prefix of its keys is chosen here.
    ///
    /// # Errors
    /// They cannot be reached.
    pub fn with_redis(mut redis: RedisConfig, kafka: &str, slots: u16, copies: i32) -> Result<Self> {
        for url in &mut redis.urls {
            url.truncate(url.trim_end_matches('/').len());
        }
        redis.key_prefix = unique("e2e");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("no runtime")?;
        let folder = tempfile::tempdir().context("no folder for the edge's files")?;
        let kek_file = folder.path().join("kek");
        KekRing::create_file(&kek_file)?;
        let store_config = StoreConfig { kind: StoreKind::Redis, kek_file, redis, ..StoreConfig::default() };
        let bus = BusConfig {
            brokers: kafka.split(',').map(str::to_owned).collect(),
            topic_prefix: unique("e2e"),
            slots,
            ..BusConfig::default()
        };
        let store = runtime.block_on(Store::open(&store_config))?;
        let options =
            ApplyOptions { partitions: PARTITIONS, replication_factor: copies, exact_partitions: true };
        runtime.block_on(sluice_bus::apply(&bus, options))?;
        Ok(Self { runtime, store, store_config, bus, folder })
    }

    /// Registers a device with a fresh id and key.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn device(&self) -> Result<Credentials> {
        let credentials = Credentials::unregistered();
        let new = NewDevice::raw(credentials.id, NewKey::Individual(credentials.psk.clone()));
        self.runtime.block_on(self.store.create_device(new)).context("cannot register a device")?;
        Ok(credentials)
    }

    /// Registers many.
    ///
    /// # Errors
    /// The registry refuses one.
    pub fn devices(&self, count: usize) -> Result<Vec<Credentials>> {
        (0..count).map(|_| self.device()).collect()
    }

    /// Revokes a device; the running edges hear of it by themselves. Returns the place in the revocation log.
    ///
    /// # Errors
    /// The registry refuses it, or cannot be reached.
    pub fn revoke(&self, id: DeviceId) -> Result<LogPosition> {
        let reason = "a test".parse().context("no reason")?;
        self.runtime.block_on(self.store.revoke(id, &reason)).context("cannot revoke")
    }

    /// The pods that have not said that they applied the revocation log up to there; waits as long as `patience` for them.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub fn revocation_outstanding(&self, position: LogPosition, patience: Duration) -> Result<Vec<PodId>> {
        let outcome = self.runtime.block_on(self.store.revocation_complete(position, patience));
        Ok(match outcome.context("cannot ask how far a revocation is applied")? {
            RevocationOutcome::Completed => Vec::new(),
            RevocationOutcome::Outstanding(pods) => pods,
        })
    }

    /// Reads a topic from its beginning.
    ///
    /// # Errors
    /// Kafka is not reached.
    pub fn reader(&self, topic: Topic) -> Result<TopicReader> {
        TopicReader::open(&self.brokers(), &self.topic_name(topic), PARTITIONS)
    }

    /// Everything that is committed in a topic now, each partition in its order.
    ///
    /// # Errors
    /// Kafka is not reached, or stops answering.
    pub fn committed(&self, topic: Topic) -> Result<Vec<TailedRecord>> {
        let mut scan = Scan::open(&self.bus, &self.topic_name(topic), &ScanOptions::default())?;
        let mut records = Vec::new();
        loop {
            match scan.step()? {
                Step::Record(record) => records.push(record),
                Step::Waiting => {}
                Step::End => return Ok(records),
            }
        }
    }

    /// The full name of a topic.
    #[must_use]
    pub fn topic_name(&self, topic: Topic) -> String {
        TopicNames::new(&self.bus.topic_prefix).of(topic).to_owned()
    }

    /// `host:port` of Kafka.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.bus.brokers.join(",")
    }

    /// The store's settings, as an edge in this world needs them.
    #[must_use]
    pub const fn store_config(&self) -> &StoreConfig {
        &self.store_config
    }

    /// The bus's settings, as an edge in this world needs them.
    #[must_use]
    pub const fn bus_config(&self) -> &BusConfig {
        &self.bus
    }

    /// A folder that goes with this value.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in [`World::folder`].
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
