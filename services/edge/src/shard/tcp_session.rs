//! PACKET PATH: no lock, no allocation per record, no log, no await.
//!
//! A session over TCP: the protocol's machine and what the edge does with what it gives.

use sluice_proto::events::v1::CloseReason;
use sluice_types::SessionId;
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::{DropReason, MAX_MESSAGE_WIRE, TcpReceived, TcpSession};
use usmp::wire::MAX_FRAME;

use super::core::Core;
use super::records::{Kind, Message};
use super::session::{Session, close_reason};
use super::turn::Turn;
use crate::counts::Count;
use crate::events::Change;
use crate::link::{SendError, ToFleet};
use crate::security::Named;
use crate::stream::Stream;

pub(crate) enum Outcome {
    NeedMore,
    Consumed(usize),
    /// Its first message is kept until it is the session's turn; nothing more is to be read until then.
    Kept(usize),
    /// Nothing was consumed, for no buffer is free.
    NoBuffer,
    Closed(CloseReason),
}

pub(crate) struct Live<P: Provider> {
    machine: TcpSession<P>,
    session: Session,
    looked_up: Instant,
    /// Since when nothing is read from it, until it is its turn.
    kept_since: Option<Instant>,
}

impl<P: Provider> Live<P> {
    pub(crate) const fn new(machine: TcpSession<P>, session: Session, looked_up: Instant) -> Self {
        Self { machine, session, looked_up, kept_since: None }
    }

    pub(crate) fn announce_birth(&self, core: &mut Core, at: u32) {
        core.counts.one(Count::SessionsOpenedTcp);
        let session = core.session_ref(true, at, self.session.facts.serial);
        core.fleet.tell(ToFleet::Born {
            session,
            device: self.session.facts.device,
            id: SessionId::from_bytes(self.session.id.0),
            looked_up: self.looked_up,
        });
    }

    /// Takes the frame at the start of `bytes`.
    pub(crate) fn receive(
        &mut self,
        core: &mut Core,
        at: u32,
        stream: &mut Stream,
        bytes: &mut [u8],
    ) -> Result<Outcome, DropReason> {
        let session = core.session_ref(true, at, self.session.facts.serial);
        let received = self.machine.receive(core.now, bytes, &mut core.buffers);
        let consumed = match received {
            Ok(TcpReceived::NeedMore(_)) => return Ok(Outcome::NeedMore),
            // All are lent; what was read waits until one is free.
            Err(DropReason::NoBuffer) => return Ok(Outcome::NoBuffer),
            Err(reason) => return Err(reason),
            Ok(TcpReceived::Control { consumed } | TcpReceived::Rekeyed { consumed, .. }) => consumed,
            Ok(TcpReceived::Bye { .. }) => return Ok(Outcome::Closed(CloseReason::Bye)),
            Ok(TcpReceived::Message { consumed, token, payload }) => {
                let tenant =
                    core.tenants.name(self.session.facts.tenant).map_or("", |tenant| tenant.as_str());
                let message = Message { session, token, source: None, kind: Kind::Record };
                // Room was asked for before the bytes were read.
                let (taken, count) = if self.session.facts.turn == Turn::Writes {
                    let added = core.records.message(core.wall, &self.session, tenant, message, payload);
                    (
                        added.is_ok(),
                        if added.is_ok() { Count::MessagesReceived } else { Count::DroppedBehind },
                    )
                } else {
                    let kept = core.waiting.keep(core.wall, &self.session, message, payload);
                    self.kept_since = Some(core.now);
                    (kept, if kept { Count::MessagesHeld } else { Count::DroppedHeld })
                };
                core.counts.one(count);
                // Counted when taken: the writer keeps the order, so they are committed before the session's end is told,
                // also when the device says BYE right behind its last one.
                self.session.facts.messages = self.session.facts.messages.saturating_add(u32::from(taken));
                consumed
            }
        };
        if self.machine.poll_established() {
            self.establish(core, at);
        }
        match self.transmit(core.now, stream) {
            Ok(()) if self.kept_since.is_some() => Ok(Outcome::Kept(consumed)),
            Ok(()) => Ok(Outcome::Consumed(consumed)),
            Err(()) => Ok(Outcome::Closed(CloseReason::Disconnected)),
        }
    }

