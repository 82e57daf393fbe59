//! How connections go: by themselves, by time, by a decision of ours; and how time stands still while nothing is read.

use sluice_proto::events::v1::{CloseReason, SecurityReason, Transport};
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::DropReason;

use super::{End, State, Tcp};
use crate::counts::{Count, drop_count};
use crate::link::SessionRef;
use crate::shard::core::{Core, give_back};

/// Pauses shorter than this change no idle timer.
const NOTICEABLE_PAUSE: usmp::Duration = usmp::Duration::from_secs(1);

impl<P: Provider> Tcp<P> {
    pub(super) fn expire(&mut self, core: &mut Core, paused: Option<Instant>) {
        while let Some(at) = self.timers.pop_due(core.now) {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            let slow = connection
                .stream
                .waiting_since()
                .is_some_and(|since| since + core.config.session.tcp_write_timeout <= core.now);
            let ended = if slow {
                Some(End::Late)
            } else {
                match &mut connection.state {
                    State::Proxy => {
                        let until = connection.accepted + core.config.handshake.tcp_step_timeout;
                        (until <= core.now).then_some(End::Late)
                    }
                    State::Handshake(handshake) => handshake.is_late(core.now).then_some(End::Late),
                    State::Leaving(until) => (*until <= core.now).then_some(End::Gone),
                    // What the device sent may lie unread because of us: that is no silence of its own.
                    State::Live(live) if let Some(since) = paused.or_else(|| live.kept_since()) => {
                        live.pause(since);
                        None
                    }
                    State::Live(live) => live.handle_timeout(core, &mut connection.stream).map(End::Session),
                }
            };
            match ended {
                Some(end) => self.end(core, at, end),
                None => {
                    if let Some(when) =
                        self.connections.get(at).and_then(|connection| Self::deadline(core, connection))
                    {
                        // Never in the past: a timer that is not through yet must not keep the shard awake.
                        self.timers.ensure(at, when.max(core.now + usmp::Duration::from_millis(1)));
                    }
                }
            }
        }
    }

    pub(super) fn end(&mut self, core: &mut Core, at: u32, end: End) {
        let Some(mut connection) = self.connections.remove(at) else { return };
        self.timers.cancel(at);
        let _closed_anyway = self.registry.deregister(connection.stream.socket_mut());
        core.counts.one(Count::TcpEnded);
        give_back(&core.places.connections);
        if let Some(address) = connection.unproven.take() {
            self.shares.leave(address);
        }
        let in_handshake = matches!(connection.state, State::Proxy | State::Handshake(_));
        match end {
            End::Gone | End::Proof | End::Session(_) => {}
            End::Refused(reason) => {
                core.counts.one(drop_count(reason));
                let device = match &connection.state {
                    State::Live(live) => Some(live.named()),
                    _ => None,
                };
                if let Some(security) = security_reason(reason) {
                    core.refuse(security, device, Transport::Tcp);
                }
            }
            End::Proxy => {
                core.counts.one(Count::DroppedProxyHeader);
                core.refuse(SecurityReason::Malformed, None, Transport::Tcp);
            }
            End::Late if in_handshake => {
                core.counts.one(Count::DroppedHandshakeTimeout);
                core.refuse(SecurityReason::HandshakeTimeout, None, Transport::Tcp);
            }
            End::Late => core.counts.one(Count::DroppedSlowReader),
            End::Evicted => core.counts.one(Count::DroppedEvicted),
        }
        match connection.state {
            State::Live(live) => {
                let reason = match end {
                    End::Session(reason) => reason,
                    End::Refused(_) => CloseReason::Protocol,
                    _ => CloseReason::Disconnected,
                };
                live.ended(core, at, reason);
            }
            State::Handshake(_) => core.counts.one(Count::HandshakesEndedTcp),
            State::Proxy | State::Leaving(_) => {}
        }
    }

    /// Ends a session for a reason of our own: BYE, then close.
    pub(crate) fn close(&mut self, core: &mut Core, session: SessionRef, reason: CloseReason) {
        let Some(connection) = self.find(session) else { return };
        let State::Live(live) = &mut connection.state else { return };
        live.farewell(core, &mut connection.stream);
        if !connection.stream.finish() {
            return self.end(core, session.index, End::Session(reason));
        }
        let until = core.now + core.config.drain.bye_wait;
        if let State::Live(live) = std::mem::replace(&mut connection.state, State::Leaving(until)) {
            // Not read until its turn; now its end of the connection is what is waited for.
            connection.queued &= live.kept_since().is_none();
            live.ended(core, session.index, reason);
        }
        self.timers.ensure(session.index, until);
        self.queue(session.index);
    }

    /// Ends what has not closed its side yet.
    pub(crate) fn end_all(&mut self, core: &mut Core) {
        let all: Vec<u32> = self.connections.indices().collect();
        for at in all {
            self.end(core, at, End::Gone);
        }
    }

    pub(crate) fn close_all(&mut self, core: &mut Core, reason: CloseReason) {
        let all: Vec<(u32, u32)> =
            self.connections.iter().map(|(at, connection)| (at, connection.serial)).collect();
        for (at, serial) in all {
            self.close(core, core.session_ref(true, at, serial), reason);
        }
    }

    /// Reading goes on after a pause: the time since does not count as the devices' silence.
    pub(crate) fn resume(&mut self, core: &Core, since: Instant) {
        if core.now - since < NOTICEABLE_PAUSE {
            return;
        }
        let all: Vec<u32> = self.connections.indices().collect();
        for at in all {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if let State::Live(live) = &mut connection.state
                && live.kept_since().is_none()
            {
                live.pause(since);
                live.resume(core.now);
                if let Some(when) = Self::deadline(core, connection) {
                    self.timers.ensure(at, when);
                }
            }
        }
    }
}

/// What a broken protocol is reported as; nothing for mere noise.
const fn security_reason(reason: DropReason) -> Option<SecurityReason> {
    match reason {
        DropReason::Version => Some(SecurityReason::Version),
        DropReason::Sequence | DropReason::Stale => Some(SecurityReason::Replay),
        DropReason::Authentication | DropReason::ExplicitNonce => Some(SecurityReason::Forged),
        DropReason::WrongProof => Some(SecurityReason::WrongKey),
        DropReason::Closed
        | DropReason::PendingDuplicate
        | DropReason::PendingFull
        | DropReason::NoBuffer => None,
        _ => Some(SecurityReason::Malformed),
    }
}
