//! Each rule of group commit and adoption is needed: without it the checker finds the trace that breaks an invariant.

use sluice_model::check::breaks;
use sluice_model::ledger::{Ledger, Left};
use sluice_model::{Defence, Defences, Invariant};

/// Two pods, one session, two sequences: small enough for short traces. No fault but a second adopter.
fn ledger() -> Ledger {
    Ledger {
        pods: 2,
        sessions: 1,
        numbers: 2,
        left: Left { adoptions: 1, ..Left::default() },
        skip_dead: false,
        stale_fetch: false,
        progress: false,
        reduced: false,
        defences: Defences::ALL,
    }
}

fn faults(left: Left) -> Ledger {
    Ledger { left: Left { adoptions: left.adoptions.max(1), ..left }, ..ledger() }
}

fn needed(defence: Defence, model: Ledger, invariant: Invariant) {
    breaks(&format!("without {defence:?}"), model.without(defence), invariant);
}

#[test]
fn no_fence_lets_an_earlier_owner_commit() {
    needed(Defence::Fence, ledger(), Invariant::OneWriter);
    needed(Defence::Fence, ledger(), Invariant::CommittedOnce);
}

#[test]
fn no_journal_read_gives_an_old_number() {
    let model = faults(Left { snapshots: 2, ..Left::default() });
    needed(Defence::JournalRead, model.clone(), Invariant::NumberIsHighest);
    needed(Defence::JournalRead, model.clone(), Invariant::CommittedOnce);
    needed(Defence::JournalRead, model, Invariant::AnyRedis);
}

#[test]
fn reading_to_the_end_misses_what_is_behind_a_foreign_transaction() {
    let model = faults(Left { foreign: 1, ..Left::default() });
    needed(Defence::ReadToOwnRecord, model.clone(), Invariant::NumberIsHighest);
    needed(Defence::ReadToOwnRecord, model, Invariant::CommittedOnce);
}

#[test]
fn reading_to_the_end_misses_what_a_stale_fetch_does_not_show() {
    let model = Ledger { stale_fetch: true, ..ledger() };
    needed(Defence::ReadToOwnRecord, model, Invariant::CommittedOnce);
}

#[test]
fn no_owner_record_leaves_nothing_to_read_to() {
    needed(Defence::OwnerBarrier, Ledger { stale_fetch: true, ..ledger() }, Invariant::CommittedOnce);
    needed(Defence::OwnerBarrier, faults(Left { foreign: 1, ..Left::default() }), Invariant::CommittedOnce);
    needed(Defence::OwnerBarrier, faults(Left { seals: 2, ..Left::default() }), Invariant::FreshNonce);
}

#[test]
fn an_owner_record_known_by_the_pods_name_may_be_one_of_an_earlier_life() {
    let model = faults(Left { adoptions: 2, snapshots: 1, ..Left::default() });
    needed(Defence::OwnerNonce, model, Invariant::CommittedOnce);
}

#[test]
fn a_snapshot_of_a_later_owner_gives_its_generation_to_an_earlier_one() {
    let model = faults(Left { adoptions: 2, snapshots: 1, seals: 2, ..Left::default() });
    needed(Defence::SnapshotBelowOwner, model, Invariant::FreshNonce);
}

#[test]
fn a_snapshot_from_before_the_ledgers_start_hides_a_gap() {
    let model = faults(Left { snapshots: 1, retention: 1, ..Left::default() });
    needed(Defence::SnapshotAboveStart, model, Invariant::CommittedOnce);
}

#[test]
fn a_slot_taken_up_again_without_reading() {
    let model = faults(Left { crashes: 1, snapshots: 1, seals: 2, ..Left::default() });
    needed(Defence::ReadAtRestart, model.clone(), Invariant::CommittedOnce);
    needed(Defence::ReadAtRestart, model, Invariant::FreshNonce);
}

#[test]
fn an_ack_at_the_delivery_report_is_a_lie() {
    needed(Defence::NoAckAtDeliveryReport, ledger(), Invariant::AckedIsCommitted);
}

#[test]
fn an_ack_at_authentication_is_a_lie() {
    needed(Defence::NoAckAtAuthentication, ledger(), Invariant::AckedIsCommitted);
}

#[test]
fn a_number_that_runs_ahead_of_the_commit_is_acked() {
    needed(Defence::NumberAfterCommit, ledger(), Invariant::AckedIsCommitted);
    needed(Defence::NumberAfterCommit, ledger(), Invariant::NumberIsHighest);
}

#[test]
fn an_ack_of_every_lower_sequence_is_a_lie() {
    needed(Defence::AckOnlyTheLast, ledger(), Invariant::AckedIsCommitted);
}

#[test]
fn a_ledger_record_of_its_own_may_never_be_written() {
    needed(Defence::JournalInTransaction, ledger(), Invariant::CommittedOnce);
}

#[test]
fn an_unknown_outcome_must_not_be_produced_again() {
    let model = faults(Left { unknown: 1, ..Left::default() });
    needed(Defence::UnknownNotReproduced, model, Invariant::CommittedOnce);
}

#[test]
fn an_unknown_outcome_must_not_be_acked() {
    let model = faults(Left { unknown: 1, ..Left::default() });
    needed(Defence::UnknownNotAcked, model, Invariant::AckedIsCommitted);
}

#[test]
fn a_session_the_ledger_does_not_know_may_be_a_closed_one() {
    let model = faults(Left { closes: 1, ..Left::default() });
    needed(Defence::UnknownSessionRefused, model.clone(), Invariant::NothingAfterClose);
    needed(Defence::UnknownSessionRefused, model, Invariant::CommittedOnce);
}

#[test]
fn numbers_of_redis_alone_are_old() {
    let model = faults(Left { snapshots: 2, ..Left::default() });
    needed(Defence::NumbersFromLedger, model.clone(), Invariant::CommittedOnce);
    needed(Defence::NumbersFromLedger, model, Invariant::AnyRedis);
}

#[test]
fn a_generation_of_redis_may_have_been_used() {
    let model = faults(Left { adoptions: 2, seals: 2, ..Left::default() });
    needed(Defence::GenerationFromLedger, model.clone(), Invariant::FreshNonce);
    needed(Defence::GenerationFromLedger, model, Invariant::AnyRedis);
}

#[test]
fn sealing_before_the_owner_record_uses_a_generation_of_somebody_else() {
    let model = faults(Left { adoptions: 2, seals: 2, ..Left::default() });
    needed(Defence::SealAfterOwner, model, Invariant::FreshNonce);
}

#[test]
fn a_number_that_went_to_the_dead_letters_must_be_marked() {
    let model = faults(Left { dead: 1, ..Left::default() });
    needed(Defence::ConsumedMarked, model, Invariant::AckedIsCommitted);
}

#[test]
fn a_transaction_that_never_ends_stops_everything() {
    let model = Ledger { progress: true, ..faults(Left { foreign: 1, ..Left::default() }) };
    needed(Defence::TransactionTimeout, model, Invariant::Progress);
}
