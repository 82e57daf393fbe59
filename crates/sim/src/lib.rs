//! A simulated device: the device role of the protocol on a socket of this machine.
//!
//! It owns the socket, the clock and the randomness of one connection; what is sent, and when, is the caller's. The simulator
//! of the command line, the load test and the end-to-end tests are built on it.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use sluice_sim::{Connection, Happening, Target};
//!
//! let target = Target::Udp(([127, 0, 0, 1], 9000).into());
//! let mut device = Connection::open(target, [2, 0, 0, 0, 0, 1], &[7; 32], Default::default()).await?;
//! while device.next().await != Happening::Connected {}
//! device.send(b"20.5").expect("nothing else is under way");
//! assert_eq!(device.next().await, Happening::Done); // Kafka has it
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until};
use usmp::crypto::RustCrypto;
use usmp::device::{Event, Psk, TcpDevice, UdpDevice};
use usmp::wire::MAX_FRAME;
use usmp::{DeviceId, Secret};

pub use usmp::device::{CloseReason, Config, Exhaustion, SendError};

/// A timer that is never reached; the machine has none to wait for.
const FAR: Duration = Duration::from_secs(3600);

/// Where a device connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A TCP listener.
    Tcp(SocketAddr),
    /// A UDP listener.
    Udp(SocketAddr),
}

/// What a connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The session is open.
    Connected,
    /// The message sent last is through: acknowledged by the server (UDP), or taken by the connection (TCP).
    Done,
    /// The message sent last was given up (UDP).
    GivenUp,
    /// A message of the server.
    Message(Vec<u8>),
    /// Both sides have new keys.
    Rekeyed,
    /// The connection is over; nothing follows.
    Closed(CloseReason),
}

/// One connection of a device, from HELLO on.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    machine: Machine,
    start: Instant,
    /// A frame that the socket has not taken whole yet.
    out: [u8; MAX_FRAME],
    out_from: usize,
    out_to: usize,
    /// TCP: bytes that came behind a message which was not polled yet.
    unread: Vec<u8>,
    closed: Option<CloseReason>,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

#[derive(Debug)]
enum Machine {
    Udp(Box<UdpDevice<RustCrypto>>),
    Tcp(Box<TcpDevice<RustCrypto>>),
}

/// Calls the same method of either machine.
macro_rules! either {
    ($machine:expr, $device:ident => $call:expr) => {
        match $machine {
            Machine::Udp($device) => $call,
            Machine::Tcp($device) => $call,
        }
    };
}

impl Connection {
    /// Opens the socket; the handshake starts with the first [`next`](Self::next).
    ///
    /// # Errors
    ///
    /// What the system says; [`io::ErrorKind::InvalidInput`] for a key that is not 16 to 128 bytes.
    pub async fn open(target: Target, id: [u8; 6], psk: &[u8], config: Config) -> io::Result<Self> {
        let mut private = Secret::zeroed();
        getrandom::fill(private.expose_mut()).map_err(io::Error::other)?;
        let psk = Psk::new(psk).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (now, id) = (usmp::Instant::ZERO, DeviceId(id));
        let (socket, machine) = match target {
            Target::Udp(address) => {
                let any = if address.is_ipv4() {
                    Ipv4Addr::UNSPECIFIED.into()
                } else {
                    Ipv6Addr::UNSPECIFIED.into()
                };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
                socket.connect(address).await?;
                (
                    Socket::Udp(socket),
                    Machine::Udp(Box::new(UdpDevice::connect(now, id, psk, private, config))),
                )
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                (
                    Socket::Tcp(stream),
                    Machine::Tcp(Box::new(TcpDevice::connect(now, id, psk, private, config))),
                )
            }
        };
        let start = Instant::now();
        Ok(Self {
            socket,
            machine,
            start,
            out: [0; MAX_FRAME],
            out_from: 0,
            out_to: 0,
            unread: Vec::new(),
            closed: None,
        })
    }

