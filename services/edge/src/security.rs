//! Refusals on their way to the security topic: the first of a (reason, device) at once, repeats within a window as one
//! event with their number. A flood costs one event a minute, whatever it sends.

use std::collections::HashMap;
use std::time::Duration;

use sluice_proto::events::v1::{SecurityReason, Transport};
use sluice_types::DeviceId;
use usmp::Instant;

/// A device of the registry; no byte of a stranger's choice is ever named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Named {
    pub(crate) device: DeviceId,
    /// Number of its tenant in this shard.
    pub(crate) tenant: u32,
}

/// What goes into one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) reason: SecurityReason,
    pub(crate) device: Option<Named>,
    pub(crate) transport: Transport,
    pub(crate) count: u64,
}

#[derive(Debug)]
struct Watched {
    window_ends: Instant,
    repeats: u64,
    transport: Transport,
}

/// Counts refusals and says when one becomes an event. Bounded: beyond `capacity`, a device's refusals count as those of
/// the unknown device; the reasons themselves always fit.
#[derive(Debug)]
pub(crate) struct SecurityLog {
    window: Duration,
    capacity: usize,
    watched: HashMap<(SecurityReason, Option<Named>), Watched>,
    /// When the next window ends; earlier is harmless.
    next: Option<Instant>,
}

impl SecurityLog {
    pub(crate) fn new(window: Duration, capacity: usize) -> Self {
        Self { window, capacity, watched: HashMap::new(), next: None }
    }

    /// Takes note of a refusal; gives back what is to be sent at once.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        reason: SecurityReason,
        device: Option<Named>,
        transport: Transport,
    ) -> Option<Refusals> {
        let full = self.watched.len() >= self.capacity;
        let device = device.filter(|_| !full || self.watched.contains_key(&(reason, device)));
        let mut first = false;
        let watched = self.watched.entry((reason, device)).or_insert_with(|| {
            first = true;
            Watched { window_ends: now + self.window, repeats: 0, transport }
        });
        if first {
            let ends = watched.window_ends;
            self.next = Some(self.next.map_or(ends, |next| next.min(ends)));
            return Some(Refusals { reason, device, transport, count: 1 });
        }
        watched.repeats += 1;
        watched.transport = transport;
        None
    }

    /// When to call [`Self::expire`] next.
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Ends the windows that are over: those with repeats give an event and start anew, quiet ones are forgotten.
    pub(crate) fn expire(&mut self, now: Instant, mut emit: impl FnMut(Refusals)) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let window = self.window;
        self.watched.retain(|&(reason, device), watched| {
            if watched.window_ends > now {
                return true;
            }
            if watched.repeats == 0 {
                return false;
            }
            emit(Refusals { reason, device, transport: watched.transport, count: watched.repeats });
            watched.repeats = 0;
            watched.window_ends = now + window;
            true
        });
        self.next = self.watched.values().map(|watched| watched.window_ends).min();
    }

    /// What was counted and not yet sent, for the end of the process.
    pub(crate) fn flush(&mut self, mut emit: impl FnMut(Refusals)) {
        for ((reason, device), watched) in self.watched.drain() {
            if watched.repeats > 0 {
                emit(Refusals { reason, device, transport: watched.transport, count: watched.repeats });
            }
        }
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Named = Named { device: DeviceId::from_bytes([2, 0, 0, 0, 0, 1]), tenant: 0 };

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn log(capacity: usize) -> SecurityLog {
        SecurityLog::new(Duration::from_secs(60), capacity)
    }

    fn expired(log: &mut SecurityLog, now: Instant) -> Vec<(Option<Named>, u64)> {
        let mut seen = Vec::new();
        log.expire(now, |refusals| seen.push((refusals.device, refusals.count)));
        seen
    }

    #[test]
    fn the_first_is_sent_at_once_and_repeats_become_one_event() {
        let mut log = log(10);
        let mut note = |now| log.note(now, SecurityReason::WrongKey, Some(DEVICE), Transport::Udp);
        assert_eq!(note(at(0)).map(|refusals| refusals.count), Some(1));
        for second in 1..50 {
            assert_eq!(note(at(second)), None);
        }
        assert_eq!(expired(&mut log, at(59)), []);
        assert_eq!(expired(&mut log, at(60)), [(Some(DEVICE), 49)]);
        // A quiet window is forgotten, so the next refusal is a first one again.
        assert_eq!(expired(&mut log, at(120)), []);
        assert_eq!(log.next(), None);
        assert!(log.note(at(121), SecurityReason::WrongKey, Some(DEVICE), Transport::Udp).is_some());
    }

    #[test]
    fn devices_and_reasons_are_told_apart() {
        let mut log = log(10);
        assert!(log.note(at(0), SecurityReason::WrongKey, Some(DEVICE), Transport::Udp).is_some());
        assert!(log.note(at(0), SecurityReason::WrongKey, None, Transport::Udp).is_some());
        assert!(log.note(at(0), SecurityReason::Replay, Some(DEVICE), Transport::Tcp).is_some());
    }

    #[test]
    fn a_full_table_counts_further_devices_as_unknown() {
        let mut log = log(2);
        for last in 0..100 {
            let device = Named { device: DeviceId::from_bytes([2, 0, 0, 0, 1, last]), tenant: 0 };
            log.note(at(0), SecurityReason::Replay, Some(device), Transport::Udp);
        }
        assert!(log.watched.len() <= 3, "{} entries", log.watched.len());
        assert_eq!(expired(&mut log, at(60)), [(None, 97)]);
    }

    #[test]
    fn the_end_of_the_process_tells_what_was_counted() {
        let mut log = log(10);
        for _ in 0..4 {
            log.note(at(0), SecurityReason::Version, None, Transport::Tcp);
        }
        let mut counts = Vec::new();
        log.flush(|refusals| counts.push(refusals.count));
        assert_eq!(counts, [3]);
    }
}
