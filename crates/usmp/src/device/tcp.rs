use core::fmt;

use super::config::{Config, Psk};
use super::event::{CloseReason, CommandError, Event, Events, MessageId, Outcome, ProtocolError, SendError};
use super::handshake::{AwaitChallenge, AwaitSessionOk};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::session::{Duties, FirstSeq, Session};
use crate::crypto::Provider;
use crate::keys::Role;
use crate::time::Instant;
use crate::wire::{
    Challenge, Frame, FrameType, HandshakeError, HelloRetry, MAX_FRAME, MAX_MESSAGE, SessionOk, StreamDecode,
    decode_stream,
};
use crate::{DeviceId, Secret, SessionId};

/// One connection of a device over TCP, or any other reliable byte stream. The module's documentation shows the order of calls.
///
/// There is no acknowledgement: [`Event::Sent`] says that the bytes went to the transport. Whatever is wrong in the stream
/// ends the connection, without a word on the wire (WIRE.md section 10).
pub struct TcpDevice<P: Provider, const TX: usize = MAX_MESSAGE, const RX: usize = MAX_MESSAGE> {
    config: Config,
    phase: Phase<P>,
    /// Whether the frame of the handshake's current step is still to be sent.
    step_due: bool,
    expected_seq: u32,
    duties: Duties,
    events: Events,
    last_sent: Instant,
    handshake_deadline: Option<Instant>,
    step_deadline: Option<Instant>,
    outbox: Outbox<TX>,
    inbox: Inbox<RX>,
    /// The start of a frame of which the rest has not come.
    partial: [u8; MAX_FRAME],
    filled: usize,
}

enum Phase<P: Provider> {
    Hello(AwaitChallenge<P>),
    HelloAck(AwaitSessionOk<P>),
    Live(Session<P>),
    Closed,
}

impl<P: Provider, const TX: usize, const RX: usize> TcpDevice<P, TX, RX> {
    /// Starts the handshake on a stream that is open. `private_key` is 32 fresh bytes of a cryptographic random generator,
    /// for this connection only.
    #[must_use]
    pub fn connect(
        now: Instant,
        device_id: DeviceId,
        psk: Psk,
        private_key: Secret<32>,
        config: Config,
    ) -> Self {
        let hello = AwaitChallenge::new(device_id, psk, &private_key, config.handshake_numbers);
        Self {
            phase: Phase::Hello(hello),
            step_due: true,
            expected_seq: 0,
            duties: Duties::default(),
            events: Events::default(),
            last_sent: now,
            handshake_deadline: config.handshake_timeout.map(|wait| now + wait),
            step_deadline: config.step_timeout.map(|wait| now + wait),
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            partial: [0; MAX_FRAME],
            filled: 0,
            config,
        }
    }

