//! What outlives the owner of a session: the numbers in a journal and the keys in a store, each as far as it was written.

use std::collections::BTreeMap;

use usmp::server::{CommitToken, LastRekey, PendingRekey, Resumed, SessionSecrets, first_number};
use usmp::{SessionId, SessionKeys};

/// A session in the journal and in the store.
struct Entry {
    birth: u32,
    epoch: u32,
    /// Which REKEY began it.
    begun_by: [u8; 8],
    committed: Option<u32>,
    fragment_open: bool,
    established: bool,
    /// The store's record, which may be one epoch ahead of the journal.
    record: SessionSecrets,
    /// The keys before those of the record.
    before: Option<SessionKeys>,
}

/// The journal and the store.
#[derive(Default)]
pub struct Journal {
    generation: u32,
    entries: BTreeMap<SessionId, Entry>,
}

fn duplicate(last: &LastRekey) -> LastRekey {
    LastRekey { old_c2s: last.old_c2s.duplicate(), ..*last }
}

impl Journal {
    /// A session opens.
    pub fn open(&mut self, record: SessionSecrets) {
        let entry = Entry {
            birth: self.generation,
            epoch: 0,
            begun_by: record.begun_by,
            committed: None,
            fragment_open: false,
            established: false,
            record,
            before: None,
        };
        self.entries.insert(entry.record.session_id, entry);
    }

    /// The device showed that it lives.
    pub fn established(&mut self, session: SessionId) {
        if let Some(entry) = self.entries.get_mut(&session) {
            entry.established = true;
        }
    }

    /// A session ended.
    pub fn close(&mut self, session: SessionId) {
        self.entries.remove(&session);
    }

    /// A number is committed.
    ///
    /// # Panics
    ///
    /// When numbers do not rise.
    pub fn commit(&mut self, session: SessionId, token: CommitToken, fragment: bool) {
        let Some(entry) = self.entries.get_mut(&session) else { return };
        let before = (entry.epoch, entry.committed);
        assert!(before < (token.epoch, Some(token.seq)), "{token:?} of {session:?} after {before:?}");
        assert_eq!(entry.epoch, token.epoch, "{session:?}: a message of another epoch");
        entry.committed = Some(token.seq);
        entry.fragment_open = fragment;
    }

    /// The highest committed number of a session in its epoch.
    #[must_use]
    pub fn committed(&self, session: SessionId) -> Option<u32> {
        self.entries.get(&session)?.committed
    }

    /// The keys of the epoch to come are in the store.
    pub fn persist(&mut self, session: SessionId, PendingRekey { before, after }: PendingRekey) {
        if let Some(entry) = self.entries.get_mut(&session) {
            entry.record = after;
            entry.before = Some(before);
        }
    }

    /// A session is in the next epoch.
    ///
    /// # Panics
    ///
    /// When its keys are not in the store.
    pub fn rekey(&mut self, session: SessionId, epoch: u32) {
        let Some(entry) = self.entries.get_mut(&session) else { return };
        assert_eq!(entry.record.epoch, epoch, "{session:?}: the keys come before the epoch");
        entry.epoch = epoch;
        entry.begun_by = entry.record.begun_by;
        entry.committed = None;
        entry.fragment_open = false;
    }

    /// Another owner has everything from here on.
    pub const fn next_owner(&mut self) {
        self.generation += 1;
    }

    /// What the owner needs to go on with a session.
    #[must_use]
    pub fn resumed(&self, prefix: [u8; 8]) -> Option<Resumed> {
        let entry = self.entries.values().find(|entry| entry.record.session_id.prefix() == prefix)?;
        let record = &entry.record;
        let (keys, last_rekey) = if record.epoch == entry.epoch {
            if record.begun_by != entry.begun_by {
                // The keys of a REKEY that another one took the place of.
                return None;
            }
            (record.keys.duplicate(), record.last_rekey.as_ref().map(duplicate))
        } else {
            // The REKEY did not get into the journal: for the device it has not happened.
            (entry.before.as_ref()?.duplicate(), None)
        };
        let secrets = SessionSecrets {
            session_id: record.session_id,
            epoch: entry.epoch,
            keys,
            begun_by: entry.begun_by,
            last_rekey,
        };
        Some(Resumed {
            secrets,
            committed: entry.committed,
            fragment_open: entry.fragment_open,
            next_seq: first_number(self.generation - entry.birth)?,
            established: entry.established,
        })
    }
}
