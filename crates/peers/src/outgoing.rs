//! The link this pod dials: all it sends to one peer, in batches, heartbeats first.

use std::sync::Arc;
use std::time::Duration;

use sluice_types::PodId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::counts::Count;
use crate::dial::{BACKOFF_LONGEST, Backoff, DialError, Link, dial};
use crate::frame::{self, Control, Heartbeat};
use crate::liveness::Direction;
use crate::sender::Outbox;
use crate::shared::{Seen, Shared};
use crate::tls::{Proven, Tls};

/// What is written at once: about one TLS record.
const BATCH: usize = 16 * 1024;
/// A link that held this long is dialled again at once when it ends.
const HELD: Duration = Duration::from_secs(1);
/// After a change of secrets, links are renewed over this time and not all at once.
const RENEW_SPREAD: Duration = Duration::from_secs(2);
/// How long the peer may take to read the last of a link that is replaced.
const LAST_READ: Duration = Duration::from_secs(1);

/// Keeps a link to `outbox.pod` for as long as it has a member record. `queue` is the outbox's other end.
pub(crate) async fn keep(shared: Arc<Shared>, outbox: Arc<Outbox>, mut queue: mpsc::Receiver<Control>) {
    let pod = outbox.pod;
    let mut backoff = Backoff::default();
    let mut trouble = None;
    while let Some(address) = shared.address_of(pod) {
        let mut longest = BACKOFF_LONGEST;
        match dial(&shared, pod, &address).await {
            Ok(link) => {
                tracing::info!(peer = %pod, address, release = link.release, "linked to a peer");
                trouble = None;
                let since = Instant::now();
                shared.counts.add(Count::LinksOpened);
                outbox.open(&mut queue);
                shared.tell(Seen::Up(pod, Direction::Out)).await;
                shared.inbound.link_up(pod);
                serve(&shared, &outbox, &mut queue, link).await;
                outbox.close(&mut queue);
                shared.counts.add(Count::LinksEnded);
                shared.tell(Seen::Down(pod, Direction::Out)).await;
                shared.inbound.link_down(pod);
                tracing::info!(peer = %pod, address, "link to a peer ended");
                if since.elapsed() >= HELD {
                    backoff.reset();
                }
            }
            Err(error) => {
                shared.counts.add(error.count());
                longest = error.longest_pause();
                if error.is_refusal() {
                    shared.tell(Seen::Refused(pod)).await;
                }
                // Once per kind of trouble; the counters tell how often.
                let kind = std::mem::discriminant(&error);
                if trouble.replace(kind) != Some(kind) {
                    warn(pod, &address, &error);
                }
            }
        }
        pause(&shared, pod, &address, backoff.next(rand::random(), longest)).await;
    }
}

fn warn(pod: PodId, address: &str, error: &DialError) {
    let source = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(peer = %pod, address, %error, source, "no link to a peer");
}

/// Waits, unless the peer's record goes or names another address.
async fn pause(shared: &Shared, pod: PodId, address: &str, pause: Duration) {
    let until = Instant::now() + pause;
    let mut members = shared.members.clone();
    loop {
        tokio::select! {
            () = sleep_until(until) => return,
            Ok(()) = members.changed() => {
                if shared.address_of(pod).as_deref() != Some(address) {
                    return;
                }
            }
        }
    }
}

enum Ending {
    Lost,
    Renewed(Box<Link>),
}

/// Sends over the link, and over those that replace it, until one is lost.
async fn serve(shared: &Arc<Shared>, outbox: &Arc<Outbox>, queue: &mut mpsc::Receiver<Control>, first: Link) {
    let mut link = first;
    loop {
        let (mut reader, writer) = tokio::io::split(link.stream);
        let mut writing = Writing {
            shared,
            outbox,
            writer,
            tls: shared.tls.clone(),
            beat: shared.beat.clone(),
            proven: link.proven,
        };
        let ending = tokio::select! {
            () = end_of(&mut reader) => Ending::Lost,
            ending = writing.run(queue) => ending,
        };
        let Ending::Renewed(fresh) = ending else { return };
        // The peer closes its end when it has read everything; only then does the new link speak, so nothing overtakes.
        let _ = timeout(LAST_READ, async {
            let _ = writing.writer.shutdown().await;
            end_of(&mut reader).await;
        })
        .await;
        shared.counts.add(Count::LinksRenewed);
        link = *fresh;
    }
}

