//! The sessions of each device, which of them counts, and whose turn it is to hand messages over.
//!
//! Every shard has a writer of its own. A session goes when no other session of its device may write through another writer, and all
//! that such sessions wrote is settled; sessions of one writer need not wait for each other.

use std::collections::{HashMap, VecDeque};

use sluice_proto::events::v1::CloseReason;
use sluice_types::{DeviceEpoch, DeviceId, SessionId};

use crate::link::SessionRef;

/// Whether a session hands messages over, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It was not told to yet.
    Waits,
    Writes,
    /// It never will again.
    Parted,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    session: SessionRef,
    /// What other pods know it by.
    id: SessionId,
    turn: Turn,
    established: bool,
    /// It was told to end for another one, and takes nothing over any more.
    replaced: bool,
    /// It is over; a message of it may still wait for its turn.
    ended: bool,
    /// From the store; zero until it answered.
    epoch: u64,
    /// Order in which sessions were established here.
    arrival: u64,
}

impl Entry {
    /// Whether the store gave it a number, and it was not told to end since.
    const fn holds(&self) -> bool {
        self.epoch != 0 && !self.replaced && !self.ended
    }

    /// Whether another session of the device might overtake it through another writer.
    fn concerns(&self, session: SessionRef) -> bool {
        self.session != session && self.session.writer() != session.writer() && self.turn != Turn::Parted
    }
}

/// The sessions of one device in the order of their birth; nearly always one.
#[derive(Debug)]
enum Sessions {
    One(Entry),
    Many(Vec<Entry>),
}

impl Sessions {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Entry] {
        match self {
            Self::One(entry) => std::slice::from_mut(entry),
            Self::Many(entries) => entries,
        }
    }

    fn push(&mut self, entry: Entry) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, entry]),
            Self::Many(entries) => entries.push(entry),
        }
    }

    /// Takes a session out; `false` when none is left.
    fn remove(&mut self, session: SessionRef) -> bool {
        match self {
            Self::One(entry) => entry.session != session,
            Self::Many(entries) => {
                entries.retain(|entry| entry.session != session);
                if let [last] = entries[..] {
                    *self = Self::One(last);
                }
                !self.as_slice().is_empty()
            }
        }
    }
}

/// What sessions that write no more left in the groups of the writers.
///
/// Each entry stands for a session that wrote something not settled yet, so places for sessions and groups bound it.
#[derive(Debug, Default)]
struct Leftovers {
    /// By writer, in the order of their groups.
    queues: HashMap<u16, VecDeque<(u64, DeviceId)>>,
    /// By device: writer and newest group.
    devices: HashMap<DeviceId, Vec<(u16, u64)>>,
}

impl Leftovers {
    fn add(&mut self, writer: u16, device: DeviceId, mark: u64) {
        let marks = self.devices.entry(device).or_default();
        match marks.iter_mut().find(|(of, _)| *of == writer) {
            Some((_, newest)) if *newest >= mark => return,
            Some((_, newest)) => *newest = mark,
            None => marks.push((writer, mark)),
        }
        self.queues.entry(writer).or_default().push_back((mark, device));
    }

    /// The devices of which a writer has nothing open any more.
    fn settle(&mut self, writer: u16, up_to: u64) -> Vec<DeviceId> {
        let mut through = Vec::new();
        let Some(queue) = self.queues.get_mut(&writer) else { return through };
        while let Some((_, device)) = queue.pop_front_if(|(mark, _)| *mark <= up_to) {
            let Some(marks) = self.devices.get_mut(&device) else { continue };
            let before = marks.len();
            marks.retain(|&(of, mark)| of != writer || mark > up_to);
            if marks.len() < before {
                through.push(device);
            }
            if marks.is_empty() {
                self.devices.remove(&device);
            }
        }
        if queue.is_empty() {
            self.queues.remove(&writer);
        }
        through
    }

