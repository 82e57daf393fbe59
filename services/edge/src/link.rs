//! What shards, the fleet and the process say to each other. Every queue has a bound; nobody waits for a shard but async tasks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::Waker;
use sluice_bus::{Group, SessionState};
use sluice_proto::events::v1::CloseReason;
use sluice_store::{HoldReason, KeyLookup, SessionRecord};
use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId, TenantId};
use tokio::sync::{mpsc, oneshot};
use usmp::Instant;
use usmp::server::CommitToken;

use crate::path::Path;
use crate::secrets::Secrets;
use crate::shard::Sink;
use crate::udp_io::SLOT;

/// A session, by where it lives. `serial` tells it from others that had the same place before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionRef {
    pub(crate) shard: u16,
    pub(crate) tcp: bool,
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

impl SessionRef {
    /// The writer that keeps the order of its messages.
    pub(crate) const fn writer(self) -> u16 {
        self.shard
    }
}

/// What a shard is told.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// Answer to a look-up; `None` when the store did not answer.
    Keys { handshake: SessionRef, lookup: Option<Lookup> },
    /// Nothing that the device sent before is open any more: hand this session's messages over.
    Go { session: SessionRef },
    /// End this session.
    Close { session: SessionRef, reason: CloseReason },
    /// Bring this to the device.
    Send { session: SessionRef, payload: Box<[u8]>, done: SendReply },
    /// The store gave this session its number among those of its device; `clone_suspected` when they keep displacing each other.
    Claimed { session: SessionRef, epoch: DeviceEpoch, clone_suspected: bool },
    /// The device has a newer session: this one is over, should it sleep here.
    CloseSleeping { device: DeviceId, session: SessionId },
    /// The secrets that all pods share have changed.
    Secrets(Box<Secrets>),
    /// A slot is this shard's now.
    SlotAdopted(Box<AdoptedSlot>),
    /// Commit what was taken for this slot by then, and give it up.
    SlotLeaves { slot: u16, until: Instant },
    /// What the store has about a session that wakes.
    SessionFound { session: SessionId, found: Found },
    /// The new keys of a session are in the store, or could not be written.
    SessionKept { kept: Kept, written: bool },
    /// Accept nobody any more.
    StopAccepting,
    /// Say farewell to every session, by this time.
    Farewell { until: Instant },
    /// Give up what is left and end the thread.
    Stop,
}

/// What the store knows of a device that shakes hands.
#[derive(Debug)]
pub(crate) enum Lookup {
    Keys(KeyLookup),
    /// It may connect, but not now.
    Held {
        tenant: TenantId,
        reason: HoldReason,
    },
}

/// A slot that this pod has adopted.
#[derive(Debug)]
pub(crate) struct AdoptedSlot {
    pub(crate) slot: u16,
    /// Which adoption it was among all of this process, in rising order.
    pub(crate) adoption: u64,
    pub(crate) generation: u32,
    pub(crate) writer: Sink,
    pub(crate) sessions: Vec<SessionState>,
    /// There was a snapshot of it that could not be used.
    pub(crate) snapshot_discarded: bool,
}

/// The answer of the store about a session.
#[derive(Debug)]
pub(crate) enum Found {
    Record {
        record: Box<SessionRecord>,
        /// Whether the device may connect, as the registry said after `looked_up`.
        may_connect: bool,
        looked_up: Instant,
    },
    /// None, or one that is not to be trusted: nobody has the session's keys.
    Nothing,
    NoAnswer,
}

/// A REKEY that waits until it is persisted, and where its UTACK goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) session: SessionRef,
    pub(crate) token: CommitToken,
    pub(crate) source: Path,
}

/// What the writers of slots tell their shard.
#[derive(Debug)]
pub(crate) enum SlotNews {
    /// A group is final.
    Settled { slot: u16, adoption: u64, group: Group },
    /// The slot has another owner, or nobody knows what is committed. Nothing follows of this adoption.
    Lost { slot: u16, adoption: u64 },
}

/// What the cluster is told by shards: at most one message for each slot that it gave away.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToCluster {
    /// The slot was lost.
    Lost { slot: u16 },
    /// The slot is free: everything taken for it is committed, or was given up.
    Left { slot: u16 },
}

