//! A bad network between clients and the edge: UDP through two seeded links per client.

use std::collections::HashMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use usmp::{Duration, Instant};
use usmp_testkit::link::{Conditions, Counts, Link};

use crate::clock::now;

/// More than a stop-and-wait client ever has on the way.
const ON_THE_WAY: usize = 1024;

/// Forwards datagrams between clients and a server, each direction of each client through a [`Link`] of its own.
///
/// The accidents of the n-th client's n-th datagram follow from the seed; when datagrams come follows from real time.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    counts: Arc<Mutex<(Counts, Counts)>>,
    _stop: oneshot::Sender<()>,
}

struct Flow {
    up: Link,
    down: Link,
    socket: Arc<UdpSocket>,
}

impl Relay {
    /// Starts forwarding to `server`, with these accidents on the way up and on the way down. The seed is printed.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn start(server: SocketAddr, up: Conditions, down: Conditions, seed: u64) -> Result<Self> {
        eprintln!("relay: seed {seed}, up {up:?}, down {down:?}");
        let listener = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let counts = Arc::new(Mutex::new((Counts::default(), Counts::default())));
        let shared = Arc::clone(&counts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let work = forward(listener, server, (up, down), seed, &shared);
            runtime.block_on(async {
                tokio::select! {
                    result = work => result.expect("the relay's sockets work while it runs"),
                    // The relay was dropped.
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, counts, _stop: stop })
    }

    /// Where clients shall connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far to all datagrams on the way up, and on the way down.
    #[must_use]
    pub fn counts(&self) -> (Counts, Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn forward(
    listener: std::net::UdpSocket,
    server: SocketAddr,
    (up, down): (Conditions, Conditions),
    seed: u64,
    counts: &Mutex<(Counts, Counts)>,
) -> Result<()> {
    let listener = UdpSocket::from_std(listener)?;
    let start = now();
    let mut flows = HashMap::<SocketAddr, Flow>::new();
    let (answers, mut answered) = mpsc::channel::<(SocketAddr, Vec<u8>)>(ON_THE_WAY);
    let mut datagram = [0; 2048];
    loop {
        let micros = |at: std::time::Instant| {
            Instant::from_micros(u64::try_from(at.duration_since(start).as_micros()).unwrap_or(u64::MAX))
        };
        let next = flows
            .values()
            .flat_map(|flow| [flow.up.next_arrival(), flow.down.next_arrival()])
            .flatten()
            .min();
        let arrival = async {
            match next {
                Some(at) => {
                    let at = start + Duration::from_micros(at.as_micros());
                    tokio::time::sleep_until(at.into()).await;
                }
                None => pending().await,
            }
        };
        tokio::select! {
            received = listener.recv_from(&mut datagram) => {
                // An error here is the echo of a client that is gone.
                let Ok((length, client)) = received else { continue };
                if !flows.contains_key(&client) {
                    let number = 2 * flows.len() as u64;
                    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
                    socket.connect(server).await?;
                    tokio::spawn(carry_answers(Arc::clone(&socket), client, answers.clone()));
                    let (up, down) =
                        (Link::new(up, seed.wrapping_add(number)), Link::new(down, seed.wrapping_add(number + 1)));
                    flows.insert(client, Flow { up, down, socket });
                }
                let flow = flows.get_mut(&client).context("the flow was just made")?;
                flow.up.send(micros(now()), &datagram[..length]);
            }
            Some((client, datagram)) = answered.recv() => {
                if let Some(flow) = flows.get_mut(&client) {
                    flow.down.send(micros(now()), &datagram);
                }
            }
            () = arrival => {}
        }
        let at = micros(now());
        let mut sums = (Counts::default(), Counts::default());
        for (client, flow) in &mut flows {
            while let Some(datagram) = flow.up.receive(at) {
                let _ = flow.socket.send(&datagram).await;
            }
            while let Some(datagram) = flow.down.receive(at) {
                let _ = listener.send_to(&datagram, client).await;
            }
            add(&mut sums.0, flow.up.counts());
            add(&mut sums.1, flow.down.counts());
        }
        *counts.lock().unwrap_or_else(PoisonError::into_inner) = sums;
    }
}

async fn carry_answers(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    answers: mpsc::Sender<(SocketAddr, Vec<u8>)>,
) {
    let mut datagram = [0; 2048];
    loop {
        // An error is the echo of a server that is down; it may come back.
        let Ok(length) = socket.recv(&mut datagram).await else { continue };
        if answers.send((client, datagram[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

fn add(sum: &mut Counts, counts: Counts) {
    sum.sent += counts.sent;
    sum.lost += counts.lost;
    sum.duplicated += counts.duplicated;
    sum.corrupted += counts.corrupted;
}
