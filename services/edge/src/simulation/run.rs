//! Runs by the hundred, and what is said of those that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::kafka::Lacking;
use super::plan::{Fault, Plan};
use super::time::{Dice, SeededEntropy};
use super::watched;
use super::world::World;

/// How long devices have to be acknowledged again once everything is put right. A client whose timer has grown to its five seconds gives a
/// frame up after twenty-five, and its application the session after two messages.
const RECOVERY: Duration = Duration::from_secs(150);

/// Seeds of one test: with all tests of the simulation nearly three thousand.
const SEEDS: u64 = if cfg!(feature = "long") { 5000 } else { 500 };

/// One seed alone, by this name in the environment, to look at it.
const SEED: &str = "SLUICE_SIMULATION_SEED";
/// So many seeds.
const COUNT: &str = "SLUICE_SIMULATION_SEEDS";

/// Seeds in which a rule that is left out must be missed.
const MOST: u64 = 100;

/// Failures that are shown.
const SHOWN: usize = 3;

/// What came of a run.
pub(super) struct Run {
    /// What was broken, in words. Empty: nothing was.
    pub(super) broken: Vec<String>,
    pub(super) acknowledged: usize,
    pub(super) tally: BTreeMap<&'static str, u64>,
    /// What happened, to be read by people.
    pub(super) story: String,
}

/// Everything in it happens in virtual time, and as the seed says.
pub(super) fn seeded<T>(seed: u64, run: impl Future<Output = T>) -> T {
    let _entropy = SeededEntropy::new(seed);
    watched::forget();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run)
}

/// Runs a seed.
pub(super) fn run(seed: u64, lacking: Lacking, plan: impl FnOnce(&Dice) -> Plan) -> Run {
    seeded(seed, async {
        let mut world = World::new(seed, lacking, plan).await;
        world.suffer().await;
        let put_right = Instant::now();
        let until = put_right + RECOVERY;
        while Instant::now() < until && !world.everybody_is_back(put_right) {
            let next = Instant::now() + Duration::from_millis(500);
            world.run_until(next).await;
        }
        let broken = world.judge(put_right);
        let acknowledged = world.devices.iter().map(|device| device.acknowledged.len()).sum();
        Run { broken, acknowledged, tally: world.tally.all(), story: world.story() }
    })
}

/// Seeds of one test, or as many as the environment asks for.
pub(super) fn seeds() -> u64 {
    number(COUNT).unwrap_or(SEEDS)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs many seeds with these faults. Each of the faults, and each of the effects, must have been there: a simulation in which
/// nothing happens shows nothing.
#[track_caller]
pub(super) fn survive(name: &str, faults: &[Fault], effects: &[&str]) {
    let plan = |dice: &Dice| Plan::with(dice, faults);
    if let Some(seed) = number(SEED) {
        let run = run(seed, Lacking::Nothing, plan);
        println!("seed {seed} of {name}:\n{}", run.story);
        assert!(run.broken.is_empty(), "{:?}", run.broken);
        return;
    }
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in 1..=seeds() {
        let run = run(seed, Lacking::Nothing, plan);
        for (name, count) in run.tally {
            *all.entry(name).or_default() += count;
        }
        if !run.broken.is_empty() {
            failed.push((seed, run.broken));
        }
    }
    println!("{name}:");
    for (name, count) in &all {
        println!("{count:>8} {name}");
    }
    let count = failed.len();
    failed.truncate(SHOWN);
    assert!(failed.is_empty(), "{count} seeds failed; run one again with {SEED}=N {name}: {failed:#?}");
    let missing: Vec<_> = faults.iter().map(|fault| fault.name()).chain(effects.iter().copied()).collect();
    let missing: Vec<_> =
        missing.into_iter().filter(|name| all.get(name).is_none_or(|count| *count == 0)).collect();
    assert!(missing.is_empty(), "never seen in any run: {missing:?}");
}

/// Runs seeds without one of the rules until it is missed.
#[track_caller]
pub(super) fn miss(lacking: Lacking, faults: &[Fault], stale: f64) {
    for seed in 1..=MOST {
        let run = run(seed, lacking, |dice| Plan::all_of(dice, faults, stale));
        // That devices wait for longer would be no proof.
        if let Some(broken) = run.broken.iter().find(|broken| !broken.contains("any more")) {
            println!("{lacking:?}: {broken}, by seed {seed}");
            return;
        }
    }
    panic!("{lacking:?} was not missed in {MOST} seeds");
}
