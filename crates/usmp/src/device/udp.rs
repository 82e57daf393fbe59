use core::fmt;

use super::config::{Config, Exhaustion, Psk};
use super::event::{CloseReason, CommandError, DropReason, Event, Events, MessageId, Outcome, SendError};
use super::handshake::{AwaitChallenge, AwaitSessionOk};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::session::{Duties, Session};
use super::utacks::Utacks;
use crate::crypto::Provider;
use crate::time::{Duration, Instant};
use crate::wire::{FrameType, MAX_FRAME, MAX_MESSAGE};
use crate::{DeviceId, ReplayWindow, Rto, Secret, SessionId};

/// Transmissions of one frame, the first included (WIRE.md section 11.3).
const TRANSMISSIONS: u8 = 5;

/// How long after the end the server's repetitions are still acknowledged (WIRE.md section 12, rule 13), and how long the key
/// of the last REKEY of the server is kept for the same (section 9).
pub(super) const LINGER: Duration = Duration::from_secs(15);

/// One connection of a device over UDP. The module's documentation shows the order of calls.
///
/// Each frame is sent until its UTACK comes, five times at most, one frame at a time. Frames of the server are taken within a
/// window of 64 sequence numbers and acknowledged after authentication, never before.
pub struct UdpDevice<P: Provider, const TX: usize = MAX_MESSAGE, const RX: usize = MAX_MESSAGE> {
    pub(super) config: Config,
    pub(super) phase: Phase<P>,
    pub(super) flight: Option<Flight>,
    pub(super) rto: Rto,
    pub(super) window: ReplayWindow,
    pub(super) duties: Duties,
    pub(super) utacks: Utacks,
    pub(super) events: Events,
    /// The server's last REKEY, whose repetitions are acknowledged under the key before it.
    pub(super) answered_rekey: Option<AnsweredRekey>,
    /// Whether a SESSION_OK with a wrong proof came.
    pub(super) wrong_proof: bool,
    last_sent: Instant,
    handshake_deadline: Option<Instant>,
    step_deadline: Option<Instant>,
    hello_again: Option<Instant>,
    /// The session is over and only acknowledges repetitions, until then.
    pub(super) lingers_until: Option<Instant>,
    pub(super) outbox: Outbox<TX>,
    pub(super) inbox: Inbox<RX>,
}

pub(super) enum Phase<P: Provider> {
    Hello(AwaitChallenge<P>),
    HelloAck(AwaitSessionOk<P>),
    Live(Session<P>),
    Closed,
}

/// The one frame that waits for its UTACK. Its bytes are not kept: the same arguments give the same bytes again.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) frame_type: FrameType,
    pub(super) seq: u32,
    /// Transmissions so far.
    pub(super) sent: u8,
    pub(super) last_sent: Instant,
    /// When to send again; `None`: at once.
    due: Option<Instant>,
}

impl Flight {
    pub(super) const fn new(frame_type: FrameType, seq: u32) -> Self {
        Self { frame_type, seq, sent: 0, last_sent: Instant::ZERO, due: None }
    }
}

/// What is needed to acknowledge the server's last REKEY once more.
#[derive(Debug)]
pub(super) struct AnsweredRekey {
    pub(super) old_key: Secret<32>,
    pub(super) seq: u32,
    pub(super) until: Instant,
}

