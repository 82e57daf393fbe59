mod handover;
mod receive;
mod route;
mod send;

use core::fmt;
use core::marker::PhantomData;

use self::route::Route;
use super::SessionKeysFor;
use super::commit::{CommitToken, Commits, Committed};
use super::downlink::{Downlink, Kind, Outcome};
use super::lingering::Lingering;
use super::liveness::{Liveness, MESSAGE_TIMEOUT};
use super::rekey::RekeyMemory;
use crate::crypto::Provider;
use crate::server::timers::earliest;
use crate::server::{CloseReason, FragmentAck, MessageHandle, MessagePool, RekeyCommit, SessionConfig};
use crate::wire::{FrameType, Utack, UtackBytes};
use crate::{Duration, Instant, Reassembly, SessionId, SessionKeys};

/// What was acknowledged at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// A part of a message; see [`FragmentAck::Immediate`].
    Fragment,
    /// A PONG goes out by `poll_transmit`.
    Ping,
    /// Nothing else.
    Pong,
    /// The session's keys changed.
    Rekey,
    /// The session is over; keep what [`UdpSession::into_lingering`] gives for 15 s.
    Bye,
    /// A frame that was acknowledged before, whose UTACK was lost.
    Duplicate,
}

/// What a datagram was. UTACKs go to the datagram's own source.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A message. Keep the datagram's source with the record, and give the token to [`UdpSession::committed`] once it is stored.
    Message {
        /// Names the message.
        token: CommitToken,
        /// Its bytes, in the datagram or in the pool's buffer.
        payload: &'a mut [u8],
    },
    /// A fragment under [`FragmentAck::Deferred`]: commit that a message is open at this number, then
    /// [`UdpSession::committed`].
    Fragment {
        /// Names the fragment.
        token: CommitToken,
    },
    /// A REKEY under [`RekeyCommit::Deferred`]: persist what [`UdpSession::pending_rekey`] gives, commit that the session
    /// is in the next epoch, then [`UdpSession::rekey_committed`]. Until then no frame of a higher number is taken.
    Rekey {
        /// Names the REKEY.
        token: CommitToken,
    },
    /// Send this UTACK now.
    Acknowledge {
        /// The bytes.
        utack: UtackBytes,
        /// What it is for.
        what: Acknowledged,
    },
}

/// What happened beside the datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent<A> {
    /// The first authentic sign of life: the session takes over from an older one of the device now.
    Established,
    /// The downlink address changed, or that of a session that was handed over is known now. The driver finds UTACKs by it.
    Moved {
        /// The new address.
        to: A,
    },
    /// The keys changed; pending messages of the epoch before can still be stored, but not acknowledged.
    Rekeyed {
        /// REKEYs so far.
        epoch: u32,
    },
    /// The device's socket acknowledged the whole message. Not a proof of processing.
    MessageDelivered,
    /// The message was given up; its numbers are burned. The session lives on.
    MessageLost,
    /// The block of sending numbers is used up: nothing is sent until
    /// [`extend_numbers`](UdpSession::extend_numbers).
    NumbersNeeded,
    /// The session is over.
    Closed(CloseReason),
}

/// A frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<A> {
    /// Bytes written to `out`.
    pub length: usize,
    /// Where they go.
    pub to: A,
}

/// How long a device waits for the UTACK of a fragment at least: 2.5 s where its timer is fixed (WIRE.md section 11.3), less
/// what the way takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bits of the events that wait in a session.
mod event {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const MOVED: u8 = 2;
    pub(super) const REKEYED: u8 = 4;
    pub(super) const DELIVERED: u8 = 8;
    pub(super) const LOST: u8 = 16;
    pub(super) const NUMBERS: u8 = 32;
    pub(super) const CLOSED: u8 = 64;
}

