//! Development tasks: test environment, generated files, checks.
fn main() {}
