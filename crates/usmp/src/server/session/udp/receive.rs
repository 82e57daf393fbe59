//! What a datagram does to a session (WIRE.md section 12.2, item 4).

use super::{Acknowledged, Received, UdpSession, event};
use crate::crypto::Provider;
use crate::server::session::commit::{CommitToken, Known};
use crate::server::session::liveness::Control;
use crate::server::session::rekey::RekeyMemory;
use crate::server::{CloseReason, DropReason, FragmentAck, MessagePool};
use crate::wire::{FrameType, HEADER, Header, Utack};
use crate::{Instant, Opened, Role, SessionKeys, open_frame, rekey};

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
}
