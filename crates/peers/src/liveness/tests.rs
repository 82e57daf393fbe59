use super::*;

fn pod(n: u8) -> PodId {
    PodId::from_bytes([n; 16])
}

/// One observer (pod 0) with `others` peers, all linked both ways, and a clock that only the test moves.
struct World {
    machine: Liveness,
    now: Instant,
    counter: u64,
    others: u8,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start of virtual time")]
    fn with(others: u8) -> Self {
        let now = Instant::now();
        let mut world = Self { machine: Liveness::new(now, pod(0)), now, counter: 0, others };
        world.records(0, &[]);
        for n in 1..=others {
            world.machine.link_up(now, pod(n), Direction::Out);
            world.machine.link_up(now, pod(n), Direction::In);
        }
        assert_eq!(world.events(), (1..=others).map(|n| Event::Alive(pod(n))).collect::<Vec<_>>());
        world
    }

    /// Member records of all but `gone`, with this counter; the observer's own is among them.
    fn records(&mut self, counter: u64, gone: &[u8]) {
        let members: Vec<_> = (0..=self.others)
            .filter(|n| !gone.contains(n))
            .map(|n| Member::new(pod(n), "h:1", counter))
            .collect();
        self.machine.members(self.now, &members);
    }

    /// Who lives; who steps aside is asked elsewhere.
    fn events(&mut self) -> Vec<Event> {
        let events = std::iter::from_fn(|| self.machine.poll_event());
        events.filter(|event| !matches!(event, Event::Aside(..))).collect()
    }

    /// Time passes in ticks; everybody but `silent` beats every second tick.
    fn pass(&mut self, ms: u64, silent: &[u8]) -> Vec<Event> {
        for tick in 0..ms / 100 {
            self.now += TICK;
            if tick % 2 == 1 {
                self.counter += 1;
                for n in (1..=self.others).filter(|n| !silent.contains(n)) {
                    self.machine.heard(self.now, pod(n), self.counter, Some(0));
                }
            }
            self.machine.handle_timeout(self.now);
        }
        self.events()
    }

    fn cut(&mut self, n: u8) {
        self.machine.link_down(self.now, pod(n), Direction::Out);
        self.machine.link_down(self.now, pod(n), Direction::In);
    }
}

#[test]
fn peers_that_beat_live_for_ever() {
    let mut world = World::with(3);
    assert_eq!(world.pass(60_000, &[]), []);
}

#[test]
fn a_reset_link_and_a_refused_connection_are_death_at_once() {
    let mut world = World::with(1);
    world.cut(1);
    assert_eq!(world.events(), [], "a reset alone may be a network card");
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)]);
}

#[test]
fn a_refusal_while_a_link_still_stands_waits_for_its_end() {
    let mut world = World::with(1);
    world.machine.link_down(world.now, pod(1), Direction::Out);
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), []);
    world.machine.link_down(world.now, pod(1), Direction::In);
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)]);
}

#[test]
fn refusals_count_although_all_but_one_are_refused() {
    let mut world = World::with(4);
    for n in 1..=3 {
        world.cut(n);
        world.machine.refused(world.now, pod(n));
    }
    let dead: Vec<_> = (1..=3).map(|n| Event::Dead(pod(n), Evidence::Refused)).collect();
    assert_eq!(world.events(), dead);
}

#[test]
fn one_silent_pod_of_three_is_dead_after_a_second() {
    let mut world = World::with(2);
    assert_eq!(world.pass(900, &[1]), []);
    assert_eq!(world.pass(100, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
}

#[test]
fn two_silent_pods_of_four_count_for_nothing() {
    let mut world = World::with(3);
    assert_eq!(world.pass(60_000, &[1, 2]), []);
    assert_eq!(world.pass(200, &[1]), [Event::Dead(pod(1), Evidence::Silent)], "one of four does");
}

#[test]
fn a_pod_cut_off_from_all_declares_nobody_dead_although_their_last_beats_lie_apart() {
    for others in 2..=9 {
        let mut world = World::with(others);
        for n in 1..=others {
            world.now += Duration::from_millis(190 / u64::from(others));
            world.machine.heard(world.now, pod(n), 1, None);
        }
        let all: Vec<_> = (1..=others).collect();
        assert_eq!(world.pass(30_000, &all), [], "{others} peers");
    }
}

#[test]
fn with_two_pods_silence_needs_an_answer_from_kafka_within_the_last_second() {
    let mut world = World::with(1);
    world.machine.kafka_answered(world.now);
    assert_eq!(world.pass(5_000, &[1]), [], "that answer is old");
    world.machine.kafka_answered(world.now);
    assert_eq!(world.pass(100, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
}

#[test]
fn two_left_of_three_after_a_refusal_are_two_pods() {
    let mut world = World::with(2);
    world.cut(1);
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)]);
    assert_eq!(world.pass(5_000, &[1, 2]), []);
    world.machine.kafka_answered(world.now);
    assert_eq!(world.pass(100, &[1, 2]), [Event::Dead(pod(2), Evidence::Silent)]);
}

#[test]
fn a_member_record_that_moves_is_a_sign_of_life_without_any_link() {
    let mut world = World::with(2);
    world.cut(1);
    for counter in 1..20 {
        world.records(counter, &[]);
        assert_eq!(world.pass(800, &[1]), [], "record {counter}");
    }
    assert_eq!(world.pass(1_100, &[1]), [], "records may be late");
    assert_eq!(world.pass(100, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
    world.records(20, &[]);
    assert_eq!(world.events(), [Event::Alive(pod(1))]);
}

#[test]
fn a_record_written_before_the_end_does_not_raise_a_refused_pod() {
    let mut world = World::with(2);
    world.cut(1);
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)]);
    world.records(7, &[]);
    assert_eq!(world.pass(5_000, &[1]), []);
    world.machine.link_up(world.now, pod(1), Direction::In);
    assert_eq!(world.events(), [Event::Alive(pod(1))]);
}

