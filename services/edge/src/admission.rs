//! Who waits after failed proofs, and who makes room when the tables of unproven peers are full.
//!
//! A penalty is keyed by (verified address, device id): other devices behind the same NAT, and the same device elsewhere, are
//! not affected; an address that nobody verified is never penalised (WIRE.md section 14, W8 and W9).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use usmp::DeviceId;
use usmp::Instant;

use crate::counts::{Count, Counts};

/// Who shares a fate when room is short: an IPv4 address, or the /64 of an IPv6 one, which one customer has for itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// Failed proofs by (address, device), over all shards: clones mean the same table, for the system spreads a device's connections over
/// the shards. Bounded: when full, the entries that are over are dropped, then the eighth that failed longest ago.
///
/// Only handshakes look, and none of them takes the lock while nobody has failed lately.
#[derive(Debug, Clone)]
pub(crate) struct Penalties {
    after: u32,
    longest: Duration,
    capacity: usize,
    /// Entries in the table.
    length: Arc<AtomicUsize>,
    failures: Arc<Mutex<Table>>,
    /// Where other pods are told, if there are any.
    news: Option<(mpsc::Sender<Failed>, Arc<Counts>)>,
}

/// What pods tell each other of a device that waits somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) network: IpAddr,
    pub(crate) device: DeviceId,
    /// How often in a row; 0 when it has shown its key since.
    pub(crate) count: u16,
}

type Table = HashMap<(IpAddr, [u8; 6]), Failures>;

/// Failures this long ago no longer count.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

impl Penalties {
    pub(crate) fn new(after: u32, longest: Duration, capacity: usize) -> Self {
        Self { after, longest, capacity, length: Arc::default(), failures: Arc::default(), news: None }
    }

    /// The same, and what comes of it is told there. What the queue has no room for is counted and not told.
    pub(crate) fn telling(mut self, news: mpsc::Sender<Failed>, counts: Arc<Counts>) -> Self {
        self.news = Some((news, counts));
        self
    }

    fn tell(&self, network: IpAddr, device: DeviceId, count: u32) {
        let Some((news, counts)) = &self.news else { return };
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        if news.try_send(Failed { network, device, count }).is_err() {
            counts.one(Count::PenaltiesNotTold);
        }
    }

    /// Another pod saw a device fail, or show its key, at a verified address.
    pub(crate) fn heard(&self, now: Instant, failed: Failed) {
        let key = (network(failed.network), failed.device.0);
        let mut table = self.table();
        if failed.count == 0 {
            table.remove(&key);
        } else {
            if !table.contains_key(&key) && table.len() >= self.capacity {
                make_room(&mut table, self.capacity, now);
            }
            let entry = table.entry(key).or_insert(Failures { count: 0, last: now });
            if now - entry.last > FORGOTTEN_AFTER {
                entry.count = 0;
            }
            entry.count = entry.count.max(u32::from(failed.count));
            entry.last = now;
        }
        self.length.store(table.len(), Ordering::Relaxed);
        drop(table);
        if let Some((_, counts)) = &self.news {
            counts.one(Count::PenaltiesHeard);
        }
    }

    /// Whether a handshake of this device from this address has to wait.
    pub(crate) fn waits(&self, now: Instant, address: IpAddr, device: DeviceId) -> bool {
        !self.is_empty()
            && self
                .table()
                .get(&(network(address), device.0))
                .is_some_and(|failures| now < failures.last + self.penalty(failures.count))
    }

