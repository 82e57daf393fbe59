//! What the links count. Names are enums, never a pod or an address.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One thing that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        impl Count {
            /// Everything that is counted.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in metrics, below `sluice.peers.`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

counts! {
    /// Links that came to stand, by either end.
    LinksOpened = "links.opened";
    /// Links that ended; open ones are the difference.
    LinksEnded = "links.ended";
    /// Links replaced by a fresh one without a gap.
    LinksRenewed = "links.renewed";
    /// Dials that the other host refused.
    DialsRefused = "dials.refused";
    /// Dials answered by another pod of the cluster than the one expected: it has taken the place of one that is gone.
    DialsMisdirected = "dials.misdirected";
    /// Dials that failed otherwise.
    DialsFailed = "dials.failed";
    /// Connections accepted.
    Accepted = "accepted";
    /// Times the system gave no connection although one waited.
    AcceptsFailed = "accepts.failed";
    /// Handshakes refused, at either end, because the peer's certificate does not hold or is missing.
    WrongCredentials = "refused.credentials";
    /// Handshakes that a pod of the cluster gave up since it had looked for another pod here: one that is gone, and whose record is still
    /// there. The other end counts a misdirected dial.
    LookedForAnother = "refused.misdirected";
    /// Handshakes that were no TLS 1.3 or broke it.
    BrokenHandshakes = "refused.handshake";
    /// Handshakes not done in time.
    SlowHandshakes = "refused.slow";
    /// Handshakes given up because too many came after them.
    CrowdedOut = "refused.crowded";
    /// Links whose first frame is wrong, of another version, or names another pod than the certificate.
    WrongHello = "refused.hello";
    /// Links beyond the largest number of peers, or beyond those one pod needs.
    TooManyLinks = "refused.links";
    /// Member records beyond the largest number of peers.
    TooManyMembers = "refused.members";
    /// Links ended because a frame was malformed or out of place.
    BadFrames = "frames.bad";
    /// Frames of a newer version, skipped.
    UnknownFrames = "frames.unknown";
    /// Links ended because the peer took nothing for too long.
    Stalled = "links.stalled";
    /// Links ended because the peer said nothing for too long.
    Idle = "links.idle";
    /// Links ended because their secret has left the ring.
    Outdated = "links.outdated";
    /// Links ended because the user of the crate had no room for a control frame.
    ControlRefused = "control.refused";
    /// Control frames that were queued when their link ended; both sides are told of the end.
    ControlLost = "control.lost";
    /// Control frames sent.
    ControlSent = "control.sent";
    /// Control frames received.
    ControlReceived = "control.received";
    /// Datagrams and replies sent.
    DatagramsSent = "datagrams.sent";
    /// Datagrams and replies received.
    DatagramsReceived = "datagrams.received";
    /// Datagrams and replies pushed out of a full ring by newer ones.
    DatagramsDropped = "datagrams.dropped";
    /// Datagrams and replies given for a peer without a link, or too long.
    DatagramsUnsent = "datagrams.unsent";
    /// Heartbeats sent.
    HeartbeatsSent = "heartbeats.sent";
    /// Heartbeats received.
    HeartbeatsReceived = "heartbeats.received";
    /// Certificates that could not be renewed; the ones before stay in use.
    IdentityFailed = "identity.failed";
}

/// The counters of one [`crate::Peers`].
#[derive(Debug)]
pub struct PeerCounts([AtomicU64; Count::ALL.len()]);

impl PeerCounts {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// How often it has happened since the start.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "one cell per variant")]
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: Count) {
        self.add_many(count, 1);
    }

    #[expect(clippy::indexing_slicing, reason = "one cell per variant")]
    pub(crate) fn add_many(&self, count: Count, times: u64) {
        self.0[count as usize].fetch_add(times, Ordering::Relaxed);
    }
}
