//! Runs a model: over its whole state space, or until a given invariant breaks.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

use crate::invariant::Invariant;

/// Visits every state within the bounds and returns how many there are.
///
/// # Panics
/// With the shortest trace, if an invariant breaks.
pub fn holds<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{name}: {states} states, depth {}", checker.max_depth());
    let properties = checker.model().properties();
    let mut found = checker.discoveries();
    for property in properties {
        let path = found.remove(property.name);
        if !property.expectation.discovery_is_failure() {
            assert!(path.is_some(), "{name}: never reached within the bounds: {}", property.name);
            continue;
        }
        let Some(path) = path else { continue };
        let last = path.last_state().clone();
        let actions = path.into_actions();
        panic!("{} breaks after {} steps:\n{actions:#?}\nin state {last:#?}", property.name, actions.len());
    }
    assert!(checker.is_done(), "the search stopped early");
    states
}

/// Searches for the shortest way to break `invariant` and returns its steps.
///
/// # Panics
/// If there is none within the bounds: then a rule was taken away and nobody noticed.
pub fn breaks<M>(name: &str, model: M, invariant: Invariant) -> Vec<M::Action>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    breaks_property(name, model, invariant.name())
}

/// The same for a property that is no invariant of all models.
///
/// # Panics
/// Like [`breaks`].
pub fn breaks_property<M>(name: &str, model: M, property: &'static str) -> Vec<M::Action>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Debug + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let wanted = || HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = model.clone().checker().finish_when(wanted()).spawn_bfs().join();
    let states = checker.unique_state_count();
    let Some(mut path) = checker.discovery(property) else {
        let others: Vec<_> = checker.discoveries().into_keys().collect();
        panic!("{name}: {property} holds in all {states} states; broken instead: {others:?}");
    };
    // The checker keeps the last trace it met in a block of states, not the first: ask for shorter ones. A path counts
    // its initial state, and the limit is exclusive.
    loop {
        let limit = path.clone().into_actions().len() + 1;
        let checker =
            model.clone().checker().finish_when(wanted()).target_max_depth(limit).spawn_bfs().join();
        match checker.discovery(property) {
            Some(shorter) => path = shorter,
            None => break,
        }
    }
    let actions = path.into_actions();
    println!("{name}: {} breaks in {} steps ({states} states)", property, actions.len());
    for (step, action) in actions.iter().enumerate() {
        println!("  {:2}. {action:?}", step + 1);
    }
    actions
}
