//! The same rules within larger bounds: `cargo test -p sluice-model --features deep --test deep`.
#![cfg(feature = "deep")]

use sluice_model::Defences;
use sluice_model::address::Addresses;
use sluice_model::check::holds;
use sluice_model::fragments::Fragments;
use sluice_model::ledger::{Ledger, Left};
use sluice_model::rekeys::Rekeys;

fn ledger(left: Left) -> Ledger {
    Ledger {
        pods: 2,
        sessions: 2,
        numbers: 3,
        left,
        skip_dead: false,
        stale_fetch: false,
        progress: false,
        reduced: true,
        defences: Defences::ALL,
    }
}

#[test]
fn two_snapshots_to_choose_from() {
    let left = Left { adoptions: 2, crashes: 1, unknown: 1, snapshots: 2, ..Left::default() };
    holds("deep: two snapshots", ledger(left));
}

#[test]
fn three_pods_and_two_sessions() {
    let left = Left { adoptions: 3, crashes: 1, unknown: 1, snapshots: 1, ..Left::default() };
    holds("deep: three pods", Ledger { pods: 3, numbers: 2, ..ledger(left) });
}

#[test]
fn every_fault_of_one_session() {
    let left = Left {
        adoptions: 2,
        crashes: 1,
        unknown: 1,
        snapshots: 2,
        foreign: 1,
        dead: 1,
        closes: 1,
        ..Left::default()
    };
    holds("deep: every fault", Ledger { sessions: 1, ..ledger(left) });
}

#[test]
fn seven_frames() {
    holds("deep: fragments", Fragments { numbers: 7, adoptions: 3, defences: Defences::ALL });
}

#[test]
fn three_adoptions_between_keys() {
    holds("deep: rekeys", Rekeys { numbers: 3, adoptions: 3, defences: Defences::ALL });
}

#[test]
fn five_frames_from_three_sources() {
    holds("deep: addresses", Addresses { numbers: 5, adoptions: 2, races: 1, defences: Defences::ALL });
}
