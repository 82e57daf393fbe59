//! Messages of several frames through adoptions: whole or not acked.

use sluice_model::check::{breaks, holds};
use sluice_model::fragments::Fragments;
use sluice_model::{Defence, Defences, Invariant};

fn fragments() -> Fragments {
    Fragments { numbers: 6, adoptions: 3, defences: Defences::ALL }
}

fn needed(defence: Defence, invariant: Invariant) {
    let small = Fragments { numbers: 3, adoptions: 1, ..fragments() };
    breaks(&format!("without {defence:?}"), small.without(defence), invariant);
}

#[test]
fn messages_are_whole_through_adoptions() {
    holds("fragments", fragments());
}

#[test]
fn a_fragment_acked_before_its_commit_is_forgotten() {
    needed(Defence::FragmentAckAfterCommit, Invariant::WholeMessages);
}

#[test]
fn the_frame_after_a_lost_fragment_is_no_message() {
    needed(Defence::InterruptedRefused, Invariant::WholeMessages);
}

#[test]
fn a_gap_ends_the_message_in_the_making() {
    needed(Defence::GapBeginsAnew, Invariant::AckedIsCommitted);
}

#[test]
fn a_frame_after_a_fragment_that_was_never_acked_is_another_message() {
    needed(Defence::ContinuesWhatIsAcked, Invariant::AckedIsCommitted);
}

#[test]
fn a_fragment_committed_too_late_is_not_continued() {
    needed(Defence::LateFragmentBroken, Invariant::AckedIsCommitted);
}