impl<P: Provider, const TX: usize, const RX: usize> UdpDevice<P, TX, RX> {
    /// Starts the handshake. `private_key` is 32 fresh bytes of a cryptographic random generator, for this connection only.
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
            flight: Some(Flight::new(FrameType::Hello, hello.seq())),
            phase: Phase::Hello(hello),
            rto: Rto::new(),
            window: ReplayWindow::new(),
            duties: Duties::default(),
            utacks: Utacks::default(),
            events: Events::default(),
            answered_rekey: None,
            wrong_proof: false,
            last_sent: now,
            handshake_deadline: config.handshake_timeout.map(|wait| now + wait),
            step_deadline: config.step_timeout.map(|wait| now + wait),
            hello_again: None,
            lingers_until: None,
            outbox: Outbox::new(),
            inbox: Inbox::new(),
            config,
        }
    }

    /// Notes that time has passed. Early and extra calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let past = |point: Option<Instant>| point.is_some_and(|point| point <= now);
        if past(self.lingers_until) {
            self.lingers_until = None;
            self.phase = Phase::Closed;
        }
        if self.answered_rekey.as_ref().is_some_and(|rekey| rekey.until <= now) {
            self.answered_rekey = None;
        }
        if past(self.handshake_deadline) || past(self.step_deadline) {
            let reason =
                if self.wrong_proof { CloseReason::ServerProof } else { CloseReason::HandshakeTimeout };
            self.close(now, reason);
        }
        if let Some(flight) = &mut self.flight
            && past(flight.due)
        {
            if flight.sent < TRANSMISSIONS {
                flight.due = None;
            } else {
                self.exhausted(now);
            }
        }
        if past(self.hello_again)
            && let Phase::Hello(hello) = &self.phase
        {
            self.hello_again = None;
            self.flight = Some(Flight::new(FrameType::Hello, hello.seq()));
        }
        if past(self.keepalive_at()) {
            self.duties.ping = true;
        }
    }

    /// Takes a message of up to `TX` and at most 1808 bytes; [`Event::Delivered`] or [`Event::Failed`] tells its outcome.
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

    /// Sends a PING. Its PONG is not told; an answer that stays away shows as [`CloseReason::Unacknowledged`].
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn ping(&mut self) -> Result<(), CommandError> {
        self.ready()?;
        if core::mem::replace(&mut self.duties.ping, true) { Err(CommandError::Busy) } else { Ok(()) }
    }

    /// Changes the keys: [`Event::Rekeyed`] follows. `salt` is 32 fresh random bytes. Servers before release 1.2.0 take the
    /// frame for garbage; reconnecting gives new keys with every release and is the better way (WIRE.md section 9).
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

    /// Ends the session once the message under way is done; [`Event::Closed`] follows.
    ///
    /// # Errors
    ///
    /// [`CommandError`].
    pub fn bye(&mut self) -> Result<(), CommandError> {
        self.ready()?;
        self.duties.bye = true;
        Ok(())
    }

    /// Writes the next datagram to `out` and returns its length. Call until `None`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        if let Some(utack) = self.utacks.pop() {
            out.get_mut(..utack.len())?.copy_from_slice(&utack);
            return Some(utack.len());
        }
        if self.flight.is_none() {
            self.flight = self.next_flight(now);
        }
        let length = self.emit(out)?;
        let flight = self.flight.as_mut()?;
        flight.due = Some(now + self.config.retransmission.after(&self.rto, flight.sent));
        flight.sent = flight.sent.saturating_add(1);
        flight.last_sent = now;
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
        [
            self.lingers_until,
            self.answered_rekey.as_ref().map(|rekey| rekey.until),
            self.handshake_deadline,
            self.step_deadline,
            self.flight.as_ref().and_then(|flight| flight.due),
            self.hello_again,
            self.keepalive_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the session is open for [`send`](Self::send).
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.ready().is_ok()
    }

    /// Whether the connection is over. Up to 15 s longer it acknowledges what the server repeats; a driver that has the time
    /// goes on until [`poll_timeout`](Self::poll_timeout) is `None`.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed) || self.lingers_until.is_some()
    }

    /// Whether a frame waits for its UTACK.
    #[must_use]
    pub const fn awaits_utack(&self) -> bool {
        self.flight.is_some()
    }

    /// The session's name, once it is open.
    #[must_use]
    pub const fn session_id(&self) -> Option<SessionId> {
        match &self.phase {
            Phase::Live(session) => Some(session.session_id()),
            _ => None,
        }
    }

    /// Which of the server's sequence numbers were taken.
    #[must_use]
    pub const fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// Ends the connection and tells it once.
    pub(super) fn close(&mut self, now: Instant, reason: CloseReason) {
        if let Some(id) = self.outbox.abandon() {
            self.events.outcome = Some(Outcome::Failed(id));
        }
        self.flight = None;
        self.duties = Duties::default();
        self.handshake_deadline = None;
        self.step_deadline = None;
        self.hello_again = None;
        self.answered_rekey = None;
        if matches!(reason, CloseReason::ByeReceived) {
            self.lingers_until = Some(now + LINGER);
        } else {
            self.phase = Phase::Closed;
        }
        self.events.closed = Some(reason);
    }

    /// Enters the next step of the handshake, whose frame goes out at once.
    pub(super) fn enter_step(&mut self, now: Instant, frame_type: FrameType, seq: u32) {
        self.flight = Some(Flight::new(frame_type, seq));
        self.hello_again = None;
        self.step_deadline = self.config.step_timeout.map(|wait| now + wait);
    }

    pub(super) fn enter_session(&mut self, now: Instant, session: Session<P>) {
        self.events.connected = Some(session.session_id());
        self.phase = Phase::Live(session);
        self.flight = None;
        self.hello_again = None;
        self.handshake_deadline = None;
        self.step_deadline = None;
        self.last_sent = now;
    }

    /// Notes that the frame in flight arrived.
    pub(super) fn acknowledged(&mut self, now: Instant, frame_type: FrameType) {
        self.flight = None;
        match frame_type {
            FrameType::Hello => self.hello_again = self.config.hello_repeat.map(|wait| now + wait),
            FrameType::Data | FrameType::DataFrag => {
                if let Some(id) = self.outbox.advance() {
                    self.events.outcome = Some(Outcome::Delivered(id));
                }
            }
            FrameType::Ping => self.duties.ping = false,
            FrameType::Pong => self.duties.pongs = self.duties.pongs.saturating_sub(1),
            FrameType::Rekey => self.finish_rekey(),
            FrameType::Bye => self.close(now, CloseReason::Bye),
            _ => {}
        }
    }

    /// Gives up the frame in flight.
    fn exhausted(&mut self, now: Instant) {
        let Some(flight) = self.flight.take() else { return };
        let ends = matches!(self.config.exhaustion, Exhaustion::CloseSession);
        match flight.frame_type {
            FrameType::Hello => self.close(now, CloseReason::Unreachable),
            FrameType::HelloAck => {
                let reason =
                    if self.wrong_proof { CloseReason::ServerProof } else { CloseReason::NotAccepted };
                self.close(now, reason);
            }
            FrameType::Bye => self.close(now, CloseReason::ByeUnacknowledged),
            FrameType::Data | FrameType::DataFrag if !ends => {
                // A PING between the broken message and the next one, so that no receiver joins the two (WIRE.md section 13,
                // item 13); unlike a gap it costs nothing at a Python server.
                self.duties.ping |= self.outbox.in_message() || flight.frame_type == FrameType::DataFrag;
                self.events.outcome = self.outbox.abandon().map(Outcome::Failed);
            }
            FrameType::Ping if !ends => self.duties.ping = false,
            FrameType::Pong if !ends => self.duties.pongs = self.duties.pongs.saturating_sub(1),
            _ => self.close(now, CloseReason::Unacknowledged),
        }
    }

    /// The next frame to send, its sequence number burnt (WIRE.md section 7). Nothing comes between the frames of a message.
    fn next_flight(&mut self, now: Instant) -> Option<Flight> {
        if self.lingers_until.is_some() {
            return None;
        }
        let Phase::Live(session) = &mut self.phase else { return None };
        let frame_type = match self.outbox.chunk() {
            Some((frame_type, _)) if self.outbox.in_message() => frame_type,
            _ if self.duties.pongs > 0 => FrameType::Pong,
            _ if self.duties.ping => FrameType::Ping,
            _ if self.duties.rekey.is_some() => FrameType::Rekey,
            Some((frame_type, _)) => frame_type,
            None if self.duties.bye => FrameType::Bye,
            None => return None,
        };
        let Some(seq) = session.take_seq() else {
            self.close(now, CloseReason::SequenceExhausted);
            return None;
        };
        Some(Flight::new(frame_type, seq))
    }

    /// Writes the frame in flight if it is due.
    fn emit(&self, out: &mut [u8]) -> Option<usize> {
        let flight = self.flight.as_ref().filter(|flight| flight.due.is_none())?;
        match &self.phase {
            Phase::Hello(hello) => hello.emit(out),
            Phase::HelloAck(ack) => ack.emit(out),
            Phase::Live(session) => {
                let plaintext: &[u8] = match flight.frame_type {
                    FrameType::Data | FrameType::DataFrag => self.outbox.chunk()?.1,
                    FrameType::Rekey => self.duties.rekey.as_ref()?.expose(),
                    _ => &[],
                };
                session.seal(flight.frame_type, flight.seq, plaintext, out)
            }
            Phase::Closed => None,
        }
    }

    fn keepalive_at(&self) -> Option<Instant> {
        let idle = self.flight.is_none() && !self.duties.ping && self.outbox.is_empty();
        if idle && self.ready().is_ok() {
            self.config.keepalive.map(|wait| self.last_sent + wait)
        } else {
            None
        }
    }

    const fn ready(&self) -> Result<(), CommandError> {
        match self.phase {
            Phase::Live(_) if self.lingers_until.is_some() || self.duties.bye => Err(CommandError::Closed),
            Phase::Live(_) => Ok(()),
            Phase::Closed => Err(CommandError::Closed),
            Phase::Hello(_) | Phase::HelloAck(_) => Err(CommandError::NotConnected),
        }
    }
}

impl<P: Provider, const TX: usize, const RX: usize> fmt::Debug for UdpDevice<P, TX, RX> {
    /// Shows the state and neither keys nor messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Hello(_) => "Hello",
            Phase::HelloAck(_) => "HelloAck",
            Phase::Live(_) => "Live",
            Phase::Closed => "Closed",
        };
        f.debug_struct("UdpDevice")
            .field("phase", &phase)
            .field("flight", &self.flight)
            .finish_non_exhaustive()
    }
}

/// What handling a datagram comes to.
pub(super) type Handled = Result<(), DropReason>;
