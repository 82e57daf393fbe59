use std::collections::HashMap;
use std::sync::Mutex;

use sluice_types::DeviceId;

/// Devices remembered per generation. Two generations of 65,536 entries take about 4 MB.
const GENERATION: usize = 65_536;

/// The highest version of each device record that this process has seen, so that one rolled back is noticed: by a fail-over
/// that lost writes, by a restored backup, or by somebody who put an old value back.
///
/// Bounded: when the young generation is full the old one is forgotten, least recently seen devices first. A forgotten device is
/// judged by its record alone until it is seen again.
#[derive(Default)]
pub(crate) struct Floors(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<DeviceId, u64>,
    old: HashMap<DeviceId, u64>,
}

impl Floors {
    /// The version that a read started from now on must reach; 0 for none.
    pub(crate) fn of(&self, device: DeviceId) -> u64 {
        let generations = self.lock();
        let young = generations.young.get(&device).copied().unwrap_or_default();
        young.max(generations.old.get(&device).copied().unwrap_or_default())
    }

    /// Remembers a version that was seen, or that the revocation log names.
    pub(crate) fn raise(&self, device: DeviceId, version: u64) {
        let mut generations = self.lock();
        let known = generations.old.get(&device).copied().unwrap_or_default();
        if generations.young.len() >= GENERATION && !generations.young.contains_key(&device) {
            generations.old = std::mem::take(&mut generations.young);
        }
        let floor = generations.young.entry(device).or_default();
        *floor = version.max(known).max(*floor);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // The maps are whole after every statement, so a poisoned lock is as good as another.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod floor_tests {
    use super::*;

    fn device(number: u32) -> DeviceId {
        let [a, b, c, d] = number.to_be_bytes();
        DeviceId::from_bytes([2, 0, a, b, c, d])
    }

    #[test]
    fn a_floor_never_falls_while_its_device_is_remembered() {
        let floors = Floors::default();
        assert_eq!(floors.of(device(1)), 0);
        floors.raise(device(1), 7);
        floors.raise(device(1), 5);
        assert_eq!(floors.of(device(1)), 7);
    }

    #[test]
    fn memory_is_bounded_and_the_recently_seen_stay() {
        let floors = Floors::default();
        let all = u32::try_from(GENERATION).expect("small") * 3;
        for number in 0..all {
            floors.raise(device(number), 1);
            floors.raise(device(7), 9);
        }
        assert_eq!(floors.of(device(7)), 9);
        assert_eq!(floors.of(device(8)), 0);
        assert_eq!(floors.of(device(all - 1)), 1);
        let generations = floors.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
