//! What this process remembers of the revocation log, to notice a store that was rolled back, and to put back what it lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_types::DeviceId;

use crate::backend::LogPage;
use crate::store::Store;
use crate::{LogPosition, StoreError, StoreWitness};

/// Entries remembered, the newest ones: under 2 MB. A fail-over loses the last few; a backup that is older than all of these
/// cannot be put right from here.
const REMEMBERED: usize = 4096;

/// Entries whose absence is remembered; what is heard beyond that is not needed to distrust the store.
const DOUBTS: usize = 64;

/// An entry of the log with what it takes to append it again.
#[derive(Clone)]
pub(crate) struct LoggedEntry {
    pub(crate) number: u64,
    pub(crate) device: DeviceId,
    pub(crate) device_version: u64,
    pub(crate) blob: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct LogMemory {
    seen: Mutex<Seen>,
    found_behind: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// Highest number that this process read, was given, or heard of from another pod.
    highest: u64,
    entries: VecDeque<LoggedEntry>,
    /// What is known outside and was not found; whether it was told.
    doubts: BTreeMap<StoreWitness, bool>,
}

impl LogMemory {
    /// Whether the store's log had got as far as is known when it was last looked at.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let is_whole = !self.found_behind.load(Ordering::Relaxed) && self.lock().doubts.is_empty();
        if is_whole { Ok(()) } else { Err(StoreError::RolledBack) }
    }

    /// Somebody outside knows of an entry that is not known here. The store is not trusted until that is settled.
    pub(crate) fn doubt(&self, witness: StoreWitness) {
        let mut seen = self.lock();
        if seen.doubts.len() < DOUBTS {
            seen.doubts.entry(witness).or_default();
        }
    }

    /// What is in doubt, the highest position last.
    pub(crate) fn doubts(&self) -> Vec<StoreWitness> {
        self.lock().doubts.keys().copied().collect()
    }

    /// It is there, or need not be.
    pub(crate) fn settle_doubt(&self, witness: StoreWitness) {
        self.lock().doubts.remove(&witness);
    }

    /// Whether this was not told before.
    pub(crate) fn tell_doubt(&self, witness: StoreWitness) -> bool {
        self.lock().doubts.get_mut(&witness).is_some_and(|told| !std::mem::replace(told, true))
    }

    /// Whether this entry was read, and is remembered.
    pub(crate) fn has_read(&self, number: u64) -> bool {
        self.lock().entries.binary_search_by_key(&number, |entry| entry.number).is_ok()
    }

    /// Another pod of the same store has applied the log up to this number.
    pub(crate) fn hear(&self, number: u64) {
        let mut seen = self.lock();
        seen.highest = seen.highest.max(number);
    }

    pub(crate) fn remember(&self, entry: LoggedEntry) {
        let mut seen = self.lock();
        if entry.number <= seen.entries.back().map_or(0, |last| last.number) {
            return;
        }
        seen.highest = seen.highest.max(entry.number);
        if seen.entries.len() == REMEMBERED {
            seen.entries.pop_front();
        }
        seen.entries.push_back(entry);
    }

    pub(crate) fn highest(&self) -> u64 {
        self.lock().highest
    }

    fn after(&self, number: u64) -> Vec<LoggedEntry> {
        self.lock().entries.iter().filter(|entry| entry.number > number).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Whole after every statement that can end it, so a poisoned lock is as good as another.
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Store {
    /// Compares the end of the log with what is known of it. Entries that a fail-over or an old backup took away are appended
    /// again, under new and higher numbers, so that every pod hears them; until the log has got as far as it once was, no
    /// keys are given out. What an operator has accepted may be missing: up to the position returned.
    pub(crate) async fn check_log(&self, page: &LogPage) -> Result<LogPosition, StoreError> {
        let (head, expected, accepted) = (page.head, self.log.highest(), self.accepted(page));
        if head >= expected || accepted.0 >= expected {
            self.log.found_behind.store(false, Ordering::Relaxed);
            return Ok(accepted);
        }
        if !self.log.found_behind.swap(true, Ordering::Relaxed) {
            tracing::error!(
                head,
                expected,
                "the store was rolled back, no keys are given out until it is put right"
            );
        }
        let lost = self.log.after(head);
        let mut reached = head;
        for entry in &lost {
            let number = self.backend.append(entry.device, entry.device_version, entry.blob.clone()).await?;
            reached = reached.max(number);
        }
        if reached < expected {
            return Err(StoreError::RolledBack);
        }
        tracing::warn!(entries = lost.len(), "put revocations back that the store had lost");
        // They have other numbers now; whoever still hears of the old ones need not look for them.
        match self.write_acceptance(page, LogPosition(expected)).await {
            Ok(_) | Err(StoreError::Contended) => {}
            Err(error) => tracing::warn!(%error, "what was put back is not on record"),
        }
        self.log.found_behind.store(false, Ordering::Relaxed);
        Ok(accepted.max(LogPosition(expected)))
    }
}

#[cfg(test)]
mod log_memory_tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_remembered_and_no_more() {
        let memory = LogMemory::default();
        let entry = |number| LoggedEntry {
            number,
            device: DeviceId::from_bytes([2; 6]),
            device_version: number,
            blob: Vec::new(),
        };
        let all = REMEMBERED as u64 + 10;
        for number in 1..=all {
            memory.remember(entry(number));
            memory.remember(entry(number));
        }
        memory.remember(entry(3));
        let kept = memory.after(0);
        assert_eq!((kept.len(), kept[0].number), (REMEMBERED, 11));
        assert_eq!(memory.highest(), all);
        memory.hear(all + 5);
        assert_eq!((memory.highest(), memory.after(all).len()), (all + 5, 0));
    }
}
