/// What a new authentic frame means for the downlink's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It came from where the device is known to be.
    Home,
    /// The first from another address: a PING goes there.
    NewCandidate,
    /// One more from there, which is not enough: the PING goes there again if none is out.
    SameCandidate,
    /// One more from there, which is enough.
    Moved,
}

/// Where a session's frames go (WIRE.md section 12.2, item 4).
///
/// An address is never adopted from one frame. Two new ones in a row from the same address are enough as long as the session knows
/// every number that the device has used: then whoever races a copy gains nothing. A session that was handed over does not
/// know the numbers of PING, PONG and BYE, which nobody journals, so that old copies of them are new to it, twice in a row if
/// somebody likes. There an address counts by the UTACK of a PING that was sent to it, and by nothing else, until a REKEY lets
/// the numbers start again.
#[derive(Debug)]
pub(super) struct Route<A> {
    path: A,
    candidate: Option<A>,
    settled: bool,
    /// Copies of frames that the owner before has taken may be new here.
    replayable: bool,
}

impl<A: Copy + Eq> Route<A> {
    pub(super) const fn new(path: A) -> Self {
        Self { path, candidate: None, settled: true, replayable: false }
    }

    /// For a session that was handed over; `from` sent the datagram that made its new owner ask for it.
    pub(super) const fn unsettled(from: A) -> Self {
        Self { path: from, candidate: None, settled: false, replayable: true }
    }

    /// For a session whose proof came from `from`, and its HELLO from elsewhere: a copy of the proof may have been faster than the device's
    /// own, so it counts for less than a frame of the session, and the address by the UTACK of a PING alone.
    pub(super) const fn doubted(from: A) -> Self {
        Self { path: from, candidate: Some(from), settled: false, replayable: true }
    }

    pub(super) const fn path(&self) -> A {
        self.path
    }

    pub(super) const fn candidate(&self) -> Option<A> {
        self.candidate
    }

    pub(super) const fn is_settled(&self) -> bool {
        self.settled
    }

    pub(super) const fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// Every number of the device is known from here on.
    pub(super) const fn numbers_restart(&mut self) {
        self.replayable = false;
    }

    pub(super) const fn forget_candidate(&mut self) {
        self.candidate = None;
    }

    pub(super) fn heard(&mut self, from: A) -> Heard {
        if self.settled && from == self.path {
            self.candidate = None;
            Heard::Home
        } else if self.candidate != Some(from) {
            self.candidate = Some(from);
            Heard::NewCandidate
        } else if self.replayable {
            Heard::SameCandidate
        } else {
            self.settle(from);
            Heard::Moved
        }
    }

    /// A frame that was taken before came again. It says where to look for the device when nothing else does: a device whose last
    /// frame was committed by the owner before may have nothing to send for long.
    pub(super) const fn heard_again(&mut self, from: A) -> bool {
        let looks = !self.settled && self.replayable && self.candidate.is_none();
        if looks {
            self.candidate = Some(from);
        }
        looks
    }

    /// Whether the UTACK of the PING to the candidate may come from here.
    pub(super) fn may_acknowledge_probe(&self, from: A) -> bool {
        !self.replayable || self.candidate == Some(from)
    }

    /// The PING to the candidate was acknowledged from there. Returns whether the address changed or is known now.
    pub(super) fn probe_acknowledged(&mut self, from: A) -> bool {
        // Where numbers are exact, the PONG counts.
        let settles = self.replayable && self.candidate == Some(from);
        if settles {
            self.settle(from);
        }
        settles
    }

    const fn settle(&mut self, path: A) {
        self.path = path;
        self.candidate = None;
        self.settled = true;
    }
}
