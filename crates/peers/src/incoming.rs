//! The links that peers dial: accepted, authenticated, read.
//!
//! A stranger costs one task and one buffer for at most the handshake's time, and there are at most [`PENDING`] of them: the
//! newest is let in and the oldest given up, for an honest handshake is done in milliseconds and whoever dawdles is not honest.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_types::PodId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::buffer::FrameBuffer;
use crate::counts::Count;
use crate::dial::{Fault, fault};
use crate::frame::{self, Frame};
use crate::liveness::Direction;
use crate::shared::{HelloError, Seen, Shared, read_hello, tune};
use crate::tls::{self, Proven};

/// Most handshakes at once: as many as there may be peers, for all of them dial a pod that has just come.
pub(crate) const PENDING: usize = 256;
/// Most links of one pod: the one in use, the one that replaces it, and one that has not noticed its end.
const LINKS_PER_POD: u32 = 3;
/// After the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub(crate) async fn accept_all(shared: Arc<Shared>, listener: TcpListener) {
    let standing = Arc::new(Standing::default());
    let mut links = JoinSet::new();
    let mut pending: VecDeque<Pending> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    shared.counts.add(Count::Accepted);
                    pending.retain(|handshake| !handshake.is_done());
                    if pending.len() >= PENDING && let Some(oldest) = pending.pop_front() {
                        shared.counts.add(Count::CrowdedOut);
                        oldest.task.abort();
                    }
                    let done = Arc::new(AtomicBool::new(false));
                    let link = accept(Arc::clone(&shared), Arc::clone(&standing), stream, Arc::clone(&done));
                    pending.push_back(Pending { task: links.spawn(link), done });
                }
                Err(error) => {
                    shared.counts.add(Count::AcceptsFailed);
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = links.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "the task of a peer link panicked");
                }
            }
        }
    }
}

struct Pending {
    task: AbortHandle,
    done: Arc<AtomicBool>,
}

impl Pending {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) || self.task.is_finished()
    }
}

/// How many links of each pod stand.
#[derive(Default)]
struct Standing(Mutex<HashMap<PodId, u32>>);

struct Place {
    standing: Arc<Standing>,
    pod: PodId,
}

impl Standing {
    fn place(self: &Arc<Self>, pod: PodId, max_peers: usize) -> Option<Place> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !links.contains_key(&pod) && links.len() >= max_peers {
            return None;
        }
        let count = links.entry(pod).or_default();
        if *count >= LINKS_PER_POD {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Place { standing: Arc::clone(self), pod })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut links = self.standing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = links.get_mut(&self.pod) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                links.remove(&self.pod);
            }
        }
    }
}

/// Why a connection became no link.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("certificate names no pod")]
    Nameless,
    #[error("hello refused")]
    Hello(#[source] HelloError),
    #[error("hello names another pod than the certificate, or this one")]
    OtherPod,
    #[error("too many links")]
    TooMany,
    #[error("not done in time")]
    Slow,
}

impl Refusal {
    fn count(&self) -> Count {
        match self {
            Self::Handshake(error) => match fault(error) {
                Fault::SoughtAnother => Count::LookedForAnother,
                Fault::Credentials | Fault::Name => Count::WrongCredentials,
                Fault::Protocol | Fault::Io => Count::BrokenHandshakes,
            },
            Self::Nameless => Count::WrongCredentials,
            Self::Hello(HelloError::Io(error)) => match fault(error) {
                Fault::SoughtAnother => Count::LookedForAnother,
                _ => Count::BrokenHandshakes,
            },
            Self::Hello(HelloError::Frame(_)) | Self::OtherPod => Count::WrongHello,
            Self::TooMany => Count::TooManyLinks,
            Self::Slow => Count::SlowHandshakes,
        }
    }
}

struct Reading {
    stream: TlsStream<TcpStream>,
    buffer: FrameBuffer,
    proven: Proven,
    _place: Place,
}

