//! Model of many edge pods, checked over its whole bounded state space.

pub mod check;
pub mod defence;
pub mod invariant;
pub mod ledger;

pub use defence::{Defence, Defences};
pub use invariant::{Broken, Invariant};
