use core::fmt;
use core::marker::PhantomData;

use super::SessionKeysFor;
use super::commit::CommitToken;
use super::liveness::{Control, Liveness, MESSAGE_TIMEOUT};
use crate::crypto::Provider;
use crate::server::timers::earliest;
use crate::server::{CloseReason, DropReason, MessageHandle, MessagePool, SendError, SessionConfig};
use crate::wire::{
    FrameType, HEADER, Header, MAX_CHUNK, MAX_FRAGMENTS, MAX_MESSAGE, SEAL_OVERHEAD, StreamDecode,
    decode_stream,
};
use crate::{
    Instant, Opened, Reassembly, Role, SealError, Secret, SessionId, SessionKeys, open_frame, rekey,
    seal_frame,
};

/// Most bytes that one message takes on the stream.
pub const MAX_MESSAGE_WIRE: usize = MAX_MESSAGE + MAX_FRAGMENTS * (HEADER + SEAL_OVERHEAD);

/// What the start of the driver's buffer holds. `consumed` bytes are to be dropped from it.
#[derive(Debug, PartialEq, Eq)]
pub enum TcpReceived<'a> {
    /// Read until the buffer holds this many bytes.
    NeedMore(usize),
    /// A message. TCP has no acknowledgement: the token only names it.
    Message {
        /// Bytes of the frame.
        consumed: usize,
        /// Names the message.
        token: CommitToken,
        /// Its bytes, in the buffer or in that of the pool.
        payload: &'a mut [u8],
    },
    /// A frame that the session dealt with; `poll_transmit` may have something now.
    Control {
        /// Bytes of the frame.
        consumed: usize,
    },
    /// The keys changed.
    Rekeyed {
        /// Bytes of the frame.
        consumed: usize,
        /// REKEYs so far.
        epoch: u32,
    },
    /// The device said BYE: close the connection.
    Bye {
        /// Bytes of the frame.
        consumed: usize,
    },
}

