//! Configuration of the edge. Each field says what it does, its unit, its default and what a change costs.

mod admission;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where devices connect and what they may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Name of this process among its peers, where it says which revocations it has applied. Default: the host's name, in Kubernetes
    /// the pod's. Two processes of one name speak for each other.
    pub name: Option<String>,
    /// Address and port for devices over TCP, or `"off"`. Port 0 lets the system choose. Default `0.0.0.0:9000`.
    /// `[::]:9000` takes IPv6 and IPv4.
    pub tcp: Listen,
    /// Address and port for devices over UDP, or `"off"`. Port 0 lets the system choose. Default `0.0.0.0:9000`.
    pub udp: Listen,
    /// Threads that serve devices, each with sockets and sessions of its own. Default: one per core.
    /// More than cores costs throughput.
    pub shards: Option<NonZeroUsize>,
    /// Size of the kernel's receive buffer of each UDP socket, in bytes. Default 4194304; the kernel cuts it to
    /// `net.core.rmem_max`. A small one loses datagrams in bursts; devices then send again.
    pub udp_receive_buffer_bytes: u32,
    /// The PROXY protocol, version 2, on the TCP listener.
    pub proxy_protocol: ProxyProtocolConfig,
    /// How handshakes are bounded.
    pub handshake: HandshakeConfig,
    /// How sessions are bounded.
    pub session: SessionConfig,
    /// How many of each thing there may be.
    pub limits: LimitsConfig,
    /// What holds for all pods of a store together.
    pub admission: AdmissionConfig,
    /// What becomes of devices whose key two seem to have.
    pub clones: ClonesConfig,
    /// How the edge stops.
    pub drain: DrainConfig,
    /// How refusals are reported.
    pub security_events: SecurityEventConfig,
    /// Whether this is one pod of many that go on with each other's sessions.
    pub cluster: ClusterConfig,
    /// What becomes of the UDP sockets when the process that serves them dies. `--no-parent` does without all of it.
    pub parent: ParentConfig,
    /// Lets whoever reaches the admin listener send bytes to any device (`POST /debug/devices/{id}/send`). For tests
    /// and development. Default false.
    pub dangerously_allow_admin_send: bool,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            name: None,
            tcp: Listen::default(),
            udp: Listen::default(),
            shards: None,
            udp_receive_buffer_bytes: 4 << 20,
            proxy_protocol: ProxyProtocolConfig::default(),
            handshake: HandshakeConfig::default(),
            session: SessionConfig::default(),
            limits: LimitsConfig::default(),
            admission: AdmissionConfig::default(),
            clones: ClonesConfig::default(),
            drain: DrainConfig::default(),
            security_events: SecurityEventConfig::default(),
            cluster: ClusterConfig::default(),
            parent: ParentConfig::default(),
            dangerously_allow_admin_send: false,
        }
    }
}

/// Pods that share their sessions over UDP through the ledger topic and the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Share sessions over UDP with the other pods of this store and ledger, so that they survive this process. Needs
    /// `store.kind = "redis"` for more than one pod, and the ledger topic. Default false: sessions end with the process.
    pub enabled: bool,
    /// Address and port for the links from other pods. Default `0.0.0.0:9443`. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where the other pods reach this one, `host:port`; port 0 is replaced by the one listened on. Default: the listening
    /// address; must be given where that is all of a host's addresses (`0.0.0.0`). A name that is not known within half a minute of
    /// the start ends the process.
    pub advertise: Option<String>,
    /// How old the snapshot of a slot gets in the store while its ledger goes on. Default `60s`. A longer one saves writes, of 35
    /// bytes for each session; whoever adopts the slot of a dead pod then reads that much more of the ledger.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub snapshot_interval: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from(([0, 0, 0, 0], 9443)),
            advertise: None,
            snapshot_interval: Duration::from_secs(60),
        }
    }
}

impl ClusterConfig {
    /// What the other pods are told.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// Whether what the others are told can be the address of one host.
    fn can_be_reached(&self) -> bool {
        let told = self.advertised();
        let is_any_host = told.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified());
        let has_port =
            told.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        has_port && !is_any_host
    }
}

