//! Devices with sessions that are looked up again: each that was looked up before revocations which are not known any more, and all when
//! the log was not heard in full.

use std::collections::VecDeque;

use sluice_types::DeviceId;

use super::{Answer, Fleet};

/// Devices looked up at once; the other places for calls are left to sessions that come.
const AT_ONCE: usize = 16;

/// Devices that are still to be looked up.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    left: VecDeque<DeviceId>,
    under_way: usize,
    /// The store did not answer: the rest waits for the next second.
    pauses: bool,
}

impl Sweep {
    /// Begins anew with these: what is left of an earlier sweep is among them, if it still has a session.
    fn begin(&mut self, devices: impl Iterator<Item = DeviceId>) {
        self.left.clear();
        self.left.extend(devices);
    }

    fn also(&mut self, device: DeviceId) {
        self.left.push_back(device);
    }

    /// A device was looked up. If it is not known whether it may connect, it is again.
    fn looked_at(&mut self, device: DeviceId, is_known: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        if !is_known {
            self.left.push_back(device);
            self.pauses = true;
        }
    }

    fn goes_on(&mut self) {
        self.pauses = false;
    }

    /// The next one whose turn it is, of those that are still there.
    fn next(&mut self, is_there: impl Fn(DeviceId) -> bool) -> Option<DeviceId> {
        if self.pauses || self.under_way >= AT_ONCE {
            return None;
        }
        while let Some(device) = self.left.pop_front() {
            if is_there(device) {
                self.under_way += 1;
                return Some(device);
            }
        }
        None
    }
}

impl Fleet {
    /// Looks a device up again, until the store answers.
    pub(super) fn check_again(&mut self, device: DeviceId) {
        self.sweep.also(device);
        self.look_at_more();
    }

    /// Looks all devices up again that have a session here, a few at a time, each until the store answers.
    pub(super) fn check_all(&mut self) {
        self.sweep.begin(self.directory.devices());
        self.look_at_more();
    }

    /// What the store did not answer is asked again.
    pub(super) fn sweep_on(&mut self) {
        self.sweep.goes_on();
        self.look_at_more();
    }

    pub(super) fn looked_at(&mut self, device: DeviceId, is_known: bool) {
        if !is_known && !self.sweep.pauses {
            tracing::warn!(
                "devices with sessions could not be looked up again; trying until the store answers"
            );
        }
        self.sweep.looked_at(device, is_known);
        self.look_at_more();
    }

    fn look_at_more(&mut self) {
        let directory = &self.directory;
        while let Some(device) = self.sweep.next(|device| directory.has(device)) {
            let store = self.store.clone();
            self.ask(
                async move { Answer::MayConnect { device, answer: store.handshake_keys(device).await } },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::from_bytes([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn a_few_are_looked_up_at_once_and_all_of_them_once() {
        let mut sweep = Sweep::default();
        sweep.begin((0..100).map(device));
        let mut seen = Vec::new();
        let mut under_way = VecDeque::new();
        loop {
            while let Some(next) = sweep.next(|_| true) {
                under_way.push_back(next);
            }
            assert!(under_way.len() <= AT_ONCE, "{}", under_way.len());
            let Some(looked) = under_way.pop_front() else { break };
            sweep.looked_at(looked, true);
            seen.push(looked);
        }
        assert_eq!(seen, (0..100).map(device).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_store_does_not_answer_is_asked_again_a_second_later_if_it_is_still_there() {
        let mut sweep = Sweep::default();
        sweep.begin([1, 2].map(device).into_iter());
        let first = sweep.next(|_| true).expect("one");
        sweep.looked_at(first, false);
        assert_eq!(sweep.next(|_| true), None, "it pauses");
        sweep.goes_on();
        assert_eq!(sweep.next(|found| found != device(2)), Some(first));
        assert_eq!(sweep.next(|_| true), None, "the other one is gone");
    }

    #[test]
    fn a_sweep_that_begins_anew_forgets_what_was_left_and_not_what_is_under_way() {
        let mut sweep = Sweep::default();
        sweep.begin((0..50).map(device));
        while sweep.next(|_| true).is_some() {}
        sweep.begin([device(99)].into_iter());
        assert_eq!(sweep.next(|_| true), None, "all places are taken");
        sweep.looked_at(device(0), true);
        assert_eq!(sweep.next(|_| true), Some(device(99)));
        sweep.also(device(98));
        sweep.looked_at(device(1), true);
        assert_eq!(sweep.next(|_| true), Some(device(98)));
    }
}
