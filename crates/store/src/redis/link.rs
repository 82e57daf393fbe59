//! One logical connection, whatever the topology.
//!
//! The library's own managers retry behind the caller's back, and none follows a sentinel fail-over. Here a connection lives until
//! it shows that it is of no use, and the next caller makes a new one: asking the sentinels again, or the cluster for its slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::{ClusterClient, ClusterClientBuilder};
use ::redis::cluster_async::ClusterConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    ScriptInvocation, ServerErrorKind, Value,
};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::config::{RedisConfig, Topology};
use crate::error::OpenError;

/// Pause between attempts to connect: first, and at most. In between callers fail at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A password file is a line.
const MAX_PASSWORD_FILE_BYTES: u64 = 4096;

pub(super) struct Link {
    target: Arc<Target>,
    connect_timeout: Duration,
    response_timeout: Duration,
    state: Mutex<State>,
}

/// Where to connect, without what an attempt needs to change.
enum Target {
    Single(Client),
    Cluster(Box<ClusterClient>),
    /// Asked anew for each connection.
    Sentinel(Box<Mutex<SentinelClient>>),
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Tells a caller's dead connection from the one that replaced it.
    generation: u64,
    failure: Option<Failure>,
}

struct Failure {
    until: Instant,
    pause: Duration,
    error: RedisError,
}

#[derive(Clone)]
enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

pub(super) enum Request<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

impl Link {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        let target = Arc::new(Target::new(config)?);
        Ok(Self {
            target,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            state: Mutex::default(),
        })
    }

    /// Another connection to the same servers, whose answers may take longer by `patience`.
    pub(super) fn beside(&self, patience: Duration) -> Self {
        Self {
            target: Arc::clone(&self.target),
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout + patience,
            state: Mutex::default(),
        }
    }

    /// Sends a request. One that meets a dead connection, or a server that is no longer the master, is sent once more over a new
    /// connection; so each must be safe to repeat, which all of this crate are.
    pub(super) async fn run<T: FromRedisValue>(&self, request: Request<'_>) -> Result<T, StoreError> {
        let mut again = true;
        loop {
            let (generation, mut connection) = self.connection().await?;
            let answer = tokio::time::timeout(self.response_timeout, request.send(&mut connection)).await;
            let Ok(answer) = answer else {
                // The server may be gone without a word: do not wait for it again.
                self.discard(generation).await;
                return Err(StoreError::Timeout);
            };
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match Trouble::of(&error) {
                Trouble::TimedOut => {
                    self.discard(generation).await;
                    return Err(StoreError::Timeout);
                }
                Trouble::Connection => {
                    self.discard(generation).await;
                    if !again {
                        return Err(StoreError::Unavailable { source: error.into() });
                    }
                    again = false;
                }
                Trouble::Down => return Err(StoreError::Unavailable { source: error.into() }),
                Trouble::Refused => return Err(StoreError::Refused { source: error.into() }),
                Trouble::Unexpected => return Err(StoreError::Unexpected { source: error.into() }),
            }
        }
    }

    async fn discard(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.connection = None;
        }
    }

    /// The connection, made now if there is none. Callers who come meanwhile wait for the same attempt.
    #[expect(
        clippy::disallowed_methods,
        reason = "the store is a driver: attempts are paced by the real clock"
    )]
    async fn connection(&self) -> Result<(u64, Connection), StoreError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.generation, connection.clone()));
        }
        if let Some(failure) = &state.failure
            && Instant::now() < failure.until
        {
            return Err(StoreError::Unavailable { source: failure.error.clone().into() });
        }
        match self.connect().await {
            Ok(connection) => {
                state.generation = state.generation.wrapping_add(1);
                state.connection = Some(connection.clone());
                state.failure = None;
                Ok((state.generation, connection))
            }
            Err(error) => {
                let before = state.failure.take().map(|failure| failure.pause);
                let pause = before.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                state.failure = Some(Failure { until: Instant::now() + pause, pause, error: error.clone() });
                match Trouble::of(&error) {
                    Trouble::Refused => Err(StoreError::Refused { source: error.into() }),
                    _ => Err(StoreError::Unavailable { source: error.into() }),
                }
            }
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        let attempt = async {
            match &*self.target {
                Target::Single(client) => {
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Node)
                }
                Target::Cluster(client) => {
                    let config = ::redis::cluster::ClusterConfig::new()
                        .set_connection_timeout(self.connect_timeout)
                        .set_response_timeout(self.response_timeout);
                    client.get_async_connection_with_config(config).await.map(Connection::Cluster)
                }
                Target::Sentinel(sentinel) => {
                    let client = sentinel.lock().await.async_get_client().await?;
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::Node)
                }
            }
        };
        // Sentinels and cluster nodes that do not answer are tried one after the other.
        let rounds = match &*self.target {
            Target::Single(_) => 1,
            Target::Cluster(_) | Target::Sentinel(_) => 3,
        };
        match tokio::time::timeout(self.connect_timeout * rounds, Box::pin(attempt)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time").into()),
        }
    }
}

