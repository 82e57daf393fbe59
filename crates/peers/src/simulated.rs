//! Peers without a network, for a simulation that carries what they say: the same senders, the same view, judged by the same
//! [`Liveness`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_types::PodId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::frame::Way;
use crate::liveness::Direction;
use crate::observer::tell_overdue;
use crate::sender::Outbox;
use crate::shared::{KafkaPulse, Senders};
use crate::{Control, Event, Liveness, Member, PeerCounts, PeerSender, PeersHandle, View};

/// What a pod has said to a peer.
#[derive(Debug, Clone)]
pub enum Said {
    /// A device's datagram for the owner of its slot.
    Datagram {
        /// Comes back with the answer.
        flow: u32,
        /// The device.
        source: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A device's datagram for whoever knows its handshake, or is to begin it.
    Handshake {
        /// Comes back with the answer.
        flow: u32,
        /// The device.
        source: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The owner's answer to one.
    Reply {
        /// The datagram's.
        flow: u32,
        /// The device.
        destination: SocketAddr,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// A control frame.
    Control(Control),
}

/// The sending end of one link.
struct End {
    outbox: Arc<Outbox>,
    queue: mpsc::Receiver<Control>,
}

/// The peers of one pod, as the simulation lets it see them.
pub struct SimulatedPeers {
    handle: PeersHandle,
    senders: watch::Sender<Arc<Senders>>,
    view: watch::Sender<Arc<View>>,
    beat: watch::Sender<u64>,
    liveness: Liveness,
    me: PodId,
    ends: BTreeMap<PodId, End>,
}

impl std::fmt::Debug for SimulatedPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedPeers").field("me", &self.me).finish_non_exhaustive()
    }
}

impl SimulatedPeers {
    /// A pod that knows nobody yet. To be called within a runtime.
    #[must_use]
    pub fn new(me: PodId) -> Self {
        let (senders, senders_seen) = watch::channel(Arc::new(Senders::new()));
        let (view, view_seen) = watch::channel(Arc::new(View::of(me)));
        let (beat, beat_seen) = watch::channel(0);
        let handle = PeersHandle {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: "simulated:0".into(),
            senders: senders_seen,
            view: view_seen,
            beat: beat_seen,
            counts: Arc::new(PeerCounts::new()),
            kafka: Arc::new(KafkaPulse::new()),
        };
        let liveness = Liveness::new(Instant::now().into_std(), me);
        Self { handle, senders, view, beat, liveness, me, ends: BTreeMap::new() }
    }

    /// For the pod that is simulated.
    #[must_use]
    pub fn handle(&self) -> PeersHandle {
        self.handle.clone()
    }

    /// The pod beats; gives its counter and what it says of Kafka.
    pub fn beat(&mut self) -> (u64, Option<u32>) {
        self.beat.send_modify(|counter| *counter = counter.wrapping_add(1));
        (*self.beat.borrow(), self.handle.kafka.age_ms())
    }

    /// The pod reads the list of pods.
    pub fn members(&mut self, members: &[Member]) -> Vec<Event> {
        for member in members.iter().filter(|member| member.pod != self.me) {
            self.ends.entry(member.pod).or_insert_with(|| {
                let (outbox, queue) = Outbox::new(member.pod, 512, Arc::clone(&self.handle.counts));
                self.senders.send_modify(|senders| {
                    Arc::make_mut(senders).insert(member.pod, PeerSender(Arc::clone(&outbox)));
                });
                End { outbox, queue }
            });
        }
        self.liveness.members(Instant::now().into_std(), members);
        self.look()
    }

    /// Links to and from a peer stand from now on, or do not. Nothing happens if that is so already.
    pub fn link(&mut self, pod: PodId, stands: bool) -> Vec<Event> {
        let now = Instant::now().into_std();
        let Some(end) = self.ends.get_mut(&pod) else { return Vec::new() };
        let stood = PeerSender(Arc::clone(&end.outbox)).is_linked();
        if stands && !stood {
            end.outbox.open(&mut end.queue);
            self.liveness.link_up(now, pod, Direction::Out);
            self.liveness.link_up(now, pod, Direction::In);
        } else if !stands && stood {
            end.outbox.close(&mut end.queue);
            self.liveness.link_down(now, pod, Direction::Out);
            self.liveness.link_down(now, pod, Direction::In);
        }
        self.look()
    }

    /// The pod hears a peer's beat.
    pub fn heard(&mut self, pod: PodId, counter: u64, kafka_ok_within_ms: Option<u32>) -> Vec<Event> {
        self.liveness.heard(Instant::now().into_std(), pod, counter, kafka_ok_within_ms);
        self.look()
    }

    /// The peer's address refuses connections.
    pub fn refused(&mut self, pod: PodId) -> Vec<Event> {
        self.liveness.refused(Instant::now().into_std(), pod);
        self.look()
    }

    /// Time has passed for the pod.
    pub fn tick(&mut self) -> Vec<Event> {
        if let Some(at) = self.handle.kafka.last() {
            self.liveness.kafka_answered(at.into_std());
        }
        let now = Instant::now().into_std();
        self.liveness.handle_timeout(now);
        tell_overdue(&self.liveness, now, &self.senders.borrow());
        self.look()
    }

    /// Takes what the pod has said to a peer since.
    pub fn said(&mut self, pod: PodId) -> Vec<Said> {
        let Some(end) = self.ends.get_mut(&pod) else { return Vec::new() };
        let mut said = Vec::new();
        while let Ok(control) = end.queue.try_recv() {
            said.push(Said::Control(control));
        }
        while let Some(packet) = end.outbox.packets.pop() {
            let (flow, bytes) = (packet.flow, packet.bytes().to_vec());
            said.push(match packet.way {
                Way::ToOwner => Said::Datagram { flow, source: packet.address, bytes },
                Way::ToHandshake => Said::Handshake { flow, source: packet.address, bytes },
                Way::Back => Said::Reply { flow, destination: packet.address, bytes },
            });
        }
        said
    }

    fn look(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.liveness.poll_event() {
            events.push(event);
        }
        let fresh = View::from_machine(self.me, &self.liveness);
        self.view.send_if_modified(|view| {
            let differs = **view != fresh;
            if differs {
                *view = Arc::new(fresh);
            }
            differs
        });
        events
    }
}

/// How often a pod beats; it ticks as often as [`TICK`](crate::TICK) says.
pub const BEAT: Duration = crate::HEARTBEAT;
