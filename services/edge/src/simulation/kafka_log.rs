//! What lies in the simulated Kafka: a journal for each slot, the devices' records, and who may write.

use std::collections::HashMap;
use std::time::Duration;

use sluice_bus::simulated::Produced;
use tokio::time::Instant;

/// How long a transaction may be open before Kafka ends it.
const TRANSACTION: Duration = Duration::from_secs(10);

/// The producer has been replaced by a later one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Aborted,
}

/// A record of a ledger.
#[derive(Debug)]
struct Entry {
    offset: i64,
    transaction: u64,
    value: Vec<u8>,
}

#[derive(Debug, Default)]
struct Journal {
    /// Of the newest producer.
    epoch: u32,
    entries: Vec<Entry>,
    next_offset: i64,
}

#[derive(Debug)]
struct Transaction {
    slot: u16,
    epoch: u32,
    state: State,
    begun: Instant,
    /// Its records in the topic.
    records: Vec<usize>,
}

/// A device's message as it lies in the topic.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Tenant and device.
    pub(super) key: Vec<u8>,
    pub(super) session: [u8; 16],
    pub(super) epoch: u32,
    pub(super) seq: u32,
    pub(super) payload: Vec<u8>,
    transaction: u64,
}

/// Everything in it.
#[derive(Debug)]
pub(super) struct Log {
    journals: Vec<Journal>,
    transactions: Vec<Transaction>,
    topic: Vec<Message>,
    by_payload: HashMap<Vec<u8>, Vec<usize>>,
    /// Whether a later producer bars the earlier ones, which is what everything rests upon.
    pub(super) fences: bool,
}

impl Log {
    pub(super) fn new(slots: u16) -> Self {
        Self {
            journals: (0..slots).map(|_| Journal::default()).collect(),
            transactions: Vec::new(),
            topic: Vec::new(),
            by_payload: HashMap::new(),
            fences: true,
        }
    }

    /// Makes the caller the slot's producer: earlier ones are barred, and what they had open is aborted.
    pub(super) fn fence(&mut self, slot: u16) -> u32 {
        if !self.fences {
            return self.journals[usize::from(slot)].epoch;
        }
        self.abort_open(slot);
        let journal = &mut self.journals[usize::from(slot)];
        journal.epoch += 1;
        journal.epoch
    }

    fn abort_open(&mut self, slot: u16) {
        for transaction in self.transactions.iter_mut().filter(|found| found.slot == slot) {
            if transaction.state == State::Open {
                transaction.state = State::Aborted;
                // Its marker takes an offset.
                self.journals[usize::from(slot)].next_offset += 1;
            }
        }
    }

    /// Ends what was open for too long, and bars its producer.
    fn expire(&mut self, slot: u16) {
        let now = Instant::now();
        let late = |found: &Transaction| {
            found.slot == slot && found.state == State::Open && found.begun + TRANSACTION <= now
        };
        if self.transactions.iter().any(late) {
            self.abort_open(slot);
            self.journals[usize::from(slot)].epoch += 1;
        }
    }

    /// Produces in a new transaction; gives its number and the offsets of the ledger's records.
    pub(super) fn produce(
        &mut self,
        slot: u16,
        epoch: u32,
        ledger: Vec<Vec<u8>>,
        records: Vec<Produced>,
    ) -> Result<(u64, Vec<i64>), Fenced> {
        self.expire(slot);
        let journal = &mut self.journals[usize::from(slot)];
        if journal.epoch != epoch {
            return Err(Fenced);
        }
        let number = self.transactions.len() as u64;
        let mut offsets = Vec::new();
        for value in ledger {
            offsets.push(journal.next_offset);
            journal.entries.push(Entry { offset: journal.next_offset, transaction: number, value });
            journal.next_offset += 1;
        }
        let mut places = Vec::new();
        for Produced { key, payload, message, .. } in records {
            let Some((session, epoch, seq)) = message else { continue };
            places.push(self.topic.len());
            self.by_payload.entry(payload.clone()).or_default().push(self.topic.len());
            self.topic.push(Message { key, session, epoch, seq, payload, transaction: number });
        }
        let begun = Instant::now();
        self.transactions.push(Transaction { slot, epoch, state: State::Open, begun, records: places });
        Ok((number, offsets))
    }

