//! Whether Kafka answers this pod: it says so to the others with each heartbeat.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_bus::LedgerReader;
use sluice_peers::PeersHandle;
use tokio::task::JoinHandle;

use super::adoption::{Ledgers, give_back, take_reader};

/// How often Kafka is asked.
pub(super) const PULSE: Duration = Duration::from_millis(400);
/// How late an answer still is one. A Kafka that is slow is not away.
const WITHIN: Duration = Duration::from_secs(1);

/// The question that is on its way.
#[derive(Debug, Default)]
pub(super) struct Pulse(Option<JoinHandle<()>>);

impl Pulse {
    /// Keeps the knowledge fresh whether Kafka answers this pod: two pods that do not hear each other judge by it, and all of them judge
    /// by it who can serve slots. One question at a time: while Kafka is away each takes long.
    pub(super) fn ask(
        &mut self,
        bus: &Ledgers,
        readers: &Arc<Mutex<Vec<LedgerReader>>>,
        peers: &PeersHandle,
    ) {
        if self.0.as_ref().is_some_and(|asking| !asking.is_finished()) {
            return;
        }
        let (readers, peers) = (Arc::clone(readers), peers.clone());
        let bus = match bus {
            Ledgers::Kafka(bus) => bus.clone(),
            #[cfg(test)]
            Ledgers::Simulated(ledgers) => {
                let ledgers = ledgers.clone();
                self.0 = Some(tokio::spawn(async move {
                    if ledgers.answers(WITHIN).await {
                        peers.kafka_answered();
                    }
                }));
                return;
            }
        };
        self.0 = Some(tokio::task::spawn_blocking(move || {
            let Ok(reader) = take_reader(&readers, &bus) else { return };
            if reader.kafka_answers(WITHIN) {
                peers.kafka_answered();
            }
            give_back(&readers, reader);
        }));
    }
}
