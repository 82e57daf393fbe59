use core::fmt;
use core::marker::PhantomData;

use super::SessionKeysFor;
use super::commit::{CommitToken, Commits, Committed, Known};
use super::downlink::{Downlink, Kind, Outcome, Polled};
use super::lingering::Lingering;
use super::liveness::{Control, Liveness};
use super::rekey::RekeyMemory;
use crate::crypto::Provider;
use crate::server::timers::{earliest, later};
use crate::server::{
    CloseReason, DropReason, FragmentAck, MessageHandle, MessagePool, SendError, SessionConfig,
};
use crate::wire::{FrameType, HEADER, Header, MAX_MESSAGE, Utack, UtackBytes};
use crate::{Duration, Instant, Opened, Reassembly, Role, Secret, SessionId, SessionKeys, open_frame, rekey};

/// How long fragments wait for the next one: longer than the slowest sender's budget, short enough for the pool.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// The downlink address changed. The driver finds UTACKs by it.
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

/// Bits of the events that wait in a session.
mod event {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const MOVED: u8 = 2;
    pub(super) const REKEYED: u8 = 4;
    pub(super) const DELIVERED: u8 = 8;
    pub(super) const LOST: u8 = 16;
    pub(super) const CLOSED: u8 = 32;
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
    path: A,
    candidate: Option<A>,
    reassembly: Reassembly,
    buffer: Option<MessageHandle>,
    epoch: u32,
    closed: Option<CloseReason>,
    events: u8,
    fragment_ack: FragmentAck,
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
            memory: RekeyMemory::Nothing,
            live: Liveness::new(now, later(now, config.probe_at_latest), config),
            downlink: Downlink::new(seed),
            commits: Commits::new(),
            path,
            candidate: None,
            reassembly: Reassembly::new(),
            buffer: None,
            epoch: 0,
            closed: None,
            events: 0,
            fragment_ack: config.fragment_ack,
            provider: PhantomData,
        }
    }

    /// A session whose keys are known already, half-open, with all numbers at their start.
    #[must_use]
    pub fn from_keys(
        now: Instant,
        keys: SessionKeys,
        session_id: SessionId,
        path: A,
        seed: u32,
        config: &SessionConfig,
    ) -> Self {
        Self::new(now, SessionKeysFor { keys, session_id }, path, seed, config)
    }

    /// Takes one classified datagram whose prefix is that of this session. Opens it in place.
    ///
    /// # Errors
    ///
    /// [`DropReason`]: nothing is sent. Only authentic frames changed the session; one of them may have closed it.
    pub fn handle_datagram<'a, B: MessagePool>(
        &mut self,
        now: Instant,
        from: A,
        datagram: &'a mut [u8],
        pool: &'a mut B,
    ) -> Result<Received<'a>, DropReason> {
        if self.closed.is_some() {
            return Err(DropReason::Closed);
        }
        let head = datagram.first_chunk::<HEADER>().ok_or(DropReason::TooShort)?;
        let (Header { frame_type, seq, .. }, _) = Header::parse(head)?;
        if !frame_type.is_sealed() {
            return Err(DropReason::UnexpectedType);
        }
        if let Some(utack) = self.memory.repeated::<P>(now, frame_type, seq, datagram) {
            return Ok(Received::Acknowledge { utack: utack.emit(), what: Acknowledged::Duplicate });
        }
        let known = self.commits.known(seq);
        let deferred = frame_type == FrameType::Data
            || (frame_type == FrameType::DataFrag && self.fragment_ack == FragmentAck::Deferred);
        match known {
            Known::Stale => return Err(DropReason::Stale),
            Known::New if deferred && self.commits.is_full() => return Err(DropReason::PendingFull),
            _ => {}
        }
        let fingerprint = if frame_type == FrameType::Rekey {
            RekeyMemory::fingerprint::<P>(&self.keys.c2s, datagram)
        } else {
            [0; 8]
        };
        let Opened { plaintext, .. } = open_frame::<P>(&self.keys.c2s, self.session_id, datagram)?;
        match known {
            Known::New => {}
            Known::Pending => {
                self.commits.echo(seq, from);
                return Err(DropReason::PendingDuplicate);
            }
            Known::Again | Known::Stale => {
                return Ok(self.acknowledge(frame_type, seq, Acknowledged::Duplicate));
            }
        }
        if seq == u32::MAX && frame_type != FrameType::Bye {
            self.close(CloseReason::SequenceExhausted);
            return Err(DropReason::SequenceExhausted);
        }

        // From here on the frame is new and authentic. A fragment may still be refused for want of a buffer; it must leave
        // no trace then, since it will be new again.
        match frame_type {
            FrameType::DataFrag => self.fragment(now, from, seq, plaintext, pool),
            FrameType::Data => {
                let whole = !self.reassembly.continues(seq);
                let payload = if whole {
                    self.drop_partial(pool);
                    plaintext
                } else {
                    self.finish(seq, plaintext, pool)?
                };
                self.commits.take_pending(seq, false, whole);
                self.took(now, from);
                Ok(Received::Message { token: self.token(seq), payload })
            }
            FrameType::Rekey => {
                self.commits.take_silently(seq);
                self.drop_partial(pool);
                self.took(now, from);
                self.follow_rekey(now, seq, plaintext, fingerprint)
            }
            _ => {
                self.commits.take_now(seq);
                self.drop_partial(pool);
                self.took(now, from);
                self.control(now, frame_type, seq)
            }
        }
    }

    fn control(
        &mut self,
        now: Instant,
        frame_type: FrameType,
        seq: u32,
    ) -> Result<Received<'static>, DropReason> {
        if frame_type == FrameType::Bye {
            self.close(CloseReason::Bye);
            return Ok(self.acknowledge(frame_type, seq, Acknowledged::Bye));
        }
        let control = self.live.control(now);
        if control == Control::Flood {
            self.close(CloseReason::ControlFlood);
            return Err(DropReason::ControlFlood);
        }
        if frame_type == FrameType::Pong {
            self.live.pong();
            self.downlink.pong();
            return Ok(self.acknowledge(frame_type, seq, Acknowledged::Pong));
        }
        if control == Control::Normal {
            self.downlink.owe_pong();
        }
        Ok(self.acknowledge(frame_type, seq, Acknowledged::Ping))
    }

    fn fragment<'a, B: MessagePool>(
        &mut self,
        now: Instant,
        from: A,
        seq: u32,
        chunk: &[u8],
        pool: &mut B,
    ) -> Result<Received<'a>, DropReason> {
        let handle = match self.buffer {
            Some(handle) => handle,
            None => pool.lend().ok_or(DropReason::NoBuffer)?,
        };
        self.buffer = Some(handle);
        let buffer = pool.buffer(handle).ok_or(DropReason::NoBuffer)?;
        if let Err(error) = self.reassembly.push_fragment(seq, chunk, buffer) {
            self.drop_partial(pool);
            self.commits.take_silently(seq);
            self.took(now, from);
            return Err(error.into());
        }
        if self.fragment_ack == FragmentAck::Deferred {
            self.commits.take_pending(seq, true, false);
            self.took(now, from);
            return Ok(Received::Fragment { token: self.token(seq) });
        }
        self.commits.take_now(seq);
        self.took(now, from);
        Ok(self.acknowledge(FrameType::DataFrag, seq, Acknowledged::Fragment))
    }

    /// Ends the message in the making.
    fn finish<'a, B: MessagePool>(
        &mut self,
        seq: u32,
        chunk: &[u8],
        pool: &'a mut B,
    ) -> Result<&'a mut [u8], DropReason> {
        let buffer = self.buffer.take().and_then(|handle| pool.last_look(handle));
        let Some(buffer) = buffer else {
            self.reassembly.reset();
            self.commits.take_silently(seq);
            return Err(DropReason::NoBuffer);
        };
        self.reassembly.finish(chunk, buffer).map_err(DropReason::from)
    }

    fn drop_partial<B: MessagePool>(&mut self, pool: &mut B) {
        self.reassembly.reset();
        if let Some(handle) = self.buffer.take() {
            pool.give_back(handle);
        }
    }

    fn follow_rekey(
        &mut self,
        now: Instant,
        seq: u32,
        salt: &[u8],
        fingerprint: [u8; 8],
    ) -> Result<Received<'static>, DropReason> {
        if self.memory.salt().is_some() {
            self.close(CloseReason::Rekey);
            return Err(DropReason::RekeyCollision);
        }
        let salt: &[u8; 32] = salt.try_into().map_err(|_| DropReason::RekeyLength)?;
        let new = rekey::<P>(&self.keys, Role::Device, salt, self.session_id);
        let SessionKeys { c2s: old, .. } = core::mem::replace(&mut self.keys, new);
        let utack = Utack::sealed::<P>(&old, FrameType::Rekey, seq).emit();
        self.memory = RekeyMemory::followed(now, old, fingerprint, seq);
        self.new_epoch();
        Ok(Received::Acknowledge { utack, what: Acknowledged::Rekey })
    }

    /// The device's numbers start again; ours go on, since Python discards what falls too far back (WIRE.md section 9).
    fn new_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
        self.commits = Commits::new();
        if self.downlink.restart() {
            self.live.ping_lost();
        }
        self.events |= event::REKEYED;
    }

    fn acknowledge(&self, frame_type: FrameType, seq: u32, what: Acknowledged) -> Received<'static> {
        Received::Acknowledge { utack: Utack::sealed::<P>(&self.keys.c2s, frame_type, seq).emit(), what }
    }

    const fn token(&self, seq: u32) -> CommitToken {
        CommitToken { epoch: self.epoch, seq }
    }

    /// A new authentic frame was taken.
    fn took(&mut self, now: Instant, from: A) {
        self.live.heard(now);
        if self.live.establish() {
            self.events |= event::ESTABLISHED;
        }
        // The address changes after two new frames in a row from the new one; the PING between them makes sure that somebody
        // there answers (WIRE.md section 12.2). Whoever races one copy gains nothing.
        if from == self.path {
            self.candidate = None;
            self.downlink.drop_probe();
        } else if self.candidate == Some(from) {
            self.path = from;
            self.candidate = None;
            self.downlink.drop_probe();
            self.events |= event::MOVED;
        } else {
            self.candidate = Some(from);
            self.downlink.drop_probe();
            self.downlink.want_probe(self.live.may_ping());
        }
    }

    const fn close(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.closed = Some(reason);
            self.events |= event::CLOSED;
        }
    }

    /// The message is stored. Gives its UTACK, or `None` when the device's keys have changed since, the session is closed, or the
    /// token is not pending.
    pub fn committed(&mut self, token: CommitToken) -> Option<Committed<A>> {
        if token.epoch != self.epoch {
            return None;
        }
        let (frame_type, also_to) = self.commits.commit(token.seq)?;
        let utack = Utack::sealed::<P>(&self.keys.c2s, frame_type, token.seq).emit();
        Some(Committed { utack, also_to })
    }

    /// The message can never be stored: it is not acknowledged, and its repeats meet silence.
    pub fn refused(&mut self, token: CommitToken) {
        if token.epoch == self.epoch {
            self.commits.refuse(token.seq);
        }
    }

    /// The message could not be taken over by the driver just now: as if it had not come, so that a repeat is new. Works for the newest
    /// message only, and only if it came in one frame; otherwise it is [`refused`](Self::refused) and this returns `false`.
    pub fn withdraw(&mut self, token: CommitToken) -> bool {
        // A repeat will be new again; it must not count twice for a new address.
        self.candidate = None;
        self.downlink.drop_probe();
        let withdrawn = token.epoch == self.epoch && self.commits.withdraw(token.seq);
        if !withdrawn {
            self.refused(token);
        }
        withdrawn
    }

    /// The device has its SESSION_OK, says a UTACK: messages may leave, and soon a PING if the device stays silent.
    pub fn session_ok_arrived(&mut self, now: Instant) {
        self.live.confirm(now);
    }

    /// A UTACK from the downlink address of this session.
    ///
    /// # Errors
    ///
    /// [`DropReason`] when it is not for the frame that is out, or not authentic.
    pub fn handle_utack(&mut self, now: Instant, utack: &Utack) -> Result<(), DropReason> {
        if !self.downlink.awaits(utack.frame_type, utack.seq) {
            return Err(DropReason::UtackUnexpected);
        }
        if !utack.verify::<P>(&self.keys.s2c) {
            return Err(DropReason::UtackMac);
        }
        if self.live.establish() {
            self.events |= event::ESTABLISHED;
        }
        match self.downlink.acknowledged(now) {
            Some(Outcome::Delivered) => self.events |= event::DELIVERED,
            Some(Outcome::Step(Kind::Bye)) => self.close(CloseReason::Local),
            Some(Outcome::Step(Kind::Rekey)) => self.switch_to_own(),
            _ => {}
        }
        Ok(())
    }

    /// Our REKEY was acknowledged.
    fn switch_to_own(&mut self) {
        let RekeyMemory::Started { salt } = core::mem::replace(&mut self.memory, RekeyMemory::Nothing) else {
            return;
        };
        self.keys = rekey::<P>(&self.keys, Role::Server, salt.expose(), self.session_id);
        self.new_epoch();
    }

    /// Sends a message of `length` bytes, 1808 at most. The driver lends the same bytes to every
    /// [`poll_transmit`](Self::poll_transmit) until [`SessionEvent::MessageDelivered`] or [`SessionEvent::MessageLost`]. Prefer 452
    /// bytes: some devices lose fragmented messages on slow paths (WIRE.md section 12, rule 15).
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn send(&mut self, length: usize) -> Result<(), SendError> {
        self.may_send()?;
        if length > MAX_MESSAGE {
            return Err(SendError::TooLong);
        }
        if self.downlink.is_sending() {
            return Err(SendError::Busy);
        }
        self.downlink.send(u16::try_from(length).map_err(|_| SendError::TooLong)?);
        Ok(())
    }

    /// Starts a REKEY with 32 fresh random bytes. Never done by itself: devices before 1.2 do not know it, and Python loses what is
    /// in flight (WIRE.md section 9).
    ///
    /// # Errors
    ///
    /// [`SendError::Busy`] while a message, an uncommitted message, or a REKEY of the last 15 s is in the way.
    pub fn start_rekey(&mut self, salt: Secret<32>) -> Result<(), SendError> {
        self.may_send()?;
        let idle = self.commits.pending_count() == 0 && !self.downlink.is_sending();
        if !idle || self.buffer.is_some() || !matches!(self.memory, RekeyMemory::Nothing) {
            return Err(SendError::Busy);
        }
        self.memory = RekeyMemory::Started { salt };
        self.downlink.want_rekey();
        Ok(())
    }

    /// Says BYE; the session is closed when it is acknowledged or given up.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn say_bye(&mut self) -> Result<(), SendError> {
        self.may_send()?;
        self.downlink.want_bye();
        Ok(())
    }

    const fn may_send(&self) -> Result<(), SendError> {
        if self.closed.is_some() {
            Err(SendError::Closed)
        } else if !self.downlink.has_numbers() {
            Err(SendError::SequenceExhausted)
        } else {
            Ok(())
        }
    }

    /// The frame that is due, if any; `out` takes 492 bytes. `message` is what [`send`](Self::send) announced, anything else when
    /// nothing was. A repeat is sealed again from it; if that gives other bytes than the first time, the message is given up
    /// instead, since two plaintexts under one number would betray the key.
    pub fn poll_transmit(&mut self, now: Instant, message: &[u8], out: &mut [u8]) -> Option<Transmit<A>> {
        if self.closed.is_some() {
            return None;
        }
        let (key, salt) = (&self.keys.s2c, self.memory.salt());
        let data = self.live.is_confirmed();
        match self.downlink.poll::<P>(now, key, self.session_id, salt, message, data, out)? {
            Polled::Frame { length, kind, first } => {
                if first && matches!(kind, Kind::Ping | Kind::Probe) {
                    self.live.ping_sent();
                }
                let to = if kind == Kind::Probe { self.candidate.unwrap_or(self.path) } else { self.path };
                Some(Transmit { length, to })
            }
            Polled::Lost => {
                self.events |= event::LOST;
                None
            }
            Polled::Exhausted => {
                self.close(CloseReason::SequenceExhausted);
                None
            }
        }
    }

    /// What happened. Call until `None`.
    pub fn poll_event(&mut self) -> Option<SessionEvent<A>> {
        let lowest = self.events & self.events.wrapping_neg();
        self.events &= !lowest;
        match lowest {
            event::ESTABLISHED => Some(SessionEvent::Established),
            event::MOVED => Some(SessionEvent::Moved { to: self.path }),
            event::REKEYED => Some(SessionEvent::Rekeyed { epoch: self.epoch }),
            event::DELIVERED => Some(SessionEvent::MessageDelivered),
            event::LOST => Some(SessionEvent::MessageLost),
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
            Some(Outcome::Step(Kind::Bye)) => self.close(CloseReason::Local),
            // Whether the device has switched is unknown, and stays so.
            Some(Outcome::Step(Kind::Rekey)) => self.close(CloseReason::Rekey),
            _ => {}
        }
        if self.live.is_idle(now) {
            self.close(CloseReason::Idle);
            self.drop_partial(pool);
        } else if !self.downlink.is_pinging() && self.live.ping_due(now) {
            self.downlink.want_ping();
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

    /// Where frames of the server go.
    #[must_use]
    pub const fn path(&self) -> A {
        self.path
    }

    /// The address that may become the next one; the PING to it is acknowledged from there.
    #[must_use]
    pub const fn candidate_path(&self) -> Option<A> {
        self.candidate
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
        self.downlink.next_seq()
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
            .field("path", &self.path)
            .field("epoch", &self.epoch)
            .field("commits", &self.commits)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
