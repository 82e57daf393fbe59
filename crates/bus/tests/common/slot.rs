//! A slot, what it gives back, and a device that sends through it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sluice_bus::{
    AdoptError, Adopted, BusConfig, Group, LedgerEntry, LedgerReader, Outcome, Owner, SessionState, SlotLost,
    SlotSettle, Snapshot, Start, Tail, TailedRecord, adopt,
};

use super::{LONG, push, read_from};

/// The session of [`push`], its epoch and device.
pub(crate) const SESSION: [u8; 16] = [0xab; 16];
pub(crate) const EPOCH: u32 = 2;
pub(crate) const DEVICE: [u8; 6] = [2, 0xa1, 0xb2, 0xc3, 0xd4, 0];

/// Tokens of ledger entries are those of their records and this.
pub(crate) const ENTRY: u64 = 1 << 32;

/// What a slot gave back.
#[derive(Debug)]
pub(crate) enum Back {
    Settled(Group),
    Lost(SlotLost),
}

struct Into(SyncSender<Back>);

impl SlotSettle for Into {
    fn settle(&mut self, group: Group) {
        // A test that has seen enough is gone.
        let _ = self.0.send(Back::Settled(group));
    }

    fn lost(&mut self, why: SlotLost) {
        let _ = self.0.send(Back::Lost(why));
    }
}

/// A slot that was adopted.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) config: BusConfig,
    pub(crate) adopted: Adopted,
    pub(crate) back: Receiver<Back>,
}

pub(crate) fn owner(pod: u8) -> Owner {
    Owner { pod: [pod; 16], address: format!("10.0.0.{pod}:7400") }
}

pub(crate) fn reader(config: &BusConfig) -> LedgerReader {
    LedgerReader::open(config).expect("the ledger is there")
}

pub(crate) fn try_adopt(
    config: &BusConfig,
    slot: u16,
    snapshot: Option<Snapshot>,
    reader: &mut LedgerReader,
    deadline: Duration,
) -> Result<Slot, AdoptError> {
    let (settle, back) = sync_channel(256);
    let adopted = adopt(config, slot, &owner(1), snapshot, reader, Into(settle), deadline)?;
    Ok(Slot { config: config.clone(), adopted, back })
}

impl Slot {
    /// Adopts slot 0.
    pub(crate) fn adopt(config: &BusConfig, reader: &mut LedgerReader) -> Self {
        Self::adopt_from(config, reader, None)
    }

    pub(crate) fn adopt_from(
        config: &BusConfig,
        reader: &mut LedgerReader,
        snapshot: Option<Snapshot>,
    ) -> Self {
        try_adopt(config, 0, snapshot, reader, LONG).expect("the slot is adopted")
    }

    pub(crate) fn submit(&self, group: Group) {
        assert!(self.adopted.writer.try_submit(group).is_ok(), "the slot has room");
    }

    pub(crate) fn settled(&self) -> Group {
        match self.back.recv_timeout(LONG).expect("the group comes back") {
            Back::Settled(group) => group,
            Back::Lost(why) => panic!("the slot was lost: {why:?}"),
        }
    }

    pub(crate) fn commit(&self, group: Group) -> Group {
        self.submit(group);
        let group = self.settled();
        super::all_committed(&group);
        group
    }

    pub(crate) fn read(&self, short_name: &str, least: usize) -> Vec<TailedRecord> {
        read_topic(&self.config, short_name, least)
    }

    /// The sessions found when it was adopted.
    pub(crate) fn found(&self) -> Vec<SessionState> {
        let mut sessions = self.adopted.sessions.clone();
        sessions.sort_unstable_by_key(|state| state.session);
        sessions
    }
}

pub(crate) fn read_topic(config: &BusConfig, short_name: &str, least: usize) -> Vec<TailedRecord> {
    let topic = format!("{}.{short_name}", config.topic_prefix);
    read_from(&Tail::open(config, &topic, Start::Beginning).expect("the topic is there"), least)
}

pub(crate) fn state(committed: Option<u32>) -> SessionState {
    SessionState { session: SESSION, device: DEVICE, birth: 1, epoch: EPOCH, committed, fragment_open: false }
}

pub(crate) fn opening() -> LedgerEntry {
    let SessionState { session, device, birth, epoch, committed, fragment_open } = state(None);
    LedgerEntry::State { session, device, birth, epoch, committed, fragment_open }
}

pub(crate) fn number(seq: u32) -> LedgerEntry {
    LedgerEntry::Number { session: SESSION, epoch: EPOCH, seq, fragment_open: false }
}

/// A group that opens the session.
pub(crate) fn open_session() -> Group {
    let mut group = Group::new(16, 4096);
    group.push_ledger(&opening(), ENTRY).expect("room");
    group
}

/// Each record with its number for the ledger.
pub(crate) fn numbered(records: std::ops::Range<u32>, size: usize) -> Group {
    let mut group = Group::new(50_000, 16 << 20);
    for seq in records {
        push(&mut group, seq, size);
        group.push_ledger(&number(seq), ENTRY + u64::from(seq)).expect("room");
    }
    group
}

pub(crate) fn outcomes_are(group: &Group, expected: Outcome) {
    for (token, outcome) in group.outcomes() {
        assert_eq!(outcome, expected, "token {token:#x}");
    }
}