impl Request<'_> {
    async fn send<T: FromRedisValue>(&self, connection: &mut Connection) -> RedisResult<T> {
        match self {
            Self::Command(command) => command.query_async(connection).await,
            Self::Script(invocation) => invocation.invoke_async(connection).await,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Node(node) => node.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Node(node) => node.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

/// What an error means for the caller and for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// No answer in time: outcome unknown.
    TimedOut,
    /// This connection is of no use; another one may be.
    Connection,
    /// The servers are there, but not able to serve now.
    Down,
    /// The servers will not do it.
    Refused,
    /// The answer has another shape.
    Unexpected,
}

impl Trouble {
    fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        match error.kind() {
            ErrorKind::Io
            // A master that was demoted, or lost its own master: ask who is it now.
            | ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            | ErrorKind::ClusterConnectionNotFound => Self::Connection,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            )
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::NoValidReplicasFoundBySentinel => Self::Down,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Unexpected,
            ErrorKind::AuthenticationFailed => Self::Refused,
            _ if error.is_unrecoverable_error() => Self::Connection,
            _ => Self::Refused,
        }
    }
}

impl Target {
    fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        let addresses = config.urls.iter().map(|url| address(url)).collect::<Result<Vec<_>, _>>()?;
        let password = config.password_file.as_deref().map(|path| password("redis.password_file", path));
        let password = password.transpose()?;
        let unusable = |key, problem: String| OpenError::Config { key, problem };
        let from_library = |error: RedisError| unusable("redis", error.to_string());
        match config.topology {
            Topology::Single => {
                let Ok([address]) = <[_; 1]>::try_from(addresses) else {
                    let problem = "name exactly one server with `topology = \"single\"`".to_owned();
                    return Err(unusable("redis.urls", problem));
                };
                let info = connection_info(address, config, password.as_ref()).map_err(from_library)?;
                Client::open(info).map(Self::Single).map_err(from_library)
            }
            Topology::Cluster => {
                if addresses.is_empty() {
                    return Err(unusable("redis.urls", "name one or more nodes of the cluster".to_owned()));
                }
                let nodes = addresses.into_iter().map(IntoConnectionInfo::into_connection_info);
                let nodes = nodes.collect::<RedisResult<Vec<_>>>().map_err(from_library)?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .connection_timeout(config.connect_timeout)
                    .response_timeout(config.response_timeout)
                    // A `Link` bounds each of its requests itself; the library's bound would cut a patient one short.
                    .overall_response_timeout(None)
                    .tcp_settings(tcp_settings())
                    .retries(2);
                if let Some(username) = &config.username {
                    builder = builder.username(username);
                }
                if let Some(password) = &password {
                    builder = builder.password(password.as_str());
                }
                builder.build().map(|client| Self::Cluster(Box::new(client))).map_err(from_library)
            }
            Topology::Sentinel => {
                if addresses.is_empty() || config.sentinel_master.is_empty() {
                    let problem =
                        "name the sentinels here and their master in `redis.sentinel_master`".to_owned();
                    return Err(unusable("redis.urls", problem));
                }
                let mut builder = SentinelClientBuilder::new(
                    addresses,
                    &config.sentinel_master,
                    SentinelServerType::Master,
                )
                .map_err(from_library)?
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
                if let Some(username) = &config.username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = &password {
                    builder = builder.set_client_to_redis_password(password.as_str());
                }
                if let Some(path) = &config.sentinel_password_file {
                    let password = self::password("redis.sentinel_password_file", path)?;
                    builder = builder.set_client_to_sentinel_password(password.as_str());
                }
                builder
                    .build()
                    .map(|client| Self::Sentinel(Box::new(Mutex::new(client))))
                    .map_err(from_library)
            }
        }
    }
}

