//! What this process remembers of the revocation log, to notice a store that was rolled back, and to put back what it lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_types::DeviceId;

use crate::{StoreError, StoreWitness};

/// Entries remembered, the newest ones: under 2 MB. A fail-over loses the last few; a backup that is older than all of these
/// cannot be put right from here.
const REMEMBERED: usize = 4096;

/// Entries whose absence is remembered; what is heard beyond that is not needed to distrust the store.
const DOUBTS: usize = 64;

/// Positions of others that were not looked for so far. What is heard beyond that is heard again with the next beat.
const HEARD: usize = 64;

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
    is_behind: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// Highest number that this process knows to have been in the log.
    highest: u64,
    /// What it read, in order, since `forgotten`.
    entries: VecDeque<LoggedEntry>,
    /// The last entry that was there and is not remembered, 0 when all are.
    forgotten: u64,
    /// Positions that others have applied, until they are found in the log, or become doubts.
    heard: BTreeSet<u64>,
    /// What is known outside and was not found; whether it was told.
    doubts: BTreeMap<StoreWitness, bool>,
    /// Where reading goes on after the log was set back.
    read_again_after: Option<u64>,
}

impl LogMemory {
    /// Whether the store's log had what is known of it when it was last looked at.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let is_whole = !self.is_behind.load(Ordering::Relaxed) && self.lock().doubts.is_empty();
        if is_whole { Ok(()) } else { Err(StoreError::RolledBack) }
    }

    /// Notes whether entries that were read here are missing; whether that was so before.
    pub(crate) fn is_behind(&self, now: bool) -> bool {
        self.is_behind.swap(now, Ordering::Relaxed)
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
        self.lock().has_read(number)
    }

    /// Somebody else has appended this entry of the same store, or applied the log up to it.
    pub(crate) fn hear(&self, number: u64) {
        let mut seen = self.lock();
        if number > 0 && !seen.has_read(number) && seen.heard.len() < HEARD {
            seen.heard.insert(number);
        }
    }

    /// What was heard and not read here meanwhile, to be looked for.
    pub(crate) fn take_heard(&self) -> Vec<u64> {
        let mut seen = self.lock();
        let heard = std::mem::take(&mut seen.heard);
        heard.into_iter().filter(|number| !seen.has_read(*number)).collect()
    }

    /// It is in the log, or was.
    pub(crate) fn found(&self, number: u64) {
        let mut seen = self.lock();
        seen.highest = seen.highest.max(number);
    }

    pub(crate) fn remember(&self, entry: LoggedEntry) {
        let mut seen = self.lock();
        if entry.number <= seen.entries.back().map_or(0, |last| last.number) {
            return;
        }
        seen.highest = seen.highest.max(entry.number);
        if seen.entries.len() == REMEMBERED
            && let Some(oldest) = seen.entries.pop_front()
        {
            seen.forgotten = oldest.number;
        }
        seen.entries.push_back(entry);
    }

    /// Entries up to this one were dropped from the log before they were read here.
    pub(crate) fn missed(&self, up_to: u64) {
        let mut seen = self.lock();
        seen.entries.clear();
        seen.forgotten = up_to;
    }

    /// Highest number that this process knows to have been in the log.
    pub(crate) fn highest(&self) -> u64 {
        self.lock().highest
    }

    /// The last entry that was read here, 0 for none.
    pub(crate) fn newest(&self) -> u64 {
        let seen = self.lock();
        seen.entries.back().map_or(seen.forgotten, |last| last.number)
    }

    /// Numbers of what is remembered, in order, after the one that was there before all of them.
    pub(crate) fn numbers(&self) -> (u64, Vec<u64>) {
        let seen = self.lock();
        (seen.forgotten, seen.entries.iter().map(|entry| entry.number).collect())
    }

    pub(crate) fn after(&self, number: u64) -> Vec<LoggedEntry> {
        self.lock().entries.iter().filter(|entry| entry.number > number).cloned().collect()
    }

    /// What came after `common` is not in the log, or not under these numbers: it is read anew from there.
    pub(crate) fn set_back(&self, common: u64) {
        let mut seen = self.lock();
        seen.entries.retain(|entry| entry.number <= common);
        seen.forgotten = seen.forgotten.min(common);
        seen.read_again_after = Some(seen.read_again_after.map_or(common, |before| before.min(common)));
    }

    /// Where reading goes on, if that is earlier than where it was.
    pub(crate) fn read_again_after(&self) -> Option<u64> {
        self.lock().read_again_after
    }

    /// What stands after that place was read.
    pub(crate) fn has_gone_on(&self, after: Option<u64>) {
        let mut seen = self.lock();
        if seen.read_again_after == after {
            seen.read_again_after = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Whole after every statement that can end it, so a poisoned lock is as good as another.
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Seen {
    fn has_read(&self, number: u64) -> bool {
        self.entries.binary_search_by_key(&number, |entry| entry.number).is_ok()
    }
}

#[cfg(test)]
mod log_memory_tests {
    use super::*;

    fn entry(number: u64) -> LoggedEntry {
        LoggedEntry { number, device: DeviceId::from_bytes([2; 6]), device_version: number, blob: Vec::new() }
    }

    #[test]
    fn the_newest_entries_are_remembered_and_no_more() {
        let memory = LogMemory::default();
        let all = REMEMBERED as u64 + 10;
        for number in 1..=all {
            memory.remember(entry(number));
            memory.remember(entry(number));
        }
        memory.remember(entry(3));
        let kept = memory.after(0);
        assert_eq!((kept.len(), kept[0].number), (REMEMBERED, 11));
        let (forgotten, numbers) = memory.numbers();
        assert_eq!((forgotten, numbers.len(), memory.newest()), (10, REMEMBERED, all));
        memory.found(all + 5);
        assert_eq!((memory.highest(), memory.after(all).len()), (all + 5, 0));
    }

    #[test]
    fn what_is_heard_is_looked_for_once_and_only_if_it_was_not_read() {
        let memory = LogMemory::default();
        memory.remember(entry(2));
        for number in [0, 2, 3, 3, 5] {
            memory.hear(number);
        }
        memory.remember(entry(3));
        assert_eq!(memory.take_heard(), [5]);
        assert!(memory.take_heard().is_empty());
        (10..10 + 2 * HEARD as u64).for_each(|number| memory.hear(number));
        assert_eq!(memory.take_heard().len(), HEARD);
    }

    #[test]
    fn after_a_log_that_was_set_back_reading_goes_on_once_from_the_earliest_place() {
        let memory = LogMemory::default();
        (1..=9).for_each(|number| memory.remember(entry(number)));
        memory.set_back(6);
        memory.set_back(4);
        assert_eq!((memory.newest(), memory.highest()), (4, 9));
        assert_eq!(memory.read_again_after(), Some(4), "until it was read");
        memory.set_back(3);
        memory.has_gone_on(Some(4));
        assert_eq!(memory.read_again_after(), Some(3), "set back again meanwhile");
        memory.has_gone_on(Some(3));
        assert_eq!(memory.read_again_after(), None);
        memory.remember(entry(4));
        assert_eq!(memory.newest(), 4, "under a number that was another entry's");
    }
}
