//! The shared store: Redis, as one server, a cluster, or behind sentinels.
//!
//! Every read-then-write is one script. What a timeout leaves unknown is safe to do again: compare-and-swap by version, log entries
//! by request, epochs and tokens by taking another.
//!
//! Redis acknowledges before its replicas have a write, so a fail-over can lose the last ones. Processes that saw them notice
//! (see `floor.rs`); set `min-replicas-to-write` on the servers to narrow the window.

mod cluster;
mod key;
mod link;
mod sessions;

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, Script, ScriptInvocation, cmd};
use sluice_types::{DeviceId, TenantId};

use self::cluster::ClusterScripts;
use self::key::{Key, Keys, LogPart};
use self::link::{Link, Request};
use self::sessions::SessionScripts;
use crate::backend::{Applied, LOG_ENTRIES, Listing, LogPage, PENDING_AFTER, POD_FORGOTTEN_AFTER};
use crate::config::RedisConfig;
use crate::record::Stored;
use crate::{OpenError, StoreError};

/// How long one look at the log waits for it to grow.
const TAIL_BLOCKS: Duration = Duration::from_secs(1);

pub(crate) struct Redis {
    link: Link,
    keys: Keys,
    scripts: Scripts,
    sessions: SessionScripts,
    cluster: ClusterScripts,
}

struct Scripts {
    swap: Script,
    swap_identity: Script,
    announce: Script,
    append: Script,
    log_after: Script,
    report_applied: Script,
    applied: Script,
    copy_to_log: Script,
    end_log_copy: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            swap: Script::new(include_str!("scripts/swap.lua")),
            swap_identity: Script::new(include_str!("scripts/swap_identity.lua")),
            announce: Script::new(include_str!("scripts/announce.lua")),
            append: Script::new(include_str!("scripts/append.lua")),
            log_after: Script::new(include_str!("scripts/log_after.lua")),
            report_applied: Script::new(include_str!("scripts/report_applied.lua")),
            applied: Script::new(include_str!("scripts/applied.lua")),
            copy_to_log: Script::new(include_str!("scripts/copy_to_log.lua")),
            end_log_copy: Script::new(include_str!("scripts/end_log_copy.lua")),
        }
    }
}

/// What `log_after.lua` answers.
type LogFields =
    (Option<Vec<u8>>, u64, Vec<StreamEntry>, Vec<String>, u64, (Option<u64>, Option<Vec<u8>>), bool);

/// An entry of a stream as the server answers it: id, then fields and values in turn.
type StreamEntry = (String, Vec<Vec<u8>>);

