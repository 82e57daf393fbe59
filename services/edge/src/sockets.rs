//! Listening sockets: one per shard and transport on one address, told apart by the kernel (`SO_REUSEPORT`).

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{EdgeConfig, Listen};

/// The sockets of one shard.
#[derive(Debug)]
pub(crate) struct ShardSockets {
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) udp: Option<UdpSocket>,
}

/// Why the edge cannot listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for {transport} on {address}; is another process using it (`edge.{transport}` chooses another)?"
)]
pub struct BindError {
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Binds the sockets of all shards. Port 0: the first shard's port is everybody's.
pub(crate) fn bind(config: &EdgeConfig, shards: usize) -> Result<Vec<ShardSockets>, BindError> {
    let mut tcp = bind_all(config.tcp, shards, "tcp", |address| {
        let socket = socket(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(1024)?;
        Ok(TcpListener::from(socket))
    })?;
    let mut udp = bind_all(config.udp, shards, "udp", |address| {
        let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
        // The kernel's limit may be lower; a smaller buffer is no reason not to start.
        let _ = socket.set_recv_buffer_size(config.udp_receive_buffer_bytes as usize);
        Ok(UdpSocket::from(socket))
    })?;
    Ok((0..shards).map(|_| ShardSockets { tcp: tcp.pop(), udp: udp.pop() }).collect())
}

/// The same with the UDP sockets of a process before, which are taken over if they are bound to what is configured: their number is
/// the number of shards then, as one that nobody reads would swallow its share of the flows.
pub(crate) fn bind_on(config: &mut EdgeConfig, kept: Vec<UdpSocket>) -> Result<Vec<ShardSockets>, BindError> {
    if kept.is_empty() || !kept.iter().all(|socket| fits(config.udp, socket)) {
        return bind(config, config.shard_count());
    }
    if kept.len() != config.shard_count() {
        tracing::warn!(
            shards = kept.len(),
            "the number of shards stays what it was until the parent is restarted"
        );
    }
    config.shards = NonZeroUsize::new(kept.len());
    let others = EdgeConfig { udp: Listen::Off, ..config.clone() };
    let mut shards = bind(&others, kept.len())?;
    for (shard, socket) in shards.iter_mut().zip(kept) {
        shard.udp = Some(socket);
    }
    Ok(shards)
}

fn fits(listen: Listen, socket: &UdpSocket) -> bool {
    match (listen.address(), socket.local_addr()) {
        (Some(wanted), Ok(bound)) => {
            wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
        }
        _ => false,
    }
}

/// Copies of the UDP sockets, for somebody who keeps them open.
pub(crate) fn copies(shards: &[ShardSockets]) -> io::Result<Vec<OwnedFd>> {
    shards
        .iter()
        .filter_map(|shard| shard.udp.as_ref())
        .map(|udp| udp.try_clone().map(OwnedFd::from))
        .collect()
}

fn bind_all<S>(
    listen: Listen,
    shards: usize,
    transport: &'static str,
    bind_one: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<Vec<S>, BindError>
where
    for<'a> SockRef<'a>: From<&'a S>,
{
    let Some(mut address) = listen.address() else { return Ok(Vec::new()) };
    let error = |address| move |source| BindError { transport, address, source };
    if address.port() != 0 {
        // Reuse of a port lets a second process share it silently: ask first whether it is free.
        probe(address, transport).map_err(error(address))?;
    }
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = bind_one(address).map_err(error(address))?;
        if let Some(bound) = SockRef::from(&socket).local_addr().map_err(error(address))?.as_socket() {
            address.set_port(bound.port());
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn probe(address: SocketAddr, transport: &str) -> io::Result<()> {
    let (kind, protocol) = match transport {
        "tcp" => (Type::STREAM, Protocol::TCP),
        _ => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if transport == "tcp" {
        // A connection of the process before that lingers in the kernel is no other user of the port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tcp: &str, udp: &str) -> EdgeConfig {
        let listen = |text: &str| Listen::try_from(text.to_owned()).expect("a listener");
        EdgeConfig { tcp: listen(tcp), udp: listen(udp), ..EdgeConfig::default() }
    }

    #[test]
    fn all_shards_share_the_port_that_the_system_chose() {
        let shards = bind(&config("127.0.0.1:0", "127.0.0.1:0"), 4).expect("free ports");
        let ports =
            |of: fn(&ShardSockets) -> u16| shards.iter().map(of).collect::<std::collections::BTreeSet<_>>();
        let tcp = ports(|shard| shard.tcp.as_ref().and_then(|s| s.local_addr().ok()).map_or(0, |a| a.port()));
        let udp = ports(|shard| shard.udp.as_ref().and_then(|s| s.local_addr().ok()).map_or(0, |a| a.port()));
        assert_eq!((tcp.len(), udp.len()), (1, 1), "{tcp:?} {udp:?}");
        assert!(!tcp.contains(&0) && !udp.contains(&0));
    }

    fn udp(shards: &[ShardSockets]) -> Vec<UdpSocket> {
        copies(shards).expect("descriptors").into_iter().map(UdpSocket::from).collect()
    }

    #[test]
    fn sockets_of_a_process_before_are_taken_over_with_what_waits_in_them() {
        let first = bind(&config("127.0.0.1:0", "127.0.0.1:0"), 3).expect("free ports");
        let kept = udp(&first);
        let address = kept[0].local_addr().expect("bound");
        let device = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        drop(first);
        device.send_to(b"meanwhile", address).expect("room");

        let mut later = config("127.0.0.1:0", &address.to_string());
        later.shards = NonZeroUsize::new(2);
        let second = bind_on(&mut later, kept).expect("free ports");
        assert_eq!((second.len(), later.shard_count()), (3, 3));
        assert!(second.iter().all(|shard| shard.tcp.is_some()));
        let mut datagram = [0; 16];
        let sockets = second.iter().filter_map(|shard| shard.udp.as_ref());
        let read: Vec<_> = sockets.filter_map(|socket| socket.recv(&mut datagram).ok()).collect();
        assert_eq!((read, &datagram[..9]), (vec![9], b"meanwhile".as_slice()));
    }

    #[test]
    fn a_port_that_the_system_chose_stays_with_the_sockets() {
        let first = bind(&config("off", "127.0.0.1:0"), 1).expect("free ports");
        let address = udp(&first)[0].local_addr().expect("bound");
        let second = bind_on(&mut config("off", "127.0.0.1:0"), udp(&first)).expect("free ports");
        assert_eq!(udp(&second)[0].local_addr().expect("bound"), address);
    }

    #[test]
    fn sockets_at_another_address_than_the_configured_one_are_not_used() {
        let kept = udp(&bind(&config("off", "127.0.0.1:0"), 1).expect("free ports"));
        let free =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let second = bind_on(&mut config("off", &free.to_string()), kept).expect("free ports");
        assert_eq!(udp(&second)[0].local_addr().expect("bound"), free);
        let kept = udp(&second);
        let third = bind_on(&mut config("127.0.0.1:0", "off"), kept).expect("free ports");
        assert!(third.iter().all(|shard| shard.udp.is_none()));
    }

    #[test]
    fn a_listener_that_is_off_is_not_bound() {
        let shards = bind(&config("off", "127.0.0.1:0"), 2).expect("a free port");
        assert!(shards.iter().all(|shard| shard.tcp.is_none() && shard.udp.is_some()));
    }

    #[test]
    fn a_taken_port_is_refused_with_its_name() {
        let held = bind(&config("127.0.0.1:0", "127.0.0.1:0"), 1).expect("free ports");
        let tcp = held[0].tcp.as_ref().and_then(|socket| socket.local_addr().ok()).expect("bound");
        let udp = held[0].udp.as_ref().and_then(|socket| socket.local_addr().ok()).expect("bound");
        let refused = bind(&config(&tcp.to_string(), "off"), 1).expect_err("taken");
        assert!(refused.to_string().contains(&tcp.to_string()), "{refused}");
        let refused = bind(&config("off", &udp.to_string()), 1).expect_err("taken");
        assert!(refused.to_string().contains("edge.udp"), "{refused}");
    }
}
