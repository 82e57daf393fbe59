//! What a check found.

use serde::Serialize;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A name, (session, rekey epoch, sequence), that was there before.
    Doubled,
    /// A name lower than one before it in its session, and not there before; or a session that is in two partitions.
    OrderBreak,
    /// A name so far below the highest of its session that it cannot be told whether it was there before.
    FarBehind,
    /// A record whose key, source and session do not name the same device.
    WrongDevice,
    /// A record whose key or headers cannot be read.
    Malformed,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Doubled, Self::OrderBreak, Self::FarBehind, Self::WrongDevice, Self::Malformed];

    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Doubled => "doubled",
            Self::OrderBreak => "order break",
            Self::FarBehind => "far behind",
            Self::WrongDevice => "wrong device",
            Self::Malformed => "malformed",
        }
    }
}

/// The counts of a check, and its first findings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct AuditReport {
    /// Records looked at.
    pub records: u64,
    /// Sessions begun: those not remembered when a record of theirs came.
    pub sessions: u64,
    /// Sessions that had to be forgotten: of those, only what comes close together is checked.
    pub sessions_forgotten: u64,
    /// See [`Fault::Doubled`].
    pub doubled: u64,
    /// See [`Fault::OrderBreak`].
    pub order_breaks: u64,
    /// See [`Fault::FarBehind`].
    pub far_behind: u64,
    /// See [`Fault::WrongDevice`].
    pub wrong_device: u64,
    /// See [`Fault::Malformed`].
    pub malformed: u64,
    /// The first findings of each kind.
    pub examples: Vec<Example>,
}

impl AuditReport {
    /// How often a kind of fault was found.
    #[must_use]
    pub const fn count(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Doubled => self.doubled,
            Fault::OrderBreak => self.order_breaks,
            Fault::FarBehind => self.far_behind,
            Fault::WrongDevice => self.wrong_device,
            Fault::Malformed => self.malformed,
        }
    }

    pub(super) const fn count_mut(&mut self, fault: Fault) -> &mut u64 {
        match fault {
            Fault::Doubled => &mut self.doubled,
            Fault::OrderBreak => &mut self.order_breaks,
            Fault::FarBehind => &mut self.far_behind,
            Fault::WrongDevice => &mut self.wrong_device,
            Fault::Malformed => &mut self.malformed,
        }
    }

    /// Messages that are there: every name counted once.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.records.saturating_sub(self.malformed).saturating_sub(self.doubled)
    }

    /// Whether no session was forgotten, of which a copy that came later would not have been seen.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.sessions_forgotten == 0
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        Fault::ALL.iter().all(|&fault| self.count(fault) == 0)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Example {
    /// Its kind.
    pub fault: Fault,
    /// Partition of the record.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// The record's key, unprintable characters escaped, cut to 160 bytes.
    pub key: String,
    /// Its `ce_id`, the same way; empty if it has none.
    pub id: String,
    /// What is wrong.
    pub what: String,
}
