use super::timers::{earliest, later};
use crate::wire::{FrameType, HelloRetry, Utack};
use crate::{Duration, Instant};

/// When HELLO_RETRY is sent again: not sooner, or old ESP-IDF transports take it for the CHALLENGE (WIRE.md section 11.4).
const RESENDS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Most resends of one ring in a second.
const PER_SECOND: u8 = 50;

#[derive(Debug, Clone, Copy)]
struct Entry<A> {
    path: A,
    cookie: [u8; 16],
    sent: Instant,
    /// Resends that are behind it.
    stage: u8,
}

impl<A> Entry<A> {
    fn due(&self) -> Option<Instant> {
        RESENDS.get(usize::from(self.stage)).map(|&after| later(self.sent, after))
    }
}

/// What a ring has done, to be read into metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryCounts {
    /// Resends that left.
    pub sent: u64,
    /// Resends left out because the ring was half full, or the second had its 50.
    pub suppressed: u64,
    /// HELLOs that found the ring full and will see no resend.
    pub overflow: u64,
}

/// Repeats HELLO_RETRY after 1 s and 3 s, since a device that saw the UTACK of its HELLO waits without repeating it.
///
/// A ring of fixed size, one for each shard, and the only state that an unverified address gets. Resends leave only while it is
/// under half full and fewer than 50 left in this second, so that a flood of spoofed HELLOs gets nothing out of it. A UTACK of
/// type 0x0A or the HELLO with the cookie cancels them.
#[derive(Debug)]
pub struct RetryRing<A, const N: usize> {
    entries: [Option<Entry<A>>; N],
    used: usize,
    second: Instant,
    in_second: u8,
    counts: RetryCounts,
}

impl<A: Copy + Eq, const N: usize> RetryRing<A, N> {
    /// Nothing to repeat.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: [const { None }; N],
            used: 0,
            second: Instant::ZERO,
            in_second: 0,
            counts: RetryCounts { sent: 0, suppressed: 0, overflow: 0 },
        }
    }

    /// Notes that this cookie left for this address just now. A second HELLO from the same address replaces the first.
    pub fn push(&mut self, now: Instant, path: A, cookie: [u8; 16]) {
        let entry = Entry { path, cookie, sent: now, stage: 0 };
        if let Some(old) = self.entries.iter_mut().flatten().find(|old| old.path == path) {
            *old = entry;
            return;
        }
        match self.entries.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(entry);
                self.used = self.used.saturating_add(1);
            }
            None => self.counts.overflow = self.counts.overflow.saturating_add(1),
        }
    }

    /// The HELLO with a valid cookie came from this address: no more resends.
    pub fn cancel(&mut self, path: &A) {
        for slot in &mut self.entries {
            if slot.as_ref().is_some_and(|entry| entry.path == *path) {
                *slot = None;
                self.used = self.used.saturating_sub(1);
            }
        }
    }

    /// A UTACK from an address: one of type 0x0A cancels its resends. Returns whether the UTACK was for the ring.
    pub fn handle_utack(&mut self, path: &A, utack: &Utack) -> bool {
        let ours = utack.frame_type == FrameType::HelloRetry;
        if ours {
            self.cancel(path);
        }
        ours
    }

    /// The next HELLO_RETRY to send again, with its address. Call until `None`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(usize, A)> {
        while let Some(index) = self.due_entry(now) {
            let crowded = self.used.saturating_mul(2) >= N;
            if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
                self.second = now;
                self.in_second = 0;
            }
            let slot = self.entries.get_mut(index)?;
            let entry = slot.as_mut()?;
            entry.stage = entry.stage.saturating_add(1);
            let Entry { path, cookie, .. } = *entry;
            if entry.due().is_none() {
                *slot = None;
                self.used = self.used.saturating_sub(1);
            }
            if crowded || self.in_second >= PER_SECOND {
                self.counts.suppressed = self.counts.suppressed.saturating_add(1);
                continue;
            }
            self.in_second = self.in_second.saturating_add(1);
            self.counts.sent = self.counts.sent.saturating_add(1);
            return HelloRetry { cookie }.emit(0, out).ok().map(|length| (length, path));
        }
        None
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.iter().flatten().fold(None, |first, entry| earliest(first, entry.due()))
    }

    /// Addresses that may still see a resend.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.used
    }

    /// Whether no resend is planned.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// What it has done.
    #[must_use]
    pub const fn counts(&self) -> RetryCounts {
        self.counts
    }

    fn due_entry(&self, now: Instant) -> Option<usize> {
        self.entries.iter().position(|slot| slot.as_ref().and_then(Entry::due).is_some_and(|due| due <= now))
    }
}

impl<A: Copy + Eq, const N: usize> Default for RetryRing<A, N> {
    fn default() -> Self {
        Self::new()
    }
}
