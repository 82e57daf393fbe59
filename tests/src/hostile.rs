//! Peers that mean harm or are broken.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sluice_types::DeviceId;
use usmp::wire::{FrameType, Hello, MAX_FRAME, emit};

/// A HELLO frame as the SDK of 1.0 writes it.
#[must_use]
pub fn hello(device: DeviceId, public_key: [u8; 32], cookie: Option<[u8; 16]>) -> Vec<u8> {
    let hello = Hello { seq: 0, device_id: usmp::DeviceId(*device.as_bytes()), public_key, cookie };
    let mut frame = [0; MAX_FRAME];
    let length = hello.emit(&mut frame).expect("a HELLO fits a frame");
    frame[..length].to_vec()
}

/// A well-formed frame of any type.
#[must_use]
pub fn frame(frame_type: FrameType, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = [0; MAX_FRAME];
    let length = emit(frame_type, seq, payload, &mut frame).expect("the payload fits a frame");
    frame[..length].to_vec()
}

/// How long the other side keeps this connection open, at most `limit`.
///
/// # Errors
/// It is still open after `limit`.
pub fn until_closed(stream: &mut TcpStream, limit: Duration) -> Result<Duration> {
    let start = crate::now();
    let mut rest = [0; 256];
    loop {
        let left = limit.saturating_sub(crate::now().duration_since(start));
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut rest) {
            Ok(0) => return Ok(crate::now().duration_since(start)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Ok(crate::now().duration_since(start));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("the connection is still open after {limit:?}"));
            }
        }
    }
}

/// Connections that never say anything, and connections that say a HELLO byte by byte.
#[derive(Debug)]
pub struct SlowPeers {
    silent: Vec<TcpStream>,
    slow: Vec<TcpStream>,
}

impl SlowPeers {
    /// Opens `each` of both kinds.
    ///
    /// # Errors
    /// The server does not accept them.
    pub fn open(server: SocketAddr, each: usize) -> Result<Self> {
        let connect = || TcpStream::connect_timeout(&server, Duration::from_secs(5));
        let open = || (0..each).map(|_| connect()).collect::<std::io::Result<Vec<_>>>();
        Ok(Self { silent: open()?, slow: open()? })
    }

    /// Sends one byte every `pause` on each slow connection, never a whole HELLO, until the server has closed all of
    /// both kinds; gives the longest time one of them was open.
    ///
    /// # Errors
    /// Some are still open after `limit`.
    pub fn outlast(mut self, pause: Duration, limit: Duration) -> Result<Duration> {
        let start = crate::now();
        let bytes = hello(DeviceId::from_bytes([2; 6]), [9; 32], None);
        let mut sent = 0;
        let mut open = self.slow.len();
        while open > 0 && crate::now().duration_since(start) < limit {
            // The last byte never comes.
            let byte = &bytes[sent..=sent];
            sent = (sent + 1).min(bytes.len() - 2);
            self.slow.retain_mut(|stream| stream.write_all(byte).is_ok());
            open = self.slow.len();
            std::thread::sleep(pause);
        }
        anyhow::ensure!(open == 0, "{open} slow connections are still open after {limit:?}");
        for stream in &mut self.silent {
            until_closed(stream, limit)?;
        }
        Ok(crate::now().duration_since(start))
    }
}

/// HELLOs of invented devices from many loopback addresses: first ones without a cookie, and ones with an invented cookie.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Starts to flood `server`, which must be on loopback, from `addresses` addresses 127.x.y.z, with about `rate`
    /// datagrams a second.
    ///
    /// # Errors
    /// No sockets can be had.
    pub fn start(server: SocketAddr, addresses: usize, rate: u32, seed: u64) -> Result<Self> {
        eprintln!("flood: seed {seed}, {rate} datagrams/s from {addresses} addresses");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sockets = Vec::new();
        for _ in 0..addresses {
            let address =
                Ipv4Addr::new(127, rng.random_range(1..255), rng.random(), rng.random_range(1..255));
            let socket = UdpSocket::bind((address, 0)).with_context(|| format!("cannot bind {address}"))?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let start = crate::now();
            let mut due = 0_u64;
            while !stopping.load(Ordering::Relaxed) {
                let elapsed = crate::now().duration_since(start).as_secs_f64();
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
                let target = (elapsed * f64::from(rate)) as u64;
                while due < target {
                    due += 1;
                    let cookie = rng.random_bool(0.5).then(|| rng.random());
                    let datagram = hello(DeviceId::from_bytes(rng.random()), rng.random(), cookie);
                    let socket = &sockets[rng.random_range(0..sockets.len())];
                    if socket.send_to(&datagram, server).is_ok() {
                        counting.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Stops it; gives the number of datagrams sent.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.end();
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by itself, and shows as a low count.
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

/// Somebody on the way of one UDP device who records what it sends.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

/// How soon a tap that is dropped notices.
const TAP_TURN: Duration = Duration::from_millis(100);

/// Datagrams that a tap keeps.
const RECORDED: usize = 4096;

impl Tap {
    /// Forwards datagrams between one device and `server`.
    ///
    /// # Errors
    /// No sockets can be had.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let socket = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket")?;
            socket.set_read_timeout(Some(TAP_TURN))?;
            Ok::<_, anyhow::Error>(Arc::new(socket))
        };
        let (near, far) = (socket()?, socket()?);
        far.connect(server).context("a loopback address can be connected to")?;
        let tap = Self { address: near.local_addr()?, recorded: Arc::default(), stop: Arc::default() };
        let device = Arc::new(Mutex::new(None));
        let (recorded, stop) = (Arc::clone(&tap.recorded), Arc::clone(&tap.stop));
        let (from, to, comes_from) = (Arc::clone(&near), Arc::clone(&far), Arc::clone(&device));
        std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, device)) = from.recv_from(&mut datagram) else { continue };
                *locked(&comes_from) = Some(device);
                let mut recorded = locked(&recorded);
                if recorded.len() < RECORDED {
                    recorded.push(datagram[..length].to_vec());
                }
                // Refused: for the device it is lost like any other.
                let _ = to.send(&datagram[..length]);
            }
        });
        let stop = Arc::clone(&tap.stop);
        std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = far.recv(&mut datagram) else { continue };
                if let Some(device) = *locked(&device) {
                    let _ = near.send_to(&datagram[..length], device);
                }
            }
        });
        Ok(tap)
    }

    /// Where the device shall send.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it sent so far.
    #[must_use]
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        locked(&self.recorded).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