#[test]
fn a_pod_that_goes_on_writing_records_is_not_dead_however_often_it_is_refused() {
    let mut world = World::with(2);
    world.cut(1);
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)]);
    world.records(7, &[]);
    assert_eq!(world.events(), [], "it may have been written before the end");
    world.records(8, &[]);
    assert_eq!(world.events(), [Event::Alive(pod(1))]);
    for counter in 9..15 {
        assert_eq!(world.pass(500, &[1]), []);
        world.machine.refused(world.now, pod(1));
        world.records(counter, &[]);
        assert_eq!(world.events(), [], "what refuses is in front of it");
    }
    assert_eq!(world.pass(3_000, &[1]), [Event::Dead(pod(1), Evidence::Silent)], "silence counts as ever");
    world.machine.link_up(world.now, pod(1), Direction::In);
    assert_eq!(world.events(), [Event::Alive(pod(1))]);
    world.machine.link_down(world.now, pod(1), Direction::In);
    world.machine.refused(world.now, pod(1));
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Refused)], "a link stood, so it counts again");
}

#[test]
fn the_same_counter_again_is_no_beat() {
    let mut world = World::with(2);
    world.machine.heard(world.now, pod(1), 5, None);
    for _ in 0..4 {
        assert_eq!(world.pass(200, &[1]), []);
        world.machine.heard(world.now, pod(1), 5, None);
    }
    assert_eq!(world.pass(200, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
}

#[test]
fn a_stopped_observer_that_goes_on_blames_nobody() {
    let mut world = World::with(2);
    world.now += Duration::from_secs(60);
    world.machine.kafka_answered(world.now);
    world.machine.handle_timeout(world.now);
    assert_eq!(world.events(), []);
    assert_eq!(world.pass(900, &[1]), []);
    assert_eq!(world.pass(100, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
}

#[test]
fn a_silent_pod_that_beats_again_lives() {
    let mut world = World::with(2);
    assert_eq!(world.pass(1_000, &[1]), [Event::Dead(pod(1), Evidence::Silent)]);
    assert_eq!(world.pass(200, &[]), [Event::Alive(pod(1))]);
}

#[test]
fn a_record_that_is_gone_ends_a_pod_only_with_its_links() {
    let mut world = World::with(2);
    world.records(1, &[1]);
    assert_eq!(world.pass(30_000, &[]), [], "Redis lost it, the link says otherwise");
    world.cut(1);
    assert_eq!(world.events(), [Event::Dead(pod(1), Evidence::Left)]);
    assert_eq!(world.machine.peers().count(), 1);
}

#[test]
fn a_draining_pod_is_alive_and_told_apart() {
    let mut world = World::with(1);
    let member = Member { draining: true, ..Member::new(pod(1), "h:1", 1) };
    world.machine.members(world.now, &[member]);
    assert_eq!(world.events(), [Event::Draining(pod(1), true)]);
    let state = world.machine.peers().next().unwrap();
    assert_eq!((state.dead, state.draining, state.is_candidate()), (None, true, false));
}

#[test]
fn a_pod_that_dials_before_it_is_listed_is_known_while_it_is_linked() {
    let mut world = World::with(1);
    world.machine.heard(world.now, pod(9), 1, None);
    world.machine.refused(world.now, pod(9));
    assert_eq!(world.events(), [], "no link, no record: nobody");
    world.machine.link_up(world.now, pod(9), Direction::In);
    assert_eq!(world.events(), [Event::Alive(pod(9))]);
    let newcomer = world.machine.peers().find(|peer| peer.pod == pod(9)).unwrap();
    assert!(!newcomer.is_candidate(), "nobody can reach it yet");
    world.machine.link_down(world.now, pod(9), Direction::In);
    assert_eq!(world.events(), [Event::Dead(pod(9), Evidence::Left)]);
    assert_eq!(world.machine.peers().count(), 1);
}

#[test]
fn beats_alone_change_nothing_of_how_a_pod_looks() {
    let mut world = World::with(2);
    let seen = |world: &World| world.machine.peers().collect::<Vec<_>>();
    let at = world.now;
    world.machine.heard(at, pod(1), 1, Some(40));
    let before = seen(&world);
    assert!(before[0].kafka_answers && !before[1].kafka_answers);
    // A pod decides anew about all slots with each change.
    for (beat, age) in [41, 300, 0, 250].into_iter().enumerate() {
        let at = at + Duration::from_millis(200 * beat as u64 + 200);
        world.machine.heard(at, pod(1), beat as u64 + 2, Some(age));
        world.machine.handle_timeout(at);
        assert_eq!(seen(&world), before, "the answer of {age} ms ago");
    }
    world.machine.heard(at + Duration::from_secs(1), pod(1), 9, Some(1_500));
    assert!(!seen(&world)[0].kafka_answers, "that is news");
}
