use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use sluice_types::PodId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsConnector, client};

use crate::buffer::FrameBuffer;
use crate::frame::{self, Hello};
use crate::shared::read_hello;
use crate::tls::{self, Tls};
use crate::{Control, Count, Event, Inbound, Member, NoRoom, PeerConfig, PeerSecret, PeerSecrets, Peers};

/// How long an outside effect may take before the test fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn pod(n: u8) -> PodId {
    PodId::from_bytes([n; 16])
}

pub(super) fn secret(n: u8) -> PeerSecret {
    PeerSecret::from_bytes([n; 32])
}

pub(super) fn ring(current: u8, accepted: &[u8]) -> PeerSecrets {
    PeerSecrets::new(secret(current), accepted.iter().copied().map(secret))
}

/// What a pod was told by its links.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Datagram { from: PodId, flow: u32, source: SocketAddr, bytes: Vec<u8> },
    Handshake { from: PodId, flow: u32, source: SocketAddr, bytes: Vec<u8> },
    Reply { from: PodId, flow: u32, destination: SocketAddr, bytes: Vec<u8> },
    Control { from: PodId, control: Control },
    Up(PodId),
    Down(PodId),
    Changed(Event),
}

pub(super) struct Recorder {
    got: mpsc::Sender<Got>,
    pub(super) has_room: AtomicBool,
}

impl Recorder {
    fn note(&self, got: Got) {
        self.got.try_send(got).expect("the test reads what it causes");
    }
}

impl Inbound for Recorder {
    fn datagram(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]) {
        self.note(Got::Datagram { from, flow, source, bytes: bytes.to_vec() });
    }

    fn handshake(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]) {
        self.note(Got::Handshake { from, flow, source, bytes: bytes.to_vec() });
    }

    fn reply(&self, from: PodId, flow: u32, destination: SocketAddr, bytes: &mut [u8]) {
        self.note(Got::Reply { from, flow, destination, bytes: bytes.to_vec() });
    }

    fn control(&self, from: PodId, control: Control) -> Result<(), NoRoom> {
        if !self.has_room.load(Ordering::Relaxed) {
            return Err(NoRoom);
        }
        self.note(Got::Control { from, control });
        Ok(())
    }

    fn link_up(&self, pod: PodId) {
        self.note(Got::Up(pod));
    }

    fn link_down(&self, pod: PodId) {
        self.note(Got::Down(pod));
    }

    fn changed(&self, event: Event) {
        self.note(Got::Changed(event));
    }
}

/// One pod, what it was told, and the ring it holds.
pub(super) struct Pod {
    pub(super) id: PodId,
    pub(super) peers: Peers,
    pub(super) secrets: watch::Sender<PeerSecrets>,
    pub(super) members: watch::Sender<Vec<Member>>,
    pub(super) recorder: Arc<Recorder>,
    got: mpsc::Receiver<Got>,
}

pub(super) fn config() -> PeerConfig {
    PeerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), "127.0.0.1:0")
}

impl Pod {
    pub(super) async fn start(n: u8, secrets: PeerSecrets, config: PeerConfig) -> Self {
        let (secrets, secrets_rx) = watch::channel(secrets);
        let (members, members_rx) = watch::channel(Vec::new());
        let (tx, got) = mpsc::channel(100_000);
        let recorder = Arc::new(Recorder { got: tx, has_room: AtomicBool::new(true) });
        let inbound = Arc::clone(&recorder);
        let peers = Peers::start(config, pod(n), secrets_rx, members_rx, inbound).await.unwrap();
        Self { id: pod(n), peers, secrets, members, recorder, got }
    }

    pub(super) fn member(&self) -> Member {
        member(self.id, self.peers.handle().address())
    }

    pub(super) fn count(&self, count: Count) -> u64 {
        self.peers.handle().counts().of(count)
    }

    /// The next thing that fits; what does not is passed over.
    pub(super) async fn wait_for(&mut self, what: &str, fits: impl Fn(&Got) -> bool) -> Got {
        let mut seen = Vec::new();
        let end = Instant::now() + DEADLINE;
        loop {
            match tokio::time::timeout_at(end, self.got.recv()).await {
                Ok(Some(got)) if fits(&got) => return got,
                Ok(Some(got)) => seen.push(got),
                _ => panic!("expected {what}; seen {seen:?}"),
            }
        }
    }

    pub(super) async fn wait_up(&mut self, n: u8) {
        self.wait_for("a link", |got| *got == Got::Up(pod(n))).await;
    }

    pub(super) async fn wait_count(&self, count: Count, least: u64) {
        eventually(&format!("{count:?} >= {least}"), || (self.count(count) >= least, self.count(count)))
            .await;
    }

    /// Everything it was told and nobody has read yet.
    pub(super) fn rest(&mut self) -> Vec<Got> {
        std::iter::from_fn(|| self.got.try_recv().ok()).collect()
    }
}

pub(super) fn member(pod: PodId, address: &str) -> Member {
    Member::new(pod, address, 0)
}

/// Looks until it holds; fails with what it saw last.
pub(super) async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> (bool, T)) {
    let end = Instant::now() + DEADLINE;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    loop {
        let (holds, seen) = look();
        if holds {
            return;
        }
        assert!(Instant::now() < end, "expected {what}, seen {seen:?}");
        pause.tick().await;
    }
}

pub(super) fn list(pods: &[&Pod]) {
    let members: Vec<_> = pods.iter().map(|pod| pod.member()).collect();
    for pod in pods {
        pod.members.send_replace(members.clone());
    }
}

/// Two pods under one secret that are linked both ways.
pub(super) async fn linked(config: &PeerConfig) -> (Pod, Pod) {
    let mut a = Pod::start(1, ring(7, &[]), config.clone()).await;
    let mut b = Pod::start(2, ring(7, &[]), config.clone()).await;
    list(&[&a, &b]);
    a.wait_up(2).await;
    b.wait_up(1).await;
    (a, b)
}

#[expect(clippy::disallowed_methods, reason = "certificates carry wall-clock dates")]
pub(super) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// TLS of a pod that the test plays itself.
pub(super) fn tls_of(n: u8, secrets: &PeerSecrets) -> Tls {
    Tls::new(pod(n), secrets, wall_clock()).unwrap()
}

/// Dials `target` as a pod that the test plays: TLS only, no Hello yet.
pub(super) async fn dial_tls(
    target: &Pod,
    client: Arc<rustls::ClientConfig>,
) -> std::io::Result<client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(target.peers.handle().local_addr()).await?;
    TlsConnector::from(client).connect(tls::expected(target.id).unwrap(), stream).await
}

/// Says and reads the Hellos.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, n: u8) -> FrameBuffer {
    let mut out = Vec::new();
    frame::hello(&mut out, &Hello { pod: pod(n), release: "test".into() });
    stream.write_all(&out).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = FrameBuffer::new();
    timeout(DEADLINE, read_hello(stream, &mut buffer)).await.expect("a hello in time").unwrap();
    buffer
}

/// An authenticated link to `target`, as pod `n`.
pub(super) async fn dial_as(n: u8, target: &Pod) -> client::TlsStream<TcpStream> {
    let mut stream = dial_tls(target, tls_of(n, &ring(7, &[])).client).await.unwrap();
    greet(&mut stream, n).await;
    stream
}
