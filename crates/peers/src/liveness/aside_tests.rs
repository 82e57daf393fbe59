//! Pods that live and step aside: all of them together, each with its own machine, in virtual time.

use std::collections::BTreeSet;

use super::*;

fn pod(n: usize) -> PodId {
    PodId::from_bytes([u8::try_from(n).unwrap(); 16])
}

/// Pods that hear each other's beats and read each other's records, and of which each knows when Kafka answered it.
struct Pods {
    machines: Vec<Liveness>,
    now: Instant,
    turns: u64,
    /// Who reaches Kafka.
    reach: Vec<bool>,
    answered: Vec<Option<Instant>>,
    /// Who reaches the store.
    store: Vec<bool>,
    records: Vec<Member>,
    /// Between whom there are no links.
    cut: BTreeSet<(usize, usize)>,
    /// When each pod stepped aside or came back, by its own judgement, in ms.
    changes: Vec<(u64, usize, Option<Aside>)>,
}

impl Pods {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start of virtual time")]
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let mut pods = Self {
            machines: (0..count).map(|n| Liveness::new(now, pod(n))).collect(),
            now,
            turns: 0,
            reach: vec![true; count],
            answered: vec![None; count],
            store: vec![true; count],
            records: (0..count).map(|n| Member::new(pod(n), "h:1", 0)).collect(),
            cut: BTreeSet::new(),
            changes: Vec::new(),
        };
        pods.records();
        for one in 0..count {
            for other in one + 1..count {
                pods.cut.insert((one, other));
                pods.heal(one, other);
            }
        }
        pods.pass(6_000);
        assert_eq!(pods.changes, [], "in peace nobody steps aside");
        pods
    }

    /// No link stands between the two.
    fn cut(&mut self, one: usize, other: usize) {
        assert!(self.cut.insert((one, other)));
        for (at, to) in [(one, other), (other, one)] {
            self.machines[at].link_down(self.now, pod(to), Direction::Out);
            self.machines[at].link_down(self.now, pod(to), Direction::In);
        }
    }

    fn heal(&mut self, one: usize, other: usize) {
        assert!(self.cut.remove(&(one, other)));
        for (at, to) in [(one, other), (other, one)] {
            self.machines[at].link_up(self.now, pod(to), Direction::Out);
            self.machines[at].link_up(self.now, pod(to), Direction::In);
        }
    }

    fn age(&self, of: usize) -> Option<u32> {
        let age = self.answered[of].map(|at| self.now.saturating_duration_since(at).as_millis());
        age.map(|age| u32::try_from(age).unwrap())
    }

    /// Everybody who reaches the store writes its record, and reads all.
    fn records(&mut self) {
        for at in (0..self.machines.len()).filter(|at| self.store[*at]) {
            let lacks = self.machines[at].peers().filter(|peer| peer.listed && !peer.heard);
            self.records[at] = Member {
                unlinked: lacks.map(|peer| peer.pod).collect(),
                kafka_ok_within_ms: self.age(at),
                ..Member::new(pod(at), "h:1", self.turns)
            };
        }
        for at in (0..self.machines.len()).filter(|at| self.store[*at]) {
            self.machines[at].members(self.now, &self.records);
        }
    }

    fn asides(machine: &Liveness) -> Vec<Option<Aside>> {
        let mut all: Vec<_> = machine.peers().map(|peer| (peer.pod, peer.aside)).collect();
        all.push((machine.me, machine.aside()));
        all.sort_unstable_by_key(|(pod, _)| *pod);
        all.into_iter().map(|(_, aside)| aside).collect()
    }

    /// What all pods think, once what was said is heard.
    fn agreed(&self) -> Vec<Option<Aside>> {
        let first = Self::asides(&self.machines[0]);
        for machine in &self.machines {
            assert_eq!(Self::asides(machine), first, "pods judge differently");
        }
        first
    }

    fn pass(&mut self, ms: u64) {
        let count = self.machines.len();
        for _ in 0..ms / 100 {
            self.now += TICK;
            self.turns += 1;
            for at in 0..count {
                // Each asks every 400 ms, at a time of its own.
                if self.reach[at] && self.turns % 4 == at as u64 % 4 {
                    self.answered[at] = Some(self.now);
                    self.machines[at].kafka_answered(self.now);
                }
            }
            let beats = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
            let heard = |(from, to): &(usize, usize)| {
                from != to && !self.cut.contains(&(*from.min(to), *from.max(to)))
            };
            if self.turns.is_multiple_of(2) {
                for (from, to) in beats.filter(heard).collect::<Vec<_>>() {
                    let age = self.age(from);
                    self.machines[to].heard(self.now, pod(from), self.turns, age);
                }
            }
            if self.turns.is_multiple_of(5) {
                self.records();
            }
            for (at, machine) in self.machines.iter_mut().enumerate() {
                machine.handle_timeout(self.now);
                while let Some(event) = machine.poll_event() {
                    if let Event::Aside(changed, aside) = event
                        && changed == pod(at)
                    {
                        self.changes.push((self.turns * 100, at, aside));
                    }
                }
            }
        }
    }

    fn how_often(&self) -> usize {
        self.changes.len()
    }
}