    /// A proof of this device from this (verified) address was wrong.
    pub(crate) fn failed(&self, now: Instant, address: IpAddr, device: DeviceId) {
        let key = (network(address), device.0);
        let mut table = self.table();
        if !table.contains_key(&key) && table.len() >= self.capacity {
            make_room(&mut table, self.capacity, now);
        }
        let entry = table.entry(key).or_insert(Failures { count: 0, last: now });
        if now - entry.last > FORGOTTEN_AFTER {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        let count = entry.count;
        self.length.store(table.len(), Ordering::Relaxed);
        drop(table);
        if count >= self.after {
            self.tell(key.0, device, count);
        }
    }

    /// A proof was right: nothing is held against the device there.
    pub(crate) fn succeeded(&self, address: IpAddr, device: DeviceId) {
        if !self.is_empty() {
            let mut table = self.table();
            let network = network(address);
            let removed = table.remove(&(network, device.0));
            self.length.store(table.len(), Ordering::Relaxed);
            drop(table);
            if removed.is_some_and(|failures| failures.count >= self.after) {
                self.tell(network, device, 0);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is whole before the next begins, so a panic elsewhere leaves nothing half-done.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn penalty(&self, count: u32) -> Duration {
        match count.checked_sub(self.after) {
            None => Duration::ZERO,
            Some(over) => {
                let seconds = 1u64.checked_shl(over).unwrap_or(u64::MAX).max(1);
                Duration::from_secs(seconds).min(self.longest)
            }
        }
    }
}

/// Many go at once, so that a full table is looked through once for many failures, not for each.
fn make_room(table: &mut Table, capacity: usize, now: Instant) {
    table.retain(|_, failures| now - failures.last <= FORGOTTEN_AFTER);
    if table.len() >= capacity {
        let mut ages: Vec<Instant> = table.values().map(|failures| failures.last).collect();
        let goes = (ages.len() / 8).min(ages.len().saturating_sub(1));
        let (_, &mut newest_to_go, _) = ages.select_nth_unstable(goes);
        table.retain(|_, failures| failures.last > newest_to_go);
    }
}

/// Unproven peers by their places in a table, oldest first. Places whose peer is gone stay until there are more of them than of
/// others, so the queue is never longer than twice the table and some.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    places: VecDeque<(u32, u32)>,
}

impl Queue {
    /// Adds the place and serial number of the newest. `alive` tells of a place whether that peer is still there, `count` how
    /// many are.
    pub(crate) fn push(&mut self, place: (u32, u32), count: usize, alive: impl Fn((u32, u32)) -> bool) {
        if self.places.len() > 2 * count + 64 {
            self.places.retain(|&place| alive(place));
        }
        self.places.push_back(place);
    }

    /// The oldest of those that `fits`, which none does whose peer is gone.
    pub(crate) fn oldest(&self, fits: impl Fn((u32, u32)) -> bool) -> Option<u32> {
        self.places.iter().copied().find(|&place| fits(place)).map(|(at, _)| at)
    }
}

/// Who waits for a ledger, by places in a table, longest first. Places of those that wait no more stay until they are in front, or there
/// are more of them than of peers.
#[derive(Debug, Default)]
pub(crate) struct Line {
    places: VecDeque<(u32, u32)>,
}

/// So many may always wait.
const FEW: usize = 64;

impl Line {
    /// Adds whoever waits now. `since` tells of a place since when it waits, if it still does; `count` how many peers there are.
    pub(crate) fn push(
        &mut self,
        place: (u32, u32),
        count: usize,
        since: impl Fn((u32, u32)) -> Option<Instant>,
    ) {
        if self.places.len() > 2 * count + 64 {
            self.places.retain(|&place| since(place).is_some());
        }
        self.places.push_back(place);
    }

    /// Whether more than a few wait, and the first of them for longer than this.
    pub(crate) fn is_slow(
        &mut self,
        now: Instant,
        patience: Duration,
        since: impl Fn((u32, u32)) -> Option<Instant>,
    ) -> bool {
        while let Some(&place) = self.places.front() {
            if let Some(first) = since(place) {
                // Those behind it may be done long since, in slots that are not behind.
                let mut waiting = self.places.iter().filter(|place| since(**place).is_some());
                return now.saturating_duration_since(first) >= patience && waiting.nth(FEW).is_some();
            }
            self.places.pop_front();
        }
        false
    }
}

/// How many unproven peers each network has in a table, so that one network makes room at its own cost.
#[derive(Debug)]
pub(crate) struct Shares {
    capacity: usize,
    total: usize,
    by_network: HashMap<IpAddr, u32>,
}

/// Who makes room for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room.
    Free,
    /// The oldest peer of the newcomer's own network goes: it holds more than an eighth of a table that is half full.
    OwnOldest,
    /// The table is full and nobody holds too much: the oldest of all goes.
    Oldest,
}

impl Shares {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, total: 0, by_network: HashMap::new() }
    }

    pub(crate) fn room(&self, address: IpAddr) -> Room {
        let own = self.by_network.get(&network(address)).copied().unwrap_or(0) as usize;
        if self.total * 2 >= self.capacity && own * 8 > self.capacity {
            Room::OwnOldest
        } else if self.total >= self.capacity {
            Room::Oldest
        } else {
            Room::Free
        }
    }

