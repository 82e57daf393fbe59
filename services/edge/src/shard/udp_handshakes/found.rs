//! PACKET PATH: no lock, no log, no await; allocates only when a table grows.
//!
//! Handshakes whose HELLO_ACK comes from elsewhere: through another pod, or from another address, because a balancer forgot the flow.
//!
//! A handshake is found by how its proof begins. That is no secret comparison: the table hashes what it is asked for under a key of its
//! own, so the time of a look-up tells nothing of how much of a guess is right, and what is found is then compared whole and in constant
//! time. Where a right proof came from is where the device is answered, and no more than that: someone may have copied it and been faster. The
//! session that comes of a proof from another address than its HELLO is sure of neither until one has acknowledged a sealed PING.

use std::net::SocketAddr;
use std::sync::Arc;

use usmp::crypto::Provider;
use usmp::server::{AckOutcome, MARK, MAX_PSKS};
use usmp::wire::{FrameType, HelloAck};

use super::{Accepted, Pending, UdpHandshakes, acknowledge};
use crate::counts::Count;
use crate::path::Path;
use crate::shard::core::Core;
use crate::table::Slab;
use crate::udp_io::Outbound;

/// What came of a HELLO_ACK.
#[expect(clippy::large_enum_variant, reason = "handed up a call or two, kept nowhere")]
pub(crate) enum Proving<P: Provider> {
    /// It is of no handshake here, or wrong for the one of its address.
    Unknown,
    /// A handshake here has it, and perhaps its session.
    Known(Option<Accepted<P>>),
}

impl<P: Provider> Proving<P> {
    pub(super) const WAITS: Self = Self::Known(None);

    pub(crate) fn accepted(self) -> Option<Accepted<P>> {
        match self {
            Self::Known(accepted) => accepted,
            Self::Unknown => None,
        }
    }
}

impl<P: Provider> Pending<P> {
    /// The address of the accepted proof, if that is not where the HELLO came from.
    pub(super) fn other(&self) -> Option<SocketAddr> {
        Some(self.path.address()).filter(|address| *address != self.address)
    }

    /// Whether a HELLO_ACK proves one of the keys. Changes nothing.
    pub(super) fn would_prove(&self, core: &Core, ack: &HelloAck) -> bool {
        let candidates = self.keys.candidates(&core.decoy);
        self.keys.is_ready() && self.machine.verify(ack, candidates.as_slice()).is_some()
    }
}

/// The table of marks has a place for each key of each handshake.
const fn place(at: u32, key: usize) -> u32 {
    at * MAX_PSKS as u32 + key as u32
}

fn mark_at<P: Provider>(table: &Slab<Pending<P>>, place: u32) -> Option<[u8; MARK]> {
    let keys = MAX_PSKS as u32;
    table.get(place / keys)?.marks.get((place % keys) as usize).copied().flatten()
}

impl<P: Provider> UdpHandshakes<P> {
    /// The keys of a handshake are here: it can be found by its proof.
    pub(super) fn note_marks(&mut self, core: &Core, at: u32) {
        let decoy = Arc::clone(&core.decoy);
        let Some(pending) = self.table.get_mut(at) else { return };
        // Also under keys that nobody has, so that it takes as long.
        pending.marks = pending.machine.marks(pending.keys.candidates(&decoy).as_slice());
        let marks = pending.marks;
        let table = &self.table;
        for (key, mark) in marks.iter().enumerate() {
            if let Some(mark) = mark {
                self.by_mark.insert(mark, place(at, key), |place| mark_at(table, place));
            }
        }
    }

    pub(super) fn forget_marks(&mut self, at: u32) {
        let Some(pending) = self.table.get_mut(at) else { return };
        for (key, mark) in std::mem::take(&mut pending.marks).iter().enumerate() {
            if let Some(mark) = mark {
                self.by_mark.remove(mark, place(at, key));
            }
        }
    }

    pub(super) fn find_by_proof(&self, mac: &[u8; 32]) -> Option<u32> {
        let mark = mac.first_chunk::<MARK>()?;
        let found = self.by_mark.find(mark, |place| mark_at(&self.table, place))?;
        Some(found / MAX_PSKS as u32)
    }

    /// The handshake whose proof came from here, and its HELLO from elsewhere.
    pub(super) fn find_other(&self, address: SocketAddr) -> Option<u32> {
        self.by_other.find(&address, |at| self.table.get(at).and_then(Pending::other))
    }

    /// The device is answered this way from now on.
    pub(super) fn answer_by(&mut self, at: u32, path: Path) {
        let Some(pending) = self.table.get_mut(at) else { return };
        let before = pending.other();
        pending.path = path;
        let after = pending.other();
        if let Some(before) = before {
            self.by_other.remove(&before, at);
        }
        if let Some(after) = after {
            let table = &self.table;
            self.by_other.insert(&after, at, |other| table.get(other).and_then(Pending::other));
        }
    }

    /// Takes a HELLO_ACK when one was accepted before. A repeat is answered where it comes from: who copied it gets no more than what
    /// has been sent already, and takes nothing from the device, whose own repeats have copies of their own.
    pub(super) fn proved_again(
        &mut self,
        core: &mut Core,
        out: &mut Outbound,
        at: u32,
        path: Path,
        ack: &HelloAck,
    ) -> Proving<P> {
        let Some(pending) = self.table.get_mut(at) else { return Proving::Unknown };
        if !pending.machine.is_accepted(ack) {
            // Of a newer handshake of this address, perhaps, which another pod has.
            core.counts.one(Count::DroppedProof);
            return Proving::Unknown;
        }
        if path.address() == pending.address {
            let waits = pending.unborn.is_some();
            let repeated = pending.machine.handle_hello_ack(core.now, ack, &[]);
            self.answer_by(at, path);
            if waits {
                // Answered when the ledger has heard of its session.
                core.counts.one(Count::DroppedPending);
            } else if matches!(repeated, Ok(AckOutcome::Repeated)) {
                acknowledge(out, path, FrameType::HelloAck, ack.seq);
                self.transmit(core, out, at);
            }
            return Proving::WAITS;
        }
        match pending.machine.session_ok() {
            Some(session_ok) if pending.copies_elsewhere > 0 => {
                pending.copies_elsewhere -= 1;
                acknowledge(out, path, FrameType::HelloAck, ack.seq);
                out.send(path, session_ok);
            }
            _ => core.counts.one(Count::DroppedPending),
        }
        Proving::WAITS
    }
}
