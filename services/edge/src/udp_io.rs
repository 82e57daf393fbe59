//! PACKET PATH: no lock, no allocation after the start, no log, no await.
//!
//! Datagrams in batches at both ends: `recvmmsg` into, and `sendmmsg` out of, buffers made once.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use mio::net::UdpSocket;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use crate::path::Path;
use crate::shard::Relay;

/// Datagrams per system call.
pub(crate) const BATCH: usize = 64;

/// Room per incoming datagram. The longest frame has 492 bytes; whatever is cut here is no frame.
pub(crate) const SLOT: usize = 512;

/// Outgoing datagrams of one turn; a full queue is sent before more is put in.
const OUT_SLOTS: usize = 256;

/// Where datagrams come from and go to.
#[derive(Debug)]
pub(crate) enum Wire {
    Socket(UdpSocket),
    /// A network that is simulated.
    #[cfg(test)]
    Simulated(crate::simulation::PodWire),
}

/// The receiving half: one batch of datagrams with their sources.
pub(crate) struct Inbound {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; SLOT]; BATCH]>,
    lengths: [u16; BATCH],
    sources: [SocketAddr; BATCH],
}

/// The sending half: datagrams wait here until the end of the turn.
pub(crate) struct Outbound {
    headers: MultiHeaders<SockaddrStorage>,
    buffers: Box<[[u8; SLOT]]>,
    lengths: Vec<u16>,
    targets: Vec<Option<SockaddrStorage>>,
    count: usize,
    /// The listener is an IPv6 socket: IPv4 targets are written as mapped addresses.
    v6: bool,
    fd: RawFd,
    /// Datagrams the kernel did not take.
    pub(crate) unsent: u64,
    pub(crate) relay: Relay,
    #[cfg(test)]
    simulated: Option<crate::simulation::PodWire>,
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: Box::new([[0; SLOT]; BATCH]),
            lengths: [0; BATCH],
            sources: [nowhere(); BATCH],
        }
    }

    /// Fills the batch with what has arrived; 0 when nothing has.
    pub(crate) fn receive(&mut self, wire: &Wire) -> io::Result<usize> {
        #[cfg_attr(
            not(test),
            expect(clippy::infallible_destructuring_match, reason = "tests have another variant")
        )]
        let socket = match wire {
            Wire::Socket(socket) => socket,
            #[cfg(test)]
            Wire::Simulated(wire) => return Ok(self.receive_simulated(wire)),
        };
        let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let received = match recvmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut count = 0;
        for message in received {
            // A datagram that was cut is longer than any frame; length 0 is dropped as too short.
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            self.lengths[count] = if whole { message.bytes as u16 } else { 0 };
            self.sources[count] = message.address.as_ref().and_then(address).unwrap_or_else(nowhere);
            count += 1;
        }
        Ok(count)
    }

    #[cfg(test)]
    fn receive_simulated(&mut self, wire: &crate::simulation::PodWire) -> usize {
        let mut count = 0;
        while count < BATCH
            && let Some((source, datagram)) = wire.receive()
        {
            let length = if datagram.len() <= SLOT { datagram.len() } else { 0 };
            self.buffers[count][..length].copy_from_slice(&datagram[..length]);
            (self.lengths[count], self.sources[count]) = (length as u16, source);
            count += 1;
        }
        count
    }

    /// One datagram of the batch and where it came from.
    pub(crate) fn datagram(&mut self, index: usize) -> (SocketAddr, &mut [u8]) {
        let length = usize::from(self.lengths[index]);
        (self.sources[index], &mut self.buffers[index][..length])
    }
}

