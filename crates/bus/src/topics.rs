use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use crate::{BusConfig, BusError, BusKind};

/// How long brokers may take to answer a question about topics.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "described in docs/records.md")]
pub enum Topic {
    Telemetry,
    Lifecycle,
    Security,
    Dlq,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Telemetry, Self::Lifecycle, Self::Security, Self::Dlq];

    /// The name behind the prefix.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Lifecycle => "lifecycle",
            Self::Security => "security",
            Self::Dlq => "dlq",
        }
    }

    /// Days that records are kept where the brokers' own default is not right: refusals and dead letters are read late.
    const fn retention(self) -> Option<Duration> {
        const DAY: u64 = 24 * 60 * 60;
        match self {
            Self::Telemetry | Self::Lifecycle => None,
            Self::Security | Self::Dlq => Some(Duration::from_secs(30 * DAY)),
        }
    }
}

/// The full names under one prefix, made once.
#[derive(Debug, Clone)]
pub struct TopicNames([String; 4]);

impl TopicNames {
    /// The names under a prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self(Topic::ALL.map(|topic| format!("{prefix}.{}", topic.short_name())))
    }

    /// The full name.
    #[must_use]
    pub fn of(&self, topic: Topic) -> &str {
        &self.0[topic as usize]
    }
}

/// How topics are created.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions {
    /// Partitions of each new topic.
    pub partitions: i32,
    /// Copies of each record.
    pub replication_factor: i32,
    /// Whether an existing topic with another number of partitions is an error.
    pub exact_partitions: bool,
}

/// Creates the topics that are missing, and returns the names of those it created; existing ones are left as they are.
///
/// # Errors
///
/// [`BusError`]; what was created until then stays.
pub async fn apply(config: &BusConfig, options: ApplyOptions) -> Result<Vec<String>, BusError> {
    let names = TopicNames::new(&config.topic_prefix);
    let existing = partitions(config).await?;
    let mut missing = Vec::new();
    for topic in Topic::ALL {
        match existing.iter().find(|(name, _)| name == names.of(topic)) {
            None => missing.push(topic),
            Some((name, found))
                if options.exact_partitions && i32::try_from(*found) != Ok(options.partitions) =>
            {
                return Err(BusError::Partitions {
                    topic: name.clone(),
                    found: *found,
                    wanted: options.partitions,
                });
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let admin: AdminClient<DefaultClientContext> = config.client()?.create().map_err(BusError::Client)?;
    let min_insync = if options.replication_factor >= 3 { "2" } else { "1" };
    let retention = missing.iter().map(|topic| topic.retention().map(|time| time.as_millis().to_string()));
    let retention: Vec<_> = retention.collect();
    let wanted: Vec<_> = missing
        .iter()
        .zip(&retention)
        .map(|(&topic, retention)| {
            let replication = TopicReplication::Fixed(options.replication_factor);
            let new = NewTopic::new(names.of(topic), options.partitions, replication)
                .set("cleanup.policy", "delete")
                .set("min.insync.replicas", min_insync);
            match retention {
                Some(millis) => new.set("retention.ms", millis),
                None => new,
            }
        })
        .collect();
    let admin_options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN));
    let results = admin.create_topics(&wanted, &admin_options).await;
    let results =
        results.map_err(|source| BusError::Unreachable { brokers: config.brokers.join(","), source })?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(name) => created.push(name),
            // Somebody else was quicker.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(BusError::Create { topic, reason: code.to_string() }),
        }
    }
    Ok(created)
}

/// Asks the brokers whether all topics are there.
///
/// # Errors
///
/// [`BusError::Unreachable`] or [`BusError::TopicMissing`].
pub async fn check(config: &BusConfig) -> Result<(), BusError> {
    let existing = partitions(config).await?;
    let names = TopicNames::new(&config.topic_prefix);
    for topic in Topic::ALL {
        if !existing.iter().any(|(name, _)| name == names.of(topic)) {
            return Err(BusError::TopicMissing(names.of(topic).to_owned()));
        }
    }
    Ok(())
}

/// All topics with their numbers of partitions.
async fn partitions(config: &BusConfig) -> Result<Vec<(String, usize)>, BusError> {
    debug_assert!(
        config.kind == BusKind::Kafka || config.brokers.len() == 1,
        "an embedded broker has its address set"
    );
    let client = config.client()?;
    let brokers = config.brokers.join(",");
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().map_err(BusError::Client)?;
        let metadata = consumer.fetch_metadata(None, ANSWER_WITHIN);
        let metadata = metadata.map_err(|source| BusError::Unreachable { brokers, source })?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(topics.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
    });
    asked.await.expect("asking for metadata does not panic, and nobody cancels it")
}
