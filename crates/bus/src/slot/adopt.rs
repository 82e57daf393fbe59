//! How a pod becomes the owner of a slot.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::reader::{LedgerReader, remaining};
use super::transaction::{End, is_retriable};
use super::work::{Pace, Work};
use super::{Gate, SlotLost, SlotSettle, SlotWriter};
use crate::ledger::{Oddities, Owner, OwnerMark, SessionState, Snapshot, encode_owner};
use crate::writer::{Publisher, Stop, WriterStats};
use crate::{BusConfig, BusError, ConfigError, Guarantee, Topic};

/// How long the first client that knows the brokers has to become the slot's writer before another one asks; each later one has twice
/// as long.
const FIRST_CLIENT: Duration = Duration::from_millis(80);

/// How long any has at most: enough for a slow Kafka.
const LAST_CLIENT: Duration = Duration::from_secs(2);

/// See [`Pace::heartbeat`].
const HEARTBEAT: Duration = Duration::from_secs(60);

/// See [`Pace::news`].
const NEWS: Duration = Duration::from_secs(10);

/// A slot that is ours.
#[derive(Debug)]
pub struct Adopted {
    /// Its writer.
    pub writer: SlotWriter,
    /// Its generation: one more with every owner.
    pub generation: u32,
    /// Offset of the own owner's record.
    pub owner_offset: i64,
    /// The sessions that are open, in no order.
    pub sessions: Vec<SessionState>,
    /// Ledger records that were read.
    pub read: u64,
    /// Whether there was a snapshot that could not be used, so that the ledger was read from its start.
    pub snapshot_discarded: bool,
    /// What was read and left out.
    pub oddities: Oddities,
}

/// Why a slot was not adopted. Whether the own owner's record is in the journal may be open; adopting again settles it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The client could not be made, or asking the brokers failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// There are fewer slots.
    #[error("there is no slot {slot}: the ledger topic has {slots} partitions")]
    NoSuchSlot {
        /// What was asked for.
        slot: u16,
        /// What there is.
        slots: u16,
    },
    /// The owner's address does not fit the record.
    #[error("the peer address has {0} bytes: 255 at most")]
    Address(usize),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// It took too long.
    #[error("the slot was not adopted in time")]
    Deadline,
    /// Kafka did not make us its transactional writer.
    #[error(
        "Kafka does not let us become the slot's writer: check the rights on transactional ids that start with bus.topic_prefix"
    )]
    Fence(#[source] KafkaError),
    /// The owner's record was not committed, or it is not known whether it was.
    #[error("the owner's record of the slot was not committed")]
    Owner(#[source] SlotLost),
    /// The journal cannot be read.
    #[error("the slot's ledger cannot be read")]
    Read(#[source] KafkaError),
    /// A later release has written the journal.
    #[error(
        "slot {slot} has a ledger record of version {version} at offset {offset}, which is not known here: run the release that wrote it, or a later one"
    )]
    UnknownVersion {
        /// The slot.
        slot: u16,
        /// Where the record lies.
        offset: i64,
        /// Its version.
        version: u8,
    },
}

impl From<ConfigError> for AdoptError {
    fn from(error: ConfigError) -> Self {
        Self::Bus(error.into())
    }
}

/// Makes this process the owner of a slot. Blocks for up to `deadline` and a second: to be called on a thread of its own.
///
/// With `exactly_once`: bars every earlier writer of the slot and aborts what it had open, commits an owner's record, and reads the
/// ledger up to it. What was committed before is in the sessions returned, nothing committed later by anybody else. With
/// `at_least_once` nobody is barred: the same without transactions.
///
/// # Errors
///
/// [`AdoptError`]. Earlier owners may be barred all the same.
pub fn adopt(
    config: &BusConfig,
    slot: u16,
    owner: &Owner,
    snapshot: Option<Snapshot>,
    reader: &mut LedgerReader,
    settle: impl SlotSettle,
    deadline: Duration,
) -> Result<Adopted, AdoptError> {
    let pace = Pace { group_interval: config.group_interval, heartbeat: HEARTBEAT, news: NEWS };
    adopt_with(config, slot, owner, snapshot, reader, settle, deadline, pace)
}

