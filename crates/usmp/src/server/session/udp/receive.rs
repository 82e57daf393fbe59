//! What a datagram does to a session (WIRE.md section 12.2, item 4).

use super::route::Heard;
use super::{Acknowledged, Received, UdpSession, event};
use crate::crypto::Provider;
use crate::server::session::commit::{CommitToken, Known};
use crate::server::session::downlink::Kind;
use crate::server::session::liveness::Control;
use crate::server::session::rekey::RekeyMemory;
use crate::server::{CloseReason, DropReason, FragmentAck, MessagePool, RekeyCommit};
use crate::wire::{FrameType, HEADER, Header, Utack};
use crate::{Instant, Opened, Role, Secret, open_frame, rekey};

impl<P: Provider, A: Copy + Eq> UdpSession<P, A> {
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
        let message = matches!(frame_type, FrameType::Data | FrameType::DataFrag);
        let deferred = match frame_type {
            FrameType::Data => true,
            FrameType::DataFrag => self.fragment_ack == FragmentAck::Deferred,
            FrameType::Rekey => self.rekey_commit == RekeyCommit::Deferred,
            _ => false,
        };
        match known {
            Known::Stale => return Err(DropReason::Stale),
            // The number is that of a control frame. Old C releases use a number again after a failed send (WIRE.md, W23); to
            // acknowledge the message would be a lie.
            Known::Again if deferred && self.commits.committed() != Some(seq) => {
                return Err(DropReason::Stale);
            }
            Known::New if self.memory.pending().is_some() => return Err(DropReason::RekeyPending),
            Known::New if message && self.commits.is_interrupted_at(seq) => {
                return Err(DropReason::Interrupted);
            }
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
                if self.route.heard_again(from) {
                    self.probe();
                }
                return Ok(self.acknowledge(frame_type, seq, Acknowledged::Duplicate));
            }
        }
        if seq == u32::MAX && frame_type != FrameType::Bye {
            self.close(CloseReason::SequenceExhausted);
            return Err(DropReason::SequenceExhausted);
        }

        if self.commits.is_pending_before(seq) {
            // A device sends the next frame of a message after the UTACK of the one before. Without it, it has given that message up.
            self.reassembly.reset();
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
                self.drop_partial(pool);
                self.follow_rekey(now, from, seq, plaintext, fingerprint)
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
            if self.route.is_replayable() {
                // They may be old copies, which are nobody's fault here.
                return Err(DropReason::ControlFlood);
            }
            self.close(CloseReason::ControlFlood);
            return Err(DropReason::ControlFlood);
        }
        if frame_type == FrameType::Pong {
            self.live.pong();
            self.downlink.pong(!self.route.is_replayable());
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

    fn follow_rekey(
        &mut self,
        now: Instant,
        from: A,
        seq: u32,
        salt: &[u8],
        hash: [u8; 8],
    ) -> Result<Received<'static>, DropReason> {
        let collides = self.memory.salt().is_some();
        let salt: Result<&[u8; 32], _> = salt.try_into();
        let (Ok(salt), false) = (salt, collides) else {
            self.commits.take_silently(seq);
            self.took(now, from);
            if collides {
                self.close(CloseReason::Rekey);
                return Err(DropReason::RekeyCollision);
            }
            return Err(DropReason::RekeyLength);
        };
        if self.rekey_commit == RekeyCommit::Deferred {
            self.commits.take_pending(seq, false, true);
            self.took(now, from);
            self.memory = RekeyMemory::Pending {
                salt: Secret::new(*salt),
                hash,
                seq,
                begun_by: self.memory.begun_by(),
            };
            return Ok(Received::Rekey { token: self.token(seq) });
        }
        self.took(now, from);
        let new = rekey::<P>(&self.keys, Role::Device, salt, self.session_id);
        Ok(Received::Acknowledge { utack: self.switch(now, new, hash, seq), what: Acknowledged::Rekey })
    }

    fn acknowledge(&self, frame_type: FrameType, seq: u32, what: Acknowledged) -> Received<'static> {
        Received::Acknowledge { utack: Utack::sealed::<P>(&self.keys.c2s, frame_type, seq).emit(), what }
    }

    const fn token(&self, seq: u32) -> CommitToken {
        CommitToken { epoch: self.epoch, seq }
    }

    /// Has a PING sent to the address that may be the device's.
    const fn probe(&mut self) {
        if self.live.may_ping() {
            self.downlink.want(Kind::Probe);
        }
    }

    /// A new authentic frame was taken.
    fn took(&mut self, now: Instant, from: A) {
        self.live.heard(now);
        if self.live.establish() {
            self.events |= event::ESTABLISHED;
        }
        match self.route.heard(from) {
            Heard::Home => self.downlink.drop_probe(),
            Heard::NewCandidate => {
                self.downlink.drop_probe();
                self.probe();
            }
            Heard::SameCandidate if self.downlink.is_probing() => {}
            Heard::SameCandidate => self.probe(),
            Heard::Moved => {
                self.downlink.drop_probe();
                self.events |= event::MOVED;
            }
        }
    }
}
