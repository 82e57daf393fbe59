//! The sending end of one peer: a ring for datagrams that threads without a runtime fill, and a bounded queue for control frames.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use sluice_types::PodId;
use tokio::sync::{Notify, mpsc};

use crate::counts::{Count, PeerCounts};
use crate::frame::{Control, FIRST_OTHER, MAX_DATAGRAM, MAX_PAYLOAD, Way};

/// Control frames that wait for one peer.
pub const CONTROL_QUEUE: usize = 256;

/// Why something was not taken for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No link to the peer stands.
    #[error("no link to the peer")]
    NoLink,
    /// Empty, longer than a datagram or frame may be, or of a kind that is not the caller's.
    #[error("empty, too long, or of a kind below {FIRST_OTHER}")]
    Unfit,
    /// The queue is full; wait, or use the waiting form of a control frame.
    #[error("the peer's queue is full")]
    Full,
}

/// A datagram where it waits: by value, so that the ring's memory is all there is.
pub(crate) struct Packet {
    pub(crate) way: Way,
    pub(crate) flow: u32,
    pub(crate) address: SocketAddr,
    length: u16,
    bytes: [u8; MAX_DATAGRAM],
}

impl Packet {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

pub(crate) struct Outbox {
    pub(crate) pod: PodId,
    pub(crate) packets: ArrayQueue<Packet>,
    pub(crate) wake: Notify,
    up: AtomicBool,
    by_current_secret: AtomicBool,
    overdue: AtomicBool,
    control: mpsc::Sender<Control>,
    counts: Arc<PeerCounts>,
}

impl Outbox {
    pub(crate) fn new(
        pod: PodId,
        ring: usize,
        counts: Arc<PeerCounts>,
    ) -> (Arc<Self>, mpsc::Receiver<Control>) {
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        let packets = ArrayQueue::new(ring.max(1));
        let outbox = Self {
            pod,
            packets,
            wake: Notify::new(),
            up: AtomicBool::new(false),
            by_current_secret: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            control,
            counts,
        };
        (Arc::new(outbox), queue)
    }

    /// From now on something is taken; what still lay here from before is not.
    pub(crate) fn open(&self, queue: &mut mpsc::Receiver<Control>) {
        self.clear(queue);
        self.up.store(true, Ordering::Release);
    }

    pub(crate) fn close(&self, queue: &mut mpsc::Receiver<Control>) {
        self.up.store(false, Ordering::Release);
        self.clear(queue);
    }

    pub(crate) fn note_secret(&self, current: bool) {
        self.by_current_secret.store(current, Ordering::Relaxed);
    }

    pub(crate) fn note_overdue(&self, overdue: bool) {
        self.overdue.store(overdue, Ordering::Relaxed);
    }

    fn clear(&self, queue: &mut mpsc::Receiver<Control>) {
        while self.packets.pop().is_some() {
            self.counts.add(Count::DatagramsDropped);
        }
        while queue.try_recv().is_ok() {
            self.counts.add(Count::ControlLost);
        }
    }
}

/// Sends to one peer; cheap to clone. The `try_` forms neither wait nor allocate for a datagram, and may be called from any thread.
#[derive(Clone)]
pub struct PeerSender(pub(crate) Arc<Outbox>);

impl fmt::Debug for PeerSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSender").field("pod", &self.0.pod).field("linked", &self.is_linked()).finish()
    }
}

impl PeerSender {
    /// Whom it sends to.
    #[must_use]
    pub fn pod(&self) -> PodId {
        self.0.pod
    }

    /// A link to the peer stands.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.0.up.load(Ordering::Acquire)
    }

    /// The link stands and its peer proved itself by the current secret of the ring.
    #[must_use]
    pub fn is_by_current_secret(&self) -> bool {
        self.is_linked() && self.0.by_current_secret.load(Ordering::Relaxed)
    }

    /// The peer missed some beats: it may hang, and what is sent to it now may be lost, though nobody calls it dead yet.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.0.overdue.load(Ordering::Relaxed)
    }

    /// Relays a device's datagram to the owner of its slot. `flow` comes back with the answer: let it name the socket that
    /// `source` reached. A full ring drops its oldest datagram, which is counted.
    ///
    /// # Errors
    ///
    /// [`SendError::NoLink`], and [`SendError::Unfit`] for a datagram that is empty or longer than [`MAX_DATAGRAM`].
    pub fn try_datagram(&self, flow: u32, source: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        self.push(Way::ToOwner, flow, source, bytes)
    }

    /// Relays a datagram of a handshake to a pod that may know it, or is to begin it. It takes the place of no datagram of a session: the
    /// ring is for these once it is half full.
    ///
    /// # Errors
    ///
    /// As [`PeerSender::try_datagram`], and [`SendError::Full`].
    pub fn try_handshake(&self, flow: u32, source: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        if self.0.packets.len() >= self.0.packets.capacity().div_ceil(2) {
            self.0.counts.add(Count::DatagramsUnsent);
            return Err(SendError::Full);
        }
        self.push(Way::ToHandshake, flow, source, bytes)
    }

    /// Sends the owner's answer to where the flow came in, which sends it on to `destination`. `flow` is the datagram's.
    ///
    /// # Errors
    ///
    /// As [`PeerSender::try_datagram`].
    pub fn try_reply(&self, flow: u32, destination: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        self.push(Way::Back, flow, destination, bytes)
    }

    fn push(&self, way: Way, flow: u32, address: SocketAddr, bytes: &[u8]) -> Result<(), SendError> {
        let outbox = &self.0;
        let fits = u16::try_from(bytes.len()).ok().filter(|length| *length > 0);
        let mut held = [0; MAX_DATAGRAM];
        let (Some(length), Some(place)) = (fits, held.get_mut(..bytes.len())) else {
            outbox.counts.add(Count::DatagramsUnsent);
            return Err(SendError::Unfit);
        };
        if !self.is_linked() {
            outbox.counts.add(Count::DatagramsUnsent);
            return Err(SendError::NoLink);
        }
        place.copy_from_slice(bytes);
        if outbox.packets.force_push(Packet { way, flow, address, length, bytes: held }).is_some() {
            outbox.counts.add(Count::DatagramsDropped);
        }
        outbox.wake.notify_one();
        Ok(())
    }

    /// Queues a control frame. Frames of one peer arrive in the order they were queued, each at most once; what was queued when
    /// the link ends is lost, and [`crate::Inbound::link_down`] says so.
    ///
    /// # Errors
    ///
    /// [`SendError`]; with [`SendError::Full`] nothing was queued.
    pub fn try_control(&self, control: Control) -> Result<(), SendError> {
        self.check(&control)?;
        self.0.control.try_send(control).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::NoLink,
        })?;
        self.0.wake.notify_one();
        Ok(())
    }

    /// Queues a control frame as [`PeerSender::try_control`] does, and waits for room. Cancelled, it has queued nothing.
    ///
    /// # Errors
    ///
    /// [`SendError::NoLink`] and [`SendError::Unfit`].
    pub async fn control(&self, control: Control) -> Result<(), SendError> {
        self.check(&control)?;
        self.0.control.send(control).await.map_err(|_| SendError::NoLink)?;
        self.0.wake.notify_one();
        Ok(())
    }

    fn check(&self, control: &Control) -> Result<(), SendError> {
        if let Control::Other { kind, bytes } = control
            && (*kind < FIRST_OTHER || bytes.len() > MAX_PAYLOAD)
        {
            return Err(SendError::Unfit);
        }
        if self.is_linked() { Ok(()) } else { Err(SendError::NoLink) }
    }
}