    /// The connection's own address.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.socket {
            Socket::Udp(socket) => socket.local_addr(),
            Socket::Tcp(stream) => stream.local_addr(),
        }
    }

    /// Continues over a new socket, as a device does whose router gave it a new address. UDP only; TCP stays as it is.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn change_address(&mut self) -> io::Result<()> {
        if let Socket::Udp(socket) = &mut self.socket {
            let (peer, local) = (socket.peer_addr()?, socket.local_addr()?);
            let fresh = UdpSocket::bind(SocketAddr::new(local.ip(), 0)).await?;
            fresh.connect(peer).await?;
            *socket = fresh;
        }
        Ok(())
    }

    /// Starts to send a message of up to 1808 bytes; [`Happening::Done`] or [`Happening::GivenUp`] ends it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; one message at a time.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        either!(&mut self.machine, device => device.send(payload)).map(drop)
    }

    /// Sends a PING; the answer only shows in the session staying alive.
    pub fn ping(&mut self) {
        // Refused only when there is no session, and then there is nothing to keep alive.
        let _ = either!(&mut self.machine, device => device.ping());
    }

    /// Starts a change of keys; [`Happening::Rekeyed`] ends it.
    pub fn rekey(&mut self, salt: [u8; 32]) {
        // Refused only when there is no session, and then there are no keys to change.
        let _ = either!(&mut self.machine, device => device.rekey(Secret::new(salt)));
    }

    /// Says goodbye; [`Happening::Closed`] follows.
    pub fn bye(&mut self) {
        let refused = either!(&mut self.machine, device => device.bye()).is_err();
        if refused && self.closed.is_none() {
            // No session to end: the connection is given up where it stands.
            self.closed = Some(CloseReason::TransportClosed);
        }
    }

    /// Waits for the next happening, and does all the work of the connection meanwhile.
    ///
    /// # Cancellation Safety
    ///
    /// Safe: nothing is lost when the future is dropped; call it again soon, since only inside does the connection live.
    pub async fn next(&mut self) -> Happening {
        loop {
            self.flush();
            if let Some(happening) = self.poll_event() {
                return happening;
            }
            if let Some(reason) = self.closed {
                return Happening::Closed(reason);
            }
            if self.feed_unread() {
                continue;
            }
            let writing = self.out_from < self.out_to;
            let deadline = self.deadline();
            let mut buffer = [0; 2048];
            tokio::select! {
                ready = self.readable(), if self.unread.is_empty() => self.read(ready, &mut buffer),
                ready = self.writable(), if writing => {
                    if ready.is_err() {
                        self.transport_closed();
                    }
                }
                () = sleep_until(deadline) => {
                    let now = self.now();
                    either!(&mut self.machine, device => device.handle_timeout(now));
                }
            }
        }
    }

    fn poll_event(&mut self) -> Option<Happening> {
        loop {
            return Some(match either!(&mut self.machine, device => device.poll_event())? {
                Event::Connected { .. } => Happening::Connected,
                Event::Message(payload) => Happening::Message(payload.to_vec()),
                Event::Sent(_) | Event::Delivered(_) => Happening::Done,
                Event::Failed(_) => Happening::GivenUp,
                Event::Rekeyed => Happening::Rekeyed,
                Event::Closed(reason) => {
                    self.closed = Some(reason);
                    self.flush();
                    Happening::Closed(reason)
                }
                _ => continue,
            });
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Udp(socket) => socket.readable().await,
            Socket::Tcp(stream) => stream.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Udp(socket) => socket.writable().await,
            Socket::Tcp(stream) => stream.writable().await,
        }
    }

    fn read(&mut self, ready: io::Result<()>, buffer: &mut [u8]) {
        let read = ready.and_then(|()| match &self.socket {
            Socket::Udp(socket) => socket.try_recv(buffer),
            Socket::Tcp(stream) => stream.try_read(buffer),
        });
        let now = self.now();
        match (read, &mut self.machine) {
            (Ok(length), Machine::Udp(device)) => {
                // What is no good is dropped; the machine counts on nothing.
                let _ = device.handle_datagram(now, &mut buffer[..length]);
            }
            (Ok(0), Machine::Tcp(_)) => self.transport_closed(),
            (Ok(length), Machine::Tcp(device)) => {
                let taken = device.handle_bytes(now, &buffer[..length]);
                self.unread.extend_from_slice(&buffer[taken..length]);
            }
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error on UDP: the protocol's own timers decide.
            (Err(_), Machine::Udp(_)) => {}
            (Err(_), Machine::Tcp(_)) => self.transport_closed(),
        }
    }

    /// Hands in what waited behind a message; says whether there was something.
    fn feed_unread(&mut self) -> bool {
        let now = self.now();
        let Machine::Tcp(device) = &mut self.machine else { return false };
        let taken = device.handle_bytes(now, &self.unread);
        self.unread.drain(..taken);
        taken > 0
    }

    /// Hands over what the machine has to say, as far as the socket takes it.
    fn flush(&mut self) {
        loop {
            if self.out_from == self.out_to {
                let now = self.now();
                let out = &mut self.out;
                let Some(length) = either!(&mut self.machine, device => device.poll_transmit(now, out))
                else {
                    return;
                };
                (self.out_from, self.out_to) = (0, length);
            }
            let frame = &self.out[self.out_from..self.out_to];
            let written = match &self.socket {
                // A datagram that the system refuses is lost like any other; it is sent again.
                Socket::Udp(socket) => match socket.try_send(frame) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(frame.len()),
                },
                Socket::Tcp(stream) => stream.try_write(frame),
            };
            match written {
                Ok(length) => self.out_from += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.out_from = self.out_to;
                    self.transport_closed();
                    return;
                }
            }
        }
    }

    fn transport_closed(&mut self) {
        if let Machine::Tcp(device) = &mut self.machine {
            device.handle_end();
        }
    }

    fn now(&self) -> usmp::Instant {
        usmp::Instant::ZERO + self.start.elapsed()
    }

    fn deadline(&self) -> Instant {
        match either!(&self.machine, device => device.poll_timeout()) {
            Some(at) => self.start + Duration::from_micros(at.as_micros()),
            None => Instant::now() + FAR,
        }
    }
}
