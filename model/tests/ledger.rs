//! Group commit and adoption of one slot: with all rules in force nothing breaks.

use sluice_model::Defences;
use sluice_model::check::holds;
use sluice_model::ledger::{Ledger, Left, Pair};

/// Every fault once, among two pods, two sessions and three sequences.
fn ledger() -> Ledger {
    Ledger {
        pods: 2,
        sessions: 2,
        numbers: 3,
        left: Left { adoptions: 2, crashes: 1, unknown: 1, snapshots: 1, ..Left::default() },
        skip_dead: false,
        stale_fetch: false,
        progress: false,
        reduced: true,
        defences: Defences::ALL,
    }
}

#[test]
fn crash_unknown_outcome_adoption_and_an_old_snapshot_together() {
    holds("crash, unknown, adopt, Redis", ledger());
}

#[test]
fn two_slots_lose_one_process() {
    let left = Left { adoptions: 1, crashes: 1, unknown: 1, ..Left::default() };
    holds("two slots", Pair(Ledger { sessions: 1, numbers: 1, reduced: false, left, ..ledger() }));
}

#[test]
fn three_pods_adopt_from_each_other() {
    let left = Left { adoptions: 3, crashes: 1, unknown: 1, snapshots: 1, ..Left::default() };
    holds("three pods", Ledger { pods: 3, sessions: 1, left, ..ledger() });
}

#[test]
fn foreign_transactions_dead_letters_and_closes() {
    let left = Left {
        adoptions: 2,
        crashes: 1,
        unknown: 1,
        snapshots: 1,
        foreign: 1,
        dead: 1,
        closes: 1,
        ..Left::default()
    };
    holds("foreign, dead, close", Ledger { sessions: 1, left, ..ledger() });
}

#[test]
fn dead_letters_that_the_ledger_leaves_out() {
    let left = Left { adoptions: 2, crashes: 1, unknown: 1, snapshots: 1, dead: 2, ..Left::default() };
    holds("dead letters left out", Ledger { sessions: 1, skip_dead: true, left, ..ledger() });
}

#[test]
fn a_topic_that_forgets_and_an_owner_that_repeats_itself() {
    let left = Left {
        adoptions: 2,
        crashes: 1,
        snapshots: 1,
        seals: 2,
        retention: 1,
        restates: 1,
        ..Left::default()
    };
    holds("retention", Ledger { sessions: 1, numbers: 2, left, ..ledger() });
}

#[test]
fn frames_are_sealed_in_every_generation() {
    let left = Left { adoptions: 3, crashes: 1, unknown: 1, snapshots: 1, seals: 3, ..Left::default() };
    holds("seals", Ledger { sessions: 1, numbers: 1, left, ..ledger() });
}

#[test]
fn every_state_leads_on() {
    let left = Left { adoptions: 2, crashes: 1, unknown: 1, foreign: 1, closes: 1, ..Left::default() };
    holds("progress", Ledger { sessions: 1, numbers: 2, progress: true, left, ..ledger() });
    let left = Left { adoptions: 1, snapshots: 1, retention: 1, restates: 1, ..Left::default() };
    holds("progress, retention", Ledger { sessions: 1, numbers: 2, progress: true, left, ..ledger() });
}

#[test]
fn nothing_breaks_when_no_states_are_merged() {
    let left = Left { adoptions: 2, crashes: 1, unknown: 1, snapshots: 1, ..Left::default() };
    holds("unreduced, one session", Ledger { sessions: 1, reduced: false, left, ..ledger() });
    let left = Left { adoptions: 1, unknown: 1, snapshots: 1, ..Left::default() };
    holds("unreduced, two sessions", Ledger { numbers: 2, reduced: false, left, ..ledger() });
}