impl Redis {
    /// Reads the settings; the first request connects.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        let keys = Keys::new(&config.key_prefix).ok_or_else(|| OpenError::Config {
            key: "redis.key_prefix",
            problem: "use 1 to 64 letters, digits and `-`, `_`, `.`, `:`".to_owned(),
        })?;
        Ok(Self {
            link: Link::new(config)?,
            keys,
            scripts: Scripts::new(),
            sessions: SessionScripts::new(),
            cluster: ClusterScripts::new(),
        })
    }

    async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.link.run(Request::Command(command)).await
    }

    async fn script<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.link.run(Request::Script(invocation)).await
    }

    pub(crate) async fn identity(&self, blob: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let key = self.keys.log(LogPart::Identity);
        // The first of many pods that start at once makes it; all read the same one then.
        let _: i64 = self.command(cmd("SETNX").arg(&key).arg(&blob)).await?;
        self.command::<Option<Vec<u8>>>(cmd("GET").arg(&key)).await?.ok_or(StoreError::Replaced)
    }

    pub(crate) async fn swap_identity(&self, old: Vec<u8>, new: Vec<u8>) -> Result<bool, StoreError> {
        let mut invocation = self.scripts.swap_identity.key(self.keys.log(LogPart::Identity));
        invocation.arg(old).arg(new);
        Ok(self.script::<i64>(&invocation).await? == 1)
    }

    pub(crate) async fn swap_accepted(&self, expected: u64, new: Stored) -> Result<bool, StoreError> {
        self.swap_record(&self.keys.log(LogPart::Accepted), expected, new).await
    }

    pub(crate) async fn read_device(&self, id: DeviceId) -> Result<Option<Stored>, StoreError> {
        self.read_record(&self.keys.device(id)).await
    }

    pub(crate) async fn swap_device(
        &self,
        id: DeviceId,
        listing: Listing<'_>,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        let devices = self.keys.tenant_devices(listing.tenant);
        // Before the record: a list may name a device that is not there, never the other way round.
        if listing.listed {
            let tenant = listing.tenant.as_str();
            let _: i64 = self.command(cmd("ZADD").arg(self.keys.tenants()).arg(0).arg(tenant)).await?;
            let _: i64 = self.command(cmd("ZADD").arg(&devices).arg(0).arg(id.to_string())).await?;
        }
        let written = self.swap_record(&self.keys.device(id), expected, new).await?;
        if written && !listing.listed {
            let removed: Result<i64, _> = self.command(cmd("ZREM").arg(&devices).arg(id.to_string())).await;
            // The record is written, which is what was asked for; a name too many in the list is passed over.
            if let Err(error) = removed {
                tracing::debug!(%error, "left a removed device in the list of its tenant");
            }
        }
        Ok(written)
    }

    pub(crate) async fn list_devices(
        &self,
        tenant: &TenantId,
        after: Option<DeviceId>,
        limit: usize,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let start = after.map_or_else(|| "-".to_owned(), |device| format!("({device}"));
        let mut command = cmd("ZRANGEBYLEX");
        command.arg(self.keys.tenant_devices(tenant)).arg(start).arg("+").arg("LIMIT").arg(0).arg(limit);
        let names: Vec<String> = self.command(&command).await?;
        names.iter().map(|name| name.parse().map_err(unexpected)).collect()
    }

    pub(crate) async fn tenant_from(
        &self,
        from: Option<&TenantId>,
        inclusive: bool,
    ) -> Result<Option<TenantId>, StoreError> {
        let start = match (from, inclusive) {
            (None, _) => "-".to_owned(),
            (Some(tenant), true) => format!("[{tenant}"),
            (Some(tenant), false) => format!("({tenant}"),
        };
        let mut command = cmd("ZRANGEBYLEX");
        command.arg(self.keys.tenants()).arg(start).arg("+").arg("LIMIT").arg(0).arg(1);
        let names: Vec<String> = self.command(&command).await?;
        names.first().map(|name| name.parse().map_err(unexpected)).transpose()
    }

    pub(crate) async fn read_tenant(&self, id: &TenantId) -> Result<Option<Stored>, StoreError> {
        self.read_record(&self.keys.tenant(id)).await
    }

    pub(crate) async fn swap_tenant(
        &self,
        id: &TenantId,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        self.swap_record(&self.keys.tenant(id), expected, new).await
    }

    async fn read_record(&self, key: &Key) -> Result<Option<Stored>, StoreError> {
        let fields: (Option<u64>, Option<Vec<u8>>) =
            self.command(cmd("HMGET").arg(key).arg("v").arg("b")).await?;
        match fields {
            (None, None) => Ok(None),
            // Half a record is none that anybody can trust; an empty one is refused as malformed.
            (version, blob) => {
                Ok(Some(Stored { version: version.unwrap_or_default(), blob: blob.unwrap_or_default() }))
            }
        }
    }

    async fn swap_record(&self, key: &Key, expected: u64, new: Stored) -> Result<bool, StoreError> {
        let mut invocation = self.scripts.swap.key(key);
        invocation.arg(expected).arg(new.version).arg(new.blob);
        self.script(&invocation).await
    }

    pub(crate) async fn announce(&self, device: DeviceId) -> Result<(), StoreError> {
        let mut invocation = self.scripts.announce.key(self.keys.log(LogPart::Announced));
        let _: i64 = self.script(invocation.arg(device.to_string())).await?;
        Ok(())
    }

    pub(crate) async fn settle(&self, device: DeviceId) -> Result<(), StoreError> {
        let key = self.keys.log(LogPart::Announced);
        let _: i64 = self.command(cmd("ZREM").arg(key).arg(device.to_string())).await?;
        Ok(())
    }

    pub(crate) async fn append(
        &self,
        device: DeviceId,
        version: u64,
        blob: Vec<u8>,
        above: u64,
    ) -> Result<u64, StoreError> {
        let mut invocation = self.scripts.append.key(self.keys.log(LogPart::Stream));
        invocation
            .key(self.keys.log(LogPart::Head))
            .key(self.keys.log(LogPart::Logged))
            .key(self.keys.log(LogPart::Announced))
            .arg(device.to_string())
            .arg(format!("{device}:{version}"))
            .arg(blob)
            .arg(LOG_ENTRIES)
            .arg(above);
        self.script(&invocation).await
    }

    pub(crate) async fn log_after(
        &self,
        after: u64,
        limit: usize,
        known: u64,
    ) -> Result<LogPage, StoreError> {
        let mut invocation = self.scripts.log_after.key(self.keys.log(LogPart::Identity));
        invocation
            .key(self.keys.log(LogPart::Stream))
            .key(self.keys.log(LogPart::Head))
            .key(self.keys.log(LogPart::Announced))
            .key(self.keys.log(LogPart::Accepted))
            .arg(after.saturating_add(1))
            .arg(limit)
            .arg(millis(PENDING_AFTER))
            .arg(known);
        let (identity, trimmed, entries, pending, head, accepted, has_known): LogFields =
            self.script(&invocation).await?;
        let mut page = LogPage { identity, head, trimmed, known, has_known, ..LogPage::default() };
        if let (Some(version), Some(blob)) = accepted {
            page.accepted = Some(Stored { version, blob });
        }
        for (id, fields) in entries {
            let number = id.split('-').next().unwrap_or_default().parse().map_err(unexpected)?;
            let value_of =
                |name: &[u8]| fields.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1));
            // Without its value the entry stays, to be refused as malformed.
            page.entries.push((number, value_of(b"b").cloned().unwrap_or_default()));
        }
        // A name that is no device's was put there by somebody else.
        page.pending = pending.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(page)
    }

    pub(crate) async fn begin_log_copy(&self) -> Result<(), StoreError> {
        let _: i64 = self.command(cmd("DEL").arg(self.keys.log(LogPart::Copy))).await?;
        Ok(())
    }

    pub(crate) async fn copy_to_log(&self, copies: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError> {
        let mut invocation = self.scripts.copy_to_log.key(self.keys.log(LogPart::Stream));
        invocation.key(self.keys.log(LogPart::Copy));
        for (number, blob) in copies {
            invocation.arg(number).arg(blob);
        }
        let _: i64 = self.script(&invocation).await?;
        Ok(())
    }

    pub(crate) async fn end_log_copy(&self, last: u64) -> Result<bool, StoreError> {
        let mut invocation = self.scripts.end_log_copy.key(self.keys.log(LogPart::Stream));
        invocation
            .key(self.keys.log(LogPart::Copy))
            .key(self.keys.log(LogPart::Head))
            .arg(last.saturating_add(1));
        match self.script::<i64>(&invocation).await? {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(StoreError::Contended),
        }
    }

    pub(crate) async fn report_applied(&self, pod: &str, position: u64) -> Result<(), StoreError> {
        let mut invocation = self.scripts.report_applied.key(self.keys.log(LogPart::Applied));
        invocation.key(self.keys.log(LogPart::Seen)).arg(pod).arg(position).arg(millis(POD_FORGOTTEN_AFTER));
        let _: i64 = self.script(&invocation).await?;
        Ok(())
    }

    pub(crate) async fn applied(&self) -> Result<Vec<Applied>, StoreError> {
        let mut invocation = self.scripts.applied.key(self.keys.log(LogPart::Applied));
        invocation.key(self.keys.log(LogPart::Seen)).arg(millis(POD_FORGOTTEN_AFTER));
        let rows: Vec<(String, u64, u64)> = self.script(&invocation).await?;
        let row = |(pod, position, age)| Applied { pod, position, age: Duration::from_millis(age) };
        Ok(rows.into_iter().map(row).collect())
    }

    pub(crate) fn waiter(&self) -> LogTail {
        LogTail { link: self.link.beside(TAIL_BLOCKS), key: self.keys.log(LogPart::Stream) }
    }
}

/// Waits for the log over a connection of its own, since a waiting command holds its connection.
pub(crate) struct LogTail {
    link: Link,
    key: Key,
}

impl LogTail {
    pub(crate) async fn wait(&self, after: u64) -> Result<(), StoreError> {
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis(TAIL_BLOCKS));
        command.arg("STREAMS").arg(&self.key).arg(format!("{after}-0"));
        let _: ::redis::Value = self.link.run(Request::Command(&command)).await?;
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected { source: error.into() }
}
