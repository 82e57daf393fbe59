//! What the links between pods bring in.

use std::net::SocketAddr;
use std::sync::mpsc::TrySendError;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_peers::{Control, Event, Inbound, NoRoom};
use sluice_types::PodId;
use tokio::sync::mpsc;
use usmp::server::demux::{Datagram, classify};

use super::penalties;
use super::questions::Questions;
use super::slot_map::Place;
use super::start::SlotMapReader;
use crate::admission::Penalties;
use crate::clock::Clock;
use crate::counts::{Count, Counts};
use crate::link::{Errand, Relayed};
use crate::shard::{PeerShard, shard_and_slot};

/// What the cluster's task is told by links.
#[derive(Debug)]
pub(super) enum FromPeers {
    Control {
        from: PodId,
        control: Control,
    },
    /// This pod can speak to that one now.
    LinkUp(PodId),
    /// Somebody is alive, dead or draining.
    Changed,
}

/// Hands datagrams to shards, and all else to the cluster's task.
pub(super) struct Links {
    pub(super) shards: Vec<PeerShard>,
    pub(super) slots: SlotMapReader,
    pub(super) cluster: mpsc::Sender<FromPeers>,
    pub(super) penalties: Penalties,
    pub(super) clock: Clock,
    /// What this pod looks up for others.
    pub(super) questions: Mutex<Questions>,
    pub(super) counts: Arc<Counts>,
}

impl Links {
    /// A full queue loses the datagram, as any network does; its sender has a timer.
    fn hand_over(&self, shard: u16, relayed: Relayed) {
        let Some(peer) = self.shards.get(usize::from(shard)) else {
            return self.counts.one(Count::DroppedNotOwner);
        };
        match peer.datagrams.try_send(relayed) {
            Ok(()) => {
                // It looks at its queue once a second in any case.
                let _ = peer.waker.wake();
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.one(Count::DroppedRelayFull);
            }
        }
    }
}

impl Inbound for Links {
    fn datagram(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]) {
        let (shard, slot) = shard_and_slot(flow);
        let place = self.slots.borrow().of(slot);
        match place {
            Place::Shard(owner) => {
                self.hand_over(owner, Relayed::new(Errand::FromPod { pod: from, shard }, source, bytes));
            }
            // The sender will hear of it, and the device sends again.
            Place::Pod(_) | Place::Nowhere => self.counts.one(Count::DroppedNotOwner),
        }
    }

    fn handshake(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]) {
        let (shard, _) = shard_and_slot(flow);
        if let Ok(Datagram::Hello(_)) = classify(bytes) {
            // One that this pod is to do: always at the same shard, so that a repeat begins nothing new.
            let shards = self.shards.len().max(1);
            let home = self.slots.borrow().home_of((usize::from(source.port()) % shards) as u16);
            let Some(home) = home else { return self.counts.one(Count::DroppedNoSlot) };
            let errand = Errand::Handshake { from: Some((from, shard)) };
            return self.hand_over(home, Relayed::new(errand, source, bytes));
        }
        if !self.questions.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.now(), from) {
            return self.counts.one(Count::DroppedNotLookedUp);
        }
        // Any of the shards may have it: which one the kernel would have chosen depends on where the datagram comes from.
        for to in 0..self.shards.len() as u16 {
            let errand = Errand::Handshake { from: Some((from, shard)) };
            self.hand_over(to, Relayed::new(errand, source, bytes));
        }
    }

    fn reply(&self, from: PodId, flow: u32, destination: SocketAddr, bytes: &mut [u8]) {
        let (shard, _) = shard_and_slot(flow);
        self.hand_over(shard, Relayed::new(Errand::Answer { pod: from }, destination, bytes));
    }

    fn control(&self, from: PodId, control: Control) -> Result<(), NoRoom> {
        if penalties::heard(&self.penalties, self.clock, &control) {
            return Ok(());
        }
        self.cluster.try_send(FromPeers::Control { from, control }).map_err(|_| NoRoom)
    }

    fn link_up(&self, pod: PodId) {
        // Lost only when the task is far behind; it tells everybody again with its next round.
        let _ = self.cluster.try_send(FromPeers::LinkUp(pod));
    }

    fn changed(&self, _event: Event) {
        let _ = self.cluster.try_send(FromPeers::Changed);
    }
}

#[cfg(test)]
mod tests;
