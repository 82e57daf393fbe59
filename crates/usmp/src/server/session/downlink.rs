use super::numbers::{Numbers, SendingNumbers};
use crate::crypto::Provider;
use crate::server::timers::{Jitter, later};
use crate::wire::{FrameType, MAX_CHUNK};
use crate::{Duration, Instant, Rto, Secret, SessionId, seal_frame};

/// Transmissions of one frame before it is skipped: 6.3 s at the timer's floor, 17.5 s in a fresh session.
pub const MAX_TRANSMISSIONS: u8 = 6;

/// Most PONGs that wait for their turn; a device that sends more PINGs in a second is closed anyway.
const MAX_PONGS: u8 = 8;

/// What a frame from the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    /// A PING to an address that may become the downlink's.
    Probe,
    Pong,
    Bye,
    Rekey,
    Fragment,
    Last,
}

impl Kind {
    const fn bit(self) -> u8 {
        1 << self as u8
    }

    const fn frame_type(self) -> FrameType {
        match self {
            Self::Ping | Self::Probe => FrameType::Ping,
            Self::Pong => FrameType::Pong,
            Self::Bye => FrameType::Bye,
            Self::Rekey => FrameType::Rekey,
            Self::Fragment => FrameType::DataFrag,
            Self::Last => FrameType::Data,
        }
    }
}

#[derive(Debug)]
struct Outstanding {
    deadline: Instant,
    /// From the first transmission to the first `deadline`.
    wait_micros: u32,
    seq: u32,
    /// The end of its tag: a retransmission is sealed again and leaves only if it is the same.
    tag: [u8; 4],
    kind: Kind,
    transmissions: u8,
}

/// A message on its way; the bytes are the driver's.
#[derive(Debug, Clone, Copy)]
struct Message {
    length: u16,
    /// What the device acknowledged.
    offset: u16,
    /// A frame of it has left under these keys.
    begun: bool,
}

impl Message {
    fn chunk<'m>(&self, bytes: &'m [u8]) -> Option<&'m [u8]> {
        if bytes.len() != usize::from(self.length) {
            return None;
        }
        let rest = bytes.get(usize::from(self.offset)..)?;
        Some(rest.get(..MAX_CHUNK).unwrap_or(rest))
    }

    fn kind(&self) -> Kind {
        let rest = usize::from(self.length.saturating_sub(self.offset));
        if rest > MAX_CHUNK { Kind::Fragment } else { Kind::Last }
    }
}

/// What became of the frame that was out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A control frame, or a fragment with more to come.
    Step(Kind),
    /// The last frame of the message.
    Delivered,
    /// The message is given up.
    Lost,
}

/// What polling gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// A frame of this length and kind; `first` when it is not a repeat.
    Frame { length: usize, kind: Kind, first: bool },
    /// The driver did not lend the bytes that it promised.
    Lost,
    /// No number is left.
    Exhausted,
    /// No number is left until the driver brings more.
    NumbersNeeded,
}

/// What may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Nothing but a PING to an address that may be the device's.
    Probe,
    /// The device may not have its SESSION_OK: no messages.
    Control,
    /// Anything.
    All,
}

/// The server's sending side on UDP: one frame out at a time, adaptive timer, numbers that go on over REKEY.
#[derive(Debug)]
pub(super) struct Downlink {
    out: Option<Outstanding>,
    message: Option<Message>,
    rto: Rto,
    jitter: Jitter,
    numbers: Numbers,
    pongs: u8,
    /// A bit for each kind that waits for its turn; see [`Kind::bit`].
    wanted: u8,
}

impl Downlink {
    pub(super) const fn new(seed: u32, next: u32, numbers: SendingNumbers) -> Self {
        Self {
            out: None,
            message: None,
            rto: Rto::new(),
            jitter: Jitter::new(seed),
            numbers: Numbers::new(next, numbers),
            pongs: 0,
            wanted: 0,
        }
    }

    pub(super) const fn is_sending(&self) -> bool {
        self.message.is_some()
    }

    pub(super) const fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    pub(super) const fn numbers_mut(&mut self) -> &mut Numbers {
        &mut self.numbers
    }

    pub(super) const fn send(&mut self, length: u16) {
        self.message = Some(Message { length, offset: 0, begun: false });
    }

