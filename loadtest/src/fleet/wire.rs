//! Many addresses on a few sockets: every device has one of its own in 127.0.0.0/8, whose datagrams all arrive at sockets that are
//! bound to no address (Linux). A hundred thousand sockets would need as many file descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt,
    sockopt,
};
use nix::sys::time::TimeSpec;

use crate::system;

/// Asked for; the system may give less.
const BUFFER: usize = 64 << 20;

/// Datagrams of one call.
pub(super) const BATCH: usize = 64;

/// No frame is longer.
const ROOM: usize = 512;

pub(crate) struct Wire {
    sockets: Vec<UdpSocket>,
}

/// Datagrams of one socket, and for each whom it is for.
pub(crate) struct Arrivals {
    headers: MultiHeaders<SockaddrIn>,
    buffers: Box<[[u8; ROOM]]>,
    of: Vec<Arrival>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) to: Ipv4Addr,
    length: usize,
    /// How long it lay in the socket's buffer.
    pub(crate) waited: Duration,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let control = cmsg_space!(in_pktinfo, TimeSpec);
        Self {
            headers: MultiHeaders::preallocate(BATCH, Some(control)),
            buffers: vec![[0; ROOM]; BATCH].into_boxed_slice(),
            of: Vec::with_capacity(BATCH),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.of.len()
    }

    /// One of them, to be opened where it is.
    pub(crate) fn datagram(&mut self, index: usize) -> (Arrival, &mut [u8]) {
        let arrival = self.of[index];
        (arrival, &mut self.buffers[index][..arrival.length])
    }
}

impl Wire {
    pub(crate) fn open(sockets: usize) -> Result<Self> {
        let sockets = (0..sockets).map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket")?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
                .context("the system does not tell addresses")?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
                .context("the system does not tell when datagrams arrive")?;
            // A smaller one loses what a slow generator leaves in it; the report says how much.
            if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
                let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
            }
            Ok(socket)
        });
        Ok(Self { sockets: sockets.collect::<Result<_>>()? })
    }

    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Datagrams that found no room here.
    pub(crate) fn lost(&self) -> u64 {
        let ports = self.sockets.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port()));
        ports.map(system::datagrams_lost).sum()
    }

    /// Sends a datagram, or loses it as a network does; says whether the system took it.
    pub(crate) fn send(&self, socket: usize, from: Ipv4Addr, to: SocketAddrV4, datagram: &[u8]) -> bool {
        let Some(socket) = self.sockets.get(socket) else { return false };
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let (data, to) = ([IoSlice::new(datagram)], SockaddrIn::from(to));
        sendmsg(socket.as_raw_fd(), &data, &control, MsgFlags::MSG_DONTWAIT, Some(&to)).is_ok()
    }

    /// Takes what has arrived at a socket, at most [`BATCH`] datagrams.
    #[expect(clippy::disallowed_methods, reason = "the system stamps datagrams by this clock")]
    pub(crate) fn receive(&self, socket: usize, arrivals: &mut Arrivals) -> Result<()> {
        arrivals.of.clear();
        let Some(socket) = self.sockets.get(socket) else { return Ok(()) };
        let mut slices: Vec<_> =
            arrivals.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut arrivals.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error).context("cannot receive"),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for message in received {
            let mut arrival =
                Arrival { to: Ipv4Addr::UNSPECIFIED, length: message.bytes, waited: Duration::ZERO };
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        arrival.to = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                    }
                    ControlMessageOwned::ScmTimestampns(at) => {
                        arrival.waited = now.saturating_sub(Duration::from(at));
                    }
                    _ => {}
                }
            }
            arrivals.of.push(arrival);
        }
        Ok(())
    }

    /// Waits until something has arrived, at most this long.
    pub(crate) fn wait(&self, limit: Duration) -> Result<()> {
        let mut watched: Vec<_> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        let millis = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut watched, PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_on_one_socket() {
        let (wire, edge) =
            (Wire::open(2).expect("sockets"), UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let to = edge.local_addr().expect("an address").to_string().parse().expect("IPv4");
        let (one, other) = (Ipv4Addr::new(127, 64, 0, 1), Ipv4Addr::new(127, 65, 3, 9));
        let mut arrivals = Arrivals::new();
        let mut buffer = [0; 64];
        for (socket, from) in [(0, one), (1, other), (0, other)] {
            assert!(wire.send(socket, from, to, b"up"));
            let (length, source) = edge.recv_from(&mut buffer).expect("a datagram");
            assert_eq!((&buffer[..length], source.ip()), (&b"up"[..], from.into()));
            edge.send_to(b"down", source).expect("sent");
            wire.wait(Duration::from_secs(20)).expect("a wait");
            wire.receive(socket, &mut arrivals).expect("a datagram");
            assert_eq!(arrivals.count(), 1);
            let (arrival, datagram) = arrivals.datagram(0);
            assert_eq!((arrival.to, &*datagram), (from, &b"down"[..]));
            assert!(arrival.waited < Duration::from_secs(20), "{arrival:?}");
            wire.receive(socket, &mut arrivals).expect("no error");
            assert_eq!(arrivals.count(), 0);
        }
        assert_eq!(wire.lost(), 0);
    }

    #[test]
    fn many_that_wait_are_taken_in_their_order_by_few_calls() {
        let (wire, edge) =
            (Wire::open(1).expect("a socket"), UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let to = edge.local_addr().expect("an address").to_string().parse().expect("IPv4");
        let mut buffer = [0; 64];
        let mut sources = Vec::new();
        for last in 1..=100 {
            assert!(wire.send(0, Ipv4Addr::new(127, 64, 0, last), to, b"up"));
            sources.push(edge.recv_from(&mut buffer).expect("a datagram").1);
        }
        for source in &sources {
            edge.send_to(&source.to_string().into_bytes(), source).expect("sent");
        }
        let mut arrivals = Arrivals::new();
        let mut seen = Vec::new();
        for expected in [BATCH, 100 - BATCH, 0] {
            wire.receive(0, &mut arrivals).expect("datagrams");
            assert_eq!(arrivals.count(), expected);
            for index in 0..arrivals.count() {
                let (arrival, datagram) = arrivals.datagram(index);
                let source = String::from_utf8_lossy(datagram).parse::<SocketAddrV4>().expect("an address");
                assert_eq!(*source.ip(), arrival.to);
                seen.push(arrival.to);
            }
        }
        let expected: Vec<_> = (1..=100).map(|last| Ipv4Addr::new(127, 64, 0, last)).collect();
        assert_eq!(seen, expected);
    }
}
