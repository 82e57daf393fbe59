//! What a [`UdpDevice`] does with datagrams.

use super::event::{CloseReason, DropReason};
use super::handshake::AwaitSessionOk;
use super::session::{FirstSeq, Session};
use super::udp::{AnsweredRekey, Handled, LINGER, Phase, UdpDevice};
use crate::crypto::Provider;
use crate::keys::Role;
use crate::seal::Opened;
use crate::time::Instant;
use crate::wire::{
    Challenge, Frame, FrameType, HandshakeError, Header, HelloRetry, MAX_FRAME, SEAL_OVERHEAD, SessionOk,
    Utack,
};
use crate::{ReplayWindow, WindowError};

/// Payload of a REKEY: a salt of 32 bytes, sealed.
const REKEY_PAYLOAD: usize = 32 + SEAL_OVERHEAD;

impl<P: Provider, const TX: usize, const RX: usize> UdpDevice<P, TX, RX> {
    /// Takes one datagram of the server, opening it in place.
    ///
    /// # Errors
    ///
    /// [`DropReason`] when it was not taken. Count it; the connection goes on as it was.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) -> Result<(), DropReason> {
        if let Some(utack) = Utack::parse(datagram) {
            return self.handle_utack(now, &utack);
        }
        let frame = Frame::parse(datagram).map_err(|_| DropReason::Frame)?;
        let header = frame.header();
        match self.phase {
            Phase::Closed => Err(DropReason::Closed),
            Phase::Hello(_) | Phase::HelloAck(_) => self.handle_handshake(now, &frame),
            Phase::Live(_) if header.frame_type.is_sealed() => self.handle_sealed(now, header, datagram),
            Phase::Live(_) => Err(self.late_handshake(header)),
        }
    }

    fn handle_utack(&mut self, now: Instant, utack: &Utack) -> Handled {
        let flight = self.flight.as_ref().filter(|flight| flight.sent > 0).ok_or(DropReason::Utack)?;
        if (flight.frame_type, flight.seq) != (utack.frame_type, utack.seq) {
            return Err(DropReason::Utack);
        }
        let frame_type = flight.frame_type;
        if frame_type.is_sealed() {
            let Phase::Live(session) = &self.phase else { return Err(DropReason::Utack) };
            if !utack.verify::<P>(session.sending_key()) {
                return Err(DropReason::Utack);
            }
            // Only a frame sent once says how long a round trip takes; the handshake gives no sample (WIRE.md section 11.3).
            if flight.sent == 1 {
                self.rto.sample(now - flight.last_sent);
            }
        }
        self.acknowledged(now, frame_type);
        Ok(())
    }

    fn handle_handshake(&mut self, now: Instant, frame: &Frame<'_>) -> Handled {
        match frame.header().frame_type {
            FrameType::HelloRetry => self.handle_retry(now, frame),
            FrameType::Challenge => self.handle_challenge(now, frame),
            FrameType::SessionOk => self.handle_session_ok(now, frame),
            _ => Err(DropReason::UnexpectedType),
        }
    }

    fn handle_retry(&mut self, now: Instant, frame: &Frame<'_>) -> Handled {
        let retry = HelloRetry::parse(frame).map_err(drop_reason)?;
        match &mut self.phase {
            Phase::Hello(hello) if !hello.has_cookie() => {
                hello.handle_retry(&retry);
                let seq = hello.seq();
                self.acknowledge_plain(frame.header());
                self.enter_step(now, FrameType::Hello, seq);
                Ok(())
            }
            _ => Err(self.late_handshake(frame.header())),
        }
    }

    fn handle_challenge(&mut self, now: Instant, frame: &Frame<'_>) -> Handled {
        let challenge = Challenge::parse(frame).map_err(drop_reason)?;
        let hello = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Hello(hello) => hello,
            other => {
                self.phase = other;
                return Err(self.late_handshake(frame.header()));
            }
        };
        match hello.handle_challenge(&challenge) {
            Ok(ack) => {
                let seq = ack.seq();
                self.phase = Phase::HelloAck(ack);
                self.acknowledge_plain(frame.header());
                self.enter_step(now, AwaitSessionOk::<P>::FRAME, seq);
                Ok(())
            }
            Err((hello, _)) => {
                self.phase = Phase::Hello(hello);
                Err(DropReason::LowOrderPoint)
            }
        }
    }

    fn handle_session_ok(&mut self, now: Instant, frame: &Frame<'_>) -> Handled {
        let ok = SessionOk::parse(frame).map_err(drop_reason)?;
        let ack = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::HelloAck(ack) => ack,
            other => {
                self.phase = other;
                return Err(DropReason::UnexpectedType);
            }
        };
        match ack.handle_session_ok(&ok) {
            Ok(established) => {
                self.acknowledge_plain(frame.header());
                self.enter_session(now, Session::new(established));
                Ok(())
            }
            Err(ack) => {
                self.phase = Phase::HelloAck(ack);
                self.wrong_proof = true;
                Err(DropReason::ServerProof)
            }
        }
    }

    /// A frame of a step of the handshake that is done: acknowledged again, otherwise ignored (WIRE.md section 11.5).
    fn late_handshake(&mut self, header: Header) -> DropReason {
        match header.frame_type {
            FrameType::HelloRetry | FrameType::Challenge | FrameType::SessionOk => {
                self.acknowledge_plain(header);
                DropReason::Duplicate
            }
            _ => DropReason::UnexpectedType,
        }
    }

    fn handle_sealed(&mut self, now: Instant, header: Header, frame: &mut [u8]) -> Handled {
        let Header { frame_type, seq, length } = header;
        if frame_type == FrameType::Rekey && usize::from(length) != REKEY_PAYLOAD {
            return Err(DropReason::Length);
        }
        if self.repeats_answered_rekey(header, frame) {
            return Err(DropReason::Duplicate);
        }
        if self.answers_our_rekey(frame) {
            self.finish_rekey();
        }
        let Phase::Live(session) = &self.phase else { return Err(DropReason::Closed) };
        // Window, then authentication, then the mark: a stranger must neither move the window nor learn more than silence.
        match self.window.check(seq) {
            Ok(()) => {}
            Err(WindowError::Duplicate) => {
                session.open(frame).map_err(|_| DropReason::Authentication)?;
                self.acknowledge(frame_type, seq);
                return Err(DropReason::Duplicate);
            }
            Err(_) => return Err(DropReason::TooOld),
        }
        if self.lingers_until.is_some() {
            return Err(DropReason::Closed);
        }
        if matches!(frame_type, FrameType::Data | FrameType::DataFrag) && self.inbox.is_full() {
            return Err(DropReason::Busy);
        }
        let opened = session.open(frame).map_err(|_| DropReason::Authentication)?;
        self.window.mark(seq);
        self.take(now, &opened)
    }

    /// Acts on an authentic frame that was not seen before.
    fn take(&mut self, now: Instant, opened: &Opened<'_>) -> Handled {
        let &Opened { frame_type, seq, ref plaintext } = opened;
        if seq == u32::MAX {
            self.close(now, CloseReason::SequenceExhausted);
            return Ok(());
        }
        self.acknowledge(frame_type, seq);
        match frame_type {
            FrameType::Data | FrameType::DataFrag => self
                .inbox
                .take(seq, frame_type == FrameType::Data, plaintext)
                .map_err(|_| DropReason::MessageTooLong),
            FrameType::Ping if !self.duties.owe_pong() => Err(DropReason::TooManyPings),
            FrameType::Bye => {
                self.close(now, CloseReason::ByeReceived);
                Ok(())
            }
            FrameType::Rekey => {
                if let Ok(salt) = <&[u8; 32]>::try_from(&**plaintext) {
                    self.answer_rekey(now, seq, salt);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Follows a REKEY of the server; its UTACK was made under the old key before.
    fn answer_rekey(&mut self, now: Instant, seq: u32, salt: &[u8; 32]) {
        if self.rekey_in_flight() {
            self.close(now, CloseReason::CrossedRekeys);
            return;
        }
        let Phase::Live(session) = &mut self.phase else { return };
        let keys = session.keys_after(Role::Server, salt);
        let old = session.switch(keys, FirstSeq::NearHighest);
        self.answered_rekey = Some(AnsweredRekey { old_key: old.s2c, seq, until: now + LINGER });
        self.start_epoch();
    }

    /// Goes on under the keys of our own REKEY, which the server has.
    pub(super) fn finish_rekey(&mut self) {
        let Phase::Live(session) = &mut self.phase else { return };
        let Some(salt) = self.duties.rekey.take() else { return };
        let keys = session.keys_after(Role::Device, salt.expose());
        session.switch(keys, FirstSeq::NearHighest);
        self.answered_rekey = None;
        self.start_epoch();
    }

    /// What was not acknowledged counts as undelivered and goes out again under the new keys (WIRE.md section 9).
    fn start_epoch(&mut self) {
        self.flight = None;
        self.outbox.restart();
        self.inbox.restart();
        self.window = ReplayWindow::new();
        self.events.rekeyed = true;
    }

    fn rekey_in_flight(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.frame_type == FrameType::Rekey && flight.sent > 0)
    }

    /// Whether a frame is the server's last REKEY again; then it is acknowledged under the key it was sealed with.
    fn repeats_answered_rekey(&mut self, header: Header, frame: &[u8]) -> bool {
        let (Some(rekey), Phase::Live(session)) = (&self.answered_rekey, &self.phase) else { return false };
        if header.frame_type != FrameType::Rekey || header.seq != rekey.seq {
            return false;
        }
        let mut copy = [0; MAX_FRAME];
        let authentic =
            copied(frame, &mut copy).is_some_and(|frame| session.open_under(&rekey.old_key, frame).is_ok());
        if authentic {
            self.utacks.push(&Utack::sealed::<P>(&rekey.old_key, header.frame_type, header.seq));
        }
        authentic
    }

    /// Whether a frame opens under the keys that our REKEY leads to and not under the current ones. It proves that the server
    /// took the REKEY, whose UTACK was lost or is late; without this the session would be dead.
    fn answers_our_rekey(&self, frame: &[u8]) -> bool {
        if !self.rekey_in_flight() {
            return false;
        }
        let (Phase::Live(session), Some(salt)) = (&self.phase, &self.duties.rekey) else { return false };
        let mut copy = [0; MAX_FRAME];
        if copied(frame, &mut copy).is_none_or(|frame| session.open(frame).is_ok()) {
            return false;
        }
        let keys = session.keys_after(Role::Device, salt.expose());
        copied(frame, &mut copy).is_some_and(|frame| session.open_under(&keys.s2c, frame).is_ok())
    }

    fn acknowledge_plain(&mut self, header: Header) {
        self.utacks.push(&Utack::plain(header.frame_type, header.seq));
    }

    fn acknowledge(&mut self, frame_type: FrameType, seq: u32) {
        if let Phase::Live(session) = &self.phase {
            self.utacks.push(&Utack::sealed::<P>(session.receiving_key(), frame_type, seq));
        }
    }
}

/// A frame in a buffer of its own, since a failed attempt to open it may change its bytes.
fn copied<'a>(frame: &[u8], buffer: &'a mut [u8; MAX_FRAME]) -> Option<&'a mut [u8]> {
    let copy = buffer.get_mut(..frame.len())?;
    copy.copy_from_slice(frame);
    Some(copy)
}

const fn drop_reason(error: HandshakeError) -> DropReason {
    match error {
        HandshakeError::Type => DropReason::UnexpectedType,
        HandshakeError::Length => DropReason::Length,
    }
}
