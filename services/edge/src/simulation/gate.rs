//! What a pod can do at the moment: run, reach Kafka, reach the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_store::simulated::{Fate, Faults};
use tokio::sync::Notify;

use super::tally::Tally;
use super::time::Dice;

/// What a pod can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// Neither stopped nor dead.
    pub(super) runs: bool,
    /// It has ended; it never runs again.
    pub(super) dead: bool,
    pub(super) reaches_kafka: bool,
    pub(super) reaches_store: bool,
}

/// A value that tasks wait for, which wake in the order in which they began to: those of a `tokio::sync::watch` wake in a random one.
#[derive(Debug)]
pub(super) struct Watched<T>(Mutex<T>, Notify);

impl<T: Copy> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value), Notify::new())
    }

    pub(super) fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.1.notify_waiters();
    }

    pub(super) async fn until(&self, fits: impl Fn(&T) -> bool) {
        loop {
            let changed = self.1.notified();
            if fits(&self.get()) {
                return;
            }
            changed.await;
        }
    }
}

/// Lets what a pod does through, or holds it up. Clones are the same gate.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Watched<Condition>>);

impl Gate {
    pub(super) fn open() -> Self {
        let all = Condition { runs: true, dead: false, reaches_kafka: true, reaches_store: true };
        Self(Arc::new(Watched::new(all)))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Condition)) {
        self.0.change(change);
    }

    pub(super) fn condition(&self) -> Condition {
        self.0.get()
    }

    /// Ends when the pod runs.
    pub(super) async fn runs(&self) {
        self.0.until(|condition| condition.runs && !condition.dead).await;
    }

    /// Ends when a request of the pod reaches Kafka; one that was sent does so even if the pod has died since.
    pub(super) async fn reaches_kafka(&self) {
        self.0.until(|condition| condition.reaches_kafka).await;
    }
}

/// How the store treats everybody.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreMood {
    /// Calls that are lost, and answers that are.
    pub(super) loss: f64,
    /// Longest that a call takes each way, in ms.
    pub(super) slowest_ms: u64,
    /// Nobody is answered.
    pub(super) away: bool,
}

impl StoreMood {
    pub(super) const GOOD: Self = Self { loss: 0.0, slowest_ms: 2, away: false };
}

/// One pod's way to the store.
pub(super) struct StoreFaults {
    pub(super) gate: Gate,
    pub(super) mood: Arc<Mutex<StoreMood>>,
    pub(super) dice: Dice,
    pub(super) tally: Tally,
}

/// After how long a call to the store is given up.
const GIVE_UP: Duration = Duration::from_millis(500);

impl Faults for StoreFaults {
    fn next(&self) -> Fate {
        let mood = *self.mood.lock().unwrap_or_else(PoisonError::into_inner);
        if mood.away || !self.gate.condition().reaches_store {
            self.tally.one("store: call not answered");
            return Fate::Lost { after: GIVE_UP };
        }
        if self.dice.happens(mood.loss) {
            self.tally.one("store: call lost");
            return Fate::Lost { after: GIVE_UP };
        }
        let (before, after) = (self.dice.millis(0, mood.slowest_ms), self.dice.millis(0, mood.slowest_ms));
        if self.dice.happens(mood.loss) {
            self.tally.one("store: answer lost");
            return Fate::Unanswered { before, after: GIVE_UP };
        }
        if mood.slowest_ms > 100 {
            self.tally.one("store: slow call");
        }
        Fate::Answered { before, after }
    }

    fn runs(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.gate.runs())
    }
}
