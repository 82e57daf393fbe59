use core::marker::PhantomData;

use crate::crypto::Provider;
use crate::server::timers::later;
use crate::wire::{FrameType, HEADER, Header, Utack, UtackBytes};
use crate::{Duration, Instant, Secret, SessionId, open_frame};

/// How long BYE is acknowledged after the end (WIRE.md section 12, rule 13).
const LINGER: Duration = Duration::from_secs(15);

/// What is left of a UDP session that ended: it acknowledges BYE, without which the device would block for its whole
/// retransmission budget. The driver keeps it by the prefix of the session id until [`until`](Self::until).
#[derive(Debug)]
pub struct Lingering<P> {
    c2s: Secret<32>,
    session_id: SessionId,
    until: Instant,
    provider: PhantomData<fn() -> P>,
}

impl<P: Provider> Lingering<P> {
    pub(super) fn new(now: Instant, c2s: Secret<32>, session_id: SessionId) -> Self {
        Self { c2s, session_id, until: later(now, LINGER), provider: PhantomData }
    }

    /// Whose end it was.
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// When to drop it.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// The UTACK for a classified datagram that is an authentic BYE, to be sent to its source. Opens the frame in place.
    #[must_use]
    pub fn handle_datagram(&self, now: Instant, datagram: &mut [u8]) -> Option<UtackBytes> {
        let (header, _) = Header::parse(datagram.first_chunk::<HEADER>()?).ok()?;
        if header.frame_type != FrameType::Bye || now >= self.until {
            return None;
        }
        let opened = open_frame::<P>(&self.c2s, self.session_id, datagram).ok()?;
        Some(Utack::sealed::<P>(&self.c2s, FrameType::Bye, opened.seq).emit())
    }
}