/// The process that keeps the UDP sockets open while the one that serves them, the worker, is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ParentConfig {
    /// Workers started in succession in place of one that died. Default 5; after one that lived for a minute the count begins anew. 0: when
    /// the worker dies, the process ends, too, after `linger`. A higher one hides a worker that cannot live from whoever runs the process.
    pub restarts: u32,
    /// Longest pause between the end of a worker and the start of the next. Default `5s`; it begins at a tenth of a second and doubles.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub longest_pause: Duration,
    /// How long the UDP sockets stay open after the death of the last worker. Default `10s`: time for a balancer to notice, as a closed
    /// port is told to devices (ICMP), and some close their session for good on it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub linger: Duration,
    /// How long a worker may be silent before it counts as hanging, is killed, and is followed by another one. Default `15s`, at least `5s`.
    /// It says once a second that it and all of its shards turn; a shard that stands still silences it after five seconds. The other pods
    /// have adopted its slots by then. A shorter one takes a machine that starves the process for a hang; a long one, such as `1h`,
    /// leaves hangs to whoever runs the process, who has to end the parent, too, and closes the sockets.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub worker_patience: Duration,
}

/// Shortest patience with a worker: some of its beats, and a pause of the whole process group that nobody notices.
pub const MIN_WORKER_PATIENCE: Duration = Duration::from_secs(5);

impl Default for ParentConfig {
    fn default() -> Self {
        Self {
            restarts: 5,
            longest_pause: Duration::from_secs(5),
            linger: Duration::from_secs(10),
            worker_patience: Duration::from_secs(15),
        }
    }
}

/// A listener's address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Listen {
    /// No listener.
    Off,
    /// Bound to this address.
    On(SocketAddr),
}

impl Listen {
    /// The address, if there is to be a listener.
    #[must_use]
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::On(address) => Some(address),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self::On(SocketAddr::from(([0, 0, 0, 0], 9000)))
    }
}

/// Why a text names no listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no listener: write ADDRESS:PORT such as 0.0.0.0:9000 or [::]:9000, or \"off\"")]
pub struct ListenError {
    text: String,
}

impl TryFrom<String> for Listen {
    type Error = ListenError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::On).map_err(|_| ListenError { text: text.chars().take(80).collect() })
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        match listen {
            Listen::Off => "off".into(),
            Listen::On(address) => address.to_string(),
        }
    }
}

/// Whose word about the device's address is taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyProtocolConfig {
    /// Ranges of the balancers in front. A TCP connection from one of them must start with a version 2 header; from
    /// anywhere else it must not have one. Default: none. Too wide a range lets devices forge their addresses.
    #[schemars(with = "Vec<String>")]
    pub trusted: Vec<IpNet>,
}

/// Bounds of handshakes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HandshakeConfig {
    /// Time from the first byte to the proof of the key, after which a handshake is given up. Default `10s`, what the
    /// official clients wait.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Time for one step over TCP: until HELLO is whole, then until HELLO_ACK is. Default `5s`. It bounds how long
    /// a silent connection holds a place.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub tcp_step_timeout: Duration,
    /// Handshakes in progress per shard, UDP and TCP each. Default 4096, about 1 KB each. When full, the oldest one
    /// makes room.
    pub in_progress_per_shard: NonZeroU32,
    /// X25519 operations a shard does before it looks at live sessions again. Default 8, about 0.2 ms.
    /// More speeds up a reconnecting fleet and delays live sessions.
    pub key_exchanges_per_turn: NonZeroU32,
    /// Key look-ups at once, whole process. Default 256. Beyond it a handshake waits for the device's next attempt.
    pub key_lookups: NonZeroU32,
    /// Time after which a key look-up counts as failed. Default `3s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub key_lookup_timeout: Duration,
    /// How long a proof over UDP waits until its session is in the ledger, where sessions are shared (`edge.cluster.enabled`).
    /// Default `2s`: official clients try for 2.5 s and longer, and a Kafka that takes 300 ms for each answer takes a second for
    /// a commit. What is not committed by then gets no SESSION_OK, and the device tries again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ledger_wait: Duration,
    /// Failed proofs after which the same device id from the same address waits. Default 5. Other devices behind
    /// that address, and the same device at another one, are not affected.
    pub failures_before_penalty: NonZeroU32,
    /// Longest such wait; it starts at one second and doubles. Default `60s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_penalty: Duration,
}

