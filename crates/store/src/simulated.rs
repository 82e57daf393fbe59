//! A store for simulations: the local one in memory, on the caller's thread, whose answers are late, lost or old as the simulation
//! says.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::Backend;
use crate::kek::KekRing;
use crate::local::{Local, Savepoint};
use crate::{OpenError, Store, StoreError};

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done, and its answer arrives.
    Answered {
        /// Until it is done.
        before: Duration,
        /// From then until the answer arrives.
        after: Duration,
    },
    /// It is done, and its answer is lost.
    Unanswered {
        /// Until it is done.
        before: Duration,
        /// From then until it is given up.
        after: Duration,
    },
    /// It never arrives.
    Lost {
        /// Until it is given up.
        after: Duration,
    },
}

/// Decides what becomes of the calls of one pod.
pub trait Faults: Send + Sync + 'static {
    /// What becomes of the next call.
    fn next(&self) -> Fate;

    /// Ends when the pod runs: never, if it is dead.
    fn runs(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What pods share.
#[derive(Clone)]
pub struct SimulatedStore {
    local: Local,
    marks: Arc<Mutex<Vec<Savepoint>>>,
}

impl std::fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedStore").finish_non_exhaustive()
    }
}

impl SimulatedStore {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// [`OpenError::File`] when there is no memory for it.
    pub fn new() -> Result<Self, OpenError> {
        Ok(Self { local: Local::on_this_thread()?, marks: Arc::default() })
    }

    /// The store as one pod, or an operator, sees it.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub async fn open(&self, kek: KekRing, faults: Arc<dyn Faults>) -> Result<Store, OpenError> {
        let simulated = Simulated { local: self.local.clone(), faults };
        Store::assemble(Backend::Simulated(simulated), kek, "simulated".to_owned()).await
    }

    /// Remembers the state as it is now; gives the number of states that are remembered.
    ///
    /// # Errors
    ///
    /// [`StoreError::Local`].
    pub fn remember(&self) -> Result<usize, StoreError> {
        let savepoint = self.local.savepoint()?;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(savepoint);
        Ok(marks.len())
    }

    /// Goes back to a state that is remembered, 0 for the first; those after it are forgotten.
    ///
    /// # Errors
    ///
    /// [`StoreError::Local`].
    pub fn roll_back(&self, to: usize) -> Result<(), StoreError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.truncate(to + 1);
        marks.get(to).map_or(Ok(()), |savepoint| self.local.restore(savepoint))
    }
}

/// A pod's way to it.
pub(crate) struct Simulated {
    pub(crate) local: Local,
    faults: Arc<dyn Faults>,
}

impl Simulated {
    /// Lets a call happen, or not.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.faults.runs().await;
        let (before, after, answered) = match self.faults.next() {
            Fate::Answered { before, after } => (before, after, true),
            Fate::Unanswered { before, after } => (before, after, false),
            Fate::Lost { after } => {
                tokio::time::sleep(after).await;
                self.faults.runs().await;
                return Err(StoreError::Timeout);
            }
        };
        if !before.is_zero() {
            tokio::time::sleep(before).await;
        }
        let answer = call.await;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        self.faults.runs().await;
        if answered { answer } else { Err(StoreError::Timeout) }
    }
}