    /// Whether another writer than this one has something of the device open.
    fn are_elsewhere(&self, device: DeviceId, writer: u16) -> bool {
        self.devices.get(&device).is_some_and(|marks| marks.iter().any(|&(of, _)| of != writer))
    }
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    devices: HashMap<DeviceId, Sessions>,
    leftovers: Leftovers,
    arrivals: u64,
}

impl Directory {
    pub(super) fn born(&mut self, session: SessionRef, device: DeviceId, id: SessionId) {
        let entry = Entry {
            session,
            id,
            turn: Turn::Waits,
            established: false,
            replaced: false,
            ended: false,
            epoch: 0,
            arrival: 0,
        };
        self.devices
            .entry(device)
            .and_modify(|sessions| sessions.push(entry))
            .or_insert(Sessions::One(entry));
    }

    /// A session has spoken; `false` when it counts no more.
    pub(super) fn established(&mut self, session: SessionRef, device: DeviceId) -> bool {
        let arrival = self.arrivals + 1;
        let Some(entry) = self.entry(session, device).filter(|entry| !entry.replaced) else { return false };
        entry.established = true;
        entry.arrival = arrival;
        self.arrivals = arrival;
        true
    }

    /// A session hands nothing more over; `mark` is its last group that is not settled, or 0.
    pub(super) fn parted(&mut self, session: SessionRef, device: DeviceId, mark: u64) {
        if mark > 0 {
            self.leftovers.add(session.writer(), device, mark);
        }
        let Some(entry) = self.entry(session, device) else { return };
        entry.turn = Turn::Parted;
        if entry.ended {
            self.remove(session, device);
        }
    }

    pub(super) fn ended(&mut self, session: SessionRef, device: DeviceId) {
        let Some(entry) = self.entry(session, device) else { return };
        entry.ended = true;
        if entry.turn == Turn::Parted {
            self.remove(session, device);
        }
    }

    /// A writer has settled its groups up to this one; gives the devices that this may concern.
    pub(super) fn settled(&mut self, writer: u16, up_to: u64) -> Vec<DeviceId> {
        self.leftovers.settle(writer, up_to)
    }

    /// The next session of the device whose turn has come; it counts as told.
    pub(super) fn next_turn(&mut self, device: DeviceId) -> Option<SessionRef> {
        let leftovers = &self.leftovers;
        let entries = self.devices.get_mut(&device)?.as_mut_slice();
        let at = (0..entries.len()).find(|&at| {
            let Some((before, [entry, behind @ ..])) = entries.split_at_checked(at) else { return false };
            // One behind it goes first only if it was told to already.
            entry.turn == Turn::Waits
                && !before.iter().any(|other| other.concerns(entry.session))
                && !behind.iter().any(|other| other.turn == Turn::Writes && other.concerns(entry.session))
                && !leftovers.are_elsewhere(device, entry.session.writer())
        })?;
        let entry = entries.get_mut(at)?;
        entry.turn = Turn::Writes;
        Some(entry.session)
    }

    /// The oldest half-open sessions of a device beyond those it may have.
    pub(super) fn surplus(&self, device: DeviceId, allowed: usize) -> Vec<SessionRef> {
        let half_open = self.entries(device).iter().filter(|entry| !entry.established && !entry.ended);
        let surplus = half_open.clone().count().saturating_sub(allowed);
        half_open.take(surplus).map(|entry| entry.session).collect()
    }

