//! Which pods hear each other, from what each says in the store of the links that it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sluice_types::PodId;

/// A pod that is not among those that serve for so long steps aside: longer than a dial may take that goes wrong once.
pub const LINKS_LOST: Duration = Duration::from_secs(5);
/// It serves again once it has been among them for so long without a break.
pub const LINKS_STEADY: Duration = Duration::from_secs(3);
/// A pod whose beats do not come for so long is not heard. They come every 200 ms.
pub(super) const HEARD: Duration = Duration::from_secs(2);
/// A record that has not changed for so long says nothing of links. Pods write theirs every 500 ms.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// A pod names so many at most; whoever names as many is taken to lack everybody.
pub const MAX_NAMED: usize = 128;

/// A pod as its record shows it.
pub(super) struct Node<'a> {
    pub(super) pod: PodId,
    /// Whom it does not hear over a link.
    pub(super) unlinked: &'a [PodId],
}

/// Who serves: pods each of which is linked with each other one, so that whatever reaches one of them finds the slot it is for. Those that
/// lack the fewest links are asked first, of two that lack as many the one with the smaller id; one that is not linked with all who were
/// taken is left out. Every pod that reads the same records finds the same ones.
pub(super) fn serving(nodes: &[Node<'_>]) -> BTreeSet<PodId> {
    let all: BTreeSet<PodId> = nodes.iter().map(|node| node.pod).collect();
    // The rule, and cheap however many there are.
    if !nodes.iter().any(|node| node.unlinked.iter().any(|pod| all.contains(pod))) {
        return all;
    }
    let every: Vec<_> = all.iter().copied().collect();
    // A link that one end misses is none.
    let mut lacking: BTreeMap<PodId, BTreeSet<PodId>> =
        all.iter().map(|pod| (*pod, BTreeSet::new())).collect();
    for node in nodes {
        // One that names as many as it can may lack more.
        let named = if node.unlinked.len() < MAX_NAMED { node.unlinked.iter() } else { every.iter() };
        for other in named.filter(|pod| **pod != node.pod && all.contains(pod)) {
            lacking.entry(node.pod).or_default().insert(*other);
            lacking.entry(*other).or_default().insert(node.pod);
        }
    }
    let mut order: Vec<_> = lacking.iter().collect();
    order.sort_by_key(|(pod, lacking)| (lacking.len(), **pod));
    let mut taken = BTreeSet::new();
    for (pod, lacking) in order {
        if lacking.is_disjoint(&taken) {
            taken.insert(*pod);
        }
    }
    taken
}

/// How long a pod has been among those that serve, or not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Belonging {
    is_in: bool,
    since: Option<Instant>,
}

impl Belonging {
    /// `None`: nothing is known at the moment.
    pub(super) fn told(&mut self, now: Instant, is_in: Option<bool>) {
        match is_in {
            None => self.since = None,
            Some(is_in) if self.since.is_none() || self.is_in != is_in => {
                *self = Self { is_in, since: Some(now) };
            }
            Some(_) => {}
        }
    }

    /// Whether it stands aside from now on, if it did `before`.
    pub(super) fn judged(&self, now: Instant, before: bool) -> bool {
        let lasted = self.since.map(|since| now.saturating_duration_since(since));
        match lasted {
            Some(lasted) if !self.is_in && lasted >= LINKS_LOST => true,
            Some(lasted) if self.is_in && lasted >= LINKS_STEADY => false,
            _ => before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: u8) -> PodId {
        PodId::from_bytes([n; 16])
    }

    /// Who serves, of pods that each lack these links.
    fn serve(lacking: &[&[u8]]) -> Vec<u8> {
        let lacking: Vec<Vec<PodId>> =
            lacking.iter().map(|pods| pods.iter().map(|n| pod(*n)).collect()).collect();
        let nodes: Vec<_> = (0..).zip(&lacking).map(|(n, unlinked)| Node { pod: pod(n), unlinked }).collect();
        let found = serving(&nodes);
        let reversed: Vec<_> = nodes.into_iter().rev().collect();
        assert_eq!(serving(&reversed), found, "the order does not matter");
        found.iter().map(|pod| pod.as_bytes()[0]).collect()
    }

    #[test]
    fn pods_that_are_all_linked_all_serve() {
        assert_eq!(serve(&[&[], &[], &[]]), [0, 1, 2]);
        assert_eq!(serve(&[&[], &[9], &[]]), [0, 1, 2], "who is not there does not count");
        assert_eq!(serve(&[]), [0; 0]);
    }

    #[test]
    fn one_without_a_link_gives_way_to_those_that_have_one() {
        assert_eq!(serve(&[&[1, 2], &[0], &[0]]), [1, 2]);
        assert_eq!(serve(&[&[], &[0], &[0]]), [1, 2], "a link of one direction is none");
    }

    #[test]
    fn halves_of_a_fleet_that_lack_more_links_than_a_pod_can_name_do_not_both_serve() {
        const HALF: u16 = 150;
        let id = |n: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            PodId::from_bytes(bytes)
        };
        let names = |pods: std::ops::Range<u16>| pods.map(id).take(MAX_NAMED).collect::<Vec<_>>();
        let lacks = [names(HALF..2 * HALF), names(0..HALF)];
        let nodes: Vec<_> =
            (0..2 * HALF).map(|n| Node { pod: id(n), unlinked: &lacks[usize::from(n / HALF)] }).collect();
        let (first, second) = lacks_apart(&serving(&nodes), &id(HALF));
        assert!(first > 0 && second == 0, "{first} of the one half and {second} of the other serve");
    }

    fn lacks_apart(serving: &BTreeSet<PodId>, first_of_the_other: &PodId) -> (usize, usize) {
        let other = serving.iter().filter(|pod| *pod >= first_of_the_other).count();
        (serving.len() - other, other)
    }

    #[test]
    fn of_two_or_more_without_any_link_the_smallest_id_serves() {
        assert_eq!(serve(&[&[1], &[0]]), [0]);
        assert_eq!(serve(&[&[1, 2], &[0, 2], &[0, 1]]), [0]);
        assert_eq!(serve(&[&[1, 3], &[0, 2], &[1, 3], &[0, 2]]), [0, 2], "two and two");
    }

    #[test]
    fn of_two_that_hear_each_other_only_over_a_third_the_larger_id_gives_way() {
        assert_eq!(serve(&[&[], &[2], &[1]]), [0, 1]);
        assert_eq!(serve(&[&[1], &[0], &[]]), [0, 2]);
    }

    #[test]
    fn one_that_lacks_many_links_gives_way_to_the_many_that_lack_it() {
        assert_eq!(serve(&[&[1, 2, 3], &[], &[], &[], &[]]), [1, 2, 3, 4]);
    }

    #[test]
    fn the_larger_part_of_a_fleet_that_is_split_serves() {
        assert_eq!(serve(&[&[2, 3, 4], &[2, 3, 4], &[0, 1], &[0, 1], &[0, 1]]), [2, 3, 4]);
    }
}