    /// Commits a transaction, unless its producer is barred. Said twice it is done once.
    pub(super) fn commit(&mut self, number: u64) -> Result<(), Fenced> {
        let Some(slot) = self.transactions.get(number as usize).map(|found| found.slot) else {
            return Err(Fenced);
        };
        self.expire(slot);
        let transaction = &mut self.transactions[number as usize];
        match transaction.state {
            State::Committed => Ok(()),
            State::Open if self.journals[usize::from(slot)].epoch == transaction.epoch => {
                transaction.state = State::Committed;
                self.journals[usize::from(slot)].next_offset += 1;
                Ok(())
            }
            State::Open | State::Aborted => Err(Fenced),
        }
    }

    /// Aborts a transaction that its producer gives up.
    pub(super) fn abort(&mut self, number: u64) {
        let Some(transaction) = self.transactions.get_mut(number as usize) else { return };
        if transaction.state == State::Open {
            transaction.state = State::Aborted;
            self.journals[usize::from(transaction.slot)].next_offset += 1;
        }
    }

    /// The committed records of a ledger from an offset on, up to the first open transaction.
    pub(super) fn fetch(&mut self, slot: u16, from: i64) -> Vec<(i64, Vec<u8>)> {
        self.expire(slot);
        let mut found = Vec::new();
        for entry in &self.journals[usize::from(slot)].entries {
            match self.transactions[entry.transaction as usize].state {
                State::Open => break,
                State::Committed if entry.offset >= from => found.push((entry.offset, entry.value.clone())),
                State::Committed | State::Aborted => {}
            }
        }
        found
    }

    fn is_committed(&self, place: usize) -> bool {
        let transaction = self.topic[place].transaction;
        self.transactions[transaction as usize].state == State::Committed
    }

    /// How often a payload is committed now.
    pub(super) fn times_committed(&self, payload: &[u8]) -> usize {
        let places = self.by_payload.get(payload).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter(|&&place| self.is_committed(place)).count()
    }

    /// The committed messages in the order of the topic.
    pub(super) fn committed(&self) -> impl Iterator<Item = &Message> {
        (0..self.topic.len()).filter(|&place| self.is_committed(place)).map(|place| &self.topic[place])
    }

    /// Transactions that were committed, and those that were not, with records.
    pub(super) fn transactions(&self) -> (usize, usize) {
        let with_records = self.transactions.iter().filter(|found| !found.records.is_empty());
        let (mut committed, mut not) = (0, 0);
        for transaction in with_records {
            if transaction.state == State::Committed {
                committed += 1;
            } else {
                not += 1;
            }
        }
        (committed, not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_producer_that_was_replaced_commits_nothing_and_what_it_had_open_is_gone() {
        let mut log = Log::new(1);
        let first = log.fence(0);
        let (open, _) = log.produce(0, first, vec![b"a".to_vec()], Vec::new()).expect("the only one");
        let second = log.fence(0);
        assert_eq!(log.commit(open), Err(Fenced));
        assert_eq!(log.produce(0, first, Vec::new(), Vec::new()), Err(Fenced));
        let (mine, offsets) = log.produce(0, second, vec![b"b".to_vec()], Vec::new()).expect("the newest");
        assert_eq!(log.fetch(0, 0), [], "it is open");
        assert_eq!(log.commit(mine), Ok(()));
        assert_eq!(log.fetch(0, 0), [(offsets[0], b"b".to_vec())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_barred() {
        let mut log = Log::new(1);
        let epoch = log.fence(0);
        let (open, _) = log.produce(0, epoch, vec![b"a".to_vec()], Vec::new()).expect("the only one");
        tokio::time::advance(TRANSACTION).await;
        assert_eq!(log.commit(open), Err(Fenced));
        assert_eq!(log.produce(0, epoch, Vec::new(), Vec::new()), Err(Fenced));
    }
}
