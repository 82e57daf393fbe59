//! What is on its way: datagrams between devices and pods, and what pods say to each other.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use sluice_peers::simulated::Said;
use tokio::time::Instant;

use super::tally::Tally;
use super::time::Dice;

/// Datagrams of devices that are remembered, for somebody to say them again.
const REMEMBERED: usize = 64;

/// How the network treats datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetworkMood {
    pub(super) loss: f64,
    pub(super) twice: f64,
    pub(super) damage: f64,
    /// Longest way, in ms.
    pub(super) slowest_ms: u64,
}

impl NetworkMood {
    pub(super) const GOOD: Self = Self { loss: 0.0, twice: 0.0, damage: 0.0, slowest_ms: 10 };
}

/// Something on its way. Pods and devices are named by their numbers in the world.
#[derive(Debug, Clone)]
pub(super) enum Arrival {
    ToPod { pod: usize, source: SocketAddr, datagram: Vec<u8> },
    ToDevice { address: SocketAddr, datagram: Vec<u8> },
    FromPeer { to: usize, from: usize, said: Said },
    Beat { to: usize, from: usize, counter: u64, kafka: Option<u32> },
    Refused { to: usize, from: usize },
}

/// The network.
pub(super) struct Network {
    pub(super) mood: NetworkMood,
    on_the_way: BTreeMap<(Instant, u64), Arrival>,
    number: u64,
    heard: VecDeque<(SocketAddr, Vec<u8>)>,
    /// The last arrival between two pods: what they say stays in order.
    links: BTreeMap<(usize, usize), Instant>,
    dice: Dice,
    tally: Tally,
}

impl Network {
    pub(super) fn new(dice: Dice, tally: Tally) -> Self {
        Self {
            mood: NetworkMood::GOOD,
            on_the_way: BTreeMap::new(),
            number: 0,
            heard: VecDeque::new(),
            links: BTreeMap::new(),
            dice,
            tally,
        }
    }

    fn put(&mut self, at: Instant, arrival: Arrival) {
        self.number += 1;
        self.on_the_way.insert((at, self.number), arrival);
    }

    /// A datagram sets out, and may not arrive, or twice, or damaged.
    pub(super) fn datagram(&mut self, mut make: impl FnMut(Vec<u8>) -> Arrival, datagram: &[u8]) {
        let NetworkMood { loss, twice, damage, slowest_ms } = self.mood;
        if self.dice.happens(loss) {
            return self.tally.one("network: datagram lost");
        }
        let copies = if self.dice.happens(twice) { 2 } else { 1 };
        if copies == 2 {
            self.tally.one("network: datagram doubled");
        }
        for _ in 0..copies {
            let mut datagram = datagram.to_vec();
            if self.dice.happens(damage) {
                self.tally.one("network: datagram damaged");
                let at = self.dice.below(datagram.len());
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= 1 << self.dice.within(0, 7);
                }
            }
            let at = Instant::now() + self.dice.millis(1, slowest_ms);
            self.put(at, make(datagram));
        }
    }

    /// Keeps a device's datagram in mind.
    pub(super) fn overhear(&mut self, source: SocketAddr, datagram: &[u8]) {
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back((source, datagram.to_vec()));
    }

    /// One that was overheard.
    pub(super) fn overheard(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.heard.get(self.dice.below(self.heard.len())).cloned()
    }

    /// Something between two pods: in order.
    pub(super) fn between(&mut self, from: usize, to: usize, arrival: Arrival) {
        let soonest = Instant::now() + self.dice.millis(1, 4);
        let last = self.links.get(&(from, to)).copied().unwrap_or(soonest);
        let at = soonest.max(last);
        self.links.insert((from, to), at);
        self.put(at, arrival);
    }

    /// Something that takes so long.
    pub(super) fn after(&mut self, wait: Duration, arrival: Arrival) {
        self.put(Instant::now() + wait, arrival);
    }

    /// What has arrived by now.
    pub(super) fn arrived(&mut self) -> Option<Arrival> {
        let entry = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= Instant::now())?;
        Some(entry.remove())
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.on_the_way.first_key_value().map(|(key, _)| key.0)
    }
}