    fn establish(&mut self, core: &mut Core, at: u32) {
        self.session.facts.established = true;
        core.announce(&self.session, Change::Opened);
        let session = core.session_ref(true, at, self.session.facts.serial);
        core.fleet.tell(ToFleet::Established { session, device: self.session.facts.device });
    }

    fn transmit(&mut self, now: Instant, stream: &mut Stream) -> Result<(), ()> {
        let mut frame = [0; MAX_FRAME];
        while let Some(length) = self.machine.poll_transmit(&mut frame) {
            stream.write(now, frame.get(..length).unwrap_or_default()).map_err(drop)?;
        }
        Ok(())
    }

    pub(crate) fn send(
        &mut self,
        core: &mut Core,
        stream: &mut Stream,
        payload: &[u8],
    ) -> Result<(), SendError> {
        core.counts.one(Count::DownlinkAccepted);
        // A message is never behind another one's bytes that the peer does not take.
        if !stream.is_drained() {
            return Err(SendError::Busy);
        }
        let mut frames = [0; MAX_MESSAGE_WIRE];
        match self.machine.send(payload, &mut frames) {
            Ok(length) => stream
                .write(core.now, frames.get(..length).unwrap_or_default())
                .map_err(|_| SendError::SessionEnded),
            Err(usmp::server::SendError::TooLong) => Err(SendError::TooLong),
            Err(usmp::server::SendError::Busy) => Err(SendError::Busy),
            Err(_) => Err(SendError::SessionEnded),
        }
    }

    /// Says BYE, as far as the peer takes it.
    pub(crate) fn farewell(&mut self, core: &Core, stream: &mut Stream) {
        let mut frame = [0; MAX_FRAME];
        if let Ok(length) = self.machine.say_bye(&mut frame) {
            let _closed_in_any_case = stream.write(core.now, frame.get(..length).unwrap_or_default());
        }
    }

    pub(crate) fn handle_timeout(&mut self, core: &Core, stream: &mut Stream) -> Option<CloseReason> {
        self.machine.handle_timeout(core.now);
        if let Some(reason) = self.machine.closed() {
            return Some(if self.session.facts.established {
                close_reason(reason)
            } else {
                CloseReason::NeverEstablished
            });
        }
        self.transmit(core.now, stream).err().map(|()| CloseReason::Disconnected)
    }

    /// Whether a message of it must still be kept until it is its turn.
    pub(crate) fn waits(&self) -> bool {
        self.session.facts.turn == Turn::Waits
    }

    /// Its messages are handed over from now on.
    pub(crate) fn go(&mut self, now: Instant) {
        if self.waits() {
            self.session.facts.turn = Turn::Writes;
        }
        if let Some(since) = self.kept_since.take() {
            // What it sent meanwhile lay unread because of us.
            self.pause(since);
            self.resume(now);
        }
    }

    pub(crate) const fn kept_since(&self) -> Option<Instant> {
        self.kept_since
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    pub(crate) fn pause(&mut self, since: Instant) {
        self.machine.pause(since);
    }

    pub(crate) fn resume(&mut self, now: Instant) {
        self.machine.resume(now);
    }

    pub(crate) const fn named(&self) -> Named {
        Named { device: self.session.facts.device, tenant: self.session.facts.tenant }
    }

    pub(crate) const fn discount_refused(&mut self) {
        self.session.facts.messages = self.session.facts.messages.saturating_sub(1);
    }

    /// Gives back what the session held and tells everybody.
    pub(crate) fn ended(mut self, core: &mut Core, at: u32, reason: CloseReason) {
        self.machine.release(&mut core.buffers);
        let session = core.session_ref(true, at, self.session.facts.serial);
        // A message that waits outlives its connection, for TCP has nobody who would send it again.
        if !core.waiting.holds(session) {
            core.part(session, &mut self.session.facts);
        }
        core.counts.one(Count::SessionsClosedTcp);
        core.session_ended(&self.session, at, reason);
    }
}
