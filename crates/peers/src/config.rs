use std::net::SocketAddr;
use std::time::Duration;

/// How often a pod beats; [`crate::SILENCE`] is five beats.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// Where and how a pod meets its peers. The defaults are right for a local network.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Where to listen for peers; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `host:port` by which peers reach this pod, as its member record says it. Port 0 stands for the port that is listened on.
    pub advertise: String,
    /// What this pod says it runs; shown to people, at most 64 bytes.
    pub release: String,
    /// Datagrams that wait for one peer before the oldest is dropped. Each place takes about
    /// 570 bytes: 290 kB per peer by default.
    pub ring: usize,
    /// Most peers; further member records and links are refused and counted.
    pub max_peers: usize,
    /// From a connection to an authenticated link, at either end.
    pub handshake_timeout: Duration,
    /// A peer that takes nothing for this long loses the link.
    pub stall_timeout: Duration,
    /// A peer that says nothing, or whose host acknowledges nothing, for this long loses the link; it beats every [`HEARTBEAT`].
    pub idle_timeout: Duration,
    /// Age at which a link is replaced by a fresh one, give or take a quarter; certificates are valid for a day.
    pub renew_after: Duration,
    /// How long until a renewal that did not reach the current secret is tried again.
    pub renew_retry: Duration,
}

impl PeerConfig {
    /// The defaults, for these addresses.
    #[must_use]
    pub fn new(listen: SocketAddr, advertise: impl Into<String>) -> Self {
        Self {
            listen,
            advertise: advertise.into(),
            release: env!("CARGO_PKG_VERSION").into(),
            ring: 512,
            max_peers: 256,
            handshake_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            renew_after: Duration::from_secs(3600),
            renew_retry: Duration::from_secs(30),
        }
    }
}