    pub(crate) const fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn enter(&mut self, address: IpAddr) {
        self.total += 1;
        *self.by_network.entry(network(address)).or_insert(0) += 1;
    }

    pub(crate) fn leave(&mut self, address: IpAddr) {
        let network = network(address);
        if let Some(count) = self.by_network.get_mut(&network) {
            self.total -= 1;
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([2, 0, 0, 0, 0, 1]);
    const OTHER: DeviceId = DeviceId([2, 0, 0, 0, 0, 2]);

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_failing_device_waits_longer_each_time_and_its_neighbours_do_not() {
        let penalties = Penalties::new(3, Duration::from_secs(4), 10);
        let nat = ip("192.0.2.1");
        let mut now = at(0);
        let mut waited = Vec::new();
        for _ in 0..7 {
            penalties.failed(now, nat, DEVICE);
            let mut seconds = 0;
            while penalties.waits(now + Duration::from_secs(seconds), nat, DEVICE) {
                seconds += 1;
            }
            waited.push(seconds);
            now = now + Duration::from_secs(seconds);
        }
        assert_eq!(waited, [0, 0, 1, 2, 4, 4, 4]);
        penalties.failed(now, nat, DEVICE);
        assert!(penalties.waits(now, nat, DEVICE));
        assert!(!penalties.waits(now, nat, OTHER), "another device behind the same address");
        assert!(!penalties.waits(now, ip("192.0.2.2"), DEVICE), "the same device at another address");
        penalties.succeeded(nat, DEVICE);
        assert!(!penalties.waits(now, nat, DEVICE));
    }

    #[test]
    fn a_failure_on_one_shard_counts_on_all() {
        let penalties = Penalties::new(2, Duration::from_secs(60), 10);
        let shards = [penalties.clone(), penalties.clone(), penalties];
        let nat = ip("192.0.2.1");
        shards[0].failed(at(0), nat, DEVICE);
        shards[1].failed(at(0), nat, DEVICE);
        assert!(shards.iter().all(|shard| shard.waits(at(0), nat, DEVICE)), "{shards:?}");
        shards[2].succeeded(nat, DEVICE);
        assert!(!shards.iter().any(|shard| shard.waits(at(0), nat, DEVICE)), "{shards:?}");
    }

    /// Two pods, and what the first one tells.
    fn pods() -> (Penalties, mpsc::Receiver<Failed>, Penalties) {
        let (news, told) = mpsc::channel(4);
        let first = Penalties::new(3, Duration::from_secs(60), 10).telling(news, Arc::default());
        (first, told, Penalties::new(3, Duration::from_secs(60), 10))
    }

    #[test]
    fn a_penalty_is_told_and_holds_elsewhere_and_so_is_its_end() {
        let (first, mut told, second) = pods();
        let nat = ip("192.0.2.1");
        for _ in 0..2 {
            first.failed(at(0), nat, DEVICE);
        }
        assert!(told.try_recv().is_err(), "no penalty yet");
        first.failed(at(0), nat, DEVICE);
        let failed = told.try_recv().expect("told");
        assert_eq!(failed, Failed { network: nat, device: DEVICE, count: 3 });
        second.heard(at(7), failed);
        assert!(second.waits(at(7), nat, DEVICE));
        assert!(!second.waits(at(7), nat, OTHER) && !second.waits(at(7), ip("192.0.2.2"), DEVICE));
        first.succeeded(nat, DEVICE);
        second.heard(at(7), told.try_recv().expect("told"));
        assert!(!second.waits(at(7), nat, DEVICE));
        first.succeeded(nat, DEVICE);
        assert!(told.try_recv().is_err(), "nothing was held against it");
    }

    #[test]
    fn what_is_heard_is_not_told_on_and_raises_no_count() {
        let (first, mut told, _) = pods();
        let failed = Failed { network: ip("192.0.2.1"), device: DEVICE, count: 3 };
        for _ in 0..100 {
            first.heard(at(0), failed);
        }
        assert!(told.try_recv().is_err());
        assert!(!first.waits(at(1), failed.network, DEVICE), "said a hundred times, it is one second still");
        for last in 0..100 {
            first.heard(at(u64::from(last)), Failed { device: DeviceId([2, 0, 0, 0, 1, last]), ..failed });
        }
        assert!(first.table().len() <= 10, "{first:?}");
    }

    #[test]
    fn penalties_beyond_the_queue_are_counted_and_hold_here() {
        let counts = Arc::new(Counts::default());
        let (news, _told) = mpsc::channel(4);
        let penalties = Penalties::new(1, Duration::from_secs(60), 100).telling(news, Arc::clone(&counts));
        for last in 0..9 {
            penalties.failed(at(0), ip("192.0.2.1"), DeviceId([2, 0, 0, 0, 1, last]));
        }
        assert_eq!(counts.value(Count::PenaltiesNotTold), 5);
        assert!(penalties.waits(at(0), ip("192.0.2.1"), DeviceId([2, 0, 0, 0, 1, 8])));
    }

    #[test]
    fn old_failures_are_forgotten() {
        let penalties = Penalties::new(1, Duration::from_secs(60), 10);
        for _ in 0..9 {
            penalties.failed(at(0), ip("192.0.2.1"), DEVICE);
        }
        penalties.failed(at(601), ip("192.0.2.1"), DEVICE);
        assert!(!penalties.waits(at(603), ip("192.0.2.1"), DEVICE));
    }

    #[test]
    fn the_table_of_failures_is_bounded() {
        let penalties = Penalties::new(1, Duration::from_secs(60), 8);
        for last in 0..100 {
            penalties.failed(at(u64::from(last)), ip("192.0.2.1"), DeviceId([2, 0, 0, 0, 1, last]));
        }
        assert!((4..=8).contains(&penalties.table().len()), "{penalties:?}");
        assert!(penalties.waits(at(99), ip("192.0.2.1"), DeviceId([2, 0, 0, 0, 1, 99])), "the newest stays");
    }

    #[test]
    fn a_line_is_slow_when_many_wait_and_the_first_has_waited_long() {
        let patience = Duration::from_secs(2);
        let since = |gone: u32| move |(at, _): (u32, u32)| (at >= gone).then(|| self::at(u64::from(at)));
        let mut line = Line::default();
        for place in 0..64 {
            line.push((place, 0), 100, since(0));
        }
        assert!(!line.is_slow(at(1000), patience, since(0)), "they are few, however long it takes");
        for place in 64..100 {
            line.push((place, 0), 100, since(0));
        }
        assert!(line.is_slow(at(1000), patience, since(0)));
        assert!(!line.is_slow(at(21), patience, since(20)), "the first waits for a second");
        assert!(line.is_slow(at(22), patience, since(20)));
        assert!(!line.is_slow(at(1000), patience, since(36)), "64 are left");
        let but_one = |place: (u32, u32)| (place.0 == 36).then(|| at(36));
        line.push((100, 0), 1000, but_one);
        assert!(!line.is_slow(at(1000), patience, but_one), "all behind the first are done");
        assert!(!line.is_slow(at(1000), patience, since(101)) && line.places.is_empty());
        for place in 0..100_000 {
            line.push((place, 0), 10, since(place));
            assert!(line.places.len() <= 2 * 10 + 65, "{}", line.places.len());
        }
    }

    #[test]
    fn the_queue_of_unproven_peers_forgets_those_that_are_gone() {
        let mut queue = Queue::default();
        for serial in 0..100_000 {
            queue.push((serial % 10, serial), 10, |(_, other)| other + 10 > serial);
        }
        assert!(queue.places.len() <= 2 * 10 + 64 + 1, "{} places", queue.places.len());
        assert_eq!(queue.oldest(|(_, serial)| serial >= 99_990), Some(0));
        assert_eq!(queue.oldest(|_| false), None);
    }

    #[test]
    fn a_network_with_too_many_unproven_peers_pays_itself() {
        let mut shares = Shares::new(16);
        let (greedy, honest) = (ip("2001:db8::1"), ip("192.0.2.1"));
        for host in 0..8u16 {
            assert_eq!(shares.room(greedy), Room::Free, "host {host}");
            // Addresses of one /64 are one peer.
            shares.enter(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, host)));
        }
        assert_eq!(shares.room(greedy), Room::OwnOldest);
        assert_eq!(shares.room(honest), Room::Free);
        for last in 0..8 {
            shares.enter(IpAddr::from([198, 51, 100, last]));
        }
        assert_eq!(shares.room(honest), Room::Oldest);
        for last in 0..8 {
            shares.leave(IpAddr::from([198, 51, 100, last]));
        }
        for _ in 0..8 {
            shares.leave(greedy);
        }
        assert_eq!((shares.total, shares.by_network.len()), (0, 0));
    }
}
