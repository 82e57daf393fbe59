//! PACKET PATH: no lock, no log, no await; allocates when a connection begins.
//!
//! Connections come: accepted, and admitted if there is room or room can be made.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use mio::{Interest, Token};
use usmp::crypto::Provider;

use super::{Connection, End, State, Tcp};
use crate::admission::{Room, network};
use crate::counts::Count;
use crate::shard::CONNECTIONS;
use crate::shard::core::{Core, give_back, take};
use crate::shard::tcp_handshake::Handshake;
use crate::stream::Stream;

/// Connections accepted per turn.
const ACCEPTS_PER_TURN: usize = 64;

impl<P: Provider> Tcp<P> {
    pub(super) fn accept(&mut self, core: &mut Core) {
        if !self.acceptable {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { break };
            match listener.accept() {
                Ok((socket, peer)) => self.admit(core, socket, peer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // No file descriptor is left, or the like: tried again when the next connection comes.
                Err(_) => {
                    core.counts.one(Count::AcceptsFailed);
                    self.acceptable = false;
                    return;
                }
            }
        }
    }

    pub(super) fn admit(&mut self, core: &mut Core, socket: mio::net::TcpStream, peer: SocketAddr) {
        core.counts.one(Count::TcpAccepted);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let behind_proxy = core.config.proxy_protocol.trusted.iter().any(|range| range.contains(&peer.ip()));
        // Connections of a trusted balancer say nothing about whose they are yet.
        match if behind_proxy { Room::Free } else { self.shares.room(peer.ip()) } {
            Room::Free => {}
            Room::OwnOldest => self.evict(core, Some(peer.ip())),
            Room::Oldest => self.evict(core, None),
        }
        if !take(&core.places.connections, core.config.limits.tcp_connections.get()) {
            self.evict(core, None);
            if !take(&core.places.connections, core.config.limits.tcp_connections.get()) {
                core.counts.one(Count::TcpEnded);
                return core.counts.one(Count::DroppedNoConnection);
            }
        }
        let serial = core.next_serial();
        // Frames are written whole; waiting for more of them would only delay them.
        let _ = socket.set_nodelay(true);
        let state = if behind_proxy {
            State::Proxy
        } else {
            core.counts.one(Count::HandshakesTcp);
            State::Handshake(Box::new(Handshake::new(core)))
        };
        let connection = Connection {
            stream: Stream::new(socket),
            peer,
            unproven: Some(peer.ip()),
            serial,
            accepted: core.now,
            state,
            queued: false,
            waits: false,
        };
        let Ok(at) = self.connections.insert(connection) else {
            give_back(&core.places.connections);
            core.counts.one(Count::TcpEnded);
            return core.counts.one(Count::DroppedNoConnection);
        };
        let registered = self.connections.get_mut(at).is_some_and(|connection| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Token(CONNECTIONS + at as usize);
            self.registry.register(connection.stream.socket_mut(), token, interest).is_ok()
        });
        self.shares.enter(peer.ip());
        let connections = &self.connections;
        let alive = |(at, serial)| {
            connections.get(at).is_some_and(|found| found.serial == serial && found.unproven.is_some())
        };
        self.order.push((at, serial), self.shares.total(), alive);
        if !registered {
            return self.end(core, at, End::Gone);
        }
        self.timers.ensure(at, core.now + core.config.handshake.tcp_step_timeout);
        self.queue(at);
    }

    pub(super) fn evict(&mut self, core: &mut Core, address: Option<IpAddr>) {
        let own = address.map(network);
        let connections = &self.connections;
        let oldest = self.order.oldest(|(at, serial)| {
            let found = connections.get(at).filter(|found| found.serial == serial);
            let theirs = found.and_then(|found| found.unproven).map(network);
            theirs.is_some() && (own.is_none() || own == theirs)
        });
        if let Some(at) = oldest {
            self.end(core, at, End::Evicted);
        }
    }

    pub(crate) fn stop_accepting(&mut self, core: &mut Core) {
        if let Some(mut listener) = self.listener.take() {
            let _closed_anyway = self.registry.deregister(&mut listener);
        }
        let unproven: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.unproven.is_some())
            .map(|(at, _)| at)
            .collect();
        for at in unproven {
            core.counts.one(Count::DroppedDraining);
            self.end(core, at, End::Proof);
        }
    }
}