    pub(super) fn owe_pong(&mut self) {
        self.pongs = self.pongs.saturating_add(1).min(MAX_PONGS);
    }

    /// Has a frame of this kind sent when its turn comes: PING, PROBE, BYE or REKEY.
    pub(super) const fn want(&mut self, kind: Kind) {
        self.wanted |= kind.bit();
    }

    const fn wants(&self, kind: Kind) -> bool {
        self.wanted & kind.bit() != 0
    }

    /// Whether a PING waits or is out.
    pub(super) fn is_pinging(&self) -> bool {
        self.wants(Kind::Ping)
            || self.out.as_ref().is_some_and(|out| matches!(out.kind, Kind::Ping | Kind::Probe))
    }

    /// Whether a PING to an address that may become the downlink's waits or is out.
    pub(super) fn is_probing(&self) -> bool {
        self.wants(Kind::Probe) || self.awaits_probe()
    }

    /// Whether the frame that is out is such a PING.
    pub(super) fn awaits_probe(&self) -> bool {
        self.out.as_ref().is_some_and(|out| out.kind == Kind::Probe)
    }

    /// A PING to an address that is no candidate any more is not repeated.
    pub(super) fn drop_probe(&mut self) {
        self.wanted &= !Kind::Probe.bit();
        if self.awaits_probe() {
            self.out = None;
        }
    }

    /// A PONG came: the PING that is out arrived. `probes_too`: also one that was sent to find the device's address.
    pub(super) fn pong(&mut self, probes_too: bool) {
        let answers = |kind| kind == Kind::Ping || (kind == Kind::Probe && probes_too);
        if self.out.as_ref().is_some_and(|out| answers(out.kind)) {
            self.out = None;
        }
    }

    /// What would leave next when nothing is out. Between the fragments of a message nothing else does.
    fn choose(&self, allowed: Allowed) -> Option<Kind> {
        if allowed == Allowed::Probe {
            return self.wants(Kind::Probe).then_some(Kind::Probe);
        }
        let data = allowed == Allowed::All;
        if let Some(message) = self.message.filter(|message| message.begun && data) {
            return Some(message.kind());
        }
        if self.wants(Kind::Rekey) {
            return Some(Kind::Rekey);
        }
        if self.pongs > 0 {
            return Some(Kind::Pong);
        }
        let control = [Kind::Ping, Kind::Probe, Kind::Bye].into_iter().find(|&kind| self.wants(kind));
        control.or_else(|| self.message.filter(|_| data).map(|message| message.kind()))
    }

