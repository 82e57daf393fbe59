//! Which shard or pod serves which slot, as far as this pod knows. A wrong entry costs a datagram, never more: only who can
//! authenticate a frame and commit it acts upon it.

use sluice_types::PodId;

/// Where the frames of a slot's sessions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nobody is known to serve it.
    Nowhere,
    /// A shard of this pod.
    Shard(u16),
    /// Another pod.
    Pod(PodId),
}

/// The places of all slots, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotMap {
    slots: Vec<Place>,
    /// Shards of this pod that serve a slot, each once, in order: where sessions can be born.
    homes: Vec<u16>,
    /// How many slots this pod is adopting.
    adopting: usize,
}

impl SlotMap {
    /// One slot per shard, of the same number, which no other pod knows of.
    pub(crate) fn alone(shards: u16) -> Self {
        Self { slots: (0..shards).map(Place::Shard).collect(), homes: (0..shards).collect(), adopting: 0 }
    }

    pub(crate) fn new(slots: Vec<Place>) -> Self {
        let mut homes: Vec<u16> = slots
            .iter()
            .filter_map(|place| match place {
                Place::Shard(shard) => Some(*shard),
                _ => None,
            })
            .collect();
        homes.sort_unstable();
        homes.dedup();
        Self { slots, homes, adopting: 0 }
    }

    /// The same while this pod adopts so many of them.
    pub(crate) fn while_adopting(self, adopting: usize) -> Self {
        Self { adopting, ..self }
    }

    /// Slots that this pod is adopting.
    pub(crate) fn adopting(&self) -> usize {
        self.adopting
    }

    /// Slots that this pod serves.
    pub(crate) fn served(&self) -> usize {
        self.slots.iter().filter(|place| matches!(place, Place::Shard(_))).count()
    }

    /// Slots that nobody is known to serve.
    pub(crate) fn unserved(&self) -> usize {
        self.slots.iter().filter(|place| **place == Place::Nowhere).count()
    }

    pub(crate) fn of(&self, slot: u16) -> Place {
        self.slots.get(usize::from(slot)).copied().unwrap_or(Place::Nowhere)
    }

    /// The pods beside this one that serve a slot, each once, in order.
    pub(crate) fn pods(&self) -> Vec<PodId> {
        let pods = self.slots.iter().filter_map(|place| match place {
            Place::Pod(pod) => Some(*pod),
            _ => None,
        });
        let mut pods: Vec<_> = pods.collect();
        pods.sort_unstable();
        pods.dedup();
        pods
    }

    /// The shard that does the handshakes of `shard`: itself if it serves a slot, or one that does.
    pub(crate) fn home_of(&self, shard: u16) -> Option<u16> {
        if self.homes.contains(&shard) {
            return Some(shard);
        }
        let at = usize::from(shard).checked_rem(self.homes.len())?;
        self.homes.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_without_a_slot_leaves_handshakes_to_one_that_has_some() {
        let places = SlotMap::new(vec![Place::Nowhere, Place::Shard(2), Place::Shard(0), Place::Shard(2)]);
        assert_eq!([0, 1, 2, 3].map(|shard| places.home_of(shard)), [Some(0), Some(2), Some(2), Some(2)]);
        assert_eq!(SlotMap::new(vec![Place::Nowhere; 3]).home_of(0), None);
        assert_eq!(places.of(9), Place::Nowhere);
        assert_eq!(SlotMap::alone(2).home_of(1), Some(1));
    }

    #[test]
    fn slots_are_counted_by_who_serves_them() {
        let other = PodId::from_bytes([2; 16]);
        let places =
            vec![Place::Nowhere, Place::Shard(1), Place::Pod(other), Place::Shard(1), Place::Nowhere];
        let map = SlotMap::new(places).while_adopting(1);
        assert_eq!((map.served(), map.adopting(), map.unserved()), (2, 1, 2));
        let alone = SlotMap::alone(3);
        assert_eq!((alone.served(), alone.adopting(), alone.unserved()), (3, 0, 0));
    }

    #[test]
    fn other_pods_that_serve_slots_are_named_once_and_in_order() {
        let pod = |byte| PodId::from_bytes([byte; 16]);
        let places =
            [Place::Pod(pod(2)), Place::Shard(0), Place::Pod(pod(1)), Place::Nowhere, Place::Pod(pod(2))];
        assert_eq!(SlotMap::new(places.to_vec()).pods(), [pod(1), pod(2)]);
    }
}
