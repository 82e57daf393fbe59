use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::*;
use crate::clock::wait_for;

const SOON: Duration = Duration::from_secs(20);

/// Answers each datagram with its own port and what came; each connection with its port.
fn backend() -> SocketAddr {
    let port = Port::claim().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    let (socket, listener) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        let _port = port;
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let mut answer = address.port().to_be_bytes().to_vec();
            answer.extend_from_slice(&datagram[..length]);
            socket.send_to(&answer, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        // Kept open: who cuts them is what is tested.
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(&address.port().to_be_bytes()).unwrap();
            open.push(stream);
        }
    });
    address
}

struct Client(UdpSocket);

impl Client {
    fn new(balancer: &Balancer) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect(balancer.address()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The backend that answers.
    fn ask(&self, message: &[u8]) -> SocketAddr {
        self.0.send(message).unwrap();
        let mut answer = [0; 2048];
        let length = self.0.recv(&mut answer).unwrap();
        assert_eq!(&answer[2..length], message);
        (Ipv4Addr::LOCALHOST, u16::from_be_bytes([answer[0], answer[1]])).into()
    }
}

#[test]
fn flows_stay_with_their_backend_until_it_is_removed() {
    let backends = [backend(), backend()];
    let balancer = Balancer::start(&backends, 1).unwrap();
    let clients: Vec<_> = (0..16).map(|_| Client::new(&balancer)).collect();
    let first: Vec<_> = clients.iter().map(|client| client.ask(b"a")).collect();
    assert!(backends.iter().all(|backend| first.contains(backend)), "not spread: {first:?}");
    let again: Vec<_> = clients.iter().map(|client| client.ask(b"b")).collect();
    assert_eq!(first, again);
    assert_eq!(balancer.backend_of(clients[0].address()), Some(first[0]));

    balancer.fault(&backends[..1]);
    balancer.remove(backends[0]);
    for client in &clients {
        assert_eq!(client.ask(b"c"), backends[1]);
    }
    let recoveries = balancer.recoveries();
    assert_eq!(recoveries.len(), clients.len());
    assert!(recoveries.iter().all(|one| one.unanswered().is_some()), "{recoveries:?}");
    let counts = balancer.counts();
    let up: u64 = counts.backends.values().map(|counts| counts.up).sum();
    let down: u64 = counts.backends.values().map(|counts| counts.down).sum();
    assert_eq!((up, down, counts.dropped, counts.repeats), (48, 48, 0, 0));
    clients[0].ask(b"c");
    assert_eq!(balancer.counts().repeats, 1);
}

#[test]
fn remapped_flows_go_to_another_backend_and_forgotten_ones_from_another_address() {
    let backends = [backend(), backend()];
    let balancer = Balancer::start(&backends, 2).unwrap();
    let client = Client::new(&balancer);
    let first = client.ask(b"a");
    balancer.remap_flows(3);
    let second = client.ask(b"b");
    assert_ne!(first, second);
    balancer.set_backends(&[second]);
    balancer.forget_flows();
    assert_eq!(balancer.backend_of(client.address()), None);
    assert_eq!(client.ask(b"c"), second);
    assert_eq!(balancer.counts().flows, 3);
}

#[test]
fn a_draining_backend_keeps_its_flows_and_gets_no_new_ones() {
    let backends = [backend(), backend()];
    let balancer = Balancer::start(&backends[..1], 6).unwrap();
    let old = Client::new(&balancer);
    old.ask(b"a");
    balancer.set_draining(&backends[1..], &backends[..1]);
    assert_eq!(old.ask(b"b"), backends[0]);
    for _ in 0..8 {
        assert_eq!(Client::new(&balancer).ask(b"c"), backends[1]);
    }
    balancer.set_backends(&backends[1..]);
    assert_eq!(old.ask(b"d"), backends[1]);
}

#[test]
fn without_a_healthy_backend_everything_is_dropped_and_counted() {
    let only = backend();
    let balancer = Balancer::start(&[only], 4).unwrap();
    let client = Client::new(&balancer);
    client.ask(b"a");
    balancer.remove(only);
    client.0.send(b"b").unwrap();
    let mut refused = TcpStream::connect(balancer.address()).unwrap();
    refused.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(refused.read(&mut [0; 2]).unwrap(), 0, "nobody is there");
    wait_for("the drops", SOON, || match balancer.counts() {
        counts if counts.dropped == 1 && counts.refused == 1 => Ok(()),
        counts => Err(format!("{counts:?}")),
    })
    .unwrap();
    balancer.set_backends(&[only]);
    assert_eq!(client.ask(b"c"), only);
}

#[test]
fn connections_end_with_their_backend_and_when_they_are_forgotten() {
    let backends = [backend(), backend()];
    let balancer = Balancer::start(&backends, 5).unwrap();
    let connect = || {
        let mut stream = TcpStream::connect(balancer.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut port = [0; 2];
        stream.read_exact(&mut port).unwrap();
        (stream, SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from_be_bytes(port))))
    };
    let (mut stream, taken_by) = connect();
    balancer.remove(taken_by);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "cut with its backend");
    let (mut stream, second) = connect();
    assert_ne!(second, taken_by);
    balancer.forget_flows();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "forgotten");
    let connections: u64 = balancer.counts().backends.values().map(|counts| counts.connections).sum();
    assert_eq!(connections, 2);
}

#[test]
fn a_closed_port_is_counted_and_passed_on_when_told_to() {
    let closed = Port::claim().unwrap();
    let balancer = Balancer::start(&[(Ipv4Addr::LOCALHOST, closed.number()).into()], 1).unwrap();
    let client = Client::new(&balancer);
    let refused =
        || client.0.send(b"anybody?").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    wait_for("the balancer to be told", SOON, || {
        assert!(!refused(), "a device was told");
        if balancer.counts().unreachable > 2 { Ok(()) } else { Err(format!("{:?}", balancer.counts())) }
    })
    .unwrap();
    balancer.pass_icmp_on();
    let told = || if refused() { Ok(()) } else { Err("not told".to_owned()) };
    wait_for("the device to be told", SOON, told).unwrap();
}
