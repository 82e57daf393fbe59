//! What the last owners of all slots knew of the store, read before anything is taken from it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::client::Voice;
use crate::ledger::{LedgerError, Testimony, WITNESS_HEADER, Witness};
use crate::tail::passes;
use crate::{BusConfig, BusError, Topic, TopicNames};

/// Offsets at the end of each ledger. Every record there says what its owner knew, so one would do; some are the marks of transactions,
/// and some may be of a release that says nothing.
const TAIL: i64 = 32;

/// How long the reading may take. All slots say the same within seconds, so that what is not read in time is most likely no loss.
const WITHIN: Duration = Duration::from_secs(5);

/// How long brokers may take to say where the partitions are.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long one wait for a record may take.
const LOOK: Duration = Duration::from_millis(50);

/// What the ends of the ledgers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// The highest position of each life of a store, the highest first; those of a few lives.
    pub heard: Vec<Witness>,
    /// Whose store each slot's last owner works with: the slot, and what its last record says, where it says anything. Without slots
    /// whose ledger was not read to its end.
    pub last: Vec<(u16, [u8; 16])>,
    /// Slots whose ledger was not read to its end in time.
    pub unread: usize,
}

/// Reads the ends of all ledgers, as far as they are committed.
///
/// # Errors
///
/// [`BusError::Unreachable`] or [`BusError::TopicMissing`]; [`BusError::Read`] when no ledger could be read at all.
pub async fn witnesses(config: &BusConfig) -> Result<Witnesses, BusError> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || read(&config))
        .await
        .unwrap_or_else(|_| Err(BusError::Read(KafkaError::Canceled)))
}

fn read(config: &BusConfig) -> Result<Witnesses, BusError> {
    let mut client = config.ledger_reader()?;
    // A ledger that is shorter is read from its start.
    client.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
    let consumer: BaseConsumer<Voice> =
        client.create_with_context(Voice::default()).map_err(BusError::Client)?;
    let topic = TopicNames::new(&config.topic_prefix).of(Topic::Ledger).to_owned();
    let metadata = consumer
        .fetch_metadata(Some(&topic), ANSWER_WITHIN)
        .map_err(|source| BusError::Unreachable { brokers: config.brokers.join(","), source })?;
    let found = metadata.topics().first().filter(|found| found.error().is_none());
    let partitions = found.map_or(0, |found| found.partitions().len());
    if partitions == 0 {
        return Err(BusError::TopicMissing(topic));
    }
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        assignment
            .add_partition_offset(&topic, partition, Offset::OffsetTail(TAIL))
            .map_err(BusError::Read)?;
    }
    consumer.assign(&assignment).map_err(BusError::Read)?;
    read_on(&consumer, partitions)
}

#[expect(clippy::disallowed_methods, reason = "this is a driver: it owns its deadline")]
fn read_on(consumer: &BaseConsumer<Voice>, partitions: usize) -> Result<Witnesses, BusError> {
    let until = Instant::now() + WITHIN;
    let mut testimony = Testimony::default();
    let mut open = vec![true; partitions];
    let mut last = vec![None; partitions];
    let mut last_error = None;
    while open.contains(&true) && Instant::now() < until {
        match consumer.poll(LOOK) {
            None => {}
            Some(Ok(message)) => match witness_of(&message) {
                Some(Ok(witness)) => {
                    testimony.hear(witness);
                    let slot = usize::try_from(message.partition()).ok();
                    if let Some(last) = slot.and_then(|slot| last.get_mut(slot)) {
                        *last = Some(witness.store);
                    }
                }
                Some(Err(error)) => {
                    if let Some(withheld) = consumer.client().context().admit() {
                        let (slot, offset) = (message.partition(), message.offset());
                        tracing::error!(slot, offset, %error, withheld, "what a ledger says of the store cannot be read");
                    }
                }
                None => {}
            },
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if let Some(open) = usize::try_from(partition).ok().and_then(|index| open.get_mut(index)) {
                    *open = false;
                }
            }
            Some(Err(error)) if passes(&error) => last_error = Some(error),
            Some(Err(error)) => return Err(BusError::Read(error)),
        }
    }
    let unread = open.iter().filter(|open| **open).count();
    match last_error {
        // Nothing heard is nothing known.
        error if unread == partitions => {
            let late = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
            Err(BusError::Read(error.unwrap_or(late)))
        }
        _ => {
            let ends = (0..).zip(&last).zip(&open).filter(|(_, open)| !**open);
            let last = ends.filter_map(|((slot, last), _)| last.map(|store| (slot, store))).collect();
            Ok(Witnesses { heard: testimony.into_witnesses(), last, unread })
        }
    }
}

fn witness_of(message: &BorrowedMessage<'_>) -> Option<Result<Witness, LedgerError>> {
    let headers = message.headers()?;
    let header = headers.iter().find(|header| header.key == WITNESS_HEADER)?;
    Some(Witness::decode(header.value.unwrap_or_default()))
}
