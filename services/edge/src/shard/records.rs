//! PACKET PATH: no lock, no log, no await; no allocation per record once the groups have their memory.
//!
//! The shard's records on their way to Kafka. A group grows while the writer is busy and is handed over at the end of a turn; its
//! outcomes come back in the same order, and only they free acknowledgements.

use std::collections::VecDeque;

use sluice_bus::{
    EventEncoder, EventRecord, Group, GroupFull, LedgerEntry, MAX_ENTRY_BYTES, Outcome, SlotWriter,
    Telemetry, Topic, Writer,
};
use sluice_types::Timestamp;
use usmp::server::CommitToken;

use super::session::Session;
use crate::config::LimitsConfig;
use crate::counts::{Count, Counts};
use crate::events::Event;
use crate::link::SessionRef;
use crate::path::Path;
use crate::stream::SCRATCH;

/// A group that the writer is through with.
pub(crate) type Settled = Group;

/// Records that one read may give at most: sealed frames of 40 bytes in one buffer of a connection. It is more than the datagrams
/// of a batch.
pub(crate) const RECORDS_PER_READ: usize = SCRATCH / 40 + 1;

/// Bytes that one read may need at most: its own, the beginning of a message that lay in a buffer, and the keys.
const BYTES_PER_READ: usize = SCRATCH + usmp::wire::MAX_MESSAGE + RECORDS_PER_READ * KEY;

/// Longest key of a record, and what the group adds for safety.
const KEY: usize = 80;

/// Events that wait for room; further ones are counted as lost. Sessions and refusals make few of them.
const MAX_EVENTS: usize = 4096;

/// Fewest records and bytes of a group with which a read always finds room in an empty one.
pub(crate) const MIN_RECORDS: usize = 2 * RECORDS_PER_READ;
pub(crate) const MIN_BYTES: usize = 2 * BYTES_PER_READ;

/// Token of a record that nobody waits for.
const NOBODY: u64 = u64::MAX;

/// Entries of a ledger that wait for room; further ones are counted as lost, which costs re-handshakes, never a record.
const MAX_ENTRIES: usize = 1 << 16;

/// A message in a group: whose it is and what the session knows it by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) session: SessionRef,
    pub(crate) token: CommitToken,
    /// UDP: where it came from, and its UTACK goes.
    pub(crate) source: Option<Path>,
    pub(crate) kind: Kind,
}

impl Message {
    pub(crate) fn is_record(&self) -> bool {
        self.kind == Kind::Record
    }
}

/// What a device waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record of its own.
    Record,
    /// A part of one, of which only the journal hears.
    Fragment,
    /// A change of keys, likewise.
    Rekey,
    /// Its SESSION_OK; the message names its handshake, by the serial number of the session that is to be.
    Birth,
}

/// Who commits the groups.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A writer of what nobody goes on with.
    Writer(Writer),
    /// The writer of a slot, with its journal.
    Slot(SlotWriter),
    /// The writer of a slot that takes nothing.
    #[cfg(test)]
    Stalled,
    /// The writer of a slot that is simulated.
    #[cfg(test)]
    Simulated(crate::simulation::SlotWriter),
}

impl Sink {
    fn try_submit(&self, group: Group) -> Result<(), Group> {
        match self {
            Self::Writer(writer) => writer.try_submit(group),
            Self::Slot(writer) => writer.try_submit(group),
            #[cfg(test)]
            Self::Stalled => Err(group),
            #[cfg(test)]
            Self::Simulated(writer) => writer.try_submit(group),
        }
    }

    fn is_running(&self) -> bool {
        match self {
            Self::Writer(writer) => writer.is_running(),
            Self::Slot(writer) => writer.is_running(),
            #[cfg(test)]
            Self::Stalled => true,
            #[cfg(test)]
            Self::Simulated(writer) => writer.is_running(),
        }
    }

    fn shutdown(self, within: std::time::Duration) -> usize {
        match self {
            Self::Writer(writer) => writer.shutdown(within),
            Self::Slot(writer) => writer.shutdown(within),
            #[cfg(test)]
            Self::Stalled => 0,
            #[cfg(test)]
            Self::Simulated(writer) => writer.shutdown(),
        }
    }
}

