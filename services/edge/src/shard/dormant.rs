//! Sessions that came with an adopted slot and have not spoken here yet: numbers from the ledger, no keys.
//!
//! The first datagram of one asks the store for its keys, and waits; nothing else of a session is looked up in advance, so that a slot
//! of many sessions is served as soon as its ledger is read.

use std::collections::HashMap;

use sluice_bus::SessionState;
use usmp::Instant;

use crate::path::Path;
use crate::udp_io::SLOT;

/// A datagram that waits for the keys of its session: one per session, the last.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) path: Path,
    length: u16,
    bytes: [u8; SLOT],
}

impl Held {
    pub(crate) fn new(path: Path, datagram: &[u8]) -> Self {
        let length = datagram.len().min(SLOT);
        let mut bytes = [0; SLOT];
        if let (Some(room), Some(datagram)) = (bytes.get_mut(..length), datagram.get(..length)) {
            room.copy_from_slice(datagram);
        }
        Self { path, length: length as u16, bytes }
    }

    pub(crate) fn datagram(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..usize::from(self.length)).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Dormant {
    state: SessionState,
    /// Set while the store is asked.
    held: Option<Box<Held>>,
    /// Without a sign of life by then the session is over.
    until: Instant,
}

/// The dormant sessions of a shard, by the visible half of their ids.
#[derive(Debug, Default)]
pub(crate) struct Dormants {
    sessions: HashMap<[u8; 8], Dormant>,
    /// The earliest `until`, or earlier.
    next: Option<Instant>,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// No such session.
    Unknown,
    /// It took the place of another one that waited.
    Replaced,
    /// It waits; the store is to be asked about this session.
    Ask(SessionState),
}

pub(crate) const fn prefix_of(session: [u8; 16]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = session;
    [a, b, c, d, e, f, g, h]
}

impl Dormants {
    pub(crate) fn insert(&mut self, state: SessionState, until: Instant) {
        self.sessions.insert(prefix_of(state.session), Dormant { state, held: None, until });
        self.next = Some(self.next.map_or(until, |next| next.min(until)));
    }

    pub(crate) fn knows(&self, prefix: [u8; 8]) -> bool {
        self.sessions.contains_key(&prefix)
    }

    /// Whether a datagram of the session waits, so that the store is asked.
    pub(crate) fn is_asked(&self, prefix: [u8; 8]) -> bool {
        self.sessions.get(&prefix).is_some_and(|dormant| dormant.held.is_some())
    }

    /// Lets a datagram wait for its session.
    pub(crate) fn wake(&mut self, prefix: [u8; 8], path: Path, datagram: &[u8]) -> Woken {
        let Some(dormant) = self.sessions.get_mut(&prefix) else { return Woken::Unknown };
        let held = Box::new(Held::new(path, datagram));
        match dormant.held.replace(held) {
            Some(_) => Woken::Replaced,
            None => Woken::Ask(dormant.state),
        }
    }

    /// The store could not be asked, or did not answer: the session goes on sleeping.
    pub(crate) fn sleep_on(&mut self, prefix: [u8; 8]) {
        if let Some(dormant) = self.sessions.get_mut(&prefix) {
            dormant.held = None;
        }
    }

    /// Takes a session out, with the datagram that waits for it.
    pub(crate) fn take(&mut self, session: [u8; 16]) -> Option<(SessionState, Option<Box<Held>>)> {
        let prefix = prefix_of(session);
        self.sessions.get(&prefix).filter(|dormant| dormant.state.session == session)?;
        self.sessions.remove(&prefix).map(|dormant| (dormant.state, dormant.held))
    }

    /// Takes a session out if it is of this device, and says whether it was there. What waits for it is forgotten.
    pub(crate) fn take_of(&mut self, device: [u8; 6], session: [u8; 16]) -> bool {
        let prefix = prefix_of(session);
        let is_it = |dormant: &Dormant| dormant.state.session == session && dormant.state.device == device;
        self.sessions.get(&prefix).is_some_and(is_it) && self.sessions.remove(&prefix).is_some()
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = &SessionState> {
        self.sessions.values().map(|dormant| &dormant.state)
    }

    /// Forgets the sessions of a slot that went elsewhere; gives their number.
    pub(crate) fn forget(&mut self, is_of_slot: impl Fn([u8; 8]) -> bool) -> usize {
        let before = self.sessions.len();
        self.sessions.retain(|prefix, _| !is_of_slot(*prefix));
        before - self.sessions.len()
    }

    /// Takes out what has been silent for too long.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<SessionState> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let mut over = Vec::new();
        self.sessions.retain(|_, dormant| {
            let stays = now < dormant.until;
            if !stays {
                over.push(dormant.state);
            }
            stays
        });
        self.next = self.sessions.values().map(|dormant| dormant.until).min();
        over
    }

    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn state(byte: u8) -> SessionState {
        SessionState {
            session: [byte; 16],
            device: [2; 6],
            birth: 1,
            epoch: 0,
            committed: Some(7),
            fragment_open: false,
        }
    }

    fn path(port: u16) -> Path {
        SocketAddr::from(([192, 0, 2, 1], port)).into()
    }

    #[test]
    fn one_datagram_waits_and_the_store_is_asked_once() {
        let mut dormants = Dormants::default();
        dormants.insert(state(1), Instant::from_millis(10_000));
        assert_eq!(dormants.wake([2; 8], path(1), b"a"), Woken::Unknown);
        assert_eq!(dormants.wake([1; 8], path(1), b"a"), Woken::Ask(state(1)));
        assert_eq!(dormants.wake([1; 8], path(2), b"b"), Woken::Replaced);
        let (found, held) = dormants.take([1; 16]).expect("dormant");
        let mut held = held.expect("held");
        assert_eq!((found, held.path, &*held.datagram()), (state(1), path(2), &b"b"[..]));
        assert!(!dormants.knows([1; 8]));
    }

    #[test]
    fn a_store_that_does_not_answer_is_asked_again_by_the_next_datagram() {
        let mut dormants = Dormants::default();
        dormants.insert(state(1), Instant::from_millis(10_000));
        dormants.wake([1; 8], path(1), b"a");
        assert!(dormants.is_asked([1; 8]));
        dormants.sleep_on([1; 8]);
        assert!(!dormants.is_asked([1; 8]) && dormants.knows([1; 8]));
        assert_eq!(dormants.wake([1; 8], path(1), b"a"), Woken::Ask(state(1)));
    }

    #[test]
    fn a_session_is_taken_for_its_own_device_alone() {
        let mut dormants = Dormants::default();
        dormants.insert(state(1), Instant::from_millis(10_000));
        assert!(!dormants.take_of([3; 6], [1; 16]), "of another device");
        assert!(!dormants.take_of([2; 6], [2; 16]));
        assert!(dormants.take_of([2; 6], [1; 16]));
        assert!(!dormants.knows([1; 8]));
    }

    #[test]
    fn silence_ends_them_and_a_slot_takes_its_own_along() {
        let mut dormants = Dormants::default();
        dormants.insert(state(1), Instant::from_millis(10_000));
        dormants.insert(state(2), Instant::from_millis(20_000));
        assert_eq!(dormants.expire(Instant::from_micros(9_999_999)), []);
        assert_eq!(dormants.expire(Instant::from_millis(10_000)), [state(1)]);
        assert_eq!(dormants.next(), Some(Instant::from_millis(20_000)));
        assert_eq!(dormants.forget(|prefix| prefix == [2; 8]), 1);
        assert_eq!(dormants.expire(Instant::from_millis(30_000)), []);
    }
}
