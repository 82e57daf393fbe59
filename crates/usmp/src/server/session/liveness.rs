use crate::server::SessionConfig;
use crate::server::timers::{earliest, later, millis};
use crate::{Duration, Instant};

/// Most PING and PONG in one second (WIRE.md section 8).
const CONTROL_PER_SECOND: u8 = 8;
const CONTROL_WINDOW: Duration = Duration::from_secs(1);

/// Most unanswered PINGs over the life of a session: more of them, read in one go, end it at a device that only sends.
const MAX_UNANSWERED: u8 = 2;

/// How long fragments wait for the next one: longer than the slowest sender's budget, short enough for the pool.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Milliseconds, as far as they fit: only for differences.
const fn low_millis(now: Instant) -> u32 {
    now.as_micros().div_euclid(1000) as u32
}

/// What to do with a PING or PONG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Within the limit.
    Normal,
    /// Waited unread while reading was paused: taken, not answered, since so many answers would break the other side's limit.
    Backlog,
    /// Too many.
    Flood,
}

/// Who is alive: idle timeout, keepalive, the probe of a half-open session, the limit of control frames.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The last new authentic frame; while paused, the silence before the pause as a distance from zero.
    heard: Instant,
    /// Half-open: when the probe goes out, after `heard`, which is the start then. Unused once established.
    probe_ms: u32,
    /// The start of the second in which control frames are counted, or of a pause: the low half of the milliseconds.
    window_ms: u32,
    idle_ms: u32,
    /// 0: never.
    keepalive_ms: u32,
    probe_after_ms: u32,
    in_window: u8,
    /// Control frames beyond the limit that may come after a pause.
    credit: u8,
    unanswered: u8,
    /// PINGs sent since `heard`.
    pings: u8,
    established: bool,
    /// SESSION_OK is known to have arrived.
    confirmed: bool,
    probed: bool,
    paused: bool,
}

impl Liveness {
    pub(super) fn new(now: Instant, probe_after: Duration, config: &SessionConfig) -> Self {
        Self {
            heard: now,
            probe_ms: millis(probe_after),
            window_ms: low_millis(now),
            idle_ms: millis(config.idle_timeout),
            keepalive_ms: config.keepalive.map_or(0, millis),
            probe_after_ms: millis(config.probe_after),
            in_window: 0,
            credit: 0,
            unanswered: 0,
            pings: 0,
            established: false,
            confirmed: false,
            probed: false,
            paused: false,
        }
    }

    /// A session that was handed over, whose device may have shown before that it lives.
    pub(super) const fn resumed(self, established: bool) -> Self {
        Self { established, confirmed: established, ..self }
    }

    pub(super) const fn is_established(&self) -> bool {
        self.established
    }

    pub(super) const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Returns whether this is what established the session.
    pub(super) const fn establish(&mut self) -> bool {
        self.confirmed = true;
        !core::mem::replace(&mut self.established, true)
    }

    pub(super) fn confirm(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.confirmed, true) {
            let soon = millis(now.saturating_duration_since(self.heard)).saturating_add(self.probe_after_ms);
            self.probe_ms = self.probe_ms.min(soon);
        }
    }

    /// A new authentic frame.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = if self.paused { Instant::ZERO } else { now };
        self.pings = 0;
    }

    /// Since the counting second, or the pause, began; right for 49 days.
    fn in_window_for(&self, now: Instant) -> Duration {
        Duration::from_millis(u64::from(low_millis(now).wrapping_sub(self.window_ms)))
    }

    pub(super) fn control(&mut self, now: Instant) -> Control {
        if self.in_window_for(now) >= CONTROL_WINDOW {
            self.window_ms = low_millis(now);
            self.in_window = 0;
        }
        if self.in_window < CONTROL_PER_SECOND {
            self.in_window = self.in_window.saturating_add(1);
            Control::Normal
        } else if self.credit > 0 {
            self.credit = self.credit.saturating_sub(1);
            Control::Backlog
        } else {
            Control::Flood
        }
    }

    pub(super) const fn pong(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Whether one more PING may leave at all.
    pub(super) const fn may_ping(&self) -> bool {
        self.unanswered < MAX_UNANSWERED
    }

    pub(super) const fn ping_sent(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
        self.pings = self.pings.saturating_add(1);
    }

    /// A PING that the device cannot have read will not be answered.
    pub(super) const fn ping_lost(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    fn ping_at(&self) -> Option<Instant> {
        if self.paused || !self.may_ping() {
            return None;
        }
        if !self.established {
            let probe_at = later(self.heard, Duration::from_millis(u64::from(self.probe_ms)));
            return (!self.probed).then_some(probe_at);
        }
        if self.keepalive_ms == 0 || self.pings >= MAX_UNANSWERED {
            return None;
        }
        let silence = u64::from(self.keepalive_ms).saturating_mul(u64::from(self.pings).saturating_add(1));
        Some(later(self.heard, Duration::from_millis(silence)))
    }

    /// Whether a PING is due. Says so once for each.
    pub(super) fn ping_due(&mut self, now: Instant) -> bool {
        let due = self.ping_at().is_some_and(|at| at <= now);
        if due && !self.established {
            self.probed = true;
        }
        due
    }

    fn idle_at(&self) -> Option<Instant> {
        (!self.paused).then(|| later(self.heard, Duration::from_millis(u64::from(self.idle_ms))))
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.idle_at().is_some_and(|at| at <= now)
    }

    /// The last new authentic frame, when time runs.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        if self.paused { Duration::ZERO } else { now.saturating_duration_since(self.heard) }
    }

    pub(super) fn pause(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.paused, true) {
            let silence = now.saturating_duration_since(self.heard);
            self.heard = later(Instant::ZERO, silence);
            self.window_ms = low_millis(now);
        }
    }

    pub(super) fn resume(&mut self, now: Instant) {
        if core::mem::replace(&mut self.paused, false) {
            let silence = self.heard.saturating_duration_since(Instant::ZERO);
            self.heard = Instant::from_micros(
                now.as_micros().saturating_sub(u64::try_from(silence.as_micros()).unwrap_or(u64::MAX)),
            );
            // What a device may have sent meanwhile within the limit.
            let seconds = self.in_window_for(now).as_secs().saturating_add(1);
            let credit = seconds.saturating_mul(u64::from(CONTROL_PER_SECOND));
            self.credit = self.credit.saturating_add(u8::try_from(credit).unwrap_or(u8::MAX));
            self.window_ms = low_millis(now);
            self.in_window = 0;
        }
    }

    /// A time after the last new authentic frame, when time runs.
    pub(super) fn heard_plus(&self, after: Duration) -> Option<Instant> {
        (!self.paused).then(|| later(self.heard, after))
    }

    pub(super) fn idle_timeout(&self) -> Option<Instant> {
        self.idle_at()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.idle_at(), self.ping_at())
    }
}
