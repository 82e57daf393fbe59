//! Open-loop swarm of devices and the bounds measured beside it.
fn main() {}