impl Default for HandshakeConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            tcp_step_timeout: Duration::from_secs(5),
            in_progress_per_shard: const { NonZeroU32::new(4096).unwrap() },
            key_exchanges_per_turn: const { NonZeroU32::new(8).unwrap() },
            key_lookups: const { NonZeroU32::new(256).unwrap() },
            key_lookup_timeout: Duration::from_secs(3),
            ledger_wait: Duration::from_secs(2),
            failures_before_penalty: const { NonZeroU32::new(5).unwrap() },
            max_penalty: Duration::from_secs(60),
        }
    }
}

/// Bounds of sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// Time without an authentic frame after which a TCP session is closed; it stands still while the edge itself
    /// does not read. Default `300s`. Below 90 s it closes official clients that only listen.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub tcp_idle_timeout: Duration,
    /// The same for UDP sessions. Default `3600s`. Longer ones hold about 0.5 KB of memory each.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub udp_idle_timeout: Duration,
    /// Time in which a device must take the bytes written to its TCP connection. Default `10s`; then the connection is
    /// closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub tcp_write_timeout: Duration,
    /// Sessions of one device that proved the key at the handshake and have not spoken since. Default 2; a further
    /// one closes the oldest.
    pub half_open_per_device: NonZeroU32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            tcp_idle_timeout: Duration::from_secs(300),
            udp_idle_timeout: Duration::from_secs(3600),
            tcp_write_timeout: Duration::from_secs(10),
            half_open_per_device: const { NonZeroU32::new(2).unwrap() },
        }
    }
}

/// Sizes of tables and queues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Sessions of the process, TCP and UDP together. Default 250000, about 0.5 KB each (TCP: 4 KB). When full, new
    /// sessions are refused.
    pub sessions: NonZeroU32,
    /// TCP connections of the process, with or without a session. Default 50000. Must fit the limit of open files.
    pub tcp_connections: NonZeroU32,
    /// Messages of more than one frame that may be in the making at once per shard, 1808 bytes each. Default 4096.
    /// When none is free, a device's fragment is not acknowledged and it sends again.
    pub reassembly_buffers_per_shard: NonZeroU32,
    /// Records of one group a shard collects while the writer is busy. Default 8192. When full, reading stops.
    pub records_per_group: NonZeroU32,
    /// Bytes of one such group. Default 4194304.
    pub bytes_per_group: NonZeroU32,
    /// Groups of a shard that are filled or on their way to Kafka. Default 3. One more costs its bytes in memory and
    /// lets a slow Kafka be noticed later.
    pub groups_per_shard: NonZeroU32,
    /// Messages to devices waiting for their turn, per shard. Default 1024. When full, a send is refused.
    pub downlink_queue_per_shard: NonZeroU32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            sessions: const { NonZeroU32::new(250_000).unwrap() },
            tcp_connections: const { NonZeroU32::new(50_000).unwrap() },
            reassembly_buffers_per_shard: const { NonZeroU32::new(4096).unwrap() },
            records_per_group: const { NonZeroU32::new(8192).unwrap() },
            bytes_per_group: const { NonZeroU32::new(4 << 20).unwrap() },
            groups_per_shard: const { NonZeroU32::new(3).unwrap() },
            downlink_queue_per_shard: const { NonZeroU32::new(1024).unwrap() },
        }
    }
}

pub use self::admission::{AdmissionConfig, ClonesConfig, MAX_QUARANTINE, Quarantine, QuarantineError};

