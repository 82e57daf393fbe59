//! PACKET PATH: no lock, no allocation, no log, no await.
//!
//! Whom a source address speaks with, for datagrams that name no session: UTACKs, and all of a handshake. A fixed table in which newer
//! entries take the place of older ones; a wrong entry costs one forwarded datagram, for whoever gets it verifies it.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use usmp::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
struct Route<T> {
    source: SocketAddr,
    to: T,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Routes<T> {
    places: Box<[Option<Route<T>>]>,
    remembered: Duration,
    hasher: RandomState,
}

impl<T: Copy> Routes<T> {
    /// So many places, 1 at least, for addresses that are remembered for so long.
    pub(crate) fn new(places: usize, remembered: Duration) -> Self {
        let places = vec![None; places.max(1)].into_boxed_slice();
        Self { places, remembered, hasher: RandomState::new() }
    }

    pub(crate) fn remember(&mut self, now: Instant, source: SocketAddr, to: T) {
        let (place, until) = (self.place(source), now + self.remembered);
        if let Some(place) = self.places.get_mut(place) {
            *place = Some(Route { source, to, until });
        }
    }

    pub(crate) fn find(&self, now: Instant, source: SocketAddr) -> Option<T> {
        let route = self.places.get(self.place(source))?.as_ref()?;
        (route.source == source && now < route.until).then_some(route.to)
    }

    pub(crate) fn forget(&mut self, source: SocketAddr) {
        let place = self.place(source);
        if let Some(place) = self.places.get_mut(place) {
            place.take_if(|route| route.source == source);
        }
    }

    fn place(&self, source: SocketAddr) -> usize {
        self.hasher.hash_one(source) as usize % self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_remembered_for_its_time_or_until_it_is_forgotten() {
        let mut routes = Routes::new(4096, Duration::from_secs(120));
        let source = SocketAddr::from(([192, 0, 2, 1], 4000));
        assert_eq!(routes.find(Instant::ZERO, source), None);
        routes.remember(Instant::ZERO, source, 3);
        assert_eq!(routes.find(Instant::from_millis(119_999), source), Some(3));
        assert_eq!(routes.find(Instant::from_millis(120_000), source), None);
        assert_eq!(routes.find(Instant::ZERO, SocketAddr::from(([192, 0, 2, 1], 4001))), None);
        routes.forget(SocketAddr::from(([192, 0, 2, 1], 4001)));
        assert_eq!(routes.find(Instant::ZERO, source), Some(3));
        routes.forget(source);
        assert_eq!(routes.find(Instant::ZERO, source), None);
    }
}
