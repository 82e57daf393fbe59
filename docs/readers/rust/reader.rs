//! Prints each message once: `reader BROKERS TOPIC GROUP ISOLATION` (crate `rdkafka`)

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};

/// Names that are remembered; older ones are forgotten.
const REMEMBERED: usize = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, group, isolation] = &args[..] else {
        return Err("reader BROKERS TOPIC GROUP ISOLATION".into());
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("isolation.level", isolation) // "read_committed", the default of librdkafka
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false") // what was worked on is committed, not what was fetched
        .set("enable.partition.eof", "true")
        .create()?;
    consumer.subscribe(&[topic])?;
    let (mut seen, mut oldest_first) = (HashSet::new(), VecDeque::new());
    let mut ended = HashSet::new();
    // A service goes on for ever. With read_committed, a partition ends where its oldest open transaction begins.
    while ended.is_empty() || ended.len() < consumer.assignment()?.count() {
        let record = match consumer.poll(Duration::from_millis(500)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
                continue;
            }
            Some(record) => record?,
        };
        let id = id(&record).ok_or("a record without ce_id")?;
        if seen.insert(id.clone()) {
            oldest_first.push_back(id.clone());
            if oldest_first.len() > REMEMBERED {
                oldest_first.pop_front().map(|forgotten| seen.remove(&forgotten));
            }
            // Here is the work. Keep the id with its result: this set does not outlive the process.
            let key = String::from_utf8_lossy(record.key().unwrap_or_default());
            println!("{key} {id} {}", record.payload().unwrap_or_default().len());
        }
        consumer.store_offset_from_message(&record)?;
    }
    Ok(())
}

/// Session, rekey epoch and sequence number: the same in every copy of a message.
fn id(record: &BorrowedMessage<'_>) -> Option<String> {
    let header = record.headers()?.iter().find(|header| header.key == "ce_id")?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}