/// A group and its messages, by their number in it.
#[derive(Debug)]
struct Filling {
    group: Group,
    messages: Vec<Message>,
    bytes: usize,
}

/// What is kept of a group while the writer has it.
#[derive(Debug, Default)]
struct UnderWay {
    messages: Vec<Message>,
    bytes: usize,
    /// Events among them.
    records: usize,
}

/// A group with its outcomes.
#[derive(Debug)]
pub(crate) struct Batch(Filling);

impl Batch {
    /// Each message of the group and whether Kafka has it. One whose outcome nobody knows is left out: its writer is at its end, and
    /// nobody is told anything.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (&Message, bool)> {
        self.0.group.outcomes().filter_map(|(token, outcome)| {
            let message = self.0.messages.get(usize::try_from(token).ok()?)?;
            match outcome {
                Outcome::Committed => Some((message, true)),
                Outcome::Refused(_) => Some((message, false)),
                Outcome::Unknown => None,
            }
        })
    }
}

pub(crate) struct Records {
    sink: Sink,
    encoder: EventEncoder,
    open: Option<Filling>,
    /// Full ones that the writer has not taken yet.
    full: VecDeque<Filling>,
    /// Messages of the groups that the writer has, in its order.
    under_way: VecDeque<UnderWay>,
    free: Vec<Filling>,
    events: VecDeque<Event>,
    entries: VecDeque<(LedgerEntry, Option<Message>)>,
    max_records: usize,
    max_bytes: usize,
    /// Groups begun so far: the number of the newest one.
    begun: u64,
    /// Groups settled so far. They come back in their order.
    settled: u64,
}

impl Records {
    pub(crate) fn new(sink: Sink, encoder: EventEncoder, limits: &LimitsConfig) -> Self {
        // A slot has a record of the journal beside each of its own, and one of many has a smaller share.
        let (max_records, max_bytes) = match sink {
            Sink::Writer(_) => {
                (limits.records_per_group.get() as usize, limits.bytes_per_group.get() as usize)
            }
            Sink::Slot(_) => (2 * MIN_RECORDS, 2 * MIN_BYTES),
            #[cfg(test)]
            Sink::Stalled | Sink::Simulated(_) => (2 * MIN_RECORDS, 2 * MIN_BYTES),
        };
        let groups = limits.groups_per_shard.get() as usize;
        let free = (0..groups).map(|_| Filling {
            group: Group::new(max_records, max_bytes),
            messages: Vec::with_capacity(max_records),
            bytes: 0,
        });
        Self {
            sink,
            encoder,
            open: None,
            full: VecDeque::with_capacity(groups),
            under_way: VecDeque::with_capacity(groups),
            free: free.collect(),
            events: VecDeque::new(),
            entries: VecDeque::new(),
            max_records,
            max_bytes,
            begun: 0,
            settled: 0,
        }
    }

    /// The number of the newest group that holds a record and is not settled; 0 when there is none.
    pub(crate) fn mark(&self) -> u64 {
        let empty = self.open.as_ref().is_some_and(|open| open.group.is_empty());
        let newest = self.begun - u64::from(empty);
        if newest > self.settled { newest } else { 0 }
    }

    /// The number of the last group that is settled.
    pub(crate) const fn settled(&self) -> u64 {
        self.settled
    }

    /// Whether everything that one read can give surely finds room.
    pub(crate) fn has_room(&self) -> bool {
        // A message must not overtake what the ledger is to hear first: that its session was opened.
        self.entries.is_empty()
            && (!self.free.is_empty() || self.open.as_ref().is_some_and(|open| self.fits(open)))
    }

    fn fits(&self, filling: &Filling) -> bool {
        filling.group.len() + self.per_message() * RECORDS_PER_READ <= self.max_records
            && filling.bytes + BYTES_PER_READ + RECORDS_PER_READ * (self.per_message() - 1) * MAX_ENTRY_BYTES
                <= self.max_bytes
    }

    /// Records that a message takes: its own, and in a slot what the journal says of it.
    const fn per_message(&self) -> usize {
        match self.sink {
            Sink::Writer(_) => 1,
            Sink::Slot(_) => 2,
            #[cfg(test)]
            Sink::Stalled | Sink::Simulated(_) => 2,
        }
    }

