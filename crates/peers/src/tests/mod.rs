//! Pods with real sockets on loopback.

mod bounds;
mod hostile;
mod life;
mod links;
mod rotation;
mod world;
