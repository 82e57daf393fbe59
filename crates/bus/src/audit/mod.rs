//! Checks what a topic of telemetry says of itself: no I/O, records in, a report out.
//!
//! A record names its message by (session, rekey epoch, sequence) in `ce_id`. In a topic that kept its promises each name is there
//! once, the names of a session rise in the order of the log, and a session is one device's. Whoever reads the topic can check
//! that, and [`Audit`] does.
//!
//! Memory is bounded: per session its device, the highest name and which of the [`Audit::WINDOW`] sequences up to it were there; and so many
//! sessions ([`AuditLimits`]). Beyond that the sessions without a record for longest are forgotten, and the report says how many.

mod record;
mod report;
mod sessions;
#[cfg(test)]
mod tests;

use crate::TailedRecord;
use crate::audit::record::Claim;
use crate::audit::sessions::{Seen, Sessions, WINDOW};

pub use record::Malformed;
pub use report::{AuditReport, Example, Fault};

/// Longest text of an example: a key has at most 76 bytes, an id at most 54.
const SHOWN: usize = 160;

/// What a check may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLimits {
    /// Sessions that are remembered at once; about 200 bytes each.
    pub sessions: usize,
    /// Examples kept of each kind of fault; the first ones.
    pub examples: usize,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self { sessions: 500_000, examples: 5 }
    }
}

/// A check under way. Records of one partition must come in their order; partitions may come in any.
#[derive(Debug)]
pub struct Audit {
    limits: AuditLimits,
    sessions: Sessions,
    report: AuditReport,
}

impl Audit {
    /// Sequences up to the highest of a session for which it is known whether they were there: a repeat within them is told from a
    /// record that is late.
    pub const WINDOW: u32 = WINDOW;

    /// A check that has seen nothing.
    #[must_use]
    pub fn new(limits: AuditLimits) -> Self {
        Self { limits, sessions: Sessions::new(limits.sessions), report: AuditReport::default() }
    }

    /// Looks at the next record, and says whether it was well.
    ///
    /// A record may have several faults; a faulty one is not taken as the state of its session.
    pub fn look(&mut self, record: &TailedRecord) -> bool {
        self.report.records += 1;
        let claim = match Claim::read(record) {
            Ok(claim) => claim,
            Err(malformed) => {
                self.found(Fault::Malformed, record, malformed.to_string());
                return false;
            }
        };
        let mut well = true;
        if claim.key_device != claim.device || !claim.tenants_agree {
            let what = format!("its key names another device than ce_source, {}", claim.device);
            self.found(Fault::WrongDevice, record, what);
            well = false;
        }
        let owner = self.sessions.owner(&claim, well);
        self.report.sessions_forgotten = self.sessions.forgotten();
        self.report.sessions = self.sessions.begun();
        if let Some(owner) = owner.filter(|&owner| well && owner != claim.device) {
            self.found(Fault::WrongDevice, record, format!("the session is device {owner}'s"));
            well = false;
        }
        let (fault, what) = match self.sessions.place(&claim, record.partition, well) {
            Seen::New => return well,
            Seen::Again => (Fault::Doubled, "this id was there before".to_owned()),
            Seen::Late { highest } => {
                (Fault::OrderBreak, format!("sequence {} behind {highest}", claim.sequence))
            }
            Seen::FarBehind { highest } => (
                Fault::FarBehind,
                format!("sequence {} behind {highest}: doubled or out of order", claim.sequence),
            ),
            Seen::EpochFell { current } => {
                (Fault::OrderBreak, format!("rekey epoch {} behind {current}", claim.epoch))
            }
            Seen::OtherPartition { home } => {
                (Fault::OrderBreak, format!("the session's other records are in partition {home}"))
            }
        };
        self.found(fault, record, what);
        false
    }

    /// What was found until now.
    #[must_use]
    pub const fn report(&self) -> &AuditReport {
        &self.report
    }

    fn found(&mut self, fault: Fault, record: &TailedRecord, what: String) {
        *self.report.count_mut(fault) += 1;
        if self.report.examples.iter().filter(|example| example.fault == fault).count() < self.limits.examples
        {
            self.report.examples.push(Example {
                fault,
                partition: record.partition,
                offset: record.offset,
                key: printable(&record.key),
                id: printable(record.header("ce_id").unwrap_or_default().as_bytes()),
                what,
            });
        }
    }
}

/// Text for a terminal: short, and nothing in it that a terminal obeys.
fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.get(..SHOWN).unwrap_or(bytes);
    String::from_utf8_lossy(bytes).escape_debug().collect()
}