    /// Writes the frame that is due.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the session that sealing needs, borrowed apart"
    )]
    pub(super) fn poll<P: Provider>(
        &mut self,
        now: Instant,
        key: &Secret<32>,
        session_id: SessionId,
        salt: Option<&Secret<32>>,
        message: &[u8],
        allowed: Allowed,
        out: &mut [u8],
    ) -> Option<Polled> {
        let (kind, seq, first) = match &self.out {
            Some(sent) if sent.deadline <= now && sent.transmissions < MAX_TRANSMISSIONS => {
                (sent.kind, sent.seq, false)
            }
            Some(_) => return None,
            None => (self.choose(allowed)?, self.numbers.next(), true),
        };
        if seq == u32::MAX {
            return Some(Polled::Exhausted);
        }
        if first && self.numbers.is_empty() {
            return self.numbers.ask().then_some(Polled::NumbersNeeded);
        }
        let plaintext = match kind {
            Kind::Fragment | Kind::Last => match self.message.and_then(|sending| sending.chunk(message)) {
                Some(chunk) => chunk,
                None => return Some(self.lose()),
            },
            Kind::Rekey => salt.map_or(&[][..], |salt| salt.expose()),
            Kind::Ping | Kind::Probe | Kind::Pong | Kind::Bye => &[],
        };
        let length = seal_frame::<P>(key, session_id, kind.frame_type(), seq, plaintext, out).ok()?;
        let tag = out.get(..length).and_then(|frame| frame.last_chunk::<4>()).copied().unwrap_or_default();
        match &mut self.out {
            Some(sent) if sent.tag != tag => {
                // Two plaintexts under one nonce: the second one must not leave.
                out.fill(0);
                return Some(self.lose());
            }
            Some(sent) => {
                // Only a first transmission gives a sample, so the wait need not be kept.
                sent.deadline = later(now, self.jitter.spread(self.rto.after(sent.transmissions)));
                sent.transmissions = sent.transmissions.saturating_add(1);
            }
            None => {
                // The number is used up before the frame leaves, whatever becomes of it.
                self.numbers.advance();
                let wait = self.jitter.spread(self.rto.after(0));
                self.out = Some(Outstanding {
                    deadline: later(now, wait),
                    wait_micros: u32::try_from(wait.as_micros()).unwrap_or(u32::MAX),
                    seq,
                    tag,
                    kind,
                    transmissions: 1,
                });
                self.started(kind);
            }
        }
        Some(Polled::Frame { length, kind, first })
    }

    const fn started(&mut self, kind: Kind) {
        match kind {
            Kind::Ping | Kind::Probe | Kind::Bye | Kind::Rekey => self.wanted &= !kind.bit(),
            Kind::Pong => self.pongs = self.pongs.saturating_sub(1),
            Kind::Fragment | Kind::Last => {
                if let Some(message) = &mut self.message {
                    message.begun = true;
                }
            }
        }
    }

    fn lose(&mut self) -> Polled {
        self.give_up_message();
        Polled::Lost
    }

    /// The frame that a UTACK may be for.
    pub(super) fn awaits(&self, frame_type: FrameType, seq: u32) -> bool {
        self.out.as_ref().is_some_and(|out| out.kind.frame_type() == frame_type && out.seq == seq)
    }

    /// The frame that is out was acknowledged, authentically.
    pub(super) fn acknowledged(&mut self, now: Instant) -> Option<Outcome> {
        let out = self.out.take()?;
        if out.transmissions == 1 {
            let left = out.deadline.saturating_duration_since(now);
            let late = now.saturating_duration_since(out.deadline);
            let wait = Duration::from_micros(u64::from(out.wait_micros));
            self.rto.sample(wait.saturating_sub(left).saturating_add(late));
        }
        match (out.kind, &mut self.message) {
            (Kind::Last, message) => {
                *message = None;
                Some(Outcome::Delivered)
            }
            (Kind::Fragment, Some(message)) => {
                message.offset = message.offset.saturating_add(u16::try_from(MAX_CHUNK).unwrap_or(u16::MAX));
                Some(Outcome::Step(Kind::Fragment))
            }
            (kind, _) => Some(Outcome::Step(kind)),
        }
    }

    /// Skips the frame that is out when it was sent often enough.
    pub(super) fn exhausted(&mut self, now: Instant) -> Option<Outcome> {
        let over = |out: &mut Outstanding| out.transmissions >= MAX_TRANSMISSIONS && out.deadline <= now;
        let out = self.out.take_if(over)?;
        if matches!(out.kind, Kind::Fragment | Kind::Last) {
            self.give_up_message();
            return Some(Outcome::Lost);
        }
        Some(Outcome::Step(out.kind))
    }

    /// Drops the message. When the device may hold a part of it, a PONG that nobody asked for goes first: Python gives up
    /// the partial message together with the frame that shows the gap, which had better be one without a meaning.
    fn give_up_message(&mut self) {
        self.out = None;
        if self.message.take().is_some_and(|message| message.begun && usize::from(message.length) > MAX_CHUNK)
        {
            self.owe_pong();
        }
    }

    /// New keys: what was out or half delivered counts as undelivered and is sent again, under new numbers. Returns whether a PING
    /// was cut off, which will not be answered.
    pub(super) fn restart(&mut self) -> bool {
        if let Some(message) = &mut self.message {
            let partial = message.begun && usize::from(message.length) > MAX_CHUNK;
            *message = Message { offset: 0, begun: false, ..*message };
            if partial {
                self.owe_pong();
            }
        }
        let cut_off = self.out.take().map(|out| out.kind);
        match cut_off {
            Some(kind @ (Kind::Ping | Kind::Probe | Kind::Bye)) => self.want(kind),
            Some(Kind::Pong) => self.owe_pong(),
            Some(Kind::Rekey | Kind::Fragment | Kind::Last) | None => {}
        }
        matches!(cut_off, Some(Kind::Ping | Kind::Probe))
    }

    /// When [`poll`](Self::poll) or [`exhausted`](Self::exhausted) has something next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.out.as_ref().map(|out| out.deadline)
    }
}