/// How the edge stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Time between "not ready" and the first closed session, so that a balancer notices. Default `0s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub notice: Duration,
    /// Longest time for everything else: what was received is committed, devices are told, Kafka is flushed. Default
    /// `20s`. What is not done then is given up and said so; nothing of it was acknowledged.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub deadline: Duration,
    /// How long devices over UDP may take to acknowledge the farewell. Default `2s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub bye_wait: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { notice: Duration::ZERO, deadline: Duration::from_secs(20), bye_wait: Duration::from_secs(2) }
    }
}

/// How refusals are reported on the security topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityEventConfig {
    /// Time in which repeats of one (reason, device) are counted into one event. Default `60s`. The first is sent at
    /// once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub window: Duration,
    /// Pairs (reason, device) watched at once per shard. Default 4096. When full, further ones count as the unknown
    /// device of their reason.
    pub watched_per_shard: NonZeroU32,
}

impl Default for SecurityEventConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(60), watched_per_shard: const { NonZeroU32::new(4096).unwrap() } }
    }
}

/// Why a configuration cannot be used although each value is well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeConfigError {
    /// Neither TCP nor UDP.
    #[error("edge.tcp and edge.udp are both off: give at least one of them an address")]
    NoListener,
    /// A time that must be longer than zero.
    #[error("edge.{key} is zero: give it a time such as 10s")]
    Zero {
        /// The key below `edge`.
        key: &'static str,
    },
    /// Too small for what one read may bring.
    #[error("edge.limits.{key} is {given}: at least {least} are needed")]
    TooSmall {
        /// The key below `edge.limits`.
        key: &'static str,
        /// The number given.
        given: u32,
        /// The smallest number that works.
        least: usize,
    },
    /// An address that no other pod reaches.
    #[error(
        "edge.cluster.advertise is `{given}`: write the host:port where the other pods reach this one, such as 10.0.0.7:9443 (in Kubernetes the pod's own address)"
    )]
    Advertise {
        /// What the others would be told.
        given: String,
    },
    /// Patience with a worker that is used up before the worker can have said anything.
    #[error(
        "edge.parent.worker_patience is {given:?}: give it {MIN_WORKER_PATIENCE:?} at least, or workers are killed that do not hang"
    )]
    Patience {
        /// The time given.
        given: Duration,
    },
    /// What the pods cannot count.
    #[error("edge.admission.window is {given:?}: give it {MIN_WINDOW:?} to {MAX_WINDOW:?}")]
    Window {
        /// The time given.
        given: Duration,
    },
    /// Clones are suspected by what pods tell each other through the store.
    #[error(
        "edge.clones.quarantine needs edge.cluster.enabled: a process alone does not see two holders of a key; set it to off, or join the pods"
    )]
    QuarantineAlone,
    /// More shards than a session id can name.
    #[error("edge.shards is {given}: at most {MAX_SHARDS} are possible")]
    TooManyShards {
        /// The number given.
        given: usize,
    },
}

/// The time in which new sessions of a device are counted.
const MIN_WINDOW: Duration = Duration::from_millis(1);
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// Most shards of one process.
pub const MAX_SHARDS: usize = 256;

