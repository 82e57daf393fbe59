//! PACKET PATH: no lock, no log, no await; allocates only when a pod is seen for the first time.
//!
//! The way to other shards and pods, and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_peers::{PeerSender, PeersHandle, SendError, View, owner_of_source};
use sluice_types::PodId;
use tokio::sync::watch;

use crate::cluster::{Place, SlotMap};
use crate::path::Via;

/// Links to the other pods, by pod.
pub(crate) type Senders = Arc<BTreeMap<PodId, PeerSender>>;

/// Pods that a shard has numbers for. A pod gets a new id at each start, so in three years of daily roll-outs of a hundred pods this is
/// reached once; sessions that come through a pod beyond it are answered by nobody, until this process restarts.
const MAX_PODS: usize = u16::MAX as usize - 1;

/// What a shard knows of the others.
#[derive(Debug)]
pub(crate) struct Relay {
    slot_map: watch::Receiver<Arc<SlotMap>>,
    known: Arc<SlotMap>,
    senders: Option<watch::Receiver<Senders>>,
    links: Senders,
    view: Option<watch::Receiver<Arc<View>>>,
    /// Pods that do the handshakes of those that cannot, and whether that has to be looked at again.
    helpers: Vec<PodId>,
    helpers_moved: bool,
    /// Pods by their number in a [`Path`](crate::path::Path).
    pods: Vec<PodId>,
}

/// Names the slot that a relayed datagram is for, and the shard that waits for the answer: the flow of a peer link.
pub(crate) const fn flow(shard: u16, slot: u16) -> u32 {
    (shard as u32) << 16 | slot as u32
}

/// The shard and the slot of a flow.
pub(crate) const fn shard_and_slot(flow: u32) -> (u16, u16) {
    ((flow >> 16) as u16, flow as u16)
}

/// What became of a datagram for another pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    Over,
    /// To a pod that may hang.
    Unsurely,
    NoLink,
    Unfit,
}

impl Relay {
    /// `peers` is `None` where there are no other pods.
    pub(crate) fn new(slot_map: watch::Receiver<Arc<SlotMap>>, peers: Option<&PeersHandle>) -> Self {
        let known = Arc::clone(&slot_map.borrow());
        let senders = peers.map(PeersHandle::senders);
        let links = senders.as_ref().map(|senders| Arc::clone(&senders.borrow())).unwrap_or_default();
        Self {
            slot_map,
            known,
            senders,
            links,
            view: peers.map(PeersHandle::view),
            helpers: Vec::new(),
            helpers_moved: true,
            pods: Vec::new(),
        }
    }

    /// For a shard on its own.
    #[cfg(test)]
    pub(crate) fn alone(shards: u16) -> Self {
        Self::new(watch::channel(Arc::new(SlotMap::alone(shards))).1, None)
    }

    /// Takes in what has changed; looks without a lock. `true` when slots have other owners.
    pub(crate) fn refresh(&mut self) -> bool {
        let moved = self.slot_map.has_changed().unwrap_or(false);
        if self.slot_map.has_changed().unwrap_or(false) {
            self.known = Arc::clone(&self.slot_map.borrow_and_update());
            self.helpers_moved = true;
        }
        if let Some(senders) = &mut self.senders
            && senders.has_changed().unwrap_or(false)
        {
            self.links = Arc::clone(&senders.borrow_and_update());
        }
        moved
    }

    pub(crate) fn place(&self, slot: u16) -> Place {
        self.known.of(slot)
    }

    pub(crate) fn home_of(&self, shard: u16) -> Option<u16> {
        self.known.home_of(shard)
    }

    /// The number of a pod, for a path through it.
    pub(crate) fn number_of(&mut self, pod: PodId) -> Option<u16> {
        let at = self.pods.iter().position(|known| *known == pod);
        let at = at.or_else(|| {
            (self.pods.len() < MAX_PODS).then(|| {
                self.pods.push(pod);
                self.pods.len() - 1
            })
        })?;
        u16::try_from(at).ok()
    }

    /// Hands a device's datagram to the pod that serves its slot.
    pub(crate) fn datagram(&self, pod: PodId, flow: u32, source: SocketAddr, bytes: &[u8]) -> Handed {
        let Some(link) = self.links.get(&pod) else { return Handed::NoLink };
        match link.try_datagram(flow, source, bytes) {
            Ok(()) if link.is_overdue() => Handed::Unsurely,
            Ok(()) => Handed::Over,
            Err(SendError::NoLink) => Handed::NoLink,
            Err(_) => Handed::Unfit,
        }
    }

    /// Whether a datagram that waits for its slot's owner can go: the owner is known, within reach, and not the pod that has a copy.
    pub(crate) fn can_go(&self, slot: u16, copied_to: Option<PodId>) -> bool {
        match self.known.of(slot) {
            Place::Nowhere => false,
            Place::Shard(_) => true,
            Place::Pod(pod) => {
                copied_to != Some(pod) && self.links.get(&pod).is_some_and(PeerSender::is_linked)
            }
        }
    }

