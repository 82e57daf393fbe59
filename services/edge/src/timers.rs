//! PACKET PATH: no lock, no log, no await; allocates only when its table grows.
//!
//! One deadline per entity, in an indexed heap with four children per node: the next deadline is known exactly, and moving
//! one leaves no stale entry behind.

use usmp::Instant;

const ARITY: usize = 4;
const ABSENT: u32 = u32::MAX;

/// Deadlines of the entities of one slab, named by their index there.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Vec<(Instant, u32)>,
    /// Where in the heap an entity stands.
    positions: Vec<u32>,
}

impl Timers {
    /// Sees to it that the entity wakes no later than `when`. One that is to wake sooner stays so: an early wake-up is
    /// harmless and cheaper than moving the deadline with each frame.
    pub(crate) fn ensure(&mut self, key: u32, when: Instant) {
        let index = key as usize;
        if index >= self.positions.len() {
            self.positions.resize(index + 1, ABSENT);
        }
        match self.positions[index] {
            ABSENT => {
                self.heap.push((when, key));
                self.sift_up(self.heap.len() - 1);
            }
            at if when < self.heap[at as usize].0 => {
                self.heap[at as usize].0 = when;
                self.sift_up(at as usize);
            }
            _ => {}
        }
    }

    /// Forgets the entity's deadline.
    pub(crate) fn cancel(&mut self, key: u32) {
        if let Some(&at) = self.positions.get(key as usize)
            && at != ABSENT
        {
            self.remove(at as usize);
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Takes out an entity whose deadline has passed.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(when, key) = self.heap.first()?;
        if when > now {
            return None;
        }
        self.remove(0);
        Some(key)
    }

    fn remove(&mut self, at: usize) {
        let (_, key) = self.heap.swap_remove(at);
        self.positions[key as usize] = ABSENT;
        if at < self.heap.len() {
            self.positions[self.heap[at].1 as usize] = at as u32;
            self.sift_up(at);
            self.sift_down(at);
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent].0 <= entry.0 {
                break;
            }
            self.put(at, self.heap[parent]);
            at = parent;
        }
        self.put(at, entry);
    }

    fn sift_down(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let first = at * ARITY + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].0) else { break };
            if self.heap[least].0 >= entry.0 {
                break;
            }
            self.put(at, self.heap[least]);
            at = least;
        }
        self.put(at, entry);
    }

    fn put(&mut self, at: usize, entry: (Instant, u32)) {
        self.heap[at] = entry;
        self.positions[entry.1 as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_later_deadline_leaves_an_earlier_one_in_force() {
        let mut timers = Timers::default();
        timers.ensure(3, Instant::from_micros(10));
        timers.ensure(3, Instant::from_micros(20));
        assert_eq!(timers.next(), Some(Instant::from_micros(10)));
        assert_eq!(timers.pop_due(Instant::from_micros(9)), None);
        assert_eq!(timers.pop_due(Instant::from_micros(10)), Some(3));
        assert_eq!(timers.next(), None);
    }

    proptest! {
        #[test]
        fn deadlines_fire_in_order_whatever_was_moved_or_cancelled(
            operations in prop::collection::vec((0u32..40, prop::option::of(0u64..1000)), 0..200),
        ) {
            let mut timers = Timers::default();
            let mut model = BTreeMap::new();
            for (key, when) in operations {
                match when {
                    Some(when) => {
                        timers.ensure(key, Instant::from_micros(when));
                        model.entry(key).and_modify(|at: &mut u64| *at = when.min(*at)).or_insert(when);
                    }
                    None => {
                        timers.cancel(key);
                        model.remove(&key);
                    }
                }
            }
            let mut last = 0;
            while let Some(next) = timers.next() {
                let key = timers.pop_due(next).expect("its deadline is now");
                prop_assert_eq!(model.remove(&key), Some(next.as_micros()));
                prop_assert!(next.as_micros() >= last);
                last = next.as_micros();
            }
            prop_assert!(model.is_empty(), "never fired: {:?}", model);
        }
    }
}
