use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::{BusConfig, BusError, BusKind, Topic, TopicNames};

/// Slots of a deployment of one process.
const SLOTS: i32 = 4;

/// A Kafka broker inside this process, for development: librdkafka's mock cluster.
///
/// Its limits, to be told where a user meets it: records are in memory and gone with the process; 5 MiB or 100,000 of them are
/// kept per partition, older ones are evicted silently; the system chooses the port; it has no CreateTopics, no offsets by
/// time and no read_committed; Java's console consumer reads nothing from it. kcat and clients on librdkafka work.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBroker").field("address", &self.address()).finish()
    }
}

impl EmbeddedBroker {
    /// Starts a broker on a loopback port of the system's choice, with every topic under the prefix.
    ///
    /// # Errors
    ///
    /// [`BusError::Client`] when it cannot start.
    pub fn start(topic_prefix: &str, partitions: i32) -> Result<Self, BusError> {
        let cluster = MockCluster::new(1).map_err(BusError::Client)?;
        let names = TopicNames::new(topic_prefix);
        for topic in Topic::ALL {
            let partitions = if topic == Topic::Ledger { SLOTS } else { partitions };
            cluster.create_topic(names.of(topic), partitions, 1).map_err(BusError::Client)?;
        }
        Ok(Self { cluster })
    }

    #[cfg(test)]
    pub(crate) const fn cluster(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.cluster
    }

    /// Where it listens, as HOST:PORT.
    #[must_use]
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Takes the broker away, or brings it back with all it had: an outage, for tests.
    ///
    /// # Errors
    ///
    /// [`BusError::Client`] when it is gone for good.
    pub fn set_available(&self, available: bool) -> Result<(), BusError> {
        let changed = if available { self.cluster.broker_up(1) } else { self.cluster.broker_down(1) };
        changed.map_err(BusError::Client)
    }

    /// The configuration with which clients reach it.
    #[must_use]
    pub fn configure(&self, config: &BusConfig) -> BusConfig {
        BusConfig { kind: BusKind::Embedded, brokers: vec![self.address()], ..config.clone() }
    }
}