async fn accept(shared: Arc<Shared>, standing: Arc<Standing>, stream: TcpStream, done: Arc<AtomicBool>) {
    let peer = stream.peer_addr().ok();
    let handshake = timeout(shared.config.handshake_timeout, authenticate(&shared, &standing, stream)).await;
    done.store(true, Ordering::Release);
    let link = match handshake.unwrap_or(Err(Refusal::Slow)) {
        Ok(link) => link,
        Err(refusal) => {
            shared.counts.add(refusal.count());
            let source = std::error::Error::source(&refusal).map(ToString::to_string);
            tracing::debug!(?peer, error = %refusal, source, "refused a peer's connection");
            return;
        }
    };
    let pod = link.proven.pod;
    shared.counts.add(Count::LinksOpened);
    shared.tell(Seen::Up(pod, Direction::In)).await;
    let cause = read(&shared, link).await;
    shared.counts.add(Count::LinksEnded);
    if let Some(cause) = cause {
        shared.counts.add(cause);
        tracing::warn!(peer = %pod, cause = cause.name(), "ended a peer's link");
    }
    shared.tell(Seen::Down(pod, Direction::In)).await;
}

async fn authenticate(
    shared: &Shared,
    standing: &Arc<Standing>,
    stream: TcpStream,
) -> Result<Reading, Refusal> {
    tune(&stream, shared.config.idle_timeout);
    let server = shared.tls.borrow().server.clone();
    let mut stream = TlsAcceptor::from(server).accept(stream).await.map_err(Refusal::Handshake)?;
    let proven = tls::proven(stream.get_ref().1.peer_certificates()).ok_or(Refusal::Nameless)?;
    let mut buffer = FrameBuffer::new();
    let hello = read_hello(&mut stream, &mut buffer).await.map_err(Refusal::Hello)?;
    if hello.pod != proven.pod || hello.pod == shared.me {
        return Err(Refusal::OtherPod);
    }
    let place = standing.place(proven.pod, shared.config.max_peers).ok_or(Refusal::TooMany)?;
    stream.write_all(&shared.hello()).await.map_err(Refusal::Handshake)?;
    stream.flush().await.map_err(Refusal::Handshake)?;
    Ok(Reading { stream, buffer, proven, _place: place })
}

/// Reads until the link ends; says what to count when it was this end that ended it.
async fn read(shared: &Shared, mut link: Reading) -> Option<Count> {
    let mut tls = shared.tls.clone();
    loop {
        match deliver(shared, &mut link).await {
            Ok(()) => {}
            Err(cause) => return Some(cause),
        }
        let more = tokio::select! {
            more = timeout(shared.config.idle_timeout, link.stream.read(link.buffer.space())) => more,
            Ok(()) = tls.changed() => {
                if !tls.borrow_and_update().accepts(&link.proven) {
                    return Some(Count::Outdated);
                }
                continue;
            }
        };
        match more {
            Ok(Ok(read)) if read > 0 => link.buffer.filled(read),
            Ok(_) => {
                // Answers the other end's farewell, which waits for it.
                let _ = timeout(ACCEPT_PAUSE, link.stream.shutdown()).await;
                return None;
            }
            Err(_) => return Some(Count::Idle),
        }
    }
}

/// Hands over all frames that are whole.
async fn deliver(shared: &Shared, link: &mut Reading) -> Result<(), Count> {
    let from = link.proven.pod;
    let (counts, inbound) = (&shared.counts, &shared.inbound);
    while let Some((kind, payload)) = link.buffer.next_frame().map_err(|_| Count::BadFrames)? {
        match frame::parse(kind, payload).map_err(|_| Count::BadFrames)? {
            Frame::Datagram { flow, source, bytes } => {
                counts.add(Count::DatagramsReceived);
                inbound.datagram(from, flow, source, bytes);
            }
            Frame::Handshake { flow, source, bytes } => {
                counts.add(Count::DatagramsReceived);
                inbound.handshake(from, flow, source, bytes);
            }
            Frame::Reply { flow, destination, bytes } => {
                counts.add(Count::DatagramsReceived);
                inbound.reply(from, flow, destination, bytes);
            }
            Frame::Heartbeat(beat) => {
                counts.add(Count::HeartbeatsReceived);
                shared.tell(Seen::Heard { pod: from, beat }).await;
            }
            Frame::Control(control) => {
                counts.add(Count::ControlReceived);
                inbound.control(from, control).map_err(|_| Count::ControlRefused)?;
            }
            Frame::Unknown(_) => counts.add(Count::UnknownFrames),
            Frame::Hello(_) => return Err(Count::BadFrames),
        }
    }
    Ok(())
}
