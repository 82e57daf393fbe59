//! What leaves a session by itself, and what acknowledges it (WIRE.md section 12, items 11 and 12).

use super::{Transmit, UdpSession, event};
use crate::crypto::Provider;
use crate::server::session::downlink::{Allowed, Kind, Outcome, Polled};
use crate::server::session::rekey::RekeyMemory;
use crate::server::{CloseReason, DropReason, RekeyCommit, SendError};
use crate::wire::{MAX_MESSAGE, Utack};
use crate::{Instant, Role, Secret, rekey};

impl<P: Provider, A: Copy + Eq> UdpSession<P, A> {
    /// The device has its SESSION_OK, says a UTACK: messages may leave, and soon a PING if the device stays silent.
    pub fn session_ok_arrived(&mut self, now: Instant) {
        self.live.confirm(now);
    }

    /// A UTACK from the downlink address of this session, or from that which may become it.
    ///
    /// # Errors
    ///
    /// [`DropReason`] when it is not for the frame that is out, or not authentic.
    pub fn handle_utack(&mut self, now: Instant, from: A, utack: &Utack) -> Result<(), DropReason> {
        if !self.downlink.awaits(utack.frame_type, utack.seq) {
            return Err(DropReason::UtackUnexpected);
        }
        if self.downlink.awaits_probe() && !self.route.may_acknowledge_probe(from) {
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
            Some(Outcome::Step(Kind::Bye)) => self.close(self.bye_reason()),
            Some(Outcome::Step(Kind::Probe)) if self.route.probe_acknowledged(from) => {
                self.events |= event::MOVED;
            }
            Some(Outcome::Step(Kind::Rekey)) => self.switch_to_own(),
            _ => {}
        }
        Ok(())
    }

    /// Our REKEY was acknowledged.
    fn switch_to_own(&mut self) {
        let RekeyMemory::Started { salt, .. } = core::mem::replace(&mut self.memory, RekeyMemory::NOTHING)
        else {
            return;
        };
        self.keys = rekey::<P>(&self.keys, Role::Server, salt.expose(), self.session_id);
        self.new_epoch();
    }

    /// Sends a message of `length` bytes, 1808 at most. The driver lends the same bytes to every
    /// [`poll_transmit`](Self::poll_transmit) until [`SessionEvent::MessageDelivered`](super::SessionEvent) or [`SessionEvent::MessageLost`](super::SessionEvent). Prefer 452
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
    /// [`SendError::Busy`] while a message, an uncommitted message, or a REKEY of the last 15 s is in the way;
    /// [`SendError::RekeyByDeviceOnly`] under [`RekeyCommit::Deferred`].
    pub fn start_rekey(&mut self, salt: Secret<32>) -> Result<(), SendError> {
        self.may_send()?;
        if self.rekey_commit == RekeyCommit::Deferred {
            return Err(SendError::RekeyByDeviceOnly);
        }
        let idle = self.commits.pending_count() == 0 && !self.downlink.is_sending();
        if !idle || self.buffer.is_some() || !matches!(self.memory, RekeyMemory::Nothing { .. }) {
            return Err(SendError::Busy);
        }
        self.memory = RekeyMemory::Started { salt, begun_by: self.memory.begun_by() };
        self.downlink.want(Kind::Rekey);
        Ok(())
    }

    /// Sends a PING now, as far as rule 6 of WIRE.md section 12 lets it; returns whether one leaves or is out already.
    pub fn ping(&mut self) -> bool {
        let may = self.may_send().is_ok() && self.live.may_ping();
        if may && !self.downlink.is_pinging() {
            self.downlink.want(Kind::Ping);
        }
        may || self.downlink.is_pinging()
    }

    /// Says BYE; the session is closed when it is acknowledged or given up.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn say_bye(&mut self) -> Result<(), SendError> {
        self.may_send()?;
        self.downlink.want(Kind::Bye);
        Ok(())
    }

    const fn may_send(&self) -> Result<(), SendError> {
        if self.closed.is_some() {
            Err(SendError::Closed)
        } else if self.downlink.numbers().is_ending() {
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
        loop {
            let (key, salt) = (&self.keys.s2c, self.memory.salt());
            let allowed = if !self.route.is_settled() {
                self.route.candidate()?;
                Allowed::Probe
            } else if self.live.is_confirmed() {
                Allowed::All
            } else {
                Allowed::Control
            };
            match self.downlink.poll::<P>(now, key, self.session_id, salt, message, allowed, out)? {
                Polled::Frame { length, kind, first } => {
                    if first && matches!(kind, Kind::Ping | Kind::Probe) {
                        self.live.ping_sent();
                    }
                    let to = if kind == Kind::Probe { self.route.candidate() } else { None };
                    return Some(Transmit { length, to: to.unwrap_or_else(|| self.route.path()) });
                }
                // Without the message something else may be due.
                Polled::Lost => self.events |= event::LOST,
                Polled::NumbersNeeded => {
                    self.events |= event::NUMBERS;
                    return None;
                }
                Polled::Exhausted => {
                    self.close(CloseReason::SequenceExhausted);
                    return None;
                }
            }
        }
    }
}