impl Outbound {
    pub(crate) fn new(wire: &Wire, relay: Relay) -> io::Result<Self> {
        let (v6, fd) = match wire {
            Wire::Socket(socket) => (socket.local_addr()?.is_ipv6(), socket.as_raw_fd()),
            #[cfg(test)]
            Wire::Simulated(_) => (false, -1),
        };
        Ok(Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; SLOT]; OUT_SLOTS].into_boxed_slice(),
            lengths: vec![0; OUT_SLOTS],
            targets: vec![None; OUT_SLOTS],
            count: 0,
            v6,
            fd,
            unsent: 0,
            relay,
            #[cfg(test)]
            simulated: match wire {
                Wire::Socket(_) => None,
                Wire::Simulated(wire) => Some(wire.clone()),
            },
        })
    }

    /// Puts one datagram into the queue, written by `fill` into the given room; `fill` gives back its length, or `None` when
    /// there is nothing to send.
    pub(crate) fn push_with(
        &mut self,
        target: SocketAddr,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        if self.count == OUT_SLOTS {
            self.flush();
        }
        let at = self.count;
        let Some(length) = fill(&mut self.buffers[at]) else { return false };
        self.lengths[at] = length.min(SLOT) as u16;
        self.targets[at] = Some(SockaddrStorage::from(self.mapped(target)));
        self.count += 1;
        true
    }

    /// Puts a copy of `datagram` into the queue.
    pub(crate) fn push(&mut self, target: SocketAddr, datagram: &[u8]) {
        self.push_with(target, |room| {
            room.get_mut(..datagram.len())?.copy_from_slice(datagram);
            Some(datagram.len())
        });
    }

    /// Sends a copy of `datagram` the way the device is reached.
    pub(crate) fn send(&mut self, path: Path, datagram: &[u8]) {
        match path.via() {
            None => self.push(path.address(), datagram),
            Some(via) => self.unsent += u64::from(!self.relay.reply(via, path.address(), datagram)),
        }
    }

    /// As [`Self::send`], of a datagram that `fill` writes, or `false` when there is nothing to send.
    pub(crate) fn send_with(&mut self, path: Path, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        if path.via().is_none() {
            return self.push_with(path.address(), fill);
        }
        let mut room = [0; SLOT];
        let Some(length) = fill(&mut room) else { return false };
        self.send(path, room.get(..length).unwrap_or_default());
        true
    }

    /// Sends the queue. A datagram that the kernel does not take is lost, as on any network: its sender has a timer.
    pub(crate) fn flush(&mut self) {
        #[cfg(test)]
        if let Some(wire) = &self.simulated {
            for at in 0..self.count {
                let target = self.targets[at].as_ref().and_then(address).unwrap_or_else(nowhere);
                wire.send(target, &self.buffers[at][..usize::from(self.lengths[at])]);
            }
            self.count = 0;
            return;
        }
        let mut from = 0;
        while from < self.count {
            let until = self.count.min(from + BATCH);
            match self.send_batch(from, until) {
                Ok(0) => {
                    self.unsent += (self.count - from) as u64;
                    break;
                }
                Ok(sent) => from += sent,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    self.unsent += (self.count - from) as u64;
                    break;
                }
                // The first of the batch is at fault (unreachable, no route): go on behind it.
                Err(_) => {
                    self.unsent += 1;
                    from += 1;
                }
            }
        }
        self.count = 0;
    }

    fn send_batch(&mut self, from: usize, until: usize) -> Result<usize, Errno> {
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        for (slice, at) in slices.iter_mut().zip(from..until) {
            *slice = [IoSlice::new(&self.buffers[at][..usize::from(self.lengths[at])])];
        }
        let sent = sendmmsg(
            self.fd,
            &mut self.headers,
            slices[..until - from].iter(),
            &self.targets[from..until],
            [],
            MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(sent.count())
    }

    fn mapped(&self, target: SocketAddr) -> SocketAddr {
        match target.ip() {
            IpAddr::V4(v4) if self.v6 => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), target.port()),
            _ => target,
        }
    }
}

/// The source as people and tables know it: mapped IPv4 addresses are IPv4 addresses.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(match IpAddr::V6(v6.ip()).to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
        // The scope stays: an answer to a link-local address needs it.
        IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id())),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "real sockets need the real clock for their deadline")]
    fn receive(inbound: &mut Inbound, socket: &Wire) -> usize {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let count = inbound.receive(socket).expect("a readable socket");
            if count > 0 {
                return count;
            }
            assert!(Instant::now() < deadline, "nothing arrived");
            std::thread::yield_now();
        }
    }

    fn pair(listen: &str) -> (Wire, std::net::UdpSocket) {
        let socket = UdpSocket::bind(listen.parse().expect("an address")).expect("a free port");
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        peer.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        (Wire::Socket(socket), peer)
    }

    fn target(wire: &Wire) -> SocketAddr {
        let Wire::Socket(socket) = wire else { panic!("a socket") };
        SocketAddr::from(([127, 0, 0, 1], socket.local_addr().expect("bound").port()))
    }

    #[test]
    fn a_batch_arrives_with_its_sources_and_is_answered() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let (socket, peer) = pair(listen);
            let mut inbound = Inbound::new();
            let mut outbound = Outbound::new(&socket, Relay::alone(1)).expect("bound");
            for length in 1..=100usize {
                peer.send_to(&vec![length as u8; length], target(&socket)).expect("loopback");
            }
            let mut seen = Vec::new();
            while seen.len() < 100 {
                for index in 0..receive(&mut inbound, &socket) {
                    let (source, datagram) = inbound.datagram(index);
                    assert_eq!(source, peer.local_addr().expect("bound"), "listening on {listen}");
                    seen.push(datagram.len());
                    outbound.push(source, datagram);
                }
            }
            assert_eq!(seen, (1..=100).collect::<Vec<_>>());
            outbound.flush();
            assert_eq!(outbound.unsent, 0);
            let mut buffer = [0; 600];
            for length in 1..=100 {
                let (got, _) = peer.recv_from(&mut buffer).expect("an answer");
                assert_eq!(buffer[..got], vec![length as u8; length]);
            }
        }
    }

    #[test]
    fn a_datagram_longer_than_any_frame_is_seen_as_empty() {
        let (socket, peer) = pair("127.0.0.1:0");
        peer.send_to(&[0xcd; 600], target(&socket)).expect("loopback");
        let mut inbound = Inbound::new();
        assert_eq!(receive(&mut inbound, &socket), 1);
        assert_eq!(inbound.datagram(0).1.len(), 0);
    }

    #[test]
    fn a_full_queue_is_sent_to_make_room() {
        let (socket, peer) = pair("127.0.0.1:0");
        let mut outbound = Outbound::new(&socket, Relay::alone(1)).expect("bound");
        let to = peer.local_addr().expect("bound");
        for number in 0..=OUT_SLOTS {
            outbound.push(to, &(number as u32).to_le_bytes());
        }
        assert_eq!(outbound.count, 1);
        let mut buffer = [0; 8];
        assert_eq!(peer.recv_from(&mut buffer).expect("the first").0, 4);
    }
}
