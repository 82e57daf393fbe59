//! What an acknowledgement of these brokers is worth.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};

use crate::client::Voice;
use crate::topics::{ANSWER_WITHIN, admin, cluster};
use crate::{BusConfig, BusError, BusKind, Guarantee, Topic, TopicNames};

/// Something about the topics that makes an acknowledgement worth less than it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Weakness {
    /// Fewer than three copies.
    #[error(
        "topic {topic} keeps {copies} copies of a record: with fewer than 3, a lost node loses acknowledged records or stops writing"
    )]
    Copies {
        /// The topic.
        topic: String,
        /// Copies of the partition that has fewest.
        copies: usize,
    },
    /// Acknowledged by one node only.
    #[error(
        "topic {topic} has min.insync.replicas={value}: with less than 2, a record is acknowledged that one node alone has"
    )]
    InSync {
        /// The topic.
        topic: String,
        /// The setting.
        value: u64,
    },
    /// A record of the largest size we produce would be refused.
    #[error(
        "topic {topic} takes records up to {value} bytes (max.message.bytes), bus.message_max_bytes is {ours}: records between them go to the dead-letter topic"
    )]
    MaxMessage {
        /// The topic.
        topic: String,
        /// The topic's setting.
        value: u64,
        /// Ours.
        ours: u32,
    },
    /// The ledger forgets before its owners say again what they know.
    #[error(
        "topic {topic} keeps records for {hours} hours (retention.ms): sessions older than that are closed when their slot moves; give it at least 12"
    )]
    Retention {
        /// The topic.
        topic: String,
        /// How long it keeps records, in whole hours.
        hours: u64,
    },
    /// The broker adds records to transactions that are over.
    #[error(
        "broker {broker} does not verify transactions (it is older than Kafka 3.6, or has transaction.partition.verification.enable=false): \
         a late record of a dead pod can hold readers back for good; upgrade it, or switch that on"
    )]
    Unverified {
        /// Its number.
        broker: i32,
    },
}

/// Where Kafka's coordinators keep what became of transactions.
const TRANSACTIONS: &str = "__transaction_state";

/// Shortest time a ledger must be kept: twice what owners take to say all of it again.
const LEDGER_HOURS: u64 = 12;

/// A setting of brokers that came with the check that makes transactions safe from late records.
const VERIFIES: &str = "transaction.partition.verification.enable";

/// Asks the brokers how safely the topics keep what they acknowledge. Empty where all is well, and for a broker inside the process,
/// whose records are gone with it anyway.
///
/// # Errors
///
/// [`BusError::Unreachable`], also when describing topics is not allowed.
pub async fn weaknesses(config: &BusConfig) -> Result<Vec<Weakness>, BusError> {
    if config.kind == BusKind::Embedded {
        return Ok(Vec::new());
    }
    let names = TopicNames::new(&config.topic_prefix);
    let exactly_once = config.guarantee() == Guarantee::ExactlyOnce;
    let cluster = cluster(config).await?;
    let mut asked: Vec<&str> = Topic::ALL.iter().map(|&topic| names.of(topic)).collect();
    // There once a transaction was made.
    if exactly_once && cluster.topics.iter().any(|topic| topic.name == TRANSACTIONS) {
        asked.push(TRANSACTIONS);
    }
    let mut found = Vec::new();
    for topic in cluster.topics {
        if asked.contains(&topic.name.as_str()) && topic.copies < 3 {
            found.push(Weakness::Copies { topic: topic.name, copies: topic.copies });
        }
    }
    let admin = admin(config)?;
    let topics: Vec<_> = asked.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    for settings in describe(&admin, config, &topics).await? {
        if let OwnedResourceSpecifier::Topic(topic) = &settings.specifier {
            found.extend(weaknesses_of_topic(topic, &settings, topic == names.of(Topic::Ledger), config));
        }
    }
    if exactly_once {
        for broker in cluster.brokers {
            // librdkafka asks one broker per call.
            for settings in describe(&admin, config, &[ResourceSpecifier::Broker(broker)]).await? {
                let verifies = settings.get(VERIFIES).and_then(|entry| entry.value.as_deref());
                if verifies != Some("true") {
                    found.push(Weakness::Unverified { broker });
                }
            }
        }
    }
    Ok(found)
}

fn weaknesses_of_topic(
    topic: &str,
    settings: &ConfigResource,
    is_ledger: bool,
    config: &BusConfig,
) -> Vec<Weakness> {
    let mut found = Vec::new();
    let ours = config.message_max_bytes;
    if let Some(value) = number(settings, "min.insync.replicas").filter(|&value| value < 2) {
        found.push(Weakness::InSync { topic: topic.to_owned(), value });
    }
    if topic != TRANSACTIONS
        && let Some(value) = number(settings, "max.message.bytes").filter(|&value| value < u64::from(ours))
    {
        found.push(Weakness::MaxMessage { topic: topic.to_owned(), value, ours });
    }
    // -1, which is no number here: for ever.
    if is_ledger
        && let Some(hours) = number(settings, "retention.ms").map(|millis| millis / 3_600_000)
        && hours < LEDGER_HOURS
    {
        found.push(Weakness::Retention { topic: topic.to_owned(), hours });
    }
    found
}

/// The settings of those that there are and may be asked about; a topic that is missing is the business of [`check`].
async fn describe(
    admin: &AdminClient<Voice>,
    config: &BusConfig,
    asked: &[ResourceSpecifier<'_>],
) -> Result<Vec<ConfigResource>, BusError> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
    let described = admin.describe_configs(asked, &options).await;
    let unreachable = |source| BusError::Unreachable { brokers: config.brokers.join(","), source };
    Ok(described.map_err(unreachable)?.into_iter().flatten().collect())
}

fn number(settings: &ConfigResource, name: &str) -> Option<u64> {
    settings.get(name)?.value.as_ref()?.parse().ok()
}