/// An open session over UDP, server side (WIRE.md sections 6 to 9, 11 and 12).
///
/// It holds keys and numbers, no packets: messages lie in the datagram they came in or in a buffer lent by a
/// [`MessagePool`]; what it sends is sealed from plaintext that the driver lends, again for each repeat.
///
/// `A` is the driver's idea of a peer's address: small, `Copy`, comparable.
///
/// Numbers only increase. A message's UTACK leaves when the driver says [`committed`](Self::committed); until then repeats of it are
/// silent. At most [`MAX_PENDING`](super::MAX_PENDING) messages wait; the next one is dropped, and the device sends it again.
pub struct UdpSession<P, A> {
    keys: SessionKeys,
    session_id: SessionId,
    memory: RekeyMemory,
    live: Liveness,
    downlink: Downlink,
    commits: Commits<A>,
    route: Route<A>,
    reassembly: Reassembly,
    buffer: Option<MessageHandle>,
    epoch: u32,
    closed: Option<CloseReason>,
    events: u8,
    fragment_ack: FragmentAck,
    rekey_commit: RekeyCommit,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider, A: Copy + Eq> UdpSession<P, A> {
    pub(in crate::server) fn new(
        now: Instant,
        SessionKeysFor { keys, session_id }: SessionKeysFor,
        path: A,
        seed: u32,
        config: &SessionConfig,
    ) -> Self {
        Self {
            keys,
            session_id,
            memory: RekeyMemory::NOTHING,
            live: Liveness::new(now, config.probe_at_latest, config),
            downlink: Downlink::new(seed, 0, config.numbers),
            commits: Commits::new(),
            route: Route::new(path),
            reassembly: Reassembly::new(),
            buffer: None,
            epoch: 0,
            closed: None,
            events: 0,
            fragment_ack: config.fragment_ack,
            rekey_commit: config.rekey,
            provider: PhantomData,
        }
    }

    /// The proof that opened this session came from another address than its HELLO, and may be a copy. Until the device has acknowledged a
    /// PING there, or at another address that it speaks from, nothing else goes down to it.
    pub fn doubt_path(&mut self) {
        self.route = Route::doubted(self.route.path());
    }

    /// The message is stored, or the fragment is in the journal. Gives its UTACK, or `None` when the device's keys have changed
    /// since, the session is closed, or the token is not pending.
    pub fn committed(&mut self, now: Instant, token: CommitToken) -> Option<Committed<A>> {
        if token.epoch != self.epoch || self.is_pending_rekey(token) {
            return None;
        }
        let (frame_type, also_to) = self.commits.commit(token.seq)?;
        if frame_type == FrameType::DataFrag && self.live.silent_for(now) >= PATIENCE {
            // The device may have given it up, and then its next number begins another message.
            self.commits.interrupt();
            self.reassembly.reset();
        }
        let utack = Utack::sealed::<P>(&self.keys.c2s, frame_type, token.seq).emit();
        Some(Committed { utack, also_to })
    }

    /// The message can never be stored: it is not acknowledged, and its repeats meet silence.
    pub fn refused(&mut self, token: CommitToken) {
        if self.is_pending_rekey(token) {
            self.rekey_refused(token);
        } else if token.epoch == self.epoch && self.commits.refuse(token.seq) == Some(FrameType::DataFrag) {
            // Without this fragment there is no message; what the device sends next is another one.
            self.reassembly.reset();
        }
    }

    /// The message could not be taken over by the driver just now: as if it had not come, so that a repeat is new. Works for the newest
    /// message only, and only if it came in one frame; otherwise it is [`refused`](Self::refused) and this returns `false`.
    pub fn withdraw(&mut self, token: CommitToken) -> bool {
        // A repeat will be new again; it must not count twice for a new address.
        self.route.forget_candidate();
        self.downlink.drop_probe();
        if self.is_pending_rekey(token) {
            self.memory.forget();
        }
        let withdrawn = token.epoch == self.epoch && self.commits.withdraw(token.seq);
        if !withdrawn {
            self.refused(token);
        }
        withdrawn
    }

    /// The device's numbers start again; ours go on, since Python discards what falls too far back (WIRE.md section 9).
    fn new_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.commits = Commits::new();
        self.route.numbers_restart();
        if self.downlink.restart() {
            self.live.ping_lost();
        }
        self.events |= event::REKEYED;
    }

    fn drop_partial<B: MessagePool>(&mut self, pool: &mut B) {
        self.reassembly.reset();
        if let Some(handle) = self.buffer.take() {
            pool.give_back(handle);
        }
    }

    /// Why a BYE of ours went out.
    const fn bye_reason(&self) -> CloseReason {
        if self.downlink.numbers().is_ending() { CloseReason::SequenceExhausted } else { CloseReason::Local }
    }

