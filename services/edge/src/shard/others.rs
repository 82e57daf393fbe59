//! PACKET PATH: no lock, no log, no await; allocates only while a slot has no owner.
//!
//! What a shard hands to other shards and pods instead of acting upon it.

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, TrySendError};

use sluice_types::PodId;
use usmp::{Duration, Instant};

use super::core::Core;
use super::holds::Holds;
use super::relay::{Handed, Relay, flow};
use super::routes::Routes;
use crate::bucket::Bucket;
use crate::cluster::Place;
use crate::counts::Count;
use crate::link::{Errand, Relayed, ShardWaker};

/// How another shard is handed a datagram.
#[derive(Debug, Clone)]
pub(crate) struct PeerShard {
    pub(crate) datagrams: SyncSender<Relayed>,
    pub(crate) waker: ShardWaker,
}

/// Who is to act upon a datagram instead of the shard that received it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Elsewhere {
    /// Whoever serves this slot.
    Slot(u16),
    /// Whoever serves the slot of the session with this name, which waits if nobody is known to.
    Session(u16, [u8; 8]),
    /// This shard, which has slots where sessions can be born.
    Home(u16),
    /// This pod, which begins the handshake of a HELLO.
    Helper(PodId),
    /// Whoever has the handshake of this HELLO_ACK.
    Handshake,
    /// The pod that answered the device's handshake: what the device acknowledges is for it.
    Answerer,
}

/// Places for addresses that another pod has answered through this shard, and how long it is asked first: as long as a handshake takes.
const ANSWERERS: usize = 1024;
const ANSWERER: Duration = Duration::from_secs(10);

/// Of how many HELLO_ACKs at once all shards together ask others, or one for each shard if these are more, and how long one of these takes
/// to be free again. A balancer that forgets
/// its flows brings as many of them as handshakes are under way; what a stranger makes of this is one datagram of 44 bytes for
/// each other pod, 64 times a second.
const QUESTIONS: u32 = 64;
const QUESTION: Duration = Duration::from_micros(15_625);

/// The same for UTACKs that go to a pod which answered their address.
const ACKNOWLEDGEMENTS: u32 = 4;

/// The ways to the others.
pub(super) struct Others {
    shards: Vec<PeerShard>,
    pub(super) holds: Holds,
    /// Which pod answered a device's handshake last.
    answerers: Routes<PodId>,
    questions: Bucket,
    acknowledgements: Bucket,
}

impl Others {
    pub(super) fn new(now: Instant, shards: Vec<PeerShard>) -> Self {
        // Those of a shard that is alone are all.
        let share = u32::try_from(shards.len()).unwrap_or(u32::MAX).max(1);
        let (questions, every) = (QUESTIONS / share, QUESTION.saturating_mul(share));
        let acknowledgements =
            Bucket::new(now, questions.saturating_mul(ACKNOWLEDGEMENTS), every / ACKNOWLEDGEMENTS);
        Self {
            shards,
            holds: Holds::default(),
            answerers: Routes::new(ANSWERERS, ANSWERER),
            questions: Bucket::new(now, questions, every),
            acknowledgements,
        }
    }

    /// Another pod has answered the handshake of this address.
    pub(super) fn answered(&mut self, now: Instant, address: SocketAddr, pod: PodId) {
        self.answerers.remember(now, address, pod);
    }

    /// Hands a datagram to whom it is for.
    pub(super) fn hand_on(
        &mut self,
        core: &Core,
        relay: &Relay,
        to: Elsewhere,
        source: SocketAddr,
        datagram: &[u8],
    ) {
        let mut hold = |copied_to| match to {
            Elsewhere::Session(_, prefix) => self.holds.hold(core.now, prefix, copied_to, source, datagram),
            _ => false,
        };
        let kept = |waits| if waits { Count::DatagramsHeld } else { Count::DroppedNoOwner };
        let shard = match to {
            Elsewhere::Home(shard) => shard,
            Elsewhere::Helper(pod) => return hand_handshake_on(core, relay, pod, source, datagram),
            Elsewhere::Handshake => return self.find_handshake(core, relay, source, datagram),
            Elsewhere::Answerer => {
                return match self.answerers.find(core.now, source) {
                    Some(_) if !self.acknowledgements.take(core.now) => {
                        core.counts.one(Count::DroppedUnasked)
                    }
                    Some(pod) => hand_handshake_on(core, relay, pod, source, datagram),
                    None => core.counts.one(Count::DroppedUtack),
                };
            }
            Elsewhere::Slot(slot) | Elsewhere::Session(slot, _) => match relay.place(slot) {
                Place::Shard(shard) => shard,
                Place::Pod(pod) => match relay.datagram(pod, flow(core.shard, slot), source, datagram) {
                    Handed::Over => return core.counts.one(Count::DatagramsToPods),
                    Handed::Unfit => return core.counts.one(Count::DroppedRelayFull),
                    // If it hangs, its slots are another pod's in a second.
                    Handed::Unsurely => {
                        core.counts.one(Count::DatagramsToPods);
                        hold(Some(pod));
                        return;
                    }
                    Handed::NoLink => return core.counts.one(kept(hold(None))),
                },
                Place::Nowhere => return core.counts.one(kept(hold(None))),
            },
        };
        let Some(peer) = self.shards.get(usize::from(shard)) else {
            return core.counts.one(Count::DroppedNoOwner);
        };
        let handed = hand_over(peer, Errand::FromShard, source, datagram);
        core.counts.one(if handed { Count::DatagramsRelayed } else { Count::DroppedRelayFull });
    }

    /// Asks who has the handshake of a HELLO_ACK: the pod that answered its device before, or else everybody, within bounds. Who does not
    /// know it says nothing.
    fn find_handshake(&mut self, core: &Core, relay: &Relay, source: SocketAddr, datagram: &[u8]) {
        if let Some(pod) = self.answerers.find(core.now, source) {
            // If that one does not answer, the repeat goes to everybody.
            self.answerers.forget(source);
            return hand_handshake_on(core, relay, pod, source, datagram);
        }
        if self.shards.len() < 2 && !relay.has_links() {
            return core.counts.one(Count::DroppedUnexpected);
        }
        if !self.questions.take(core.now) {
            return core.counts.one(Count::DroppedUnasked);
        }
        core.counts.one(Count::HandshakesAsked);
        for (_, peer) in (0..).zip(&self.shards).filter(|(shard, _)| *shard != core.shard) {
            if !hand_over(peer, Errand::Handshake { from: None }, source, datagram) {
                core.counts.one(Count::DroppedRelayFull);
            }
        }
        relay.ask_all(flow(core.shard, 0), source, datagram);
    }
}

fn hand_handshake_on(core: &Core, relay: &Relay, pod: PodId, source: SocketAddr, datagram: &[u8]) {
    let handed = relay.handshake(pod, flow(core.shard, 0), source, datagram);
    core.counts.one(if handed { Count::HandshakesHandedOn } else { Count::DroppedRelayFull });
}

/// `false` when the shard's queue is full, or it is gone.
fn hand_over(peer: &PeerShard, errand: Errand, source: SocketAddr, datagram: &[u8]) -> bool {
    match peer.datagrams.try_send(Relayed::new(errand, source, datagram)) {
        Ok(()) => {
            // It looks at its queue once a second in any case.
            let _ = peer.waker.wake();
            true
        }
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    }
}