const CUT: Option<Aside> = Some(Aside::NoKafka);

#[test]
fn a_pod_that_kafka_does_not_answer_steps_aside_after_three_seconds_and_all_agree() {
    for count in 2..=5 {
        let mut pods = Pods::new(count);
        pods.reach[1] = false;
        pods.pass(2_500);
        assert_eq!(pods.agreed(), vec![None; count], "a broker that restarts is no cut");
        pods.pass(1_500);
        let mut expected = vec![None; count];
        expected[1] = CUT;
        assert_eq!(pods.agreed(), expected);
        assert!(pods.machines[1].others_serve_instead() && !pods.machines[0].others_serve_instead());
        pods.pass(60_000);
        assert_eq!((pods.agreed(), pods.how_often()), (expected, 1), "and stays there");
    }
}

#[test]
fn it_serves_again_once_kafka_has_answered_it_for_three_seconds() {
    let mut pods = Pods::new(3);
    pods.reach[1] = false;
    pods.pass(10_000);
    for _ in 0..20 {
        pods.reach[1] = true;
        pods.pass(2_000);
        pods.reach[1] = false;
        pods.pass(2_000);
    }
    assert_eq!((pods.agreed()[1], pods.how_often()), (CUT, 1), "now and then an answer is none");
    pods.reach[1] = true;
    pods.pass(2_500);
    assert_eq!(pods.agreed()[1], CUT);
    pods.pass(1_500);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None; 3], 2));
}

#[test]
fn a_kafka_that_answers_nobody_moves_nobody() {
    let mut pods = Pods::new(3);
    pods.reach = vec![false; 3];
    pods.pass(60_000);
    assert_eq!(pods.changes, []);
    // One notices two seconds before the others that it is back.
    pods.reach[2] = true;
    pods.pass(2_000);
    pods.reach = vec![true; 3];
    pods.pass(10_000);
    assert_eq!(pods.changes, [], "who is late is not cut off");
}

#[test]
fn that_kafka_is_lost_is_known_within_three_seconds_whoever_else_it_answers_and_undone_by_one_answer() {
    let mut pods = Pods::new(2);
    let lost = |pods: &Pods| pods.machines.iter().map(Liveness::kafka_is_lost).collect::<Vec<_>>();
    pods.reach = vec![false; 2];
    pods.pass(2_500);
    assert_eq!(lost(&pods), [false; 2], "a broker that restarts is not lost");
    pods.pass(1_000);
    assert_eq!(lost(&pods), [true; 2]);
    assert_eq!(pods.changes, [], "nobody is better than the other");
    pods.reach = vec![true, false];
    pods.pass(500);
    assert_eq!(lost(&pods), [false, true]);
}

#[test]
fn a_pod_that_is_cut_off_stays_aside_while_kafka_answers_nobody_but_is_ready() {
    let mut pods = Pods::new(3);
    pods.reach[1] = false;
    pods.pass(10_000);
    assert!(pods.machines[1].others_serve_instead());
    pods.reach = vec![false; 3];
    pods.pass(20_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None, CUT, None], 1), "nothing changes hands");
    assert!(!pods.machines[1].others_serve_instead(), "nobody serves better than it");
}

#[test]
fn a_witness_that_drains_or_stands_aside_itself_is_none() {
    let mut pods = Pods::new(2);
    pods.store = vec![false; 2];
    let draining = Member { draining: true, ..Member::new(pod(0), "h:1", 1_000) };
    pods.machines[1].members(pods.now, std::slice::from_ref(&draining));
    pods.reach[1] = false;
    pods.pass(10_000);
    assert_eq!(pods.machines[1].aside(), None, "who drains takes no slot");

    let mut pods = Pods::new(2);
    pods.reach[0] = false;
    pods.pass(10_000);
    assert_eq!(pods.agreed(), [CUT, None]);
    // The roles change at the same moment: the one is lost before the other is steady, so nobody can serve better.
    pods.reach = vec![true, false];
    pods.pass(2_500);
    assert_eq!(pods.agreed(), [CUT, None]);
    pods.pass(2_000);
    assert_eq!(pods.agreed(), [None, CUT]);
}