    /// The store numbered a session that has spoken, or 0: gives the sessions that end for it, or itself if it is the older one.
    pub(super) fn take_over(
        &mut self,
        session: SessionRef,
        device: DeviceId,
        epoch: u64,
    ) -> Vec<(SessionRef, CloseReason)> {
        let Some(entry) = self.entry(session, device).filter(|entry| !entry.replaced) else {
            return Vec::new();
        };
        entry.epoch = epoch;
        let arrival = entry.arrival;
        let Some(entries) = self.devices.get_mut(&device).map(Sessions::as_mut_slice) else {
            return Vec::new();
        };
        let mut ends = Vec::new();
        let mut is_older = false;
        let mut born_before = true;
        for other in entries {
            if other.session == session {
                born_before = false;
                continue;
            }
            if other.ended || other.replaced {
                continue;
            }
            // Without numbers from the store the order here decides.
            let numbered = other.epoch != 0 && epoch != 0;
            let older = if numbered {
                (other.epoch, other.arrival) < (epoch, arrival)
            } else {
                other.arrival < arrival
            };
            if !other.established {
                // It has not spoken and must not keep the newer one waiting; one of the same writer does not.
                if born_before && other.concerns(session) {
                    other.replaced = true;
                    ends.push((other.session, CloseReason::NeverEstablished));
                }
            } else if older {
                other.replaced = true;
                ends.push((other.session, CloseReason::TakenOver));
            } else if numbered {
                is_older = true;
            }
        }
        if is_older && let Some(entry) = self.entry(session, device) {
            entry.replaced = true;
            ends.push((session, CloseReason::TakenOver));
        }
        ends
    }

    /// A session came from another pod, with the number that it was given there, or 0. Gives the session that ends for it, or itself
    /// when the device has a newer one here, or one whose number nobody knows.
    pub(super) fn resumed(
        &mut self,
        session: SessionRef,
        device: DeviceId,
        epoch: DeviceEpoch,
    ) -> Option<SessionRef> {
        let current = self.current(device);
        self.entry(session, device)?.epoch = epoch.0;
        let current = self.entry(current?, device)?;
        let ends = if current.epoch != 0 && current.epoch < epoch.0 { current.session } else { session };
        self.entry(ends, device)?.replaced = true;
        Some(ends)
    }

    /// Another pod has a session of the device with this number: gives the one of this id here, if it is an older one that goes on.
    pub(super) fn displaced(
        &mut self,
        device: DeviceId,
        id: SessionId,
        by: DeviceEpoch,
    ) -> Option<SessionRef> {
        let entries = self.devices.get_mut(&device)?.as_mut_slice();
        let goes_on = |entry: &&mut Entry| entry.id == id && !entry.ended && !entry.replaced;
        let entry = entries.iter_mut().find(goes_on).filter(|entry| entry.epoch < by.0)?;
        entry.replaced = true;
        Some(entry.session)
    }

    /// The id of a session that has not ended.
    pub(super) fn id(&self, session: SessionRef, device: DeviceId) -> Option<SessionId> {
        let mut entries = self.entries(device).iter();
        entries.find(|entry| entry.session == session && !entry.ended).map(|entry| entry.id)
    }

    /// The id and number of a session that holds its device as far as is known here.
    pub(super) fn holds(&self, session: SessionRef, device: DeviceId) -> Option<(SessionId, DeviceEpoch)> {
        let mut entries = self.entries(device).iter();
        let entry = entries.find(|entry| entry.session == session && entry.holds())?;
        Some((entry.id, DeviceEpoch(entry.epoch)))
    }

    /// All sessions that hold their device.
    pub(super) fn holders(&self) -> impl Iterator<Item = (DeviceId, SessionRef)> {
        self.devices.iter().flat_map(|(device, sessions)| {
            let holders = sessions.as_slice().iter().filter(|entry| entry.holds());
            holders.map(|entry| (*device, entry.session))
        })
    }

    /// The session that counts as the device's: the one established last.
    pub(super) fn current(&self, device: DeviceId) -> Option<SessionRef> {
        let live = self.entries(device).iter().filter(|entry| entry.established && !entry.ended);
        live.max_by_key(|entry| entry.arrival).map(|entry| entry.session)
    }

    /// All sessions of a device.
    pub(super) fn sessions(&self, device: DeviceId) -> Vec<SessionRef> {
        self.entries(device).iter().map(|entry| entry.session).collect()
    }