impl EdgeConfig {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    ///
    /// [`EdgeConfigError`] names the key.
    pub fn validate(&self) -> Result<(), EdgeConfigError> {
        if self.tcp == Listen::Off && self.udp == Listen::Off {
            return Err(EdgeConfigError::NoListener);
        }
        let times = [
            ("handshake.timeout", self.handshake.timeout),
            ("handshake.tcp_step_timeout", self.handshake.tcp_step_timeout),
            ("handshake.ledger_wait", self.handshake.ledger_wait),
            ("handshake.key_lookup_timeout", self.handshake.key_lookup_timeout),
            ("session.tcp_idle_timeout", self.session.tcp_idle_timeout),
            ("session.udp_idle_timeout", self.session.udp_idle_timeout),
            ("session.tcp_write_timeout", self.session.tcp_write_timeout),
            ("admission.window", self.admission.window),
            ("cluster.snapshot_interval", self.cluster.snapshot_interval),
            ("drain.deadline", self.drain.deadline),
            ("security_events.window", self.security_events.window),
        ];
        if let Some(&(key, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(EdgeConfigError::Zero { key });
        }
        let sizes = [
            ("records_per_group", self.limits.records_per_group, crate::shard::MIN_RECORDS),
            ("bytes_per_group", self.limits.bytes_per_group, crate::shard::MIN_BYTES),
            ("groups_per_shard", self.limits.groups_per_shard, 2),
        ];
        for (key, given, least) in sizes {
            if (given.get() as usize) < least {
                return Err(EdgeConfigError::TooSmall { key, given: given.get(), least });
            }
        }
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&self.admission.window) {
            return Err(EdgeConfigError::Window { given: self.admission.window });
        }
        if self.clones.quarantine != Quarantine::Off && !self.cluster.enabled {
            return Err(EdgeConfigError::QuarantineAlone);
        }
        if self.cluster.enabled && !self.cluster.can_be_reached() {
            return Err(EdgeConfigError::Advertise { given: self.cluster.advertised() });
        }
        if self.parent.worker_patience < MIN_WORKER_PATIENCE {
            return Err(EdgeConfigError::Patience { given: self.parent.worker_patience });
        }
        match self.shards {
            Some(shards) if shards.get() > MAX_SHARDS => {
                Err(EdgeConfigError::TooManyShards { given: shards.get() })
            }
            _ => Ok(()),
        }
    }

    /// The process's name: as configured, else the host's.
    #[must_use]
    pub fn name(&self) -> String {
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        self.name.clone().or_else(host).unwrap_or_else(|| "edge".to_owned())
    }

    /// The number of shards: as configured, else one per core.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
            .min(MAX_SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_usable_and_survive_their_text() {
        let config = EdgeConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let json = serde_json::to_string(&config).expect("plain data");
        assert_eq!(serde_json::from_str::<EdgeConfig>(&json).expect("just written"), config);
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        let refused =
            serde_json::from_str::<EdgeConfig>(r#"{"session":{"idle":"3s"}}"#).expect_err("no such key");
        assert!(refused.to_string().contains("`idle`"), "{refused}");
    }

    #[test]
    fn listeners_are_addresses_or_off() {
        let read = |text: &str| Listen::try_from(text.to_owned());
        assert_eq!(read("off"), Ok(Listen::Off));
        assert_eq!(read("[::]:0"), Ok(Listen::On("[::]:0".parse().expect("an address"))));
        let refused = read("localhost").expect_err("no port");
        assert!(refused.to_string().contains("0.0.0.0:9000"), "{refused}");
    }

    #[test]
    fn no_listener_zero_times_too_little_patience_and_too_many_shards_are_refused() {
        let none = EdgeConfig { tcp: Listen::Off, udp: Listen::Off, ..EdgeConfig::default() };
        assert_eq!(none.validate(), Err(EdgeConfigError::NoListener));
        let mut zero = EdgeConfig::default();
        zero.session.udp_idle_timeout = Duration::ZERO;
        assert_eq!(zero.validate(), Err(EdgeConfigError::Zero { key: "session.udp_idle_timeout" }));
        let mut hasty = EdgeConfig::default();
        hasty.parent.worker_patience = Duration::from_millis(4999);
        let given = hasty.parent.worker_patience;
        assert_eq!(hasty.validate(), Err(EdgeConfigError::Patience { given }));
        let many = EdgeConfig { shards: NonZeroUsize::new(257), ..EdgeConfig::default() };
        assert_eq!(many.validate(), Err(EdgeConfigError::TooManyShards { given: 257 }));
        let mut alone = EdgeConfig::default();
        alone.clones.quarantine = Quarantine::For(Duration::from_secs(60));
        assert_eq!(alone.validate(), Err(EdgeConfigError::QuarantineAlone));
        for given in [Duration::from_micros(999), Duration::from_secs(24 * 3600 + 1)] {
            let mut window = EdgeConfig::default();
            window.admission.window = given;
            assert_eq!(window.validate(), Err(EdgeConfigError::Window { given }));
        }
    }
}