#[test]
fn silence_of_a_pod_says_nothing_of_its_kafka() {
    let mut pods = Pods::new(3);
    let (start, me) = (pods.now, &mut pods.machines[0]);
    for tick in 1..100 {
        let now = start + TICK * tick;
        me.kafka_answered(now);
        me.handle_timeout(now);
    }
    let asides: Vec<_> = me.peers().map(|peer| peer.aside).collect();
    assert_eq!(asides, [None, None]);
}

const ALONE: Option<Aside> = Some(Aside::NoLinks);

#[test]
fn a_pod_without_a_link_gives_way_to_those_that_have_some() {
    let mut pods = Pods::new(3);
    pods.cut(0, 1);
    pods.cut(0, 2);
    pods.pass(4_500);
    assert_eq!(pods.agreed(), vec![None; 3], "links are dialled again");
    pods.pass(2_500);
    assert_eq!(pods.agreed(), [ALONE, None, None]);
    assert!(pods.machines[0].others_serve_instead());
    pods.pass(60_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![ALONE, None, None], 1));
    pods.heal(0, 1);
    pods.heal(0, 2);
    pods.pass(2_500);
    assert_eq!(pods.agreed(), [ALONE, None, None], "not at the first sign");
    pods.pass(2_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None; 3], 2));
}

#[test]
fn of_two_pods_that_do_not_hear_each_other_the_smaller_id_serves() {
    let mut pods = Pods::new(2);
    pods.cut(0, 1);
    pods.pass(7_000);
    assert_eq!(pods.agreed(), [None, ALONE]);
    assert!(pods.machines[1].others_serve_instead(), "so that it is not ready");
    pods.heal(0, 1);
    pods.pass(5_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None; 2], 2));
}

#[test]
fn of_pods_none_of_which_hears_another_one_serves() {
    let mut pods = Pods::new(3);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        pods.cut(one, other);
    }
    pods.pass(7_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None, ALONE, ALONE], 2));
}

#[test]
fn of_two_pods_that_do_not_hear_each_other_the_one_with_kafka_serves() {
    let mut pods = Pods::new(2);
    pods.cut(0, 1);
    pods.reach[0] = false;
    pods.pass(10_000);
    assert_eq!(pods.agreed(), [CUT, None], "the smaller id is of no use");
    assert!(pods.machines[0].others_serve_instead());
}

#[test]
fn one_that_gave_way_for_want_of_links_serves_when_the_other_one_loses_kafka() {
    let mut pods = Pods::new(2);
    pods.cut(0, 1);
    pods.pass(10_000);
    assert_eq!(pods.agreed(), [None, ALONE]);
    pods.reach[0] = false;
    pods.pass(10_000);
    assert_eq!(pods.agreed(), [CUT, None]);
    assert!(pods.machines[0].others_serve_instead());
}

#[test]
fn of_two_that_hear_each_other_only_over_a_third_one_gives_way() {
    let mut pods = Pods::new(3);
    pods.cut(0, 1);
    pods.pass(60_000);
    assert_eq!((pods.agreed(), pods.how_often()), (vec![None, ALONE, None], 1));
}

#[test]
fn links_that_come_and_go_move_nobody() {
    let mut pods = Pods::new(2);
    for _ in 0..20 {
        pods.cut(0, 1);
        pods.pass(4_000);
        pods.heal(0, 1);
        pods.pass(1_000);
    }
    assert_eq!(pods.changes, []);
}

#[test]
fn without_the_store_nobody_knows_of_links_and_nobody_gives_way() {
    let mut pods = Pods::new(3);
    pods.cut(0, 1);
    pods.cut(0, 2);
    pods.pass(1_000);
    pods.store = vec![false; 3];
    pods.pass(60_000);
    assert_eq!(pods.changes, [], "what was known is old");
}

#[test]
fn a_pod_that_only_reads_the_store_does_not_give_way_to_those_who_do_not_know() {
    let mut pods = Pods::new(3);
    pods.store[0] = false;
    pods.pass(3_000);
    pods.cut(0, 1);
    pods.cut(0, 2);
    for _ in 0..100 {
        pods.pass(500);
        pods.machines[0].members(pods.now, &pods.records);
    }
    assert_eq!((pods.agreed(), pods.changes), (vec![None; 3], Vec::new()));
}

#[test]
fn a_lost_pod_whose_record_lingers_is_no_reason_to_give_way() {
    let mut pods = Pods::new(2);
    pods.store[0] = false;
    pods.cut(0, 1);
    pods.pass(20_000);
    assert_eq!(pods.machines[1].aside(), None);
}

#[test]
fn a_link_that_stands_and_brings_nothing_is_none() {
    let mut pods = Pods::new(2);
    // Nobody ends the connections, and what is sent is swallowed.
    pods.cut.insert((0, 1));
    pods.pass(9_000);
    assert_eq!(pods.agreed(), [None, ALONE]);
}
