use std::path::PathBuf;

use sluice_types::{DeviceId, KeyEpoch, TenantId};

use crate::{DeviceState, KekError};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not be opened. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key-encryption key cannot be had.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// Another process has the file.
    #[error("{} is in use by another process: stop it, or choose another file with `store.local.path`", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or made, or is none of ours.
    #[error("cannot open {}: check that its folder exists, that this user may write it, and that it is a Sluice store", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the file layer said.
        #[source]
        source: Cause,
    },
    /// A setting cannot be used.
    #[error("`store.{key}`: {problem}")]
    Config {
        /// The setting, below `store`.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// No connection, or no usable answer.
    #[error("cannot reach the store at {address}: check that it runs and that `store.redis` names it")]
    Unreachable {
        /// What was tried.
        address: String,
        /// What happened.
        #[source]
        source: StoreError,
    },
    /// The store was written under another key-encryption key.
    #[error("the store was sealed under another key-encryption key: put the right one in {}, or add it as a previous key", kek_file.display())]
    WrongKek {
        /// Where the key came from.
        kek_file: PathBuf,
    },
}

/// Why a store gave no answer, or none to be trusted. Whoever asks for keys refuses the session on every one of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No answer in time. A change may have been made or not; reading it back tells.
    #[error("the store did not answer in time, the outcome is unknown")]
    Timeout,
    /// No connection.
    #[error("the store is not reachable")]
    Unavailable {
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The server answers, but refuses: wrong password, no permission, out of memory.
    #[error("the store refuses the operation: check its password, its permissions and its memory limit")]
    Refused {
        /// What the server said.
        #[source]
        source: Cause,
    },
    /// The server's answer has another shape than asked for.
    #[error("the store answered something else than asked")]
    Unexpected {
        /// What does not fit.
        #[source]
        source: Cause,
    },
    /// The local file failed.
    #[error("the local store failed: check its disk")]
    Local {
        /// What the file layer said.
        #[source]
        source: Cause,
    },
    /// A stored value is not what was written.
    #[error("{record} cannot be trusted")]
    Record {
        /// Which value.
        record: String,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The store lost its content, or another one stands in its place, while this process runs.
    #[error(
        "the store was emptied or replaced: restore a copy of the one it was; or go on with the new one: `sluice store accept`, then restart every process, one after the other"
    )]
    Replaced,
    /// The store was set back: its revocation log lacks entries that this process, or another pod, has seen, or that are known outside.
    #[error(
        "the store was rolled back and revocations are missing: it is put right by any pod that knows them; otherwise restore a newer copy, or accept this one with `sluice store accept`"
    )]
    RolledBack,
    /// Too many writers changed the same value at once.
    #[error("the value kept changing under the writer: try again")]
    Contended,
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Randomness(#[source] std::io::Error),
}

impl StoreError {
    /// A bounded name for metrics and for decisions.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Timeout => StoreErrorKind::Timeout,
            Self::Unavailable { .. } => StoreErrorKind::Unavailable,
            Self::Refused { .. } => StoreErrorKind::Refused,
            Self::Unexpected { .. } => StoreErrorKind::Unexpected,
            Self::Local { .. } | Self::Randomness(_) => StoreErrorKind::Local,
            Self::Record { .. } => StoreErrorKind::Record,
            Self::Replaced => StoreErrorKind::Replaced,
            Self::RolledBack => StoreErrorKind::RolledBack,
            Self::Contended => StoreErrorKind::Contended,
        }
    }
}

/// [`StoreError`] without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No answer in time.
    Timeout,
    /// No connection.
    Unavailable,
    /// The server refuses.
    Refused,
    /// An answer of another shape.
    Unexpected,
    /// The local file, or the machine.
    Local,
    /// A value that cannot be trusted.
    Record,
    /// The store is another one than before.
    Replaced,
    /// The store is older than it was.
    RolledBack,
    /// Too many writers.
    Contended,
}

impl StoreErrorKind {
    /// The label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Unexpected => "unexpected",
            Self::Local => "local",
            Self::Record => "record",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Contended => "contended",
        }
    }
}

/// What is wrong with a stored value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Cut short, or not of our making.
    #[error("it is cut short or malformed")]
    Malformed,
    /// Its authentication fails: some byte is not the one that was written.
    #[error("it was changed after it was written")]
    Tampered,
    /// It is a true value of another name.
    #[error("it belongs to another name")]
    Swapped,
    /// It is older than one that was already there.
    #[error("it was rolled back: version {found} where {expected} was seen")]
    RolledBack {
        /// The version that is there, 0 for none.
        found: u64,
        /// The version that must be there at least.
        expected: u64,
    },
    /// It was written by a newer release.
    #[error("it has revision {revision}, written by a newer release: upgrade this one")]
    TooNew {
        /// The revision found.
        revision: u32,
    },
    /// It was sealed under a key-encryption key that this process does not have.
    #[error(
        "it was sealed under key-encryption key {kek_id}, which is not in the key file: add it as a previous key"
    )]
    UnknownKek {
        /// The public id of that key, hex.
        kek_id: String,
    },
    /// It was sealed under a key of the cluster's ring that was destroyed since, or that this process never saw.
    #[error("it was sealed under cluster key {name}, which was destroyed")]
    KeyDestroyed {
        /// The public name of that key, hex.
        name: String,
    },
}

/// Why the registry was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The id is registered already.
    #[error("device {0} exists already")]
    Exists(DeviceId),
    /// The id was decommissioned: it is refused for good.
    #[error("device {0} was decommissioned, its id is not given again")]
    Decommissioned(DeviceId),
    /// No such device.
    #[error("device {0} does not exist")]
    NotFound(DeviceId),
    /// The device's state does not allow it.
    #[error("device {device} is {}, which does not allow this", state.as_str())]
    State {
        /// The device.
        device: DeviceId,
        /// Its state.
        state: DeviceState,
    },
    /// Three key epochs are active already.
    #[error("three keys are active already: retire one first")]
    TooManyKeys,
    /// No such key epoch is active.
    #[error("key epoch {0} is not active")]
    NoSuchKey(KeyEpoch),
    /// The last key: without it no session could be opened.
    #[error("key epoch {0} is the last one: add another first, or revoke the device")]
    LastKey(KeyEpoch),
    /// The key is under 32 bytes and the tenant does not accept such keys now.
    #[error(
        "the key has {length} bytes, at least 32 are needed: make one with `openssl rand -hex 32`, or let the tenant accept short keys until a deadline"
    )]
    ShortKey {
        /// Bytes of the key.
        length: usize,
    },
    /// The device's keys are derived from its tenant's roots: rotate those.
    #[error("the keys of device {0} are derived: rotate the roots of its tenant")]
    DerivedKeys(DeviceId),
    /// The tenant has no root to derive keys from.
    #[error("tenant {0} has no root for derived keys: add one first")]
    NoRoot(TenantId),
    /// No such tenant is known.
    #[error("tenant {0} does not exist")]
    NoSuchTenant(TenantId),
    /// The store gave no trustworthy answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
