use core::fmt;

use super::{CHALLENGE_FRAME, Challenged, Proof, SESSION_OK_FRAME, WrongState};
use crate::crypto::{LowOrderPoint, Provider};
use crate::server::session::{SessionKeysFor, TcpSession};
use crate::server::timers::later;
use crate::server::{DropReason, HandshakeConfig, SessionConfig};
use crate::wire::{Frame, Hello, HelloAck, StreamDecode, decode_stream};
use crate::{DeviceId, Instant, Secret, SessionId};

/// What the start of the driver's buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpHandshakeStep {
    /// Read until the buffer holds this many bytes.
    NeedMore(usize),
    /// Drop `consumed` bytes, find the device's keys, and call [`challenge`](TcpHandshake::challenge).
    Hello {
        /// Bytes of the frame.
        consumed: usize,
        /// Who wants a session.
        hello: Hello,
    },
    /// Drop `consumed` bytes and call [`verify`](TcpHandshake::verify).
    HelloAck {
        /// Bytes of the frame.
        consumed: usize,
        /// What it must prove.
        ack: HelloAck,
    },
}

enum State<P: Provider> {
    AwaitHello,
    /// The driver looks for keys.
    Greeted(Hello),
    AwaitAck(Challenged<P>),
}

/// A handshake over TCP (WIRE.md sections 5 and 10). Any error: close without sending.
pub struct TcpHandshake<P: Provider> {
    state: State<P>,
    /// For all of it.
    deadline: Instant,
    /// For the step that the peer owes.
    step: Instant,
    config: HandshakeConfig,
}

impl<P: Provider> TcpHandshake<P> {
    /// A connection was accepted.
    #[must_use]
    pub fn new(now: Instant, config: &HandshakeConfig) -> Self {
        Self {
            state: State::AwaitHello,
            deadline: later(now, config.timeout),
            step: later(now, config.step_timeout),
            config: *config,
        }
    }

    /// Reads one frame from the start of `buffer`.
    ///
    /// # Errors
    ///
    /// [`DropReason`]: close the connection.
    pub fn receive(&mut self, buffer: &[u8]) -> Result<TcpHandshakeStep, DropReason> {
        let consumed = match decode_stream(buffer)? {
            StreamDecode::NeedMore(bytes) => return Ok(TcpHandshakeStep::NeedMore(bytes)),
            StreamDecode::Frame(bytes) => bytes,
        };
        let frame = Frame::parse(buffer.get(..consumed).ok_or(DropReason::TooShort)?)?;
        match &self.state {
            State::AwaitHello => {
                // 54 bytes are legal here too; the cookie in them means nothing.
                let hello = Hello::parse(&frame)?;
                self.state = State::Greeted(hello);
                Ok(TcpHandshakeStep::Hello { consumed, hello })
            }
            State::Greeted(_) => Err(DropReason::UnexpectedType),
            State::AwaitAck(_) => Ok(TcpHandshakeStep::HelloAck { consumed, ack: HelloAck::parse(&frame)? }),
        }
    }

    /// Who the device says it is, once HELLO came.
    #[must_use]
    pub const fn device_id(&self) -> Option<DeviceId> {
        match &self.state {
            State::AwaitHello => None,
            State::Greeted(hello) => Some(hello.device_id),
            State::AwaitAck(challenged) => Some(challenged.device_id),
        }
    }

    /// Makes the key pair from fresh random bytes and writes CHALLENGE, 76 bytes, to `out`. Also for an unknown device.
    ///
    /// # Errors
    ///
    /// [`WrongState`] when no HELLO waits, or `out` is too small.
    pub fn challenge(
        &mut self,
        now: Instant,
        private: Secret<32>,
        nonce: [u8; 32],
        out: &mut [u8],
    ) -> Result<usize, WrongState> {
        let State::Greeted(hello) = &self.state else { return Err(WrongState) };
        let out = out.get_mut(..CHALLENGE_FRAME).ok_or(WrongState)?;
        let challenged = Challenged::new(hello, &private, nonce);
        let length = challenged.challenge(out).ok_or(WrongState)?;
        self.state = State::AwaitAck(challenged);
        self.step = later(now, self.config.step_timeout);
        Ok(length)
    }

    /// Whether HELLO_ACK proves one of the keys, up to [`MAX_PSKS`](crate::server::MAX_PSKS); for an unknown device the driver gives one
    /// random key. `None`: close the connection.
    #[must_use]
    pub fn verify<'k>(&self, ack: &HelloAck, psks: &[&'k [u8]]) -> Option<Proof<'k>> {
        match &self.state {
            State::AwaitAck(challenged) => challenged.verify(ack, psks),
            _ => None,
        }
    }

    /// Makes the exchange and the session, and writes SESSION_OK, 60 bytes, to `out`.
    ///
    /// # Errors
    ///
    /// [`LowOrderPoint`] when the device's public key is one of the bad ones, or the call does not fit the state: close.
    pub fn accept(
        self,
        now: Instant,
        proof: Proof<'_>,
        session_id: SessionId,
        config: &SessionConfig,
        out: &mut [u8; SESSION_OK_FRAME],
    ) -> Result<TcpSession<P>, LowOrderPoint> {
        let State::AwaitAck(challenged) = self.state else { return Err(LowOrderPoint) };
        let (keys, session_ok) = challenged.accept(&proof, session_id)?;
        session_ok.emit(0, out).map_err(|_| LowOrderPoint)?;
        Ok(TcpSession::new(now, SessionKeysFor { keys, session_id }, config))
    }

    /// Whether time is up: for the step that the peer owes, or for the whole. Close then.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.poll_timeout()
    }

    /// When time is up. While the driver looks for keys only the whole counts.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        match &self.state {
            State::Greeted(_) => self.deadline,
            State::AwaitHello | State::AwaitAck(_) => self.deadline.min(self.step),
        }
    }
}

impl<P: Provider> fmt::Debug for TcpHandshake<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::AwaitHello => "await hello",
            State::Greeted(_) => "greeted",
            State::AwaitAck(_) => "await ack",
        };
        f.debug_struct("TcpHandshake").field("state", &state).finish_non_exhaustive()
    }
}
