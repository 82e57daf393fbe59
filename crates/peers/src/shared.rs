//! What all tasks of one [`crate::Peers`] look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_types::PodId;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::PeerConfig;
use crate::counts::PeerCounts;
use crate::frame::{self, Frame, Hello};
use crate::inbound::Inbound;
use crate::liveness::{Direction, Member};
use crate::sender::PeerSender;
use crate::tls::Tls;

/// What the links tell the observer.
#[derive(Debug)]
pub(crate) enum Seen {
    Up(PodId, Direction),
    Down(PodId, Direction),
    Heard { pod: PodId, beat: frame::Heartbeat },
    Refused(PodId),
}

/// When Kafka last answered; written from any thread.
#[derive(Debug)]
pub(crate) struct KafkaPulse {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0 is never.
    at: AtomicU64,
}

impl KafkaPulse {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), at: AtomicU64::new(0) }
    }

    pub(crate) fn beat(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.fetch_max(ms.saturating_add(1), Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Option<Instant> {
        let ms = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        self.start.checked_add(Duration::from_millis(ms))
    }

    /// How long ago that was, as heartbeats and member records say it.
    pub(crate) fn age_ms(&self) -> Option<u32> {
        self.last().and_then(|at| u32::try_from(at.elapsed().as_millis()).ok())
    }
}

pub(crate) type Senders = BTreeMap<PodId, PeerSender>;

pub(crate) struct Shared {
    pub(crate) me: PodId,
    pub(crate) config: PeerConfig,
    pub(crate) counts: Arc<PeerCounts>,
    pub(crate) tls: watch::Receiver<Arc<Tls>>,
    pub(crate) members: watch::Receiver<Vec<Member>>,
    pub(crate) inbound: Arc<dyn Inbound>,
    pub(crate) seen: mpsc::Sender<Seen>,
    pub(crate) beat: watch::Receiver<u64>,
    pub(crate) kafka: Arc<KafkaPulse>,
}

impl Shared {
    /// Where a member record says that the pod is; `None` once it has no record.
    pub(crate) fn address_of(&self, pod: PodId) -> Option<String> {
        self.members.borrow().iter().find(|member| member.pod == pod).map(|member| member.address.clone())
    }

    pub(crate) fn hello(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::hello(&mut out, &Hello { pod: self.me, release: self.config.release.clone() });
        out
    }

    /// The observer outlives the links; if it does not, everything is about to end anyway.
    pub(crate) async fn tell(&self, seen: Seen) {
        let _ = self.seen.send(seen).await;
    }
}

/// Small writes leave at once, and what the kernel holds unsent stays small, so that a heartbeat never waits behind much. A host
/// that vanished ends the link after `unanswered`, not after the quarter of an hour the kernel would try.
pub(crate) fn tune(stream: &TcpStream, unanswered: Duration) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_notsent_lowat(16 * 1024);
        let _ = socket.set_tcp_user_timeout(Some(unanswered));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unanswered;
}

/// Reads until the first frame is there; it must be a Hello.
pub(crate) async fn read_hello<S: tokio::io::AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut crate::buffer::FrameBuffer,
) -> Result<Hello, HelloError> {
    use tokio::io::AsyncReadExt;
    loop {
        if let Some((kind, payload)) = buffer.next_frame()? {
            return match frame::parse(kind, payload)? {
                Frame::Hello(hello) => Ok(hello),
                _ => Err(HelloError::Frame(frame::FrameError::NoHello)),
            };
        }
        match stream.read(buffer.space()).await.map_err(HelloError::Io)? {
            0 => return Err(HelloError::Io(std::io::ErrorKind::UnexpectedEof.into())),
            read => buffer.filled(read),
        }
    }
}

/// Why there was no Hello.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("connection lost")]
    Io(#[source] std::io::Error),
    #[error("first frame refused")]
    Frame(#[from] frame::FrameError),
}
