//! Both roles against each other over links that lose, delay, reorder, repeat and garble, under a virtual clock.
//!
//! After every step: nothing is stored twice, what was acknowledged is stored, order is kept, no number is used for two frames.
//! Each run prints its seed; the same seed gives the same run.

mod handover;
mod over_links;
mod run;
