use core::fmt;

use subtle::ConstantTimeEq as _;

use super::{CHALLENGE_FRAME, Challenged, MARK, MAX_PSKS, Proof, SESSION_OK_FRAME};
use crate::crypto::{LowOrderPoint, Provider};
use crate::server::session::{SessionKeysFor, UdpSession};
use crate::server::timers::{Jitter, earliest, later};
use crate::server::{DropReason, HandshakeConfig, SessionConfig};
use crate::wire::{FrameType, Hello, HelloAck, Utack};
use crate::{DeviceId, Duration, Instant, Secret, SessionId};

/// Waits between transmissions of CHALLENGE or SESSION_OK: 0.5 s, doubled, 4 s at most.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// How long a UTACK holds back the next copy. It is not authenticated, so it must not stop the copies for good (W6).
const AFTER_UTACK: Duration = Duration::from_secs(3);

/// Most copies of one frame, whatever asks for them.
const MAX_COPIES: u8 = 12;

/// What a HELLO with a valid cookie means for an open handshake of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloOutcome {
    /// The same HELLO again: UTACK it; the same CHALLENGE goes out again.
    Duplicate,
    /// Another key pair, so the device started over: UTACK it, put a new handshake in place of this one.
    StartOver,
}

/// What a HELLO_ACK is.
#[derive(Debug)]
pub enum AckOutcome<'k> {
    /// It proves a key: UTACK it and [`accept`](UdpHandshake::accept).
    Proved(Proof<'k>),
    /// The one accepted before: UTACK it; the same SESSION_OK goes out again.
    Repeated,
}

enum State<P: Provider> {
    Challenged(Challenged<P>),
    /// SESSION_OK is made; the session lives beside this.
    Confirming {
        accepted: [u8; 32],
        session_ok: [u8; SESSION_OK_FRAME],
        /// What [`UdpHandshake::withdraw`] goes back to; gone once SESSION_OK has left.
        before: Option<Challenged<P>>,
    },
    Over,
}

/// A handshake over UDP from the cookie HELLO until the session is established (WIRE.md sections 5, 11 and 12).
///
/// It sends its one CHALLENGE, and later its one SESSION_OK, byte for byte the same, until the device's next step shows that
/// it arrived. A UTACK only makes it wait longer. The driver keeps it by the device's address and drops it when
/// [`is_over`](Self::is_over) or when the session's first authentic frame came.
pub struct UdpHandshake<P: Provider> {
    state: State<P>,
    device_id: DeviceId,
    pub_c: [u8; 32],
    deadline: Instant,
    next: Instant,
    wait: Duration,
    copies: u8,
    jitter: Jitter,
    config: HandshakeConfig,
}

impl<P: Provider> UdpHandshake<P> {
    /// Begins with a HELLO whose cookie was valid. `private` and `nonce` are fresh random bytes, `seed` spreads the retries. Makes
    /// the key pair; the expensive exchange waits for [`accept`](Self::accept).
    #[must_use]
    pub fn start(
        now: Instant,
        hello: &Hello,
        private: Secret<32>,
        nonce: [u8; 32],
        seed: u32,
        config: &HandshakeConfig,
    ) -> Self {
        Self {
            state: State::Challenged(Challenged::new(hello, &private, nonce)),
            device_id: hello.device_id,
            pub_c: hello.public_key,
            deadline: later(now, config.timeout),
            next: now,
            wait: FIRST_WAIT,
            copies: 0,
            jitter: Jitter::new(seed),
            config: *config,
        }
    }

    /// Who the device says it is.
    #[must_use]
    pub const fn device_id(&self) -> DeviceId {
        self.device_id
    }

    /// Whether SESSION_OK has been made, so that a session lives beside this.
    #[must_use]
    pub const fn is_confirming(&self) -> bool {
        matches!(self.state, State::Confirming { .. })
    }

