//! How a session changes its owner, and what it owes its journal before the device hears of it (WIRE.md section 12.1).

use core::marker::PhantomData;

use super::route::Route;
use super::{UdpSession, event};
use crate::crypto::Provider;
use crate::server::session::commit::{CommitToken, Commits, Committed};
use crate::server::session::downlink::{Downlink, Kind};
use crate::server::session::liveness::Liveness;
use crate::server::session::rekey::RekeyMemory;
use crate::server::session::secrets::{LastRekey, PendingRekey, Resumed, SessionSecrets};
use crate::server::{MessagePool, SessionConfig};
use crate::wire::{FrameType, Utack};
use crate::{Instant, Reassembly, Role, SessionKeys, rekey};

impl<P: Provider, A: Copy + Eq> UdpSession<P, A> {
    /// Goes on with a session that another owner had. `from` is the source of the datagram that made the driver ask for it, and
    /// proves nothing: until [`is_settled`](Self::is_settled), only PINGs leave, to where an authentic frame came from.
    ///
    /// Computes nothing; when its first datagram turns out to be no frame of this session, drop it again.
    ///
    /// The first frame it seals is a PING: Python gives up a message that it had received in part together with the frame that
    /// shows the gap, which had better be one without a meaning. A session whose numbers are used up says BYE instead of anything
    /// else as soon as it knows where the device is; see [`first_number`](crate::server::first_number).
    #[must_use]
    pub fn resumed(now: Instant, from_before: Resumed, from: A, seed: u32, config: &SessionConfig) -> Self {
        let Resumed { secrets, committed, fragment_open, next_seq, established } = from_before;
        let SessionSecrets { session_id, epoch, keys, begun_by, last_rekey } = secrets;
        let mut session = Self {
            keys,
            session_id,
            memory: RekeyMemory::resumed(now, begun_by, last_rekey),
            live: Liveness::new(now, config.probe_at_latest, config).resumed(established),
            downlink: Downlink::new(seed, next_seq, config.numbers),
            commits: Commits::resumed(committed, fragment_open),
            route: Route::unsettled(from),
            reassembly: Reassembly::new(),
            buffer: None,
            epoch,
            closed: None,
            events: 0,
            fragment_ack: config.fragment_ack,
            rekey_commit: config.rekey,
            provider: PhantomData,
        };
        session.end_with_the_numbers();
        session
    }

    fn end_with_the_numbers(&mut self) {
        if self.downlink.numbers().is_ending() {
            self.downlink.want(Kind::Bye);
        }
    }

    /// A copy of the secrets, for a record that the session's next owner reads.
    #[must_use]
    pub fn secrets(&self) -> SessionSecrets {
        SessionSecrets {
            session_id: self.session_id,
            epoch: self.epoch,
            keys: self.keys.duplicate(),
            begun_by: self.memory.begun_by(),
            last_rekey: self.memory.last(),
        }
    }

    /// Takes the session out of service so that it can be [`resumed`](Self::resumed) with the numbers that its journal has. What is not
    /// committed is forgotten, and comes again.
    #[must_use]
    pub fn suspend<B: MessagePool>(mut self, pool: &mut B) -> SessionSecrets {
        self.drop_partial(pool);
        let Self { keys, session_id, memory, epoch, .. } = self;
        SessionSecrets { session_id, epoch, keys, begun_by: memory.begun_by(), last_rekey: memory.last() }
    }

    /// The REKEY that waits for [`rekey_committed`](Self::rekey_committed), with all that is to be persisted first. Makes the keys anew for
    /// each call.
    #[must_use]
    pub fn pending_rekey(&self) -> Option<PendingRekey> {
        let (salt, fingerprint, seq) = self.memory.pending()?;
        let after = SessionSecrets {
            session_id: self.session_id,
            epoch: self.epoch.saturating_add(1),
            keys: rekey::<P>(&self.keys, Role::Device, salt.expose(), self.session_id),
            begun_by: fingerprint,
            last_rekey: Some(LastRekey { old_c2s: self.keys.c2s.duplicate(), fingerprint, seq }),
        };
        Some(PendingRekey { before: self.keys.duplicate(), after })
    }

    /// The new keys are persisted and the new epoch is in the journal: switches, and gives the UTACK under the old key. `None` when
    /// this REKEY does not wait, or the session is closed.
    pub fn rekey_committed(&mut self, now: Instant, token: CommitToken) -> Option<Committed<A>> {
        if self.closed.is_some() || !self.is_pending_rekey(token) {
            return None;
        }
        let (salt, hash, seq) = self.memory.pending()?;
        let new = rekey::<P>(&self.keys, Role::Device, salt.expose(), self.session_id);
        let also_to = self.commits.settle(seq)?;
        let utack = self.switch(now, new, hash, seq);
        Some(Committed { utack, also_to })
    }

    /// The new keys could not be persisted: as if the REKEY had not come, so that a repeat of it is new.
    pub fn rekey_refused(&mut self, token: CommitToken) {
        if self.is_pending_rekey(token) {
            self.withdraw(token);
        }
    }

    pub(super) fn is_pending_rekey(&self, token: CommitToken) -> bool {
        token.epoch == self.epoch && self.memory.pending().is_some_and(|(_, _, seq)| seq == token.seq)
    }

    /// The device's REKEY takes effect. Returns its UTACK.
    pub(super) fn switch(
        &mut self,
        now: Instant,
        new: SessionKeys,
        hash: [u8; 8],
        seq: u32,
    ) -> crate::wire::UtackBytes {
        let SessionKeys { c2s: old, .. } = core::mem::replace(&mut self.keys, new);
        let utack = Utack::sealed::<P>(&old, FrameType::Rekey, seq).emit();
        self.memory = RekeyMemory::followed(now, old, hash, seq);
        self.new_epoch();
        utack
    }

    /// Brings the sending numbers that [`SessionEvent::NumbersNeeded`](super::SessionEvent) asks for, as
    /// [`first_number`](crate::server::first_number) gives them. Changes nothing and returns `false` when they are not above all
    /// that were used, or the session's numbers are not in blocks.
    pub fn extend_numbers(&mut self, next_seq: u32) -> bool {
        let extended = self.closed.is_none() && self.downlink.numbers_mut().extend(next_seq);
        if extended {
            self.events &= !event::NUMBERS;
            self.end_with_the_numbers();
        }
        extended
    }

    /// Which REKEY of the device began the epoch; see [`SessionSecrets::begun_by`].
    #[must_use]
    pub const fn begun_by(&self) -> [u8; 8] {
        self.memory.begun_by()
    }

    /// Whether the device's address is known, so that frames other than PINGs leave.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.route.is_settled()
    }

    /// Whether the frame numbered [`committed_seq`](Self::committed_seq) is a fragment, so that a message is open at it.
    #[must_use]
    pub const fn fragment_open(&self) -> bool {
        self.commits.fragment_open()
    }
}