/// An open session over TCP, server side (WIRE.md sections 6 to 10).
///
/// Numbers are strict, any error ends the connection without a word. Frames leave in the order in which they are written to
/// `out`: the driver sends them whole, in that order.
pub struct TcpSession<P> {
    keys: SessionKeys,
    session_id: SessionId,
    live: Liveness,
    reassembly: Reassembly,
    buffer: Option<MessageHandle>,
    /// The number that must come next.
    expected: u32,
    next: u32,
    epoch: u32,
    pongs: u8,
    ping: bool,
    established_event: bool,
    closed: Option<CloseReason>,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider> TcpSession<P> {
    pub(in crate::server) fn new(
        now: Instant,
        SessionKeysFor { keys, session_id }: SessionKeysFor,
        config: &SessionConfig,
    ) -> Self {
        Self {
            keys,
            session_id,
            // The stream delivers SESSION_OK before anything else.
            live: Liveness::new(now, config.probe_after, config),
            reassembly: Reassembly::new(),
            buffer: None,
            expected: 0,
            next: 0,
            epoch: 0,
            pongs: 0,
            ping: false,
            established_event: false,
            closed: None,
            provider: PhantomData,
        }
    }

    /// Reads one frame from the start of `stream` and opens it in place. Call again with the rest until
    /// [`TcpReceived::NeedMore`].
    ///
    /// # Errors
    ///
    /// [`DropReason`]: close the connection without sending. [`DropReason::NoBuffer`] is the one that may pass: nothing was consumed
    /// or changed, and the driver may wait for a buffer instead.
    pub fn receive<'a, B: MessagePool>(
        &mut self,
        now: Instant,
        stream: &'a mut [u8],
        pool: &'a mut B,
    ) -> Result<TcpReceived<'a>, DropReason> {
        if self.closed.is_some() {
            return Err(DropReason::Closed);
        }
        let consumed = match decode_stream(stream)? {
            StreamDecode::NeedMore(bytes) => return Ok(TcpReceived::NeedMore(bytes)),
            StreamDecode::Frame(bytes) => bytes,
        };
        let frame = stream.get_mut(..consumed).ok_or(DropReason::TooShort)?;
        let head = frame.first_chunk::<HEADER>().ok_or(DropReason::TooShort)?;
        let (Header { frame_type, seq, .. }, _) = Header::parse(head)?;
        if !frame_type.is_sealed() {
            return Err(match frame_type {
                FrameType::Error | FrameType::Unknown(_) => DropReason::UnknownType,
                _ => DropReason::UnexpectedType,
            });
        }
        // Before opening in place: a frame that must wait is left as it came.
        if frame_type == FrameType::DataFrag && self.buffer.is_none() {
            self.buffer = Some(pool.lend().ok_or(DropReason::NoBuffer)?);
        }
        let Opened { plaintext, .. } = open_frame::<P>(&self.keys.c2s, self.session_id, frame)?;
        if seq != self.expected {
            return Err(DropReason::Sequence);
        }
        if seq == u32::MAX {
            self.closed = Some(CloseReason::SequenceExhausted);
            return Err(DropReason::SequenceExhausted);
        }
        self.expected = seq.saturating_add(1);
        self.live.heard(now);
        if self.live.establish() {
            self.established_event = true;
        }
        if self.reassembly.is_open()
            && !matches!(frame_type, FrameType::Data | FrameType::DataFrag | FrameType::Bye)
        {
            return Err(DropReason::InsideMessage);
        }
        match frame_type {
            FrameType::Data => {
                let token = CommitToken { epoch: self.epoch, seq };
                let payload = if self.reassembly.is_open() {
                    let handle = self.buffer.take().ok_or(DropReason::NoBuffer)?;
                    let buffer = pool.last_look(handle).ok_or(DropReason::NoBuffer)?;
                    self.reassembly.finish(plaintext, buffer)?
                } else {
                    plaintext
                };
                Ok(TcpReceived::Message { consumed, token, payload })
            }
            FrameType::DataFrag => {
                let handle = self.buffer.ok_or(DropReason::NoBuffer)?;
                let buffer = pool.buffer(handle).ok_or(DropReason::NoBuffer)?;
                self.reassembly.push_fragment(seq, plaintext, buffer)?;
                Ok(TcpReceived::Control { consumed })
            }
            FrameType::Rekey => {
                let salt: &[u8; 32] = (&*plaintext).try_into().map_err(|_| DropReason::RekeyLength)?;
                self.switch(Role::Device, salt);
                Ok(TcpReceived::Rekeyed { consumed, epoch: self.epoch })
            }
            FrameType::Bye => {
                self.closed = Some(CloseReason::Bye);
                Ok(TcpReceived::Bye { consumed })
            }
            _ => self.control(now, frame_type).map(|()| TcpReceived::Control { consumed }),
        }
    }

    fn control(&mut self, now: Instant, frame_type: FrameType) -> Result<(), DropReason> {
        let control = self.live.control(now);
        match (control, frame_type) {
            (Control::Flood, _) => {
                self.closed = Some(CloseReason::ControlFlood);
                Err(DropReason::ControlFlood)
            }
            (_, FrameType::Pong) => {
                self.live.pong();
                Ok(())
            }
            (Control::Normal, _) => {
                self.pongs = self.pongs.saturating_add(1);
                Ok(())
            }
            (Control::Backlog, _) => Ok(()),
        }
    }

    /// Both counters start at 0 under the new keys.
    fn switch(&mut self, initiator: Role, salt: &[u8; 32]) {
        self.keys = rekey::<P>(&self.keys, initiator, salt, self.session_id);
        self.expected = 0;
        self.next = 0;
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Writes all frames of a message to `out`, [`MAX_MESSAGE_WIRE`] bytes at most; returns how many.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing is to be sent then. Numbers may be used up: after [`SendError::BufferTooSmall`] close the
    /// connection.
    pub fn send(&mut self, message: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
        if message.len() > MAX_MESSAGE {
            return Err(SendError::TooLong);
        }
        let mut rest = message;
        let mut written = 0_usize;
        loop {
            let (chunk, more) = rest.split_at_checked(MAX_CHUNK).unwrap_or((rest, &[]));
            let frame_type = if more.is_empty() { FrameType::Data } else { FrameType::DataFrag };
            let space = out.get_mut(written..).unwrap_or_default();
            written = written.saturating_add(self.seal(frame_type, chunk, space)?);
            if more.is_empty() {
                return Ok(written);
            }
            rest = more;
        }
    }

    fn seal(&mut self, frame_type: FrameType, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SendError> {
        if self.closed.is_some() {
            return Err(SendError::Closed);
        }
        if self.next == u32::MAX {
            return Err(SendError::SequenceExhausted);
        }
        let (seq, key) = (self.next, &self.keys.s2c);
        let length =
            seal_frame::<P>(key, self.session_id, frame_type, seq, plaintext, out).map_err(|error| {
                match error {
                    SealError::PlaintextTooLong => SendError::TooLong,
                    SealError::BufferTooSmall => SendError::BufferTooSmall,
                }
            })?;
        self.next = seq.saturating_add(1);
        Ok(length)
    }

    /// Sends a PING by [`poll_transmit`](Self::poll_transmit), as far as rule 6 of WIRE.md section 12 lets it; returns whether.
    pub const fn ping(&mut self) -> bool {
        self.ping = self.ping || (self.closed.is_none() && self.live.may_ping());
        self.ping
    }

    /// Writes BYE to `out`; the driver sends it and closes.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn say_bye(&mut self, out: &mut [u8]) -> Result<usize, SendError> {
        let length = self.seal(FrameType::Bye, &[], out)?;
        self.closed = Some(CloseReason::Local);
        Ok(length)
    }

    /// Writes REKEY to `out` and switches. Never done by itself: devices before 1.2 close, and what the device has in
    /// flight ends the connection (WIRE.md section 9).
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn start_rekey(&mut self, salt: &Secret<32>, out: &mut [u8]) -> Result<usize, SendError> {
        let length = self.seal(FrameType::Rekey, salt.expose(), out)?;
        self.switch(Role::Server, salt.expose());
        Ok(length)
    }

    /// Writes a PONG or PING that is due, 40 bytes. Call until `None`, between whole messages.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.pongs > 0 {
            let length = self.seal(FrameType::Pong, &[], out).ok()?;
            self.pongs = self.pongs.saturating_sub(1);
            return Some(length);
        }
        if self.ping {
            let length = self.seal(FrameType::Ping, &[], out).ok()?;
            self.ping = false;
            self.live.ping_sent();
            return Some(length);
        }
        None
    }

    /// Says once that the first authentic frame came: the session takes over from an older one of the device now.
    pub const fn poll_established(&mut self) -> bool {
        core::mem::replace(&mut self.established_event, false)
    }

    /// Lets time pass: PINGs, the idle timeout, and 30 s for a message that stopped half-way. Early calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        let stuck = self.buffer.is_some() && self.live.silent_for(now) >= MESSAGE_TIMEOUT;
        if stuck || self.live.is_idle(now) {
            self.closed = Some(CloseReason::Idle);
        } else if !self.ping && self.live.ping_due(now) {
            self.ping = true;
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let live = if self.ping { self.live.idle_timeout() } else { self.live.poll_timeout() };
        let message = self.buffer.and_then(|_| self.live.heard_plus(MESSAGE_TIMEOUT));
        earliest(live, message)
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
        self.reassembly.reset();
        if let Some(handle) = self.buffer.take() {
            pool.give_back(handle);
        }
    }

    /// The session's id.
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// REKEYs so far.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
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

impl<P> fmt::Debug for TcpSession<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSession")
            .field("session_id", &self.session_id)
            .field("epoch", &self.epoch)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
