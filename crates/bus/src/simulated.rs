//! What a simulation of Kafka needs: to look into groups, to settle them, and what a slot's journal says, by the code that does all
//! of it with a real one.

use crate::group::{Group, Meta, Outcome};
use crate::ledger::{LedgerState, Owner, OwnerMark, Snapshot, encode_owner};
use crate::slot::{Replay, Taken};
use crate::writer::LedgerPart;
use crate::{AdoptError, BusConfig, Topic};

/// A ledger that is being read, record by record.
#[derive(Debug)]
pub struct LedgerReplay(Replay);

impl LedgerReplay {
    /// Begins at a snapshot, or at the ledger's start; reads up to the owner's record with this mark.
    #[must_use]
    pub fn new(slot: u16, mark: [u8; 16], snapshot: Option<Snapshot>) -> Self {
        Self(Replay::new(slot, OwnerMark(mark), snapshot))
    }

    /// Takes the next record in; `true` if it is that owner's.
    ///
    /// # Errors
    ///
    /// [`AdoptError::UnknownVersion`].
    pub fn take(&mut self, offset: i64, value: &[u8]) -> Result<bool, AdoptError> {
        Ok(self.0.take(offset, value)? == Taken::Mark)
    }

    /// What is known now.
    #[must_use]
    pub fn into_state(self) -> LedgerState {
        self.0.into_state()
    }
}

/// A record of a group, as it would be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    /// Where it goes.
    pub topic: Topic,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Session, rekey epoch and sequence number of a device's message.
    pub message: Option<([u8; 16], u32, u32)>,
}

/// The records of a group, without what is for the ledger.
pub fn records(group: &Group) -> impl Iterator<Item = Produced> {
    (0..u32::try_from(group.len()).unwrap_or(u32::MAX)).map(|index| group.entry(index)).filter_map(|entry| {
        let message = match entry.meta {
            Meta::Ledger => return None,
            Meta::Telemetry { session, epoch, seq, .. } => Some((session, epoch, seq)),
            Meta::Event { .. } => None,
        };
        let (key, payload) = (group.bytes(&entry.key).to_vec(), group.bytes(&entry.payload).to_vec());
        Some(Produced { topic: entry.topic, key, payload, message })
    })
}

/// The records for the ledger that are committed with the groups.
#[must_use]
pub fn ledger_records(groups: &[Group], generation: u32) -> Vec<Vec<u8>> {
    let mut part = LedgerPart::new(&BusConfig::default());
    part.belongs_to(0, generation);
    part.compose(groups);
    (0..part.len()).map(|index| part.record(index).to_vec()).collect()
}

/// An owner's record with this mark.
#[must_use]
pub fn owner_record(owner: &Owner, mark: [u8; 16]) -> Option<Vec<u8>> {
    encode_owner(owner, OwnerMark(mark))
}

/// Makes a group final.
pub fn settle(group: &mut Group, outcome: Outcome, snapshot_offset: Option<i64>) {
    let outcome = if outcome == Outcome::Unknown { None } else { Some(outcome) };
    group.entries_mut().iter_mut().for_each(|entry| entry.outcome = outcome);
    group.set_snapshot_offset(snapshot_offset);
}
