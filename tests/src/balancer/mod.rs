//! A load balancer of layer 4 between devices and edges, UDP and TCP on one port.
//!
//! Like the real ones, it translates addresses: each device's flow has a socket of its own towards one backend, and only what that
//! backend answers there goes back to the device. It does not look into datagrams, and passes no ICMP on unless it is told to. Who is healthy is what the
//! test says, at the moment it says so; choices follow from the seed and from the order in which flows come.

mod flows;
mod tcp;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use sluice_test_env::Port;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};

use crate::clock::now;

pub use flows::{BackendCounts, BalancerCounts, Recovery};
use flows::{Flow, Table};

/// A running load balancer; stops when dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    table: Shared,
    _port: Port,
    _stop: oneshot::Sender<()>,
}

/// The table of flows; locked for moments only, never across a wait.
#[derive(Debug, Clone)]
struct Shared {
    table: Arc<Mutex<Table>>,
    icmp: Arc<Icmp>,
}

/// What becomes of "port unreachable" from a backend's host.
#[derive(Debug, Default)]
struct Icmp {
    passed_on: AtomicBool,
    close: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the system says about a backend.
    fn heed(&self, error: &std::io::Error) {
        if error.kind() == ErrorKind::ConnectionRefused {
            self.lock().counts_mut().unreachable += 1;
            if self.icmp.passed_on.load(Ordering::Relaxed) {
                self.icmp.close.notify_one();
            }
        }
    }
}

impl Balancer {
    /// Starts to spread flows over these backends. The seed is printed.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(backends: &[SocketAddr], seed: u64) -> Result<Self> {
        let port = Port::claim()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        eprintln!("balancer: {address}, seed {seed}, backends {backends:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let table = Arc::new(Mutex::new(Table::new(backends, seed)));
        let table = Shared { table, icmp: Arc::default() };
        let (datagrams, connections) = runtime.block_on(async {
            let datagrams = UdpSocket::bind(address).await?;
            Ok::<_, std::io::Error>((datagrams, tokio::net::TcpListener::bind(address).await?))
        })?;
        let (stop, stopped) = oneshot::channel();
        let shared = table.clone();
        std::thread::Builder::new().name("balancer".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = forward(Arc::new(datagrams), &shared) => {
                        result.expect("the balancer's socket works while it runs");
                    }
                    () = tcp::accept(connections, &shared) => {}
                    // From here on the devices' datagrams meet a closed port.
                    () = shared.icmp.close.notified() => {}
                    // The balancer was dropped.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, table, _port: port, _stop: stop })
    }

    /// Where devices connect, over either transport.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these are healthy. Flows and connections of others get another one with the next datagram, or are cut.
    pub fn set_backends(&self, backends: &[SocketAddr]) {
        self.set_draining(backends, &[]);
    }

    /// From now on these are healthy, and those keep the flows they have and get no new ones.
    pub fn set_draining(&self, backends: &[SocketAddr], draining: &[SocketAddr]) {
        self.table.lock().set_backends(backends, draining);
    }

    /// From now on this one is not healthy.
    pub fn remove(&self, backend: SocketAddr) {
        let mut table = self.table.lock();
        let left: Vec<_> = table.backends().iter().copied().filter(|&left| left != backend).collect();
        table.set_backends(&left, &[]);
    }

    /// As after a restart of the balancer: flows and connections are not known any more. A device's next datagram is a new flow, from
    /// another address towards the backend, which may be another one.
    pub fn forget_flows(&self) {
        self.table.lock().forget();
    }

    /// Chooses another healthy backend for each UDP flow, if there is one, by this seed.
    pub fn remap_flows(&self, seed: u64) {
        eprintln!("balancer: remap, seed {seed}");
        self.table.lock().remap(seed);
    }

    /// From now on "port unreachable" (ICMP) from a backend's host reaches devices. To send it on would take a raw socket; so the balancer
    /// closes its own port for good at the first one, which tells every device the same with its next datagram.
    pub fn pass_icmp_on(&self) {
        self.table.icmp.passed_on.store(true, Ordering::Relaxed);
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> BalancerCounts {
        self.table.lock().counts().clone()
    }

    /// The backend of a device's UDP flow.
    #[must_use]
    pub fn backend_of(&self, device: SocketAddr) -> Option<SocketAddr> {
        self.table.lock().backend_of(device)
    }

    /// The backend of each UDP flow.
    #[must_use]
    pub fn flows(&self) -> Vec<SocketAddr> {
        self.table.lock().flows()
    }

    /// A fault happens now, and with it these backends are dead: [`Balancer::recoveries`] counts from here.
    pub fn fault(&self, dead: &[SocketAddr]) {
        self.table.lock().fault(now(), dead);
    }

    /// How each device fared since the last [`Balancer::fault`]; those that sent nothing since are left out.
    #[must_use]
    pub fn recoveries(&self) -> Vec<Recovery> {
        self.table.lock().recoveries()
    }
}

/// Carries datagrams of devices to their backends.
async fn forward(devices: Arc<UdpSocket>, table: &Shared) -> Result<()> {
    let mut datagram = [0; 2048];
    loop {
        // An error here is the echo of a device that is gone.
        let Ok((length, device)) = devices.recv_from(&mut datagram).await else { continue };
        let Some(backend) = table.lock().route(device, &datagram[..length]) else { continue };
        let known = table.lock().socket(device);
        let socket = match known {
            Some(socket) => socket,
            None => {
                let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no socket")?);
                socket.connect(backend).await.context("a loopback address can be connected to")?;
                let answers =
                    carry_answers(Arc::clone(&socket), Arc::clone(&devices), device, backend, table.clone());
                let answers = tokio::spawn(answers).abort_handle();
                table.lock().insert(device, Flow::new(backend, Arc::clone(&socket), answers));
                socket
            }
        };
        match socket.send(&datagram[..length]).await {
            Ok(_) => table.lock().carried_up(device, backend, now()),
            // Refused: nobody listens there; for the device the datagram is lost like any other.
            Err(error) => table.heed(&error),
        }
    }
}

/// Carries a backend's datagrams back to the device, until the flow is dropped.
async fn carry_answers(
    socket: Arc<UdpSocket>,
    devices: Arc<UdpSocket>,
    device: SocketAddr,
    backend: SocketAddr,
    table: Shared,
) {
    let mut datagram = [0; 2048];
    loop {
        let length = match socket.recv(&mut datagram).await {
            Ok(length) => length,
            // The echo of a backend that is down; it may come back.
            Err(error) => {
                table.heed(&error);
                continue;
            }
        };
        table.lock().carried_down(device, backend, now());
        // A device that is gone takes nothing.
        let _ = devices.send_to(&datagram[..length], device).await;
    }
}
