//! Model of many edge pods, checked over its whole bounded state space.

pub mod address;
pub mod check;
pub mod defence;
pub mod fragments;
pub mod invariant;
pub mod ledger;

pub mod rekeys;

pub use defence::{Defence, Defences};
pub use invariant::{Broken, Invariant};
