use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::client::Voice;
use crate::event::event_as_json;
use crate::{BusConfig, BusError};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where to start reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record kept.
    Beginning,
    /// Behind the newest record.
    End,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailedRecord {
    /// The topic's full name.
    pub topic: String,
    /// Partition within the topic.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, by the producer's clock.
    pub timestamp_ms: Option<i64>,
    /// The key's bytes.
    pub key: Vec<u8>,
    /// The value's bytes.
    pub payload: Vec<u8>,
    /// Headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl TailedRecord {
    /// A header's value, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The value as JSON, for an event of either format.
    #[must_use]
    pub fn event(&self) -> Option<serde_json::Value> {
        // A device's own JSON is no event of ours.
        let kind = self.header("ce_type").filter(|kind| kind.starts_with("sluice.events."))?;
        event_as_json(kind, &self.payload)
    }
}

/// Reads a topic's committed records, all partitions, without a consumer group.
pub struct Tail {
    consumer: BaseConsumer<Voice>,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tail")
    }
}

impl Tail {
    /// Starts reading. Blocks until the brokers answered, up to ten seconds.
    ///
    /// # Errors
    ///
    /// [`BusError::Unreachable`], or [`BusError::TopicMissing`].
    pub fn open(config: &BusConfig, topic: &str, start: Start) -> Result<Self, BusError> {
        let mut client = config.client()?;
        client
            .set("group.id", "sluice-tail")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer<Voice> =
            client.create_with_context(Voice::default()).map_err(BusError::Client)?;
        let unreachable = |source| BusError::Unreachable { brokers: config.brokers.join(","), source };
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN).map_err(unreachable)?;
        let found = metadata
            .topics()
            .first()
            .filter(|found| found.error().is_none() && !found.partitions().is_empty());
        let found = found.ok_or_else(|| BusError::TopicMissing(topic.to_owned()))?;
        let mut assignment = TopicPartitionList::new();
        for partition in found.partitions() {
            let offset = match start {
                Start::Beginning => Offset::Beginning,
                // Asked for now: "the end" would be decided at the first fetch, and what comes until then be missed.
                Start::End => {
                    let ends = consumer.fetch_watermarks(topic, partition.id(), ANSWER_WITHIN);
                    Offset::Offset(ends.map_err(unreachable)?.1)
                }
            };
            assignment.add_partition_offset(topic, partition.id(), offset).map_err(BusError::Read)?;
        }
        consumer.assign(&assignment).map_err(BusError::Read)?;
        Ok(Self { consumer })
    }

    /// The next record, or `None` when none came in time. Blocks.
    ///
    /// # Errors
    ///
    /// [`BusError::Read`]; brokers that are away for a while are no error, reading goes on when they are back.
    pub fn next(&self, within: Duration) -> Result<Option<TailedRecord>, BusError> {
        let message = match self.consumer.poll(within) {
            None => return Ok(None),
            Some(Ok(message)) => message,
            Some(Err(error)) if passes(&error) => return Ok(None),
            Some(Err(error)) => return Err(BusError::Read(error)),
        };
        Ok(Some(tailed(&message)))
    }
}

/// A message as we keep it.
pub(crate) fn tailed(message: &BorrowedMessage<'_>) -> TailedRecord {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect()
    });
    TailedRecord {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}

/// Whether reading goes on by itself after this.
pub(crate) fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                // No group is joined, only partitions are read; asking for its coordinator is a habit of librdkafka.
                | Code::GroupAuthorizationFailed
                | Code::OperationTimedOut
                | Code::PartitionEOF
                | Code::Resolve
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_own_json_is_no_event() {
        let mut record = TailedRecord {
            topic: "sluice.telemetry".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: Vec::new(),
            payload: b"{\"count\":\"3\"}".to_vec(),
            headers: vec![("ce_type".into(), b"sluice.telemetry.raw.v1".to_vec())],
        };
        assert_eq!(record.event(), None);
        record.headers = vec![("ce_type".into(), b"sluice.events.v1.SecurityEvent".to_vec())];
        assert!(record.event().is_some(), "an event in JSON is one");
    }
}
