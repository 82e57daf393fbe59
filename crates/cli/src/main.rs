//! The sluice command: everything in one process, device simulator, fleet administration.
fn main() {}
