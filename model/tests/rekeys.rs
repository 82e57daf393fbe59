//! REKEY through adoptions: nothing is doubled, and nobody is left with keys that the other does not have.

use sluice_model::check::{breaks, breaks_property, holds};
use sluice_model::rekeys::{KEPT, Rekeys};
use sluice_model::{Defence, Defences, Invariant};

fn rekeys() -> Rekeys {
    Rekeys { numbers: 3, adoptions: 2, defences: Defences::ALL }
}

fn needed(defence: Defence, invariant: Invariant) {
    breaks(&format!("without {defence:?}"), rekeys().without(defence), invariant);
}

#[test]
fn sessions_change_their_keys_through_adoptions() {
    holds("rekeys", rekeys());
}

#[test]
fn ids_without_the_epoch_come_twice() {
    needed(Defence::EpochInId, Invariant::CommittedOnce);
}

#[test]
fn a_rekey_that_takes_effect_before_it_is_in_the_ledger_leaves_the_device_alone() {
    needed(Defence::RekeyJournaledFirst, Invariant::Progress);
}

#[test]
fn an_older_record_takes_replays_for_new_messages() {
    needed(Defence::OlderRecordCloses, Invariant::CommittedOnce);
    needed(Defence::OlderRecordCloses, Invariant::AnyRedis);
}

#[test]
fn an_epoch_has_to_say_which_rekey_began_it() {
    needed(Defence::RekeyNamed, Invariant::Progress);
}

#[test]
fn without_the_record_an_adopter_has_to_close_the_session() {
    breaks_property("without RekeyPersistedFirst", rekeys().without(Defence::RekeyPersistedFirst), KEPT);
}

#[test]
fn a_former_owner_replaces_the_record_of_the_present_one() {
    breaks_property("without RecordWritesFenced", rekeys().without(Defence::RecordWritesFenced), KEPT);
}
