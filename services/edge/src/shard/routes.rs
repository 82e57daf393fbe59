//! PACKET PATH: no lock, no allocation, no log, no await.
//!
//! Which shard a source address speaks with, for UTACKs, which name no session. A fixed table in which newer entries take the place
//! of older ones; a wrong entry costs one forwarded datagram, for the owner verifies the MAC.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use usmp::{Duration, Instant};

const PLACES: usize = 4096;

/// How long an address is remembered.
const REMEMBERED: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
struct Route {
    source: SocketAddr,
    slot: u16,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Routes {
    places: Box<[Option<Route>]>,
    hasher: RandomState,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self { places: vec![None; PLACES].into_boxed_slice(), hasher: RandomState::new() }
    }

    pub(crate) fn remember(&mut self, now: Instant, source: SocketAddr, slot: u16) {
        let place = self.place(source);
        if let Some(place) = self.places.get_mut(place) {
            *place = Some(Route { source, slot, until: now + REMEMBERED });
        }
    }

    pub(crate) fn find(&self, now: Instant, source: SocketAddr) -> Option<u16> {
        let route = self.places.get(self.place(source))?.as_ref()?;
        (route.source == source && now < route.until).then_some(route.slot)
    }

    fn place(&self, source: SocketAddr) -> usize {
        self.hasher.hash_one(source) as usize % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_remembered_for_two_minutes() {
        let mut routes = Routes::new();
        let source = SocketAddr::from(([192, 0, 2, 1], 4000));
        assert_eq!(routes.find(Instant::ZERO, source), None);
        routes.remember(Instant::ZERO, source, 3);
        assert_eq!(routes.find(Instant::from_millis(119_999), source), Some(3));
        assert_eq!(routes.find(Instant::from_millis(120_000), source), None);
        assert_eq!(routes.find(Instant::ZERO, SocketAddr::from(([192, 0, 2, 1], 4001))), None);
    }
}