fn connection_info(
    address: ConnectionAddr,
    config: &RedisConfig,
    password: Option<&Zeroizing<String>>,
) -> RedisResult<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default();
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password.as_str());
    }
    Ok(address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp_settings()))
}

/// Many small requests share a connection; none may wait for the answer to the one before.
fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn address(url: &str) -> Result<ConnectionAddr, OpenError> {
    let refuse = |problem: &str| Err(OpenError::Config { key: "redis.urls", problem: problem.to_owned() });
    if url.starts_with("rediss://") {
        return refuse("TLS to Redis is not supported: use `redis://` inside a trusted network");
    }
    if url.contains('@') {
        // The text itself is kept out of the error: it may hold a password.
        return refuse(
            "write no user or password into the address: use `redis.username` and `redis.password_file`",
        );
    }
    match url.into_connection_info().map(|info| info.addr().clone()) {
        Ok(address @ ConnectionAddr::Tcp(..)) if url.starts_with("redis://") => Ok(address),
        _ => refuse(&format!("`{url}` is not an address: write `redis://host:port`")),
    }
}

fn password(key: &'static str, path: &std::path::Path) -> Result<Zeroizing<String>, OpenError> {
    let refuse = |problem: String| OpenError::Config { key, problem };
    let unreadable = |error: std::io::Error| refuse(format!("cannot read {}: {error}", path.display()));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_PASSWORD_FILE_BYTES {
        return Err(refuse(format!("{} is too long for a password", path.display())));
    }
    let content = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let password = content.trim();
    if password.is_empty() {
        return Err(refuse(format!(
            "{} is empty: put the password in, or leave the setting out",
            path.display()
        )));
    }
    Ok(Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod link_tests {
    use super::*;

    fn refused(config: &RedisConfig) -> String {
        Link::new(config).err().expect("a setting that cannot be used").to_string()
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused_with_what_to_write() {
        for (url, hint) in [
            ("rediss://localhost:6379", "TLS"),
            ("redis://:planted-secret@localhost", "password_file"),
            ("localhost:6379", "redis://host:port"),
            ("redis://", "redis://host:port"),
            ("http://localhost", "redis://host:port"),
            ("unix:///run/redis.sock", "redis://host:port"),
        ] {
            let text = refused(&RedisConfig { urls: vec![url.to_owned()], ..RedisConfig::default() });
            assert!(text.contains(hint) && text.contains("store.redis.urls"), "{url}: {text}");
            assert!(!text.contains("planted-secret"), "{text}");
        }
    }

    #[test]
    fn a_topology_without_its_addresses_is_refused() {
        for topology in [Topology::Single, Topology::Cluster, Topology::Sentinel] {
            let text = refused(&RedisConfig { topology, urls: Vec::new(), ..RedisConfig::default() });
            assert!(text.contains("store.redis.urls"), "{text}");
        }
    }

    #[test]
    fn a_missing_or_empty_password_file_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("password");
        let config = RedisConfig { password_file: Some(path.clone()), ..RedisConfig::default() };
        assert!(refused(&config).contains("cannot read"));
        std::fs::write(&path, " \n").expect("writable");
        assert!(refused(&config).contains("is empty"));
        std::fs::write(&path, "secret\n").expect("writable");
        assert!(Link::new(&config).is_ok());
    }
}
