//! The small process that keeps the UDP sockets open while the process that uses them is dead.
//!
//! A datagram to a port that nobody holds is answered by the kernel with ICMP "port unreachable", and official Python clients close their
//! session for good on it. So `sluice-edge` is two processes: the *parent*, which is started by whoever runs the edge and starts the
//! *worker*, which is the edge. The worker binds the sockets and gives copies of the UDP ones to the parent. While one of the two
//! holds them, a datagram is lost or waits, as on any network, and nobody is told that the port is closed.
//!
//! It also looks after the worker: one that is silent for too long hangs, is killed, and is followed like one that died.
//!
//! The parent reads no configuration and no secret, serves nothing, and reads nothing from the network. docs/decisions/0004 says why
//! it is made as it is.
//!
//! [`run`] is the parent, [`Parent`] is what the worker sees of it.

mod message;
mod policy;
mod supervise;
mod watch;
mod worker;

pub use message::MessageError;
pub use supervise::run;
pub(crate) use worker::Heart;
pub use worker::{Parent, ParentError};
