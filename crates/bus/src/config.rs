use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BusConfig {
    /// `kafka`, or `embedded`: a broker inside this process, in memory, for development. Default `kafka`.
    pub kind: BusKind,
    /// Brokers to ask first, as HOST:PORT. Default `["127.0.0.1:9092"]`.
    pub brokers: Vec<String>,
    /// Start of every topic's name. Default `sluice`. Pods that share sessions use it with one store; those of another store take no
    /// slot.
    pub topic_prefix: String,
    /// How batches are compressed: `none`, `gzip`, `snappy`, `lz4`. Default `lz4`; costs processor time, saves network and disk.
    pub compression: Compression,
    /// How long a record may wait for others to share its batch. Default `2ms`. Longer: fewer requests, later
    /// acknowledgements.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub linger: Duration,
    /// Groups that one writer commits together, 1 to 64; as many again may wait for it. Default 4.
    pub groups_in_flight: u8,
    /// What a record of a UDP session is promised: `exactly_once` commits it and its session's number in one transaction of Kafka;
    /// `at_least_once` commits one after the other, faster, and a pod that dies between them doubles the record. Not set by
    /// default: `exactly_once` with Kafka, `at_least_once` with the embedded broker, which can do no other. The same for all pods
    /// that share sessions: one that finds others with another one does not start.
    pub guarantee: Option<Guarantee>,
    /// Slots into which UDP sessions are divided: the partitions of the ledger topic when it is created, at least eight
    /// times the largest number of pods (a pod that is dealt none hands all of UDP to the others), 1 to 1024. Fixed at its creation:
    /// where the topic has another number, that one is used, and said. Default 64.
    pub slots: u16,
    /// Pause between two commits of one slot: with `exactly_once` from the end of one to the beginning of the next, with
    /// `at_least_once` between their beginnings. Default `3ms`. Longer: fewer, larger transactions, later acknowledgements. Shorter:
    /// the next transaction begins before Kafka has ended the last one, and waits 20 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub group_interval: Duration,
    /// Largest record, in bytes, headers included. Default 1000000, as Kafka's own default; must not be above the brokers'
    /// `message.max.bytes`.
    pub message_max_bytes: u32,
    /// How events are written: `protobuf` or `json`. Default `protobuf`.
    pub event_format: EventFormat,
    /// TLS and SASL.
    pub security: SecurityConfig,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            kind: BusKind::Kafka,
            brokers: vec!["127.0.0.1:9092".to_owned()],
            topic_prefix: "sluice".to_owned(),
            compression: Compression::Lz4,
            linger: Duration::from_millis(2),
            groups_in_flight: 4,
            guarantee: None,
            slots: 64,
            group_interval: Duration::from_millis(3),
            message_max_bytes: 1_000_000,
            event_format: EventFormat::Protobuf,
            security: SecurityConfig::default(),
        }
    }
}

/// What kind of broker there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BusKind {
    /// Apache Kafka.
    #[default]
    Kafka,
    /// The broker inside the process.
    Embedded,
}

/// What a record of a session in a slot is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Acknowledged means: in the topic once, for readers with `read_committed`.
    ExactlyOnce,
    /// Acknowledged means: in the topic at least once; a copy has the same `ce_id`.
    AtLeastOnce,
}

impl Guarantee {
    /// Its name in `bus.guarantee`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Kafka's")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    #[default]
    Lz4,
}

impl Compression {
    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
        }
    }
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    /// Binary protobuf, `proto/sluice/events/v1`.
    #[default]
    Protobuf,
    /// The same messages in protobuf's JSON mapping.
    Json,
}

