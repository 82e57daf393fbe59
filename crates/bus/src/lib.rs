//! Group commit to Kafka, and the topics: the only crate that speaks Kafka.
//!
//! A driver fills a [`Group`] with records, each under a token of its own, and hands it to a [`Writer`]. The writer's thread
//! produces all of it, waits for every delivery report, and gives the group back through [`Settle`]: per token it says whether
//! Kafka has the record ([`Outcome`]). Nothing is said before that, and an outcome that is not known is never reported as a
//! commit.
//!
//! Read first: [`Group`], [`Writer`], [`Topic`].
//!
//! What it promises, at least once: a record whose outcome is [`Outcome::Committed`] was acknowledged with `acks=all`. When
//! doubles can happen, and what order is kept, is said at [`Writer`].
#![warn(missing_docs)]

mod audit;
mod client;
mod config;
#[cfg(feature = "embedded")]
mod embedded;
mod error;
mod event;
mod group;
mod headers;
mod ledger;
mod scan;
#[cfg(feature = "simulated")]
pub mod simulated;
mod slot;
mod tail;
mod topics;
mod weakness;
mod writer;

pub use audit::{Audit, AuditLimits, AuditReport, Example, Fault, Malformed};
pub use client::KafkaFigures;
pub use config::{
    BusConfig, BusKind, Compression, EventFormat, Guarantee, SaslMechanism, SecurityConfig, SecurityProtocol,
};
#[cfg(feature = "embedded")]
pub use embedded::EmbeddedBroker;
pub use error::{BusError, ConfigError};
pub use event::EventEncoder;
pub use group::{EventRecord, Group, GroupFull, Outcome, Refusal, Telemetry};
pub use ledger::{
    LEDGER_VERSION, LedgerEntries, LedgerEntry, LedgerError, LedgerRecord, LedgerState, MAX_ENTRY_BYTES,
    MAX_SESSIONS, Oddities, Owner, SessionKey, SessionState, Snapshot, Witness,
};
pub use scan::{Isolation, Scan, ScanFrom, ScanOptions, Scanned, Step};
pub use slot::{
    AdoptError, Adopted, LedgerReader, SlotLost, SlotSettle, SlotWriter, Witnesses, adopt, witnesses,
};
pub use tail::{Start, Tail, TailedRecord};
pub use topics::{ApplyOptions, Topic, TopicNames, apply, check, slots};
pub use weakness::{Weakness, weaknesses};
pub use writer::{Settle, Writer, WriterStats};