    const fn close(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.closed = Some(reason);
            self.events |= event::CLOSED;
        }
    }

    /// What happened. Call until `None`.
    pub fn poll_event(&mut self) -> Option<SessionEvent<A>> {
        let lowest = self.events & self.events.wrapping_neg();
        self.events &= !lowest;
        match lowest {
            event::ESTABLISHED => Some(SessionEvent::Established),
            event::MOVED => Some(SessionEvent::Moved { to: self.route.path() }),
            event::REKEYED => Some(SessionEvent::Rekeyed { epoch: self.epoch }),
            event::DELIVERED => Some(SessionEvent::MessageDelivered),
            event::LOST => Some(SessionEvent::MessageLost),
            event::NUMBERS => Some(SessionEvent::NumbersNeeded),
            event::CLOSED => self.closed.map(SessionEvent::Closed),
            _ => None,
        }
    }

    /// Lets time pass: repeats, PINGs, idle timeout, forgetting. Early calls are harmless.
    pub fn handle_timeout<B: MessagePool>(&mut self, now: Instant, pool: &mut B) {
        if self.closed.is_some() {
            self.drop_partial(pool);
            return;
        }
        self.memory.expire(now);
        if self.buffer.is_some() && self.live.silent_for(now) >= MESSAGE_TIMEOUT {
            self.drop_partial(pool);
        }
        match self.downlink.exhausted(now) {
            Some(Outcome::Lost) => self.events |= event::LOST,
            Some(Outcome::Step(Kind::Bye)) => self.close(self.bye_reason()),
            // Whether the device has switched is unknown, and stays so.
            Some(Outcome::Step(Kind::Rekey)) => self.close(CloseReason::Rekey),
            _ => {}
        }
        if self.live.is_idle(now) {
            self.close(CloseReason::Idle);
            self.drop_partial(pool);
        } else if !self.downlink.is_pinging() && self.live.ping_due(now) {
            // Where the device is not known for sure, the PING goes to where it may be, and tells.
            let unsure = !self.route.is_settled() && self.route.candidate().is_some();
            self.downlink.want(if unsure { Kind::Probe } else { Kind::Ping });
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let message = self.buffer.and_then(|_| self.live.heard_plus(MESSAGE_TIMEOUT));
        let live =
            if self.downlink.is_pinging() { self.live.idle_timeout() } else { self.live.poll_timeout() };
        earliest(earliest(live, self.downlink.poll_timeout()), earliest(self.memory.poll_timeout(), message))
    }

    /// Reading stops: what the device sends waits unread, so its silence does not count.
    pub fn pause(&mut self, now: Instant) {
        self.live.pause(now);
    }

    /// Reading goes on.
    pub fn resume(&mut self, now: Instant) {
        self.live.resume(now);
    }

    /// Gives a lent buffer back. Call before dropping a session.
    pub fn release<B: MessagePool>(&mut self, pool: &mut B) {
        self.drop_partial(pool);
    }

    /// Ends the session, whatever its state, and keeps what acknowledges BYE for 15 s more.
    #[must_use]
    pub fn into_lingering<B: MessagePool>(mut self, now: Instant, pool: &mut B) -> Lingering<P> {
        self.drop_partial(pool);
        Lingering::new(now, self.keys.c2s, self.session_id)
    }

    /// The session's id.
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// Where frames of the server go; before [`is_settled`](Self::is_settled), where the session was asked for from.
    #[must_use]
    pub const fn path(&self) -> A {
        self.route.path()
    }

    /// Whether the device is known to be at [`path`](Self::path), and does not merely seem to be.
    #[must_use]
    pub const fn is_path_settled(&self) -> bool {
        self.route.is_settled()
    }

    /// The address that may become the next one; the PING to it is acknowledged from there.
    #[must_use]
    pub const fn candidate_path(&self) -> Option<A> {
        self.route.candidate()
    }

    /// REKEYs so far.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The highest committed number of this epoch.
    #[must_use]
    pub const fn committed_seq(&self) -> Option<u32> {
        self.commits.committed()
    }

    /// The highest number of this epoch that was taken.
    #[must_use]
    pub const fn seen_seq(&self) -> Option<u32> {
        self.commits.seen()
    }

    /// The next number that the server will use.
    #[must_use]
    pub const fn next_seq(&self) -> u32 {
        self.downlink.numbers().next()
    }

    /// Messages that wait for their commit.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.commits.pending_count()
    }

    /// Whether the device has shown that it lives.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.live.is_established()
    }

    /// Whether it is over, and why.
    #[must_use]
    pub const fn closed(&self) -> Option<CloseReason> {
        self.closed
    }
}

impl<P, A: fmt::Debug> fmt::Debug for UdpSession<P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSession")
            .field("session_id", &self.session_id)
            .field("route", &self.route)
            .field("epoch", &self.epoch)
            .field("commits", &self.commits)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
