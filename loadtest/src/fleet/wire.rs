//! Many addresses on a few sockets: every device has one of its own in 127.0.0.0/8, whose datagrams all arrive at sockets that are
//! bound to no address (Linux). A hundred thousand sockets would need as many file descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Asked for; the system may give less.
const BUFFER: usize = 4 << 20;

pub(crate) struct Wire {
    sockets: Vec<UdpSocket>,
}

impl Wire {
    pub(crate) fn open(sockets: usize) -> Result<Self> {
        let sockets = (0..sockets).map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket")?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)
                .context("the system does not tell addresses")?;
            // Fewer is what a slow generator loses; the report says how late it was.
            let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER);
            Ok(socket)
        });
        Ok(Self { sockets: sockets.collect::<Result<_>>()? })
    }

    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
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

    /// The next datagram of a socket, and whom it is for.
    pub(crate) fn receive(&self, socket: usize, buffer: &mut [u8]) -> Result<Option<(Ipv4Addr, usize)>> {
        let Some(socket) = self.sockets.get(socket) else { return Ok(None) };
        let mut control = cmsg_space!(in_pktinfo);
        let mut data = [IoSliceMut::new(buffer)];
        let received =
            recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        match received {
            Ok(message) => {
                let address = message.cmsgs()?.find_map(|message| match message {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()))
                    }
                    _ => None,
                });
                Ok(address.map(|address| (address, message.bytes)))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error).context("cannot receive"),
        }
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
        let mut buffer = [0; 64];
        for (socket, from) in [(0, one), (1, other), (0, other)] {
            assert!(wire.send(socket, from, to, b"up"));
            let (length, source) = edge.recv_from(&mut buffer).expect("a datagram");
            assert_eq!((&buffer[..length], source.ip()), (&b"up"[..], from.into()));
            edge.send_to(b"down", source).expect("sent");
            wire.wait(Duration::from_secs(20)).expect("a wait");
            let got = wire.receive(socket, &mut buffer).expect("a datagram");
            assert_eq!(got, Some((from, 4)));
            assert_eq!(wire.receive(socket, &mut buffer).expect("no error"), None);
        }
    }
}
