//! PACKET PATH: no lock, no log, no await, no allocation.
//!
//! HELLOs whose cookie is right and that cannot begin yet: for want of budget in this turn, or because the ledger is behind.

use std::collections::VecDeque;
use std::net::IpAddr;

use usmp::wire::Hello;

use crate::admission::network;
use crate::path::Path;

/// HELLOs that wait. What is not taken gets no UTACK, so that the device sends it again.
const WAITING: usize = 512;

/// So many of one network may always knock, however many of another wait.
const SHARE: usize = WAITING / 8;

/// Who waits, first come first. One place for each address, so that repeating a HELLO fills nothing; and when there is no place left, a
/// network that has many makes room for one that has few.
#[derive(Debug)]
pub(super) struct Door {
    hellos: VecDeque<(Path, Hello)>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self { hellos: VecDeque::with_capacity(WAITING) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hellos.is_empty()
    }

    fn of(&self, network_of: IpAddr) -> usize {
        let own = network(network_of);
        self.hellos.iter().filter(|(path, _)| network(path.address().ip()) == own).count()
    }

    /// Whether a HELLO from there would find a place.
    pub(super) fn has_room_for(&self, address: IpAddr) -> bool {
        self.hellos.len() < WAITING || self.of(address) < SHARE
    }

    /// Lets a HELLO wait, in place of an earlier one of its address; `false` when it cannot.
    pub(super) fn knock(&mut self, path: Path, hello: &Hello) -> bool {
        let address = path.address();
        if let Some(place) = self.hellos.iter_mut().find(|(waits, _)| waits.address() == address) {
            *place = (path, *hello);
            return true;
        }
        if self.hellos.len() >= WAITING {
            let own = self.of(address.ip());
            let crowded = |(waits, _): &(Path, Hello)| self.of(waits.address().ip()) > own + 1;
            // Who fills the queue is found among its first; looking at all would be dear.
            let Some(at) = self.hellos.iter().take(4).position(crowded) else { return false };
            self.hellos.remove(at);
        }
        self.hellos.push_back((path, *hello));
        true
    }

    pub(super) fn clear(&mut self) {
        self.hellos.clear();
    }

    pub(super) fn pop(&mut self) -> Option<(Path, Hello)> {
        self.hellos.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use usmp::DeviceId;

    use super::*;

    fn hello(seq: u32) -> Hello {
        Hello { seq, device_id: DeviceId([2, 0, 0, 0, 0, 1]), public_key: [9; 32], cookie: None }
    }

    fn from(ip: u8, port: u16) -> Path {
        SocketAddr::from(([192, 0, 2, ip], port)).into()
    }

    #[test]
    fn a_hello_that_is_repeated_has_one_place() {
        let mut door = Door::new();
        for seq in 0..2000 {
            assert!(door.knock(from(1, 1), &hello(seq)));
        }
        assert_eq!(door.pop().map(|(_, hello)| hello.seq), Some(1999));
        assert!(door.is_empty());
    }

    #[test]
    fn a_network_that_fills_the_door_makes_room_for_others_and_not_for_itself() {
        let mut door = Door::new();
        for port in 0..WAITING as u16 {
            assert!(door.knock(from(1, port), &hello(0)));
        }
        assert!(!door.has_room_for([192, 0, 2, 1].into()) && !door.knock(from(1, 60_000), &hello(0)));
        for port in 0..SHARE as u16 {
            assert!(door.has_room_for([192, 0, 2, 2].into()) && door.knock(from(2, port), &hello(0)));
        }
        assert_eq!(door.hellos.len(), WAITING);
        assert_eq!(door.of([192, 0, 2, 2].into()), SHARE);
        for ip in 3..100 {
            assert!(door.knock(from(ip, 1), &hello(0)), "one that is there for the first time");
        }
        assert_eq!(door.hellos.len(), WAITING);
    }
}
