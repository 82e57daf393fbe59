//! PACKET PATH: no lock, no log, no await; allocates when a connection proves itself, not per record.
//!
//! What connections say: read once per turn, acted upon frame by frame; handshakes go on when what they wait for is there.

use sluice_proto::events::v1::{SecurityReason, Transport};
use usmp::crypto::Provider;
use usmp::server::DropReason;

use super::{End, State, Tcp};
use crate::counts::Count;
use crate::link::SessionRef;
use crate::lookups::ASK_AGAIN;
use crate::proxy;
use crate::shard::core::Core;
use crate::shard::keys::Keys;
use crate::shard::tcp_handshake::{Handshake, Progress};
use crate::shard::tcp_session::Outcome;
use crate::stream::Arrived;

/// What a handshake cannot go on without.
enum WaitsFor {
    Exchange,
    LookUp,
}

impl<P: Provider> Tcp<P> {
    /// Reads once from a connection and acts upon it.
    pub(super) fn read(&mut self, core: &mut Core, at: u32) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        connection.queued = false;
        if !connection.stream.may_read() {
            return;
        }
        let count = match connection.stream.read(&mut self.scratch) {
            Ok(Arrived::Nothing) => return,
            Ok(Arrived::Bytes(count)) => count,
            Ok(Arrived::End) | Err(_) => return self.end(core, at, End::Gone),
        };
        match self.process(core, at, count) {
            Ok(()) => self.queue(at),
            Err(end) => self.end(core, at, end),
        }
    }

    /// Acts upon the first `count` bytes of the scratch buffer and keeps the incomplete rest.
    pub(super) fn process(&mut self, core: &mut Core, at: u32, count: usize) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let mut start = 0;
        while let Some(bytes) = self.scratch.get_mut(start..count).filter(|bytes| !bytes.is_empty()) {
            match &mut connection.state {
                State::Leaving(_) => break,
                State::Proxy => match proxy::decode(bytes).map_err(|_| End::Proxy)? {
                    proxy::Decode::NeedMore(_) => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    proxy::Decode::Header { length, source } => {
                        start += length;
                        if let Some(source) = source {
                            // From now on it is the device's network that may make room.
                            self.shares.leave(connection.peer.ip());
                            self.shares.enter(source.ip());
                            connection.peer = source;
                            connection.unproven = Some(source.ip());
                        }
                        core.counts.one(Count::HandshakesTcp);
                        connection.state = State::Handshake(Box::new(Handshake::new(core)));
                    }
                },
                State::Handshake(handshake) => match handshake.receive(bytes).map_err(End::Refused)? {
                    Progress::NeedMore => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    Progress::Consumed(consumed) => {
                        start += consumed;
                        self.advance(core, at)?;
                        // A device cannot know what to say next before it has our answer.
                        return if start == count {
                            Ok(())
                        } else {
                            Err(End::Refused(DropReason::UnexpectedType))
                        };
                    }
                },
                State::Live(live) => match live.receive(core, at, &mut connection.stream, bytes) {
                    Ok(Outcome::NeedMore) => {
                        connection.stream.hold(bytes);
                        break;
                    }
                    Ok(Outcome::Consumed(consumed)) => start += consumed,
                    Ok(Outcome::Kept(consumed)) => {
                        let rest = bytes.get(consumed..).unwrap_or_default();
                        if !rest.is_empty() {
                            connection.stream.hold_whole(rest);
                        }
                        connection.queued = true;
                        break;
                    }
                    Ok(Outcome::NoBuffer) => {
                        core.counts.one(Count::DroppedNoBuffer);
                        connection.stream.hold_whole(bytes);
                        connection.queued = true;
                        self.starved.push(at);
                        break;
                    }
                    Ok(Outcome::Closed(reason)) => return Err(End::Session(reason)),
                    Err(reason) => return Err(End::Refused(reason)),
                },
            }
        }
        if let Some(when) = self.connections.get(at).and_then(|connection| Self::deadline(core, connection)) {
            self.timers.ensure(at, when);
        }
        Ok(())
    }

    /// Goes on with a handshake: asks for keys, sends CHALLENGE, checks the proof, each when it can be done.
    pub(super) fn advance(&mut self, core: &mut Core, at: u32) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let State::Handshake(handshake) = &mut connection.state else { return Ok(()) };
        let (serial, peer) = (connection.serial, connection.peer);
        let mut waits = None;
        if let Some(device) = handshake.asks_keys() {
            if core.penalties.waits(core.now, peer.ip(), usmp::DeviceId(*device.as_bytes())) {
                core.counts.one(Count::DroppedPenalty);
                core.refuse(SecurityReason::RateLimited, None, Transport::Tcp);
                return Err(End::Proof);
            }
            if core.lookups.try_start(core.session_ref(true, at, serial), device) {
                handshake.asked();
            } else {
                waits = Some(WaitsFor::LookUp);
            }
        }
        if handshake.owes_challenge() {
            if core.take_exchange() {
                let frame = handshake.challenge(core).ok_or(End::Proof)?;
                connection.stream.write(core.now, &frame).map_err(|_| End::Gone)?;
            } else {
                waits = Some(WaitsFor::Exchange);
            }
        }
        if handshake.is_hopeless() {
            return Err(End::Proof);
        }
        if handshake.has_proof() {
            if core.may_exchange() {
                return self.prove(core, at);
            }
            waits = Some(WaitsFor::Exchange);
        }
        if let Some(reason) = waits
            && !std::mem::replace(&mut connection.waits, true)
        {
            match reason {
                WaitsFor::Exchange => self.waiting.push_back((at, serial)),
                WaitsFor::LookUp => {
                    self.unasked.push_back((at, serial));
                    self.ask_again.get_or_insert(core.now + ASK_AGAIN);
                }
            }
        }
        if let Some(when) = Self::deadline(core, connection) {
            self.timers.ensure(at, when);
        }
        Ok(())
    }

    pub(super) fn prove(&mut self, core: &mut Core, at: u32) -> Result<(), End> {
        let Some(connection) = self.connections.get_mut(at) else { return Ok(()) };
        let placeholder = State::Proxy;
        let State::Handshake(handshake) = std::mem::replace(&mut connection.state, placeholder) else {
            return Ok(());
        };
        let device = handshake.device();
        let live = match handshake.prove(core, connection.serial, connection.peer) {
            Ok((live, session_ok)) => {
                connection.stream.write(core.now, &session_ok).map_err(|_| End::Gone).map(|()| live)
            }
            Err(refusal) => {
                if let Some(device) = device {
                    refusal.report(core, device, connection.peer.ip());
                }
                Err(End::Proof)
            }
        };
        core.counts.one(Count::HandshakesEndedTcp);
        let live = live?;
        live.announce_birth(core, at);
        connection.state = State::Live(live);
        if let Some(address) = connection.unproven.take() {
            self.shares.leave(address);
        }
        if let Some(when) = Self::deadline(core, connection) {
            self.timers.ensure(at, when);
        }
        self.queue(at);
        Ok(())
    }

    /// The keys of a handshake have come.
    pub(crate) fn keys(&mut self, core: &mut Core, handshake: SessionRef, keys: Keys) {
        let at = handshake.index;
        let Some(connection) = self.find(handshake) else { return };
        if let State::Handshake(pending) = &mut connection.state {
            if matches!(keys, Keys::Unavailable) {
                core.counts.one(Count::KeyLookupsFailed);
            }
            pending.found(keys);
            if let Err(end) = self.advance(core, at) {
                self.end(core, at, end);
            }
        }
    }

    pub(super) fn wake_waiting(&mut self, core: &mut Core) {
        for _ in 0..self.waiting.len() {
            if !core.may_exchange() {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.wake(core, waiting);
        }
        for _ in 0..self.unasked.len() {
            if !core.lookups.has_room() {
                break;
            }
            let Some(waiting) = self.unasked.pop_front() else { break };
            self.wake(core, waiting);
        }
        self.ask_again = (!self.unasked.is_empty()).then(|| core.now + ASK_AGAIN);
    }

    pub(super) fn wake(&mut self, core: &mut Core, (at, serial): (u32, u32)) {
        let Some(connection) = self.connections.get_mut(at).filter(|found| found.serial == serial) else {
            return;
        };
        connection.waits = false;
        if let Err(end) = self.advance(core, at) {
            self.end(core, at, end);
        }
    }
}
