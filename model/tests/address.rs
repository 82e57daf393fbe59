//! Where a session's frames go: no copy of somebody else's changes it.

use sluice_model::address::{AT_ONCE, Addresses, AtOnce};
use sluice_model::check::{breaks, breaks_property, holds};
use sluice_model::{Defence, Defences, Invariant};

fn addresses() -> Addresses {
    Addresses { numbers: 4, adoptions: 2, races: 1, defences: Defences::ALL }
}

fn needed(defence: Defence) {
    breaks(&format!("without {defence:?}"), addresses().without(defence), Invariant::CopiesChangeNothing);
}

#[test]
fn copies_and_replays_move_no_session() {
    holds("addresses", addresses());
}

#[test]
fn an_address_adopted_from_one_frame_is_anybodys() {
    needed(Defence::AddressNeedsTwo);
}

#[test]
fn two_old_control_frames_are_new_to_an_adopter() {
    needed(Defence::HandedOverNeedsProof);
}

#[test]
fn a_utack_to_the_settled_address_misses_a_device_that_has_moved() {
    needed(Defence::AckToItsSource);
}

#[test]
fn two_copies_that_overtake_the_device_move_its_session() {
    let model = Addresses { races: 2, ..addresses() };
    breaks("two races", model, Invariant::CopiesChangeNothing);
}

#[test]
fn a_copy_between_two_of_an_attacker_is_not_answered_at_once() {
    breaks_property("first and last copy", AtOnce(addresses()), AT_ONCE);
}