    /// Whether a device has any.
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.devices.contains_key(&device)
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.devices.keys().copied()
    }

    fn entries(&self, device: DeviceId) -> &[Entry] {
        self.devices.get(&device).map_or(&[][..], Sessions::as_slice)
    }

    fn entry(&mut self, session: SessionRef, device: DeviceId) -> Option<&mut Entry> {
        self.devices.get_mut(&device)?.as_mut_slice().iter_mut().find(|entry| entry.session == session)
    }

    fn remove(&mut self, session: SessionRef, device: DeviceId) {
        if let Some(sessions) = self.devices.get_mut(&device)
            && !sessions.remove(session)
        {
            self.devices.remove(&device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId::from_bytes([2, 0, 0, 0, 0, 1]);

    const fn session(shard: u16, serial: u32) -> SessionRef {
        SessionRef { shard, tcp: true, index: serial, serial }
    }

    fn id(session: SessionRef) -> SessionId {
        SessionId::from_bytes([session.serial as u8; 16])
    }

    /// A directory with one session that writes.
    fn with_one() -> (Directory, SessionRef) {
        let mut directory = Directory::default();
        let old = session(0, 1);
        directory.born(old, DEVICE, id(old));
        assert_eq!(directory.next_turn(DEVICE), Some(old), "nobody is before the first session");
        assert!(directory.established(old, DEVICE));
        assert!(directory.take_over(old, DEVICE, 1).is_empty());
        (directory, old)
    }

    fn end(directory: &mut Directory, session: SessionRef, mark: u64) {
        directory.parted(session, DEVICE, mark);
        directory.ended(session, DEVICE);
    }

    #[test]
    fn a_newer_session_of_another_writer_waits_until_the_older_one_is_settled() {
        let (mut directory, old) = with_one();
        let new = session(1, 2);
        directory.born(new, DEVICE, id(new));
        assert_eq!(directory.next_turn(DEVICE), None, "the older one still writes");
        assert!(directory.established(new, DEVICE));
        assert_eq!(directory.take_over(new, DEVICE, 2), [(old, CloseReason::TakenOver)]);
        assert_eq!(directory.next_turn(DEVICE), None, "the older one has not parted");
        end(&mut directory, old, 7);
        assert_eq!(directory.next_turn(DEVICE), None, "what it wrote is not settled");
        assert!(directory.settled(0, 6).is_empty());
        assert!(directory.settled(1, 9).is_empty(), "another writer's groups say nothing");
        assert_eq!(directory.settled(0, 7), [DEVICE]);
        assert_eq!(directory.next_turn(DEVICE), Some(new));
        assert_eq!(directory.next_turn(DEVICE), None, "told once");
    }

    #[test]
    fn a_session_that_ended_before_the_next_began_is_waited_for_as_well() {
        let (mut directory, old) = with_one();
        end(&mut directory, old, 3);
        let (same, other) = (session(0, 2), session(1, 3));
        directory.born(same, DEVICE, id(same));
        assert_eq!(directory.next_turn(DEVICE), Some(same), "the same writer keeps the order");
        end(&mut directory, same, 4);
        directory.born(other, DEVICE, id(other));
        assert_eq!(directory.next_turn(DEVICE), None);
        assert!(directory.settled(0, 3).is_empty(), "the second one's are open");
        assert_eq!(directory.settled(0, 4), [DEVICE]);
        assert_eq!(directory.next_turn(DEVICE), Some(other));
    }

    #[test]
    fn a_half_open_session_before_it_ends_and_keeps_no_other_waiting() {
        let mut directory = Directory::default();
        let (silent, speaks) = (session(0, 1), session(1, 2));
        directory.born(silent, DEVICE, id(silent));
        assert_eq!(directory.next_turn(DEVICE), Some(silent));
        directory.born(speaks, DEVICE, id(speaks));
        assert_eq!(directory.next_turn(DEVICE), None, "the silent one may speak at any time");
        assert!(directory.established(speaks, DEVICE));
        assert_eq!(directory.take_over(speaks, DEVICE, 1), [(silent, CloseReason::NeverEstablished)]);
        // Its first word crosses the message that ends it.
        assert!(!directory.established(silent, DEVICE), "it takes nothing over any more");
        directory.parted(silent, DEVICE, 0);
        assert_eq!(directory.next_turn(DEVICE), Some(speaks));
        assert_eq!(directory.current(DEVICE), Some(speaks));
    }

    #[test]
    fn a_message_that_waits_outlives_its_connection_and_stays_before_the_next() {
        let (mut directory, first) = with_one();
        let (second, third) = (session(1, 2), session(0, 3));
        directory.born(second, DEVICE, id(second));
        assert!(directory.established(second, DEVICE));
        // Over, but not parted: its message waits for its turn.
        directory.ended(second, DEVICE);
        directory.born(third, DEVICE, id(third));
        assert_eq!(directory.next_turn(DEVICE), None);
        assert!(directory.established(third, DEVICE));
        assert_eq!(directory.take_over(third, DEVICE, 3), [(first, CloseReason::TakenOver)]);
        end(&mut directory, first, 0);
        assert_eq!(directory.next_turn(DEVICE), Some(second));
        assert_eq!(directory.next_turn(DEVICE), None);
        directory.parted(second, DEVICE, 1);
        assert_eq!(directory.next_turn(DEVICE), None);
        assert_eq!(directory.settled(1, 1), [DEVICE]);
        assert_eq!(directory.next_turn(DEVICE), Some(third));
    }

    #[test]
    fn the_session_with_the_lower_number_ends() {
        let (mut directory, old) = with_one();
        let new = session(1, 2);
        directory.born(new, DEVICE, id(new));
        assert!(directory.established(new, DEVICE));
        assert!(directory.take_over(old, DEVICE, 9).is_empty(), "a late answer about the older one");
        assert_eq!(directory.take_over(new, DEVICE, 8), [(new, CloseReason::TakenOver)]);
    }

    #[test]
    fn of_a_session_from_another_pod_and_one_that_is_here_the_lower_number_ends() {
        for (epoch, ends) in [(0, 2), (1, 2), (3, 1)] {
            let mut directory = Directory::default();
            let (here, came) = (session(0, 1), session(0, 2));
            directory.born(here, DEVICE, id(here));
            assert!(directory.established(here, DEVICE));
            assert!(directory.take_over(here, DEVICE, 2).is_empty());
            directory.born(came, DEVICE, id(came));
            let found = directory.resumed(came, DEVICE, DeviceEpoch(epoch)).map(|session| session.serial);
            assert_eq!(found, Some(ends), "number {epoch} against 2");
        }
        let mut directory = Directory::default();
        let came = session(0, 2);
        directory.born(came, DEVICE, id(came));
        assert_eq!(directory.resumed(came, DEVICE, DeviceEpoch(1)), None);
        assert_eq!(directory.holds(came, DEVICE), Some((id(came), DeviceEpoch(1))));
    }

    #[test]
    fn another_pod_ends_an_older_session_of_that_name_and_no_other() {
        let (mut directory, old) = with_one();
        let other = DeviceId::from_bytes([2, 0, 0, 0, 0, 2]);
        assert_eq!(directory.displaced(DEVICE, id(session(0, 9)), DeviceEpoch(2)), None, "another session");
        assert_eq!(directory.displaced(other, id(old), DeviceEpoch(2)), None, "another device");
        assert_eq!(directory.displaced(DEVICE, id(old), DeviceEpoch(1)), None, "not an older one");
        assert_eq!(directory.holders().collect::<Vec<_>>(), [(DEVICE, old)]);
        assert_eq!(directory.displaced(DEVICE, id(old), DeviceEpoch(2)), Some(old));
        assert_eq!(directory.displaced(DEVICE, id(old), DeviceEpoch(2)), None, "told once");
        assert_eq!(directory.holders().count(), 0);
    }

    #[test]
    fn nothing_is_left_of_devices_that_are_gone() {
        let (mut directory, old) = with_one();
        end(&mut directory, old, 1);
        let new = session(1, 2);
        directory.born(new, DEVICE, id(new));
        end(&mut directory, new, 0);
        assert_eq!(directory.settled(0, 1), [DEVICE]);
        assert!(directory.devices.is_empty(), "{directory:?}");
        assert!(directory.leftovers.devices.is_empty() && directory.leftovers.queues.is_empty());
    }
}
