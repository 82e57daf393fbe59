//! What our Kafka clients do with librdkafka's words and figures.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;

/// Lines that may be logged per [`WINDOW`]: a broker that is away makes hundreds of equal ones a minute.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// What the clients of this process say, together: one for each slot and shard says the same when a broker goes.
static CLIENTS: Mutex<Window> = Mutex::new(Window { since: None, lines: 0, withheld: 0 });

/// Passes librdkafka's log lines and errors on to `tracing`, a bounded number of them. What its owner has to say has room of its own.
#[derive(Debug, Default)]
pub(crate) struct Voice(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    withheld: u64,
}

impl Window {
    /// Whether a line may be logged now, and if so how many were withheld before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.withheld += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

impl Voice {
    /// Whether a line may be logged now, and if so how many were withheld before it.
    pub(crate) fn admit(&self) -> Option<u64> {
        admit(&self.0)
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver's log is limited by the clock on the wall")]
fn admit(window: &Mutex<Window>) -> Option<u64> {
    window.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
}

/// A producer is at its end. Whoever has it is told so by the call that fails, and says it once, with what comes of it.
fn is_an_end(level: RDKafkaLogLevel, facility: &str) -> bool {
    matches!(
        (level, facility),
        (RDKafkaLogLevel::Emerg, "FATAL") | (RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert, "TXNERR")
    )
}

/// No trouble, or trouble that is told elsewhere.
fn is_quiet(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            // How a reader hears that it has read everything, which is what it was made for.
            RDKafkaErrorCode::PartitionEOF
            // As in `is_an_end`.
            | RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
        )
    )
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, detail = message, "Kafka client");
            }
            level if is_an_end(level, facility) => {
                tracing::debug!(facility, detail = message, "Kafka client");
            }
            _ => {
                if let Some(withheld) = admit(&CLIENTS) {
                    tracing::warn!(facility, detail = message, withheld, "Kafka client");
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if is_quiet(&error) {
            tracing::debug!(%error, reason, "Kafka client");
        } else if let Some(withheld) = admit(&CLIENTS) {
            tracing::warn!(%error, reason, withheld, "Kafka client");
        }
    }
}

impl ConsumerContext for Voice {}

/// How a writer's producer stands with the brokers, by librdkafka's own statistics, some seconds old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KafkaFigures {
    /// Brokers known.
    pub brokers: u64,
    /// Brokers connected.
    pub brokers_up: u64,
    /// Records in librdkafka's queues.
    pub queued_records: u64,
    /// Bytes in librdkafka's queues.
    pub queued_bytes: u64,
    /// Requests sent again since the producer was made.
    pub request_retries: u64,
    /// Requests that failed since the producer was made.
    pub request_errors: u64,
    /// Requests without an answer in time since the producer was made.
    pub request_timeouts: u64,
    /// Slowest broker's 99th percentile of the round trip, in microseconds.
    pub round_trip_p99_us: u64,
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_size: u64,
    #[serde(default)]
    brokers: std::collections::BTreeMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    nodeid: i64,
    state: String,
    #[serde(default)]
    txretries: u64,
    #[serde(default)]
    txerrs: u64,
    #[serde(default)]
    req_timeouts: u64,
    rtt: Option<Percentiles>,
}

#[derive(Deserialize)]
struct Percentiles {
    #[serde(default)]
    p99: i64,
}

impl KafkaFigures {
    /// Reads librdkafka's JSON; `None` when it is not what we know.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        let statistics: Statistics = serde_json::from_slice(json).ok()?;
        let mut figures =
            Self { queued_records: statistics.msg_cnt, queued_bytes: statistics.msg_size, ..Self::default() };
        for broker in statistics.brokers.values() {
            figures.request_retries += broker.txretries;
            figures.request_errors += broker.txerrs;
            figures.request_timeouts += broker.req_timeouts;
            // Bootstrap addresses and coordinators have negative ids; they are the same brokers once more.
            if broker.nodeid >= 0 {
                figures.brokers += 1;
                figures.brokers_up += u64::from(broker.state == "UP");
                let p99 = broker.rtt.as_ref().map_or(0, |rtt| u64::try_from(rtt.p99).unwrap_or(0));
                figures.round_trip_p99_us = figures.round_trip_p99_us.max(p99);
            }
        }
        Some(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any start will do, the rest is added to it")]
    fn a_flood_of_lines_is_cut_and_the_cut_is_told() {
        let start = Instant::now();
        let mut window = Window::default();
        let admitted = (0..100).filter(|_| window.admit(start).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(window.admit(start + WINDOW), Some(90), "the withheld ones are told");
        assert_eq!(window.admit(start + WINDOW), Some(0), "once");
    }

    #[test]
    fn the_end_of_a_partition_and_of_a_fenced_writer_are_no_warnings_of_the_client() {
        use RDKafkaErrorCode as Code;
        for code in [Code::PartitionEOF, Code::Fatal, Code::ProducerFenced, Code::InvalidProducerEpoch] {
            assert!(is_quiet(&KafkaError::Global(code)), "{code:?}");
        }
        for code in [Code::AllBrokersDown, Code::BrokerTransportFailure, Code::Authentication] {
            assert!(!is_quiet(&KafkaError::Global(code)), "{code:?}");
        }
        assert!(is_an_end(RDKafkaLogLevel::Emerg, "FATAL") && is_an_end(RDKafkaLogLevel::Alert, "TXNERR"));
        assert!(!is_an_end(RDKafkaLogLevel::Error, "TXNERR"), "a transaction that is made anew");
        assert!(!is_an_end(RDKafkaLogLevel::Emerg, "BGQUEUE"));
    }

    #[test]
    fn figures_count_each_broker_once() {
        let json = br#"{"msg_cnt": 5, "msg_size": 700, "other": [], "brokers": {
            "boot": {"nodeid": -1, "state": "UP", "txretries": 0},
            "1": {"nodeid": 1, "state": "UP", "txretries": 2, "txerrs": 1, "rtt": {"p99": 900}},
            "2": {"nodeid": 2, "state": "DOWN", "req_timeouts": 3, "rtt": {"p99": -1}}}}"#;
        let expected = KafkaFigures {
            brokers: 2,
            brokers_up: 1,
            queued_records: 5,
            queued_bytes: 700,
            request_retries: 2,
            request_errors: 1,
            request_timeouts: 3,
            round_trip_p99_us: 900,
        };
        assert_eq!(KafkaFigures::read(json), Some(expected));
        assert_eq!(KafkaFigures::read(b"no json"), None);
    }
}
