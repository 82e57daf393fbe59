//! Reads a topic once, from where one says to where it ended when the reading began.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use crate::client::Voice;
use crate::tail::{TailedRecord, passes, tailed};
use crate::{BusConfig, BusError};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long one wait for a record may take.
const LOOK: Duration = Duration::from_millis(100);

/// Time without a record after which reading is given up although there is more.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Those of committed transactions, up to the oldest open one.
    #[default]
    ReadCommitted,
    /// Also those of open and aborted transactions.
    ReadUncommitted,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ScanFrom {
    /// At the oldest records kept.
    #[default]
    Beginning,
    /// At these offsets, one per partition.
    Offsets(Vec<i64>),
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// Where to begin.
    pub from: ScanFrom,
    /// Which records.
    pub isolation: Isolation,
}

/// A part of a topic: offsets `from` and above, below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// The partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// The offset behind the last.
    pub to: i64,
}

/// What came next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A record.
    Record(TailedRecord),
    /// Nothing for a moment; ask again.
    Waiting,
    /// Everything was read.
    End,
}

/// A reading of a topic under way. Partitions are read side by side, each in its order.
pub struct Scan {
    consumer: BaseConsumer<Voice>,
    topic: String,
    parts: Vec<Scanned>,
    /// In the order of `parts`.
    done: Vec<bool>,
    quiet: Duration,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("topic", &self.topic).field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Scan {
    /// Asks where the topic begins and ends, and starts reading. Blocks until the brokers answered, up to ten seconds per partition.
    ///
    /// # Errors
    ///
    /// [`BusError::Unreachable`], [`BusError::TopicMissing`], or [`BusError::Offsets`] for offsets that are not in the topic.
    pub fn open(config: &BusConfig, topic: &str, options: &ScanOptions) -> Result<Self, BusError> {
        let mut client = config.client()?;
        let isolation = match options.isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        };
        client
            .set("group.id", "sluice-audit")
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation)
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer<Voice> =
            client.create_with_context(Voice::default()).map_err(BusError::Client)?;
        let unreachable = |source| BusError::Unreachable { brokers: config.brokers.join(","), source };
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WITHIN).map_err(unreachable)?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        let mut ids: Vec<_> =
            found.map(|found| found.partitions().iter().map(|part| part.id()).collect()).unwrap_or_default();
        if ids.is_empty() {
            return Err(BusError::TopicMissing(topic.to_owned()));
        }
        ids.sort_unstable();
        let mut parts = Vec::with_capacity(ids.len());
        for &partition in &ids {
            // With read_committed, the end is where the oldest open transaction begins.
            let (oldest, to) =
                consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN).map_err(unreachable)?;
            parts.push(Scanned { partition, from: oldest, to });
        }
        if let ScanFrom::Offsets(offsets) = &options.from {
            begin_at(&mut parts, offsets)
                .map_err(|reason| BusError::Offsets { topic: topic.to_owned(), reason })?;
        }
        let mut assignment = TopicPartitionList::new();
        for part in parts.iter().filter(|part| part.from < part.to) {
            assignment
                .add_partition_offset(topic, part.partition, Offset::Offset(part.from))
                .map_err(BusError::Read)?;
        }
        consumer.assign(&assignment).map_err(BusError::Read)?;
        let done = parts.iter().map(|part| part.from >= part.to).collect();
        Ok(Self { consumer, topic: topic.to_owned(), parts, done, quiet: Duration::ZERO })
    }

    /// What is read: from where, and to where.
    #[must_use]
    pub fn parts(&self) -> &[Scanned] {
        &self.parts
    }

    /// The next record. Blocks for a tenth of a second at most.
    ///
    /// # Errors
    ///
    /// [`BusError::Read`]; also when half a minute passed without any record although there are more. A topic that forgets records
    /// faster than they are read is an error, too.
    pub fn step(&mut self) -> Result<Step, BusError> {
        if self.done.iter().all(|&done| done) {
            return Ok(Step::End);
        }
        let message = match self.consumer.poll(LOOK) {
            None => return self.waited(),
            // The consumer itself is about to be told so.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.finish(partition)?;
                return Ok(Step::Waiting);
            }
            Some(Err(error)) if passes(&error) => return self.waited(),
            Some(Err(error)) => return Err(BusError::Read(error)),
            Some(Ok(message)) => message,
        };
        let record = tailed(&message);
        drop(message);
        self.quiet = Duration::ZERO;
        let part = self.parts.iter().find(|part| part.partition == record.partition);
        let to = part.map_or(0, |part| part.to);
        if record.offset.saturating_add(1) >= to {
            self.finish(record.partition)?;
        }
        Ok(if record.offset < to { Step::Record(record) } else { Step::Waiting })
    }

    fn waited(&mut self) -> Result<Step, BusError> {
        self.quiet += LOOK;
        if self.quiet < GIVE_UP {
            return Ok(Step::Waiting);
        }
        let left = self.done.iter().filter(|&&done| !done).count();
        Err(BusError::Stalled { topic: self.topic.clone(), left, after: GIVE_UP })
    }

    /// A partition was read; what comes behind is not asked for.
    fn finish(&mut self, partition: i32) -> Result<(), BusError> {
        let Some(index) = self.parts.iter().position(|part| part.partition == partition) else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.done[index], true) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            self.consumer.pause(&list).map_err(BusError::Read)?;
        }
        Ok(())
    }
}

/// Moves the beginnings to these offsets, or says why they cannot be.
fn begin_at(parts: &mut [Scanned], offsets: &[i64]) -> Result<(), String> {
    if offsets.len() != parts.len() {
        return Err(format!("it has {} partitions, {} offsets were given", parts.len(), offsets.len()));
    }
    for (part, &offset) in parts.iter_mut().zip(offsets) {
        let Scanned { partition, from, to } = *part;
        if !(from..=to).contains(&offset) {
            return Err(format!("partition {partition} has offsets {from} to {to}, not {offset}"));
        }
        part.from = offset;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Scanned> {
        vec![Scanned { partition: 0, from: 10, to: 20 }, Scanned { partition: 1, from: 0, to: 0 }]
    }

    #[test]
    fn offsets_must_be_one_per_partition_and_in_the_topic() {
        let mut moved = parts();
        assert_eq!(begin_at(&mut moved, &[20, 0]), Ok(()));
        assert_eq!(moved[0], Scanned { partition: 0, from: 20, to: 20 });
        for wrong in [[9, 0].as_slice(), &[21, 0], &[10], &[10, 0, 0], &[10, -1]] {
            assert!(begin_at(&mut parts(), wrong).is_err(), "{wrong:?}");
        }
    }
}
