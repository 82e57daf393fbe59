//! PACKET PATH: no lock, no log, no await; allocates only when a table grows, a chunk at a time.
//!
//! Where sessions live ([`Slab`]) and how they are found ([`Index`]).

use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// Entries per chunk. A table grows by chunks, so that growing copies nothing and stalls nobody.
const CHUNK: usize = 256;

/// Values by a small number that is used again after they are gone. At most `capacity` of them.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Option<T>]>>,
    free: Vec<u32>,
    len: usize,
    capacity: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), len: 0, capacity }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest number that a value can have now.
    pub(crate) const fn reach(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.len >= self.capacity
    }

    /// Takes the value in and gives its number, or gives it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<u32, T> {
        if self.is_full() {
            return Err(value);
        }
        if self.free.is_empty() {
            let first = self.chunks.len() * CHUNK;
            self.chunks.push((0..CHUNK).map(|_| None).collect());
            self.free.extend((first..first + CHUNK).rev().map(|index| index as u32));
        }
        let Some(index) = self.free.pop() else { return Err(value) };
        if let Some(slot) = self.slot(index) {
            *slot = Some(value);
        }
        self.len += 1;
        Ok(index)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slot(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.slot(index)?.take()?;
        self.free.push(index);
        self.len -= 1;
        Some(value)
    }

    /// The numbers in use, in order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter().map(|(index, _)| index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> + '_ {
        let slots = self.chunks.iter().flatten().enumerate();
        slots.filter_map(|(index, slot)| slot.as_ref().map(|value| (index as u32, value)))
    }

    fn slot(&mut self, index: u32) -> Option<&mut Option<T>> {
        let index = index as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }
}

/// Finds entries of a [`Slab`] by a key that the entry itself holds: five bytes an entry. The hash is keyed, so peers cannot
/// choose keys that collide.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: HashTable<u32>,
    hasher: RandomState,
}

impl Index {
    /// The entry whose key, as `key_of` tells it, is `key`.
    pub(crate) fn find<K: Hash + Eq>(&self, key: &K, key_of: impl Fn(u32) -> Option<K>) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.entries.find(hash, |&index| key_of(index).as_ref() == Some(key)).copied()
    }

    /// Lets `key` lead to `index`; gives back where it led before.
    pub(crate) fn insert<K: Hash + Eq>(
        &mut self,
        key: &K,
        index: u32,
        key_of: impl Fn(u32) -> Option<K>,
    ) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        if let Some(entry) = self.entries.find_mut(hash, |&other| key_of(other).as_ref() == Some(key)) {
            return Some(std::mem::replace(entry, index));
        }
        let hasher = &self.hasher;
        // An entry whose value is gone cannot be moved to its place; none is left in the table when its value goes.
        self.entries
            .insert_unique(hash, index, |&other| key_of(other).map_or(0, |key| hasher.hash_one(&key)));
        None
    }

    /// Forgets that `key` leads to `index`, if it does.
    pub(crate) fn remove<K: Hash + Eq>(&mut self, key: &K, index: u32) {
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.entries.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut slab = Slab::new(2);
        assert_eq!(slab.insert("a"), Ok(0));
        assert_eq!(slab.insert("b"), Ok(1));
        assert_eq!(slab.insert("c"), Err("c"));
        assert_eq!(slab.remove(0), Some("a"));
        assert_eq!(slab.remove(0), None);
        assert_eq!(slab.insert("c"), Ok(0));
        assert_eq!(slab.indices().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(slab.get(7000), None);
    }

    proptest! {
        #[test]
        fn every_entry_is_found_by_its_key_and_by_no_other(
            operations in prop::collection::vec((any::<bool>(), 0u16..600), 0..2000),
        ) {
            let mut slab = Slab::new(500);
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (insert, key) in operations {
                let found = index.find(&key, |at| slab.get(at).copied());
                prop_assert_eq!(found, model.get(&key).copied());
                match (insert, found) {
                    (true, None) => {
                        if let Ok(at) = slab.insert(key) {
                            prop_assert_eq!(index.insert(&key, at, |at| slab.get(at).copied()), None);
                            model.insert(key, at);
                        } else {
                            prop_assert_eq!(model.len(), 500);
                        }
                    }
                    (false, Some(at)) => {
                        index.remove(&key, at);
                        prop_assert_eq!(slab.remove(at), Some(key));
                        model.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert_eq!(index.len(), model.len());
            }
        }
    }
}