    /// Adds a device's message.
    ///
    /// # Errors
    ///
    /// [`GroupFull`] when there was no room, which whoever asked [`Self::has_room`] first does not see.
    pub(crate) fn message(
        &mut self,
        at: Timestamp,
        session: &Session,
        tenant: &str,
        message: Message,
        payload: &[u8],
    ) -> Result<(), GroupFull> {
        let record = Telemetry {
            tenant,
            device: session.facts.device.to_hex(),
            session: session.id.0,
            epoch: message.token.epoch,
            seq: message.token.seq,
            received_ms: at.as_millis(),
            payload,
        };
        let CommitToken { epoch, seq } = message.token;
        let session = session.id.0;
        let number = LedgerEntry::Number { session, epoch, seq, fragment_open: false };
        let journaled = self.per_message() > 1;
        let (records, bytes) = (self.per_message(), KEY + payload.len() + MAX_ENTRY_BYTES);
        let open = self.room_for(records, bytes)?;
        open.group.push_telemetry(&record, open.messages.len() as u64)?;
        if journaled {
            // Final together with the record, whose outcome is the message's.
            open.group.push_ledger(&number, NOBODY)?;
        }
        open.messages.push(message);
        open.bytes += bytes;
        Ok(())
    }

    /// Lets the journal say something, now or when there is room; `message` waits for it.
    pub(crate) fn journal(&mut self, counts: &Counts, entry: LedgerEntry, message: Option<Message>) {
        if self.entries.is_empty() && self.add_entry(&entry, message).is_ok() {
            return;
        }
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push_back((entry, message));
        } else {
            counts.one(Count::JournalEntriesLost);
        }
    }

    fn add_entry(&mut self, entry: &LedgerEntry, message: Option<Message>) -> Result<(), GroupFull> {
        let open = self.room_for(1, MAX_ENTRY_BYTES)?;
        let token = if message.is_some() { open.messages.len() as u64 } else { NOBODY };
        open.group.push_ledger(entry, token)?;
        open.messages.extend(message);
        open.bytes += MAX_ENTRY_BYTES;
        Ok(())
    }

    /// Adds an event, now or when there is room.
    pub(crate) fn event(&mut self, counts: &Counts, event: Event) {
        if self.events.is_empty() && self.add_event(&event).is_ok() {
            counts.one(Count::EventsWritten);
        } else if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            counts.one(Count::EventsLost);
        }
    }

    fn add_event(&mut self, event: &Event) -> Result<(), GroupFull> {
        let (topic, id, time_ms, tenant, device, payload) = match event {
            Event::Lifecycle(event) => {
                let payload = self.encoder.lifecycle(event);
                (Topic::Lifecycle, &event.event_id, event.time_unix_ms, &event.tenant, &event.device, payload)
            }
            Event::Security(event) => {
                let payload = self.encoder.security(event);
                (Topic::Security, &event.event_id, event.time_unix_ms, &event.tenant, &event.device, payload)
            }
        };
        // Unknown devices share one key, and no byte of theirs is in it.
        let (key, source) = if device.is_empty() {
            ("unknown".to_owned(), "edge".to_owned())
        } else {
            (format!("{tenant}/{device}"), format!("tenants/{tenant}/devices/{device}"))
        };
        let bytes = key.len() + source.len() + id.len() + payload.len();
        let record =
            EventRecord { topic, key: key.as_bytes(), id, source: &source, time_ms, payload: &payload };
        let open = self.room_for(1, bytes)?;
        open.group.push_event(&record, NOBODY)?;
        open.bytes += bytes;
        Ok(())
    }

    /// The open group if it has room for so many records and bytes, or a new one.
    fn room_for(&mut self, records: usize, bytes: usize) -> Result<&mut Filling, GroupFull> {
        let (max_records, max_bytes) = (self.max_records, self.max_bytes);
        let has_room = |filling: &Filling| {
            filling.group.len() + records <= max_records && filling.bytes + bytes <= max_bytes
        };
        if !self.open.as_ref().is_some_and(has_room) {
            let next = self.free.pop().ok_or(GroupFull)?;
            self.begun += 1;
            if let Some(full) = self.open.replace(next) {
                self.full.push_back(full);
            }
        }
        self.open.as_mut().ok_or(GroupFull)
    }

    /// Hands over what the writer takes; the rest grows on.
    pub(crate) fn submit(&mut self, counts: &Counts) {
        while let Some((entry, message)) = self.entries.pop_front() {
            if self.add_entry(&entry, message).is_err() {
                self.entries.push_front((entry, message));
                break;
            }
        }
        while let Some(event) = self.events.pop_front() {
            if self.add_event(&event).is_err() {
                self.events.push_front(event);
                break;
            }
            counts.one(Count::EventsWritten);
        }
        while let Some(filling) = self.full.pop_front() {
            if let Err(filling) = self.hand_over(filling) {
                self.full.push_front(filling);
                return;
            }
        }
        // The last group stays and grows until another one is back: small ones on their way must not leave no room.
        let may_go = !self.free.is_empty() || self.open.as_ref().is_some_and(|open| !self.fits(open));
        if may_go
            && let Some(filling) = self.open.take_if(|open| !open.group.is_empty())
            && let Err(filling) = self.hand_over(filling)
        {
            self.open = Some(filling);
        }
    }

    fn hand_over(&mut self, filling: Filling) -> Result<(), Filling> {
        let Filling { group, messages, bytes } = filling;
        let records = group.len();
        match self.sink.try_submit(group) {
            Ok(()) => {
                self.under_way.push_back(UnderWay { messages, bytes, records });
                Ok(())
            }
            Err(group) => Err(Filling { group, messages, bytes }),
        }
    }

    /// Joins a group that came back with its messages; the writer keeps the order.
    pub(crate) fn take_back(&mut self, group: Settled) -> Batch {
        let UnderWay { messages, bytes, .. } = self.under_way.pop_front().unwrap_or_default();
        self.settled += 1;
        Batch(Filling { group, messages, bytes })
    }

    pub(crate) fn reuse(&mut self, batch: Batch) {
        let Batch(mut filling) = batch;
        filling.group.clear();
        filling.messages.clear();
        filling.bytes = 0;
        self.free.push(filling);
    }

    /// Whether nothing is on its way and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
            && self.full.is_empty()
            && self.events.is_empty()
            && self.entries.is_empty()
            && self.open.as_ref().is_none_or(|open| open.group.is_empty())
    }

    #[cfg(test)]
    pub(crate) const fn is_simulated(&self) -> bool {
        matches!(self.sink, Sink::Simulated(_))
    }

    /// Whether what is handed over can still become final.
    pub(crate) fn has_writer(&self) -> bool {
        self.sink.is_running()
    }

    /// Ends the writer; gives the number of records whose outcome nobody knows.
    pub(crate) fn shutdown(self, within: std::time::Duration) -> usize {
        let waiting = self.full.iter().chain(&self.open).map(|filling| filling.group.len()).sum::<usize>();
        // A writer that is gone has taken its groups with it.
        let under_way: usize = self.under_way.iter().map(|group| group.records).sum();
        let runs = self.sink.is_running();
        waiting + if runs { self.sink.shutdown(within) } else { under_way }
    }
}

#[cfg(test)]
mod tests {
    use sluice_bus::EventFormat;

    use super::*;

    #[test]
    fn no_message_finds_room_while_the_ledger_waits_to_hear_of_a_session() {
        let encoder = EventEncoder::new(EventFormat::Protobuf).expect("the messages are known");
        let mut records = Records::new(Sink::Stalled, encoder, &LimitsConfig::default());
        let counts = Counts::default();
        assert!(records.has_room());
        let opened = LedgerEntry::State {
            session: [1; 16],
            device: [2; 6],
            birth: 1,
            epoch: 0,
            committed: None,
            fragment_open: false,
        };
        // Until one finds no room in any group.
        let mut added = 0;
        while records.entries.is_empty() {
            records.journal(&counts, opened, None);
            records.submit(&counts);
            added += 1;
            assert!(added < 100_000, "groups are bounded");
        }
        // Room for messages would let the first one of that session overtake it.
        records.free.push(Filling { group: Group::new(10_000, 1 << 20), messages: Vec::new(), bytes: 0 });
        assert!(!records.has_room());
        records.submit(&counts);
        assert!(records.entries.is_empty() && records.has_room(), "it was heard in its turn");
        assert_eq!(counts.value(Count::JournalEntriesLost), 0);
    }
}
