//! A pod that lives and is cut off from something, alone and for long: another one must serve its slots, and devices must be
//! acknowledged there while the cut lasts. [`super::tests`] asks that only once all is put right.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::kafka::Lacking;
use super::plan::Plan;
use super::run::{seeded, seeds};
use super::world::{World, pair};

/// By then every device is acknowledged elsewhere. A client whose timer has grown to five seconds gives a frame up after twenty-five,
/// and its application the session after two messages.
const ELSEWHERE: Duration = Duration::from_secs(90);
/// By then a pod that reaches everything again has its share of the slots again.
const BACK: Duration = Duration::from_secs(20);

/// What came of a seed: what was broken, and its story.
struct Outcome {
    broken: Vec<String>,
    story: String,
    tally: BTreeMap<&'static str, u64>,
}

fn plan(dice: &super::time::Dice, flows_stay: bool) -> Plan {
    let devices = 1 + dice.below(4) as u8;
    let slots = 2 + dice.below(3) as u16;
    let pods = 2 + dice.below(2);
    let kafka_ms = [5, 40, 150][dice.below(3)];
    let trouble = dice.millis(4000, 9000);
    Plan { pods, slots, devices, kafka_ms, trouble, flows_stay, ..Plan::peace() }
}

fn served(world: &World, pod: usize) -> usize {
    (0..world.plan.slots).filter(|slot| world.pods[pod].serves(*slot)).count()
}

fn adopted(world: &World) -> u64 {
    world.tally.all().get("slot adopted").copied().unwrap_or_default()
}

/// From what the pod is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Kafka,
    /// All other pods.
    Peers,
}

impl From {
    /// By then the pod has lost its slots: three seconds until all believe that Kafka is gone for it, or two until it is not heard, five
    /// more until that counts, and as long until who served what is not believed any more; and how long Kafka takes.
    const fn loses(self) -> Duration {
        match self {
            Self::Kafka => Duration::from_secs(8),
            Self::Peers => Duration::from_secs(15),
        }
    }

    fn hurt(self, world: &mut World) -> usize {
        let mut cut = world.dice.below(world.pods.len());
        match self {
            Self::Kafka => world.pods[cut].gate.change(|condition| condition.reaches_kafka = false),
            Self::Peers => {
                let others = (0..world.pods.len()).filter(|pod| *pod != cut);
                world.cut_links.extend(others.map(|other| pair(cut, other)));
                if world.pods.len() == 2 {
                    // Each is cut off from the other: the larger id gives way.
                    cut = usize::from(world.pods[1].id > world.pods[0].id);
                }
            }
        }
        cut
    }

    fn mend(self, world: &mut World, cut: usize) {
        match self {
            Self::Kafka => world.pods[cut].gate.change(|condition| condition.reaches_kafka = true),
            Self::Peers => world.cut_links.clear(),
        }
    }
}

/// One pod is cut off, for as long as it takes.
fn cut_off(seed: u64, from: From, flows_stay: bool) -> Outcome {
    seeded(seed, async {
        let mut world = World::new(seed, Lacking::Nothing, |dice| plan(dice, flows_stay)).await;
        world.suffer().await;
        let mut broken = Vec::new();
        let adoptions = adopted(&world);
        let cut = from.hurt(&mut world);
        let had = served(&world, cut);
        world.note(&format!("pod {cut}, which serves {had} slots, is cut off: {from:?}"));
        world.run_until(Instant::now() + from.loses()).await;
        if served(&world, cut) > 0 {
            broken.push(format!("pod {cut} still serves slots"));
        }
        let others: usize =
            (0..world.pods.len()).filter(|pod| *pod != cut).map(|pod| served(&world, pod)).sum();
        if others != usize::from(world.plan.slots) {
            broken.push(format!("others serve {others} of {} slots", world.plan.slots));
        }
        let lost = Instant::now();
        while Instant::now() < lost + ELSEWHERE && !world.everybody_is_back(lost) {
            world.run_until(Instant::now() + Duration::from_millis(500)).await;
        }
        broken.extend(world.judge(lost));
        world.note("and all is well again");
        from.mend(&mut world, cut);
        let again = Instant::now();
        world.run_until(again + BACK).await;
        if served(&world, cut) != had {
            broken.push(format!("pod {cut} has {} of its {had} slots again", served(&world, cut)));
        }
        let moves = adopted(&world) - adoptions;
        if moves != 2 * had as u64 {
            broken.push(format!("{moves} adoptions, to and fro would be {}", 2 * had));
        }
        while Instant::now() < again + ELSEWHERE && !world.everybody_is_back(again) {
            world.run_until(Instant::now() + Duration::from_millis(500)).await;
        }
        broken.extend(world.judge(again));
        world.tally.add("slots of a pod that was cut off", had as u64);
        Outcome { broken, story: world.story(), tally: world.tally.all() }
    })
}

#[track_caller]
fn all_go_on(effects: &[&str], run: impl Fn(u64) -> Outcome) {
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 1..=seeds().div_ceil(4) {
        let outcome = run(seed);
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}\n{}", outcome.broken, outcome.story);
        for (name, count) in outcome.tally {
            *all.entry(name).or_default() += count;
        }
    }
    for (name, count) in &all {
        println!("{count:>8} {name}");
    }
    for effect in effects {
        assert!(all.get(effect).is_some_and(|count| *count > 0), "{effect} was never seen");
    }
}

#[test]
fn a_pod_without_kafka_loses_its_slots_and_devices_are_acknowledged_elsewhere() {
    let effects = [
        "slots of a pod that was cut off",
        "sessions gone on with after another owner",
        "kafka: producer fenced",
    ];
    all_go_on(&effects, |seed| cut_off(seed, From::Kafka, false));
}

#[test]
fn what_still_reaches_a_pod_without_kafka_is_relayed_to_the_next_owner() {
    let effects = [
        "datagram relayed to another pod",
        "HELLO handed on to another pod",
        "sessions gone on with after another owner",
    ];
    all_go_on(&effects, |seed| cut_off(seed, From::Kafka, true));
}

#[test]
fn a_pod_that_hears_no_other_gives_way_and_devices_are_acknowledged_elsewhere() {
    let effects = ["slots of a pod that was cut off", "sessions gone on with after another owner"];
    all_go_on(&effects, |seed| cut_off(seed, From::Peers, false));
}
