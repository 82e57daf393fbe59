//! Which flow goes where; no I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Flows at once; the datagrams of further ones are dropped and counted. Each holds a socket.
const MAX_FLOWS: usize = 4096;

/// What went to one backend and came from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendCounts {
    /// Datagrams that it was sent.
    pub up: u64,
    /// Datagrams that it sent.
    pub down: u64,
    /// TCP connections that it took.
    pub connections: u64,
}

/// What went through a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BalancerCounts {
    /// By backend, also those that are gone.
    pub backends: BTreeMap<SocketAddr, BackendCounts>,
    /// Flows that were begun, or begun again elsewhere.
    pub flows: u64,
    /// Datagrams of devices that are, byte for byte, the one before of the same device: repeats by the device itself.
    pub repeats: u64,
    /// Datagrams dropped because no backend was healthy, or there were too many flows.
    pub dropped: u64,
    /// TCP connections for which there was no backend.
    pub refused: u64,
    /// Times a backend's host said that nobody holds the port (ICMP "port unreachable").
    pub unreachable: u64,
}

/// How one device fared since a fault, counted from the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// The device's address.
    pub device: SocketAddr,
    /// Its first datagram that was sent to a backend that lives.
    pub reached: Duration,
    /// The first datagram that came back after that. A device that never heard of that address again has none.
    pub answered: Option<Duration>,
}

impl Recovery {
    /// How long living backends left the device without an answer.
    #[must_use]
    pub fn unanswered(&self) -> Option<Duration> {
        Some(self.answered?.saturating_sub(self.reached))
    }
}

/// A device's way to its backend. Dropped, its socket is closed and nothing comes back through it.
#[derive(Debug)]
pub(super) struct Flow {
    backend: SocketAddr,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<UdpSocket>,
    answers: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl Flow {
    pub(super) const fn new(backend: SocketAddr, socket: Arc<UdpSocket>, answers: AbortHandle) -> Self {
        Self { backend, open: Some(Open { socket, answers }) }
    }
}

#[derive(Debug)]
struct Fault {
    at: Instant,
    dead: HashSet<SocketAddr>,
    recoveries: HashMap<SocketAddr, Recovery>,
}

#[derive(Debug)]
pub(super) struct Table {
    backends: Vec<SocketAddr>,
    /// These keep the flows they have and get no new ones.
    draining: Vec<SocketAddr>,
    flows: HashMap<SocketAddr, Flow>,
    choices: ChaCha8Rng,
    counts: BalancerCounts,
    /// A hash of each device's last datagram.
    last: HashMap<SocketAddr, u64>,
    hashing: RandomState,
    fault: Option<Fault>,
    /// Changed when TCP connections shall look whether they are still wanted.
    cut: watch::Sender<Cut>,
}

/// Which TCP connections are cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cut {
    /// Connections begun in an earlier one are cut.
    pub(super) generation: u64,
    /// Connections to others are cut.
    pub(super) kept: Vec<SocketAddr>,
}

impl Table {
    pub(super) fn new(backends: &[SocketAddr], seed: u64) -> Self {
        Self {
            backends: backends.to_vec(),
            draining: Vec::new(),
            flows: HashMap::new(),
            choices: ChaCha8Rng::seed_from_u64(seed),
            counts: BalancerCounts::default(),
            last: HashMap::new(),
            hashing: RandomState::new(),
            fault: None,
            cut: watch::Sender::new(Cut { generation: 0, kept: backends.to_vec() }),
        }
    }

    pub(super) fn backends(&self) -> &[SocketAddr] {
        &self.backends
    }

    pub(super) fn set_backends(&mut self, backends: &[SocketAddr], draining: &[SocketAddr]) {
        self.backends = backends.to_vec();
        self.draining = draining.to_vec();
        self.cut.send_modify(|cut| cut.kept = [backends, draining].concat());
    }

    pub(super) fn forget(&mut self) {
        self.flows.clear();
        self.cut.send_modify(|cut| cut.generation += 1);
    }

