use std::path::PathBuf;
use std::time::Duration;

use rdkafka::error::KafkaError;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No broker is named.
    #[error("bus.brokers is empty: name at least one broker, such as [\"kafka:9092\"]")]
    NoBrokers,
    /// A broker without a port.
    #[error("bus.brokers has `{0}`: write HOST:PORT")]
    Broker(String),
    /// A topic prefix that Kafka would not take.
    #[error("bus.topic_prefix is `{0}`: use 1 to 200 letters, digits, `.`, `_` and `-`")]
    TopicPrefix(String),
    /// Too few or too many groups.
    #[error("bus.groups_in_flight is {0}: give it 1 to 64")]
    GroupsInFlight(u8),
    /// A limit of the record's size that cannot work.
    #[error(
        "bus.message_max_bytes is {0}: give it 8192 to 100000000, and not above the brokers' message.max.bytes"
    )]
    MessageMaxBytes(u32),
    /// Too long a wait for company.
    #[error("bus.linger is {0:?}: give it at most 200ms, devices wait for it")]
    Linger(Duration),
    /// Too few or too many slots.
    #[error("bus.slots is {0}: give it 1 to 1024, at least eight times the largest number of pods")]
    Slots(u16),
    /// Too long a wait between commits.
    #[error("bus.group_interval is {0:?}: give it at most 500ms, devices wait for it")]
    GroupInterval(Duration),
    /// The broker inside the process has no transactions that readers respect.
    #[error(
        "bus.guarantee = \"exactly_once\" needs a Kafka: the embedded broker gives at_least_once alone; set bus.kind = \"kafka\", or \
         leave bus.guarantee out"
    )]
    NoTransactions,
    /// TLS or SASL without the feature.
    #[error("bus.security.protocol = \"{0}\" needs a build with the feature `kafka-tls`")]
    TlsNotBuilt(&'static str),
    /// SASL settings are missing.
    #[error("bus.security.protocol = \"{0}\" needs bus.security.mechanism, username and password_file")]
    SaslIncomplete(&'static str),
    /// A file of the configuration cannot be read.
    #[error("cannot read {path} (bus.security.{key})", path = path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Why something could not be done with the brokers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// librdkafka refused the configuration or could not start.
    #[error("cannot start the Kafka client")]
    Client(#[source] KafkaError),
    /// No broker answered in time.
    #[error(
        "no answer from Kafka at {brokers}: check bus.brokers and that the brokers' advertised listeners are reachable"
    )]
    Unreachable {
        /// As configured.
        brokers: String,
        /// What librdkafka said.
        #[source]
        source: KafkaError,
    },
    /// A topic is missing.
    #[error("topic {0} does not exist: create the topics with `sluice topics apply`")]
    TopicMissing(String),
    /// Offsets to read from that are not in the topic.
    #[error("cannot read topic {topic} from there: {reason}")]
    Offsets {
        /// The topic.
        topic: String,
        /// What does not fit.
        reason: String,
    },
    /// Reading stopped before the end.
    #[error(
        "no record of topic {topic} came within {after:?}, {left} partitions are not read to their end: check that every partition has \
         a leader, and try again"
    )]
    Stalled {
        /// The topic.
        topic: String,
        /// Partitions not read to their end.
        left: usize,
        /// How long was waited.
        after: Duration,
    },
    /// A topic exists with another number of partitions.
    #[error(
        "topic {topic} has {found} partitions, {wanted} were asked for: the number is fixed at creation, since the order of a \
         device's records depends on it"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// Its partitions.
        found: usize,
        /// What was asked for.
        wanted: i32,
    },
    /// A topic could not be created.
    #[error("cannot create topic {topic}: {reason}")]
    Create {
        /// The topic.
        topic: String,
        /// What Kafka said.
        reason: String,
    },
    /// Reading failed.
    #[error("cannot read from Kafka")]
    Read(#[source] KafkaError),
    /// The thread of a writer could not be started.
    #[error("cannot start a thread for a writer")]
    Thread(#[source] std::io::Error),
}
