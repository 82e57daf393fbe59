//! Two ends, two links and a clock that jumps to the next thing that happens.

use usmp::Instant;
use usmp::crypto::Provider;
use usmp::device::UdpDevice;
use usmp::wire::MAX_FRAME;

use crate::link::{Conditions, Link};

/// One end of a path, with the method families of the machines.
pub trait Endpoint {
    /// Takes a datagram; what is not taken is the end's own affair.
    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]);
    /// Notes that time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// Hands each datagram that is to be sent to `send`.
    fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(&[u8]));
    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    fn poll_timeout(&self) -> Option<Instant>;
}

impl<P: Provider, const TX: usize, const RX: usize> Endpoint for UdpDevice<P, TX, RX> {
    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) {
        let _dropped = Self::handle_datagram(self, now, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Self::handle_timeout(self, now);
    }

    fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) {
        let mut out = [0; MAX_FRAME];
        while let Some(length) = self.poll_transmit(now, &mut out) {
            send(&out[..length]);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Self::poll_timeout(self)
    }
}

/// A path with a device's end and a server's end, and the time.
#[derive(Debug)]
pub struct Path {
    now: Instant,
    /// Device to server.
    pub up: Link,
    /// Server to device.
    pub down: Link,
}

impl Path {
    /// A path with the same conditions both ways. Everything on it follows from the seed.
    #[must_use]
    pub fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            now: Instant::from_millis(1_000),
            up: Link::new(conditions, seed.wrapping_mul(2)),
            down: Link::new(conditions, seed.wrapping_mul(2).wrapping_add(1)),
        }
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Changes what the path does, both ways, from now on.
    pub const fn set_conditions(&mut self, conditions: Conditions) {
        self.up.set_conditions(conditions);
        self.down.set_conditions(conditions);
    }

    /// Lets both ends send what they have, then jumps to the next arrival or timer and lets them handle it. False when nothing
    /// will happen any more, or not before `until`; the time is then `until`.
    pub fn step(&mut self, device: &mut dyn Endpoint, server: &mut dyn Endpoint, until: Instant) -> bool {
        device.transmit(self.now, &mut |datagram| self.up.send(self.now, datagram));
        server.transmit(self.now, &mut |datagram| self.down.send(self.now, datagram));
        let next =
            [self.up.next_arrival(), self.down.next_arrival(), device.poll_timeout(), server.poll_timeout()]
                .into_iter()
                .flatten()
                .min();
        let Some(next) = next.filter(|&next| next <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        // One datagram per step, so that a check between the steps sees every state.
        if let Some(mut datagram) = self.up.receive(self.now) {
            server.handle_datagram(self.now, &mut datagram);
        } else if let Some(mut datagram) = self.down.receive(self.now) {
            device.handle_datagram(self.now, &mut datagram);
        } else {
            device.handle_timeout(self.now);
            server.handle_timeout(self.now);
        }
        true
    }
}