/// What the fleet is told by shards.
#[derive(Debug)]
pub(crate) enum ToFleet {
    /// A device proved its key; its keys were looked up at `looked_up`.
    Born { session: SessionRef, device: DeviceId, id: SessionId, looked_up: Instant },
    /// A sealed frame of it was authentic: the session is the device's from now on.
    Established { session: SessionRef, device: DeviceId },
    /// No message of it is handed over any more. What was lies in the groups of its writer up to `mark`; 0 when all of it is settled.
    Parted { session: SessionRef, device: DeviceId, mark: u64 },
    /// This pod goes on with a session that another one had, if its device `may_connect`, by a look-up after `looked_up`.
    Resumed {
        session: SessionRef,
        device: DeviceId,
        id: SessionId,
        established: bool,
        epoch: DeviceEpoch,
        may_connect: bool,
        looked_up: Instant,
    },
    /// It is over here; elsewhere it goes on if its slot `moved`.
    Ended { session: SessionRef, device: DeviceId, moved: bool },
    /// The groups of a writer up to this one are settled. Told while somebody may wait for it.
    Settled { writer: u16, up_to: u64 },
}

/// What the fleet is asked from outside.
#[derive(Debug)]
pub(crate) enum Command {
    Send {
        device: DeviceId,
        payload: Box<[u8]>,
        done: SendReply,
    },
    Connected {
        device: DeviceId,
        reply: oneshot::Sender<bool>,
    },
    /// Another pod has a newer session of the device, of this number.
    Displaced {
        device: DeviceId,
        session: SessionId,
        by: DeviceEpoch,
    },
}

/// Where the outcome of a send goes.
pub(crate) type SendReply = oneshot::Sender<Result<(), SendError>>;

/// Why bytes did not reach a device, as far as the edge can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No session of the device here.
    #[error("the device has no session here")]
    NotConnected,
    /// More than a message can carry.
    #[error("a message to a device has at most 1808 bytes")]
    TooLong,
    /// Too many messages wait already.
    #[error("too many messages wait for devices")]
    Busy,
    /// The device did not acknowledge it in time; it may have arrived all the same.
    #[error("the device did not acknowledge the message")]
    NotAcknowledged,
    /// The session ended before it was known to have arrived.
    #[error("the session ended before the device acknowledged the message")]
    SessionEnded,
    /// The edge is stopping.
    #[error("the edge is stopping")]
    Stopping,
}

/// A datagram on its way to the shard that is to act upon it.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) errand: Errand,
    /// The device's address.
    pub(crate) address: SocketAddr,
    length: u16,
    bytes: [u8; SLOT],
}

/// What to do with a relayed datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Errand {
    /// Another shard of this pod received it.
    FromShard,
    /// Another pod received it, by the shard of its own that waits for the answer.
    FromPod { pod: PodId, shard: u16 },
    /// Another shard of this pod, or another pod by that shard of its own, received it, and looks for its handshake. It is handed on
    /// to nobody.
    Handshake { from: Option<(PodId, u16)> },
    /// Another pod's answer to a device that reaches this one.
    Answer { pod: PodId },
}

impl Relayed {
    /// Copies the datagram; what is longer than any frame is cut, and no frame then.
    pub(crate) fn new(errand: Errand, address: SocketAddr, datagram: &[u8]) -> Self {
        let length = datagram.len().min(SLOT);
        let mut bytes = [0; SLOT];
        if let (Some(room), Some(datagram)) = (bytes.get_mut(..length), datagram.get(..length)) {
            room.copy_from_slice(datagram);
        }
        Self { errand, address, length: length as u16, bytes }
    }

    pub(crate) fn datagram(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Wakes a shard's thread from its sleep.
#[derive(Debug, Clone)]
pub(crate) enum ShardWaker {
    Poll(Arc<Waker>),
    /// Of a shard that has no thread.
    #[cfg(test)]
    Simulated(crate::simulation::Alarm),
}

impl ShardWaker {
    pub(crate) fn wake(&self) -> io::Result<()> {
        match self {
            Self::Poll(waker) => waker.wake(),
            #[cfg(test)]
            Self::Simulated(alarm) => {
                alarm.ring();
                Ok(())
            }
        }
    }
}

/// How async tasks reach a shard.
#[derive(Debug, Clone)]
pub(crate) struct ShardLink {
    inbox: mpsc::Sender<ToShard>,
    waker: ShardWaker,
}

impl ShardLink {
    pub(crate) const fn new(inbox: mpsc::Sender<ToShard>, waker: ShardWaker) -> Self {
        Self { inbox, waker }
    }

    /// Hands a message over, waiting for room; a shard that is gone needs none.
    pub(crate) async fn send(&self, message: ToShard) {
        if self.inbox.send(message).await.is_ok()
            && let Err(error) = self.waker.wake()
        {
            // The shard then sees it at its next wake-up, at most a second later.
            tracing::warn!(%error, "a shard was not woken");
        }
    }

    /// Ends the shard, if it has room for the message; for a start that failed half-way.
    pub(crate) fn try_stop(&self) {
        let _full_or_gone = self.inbox.try_send(ToShard::Stop);
        let _wakes_by_itself = self.waker.wake();
    }
}
