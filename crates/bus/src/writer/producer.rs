//! A producer and the reports it makes.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext, ThreadedProducer};

use super::WriterStats;
use super::publisher::code_of;
use crate::BusError;
use crate::client::{KafkaFigures, Voice};

/// What a broker said about a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    /// The number it was produced under.
    pub(super) number: usize,
    /// The error, if there was one.
    pub(super) error: Option<RDKafkaErrorCode>,
    /// Where it lies, if the broker said so.
    pub(super) offset: Option<i64>,
}

/// librdkafka's thread that polls puts reports down here, the writer's thread picks them up.
///
/// A thread of its own polls because rdkafka's `poll` always takes its whole time: in the writer's thread it would add latency,
/// or burn the processor.
pub(crate) struct Reports {
    ready: Mutex<Vec<Report>>,
    arrived: Condvar,
    voice: Voice,
    stats: Arc<WriterStats>,
}

pub(crate) type Producer = ThreadedProducer<Reports>;

/// Makes a producer.
pub(super) fn produce_with(config: &ClientConfig, stats: &Arc<WriterStats>) -> Result<Producer, BusError> {
    let reports = Reports {
        ready: Mutex::default(),
        arrived: Condvar::new(),
        voice: Voice::default(),
        stats: Arc::clone(stats),
    };
    config.create_with_context(reports).map_err(BusError::Client)
}

impl Reports {
    pub(crate) const fn voice(&self) -> &Voice {
        &self.voice
    }

    /// Moves what has arrived into `taken`, which is empty; waits for something up to `within`.
    pub(super) fn take(&self, taken: &mut Vec<Report>, within: Duration) {
        debug_assert!(taken.is_empty(), "reports not read yet would be put back");
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_empty() {
            (ready, _) = self.arrived.wait_timeout(ready, within).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut *ready, taken);
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        if let Some(figures) = KafkaFigures::read(json) {
            self.stats.set_kafka(figures);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (error, offset) = match result {
            Ok(message) => (None, Some(message.offset()).filter(|&offset| offset >= 0)),
            Err((error, _)) => (Some(code_of(error)), None),
        };
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.push(Report { number: opaque, error, offset });
        // One wake for a batch: the writer takes all there is.
        if ready.len() == 1 {
            self.arrived.notify_one();
        }
    }
}
