//! Which of the living pods serves a slot, and how often a slot may change hands on evidence alone.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use sluice_types::PodId;

/// A slot is adopted on evidence at most once in this time; a hand-over that was asked for is not limited.
pub const ADOPTION_PAUSE: Duration = Duration::from_secs(3);

/// The pod of `candidates` that serves the slot, by rendezvous hashing: every pod that sees the same candidates, in whatever
/// order, names the same one, and a pod that comes or goes moves only its own share.
#[must_use]
pub fn owner_of_slot(slot: u16, candidates: &[PodId]) -> Option<PodId> {
    rendezvous(b's', &slot.to_be_bytes(), candidates)
}

/// The pod of `candidates` that does the handshakes of this source address.
#[must_use]
pub fn owner_of_source(source: SocketAddr, candidates: &[PodId]) -> Option<PodId> {
    let port = source.port().to_be_bytes();
    match source.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            rendezvous(b'4', &[a, b, c, d, port[0], port[1]], candidates)
        }
        IpAddr::V6(ip) => {
            let mut key = [0; 18];
            key[..16].copy_from_slice(&ip.octets());
            key[16..].copy_from_slice(&port);
            rendezvous(b'6', &key, candidates)
        }
    }
}

fn rendezvous(domain: u8, key: &[u8], candidates: &[PodId]) -> Option<PodId> {
    candidates.iter().copied().max_by_key(|pod| (score(domain, key, pod), *pod))
}

/// FNV-1a, then the finaliser of splitmix64. Pods of different releases must agree on it: never change it, only replace it under
/// a new name together with a protocol version. It need not resist an attacker: pod ids are random and our own.
fn score(domain: u8, key: &[u8], pod: &PodId) -> u64 {
    let bytes = std::iter::once(&domain).chain(key).chain(pod.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The slot was adopted on evidence a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slot adopted on evidence less than 3 s ago")]
pub struct TooSoon {
    /// When it may be tried again.
    pub until: Instant,
}

/// Keeps two pods that see the world differently from taking a slot from each other in a loop: each take-over on evidence is
/// followed by a pause.
#[derive(Debug)]
pub struct AdoptionPause {
    last: Vec<Option<Instant>>,
}

impl AdoptionPause {
    /// For slots `0..slots`.
    #[must_use]
    pub fn new(slots: u16) -> Self {
        Self { last: vec![None; usize::from(slots)] }
    }

    /// Asks to adopt a slot on evidence; counts as adopted when granted. A slot out of range is never granted.
    ///
    /// # Errors
    ///
    /// [`TooSoon`] within [`ADOPTION_PAUSE`] of the last grant or of [`AdoptionPause::moved`].
    pub fn claim(&mut self, now: Instant, slot: u16) -> Result<(), TooSoon> {
        let Some(last) = self.last.get_mut(usize::from(slot)) else {
            return Err(TooSoon { until: now + ADOPTION_PAUSE });
        };
        if let Some(until) = last.map(|last| last + ADOPTION_PAUSE).filter(|until| now < *until) {
            return Err(TooSoon { until });
        }
        *last = Some(now);
        Ok(())
    }

    /// Another pod said that it adopted the slot: the pause counts from there as well.
    pub fn moved(&mut self, now: Instant, slot: u16) {
        if let Some(last) = self.last.get_mut(usize::from(slot)) {
            *last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: u8) -> PodId {
        let mut id = [0x5a; 16];
        id[3] = n;
        PodId::from_bytes(id)
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary start of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn owners_of_version_1_stand() {
        let pods: Vec<_> = (0..5).map(pod).collect();
        let seen: Vec<_> = (0..16).map(|slot| owner_of_slot(slot, &pods).unwrap().as_bytes()[3]).collect();
        assert_eq!(seen, GOLDEN, "pods of two releases would disagree");
        assert_eq!(owner_of_slot(1, &[]), None);
    }
    const GOLDEN: [u8; 16] = [2, 3, 4, 2, 3, 2, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4];

    #[test]
    fn the_order_of_the_candidates_does_not_matter() {
        let pods: Vec<_> = (0..7).map(pod).collect();
        let reversed: Vec<_> = pods.iter().rev().copied().collect();
        for slot in 0..512 {
            assert_eq!(owner_of_slot(slot, &pods), owner_of_slot(slot, &reversed), "slot {slot}");
        }
    }

    #[test]
    fn a_pod_that_goes_moves_only_its_own_slots() {
        let pods: Vec<_> = (0..7).map(pod).collect();
        let fewer: Vec<_> = pods.iter().copied().filter(|p| *p != pod(3)).collect();
        for slot in 0..1024 {
            let before = owner_of_slot(slot, &pods).unwrap();
            let after = owner_of_slot(slot, &fewer).unwrap();
            assert!(before == pod(3) || before == after, "slot {slot} moved from {before} to {after}");
        }
    }

    #[test]
    fn slots_and_sources_are_shared_out_evenly() {
        let pods: Vec<_> = (0..10).map(pod).collect();
        let mut slots = [0_u32; 10];
        let mut sources = [0_u32; 10];
        for n in 0..10_000_u16 {
            slots[usize::from(owner_of_slot(n, &pods).unwrap().as_bytes()[3])] += 1;
            let [high, low] = n.to_be_bytes();
            let source = SocketAddr::from(([10, 0, high, low], 5000));
            sources[usize::from(owner_of_source(source, &pods).unwrap().as_bytes()[3])] += 1;
        }
        for share in slots.iter().chain(&sources) {
            assert!((850..1150).contains(share), "{slots:?} {sources:?}");
        }
    }

    #[test]
    fn a_slot_changes_hands_on_evidence_once_in_three_seconds() {
        let (start, mut pause) = (start(), AdoptionPause::new(2));
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(pause.claim(start, 0), Ok(()));
        assert_eq!(pause.claim(after(2_999), 0), Err(TooSoon { until: after(3_000) }));
        assert_eq!(pause.claim(after(2_999), 1), Ok(()), "slots do not wait for each other");
        assert_eq!(pause.claim(after(3_000), 0), Ok(()));
        pause.moved(after(4_000), 0);
        assert_eq!(pause.claim(after(6_500), 0), Err(TooSoon { until: after(7_000) }));
        assert!(pause.claim(start, 2).is_err(), "a slot that does not exist is not adopted");
    }
}
