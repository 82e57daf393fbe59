use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::OpenError;

/// Where devices, keys and sessions are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// `local`: one file on this machine, for one process. `redis`: shared by many pods. Default `local`.
    pub kind: StoreKind,
    /// File with the key-encryption key: 32 raw bytes, or lines of 64 hex digits, the current key first and up to two previous
    /// ones after it. There is no default key. Default `/etc/sluice/kek`.
    pub kek_file: PathBuf,
    /// Secrets that the pods share and that rotate by themselves.
    pub cluster_keys: ClusterKeysConfig,
    /// Settings of `kind = "local"`.
    pub local: LocalConfig,
    /// Settings of `kind = "redis"`.
    pub redis: RedisConfig,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Local,
            kek_file: PathBuf::from("/etc/sluice/kek"),
            cluster_keys: ClusterKeysConfig::default(),
            local: LocalConfig::default(),
            redis: RedisConfig::default(),
        }
    }
}

/// The ring of keys that the pods of a deployment share: for tags in session ids, cookies, peer links, session records and
/// snapshots. All pods must have the same settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterKeysConfig {
    /// Age at which a key is followed by the next one. A session lives for at most about 15 times as long, since its id names
    /// its key by 4 bits. Default `24h`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub rotate_after: Duration,
    /// How long a key still opens what it sealed, once the next one took its place; then it is destroyed, and with it the old
    /// session records in copies of the store. Must be longer than session records live, that is, than the longest idle
    /// timeout. At most 12 times `rotate_after`. Default `3h`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keep: Duration,
    /// How long all pods know a key before it is used. Longer than a pod takes to look at the store again. Default `1m`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ahead: Duration,
}

impl Default for ClusterKeysConfig {
    fn default() -> Self {
        Self {
            rotate_after: Duration::from_secs(24 * 3600),
            keep: Duration::from_secs(3 * 3600),
            ahead: Duration::from_secs(60),
        }
    }
}

impl ClusterKeysConfig {
    /// Refuses what cannot be kept: more keys than there are ids, or keys that are used before they are known.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let problem = |key, problem: &str| Err(OpenError::Config { key, problem: problem.to_owned() });
        if self.rotate_after <= self.ahead {
            return problem("cluster_keys.rotate_after", "must be longer than `ahead`");
        }
        if self.keep > self.rotate_after.saturating_mul(12) {
            return problem("cluster_keys.keep", "must be at most 12 times `rotate_after`");
        }
        if self.keep <= self.ahead {
            return problem("cluster_keys.keep", "must be longer than `ahead`");
        }
        Ok(())
    }
}

/// Which back end keeps the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One `redb` file, one process.
    #[default]
    Local,
    /// Redis: one server, a cluster, or a pair behind sentinels.
    Redis,
}

/// The local store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// The file; made when missing, its folder is not. Default `sluice.redb`.
    pub path: PathBuf,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("sluice.redb") }
    }
}

/// The shared store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// How the servers stand to each other. Default `single`.
    pub topology: Topology,
    /// Addresses as `redis://host:port`: the server, some nodes of the cluster, or the sentinels. No password here, see
    /// `password_file`. TLS (`rediss://`) is not supported. Default `redis://127.0.0.1:6379`.
    pub urls: Vec<String>,
    /// The name under which the sentinels know the master; only with `topology = "sentinel"`. Default `sluice`.
    pub sentinel_master: String,
    /// User name for the servers (Redis ACL). Default: none.
    pub username: Option<String>,
    /// File with the password of the servers; white space around it is ignored. Default: none.
    pub password_file: Option<PathBuf>,
    /// File with the password of the sentinels, where they have one. Default: none.
    pub sentinel_password_file: Option<PathBuf>,
    /// Start of every key, so that deployments can share a server: letters, digits, `-`, `_`, `.`, `:`. Default `sluice`.
    pub key_prefix: String,
    /// Longest wait for a connection. New handshakes wait this long when Redis is gone. Default `1s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Longest wait for an answer; later the outcome is unknown. Shorter fails sooner when Redis stalls, too short fails on
    /// a slow disk or a big cluster. Default `1s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub response_timeout: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            topology: Topology::Single,
            urls: vec!["redis://127.0.0.1:6379".to_owned()],
            sentinel_master: "sluice".to_owned(),
            username: None,
            password_file: None,
            sentinel_password_file: None,
            key_prefix: "sluice".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
        }
    }
}

/// How the Redis servers stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// One server.
    #[default]
    Single,
    /// Redis Cluster.
    Cluster,
    /// A master and its replicas, watched by sentinels.
    Sentinel,
}

#[cfg(test)]
mod config_tests {
    use super::*;

    #[test]
    fn unknown_and_misspelt_settings_are_refused_by_name() {
        for (json, name) in [
            (r#"{"kindd":"local"}"#, "kindd"),
            (r#"{"redis":{"password":"x"}}"#, "password"),
            (r#"{"local":{"file":"x"}}"#, "file"),
            (r#"{"kind":"mysql"}"#, "mysql"),
        ] {
            let refused = serde_json::from_str::<StoreConfig>(json).expect_err(json).to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn key_settings_that_cannot_be_kept_are_refused_by_name() {
        let seconds = Duration::from_secs;
        let default = ClusterKeysConfig::default();
        default.check().expect("the default");
        for (config, name) in [
            (ClusterKeysConfig { rotate_after: seconds(60), ..default.clone() }, "cluster_keys.rotate_after"),
            (ClusterKeysConfig { keep: seconds(60), ..default.clone() }, "cluster_keys.keep"),
            (ClusterKeysConfig { keep: seconds(13 * 24 * 3600), ..default }, "cluster_keys.keep"),
        ] {
            let refused = config.check().expect_err(name).to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn the_defaults_survive_their_own_text() {
        let text = serde_json::to_string(&StoreConfig::default()).expect("plain values");
        assert_eq!(serde_json::from_str::<StoreConfig>(&text).expect("just written"), StoreConfig::default());
        assert!(text.contains("\"connect_timeout\":\"1s\""), "{text}");
    }
}