    /// Another HELLO with a valid cookie from the same address. The caller UTACKs it in either case.
    pub fn handle_hello(&mut self, now: Instant, hello: &Hello) -> HelloOutcome {
        if hello.public_key != self.pub_c || hello.device_id != self.device_id {
            return HelloOutcome::StartOver;
        }
        // With SESSION_OK out the device has the CHALLENGE, and the repeat is an old copy.
        if matches!(self.state, State::Challenged(_)) {
            self.next = now;
        }
        HelloOutcome::Duplicate
    }

    /// A HELLO_ACK from this address. `psks` are the device's valid keys, up to [`MAX_PSKS`](crate::server::MAX_PSKS); for an unknown
    /// device the driver gives one random key, so that both take the same way and time.
    ///
    /// # Errors
    ///
    /// [`DropReason::WrongProof`] when it fits none: no UTACK, no change, the right one may still come (W7).
    pub fn handle_hello_ack<'k>(
        &mut self,
        now: Instant,
        ack: &HelloAck,
        psks: &[&'k [u8]],
    ) -> Result<AckOutcome<'k>, DropReason> {
        match &self.state {
            State::Challenged(_) => {
                self.verify(ack, psks).map(AckOutcome::Proved).ok_or(DropReason::WrongProof)
            }
            State::Confirming { accepted, .. } => {
                if bool::from(accepted.ct_eq(&ack.mac)) {
                    self.next = now;
                    Ok(AckOutcome::Repeated)
                } else {
                    Err(DropReason::WrongProof)
                }
            }
            State::Over => Err(DropReason::Closed),
        }
    }

    /// Whether a HELLO_ACK proves one of the keys. Changes nothing.
    #[must_use]
    pub fn verify<'k>(&self, ack: &HelloAck, psks: &[&'k [u8]]) -> Option<Proof<'k>> {
        match &self.state {
            State::Challenged(challenged) => challenged.verify(ack, psks),
            _ => None,
        }
    }

    /// The first bytes of the HELLO_ACK's proof that each key would give, in the order of the keys. By them a driver that serves many
    /// devices finds the handshake of a HELLO_ACK that came from another address than its HELLO; they prove nothing, only
    /// [`handle_hello_ack`](Self::handle_hello_ack) does. Nothing once a proof was accepted, or the handshake is over.
    #[must_use]
    pub fn marks(&self, psks: &[&[u8]]) -> [Option<[u8; MARK]>; MAX_PSKS] {
        match &self.state {
            State::Challenged(challenged) => challenged.marks(psks),
            _ => [None; MAX_PSKS],
        }
    }

    /// Whether this is the HELLO_ACK that was accepted. Changes nothing: no copy of SESSION_OK leaves for it.
    #[must_use]
    pub fn is_accepted(&self, ack: &HelloAck) -> bool {
        match &self.state {
            State::Confirming { accepted, .. } => bool::from(accepted.ct_eq(&ack.mac)),
            _ => false,
        }
    }

    /// SESSION_OK once it has left, for a copy beside those of [`poll_transmit`](Self::poll_transmit): to another address that has
    /// shown the proof, where copies must not use up those that the device is to get.
    #[must_use]
    pub const fn session_ok(&self) -> Option<&[u8; SESSION_OK_FRAME]> {
        match &self.state {
            State::Confirming { session_ok, before: None, .. } => Some(session_ok),
            _ => None,
        }
    }

    /// Makes the exchange and the session, and has SESSION_OK sent by [`poll_transmit`](Self::poll_transmit). The session's keys are
    /// in place when this returns: the device may send before it has seen anything else. A driver that has to wait for something
    /// before the session may be, polls later, or takes it back by [`withdraw`](Self::withdraw).
    ///
    /// # Errors
    ///
    /// [`LowOrderPoint`] when the device's public key is one of the bad ones, or this is called twice; the handshake is over then.
    pub fn accept<A: Copy + Eq>(
        &mut self,
        now: Instant,
        proof: Proof<'_>,
        session_id: SessionId,
        path: A,
        config: &SessionConfig,
    ) -> Result<UdpSession<P, A>, LowOrderPoint> {
        let State::Challenged(challenged) = core::mem::replace(&mut self.state, State::Over) else {
            return Err(LowOrderPoint);
        };
        let (keys, session_ok) = challenged.accept(&proof, session_id)?;
        let mut frame = [0; SESSION_OK_FRAME];
        if session_ok.emit(0, &mut frame).is_err() {
            return Err(LowOrderPoint);
        }
        self.state = State::Confirming { accepted: proof.mac, session_ok: frame, before: Some(challenged) };
        self.deadline = later(now, self.config.timeout);
        self.next = now;
        self.wait = FIRST_WAIT;
        self.copies = 0;
        let seed = self.jitter.next();
        Ok(UdpSession::new(now, SessionKeysFor { keys, session_id }, path, seed, config))
    }

    /// No session came of the proof after all: a HELLO_ACK proves it anew, and makes another one. `false`, and nothing changes, once
    /// SESSION_OK has left: the device may hold it.
    pub fn withdraw(&mut self) -> bool {
        let State::Confirming { before, .. } = &mut self.state else { return false };
        let Some(challenged) = before.take() else { return false };
        self.state = State::Challenged(challenged);
        // Who has proved a key has the CHALLENGE; another copy leaves only if it says HELLO again.
        self.next = self.deadline;
        true
    }

    /// No further copy of CHALLENGE leaves by itself: another server seems to have done the handshake. A right HELLO_ACK proves as ever, and
    /// a repeated HELLO gets its copy.
    pub fn hold_back(&mut self) {
        if matches!(self.state, State::Challenged(_)) {
            self.next = self.deadline;
        }
    }

    /// A UTACK from this address. `Ok(true)` says that it is the first sign that SESSION_OK arrived: tell the session by
    /// [`session_ok_arrived`](UdpSession::session_ok_arrived).
    ///
    /// # Errors
    ///
    /// [`DropReason::UtackUnexpected`] when it is not for the frame that is out.
    pub fn handle_utack(&mut self, now: Instant, utack: &Utack) -> Result<bool, DropReason> {
        let (expected, confirming) = match &self.state {
            State::Challenged(_) => (FrameType::Challenge, false),
            State::Confirming { .. } => (FrameType::SessionOk, true),
            State::Over => return Err(DropReason::Closed),
        };
        if utack.frame_type != expected || utack.seq != 0 || self.copies == 0 {
            return Err(DropReason::UtackUnexpected);
        }
        self.next = self.next.max(later(now, self.jitter.spread(AFTER_UTACK)));
        Ok(confirming)
    }

    /// CHALLENGE or SESSION_OK when one is due; `out` takes 76 bytes. Call until `None`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        if now < self.next || now >= self.deadline || self.copies >= MAX_COPIES {
            return None;
        }
        let length = match &mut self.state {
            State::Challenged(challenged) => challenged.challenge(out.get_mut(..CHALLENGE_FRAME)?)?,
            State::Confirming { session_ok, before, .. } => {
                out.get_mut(..SESSION_OK_FRAME)?.copy_from_slice(session_ok);
                // The private key has done its work.
                *before = None;
                SESSION_OK_FRAME
            }
            State::Over => return None,
        };
        self.copies = self.copies.saturating_add(1);
        self.next = later(now, self.jitter.spread(self.wait));
        self.wait = self.wait.saturating_mul(2).min(LONGEST_WAIT);
        Some(length)
    }

    /// Ends the handshake when its time is up; early calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline {
            self.state = State::Over;
        }
    }

    /// Whether it ended: time is up, or the device's key was bad. The driver drops it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let copy = (self.copies < MAX_COPIES).then_some(self.next);
        if self.is_over() { None } else { earliest(Some(self.deadline), copy) }
    }
}

impl<P: Provider> fmt::Debug for UdpHandshake<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Challenged(_) => "challenged",
            State::Confirming { .. } => "confirming",
            State::Over => "over",
        };
        f.debug_struct("UdpHandshake")
            .field("device_id", &self.device_id)
            .field("state", &state)
            .field("copies", &self.copies)
            .finish_non_exhaustive()
    }
}
