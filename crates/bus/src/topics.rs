use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;

use crate::client::Voice;
use crate::{BusConfig, BusError, BusKind};

/// How long brokers may take to answer a question about topics.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often a topic that was just created is asked for.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// An hour.
const LEDGER_SEGMENT_MS: &str = "3600000";

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "described in docs/records.md")]
pub enum Topic {
    Telemetry,
    Lifecycle,
    Security,
    Dlq,
    /// The journals of the slots, one partition each; not for readers outside.
    Ledger,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Telemetry, Self::Lifecycle, Self::Security, Self::Dlq, Self::Ledger];

    /// The name behind the prefix.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Lifecycle => "lifecycle",
            Self::Security => "security",
            Self::Dlq => "dlq",
            Self::Ledger => "ledger",
        }
    }

    /// How long records are kept where the brokers' own default is not right: refusals and dead letters are read late, and what a
    /// ledger said of a live session is said again within hours.
    const fn retention(self) -> Option<Duration> {
        const DAY: u64 = 24 * 60 * 60;
        match self {
            Self::Telemetry | Self::Lifecycle => None,
            Self::Security | Self::Dlq => Some(Duration::from_secs(30 * DAY)),
            Self::Ledger => Some(Duration::from_secs(DAY)),
        }
    }

    /// Partitions of a new topic.
    fn partitions(self, config: &BusConfig, options: ApplyOptions) -> i32 {
        if self == Self::Ledger { i32::from(config.slots) } else { options.partitions }
    }
}

/// The full names under one prefix, made once.
#[derive(Debug, Clone)]
pub struct TopicNames([String; 5]);

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
    /// Partitions of each new topic; the ledger has as many as there are slots (`bus.slots`).
    pub partitions: i32,
    /// Copies of each record.
    pub replication_factor: i32,
    /// Whether an existing topic with another number of partitions is an error.
    pub exact_partitions: bool,
}

/// Creates the topics that are missing, and returns the names of those it created; existing ones are left as they are.
/// Returns when the brokers know all of them. A broker inside the process makes its topics itself and has nothing to add.
///
/// # Errors
///
/// [`BusError`]; what was created until then stays.
pub async fn apply(config: &BusConfig, options: ApplyOptions) -> Result<Vec<String>, BusError> {
    let names = TopicNames::new(&config.topic_prefix);
    let existing = topics(config).await?;
    let mut missing = Vec::new();
    for topic in Topic::ALL {
        match existing.iter().find(|found| found.name == names.of(topic)) {
            None => missing.push(topic),
            Some(found)
                if options.exact_partitions
                    && i32::try_from(found.partitions) != Ok(topic.partitions(config, options)) =>
            {
                return Err(BusError::Partitions {
                    topic: found.name.clone(),
                    found: found.partitions,
                    wanted: topic.partitions(config, options),
                });
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let admin = admin(config)?;
    let min_insync = if options.replication_factor >= 3 { "2" } else { "1" };
    let retention = missing.iter().map(|topic| topic.retention().map(|time| time.as_millis().to_string()));
    let retention: Vec<_> = retention.collect();
    let wanted: Vec<_> = missing
        .iter()
        .zip(&retention)
        .map(|(&topic, retention)| {
            let replication = TopicReplication::Fixed(options.replication_factor);
            let new = NewTopic::new(names.of(topic), topic.partitions(config, options), replication)
                .set("cleanup.policy", "delete")
                .set("min.insync.replicas", min_insync);
            // Kafka forgets whole segments: with its default, a week of them would be read.
            let new = if topic == Topic::Ledger { new.set("segment.ms", LEDGER_SEGMENT_MS) } else { new };
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
            Err((topic, code)) => return Err(BusError::Create { topic, reason: reason(code, options) }),
        }
    }
    // A topic is there for the brokers one after another: whoever asks another one must not miss it.
    for _ in 0..ANSWER_WITHIN.as_millis() / ASK_EVERY.as_millis() {
        match check(config).await {
            Err(BusError::TopicMissing(_)) => tokio::time::sleep(ASK_EVERY).await,
            other => return other.map(|()| created),
        }
    }
    check(config).await.map(|()| created)
}

fn reason(code: RDKafkaErrorCode, options: ApplyOptions) -> String {
    match code {
        RDKafkaErrorCode::InvalidReplicationFactor => format!(
            "there are fewer than {} brokers to hold its copies: ask for fewer (`--replication-factor`), or start more brokers",
            options.replication_factor
        ),
        other => other.to_string(),
    }
}

/// Asks the brokers whether all topics are there.
///
/// # Errors
///
/// [`BusError::Unreachable`] or [`BusError::TopicMissing`].
pub async fn check(config: &BusConfig) -> Result<(), BusError> {
    let existing = topics(config).await?;
    let names = TopicNames::new(&config.topic_prefix);
    for topic in Topic::ALL {
        if !existing.iter().any(|found| found.name == names.of(topic)) {
            return Err(BusError::TopicMissing(names.of(topic).to_owned()));
        }
    }
    Ok(())
}

/// Asks the brokers how many slots there are: the partitions of the ledger topic.
///
/// # Errors
///
/// [`BusError::Unreachable`] or [`BusError::TopicMissing`].
pub async fn slots(config: &BusConfig) -> Result<u16, BusError> {
    let names = TopicNames::new(&config.topic_prefix);
    let ledger = names.of(Topic::Ledger);
    let found = topics(config).await?.into_iter().find(|found| found.name == ledger);
    let found = found.ok_or_else(|| BusError::TopicMissing(ledger.to_owned()))?;
    Ok(u16::try_from(found.partitions).unwrap_or(u16::MAX))
}

pub(crate) fn admin(config: &BusConfig) -> Result<AdminClient<Voice>, BusError> {
    config.client()?.create_with_context(Voice::default()).map_err(BusError::Client)
}

pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) partitions: usize,
    /// Of the partition that has fewest.
    pub(crate) copies: usize,
}

/// What brokers say of themselves.
pub(crate) struct Cluster {
    pub(crate) topics: Vec<Found>,
    pub(crate) brokers: Vec<i32>,
}

/// All topics that there are.
async fn topics(config: &BusConfig) -> Result<Vec<Found>, BusError> {
    Ok(cluster(config).await?.topics)
}

pub(crate) async fn cluster(config: &BusConfig) -> Result<Cluster, BusError> {
    debug_assert!(
        config.kind == BusKind::Kafka || config.brokers.len() == 1,
        "an embedded broker has its address set"
    );
    let client = config.client()?;
    let brokers = config.brokers.join(",");
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer<Voice> =
            client.create_with_context(Voice::default()).map_err(BusError::Client)?;
        let metadata = consumer.fetch_metadata(None, ANSWER_WITHIN);
        let metadata = metadata.map_err(|source| BusError::Unreachable { brokers, source })?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let found = topics.map(|topic| Found {
            name: topic.name().to_owned(),
            partitions: topic.partitions().len(),
            copies: topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
        });
        let brokers = metadata.brokers().iter().map(|broker| broker.id()).collect();
        Ok(Cluster { topics: found.collect(), brokers })
    });
    asked.await.expect("asking for metadata does not panic, and nobody cancels it")
}
