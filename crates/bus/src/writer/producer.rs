//! A producer and the reports it makes.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};

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

/// The thread that polls puts reports down here, the writer's thread picks them up.
///
/// A thread of its own polls because rdkafka's `poll` always takes its whole time: in the writer's thread it would add latency,
/// or burn the processor.
pub(crate) struct Reports {
    ready: Mutex<Vec<Report>>,
    arrived: Condvar,
    voice: Voice,
    stats: Arc<WriterStats>,
}

/// How long the thread that polls sleeps when nothing happens, and so how long the end of a producer may take.
///
/// rdkafka waits in whole milliseconds and asks again without a pause for what is left of the last one. Of time that is a whole number of
/// them and a moment more nothing is left, so that a producer without work costs next to nothing; rdkafka's own `ThreadedProducer` spends
/// a hundredth of a processor on it, and a pod has one for each slot.
const POLL: Duration = Duration::from_micros(100_050);

/// A producer, and the thread that polls it.
pub(crate) struct Producer {
    base: Arc<BaseProducer<Reports>>,
    stop: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
}

impl Producer {
    fn start(base: BaseProducer<Reports>) -> std::io::Result<Self> {
        let (base, stop) = (Arc::new(base), Arc::new(AtomicBool::new(false)));
        let (polled, stopped) = (Arc::clone(&base), Arc::clone(&stop));
        let polling = std::thread::Builder::new().name("kafka-reports".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                polled.poll(POLL);
            }
        })?;
        Ok(Self { base, stop, polling: Some(polling) })
    }
}

impl Deref for Producer {
    type Target = BaseProducer<Reports>;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // librdkafka itself ends here, and not behind the back of whoever makes the next producer of this name.
        if self.polling.take().is_some_and(|polling| polling.join().is_err()) {
            tracing::warn!("the thread that polled a producer has panicked");
        }
    }
}

/// Makes a producer.
pub(super) fn produce_with(config: &ClientConfig, stats: &Arc<WriterStats>) -> Result<Producer, BusError> {
    let reports = Reports {
        ready: Mutex::default(),
        arrived: Condvar::new(),
        voice: Voice::default(),
        stats: Arc::clone(stats),
    };
    let base = config.create_with_context(reports).map_err(BusError::Client)?;
    Producer::start(base).map_err(BusError::Thread)
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
