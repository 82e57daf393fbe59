//! What a reader of a slot's journal knows.

use std::collections::HashMap;

use super::{LedgerEntry, LedgerRecord, SessionKey};

/// Sessions that are kept of one slot at most. Beyond it a newly opened one is not kept: it is closed by that, and counted.
pub const MAX_SESSIONS: usize = 1 << 22;

/// A session as the journal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    /// The whole session id.
    pub session: SessionKey,
    /// The device that authenticated it.
    pub device: [u8; 6],
    /// Generation of the slot when the session was opened.
    pub birth: u32,
    /// Rekey epoch.
    pub epoch: u32,
    /// Highest committed sequence number of this epoch.
    pub committed: Option<u32>,
    /// Whether that frame was a fragment whose message is not complete.
    pub fragment_open: bool,
}

/// What was read and not used, each counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities {
    /// Records that are no ledger records, or damaged ones.
    pub malformed: u64,
    /// Entries of sessions that are closed, were never opened, or whose opening the topic has forgotten.
    pub orphans: u64,
    /// Numbers that are not above the one already known.
    pub regressions: u64,
    /// Sessions beyond [`MAX_SESSIONS`].
    pub overflow: u64,
}

/// A slot's journal, folded. Its memory is bounded by the sessions that are open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerState {
    generation: u32,
    last_owner: Option<[u8; 16]>,
    sessions: HashMap<SessionKey, SessionState>,
    oddities: Oddities,
}

impl LedgerState {
    /// Starts with what is known already.
    #[must_use]
    pub fn starting_from(generation: u32, sessions: impl IntoIterator<Item = SessionState>) -> Self {
        let sessions = sessions.into_iter().map(|state| (state.session, state)).collect();
        Self { generation, sessions, ..Self::default() }
    }

    /// Generation of the slot: owners so far.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The open sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionState> {
        self.sessions.values()
    }

    /// The open sessions, in no order.
    #[must_use]
    pub fn into_sessions(self) -> Vec<SessionState> {
        self.sessions.into_values().collect()
    }

    /// What was read and not used.
    #[must_use]
    pub const fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// Counts a record that is none.
    pub const fn note_malformed(&mut self) {
        self.oddities.malformed += 1;
    }

    /// Takes the next record in.
    pub fn apply(&mut self, record: &LedgerRecord<'_>) {
        match record {
            // The same mark twice is one record and a copy of it, by a producer that had to be made anew.
            LedgerRecord::Owner { nonce, .. } if self.last_owner == Some(*nonce) => {}
            LedgerRecord::Owner { nonce, .. } => {
                self.generation = self.generation.saturating_add(1);
                self.last_owner = Some(*nonce);
            }
            LedgerRecord::Entries { generation, entries } => {
                // More than was counted: the topic has forgotten the owners before. Less: without a fence, an owner that does not
                // know yet that it is none; what it says of its numbers is true all the same.
                self.generation = self.generation.max(*generation);
                entries.iter().for_each(|entry| self.apply_entry(&entry));
            }
        }
    }

    fn apply_entry(&mut self, entry: &LedgerEntry) {
        match *entry {
            LedgerEntry::State { session, device, birth, epoch, committed, fragment_open } => {
                if !self.sessions.contains_key(&session) {
                    if self.sessions.len() >= MAX_SESSIONS {
                        self.oddities.overflow += 1;
                        return;
                    }
                    let state = SessionState { session, device, birth, epoch, committed, fragment_open };
                    self.sessions.insert(session, state);
                } else {
                    self.raise(session, epoch, committed, fragment_open);
                }
            }
            LedgerEntry::Number { session, epoch, seq, fragment_open } => {
                self.raise(session, epoch, Some(seq), fragment_open);
            }
            LedgerEntry::Closed { session } => {
                if self.sessions.remove(&session).is_none() {
                    self.oddities.orphans += 1;
                }
            }
        }
    }

    /// Numbers only rise: what is equal or lower changes nothing.
    fn raise(&mut self, session: SessionKey, epoch: u32, committed: Option<u32>, fragment_open: bool) {
        match self.sessions.get_mut(&session) {
            None => self.oddities.orphans += 1,
            Some(known) if (epoch, committed) > (known.epoch, known.committed) => {
                (known.epoch, known.committed, known.fragment_open) = (epoch, committed, fragment_open);
            }
            // An owner says now and then what is known.
            Some(known) if (epoch, committed) == (known.epoch, known.committed) => {}
            Some(_) => self.oddities.regressions += 1,
        }
    }
}
