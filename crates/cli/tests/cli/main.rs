//! The `sluice` command as a process.

mod dev;
mod keys;
mod rotation;
mod running;