    /// Takes bytes of the stream and returns how many. Fewer than given: a message waits in
    /// [`poll_event`](Self::poll_event), and the rest is to be handed in after it was polled. When the connection is over,
    /// everything is taken and ignored.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !self.inbox.is_full() && !self.is_closed() {
            rest = self.fill(now, rest);
        }
        if self.is_closed() { bytes.len() } else { bytes.len().saturating_sub(rest.len()) }
    }

    /// Notes that the stream ended or failed.
    pub fn handle_end(&mut self) {
        if !self.is_closed() {
            self.close(CloseReason::TransportClosed);
        }
    }

    /// Notes that time has passed. Early and extra calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let past = |point: Option<Instant>| point.is_some_and(|point| point <= now);
        if past(self.handshake_deadline) || past(self.step_deadline) {
            self.close(CloseReason::HandshakeTimeout);
        }
        if past(self.keepalive_at()) {
            self.duties.ping = true;
        }
    }

    /// Takes a message of up to `TX` and at most 1808 bytes; [`Event::Sent`] follows when its last frame went out.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing is then under way.
    pub fn send(&mut self, message: &[u8]) -> Result<MessageId, SendError> {
        match self.ready() {
            Ok(()) if self.events.outcome.is_some() => Err(SendError::Busy),
            Ok(()) => self.outbox.put(message),
            Err(CommandError::NotConnected) => Err(SendError::NotConnected),
            Err(_) => Err(SendError::Closed),
        }
    }

    /// Sends a PING. Its PONG is not told.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn ping(&mut self) -> Result<(), CommandError> {
        self.ready()?;
        if core::mem::replace(&mut self.duties.ping, true) { Err(CommandError::Busy) } else { Ok(()) }
    }

    /// Changes the keys: [`Event::Rekeyed`] follows. `salt` is 32 fresh random bytes. What the server sent before it read the
    /// REKEY cannot be opened any more and ends the connection, so call this only while the server is silent; reconnecting
    /// gives new keys as well and is the better way (WIRE.md section 9).
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn rekey(&mut self, salt: Secret<32>) -> Result<(), CommandError> {
        self.ready()?;
        if self.duties.rekey.is_some() {
            return Err(CommandError::Busy);
        }
        self.duties.rekey = Some(salt);
        Ok(())
    }

    /// Ends the session once the message under way is out; [`Event::Closed`] follows, and the driver then closes the stream.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn bye(&mut self) -> Result<(), CommandError> {
        self.ready()?;
        self.duties.bye = true;
        Ok(())
    }

    /// Writes the next frame to `out` and returns its length; the driver writes it whole. Call until `None`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let length = match &mut self.phase {
            Phase::Closed => return None,
            Phase::Live(_) => self.emit_sealed(out)?,
            _ if !core::mem::take(&mut self.step_due) => return None,
            Phase::Hello(hello) => hello.emit(out)?,
            Phase::HelloAck(ack) => ack.emit(out)?,
        };
        self.last_sent = now;
        Some(length)
    }

    /// The next event. Call until `None`.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        if let Some(event) = self.events.first() {
            return Some(event);
        }
        if self.inbox.is_full() {
            return self.inbox.poll().map(Event::Message);
        }
        self.events.last()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.handshake_deadline, self.step_deadline, self.keepalive_at()].into_iter().flatten().min()
    }

    /// Whether the session is open for [`send`](Self::send).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.ready().is_ok()
    }

    /// Whether the connection is over, and the stream is to be closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The session's name, once it is open.
    #[must_use]
    pub const fn session_id(&self) -> Option<SessionId> {
        match &self.phase {
            Phase::Live(session) => Some(session.session_id()),
            _ => None,
        }
    }

    fn close(&mut self, reason: CloseReason) {
        if let Some(id) = self.outbox.abandon() {
            self.events.outcome = Some(Outcome::Failed(id));
        }
        self.phase = Phase::Closed;
        self.duties = Duties::default();
        self.handshake_deadline = None;
        self.step_deadline = None;
        self.events.closed = Some(reason);
    }

    /// Takes what is missing of the current frame and acts on it when it is whole; returns the rest.
    fn fill<'a>(&mut self, now: Instant, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = match self.partial.get(..self.filled).map(decode_stream) {
            Some(Ok(StreamDecode::NeedMore(total))) => total.saturating_sub(self.filled),
            _ => return self.fail(ProtocolError::UnexpectedType),
        };
        let (taken, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
        let end = self.filled.saturating_add(taken.len());
        let Some(space) = self.partial.get_mut(self.filled..end) else {
            return self.fail(ProtocolError::UnexpectedType);
        };
        space.copy_from_slice(taken);
        self.filled = end;
        match self.partial.get(..end).map(decode_stream) {
            Some(Ok(StreamDecode::Frame(_))) => {
                self.filled = 0;
                let mut frame = self.partial;
                if let Err(error) = frame.get_mut(..end).map_or(Ok(()), |frame| self.handle_frame(now, frame))
                {
                    self.fail(error);
                }
            }
            Some(Err(error)) => return self.fail(ProtocolError::Frame(error)),
            _ => {}
        }
        rest
    }

    fn fail<'a>(&mut self, error: ProtocolError) -> &'a [u8] {
        self.close(CloseReason::Protocol(error));
        &[]
    }

    fn handle_frame(&mut self, now: Instant, bytes: &mut [u8]) -> Result<(), ProtocolError> {
        match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => Ok(()),
            Phase::Live(session) => self.handle_sealed(session, bytes),
            step => {
                let frame = Frame::parse(bytes).map_err(ProtocolError::Frame)?;
                self.handle_handshake(now, step, &frame)
            }
        }
    }

    /// Takes the phase by value: whatever is wrong leaves the connection closed.
    fn handle_handshake(
        &mut self,
        now: Instant,
        step: Phase<P>,
        frame: &Frame<'_>,
    ) -> Result<(), ProtocolError> {
        match (step, frame.header().frame_type) {
            (Phase::Hello(mut hello), FrameType::HelloRetry) if !hello.has_cookie() => {
                hello.handle_retry(&HelloRetry::parse(frame).map_err(protocol_error)?);
                self.phase = Phase::Hello(hello);
                self.enter_step(now);
            }
            (Phase::Hello(hello), FrameType::Challenge) => {
                let challenge = Challenge::parse(frame).map_err(protocol_error)?;
                let ack = hello.handle_challenge(&challenge).map_err(|_| ProtocolError::LowOrderPoint)?;
                self.phase = Phase::HelloAck(ack);
                self.enter_step(now);
            }
            (Phase::HelloAck(ack), FrameType::SessionOk) => {
                let ok = SessionOk::parse(frame).map_err(protocol_error)?;
                let Ok(established) = ack.handle_session_ok(&ok) else {
                    self.close(CloseReason::ServerProof);
                    return Ok(());
                };
                self.events.connected = Some(established.session_id);
                self.phase = Phase::Live(Session::new(established));
                self.handshake_deadline = None;
                self.step_deadline = None;
                self.last_sent = now;
            }
            _ => return Err(ProtocolError::UnexpectedType),
        }
        Ok(())
    }

    fn enter_step(&mut self, now: Instant) {
        self.step_due = true;
        self.step_deadline = self.config.step_timeout.map(|wait| now + wait);
    }

    /// Takes the session by value: whatever is wrong leaves the connection closed.
    fn handle_sealed(&mut self, mut session: Session<P>, frame: &mut [u8]) -> Result<(), ProtocolError> {
        let frame_type = Frame::parse(frame).map_err(ProtocolError::Frame)?.header().frame_type;
        if !frame_type.is_sealed() {
            return Err(ProtocolError::UnexpectedType);
        }
        let opened = session.open(frame).map_err(|_| ProtocolError::Authentication)?;
        if opened.seq == u32::MAX {
            self.close(CloseReason::SequenceExhausted);
            return Ok(());
        }
        if opened.seq != self.expected_seq {
            return Err(ProtocolError::Sequence);
        }
        self.expected_seq = opened.seq.saturating_add(1);
        let control = !matches!(frame_type, FrameType::Data | FrameType::DataFrag | FrameType::Bye);
        if control && self.inbox.in_message() {
            return Err(ProtocolError::InsideMessage);
        }
        match frame_type {
            FrameType::Data | FrameType::DataFrag => self
                .inbox
                .take(opened.seq, frame_type == FrameType::Data, opened.plaintext)
                .map_err(|_| ProtocolError::MessageTooLong)?,
            FrameType::Ping => {
                // Owing more PONGs than the server may have asked for in a second changes nothing for it.
                self.duties.owe_pong();
            }
            FrameType::Bye => {
                self.close(CloseReason::ByeReceived);
                return Ok(());
            }
            FrameType::Rekey => {
                let salt = <&[u8; 32]>::try_from(&*opened.plaintext).map_err(|_| ProtocolError::Length)?;
                let keys = session.keys_after(Role::Server, salt);
                session.switch(keys, FirstSeq::Zero);
                self.start_epoch();
            }
            _ => {}
        }
        self.phase = Phase::Live(session);
        Ok(())
    }

    fn start_epoch(&mut self) {
        self.expected_seq = 0;
        self.outbox.restart();
        self.events.rekeyed = true;
    }

    /// Seals and writes the next frame, if there is one. Nothing comes between the frames of a message.
    fn emit_sealed(&mut self, out: &mut [u8]) -> Option<usize> {
        let Phase::Live(session) = &mut self.phase else { return None };
        let chunk = self.outbox.chunk();
        let (frame_type, plaintext): (FrameType, &[u8]) = match chunk {
            Some(chunk) if self.outbox.in_message() => chunk,
            _ if self.duties.pongs > 0 => (FrameType::Pong, &[]),
            _ if self.duties.ping => (FrameType::Ping, &[]),
            _ if self.duties.rekey.is_some() => (FrameType::Rekey, self.duties.rekey.as_ref()?.expose()),
            Some(chunk) => chunk,
            None if self.duties.bye => (FrameType::Bye, &[]),
            None => return None,
        };
        let Some(seq) = session.take_seq() else {
            self.close(CloseReason::SequenceExhausted);
            return None;
        };
        let length = session.seal(frame_type, seq, plaintext, out)?;
        match frame_type {
            FrameType::Data | FrameType::DataFrag => {
                if let Some(id) = self.outbox.advance() {
                    self.events.outcome = Some(Outcome::Sent(id));
                }
            }
            FrameType::Pong => self.duties.pongs = self.duties.pongs.saturating_sub(1),
            FrameType::Ping => self.duties.ping = false,
            FrameType::Rekey => {
                // The initiator switches right after writing (WIRE.md section 9).
                let salt = self.duties.rekey.take()?;
                let keys = session.keys_after(Role::Device, salt.expose());
                session.switch(keys, FirstSeq::Zero);
                self.start_epoch();
            }
            _ => self.close(CloseReason::Bye),
        }
        Some(length)
    }

    fn keepalive_at(&self) -> Option<Instant> {
        let idle = !self.duties.ping && self.outbox.is_empty();
        if idle && self.ready().is_ok() {
            self.config.keepalive.map(|wait| self.last_sent + wait)
        } else {
            None
        }
    }

    const fn ready(&self) -> Result<(), CommandError> {
        match self.phase {
            Phase::Live(_) if self.duties.bye => Err(CommandError::Closed),
            Phase::Live(_) => Ok(()),
            Phase::Closed => Err(CommandError::Closed),
            Phase::Hello(_) | Phase::HelloAck(_) => Err(CommandError::NotConnected),
        }
    }
}

impl<P: Provider, const TX: usize, const RX: usize> fmt::Debug for TcpDevice<P, TX, RX> {
    /// Shows the state and neither keys nor messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Hello(_) => "Hello",
            Phase::HelloAck(_) => "HelloAck",
            Phase::Live(_) => "Live",
            Phase::Closed => "Closed",
        };
        f.debug_struct("TcpDevice").field("phase", &phase).finish_non_exhaustive()
    }
}

const fn protocol_error(error: HandshakeError) -> ProtocolError {
    match error {
        HandshakeError::Type => ProtocolError::UnexpectedType,
        HandshakeError::Length => ProtocolError::Length,
    }
}
