//! What is committed in a topic, read back byte for byte.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::clock::{now, wait_for};

/// One committed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it lies.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The text of the only header of that name.
    ///
    /// # Errors
    /// There is none, more than one, or it is no text.
    pub fn header(&self, name: &str) -> Result<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        let (Some((_, value)), None) = (found.next(), found.next()) else {
            bail!("not exactly one header {name}: {:?}", self.headers);
        };
        std::str::from_utf8(value).with_context(|| format!("header {name} is no text"))
    }

    /// The key as text.
    #[must_use]
    pub fn key_text(&self) -> &str {
        std::str::from_utf8(&self.key).unwrap_or("(no text)")
    }
}

/// The sessions that each device has records in, by the records' keys.
#[must_use]
pub fn sessions_by_key(records: &[Record]) -> HashMap<&[u8], HashSet<&str>> {
    let mut sessions = HashMap::<&[u8], HashSet<&str>>::new();
    for record in records {
        let session = record.header("ce_id").ok().and_then(|id| id.split('.').next());
        sessions.entry(&record.key).or_default().extend(session);
    }
    sessions
}

/// Reads a topic from its beginning, `read_committed`, without a group.
pub struct TopicReader {
    brokers: String,
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
    records: Vec<Record>,
    /// Behind the last record of each partition.
    next: HashMap<i32, i64>,
    /// Partitions whose end was seen since the consumer was made.
    at_end: HashSet<i32>,
}

fn consumer(brokers: &str) -> Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .context("cannot make a consumer")
}

impl std::fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicReader").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl TopicReader {
    /// Opens a topic that exists.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn open(brokers: &str, topic: &str, partitions: i32) -> Result<Self> {
        let reader = Self {
            brokers: brokers.to_owned(),
            consumer: consumer(brokers)?,
            topic: topic.to_owned(),
            partitions,
            records: Vec::new(),
            next: HashMap::new(),
            at_end: HashSet::new(),
        };
        reader.consumer.assign(&reader.places()?)?;
        Ok(reader)
    }

    /// What was read so far.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads until `enough` says so of everything read so far.
    ///
    /// # Errors
    /// It does not within `limit`; the text says how much was read.
    pub fn read_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut enough: impl FnMut(&[Record]) -> bool,
    ) -> Result<&[Record]> {
        let start = now();
        while !enough(&self.records) {
            if now().duration_since(start) > limit {
                let last = self.records.iter().rev().take(5).collect::<Vec<_>>();
                bail!(
                    "waited {limit:?} for {what} in {}; {} records, the last: {last:?}",
                    self.topic,
                    self.records.len()
                );
            }
            // Many at a time: `enough` looks at all of them.
            let mut more = self.poll(Duration::from_millis(50));
            for _ in 0..1000 {
                more = more && self.poll(Duration::ZERO);
            }
        }
        Ok(&self.records)
    }

    /// Reads exactly `count` records, and then sees that there are no more.
    ///
    /// # Errors
    /// Fewer or more.
    pub fn read_exactly(&mut self, count: usize, limit: Duration) -> Result<&[Record]> {
        self.read_until(&format!("{count} records"), limit, |records| records.len() >= count)?;
        self.read_all(limit)?;
        if self.records.len() != count {
            bail!("{} records in {} instead of {count}", self.records.len(), self.topic);
        }
        Ok(&self.records)
    }

    /// Reads everything that is in the topic now, up to the oldest open transaction.
    ///
    /// # Errors
    /// Kafka does not answer in time.
    pub fn read_all(&mut self, limit: Duration) -> Result<&[Record]> {
        let start = now();
        let mut ends = HashMap::new();
        for partition in 0..self.partitions {
            let what = format!("the end of {} {partition}", self.topic);
            // A broker that has just come back does not lead its partitions at once.
            let (_, end) = wait_for(&what, limit, || {
                let ask = Duration::from_secs(5);
                self.consumer.fetch_watermarks(&self.topic, partition, ask).map_err(|error| error.to_string())
            })?;
            ends.insert(partition, end);
        }
        // Marks of a transaction's end take offsets and are no records, so that no record may have the last offset. A consumer tells
        // of each end when it comes to it, and that must be after the question above: another one goes on. (The same one must not be
        // told to read what it reads already: librdkafka may fail an assertion then.)
        let fresh = consumer(&self.brokers)?;
        fresh.assign(&self.places()?)?;
        self.consumer = fresh;
        self.at_end.clear();
        loop {
            let reached = |(partition, end): (&i32, &i64)| {
                *end == 0
                    || self.at_end.contains(partition)
                    || self.next.get(partition).is_some_and(|next| next >= end)
            };
            if ends.iter().all(reached) {
                return Ok(&self.records);
            }
            if now().duration_since(start) > limit {
                bail!("{}: not at the end {ends:?} after {limit:?}: {:?}", self.topic, self.next);
            }
            self.poll(Duration::from_millis(20));
        }
    }

    /// Where to go on.
    fn places(&self) -> Result<TopicPartitionList> {
        let mut places = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let place = self.next.get(&partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
            places.add_partition_offset(&self.topic, partition, place)?;
        }
        Ok(places)
    }

    /// Takes one record; whether something came.
    fn poll(&mut self, wait: Duration) -> bool {
        let message = match self.consumer.poll(wait) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.at_end.insert(partition);
                return true;
            }
            _ => return false,
        };
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
            };
            headers.iter().map(pair).collect()
        });
        self.next.insert(message.partition(), message.offset() + 1);
        self.records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default().to_vec(),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers,
        });
        true
    }
}