/// TLS and SASL towards Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityConfig {
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`. All but the first need a build with the feature `kafka-tls`.
    /// Default `plaintext`.
    pub protocol: SecurityProtocol,
    /// `scram-sha-256`, `scram-sha-512` or `plain`; with a `sasl_` protocol. Default: none.
    pub mechanism: Option<SaslMechanism>,
    /// SASL user name. Default: none.
    pub username: Option<String>,
    /// File with the SASL password; white space around it is ignored. Default: none.
    pub password_file: Option<PathBuf>,
    /// File with the certificates (PEM) that may sign the brokers'. Default: the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a connection to Kafka is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Kafka's")]
pub enum SecurityProtocol {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl SecurityProtocol {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How SASL proves the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are SASL's")]
pub enum SaslMechanism {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    #[serde(rename = "plain")]
    Plain,
}

impl SaslMechanism {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
        }
    }
}

/// What librdkafka takes, and a device's message with its headers fits in.
const MESSAGE_MAX_BYTES: std::ops::RangeInclusive<u32> = 8_192..=100_000_000;

/// Beyond it every acknowledgement would be later than a device's first repeat.
const LONGEST_GROUP_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_LINGER: Duration = Duration::from_millis(200);

impl BusConfig {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let prefix = &self.topic_prefix;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=200).contains(&prefix.len()) || !prefix.bytes().all(allowed) {
            return Err(ConfigError::TopicPrefix(prefix.clone()));
        }
        if !(1..=64).contains(&self.groups_in_flight) {
            return Err(ConfigError::GroupsInFlight(self.groups_in_flight));
        }
        if !MESSAGE_MAX_BYTES.contains(&self.message_max_bytes) {
            return Err(ConfigError::MessageMaxBytes(self.message_max_bytes));
        }
        if self.linger > LONGEST_LINGER {
            return Err(ConfigError::Linger(self.linger));
        }
        if !(1..=1024).contains(&self.slots) {
            return Err(ConfigError::Slots(self.slots));
        }
        if self.group_interval > LONGEST_GROUP_INTERVAL {
            return Err(ConfigError::GroupInterval(self.group_interval));
        }
        if self.kind == BusKind::Embedded {
            return match self.guarantee {
                Some(Guarantee::ExactlyOnce) => Err(ConfigError::NoTransactions),
                _ => Ok(()),
            };
        }
        if self.brokers.is_empty() {
            return Err(ConfigError::NoBrokers);
        }
        let has_port = |broker: &&String| {
            broker
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(wrong) = self.brokers.iter().find(|broker| !has_port(broker)) {
            return Err(ConfigError::Broker(wrong.clone()));
        }
        let security = &self.security;
        let name = security.protocol.as_str();
        if security.protocol != SecurityProtocol::Plaintext && !cfg!(feature = "kafka-tls") {
            return Err(ConfigError::TlsNotBuilt(name));
        }
        let complete =
            security.mechanism.is_some() && security.username.is_some() && security.password_file.is_some();
        if security.protocol.is_sasl() && !complete {
            return Err(ConfigError::SaslIncomplete(name));
        }
        Ok(())
    }

    /// What a record of a session in a slot is promised here.
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        self.guarantee.unwrap_or(match self.kind {
            BusKind::Kafka => Guarantee::ExactlyOnce,
            BusKind::Embedded => Guarantee::AtLeastOnce,
        })
    }

    /// What every client of these brokers starts from.
    pub(crate) fn client(&self) -> Result<ClientConfig, ConfigError> {
        self.validate()?;
        let mut client = ClientConfig::new();
        client
            .set_log_level(RDKafkaLogLevel::Warning)
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "sluice")
            // A broker that comes back is found again within a second.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // A broker that stands still is given up, and another one asked who leads, after this long; what it was sent is
            // sent again under the same sequence numbers. The default, a minute, would hold records back for as long.
            .set("socket.timeout.ms", "15000");
        let security = &self.security;
        if security.protocol != SecurityProtocol::Plaintext {
            client.set("security.protocol", security.protocol.as_str());
        }
        if let Some(path) = &security.ca_file {
            read(path, "ca_file")?;
            client.set("ssl.ca.location", path.to_string_lossy());
        }
        if security.protocol.is_sasl()
            && let (Some(mechanism), Some(username), Some(path)) =
                (security.mechanism, &security.username, &security.password_file)
        {
            let password = read(path, "password_file")?;
            client
                .set("sasl.mechanism", mechanism.as_str())
                .set("sasl.username", username)
                .set("sasl.password", String::from_utf8_lossy(password.trim_ascii()));
        }
        Ok(client)
    }

    /// A producer that gives up nothing by itself while the process lives: a record waits for Kafka as long as it must.
    pub(crate) fn producer(&self) -> Result<ClientConfig, ConfigError> {
        let mut client = self.client()?;
        let linger = self.linger.as_secs_f64() * 1000.0;
        client
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // 0: no limit. What is not delivered is neither acknowledged nor forgotten; back-pressure bounds it.
            .set("message.timeout.ms", "0")
            .set("partitioner", "murmur2_random")
            .set("compression.type", self.compression.as_str())
            .set("linger.ms", linger.to_string())
            .set("message.max.bytes", self.message_max_bytes.to_string())
            // Bounded by the groups under way; when they are more than this, the writer waits for reports.
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "262144")
            // The largest number with which idempotence keeps the order.
            .set("max.in.flight.requests.per.connection", "5")
            .set("statistics.interval.ms", "5000");
        Ok(client)
    }
}

/// A coordinator aborts a transaction of a writer that stands still after this long: no longer do readers wait for it.
const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// A record that waits this long makes its writer abort and try again, before the coordinator aborts and bars the writer.
const RECORD_TIMEOUT_MS: &str = "7000";

impl BusConfig {
    /// The one writer of a slot: transactional where that is promised.
    pub(crate) fn slot_producer(&self, slot: u16) -> Result<ClientConfig, ConfigError> {
        let mut client = self.producer()?;
        // A group is complete when it is produced: nothing more comes that a batch could wait for.
        client.set("linger.ms", "0").set("socket.timeout.ms", "5000");
        // There are many slots, and nobody reads their statistics.
        client.set("statistics.interval.ms", "0");
        if self.guarantee() == Guarantee::ExactlyOnce {
            client
                .set("transactional.id", format!("{}-slot-{slot}", self.topic_prefix))
                .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
                .set("message.timeout.ms", RECORD_TIMEOUT_MS);
        }
        Ok(client)
    }

    /// A reader of ledgers.
    pub(crate) fn ledger_reader(&self) -> Result<ClientConfig, ConfigError> {
        let mut client = self.client()?;
        client
            .set("group.id", "sluice-ledger")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // What was forgotten must be noticed, not skipped.
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "20")
            .set("fetch.error.backoff.ms", "20")
            .set("queued.min.messages", "20000")
            .set("queued.max.messages.kbytes", "16384");
        Ok(client)
    }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { key, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_usable_and_survive_their_text() {
        let config = BusConfig::default();
        config.validate().expect("the defaults are valid");
        let json = serde_json::to_string(&config).expect("plain data");
        assert_eq!(serde_json::from_str::<BusConfig>(&json).expect("just written"), config);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_name_of_its_key() {
        let refused = |config: BusConfig| config.validate().expect_err("refused").to_string();
        let base = BusConfig::default;
        assert!(refused(BusConfig { brokers: vec![], ..base() }).contains("bus.brokers"));
        assert!(refused(BusConfig { brokers: vec!["kafka".into()], ..base() }).contains("HOST:PORT"));
        assert!(refused(BusConfig { topic_prefix: "a/b".into(), ..base() }).contains("bus.topic_prefix"));
        assert!(refused(BusConfig { groups_in_flight: 0, ..base() }).contains("bus.groups_in_flight"));
        assert!(refused(BusConfig { slots: 0, ..base() }).contains("bus.slots"));
        let interval = Duration::from_secs(1);
        assert!(refused(BusConfig { group_interval: interval, ..base() }).contains("bus.group_interval"));
        assert!(refused(BusConfig { message_max_bytes: 100, ..base() }).contains("bus.message_max_bytes"));
        assert!(refused(BusConfig { linger: Duration::from_secs(1), ..base() }).contains("bus.linger"));
        let mut tls = base();
        tls.security.protocol = SecurityProtocol::SaslSsl;
        let expected = if cfg!(feature = "kafka-tls") { "bus.security.mechanism" } else { "kafka-tls" };
        assert!(refused(tls).contains(expected));
    }

    #[test]
    fn guarantee_is_the_best_the_broker_can_and_more_is_refused() {
        let with = |kind, guarantee| BusConfig { kind, guarantee, ..BusConfig::default() };
        let (exactly, at_least) = (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce);
        for (kind, asked, expected) in [
            (BusKind::Kafka, None, exactly),
            (BusKind::Kafka, Some(at_least), at_least),
            (BusKind::Embedded, None, at_least),
            (BusKind::Embedded, Some(at_least), at_least),
        ] {
            let config = with(kind, asked);
            config.validate().expect("possible");
            assert_eq!(config.guarantee(), expected, "{kind:?} {asked:?}");
        }
        let refused =
            with(BusKind::Embedded, Some(exactly)).validate().expect_err("no transactions").to_string();
        assert!(refused.contains("bus.guarantee") && refused.contains("bus.kind"), "{refused}");
        let read: BusConfig =
            serde_json::from_str(r#"{"guarantee": "at_least_once"}"#).expect("a key of ours");
        assert_eq!(read.guarantee, Some(at_least));
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let refused = serde_json::from_str::<BusConfig>(r#"{"broker": []}"#).expect_err("no such key");
        assert!(refused.to_string().contains("`broker`"), "{refused}");
    }
}
