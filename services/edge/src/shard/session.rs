use std::net::SocketAddr;

use sluice_proto::events::v1::CloseReason;
use sluice_types::{DeviceEpoch, DeviceId};
use usmp::{Instant, SessionId};

use super::turn::Turn;

/// What the edge knows about a session beside its protocol state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) opened: Instant,
    pub(crate) device: DeviceId,
    /// Whether a sealed frame of it was authentic.
    pub(crate) established: bool,
    /// Whether its messages are handed over yet.
    pub(crate) turn: Turn,
    /// Number of its tenant in this shard.
    pub(crate) tenant: u32,
    pub(crate) key_epoch: u32,
    /// Its number among the sessions of its device; zero until the store gave one.
    pub(crate) device_epoch: DeviceEpoch,
    pub(crate) serial: u32,
    /// Generation of its slot when it was opened; zero where slots have none.
    pub(crate) birth: u32,
    /// Messages taken and not refused.
    pub(crate) messages: u32,
}

/// A session as records and events name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    pub(crate) tcp: bool,
    pub(crate) facts: Facts,
}

/// What the machine's reason is called in events.
pub(crate) const fn close_reason(reason: usmp::server::CloseReason) -> CloseReason {
    use usmp::server::CloseReason as Machine;
    match reason {
        Machine::Bye => CloseReason::Bye,
        Machine::Idle => CloseReason::Idle,
        Machine::SequenceExhausted => CloseReason::Limit,
        _ => CloseReason::Protocol,
    }
}