/// Waits for the peer to close or lose the link. It sends nothing here; what a newer version might send is passed over.
async fn end_of(reader: &mut ReadHalf<TlsStream<TcpStream>>) {
    let mut ignored = [0; 256];
    while reader.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

struct Writing<'a> {
    shared: &'a Arc<Shared>,
    outbox: &'a Arc<Outbox>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    tls: watch::Receiver<Arc<Tls>>,
    beat: watch::Receiver<u64>,
    proven: Proven,
}

impl Writing<'_> {
    async fn run(&mut self, queue: &mut mpsc::Receiver<Control>) -> Ending {
        let quarter = self.shared.config.renew_after / 4;
        let mut renew_at =
            Instant::now() + quarter.saturating_mul(3) + quarter.saturating_mul(2).mul_f64(rand::random());
        if !self.judge_secret() {
            renew_at = Instant::now() + self.shared.config.renew_retry;
        }
        let mut renewal: Option<Dialling> = None;
        let mut out = Vec::with_capacity(BATCH + 1024);
        self.beat.mark_changed();
        loop {
            if self.tls.has_changed().unwrap_or(false) {
                if !self.tls.borrow_and_update().accepts(&self.proven) {
                    self.shared.counts.add(Count::Outdated);
                    return Ending::Lost;
                }
                if !self.judge_secret() {
                    renew_at = Instant::now() + RENEW_SPREAD.mul_f64(rand::random());
                }
            }
            if self.beat.has_changed().unwrap_or(false) {
                self.heartbeat(&mut out);
                // All that depends on time is looked at once per beat.
                if renewal.as_ref().is_some_and(|dialling| dialling.0.is_finished()) {
                    if let Some(fresh) = finished(renewal.take()).await {
                        return Ending::Renewed(Box::new(fresh));
                    }
                    renew_at = Instant::now() + self.shared.config.renew_retry;
                } else if renewal.is_none() && Instant::now() >= renew_at {
                    renewal = Some(Dialling::start(self.shared, self.outbox.pod));
                }
            }
            self.fill(&mut out, queue);
            if out.is_empty() {
                tokio::select! {
                    beat = self.beat.changed() => match beat {
                        Ok(()) => self.beat.mark_changed(),
                        Err(_) => return Ending::Lost,
                    },
                    () = self.outbox.wake.notified() => {}
                }
                continue;
            }
            let write = async {
                self.writer.write_all(&out).await?;
                self.writer.flush().await
            };
            match timeout(self.shared.config.stall_timeout, write).await {
                Ok(Ok(())) => out.clear(),
                Ok(Err(_)) => return Ending::Lost,
                Err(_) => {
                    self.shared.counts.add(Count::Stalled);
                    return Ending::Lost;
                }
            }
        }
    }

    /// Whether the peer proved itself by the current secret; noted for the operator, who waits for it.
    fn judge_secret(&self) -> bool {
        let current = self.tls.borrow().is_current(&self.proven);
        self.outbox.note_secret(current);
        current
    }

    fn heartbeat(&mut self, out: &mut Vec<u8>) {
        let counter = *self.beat.borrow_and_update();
        let kafka_ok_within_ms = self.shared.kafka.age_ms();
        frame::heartbeat(out, &Heartbeat { counter, kafka_ok_within_ms });
        self.shared.counts.add(Count::HeartbeatsSent);
    }

    /// Control frames up to half a batch, so that neither kind starves the other; then datagrams.
    fn fill(&self, out: &mut Vec<u8>, queue: &mut mpsc::Receiver<Control>) {
        while out.len() < BATCH / 2 {
            let Ok(control) = queue.try_recv() else { break };
            frame::control(out, &control);
            self.shared.counts.add(Count::ControlSent);
        }
        let mut sent = 0;
        while out.len() < BATCH {
            let Some(packet) = self.outbox.packets.pop() else { break };
            frame::relayed(out, packet.way, packet.flow, packet.address, packet.bytes());
            sent += 1;
        }
        self.shared.counts.add_many(Count::DatagramsSent, sent);
    }
}

/// A dial beside a link that still works; given up with it.
struct Dialling(JoinHandle<Option<Link>>);

impl Dialling {
    fn start(shared: &Arc<Shared>, pod: PodId) -> Self {
        let shared = Arc::clone(shared);
        Self(tokio::spawn(async move {
            let address = shared.address_of(pod)?;
            let link = dial(&shared, pod, &address).await;
            link.inspect_err(|error| shared.counts.add(error.count())).ok()
        }))
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn finished(dialling: Option<Dialling>) -> Option<Link> {
    let mut dialling = dialling?;
    (&mut dialling.0).await.ok().flatten()
}
