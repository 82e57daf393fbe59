//! A shard's ends: datagrams in and out, and what wakes it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Datagrams that wait in a socket; further ones are lost.
const SOCKET: usize = 256;

type Datagrams = VecDeque<(SocketAddr, Vec<u8>)>;

/// The network's end of a shard's socket. Clones are the same socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodWire(Arc<Mutex<(Datagrams, Datagrams)>>);

impl PodWire {
    fn queues(&self) -> MutexGuard<'_, (Datagrams, Datagrams)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard reads.
    pub(crate) fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.queues().0.pop_front()
    }

    /// The shard sends.
    pub(crate) fn send(&self, target: SocketAddr, datagram: &[u8]) {
        self.queues().1.push_back((target, datagram.to_vec()));
    }

    /// A datagram arrives; `false` when the socket is full.
    pub(super) fn deliver(&self, source: SocketAddr, datagram: Vec<u8>) -> bool {
        let mut queues = self.queues();
        let fits = queues.0.len() < SOCKET;
        if fits {
            queues.0.push_back((source, datagram));
        }
        fits
    }

    /// What the shard has sent since.
    pub(super) fn sent(&self) -> Datagrams {
        std::mem::take(&mut self.queues().1)
    }

    pub(super) fn has_arrivals(&self) -> bool {
        !self.queues().0.is_empty()
    }
}

/// Wakes a shard, and whoever runs it. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    rung: Arc<AtomicBool>,
    world: Arc<Notify>,
}

impl Alarm {
    pub(super) fn new(world: Arc<Notify>) -> Self {
        Self { rung: Arc::default(), world }
    }

    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Relaxed);
        self.world.notify_one();
    }

    /// Whether it rang since.
    pub(super) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::Relaxed)
    }
}
