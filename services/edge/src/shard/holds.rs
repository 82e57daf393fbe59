//! PACKET PATH: no lock, no log, no await; allocates only while a slot has no owner.
//!
//! Datagrams of slots that nobody is known to serve: a slot that moves is dark for some tenths of a second, and a device that loses one
//! of its few transmissions to that may give its message up. And copies of those that were handed to a pod that may hang.

use std::collections::VecDeque;
use std::net::SocketAddr;

use sluice_types::PodId;
use usmp::{Duration, Instant};

use super::dormant::Held;

/// How long a datagram waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// Datagrams that wait in a shard, one for each session. A further one is dropped; its device has a timer.
const MAX_HELD: usize = 2048;

/// How often the shard looks whether owners are known, beside what wakes it.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A datagram, its session, and how long it waits.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) prefix: [u8; 8],
    until: Instant,
    /// Who has a copy, and need not get another.
    pub(super) copied_to: Option<PodId>,
    pub(super) held: Box<Held>,
}

/// What waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nobody else has it.
    Lost,
    /// Of one that a pod has, which most likely was only slow.
    Copy,
}

/// The datagrams that wait in a shard.
#[derive(Debug, Default)]
pub(super) struct Holds {
    waiting: VecDeque<Hold>,
    /// When they were looked at last.
    looked: Instant,
}

impl Holds {
    /// Lets a datagram wait, in place of an earlier one of its session; `false` when too many do.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        prefix: [u8; 8],
        copied_to: Option<PodId>,
        source: SocketAddr,
        datagram: &[u8],
    ) -> bool {
        self.waiting.retain(|hold| hold.prefix != prefix);
        if self.waiting.len() >= MAX_HELD {
            return false;
        }
        let held = Box::new(Held::new(source.into(), datagram));
        self.waiting.push_back(Hold { prefix, until: now + PATIENCE, copied_to, held });
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether it is time to look at them: a link that is back says so to nobody.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.waiting.is_empty() && self.looked + LOOK <= now
    }

    /// Takes all of them out, those that waited too long as an error.
    pub(super) fn take(&mut self, now: Instant) -> impl Iterator<Item = Result<Hold, Overdue>> + use<> {
        self.looked = now;
        std::mem::take(&mut self.waiting).into_iter().map(move |hold| match hold.copied_to {
            _ if now < hold.until => Ok(hold),
            None => Err(Overdue::Lost),
            Some(_) => Err(Overdue::Copy),
        })
    }

    /// Lets one wait on, for as long as it has left.
    pub(super) fn put_back(&mut self, hold: Hold) {
        self.waiting.push_back(hold);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 4000))
    }

    #[test]
    fn the_last_datagram_of_each_session_waits_for_two_seconds() {
        let mut holds = Holds::default();
        assert!(holds.hold(Instant::ZERO, [1; 8], None, source(), b"a"));
        assert!(holds.hold(Instant::from_millis(500), [2; 8], None, source(), b"b"));
        assert!(holds.hold(Instant::from_millis(1000), [1; 8], None, source(), b"c"));
        let taken: Vec<_> = holds.take(Instant::from_millis(2500)).collect();
        assert!(holds.is_empty());
        let [Err(Overdue::Lost), Ok(mut first)] = <[_; 2]>::try_from(taken).expect("two sessions") else {
            panic!("the second session's waited for too long");
        };
        assert_eq!((first.prefix, &*first.held.datagram()), ([1; 8], &b"c"[..]));
        holds.put_back(first);
        assert!(!holds.is_due(Instant::from_millis(2519)) && holds.is_due(Instant::from_millis(2520)));
        let taken: Vec<_> = holds.take(Instant::from_millis(3000)).map(Result::err).collect();
        assert_eq!(taken, [Some(Overdue::Lost)], "it has no more time than before");
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut holds = Holds::default();
        for session in 0..MAX_HELD as u64 {
            assert!(holds.hold(Instant::ZERO, session.to_be_bytes(), None, source(), b"a"));
        }
        assert!(!holds.hold(Instant::ZERO, [0xff; 8], None, source(), b"a"));
        assert!(holds.hold(Instant::ZERO, [0; 8], None, source(), b"b"), "in place of its own");
    }

    #[test]
    fn a_copy_that_nobody_needed_is_not_lost() {
        let mut holds = Holds::default();
        assert!(holds.hold(Instant::ZERO, [1; 8], Some(PodId::from_bytes([7; 16])), source(), b"a"));
        let taken: Vec<_> = holds.take(Instant::from_millis(2000)).map(|hold| hold.err()).collect();
        assert_eq!(taken, [Some(Overdue::Copy)]);
    }
}