    /// The pod that does the handshakes of this address when this one cannot: one of those that live, do not drain, serve a slot, and are
    /// linked. Pods that see the same name the same.
    pub(crate) fn helper(&mut self, source: SocketAddr) -> Option<PodId> {
        let view = self.view.as_mut()?;
        if std::mem::take(&mut self.helpers_moved) || view.has_changed().unwrap_or(false) {
            let view = view.borrow_and_update();
            let helps = |pod: &PodId| view.peer(*pod).is_some_and(|peer| peer.linked && peer.is_candidate());
            self.helpers = self.known.pods();
            self.helpers.retain(helps);
        }
        owner_of_source(source, &self.helpers)
    }

    /// Hands a datagram of a handshake to a pod; `false` when the link has no room or is gone.
    pub(crate) fn handshake(&self, pod: PodId, flow: u32, source: SocketAddr, bytes: &[u8]) -> bool {
        self.links.get(&pod).is_some_and(|link| link.try_handshake(flow, source, bytes).is_ok())
    }

    /// Hands it to every pod that there is a link to.
    pub(crate) fn ask_all(&self, flow: u32, source: SocketAddr, bytes: &[u8]) {
        for link in self.links.values() {
            // One without a link is away, or will be asked when the device repeats itself.
            let _ = link.try_handshake(flow, source, bytes);
        }
    }

    /// Whether there are other pods.
    pub(crate) fn has_links(&self) -> bool {
        self.links.values().any(PeerSender::is_linked)
    }

    /// Lets a datagram leave where the device is reached; `false` when the link has no room or is gone.
    pub(crate) fn reply(&self, via: Via, destination: SocketAddr, bytes: &[u8]) -> bool {
        let link = self.pods.get(usize::from(via.pod)).and_then(|pod| self.links.get(pod));
        link.is_some_and(|link| link.try_reply(flow(via.shard, 0), destination, bytes).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use sluice_peers::Member;
    use sluice_peers::simulated::SimulatedPeers;

    use super::*;

    #[test]
    fn a_flow_names_shard_and_slot() {
        assert_eq!(shard_and_slot(flow(3, 1023)), (3, 1023));
        assert_eq!(shard_and_slot(flow(u16::MAX, 0)), (u16::MAX, 0));
    }

    #[test]
    fn pods_keep_their_numbers() {
        let mut relay = Relay::alone(1);
        let pods = [PodId::from_bytes([1; 16]), PodId::from_bytes([2; 16])];
        assert_eq!(pods.map(|pod| relay.number_of(pod)), [Some(0), Some(1)]);
        assert_eq!(relay.number_of(pods[0]), Some(0));
        assert!(
            !relay.reply(Via { pod: 0, shard: 0 }, ([127, 0, 0, 1], 1).into(), b"x"),
            "no link, no answer"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pod_that_may_hang_was_given_can_go_to_the_next_owner_alone() {
        let [other, next] = [PodId::from_bytes([2; 16]), PodId::from_bytes([3; 16])];
        let member = |pod| Member::new(pod, "simulated:0", 1);
        let mut peers = SimulatedPeers::new(PodId::from_bytes([1; 16]));
        peers.members(&[member(other), member(next)]);
        let (owners, slot_map) = watch::channel(Arc::new(SlotMap::new(vec![Place::Pod(other)])));
        let mut relay = Relay::new(slot_map, Some(&peers.handle()));
        let source = ([192, 0, 2, 1], 4000).into();
        assert_eq!(relay.datagram(other, 0, source, b"x"), Handed::NoLink);
        assert!(!relay.can_go(0, None), "nobody could take it there");

        peers.link(other, true);
        peers.link(next, true);
        assert_eq!(relay.datagram(other, 0, source, b"x"), Handed::Over);
        assert!(relay.can_go(0, None));

        // Three beats are missing.
        for _ in 0..6 {
            tokio::time::advance(sluice_peers::TICK).await;
            peers.tick();
        }
        assert_eq!(relay.datagram(other, 0, source, b"x"), Handed::Unsurely);
        assert!(!relay.can_go(0, Some(other)), "it has it");
        owners.send_replace(Arc::new(SlotMap::new(vec![Place::Nowhere])));
        assert!(relay.refresh() && !relay.can_go(0, Some(other)), "it is being adopted");
        owners.send_replace(Arc::new(SlotMap::new(vec![Place::Pod(next)])));
        assert!(relay.refresh() && relay.can_go(0, Some(other)));

        peers.heard(other, 2, None);
        peers.tick();
        assert_eq!(relay.datagram(other, 0, source, b"x"), Handed::Over, "it was only slow");
    }
}
