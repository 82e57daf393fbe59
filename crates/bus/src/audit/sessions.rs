//! What is remembered of sessions, and where a name stands among what was seen.

use std::collections::HashMap;

use sluice_types::{DeviceId, SessionId};

use super::record::Claim;

/// See [`crate::Audit::WINDOW`].
pub(super) const WINDOW: u32 = 512;

const WORDS: usize = WINDOW as usize / 64;

/// Where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Higher than all before.
    New,
    /// There before.
    Again,
    /// Lower than the highest, and not there before.
    Late { highest: u32 },
    /// Lower than what is remembered.
    FarBehind { highest: u32 },
    /// Of keys that the session had changed already.
    EpochFell { current: u32 },
    /// In another partition than the session's first record.
    OtherPartition { home: i32 },
}

#[derive(Debug)]
struct Session {
    device: DeviceId,
    /// Set by the first record that was well.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    partition: i32,
    epoch: u32,
    highest: u32,
    /// Bit `sequence % WINDOW` of each of the last [`WINDOW`] sequences.
    seen: [u64; WORDS],
}

/// A bounded memory of sessions in two halves: who had a record since the halves were last exchanged, and who had one before. When the
/// first half is full, the second is forgotten and the first takes its place.
#[derive(Debug)]
pub(super) struct Sessions {
    recent: HashMap<SessionId, Session>,
    older: HashMap<SessionId, Session>,
    half: usize,
    begun: u64,
    forgotten: u64,
}

impl Sessions {
    pub(super) fn new(limit: usize) -> Self {
        let half = (limit / 2).max(1);
        Self { recent: HashMap::new(), older: HashMap::new(), half, begun: 0, forgotten: 0 }
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Whose session it is, if it is known. A record that is well makes an unknown one its device's.
    pub(super) fn owner(&mut self, claim: &Claim, well: bool) -> Option<DeviceId> {
        if !self.recent.contains_key(&claim.session) {
            let session = match self.older.remove(&claim.session) {
                Some(session) => session,
                None if !well => return None,
                None => {
                    self.begun += 1;
                    Session { device: claim.device, place: None }
                }
            };
            if self.recent.len() >= self.half {
                self.forgotten += self.older.len() as u64;
                self.older = std::mem::take(&mut self.recent);
            }
            self.recent.insert(claim.session, session);
        }
        self.recent.get(&claim.session).map(|session| session.device)
    }

    /// Where the name stands in its session, which was just asked for; a record that is well moves the session on.
    pub(super) fn place(&mut self, claim: &Claim, partition: i32, well: bool) -> Seen {
        let Some(session) = self.recent.get_mut(&claim.session) else { return Seen::New };
        let Some(place) = &mut session.place else {
            if well {
                session.place = Some(Place::begin(claim, partition));
            }
            return Seen::New;
        };
        if claim.epoch == place.epoch && place.has(claim.sequence) {
            return Seen::Again;
        }
        if partition != place.partition {
            return Seen::OtherPartition { home: place.partition };
        }
        if claim.epoch < place.epoch {
            return Seen::EpochFell { current: place.epoch };
        }
        if claim.epoch == place.epoch && claim.sequence <= place.highest {
            let highest = place.highest;
            return if highest - claim.sequence < WINDOW {
                // Its repeat is a double.
                place.mark(claim.sequence);
                Seen::Late { highest }
            } else {
                Seen::FarBehind { highest }
            };
        }
        if well {
            place.advance(claim);
        }
        Seen::New
    }
}

impl Place {
    fn begin(claim: &Claim, partition: i32) -> Self {
        let mut place = Self { partition, epoch: claim.epoch, highest: claim.sequence, seen: [0; WORDS] };
        place.mark(claim.sequence);
        place
    }

    /// To a name that is higher.
    fn advance(&mut self, claim: &Claim) {
        if claim.epoch > self.epoch || claim.sequence - self.highest >= WINDOW {
            self.seen = [0; WORDS];
        } else {
            for passed in self.highest..claim.sequence {
                let (word, bit) = bit(passed + 1);
                self.seen[word] &= !bit;
            }
        }
        (self.epoch, self.highest) = (claim.epoch, claim.sequence);
        self.mark(claim.sequence);
    }

    fn mark(&mut self, sequence: u32) {
        let (word, bit) = bit(sequence);
        self.seen[word] |= bit;
    }

    fn has(&self, sequence: u32) -> bool {
        let (word, bit) = bit(sequence);
        sequence <= self.highest && self.highest - sequence < WINDOW && self.seen[word] & bit != 0
    }
}

const fn bit(sequence: u32) -> (usize, u64) {
    let place = sequence % WINDOW;
    ((place / 64) as usize, 1 << (place % 64))
}
