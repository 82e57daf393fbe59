//! A handshake over TCP: the protocol's machine, the keys, and what waits for which.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sluice_proto::events::v1::{SecurityReason, Transport};
use sluice_types::{DeviceEpoch, DeviceId, TenantId};
use usmp::Instant;
use usmp::crypto::Provider;
use usmp::server::{DropReason, TcpHandshake, TcpHandshakeStep};
use usmp::wire::HelloAck;

use super::core::{Core, NoPlace, random, random_secret};
use super::keys::Keys;
use super::session::{Facts, Session};
use super::tcp_session::Live;
use super::turn::Turn;
use crate::counts::Count;
use crate::security::Named;

/// Bytes of CHALLENGE and SESSION_OK.
const CHALLENGE: usize = 76;
const SESSION_OK: usize = 60;

pub(crate) enum Progress {
    NeedMore,
    Consumed(usize),
}

pub(crate) struct Handshake<P: Provider> {
    machine: TcpHandshake<P>,
    keys: Keys,
    /// When the look-up began, at the latest.
    looked_up: Instant,
    owes_challenge: bool,
    ack: Option<HelloAck>,
}

/// Why a proof opens no session.
pub(crate) enum Refusal {
    /// It fits no key of the device.
    Proof(SecurityReason, Option<TenantId>),
    /// The device's public key is of low order.
    LowOrder(Named),
    /// No randomness.
    NoPlace,
    /// No room.
    Full(NoPlace, Named),
}

impl Refusal {
    pub(crate) fn report(self, core: &mut Core, device: DeviceId, address: IpAddr) {
        match self {
            Self::Proof(reason, tenant) => {
                let device = usmp::DeviceId(*device.as_bytes());
                core.refuse_proof(device, address, (reason, tenant), Transport::Tcp);
            }
            Self::LowOrder(named) => {
                core.counts.one(Count::DroppedLowOrder);
                core.refuse(SecurityReason::LowOrderKey, Some(named), Transport::Tcp);
            }
            Self::Full(why, named) => core.refuse_place(why, named, Transport::Tcp),
            Self::NoPlace => core.counts.one(Count::DroppedNoSession),
        }
    }
}

impl<P: Provider> Handshake<P> {
    pub(crate) fn new(core: &Core) -> Self {
        let config = usmp::server::HandshakeConfig {
            timeout: core.config.handshake.timeout,
            step_timeout: core.config.handshake.tcp_step_timeout,
        };
        Self {
            machine: TcpHandshake::new(core.now, &config),
            keys: Keys::Waiting,
            looked_up: core.now,
            owes_challenge: false,
            ack: None,
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Progress, DropReason> {
        match self.machine.receive(bytes)? {
            TcpHandshakeStep::NeedMore(_) => Ok(Progress::NeedMore),
            TcpHandshakeStep::Hello { consumed, .. } => {
                self.owes_challenge = true;
                Ok(Progress::Consumed(consumed))
            }
            TcpHandshakeStep::HelloAck { consumed, ack } => {
                // One proof per connection.
                if self.ack.replace(ack).is_some() {
                    return Err(DropReason::UnexpectedType);
                }
                Ok(Progress::Consumed(consumed))
            }
        }
    }

    pub(crate) fn device(&self) -> Option<DeviceId> {
        self.machine.device_id().map(|id| DeviceId::from_bytes(id.0))
    }

    /// The device whose keys are to be looked up, if they have not been.
    pub(crate) fn asks_keys(&self) -> Option<DeviceId> {
        self.device().filter(|_| matches!(self.keys, Keys::Waiting))
    }

    pub(crate) fn asked(&mut self) {
        self.keys = Keys::Asked;
    }

    pub(crate) fn found(&mut self, keys: Keys) {
        self.keys = keys;
    }

    pub(crate) const fn owes_challenge(&self) -> bool {
        self.owes_challenge
    }

    /// Makes CHALLENGE: one X25519 operation.
    pub(crate) fn challenge(&mut self, core: &Core) -> Option<[u8; CHALLENGE]> {
        let mut frame = [0; CHALLENGE];
        self.machine.challenge(core.now, random_secret()?, random()?, &mut frame).ok()?;
        self.owes_challenge = false;
        Some(frame)
    }

    /// Whether proof and keys are both there.
    pub(crate) const fn has_proof(&self) -> bool {
        self.ack.is_some() && self.keys.is_ready()
    }

    /// Whether the store gave no answer: no session, and the device may come again.
    pub(crate) const fn is_hopeless(&self) -> bool {
        self.ack.is_some() && matches!(self.keys, Keys::Unavailable)
    }

    /// Checks the proof and opens the session; one X25519 operation if it is right.
    pub(crate) fn prove(
        self,
        core: &mut Core,
        serial: u32,
        peer: SocketAddr,
    ) -> Result<(Box<Live<P>>, [u8; SESSION_OK]), Refusal> {
        let device = self.device().ok_or(Refusal::NoPlace)?;
        let ack = self.ack.ok_or(Refusal::NoPlace)?;
        let decoy = Arc::clone(&core.decoy);
        let candidates = self.keys.candidates(&decoy);
        let proof = self.machine.verify(&ack, candidates.as_slice());
        let (Some(proof), Some(keys)) = (proof, self.keys.known()) else {
            let (reason, tenant) = self.keys.failure();
            return Err(Refusal::Proof(reason, tenant.cloned()));
        };
        let key_epoch = keys.psks.get(proof.key_index()).map_or(0, |(epoch, _)| epoch.0);
        let tenant = core.tenants.number(&keys.tenant);
        let id = core.mint::<P>().ok_or(Refusal::NoPlace)?;
        let named = Named { device, tenant };
        core.take_session_place(tenant).map_err(|why| Refusal::Full(why, named))?;
        core.take_exchange();
        let config = usmp::server::SessionConfig {
            idle_timeout: core.config.session.tcp_idle_timeout,
            ..usmp::server::SessionConfig::tcp()
        };
        let mut session_ok = [0; SESSION_OK];
        let Ok(machine) = self.machine.accept(core.now, proof, id, &config, &mut session_ok) else {
            core.give_back_session_place(tenant);
            return Err(Refusal::LowOrder(named));
        };
        core.penalties.succeeded(peer.ip(), usmp::DeviceId(*device.as_bytes()));
        let facts = Facts {
            opened: core.now,
            device,
            established: false,
            turn: Turn::Waits,
            tenant,
            key_epoch,
            device_epoch: DeviceEpoch(0),
            serial,
            messages: 0,
            birth: 0,
        };
        let session = Session { id, peer, tcp: true, facts };
        Ok((Box::new(Live::new(machine, session, self.looked_up)), session_ok))
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.machine.poll_timeout()
    }

    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.machine.is_over(now)
    }
}