    pub(super) fn remap(&mut self, seed: u64) {
        let mut choices = ChaCha8Rng::seed_from_u64(seed);
        let mut devices: Vec<_> = self.flows.keys().copied().collect();
        devices.sort_unstable();
        for device in devices {
            let Some(flow) = self.flows.get_mut(&device) else { continue };
            let others: Vec<_> = self.backends.iter().filter(|&&other| other != flow.backend).collect();
            if !others.is_empty() {
                *flow = Flow { backend: *others[choices.random_range(0..others.len())], open: None };
                self.counts.flows += 1;
            }
        }
    }

    /// Where a device's datagram goes; `None` if it is dropped.
    pub(super) fn route(&mut self, device: SocketAddr, datagram: &[u8]) -> Option<SocketAddr> {
        if self.last.len() < MAX_FLOWS || self.last.contains_key(&device) {
            let hash = self.hashing.hash_one(datagram);
            self.counts.repeats += u64::from(self.last.insert(device, hash) == Some(hash));
        }
        if let Some(flow) = self.flows.get(&device)
            && (self.backends.contains(&flow.backend) || self.draining.contains(&flow.backend))
        {
            return Some(flow.backend);
        }
        let full = self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&device);
        let Some(backend) = self.choose().filter(|_| !full) else {
            self.counts.dropped += 1;
            return None;
        };
        self.flows.insert(device, Flow { backend, open: None });
        self.counts.flows += 1;
        Some(backend)
    }

    /// One of the healthy backends.
    pub(super) fn choose(&mut self) -> Option<SocketAddr> {
        let count = self.backends.len();
        (count > 0).then(|| self.backends[self.choices.random_range(0..count)])
    }

    pub(super) fn socket(&self, device: SocketAddr) -> Option<Arc<UdpSocket>> {
        Some(Arc::clone(&self.flows.get(&device)?.open.as_ref()?.socket))
    }

    /// The flow has a socket now; unless it was forgotten or moved meanwhile, in which case the next datagram makes another.
    pub(super) fn insert(&mut self, device: SocketAddr, flow: Flow) {
        match self.flows.get_mut(&device) {
            Some(known) if known.backend == flow.backend => *known = flow,
            _ => {}
        }
    }

    pub(super) fn flows(&self) -> Vec<SocketAddr> {
        self.flows.values().map(|flow| flow.backend).collect()
    }

    pub(super) fn backend_of(&self, device: SocketAddr) -> Option<SocketAddr> {
        self.flows.get(&device).map(|flow| flow.backend)
    }

    pub(super) fn carried_up(&mut self, device: SocketAddr, backend: SocketAddr, now: Instant) {
        self.counts.backends.entry(backend).or_default().up += 1;
        if let Some(fault) = &mut self.fault
            && !fault.dead.contains(&backend)
        {
            let reached = now.saturating_duration_since(fault.at);
            fault.recoveries.entry(device).or_insert(Recovery { device, reached, answered: None });
        }
    }

    pub(super) fn carried_down(&mut self, device: SocketAddr, backend: SocketAddr, now: Instant) {
        self.counts.backends.entry(backend).or_default().down += 1;
        if let Some(fault) = &mut self.fault
            && !fault.dead.contains(&backend)
            && let Some(recovery) = fault.recoveries.get_mut(&device)
        {
            recovery.answered.get_or_insert_with(|| now.saturating_duration_since(fault.at));
        }
    }

    pub(super) fn fault(&mut self, at: Instant, dead: &[SocketAddr]) {
        let dead = dead.iter().copied().collect();
        self.fault = Some(Fault { at, dead, recoveries: HashMap::new() });
    }

    pub(super) fn recoveries(&self) -> Vec<Recovery> {
        let fault = self.fault.as_ref();
        let mut found: Vec<_> =
            fault.map(|fault| fault.recoveries.values().copied().collect()).unwrap_or_default();
        found.sort_unstable_by_key(|recovery| recovery.device);
        found
    }

    pub(super) const fn counts(&self) -> &BalancerCounts {
        &self.counts
    }

    pub(super) const fn counts_mut(&mut self) -> &mut BalancerCounts {
        &mut self.counts
    }

    pub(super) fn cuts(&self) -> watch::Receiver<Cut> {
        self.cut.subscribe()
    }
}