#[expect(clippy::too_many_arguments, reason = "those of `adopt`, and what only a test changes")]
pub(super) fn adopt_with(
    config: &BusConfig,
    slot: u16,
    owner: &Owner,
    snapshot: Option<Snapshot>,
    reader: &mut LedgerReader,
    settle: impl SlotSettle,
    deadline: Duration,
    pace: Pace,
) -> Result<Adopted, AdoptError> {
    if slot >= reader.slots() {
        return Err(AdoptError::NoSuchSlot { slot, slots: reader.slots() });
    }
    #[expect(clippy::disallowed_methods, reason = "adopting is a driver: it owns its deadline")]
    let until = Instant::now() + deadline;
    let mark = draw_mark()?;
    let record = encode_owner(owner, mark).ok_or(AdoptError::Address(owner.address.len()))?;
    let stop = Arc::new(Stop::default());
    stop.within(deadline);
    let client = || -> Result<Publisher, AdoptError> {
        let client = config.slot_producer(slot)?;
        Ok(Publisher::new(config, client, Arc::clone(&stop), Arc::new(WriterStats::default()))?)
    };
    let guarantee = config.guarantee();
    let mut publisher = match guarantee {
        Guarantee::ExactlyOnce => fenced(client, until)?,
        Guarantee::AtLeastOnce => client()?,
    };
    publisher.ledger.belongs_to(slot, 0);
    publisher.ledger.testify(settle.witness());
    publisher.ledger.compose_whole(&record);
    let committed = match guarantee {
        Guarantee::ExactlyOnce => publisher.run_transaction(&[]),
        Guarantee::AtLeastOnce => publisher.commit_ledger().map_err(End::from),
    };
    match committed {
        Ok(()) => {}
        Err(End::Stopped) => return Err(AdoptError::Deadline),
        Err(End::Lost(why)) => return Err(AdoptError::Owner(why)),
    }
    let owner_hint = publisher.ledger.offsets().map(|(offset, _)| offset);
    let reading = reader.read(slot, mark, snapshot, owner_hint, until)?;
    let generation = reading.state.generation();
    publisher.ledger.belongs_to(slot, generation);
    stop.lift();
    let writer = start(config, slot, pace, publisher, reading.owner_offset, Box::new(settle))?;
    let oddities = reading.state.oddities();
    Ok(Adopted {
        writer,
        generation,
        owner_offset: reading.owner_offset,
        read: reading.read,
        snapshot_discarded: reading.discarded,
        oddities,
        sessions: reading.state.into_sessions(),
    })
}

fn draw_mark() -> Result<OwnerMark, AdoptError> {
    let mut mark = [0; 16];
    getrandom::fill(&mut mark).map_err(AdoptError::Random)?;
    Ok(OwnerMark(mark))
}

/// A client that is the slot's only writer: each one that asks bars those before it.
///
/// Where the last owner left a transaction open, Kafka aborts it within some milliseconds and says "again" meanwhile, and librdkafka
/// asks again after 500 ms, whatever is configured. A new client asks at once. For the same reason a client first gets to know the
/// brokers: one that looks for its coordinator without any waits as long.
fn fenced(
    client: impl Fn() -> Result<Publisher, AdoptError>,
    until: Instant,
) -> Result<Publisher, AdoptError> {
    let mut patience = FIRST_CLIENT;
    loop {
        let publisher = client()?;
        // Without an answer the next call says what is wrong.
        publisher.learn(Topic::Ledger, remaining(until)?.min(LAST_CLIENT));
        match publisher.producer.init_transactions(remaining(until)?.min(patience)) {
            Ok(()) => return Ok(publisher),
            Err(error) if is_retriable(&error) => patience = (patience * 2).min(LAST_CLIENT),
            Err(error) => return Err(AdoptError::Fence(error)),
        }
    }
}

fn start(
    config: &BusConfig,
    slot: u16,
    pace: Pace,
    publisher: Publisher,
    position: i64,
    settle: Box<dyn SlotSettle>,
) -> Result<SlotWriter, AdoptError> {
    let (stop, stats) = (Arc::clone(&publisher.stop), Arc::clone(&publisher.stats));
    let (groups, inbox) = sync_channel(publisher.depth);
    let gate = Arc::new(Gate::new(groups));
    let position = Arc::new(AtomicI64::new(position));
    let work = Work {
        publisher,
        guarantee: config.guarantee(),
        pace,
        inbox,
        gate: Arc::clone(&gate),
        position: Arc::clone(&position),
        settle,
    };
    let thread = std::thread::Builder::new().name(format!("slot-{slot}")).spawn(move || work.run());
    let thread = Some(thread.map_err(BusError::Thread)?);
    Ok(SlotWriter { gate, stop, stats, position, thread })
}
