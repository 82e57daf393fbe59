//! Writes whose answer never comes, on a record that loses answers and requests as told.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::memory;
use crate::change::Versioned;
use crate::record::ChangeId;
use crate::{RegistryError, Store, StoreError};

#[derive(Debug, Clone, Default)]
struct Counter {
    version: u64,
    change_id: ChangeId,
    count: u32,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The write is made, its answer is lost.
    AnswerLost,
    /// The write is never made.
    RequestLost,
    /// The write arrives after the writer has read again.
    Late,
}

#[derive(Default)]
struct Cell {
    stored: Mutex<Option<Counter>>,
    fates: Mutex<VecDeque<Fate>>,
    late: Mutex<Option<(u64, Counter)>>,
    writes: Mutex<u32>,
}

impl Cell {
    fn with(fates: impl IntoIterator<Item = Fate>) -> Self {
        Self { fates: Mutex::new(fates.into_iter().collect()), ..Self::default() }
    }

    fn swap(&self, expected: u64, new: &Counter) -> bool {
        let mut stored = self.stored.lock().unwrap();
        let fits = stored.as_ref().map_or(0, |counter| counter.version) == expected;
        if fits {
            *stored = Some(new.clone());
        }
        fits
    }

    fn count(&self) -> u32 {
        self.stored.lock().unwrap().as_ref().map_or(0, |counter| counter.count)
    }
}

impl Versioned for Counter {
    type Id = Cell;

    fn version(&self) -> u64 {
        self.version
    }

    fn change_id(&self) -> ChangeId {
        self.change_id
    }

    fn stamp(&mut self, version: u64, change_id: ChangeId) {
        self.version = version;
        self.change_id = change_id;
    }

    async fn read(_: &Store, cell: &Cell) -> Result<Option<Self>, StoreError> {
        Ok(cell.stored.lock().unwrap().clone())
    }

    async fn write(&self, _: &Store, cell: &Cell, expected: u64) -> Result<bool, StoreError> {
        *cell.writes.lock().unwrap() += 1;
        if let Some((expected, late)) = cell.late.lock().unwrap().take() {
            assert!(cell.swap(expected, &late), "the late write comes first");
        }
        let fate = cell.fates.lock().unwrap().pop_front();
        match fate {
            None => Ok(cell.swap(expected, self)),
            Some(Fate::AnswerLost) => {
                cell.swap(expected, self);
                Err(StoreError::Timeout)
            }
            Some(Fate::RequestLost) => Err(StoreError::Timeout),
            Some(Fate::Late) => {
                *cell.late.lock().unwrap() = Some((expected, self.clone()));
                Err(StoreError::Timeout)
            }
        }
    }
}

async fn count_one(store: &Store, cell: &Cell) -> Result<Counter, RegistryError> {
    store
        .change(cell, |found: Option<Counter>| {
            let mut counter = found.unwrap_or_default();
            counter.count += 1;
            Ok(counter)
        })
        .await
}

#[tokio::test]
async fn a_lost_answer_is_read_back_and_not_done_twice() {
    let (store, cell) = (memory().await, Cell::with([Fate::AnswerLost]));
    count_one(&store, &cell).await.expect("recognised as done");
    assert_eq!((cell.count(), *cell.writes.lock().unwrap()), (1, 1));
}

#[tokio::test]
async fn a_lost_request_is_made_again() {
    let (store, cell) = (memory().await, Cell::with([Fate::RequestLost]));
    count_one(&store, &cell).await.expect("done the second time");
    assert_eq!((cell.count(), *cell.writes.lock().unwrap()), (1, 2));
}

#[tokio::test]
async fn a_late_write_and_its_repeat_count_once() {
    let (store, cell) = (memory().await, Cell::with([Fate::Late]));
    count_one(&store, &cell).await.expect("recognised as done");
    assert_eq!((cell.count(), *cell.writes.lock().unwrap()), (1, 2));
}

#[tokio::test]
async fn a_store_that_stays_silent_is_reported_as_unknown() {
    let (store, cell) = (memory().await, Cell::with([Fate::RequestLost, Fate::AnswerLost]));
    let outcome = count_one(&store, &cell).await;
    assert!(matches!(outcome, Err(RegistryError::Store(StoreError::Timeout))), "{outcome:?}");
    assert_eq!(*cell.writes.lock().unwrap(), 2);
}
