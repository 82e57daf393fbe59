//! The device role, as firmware and simulators run it (WIRE.md sections 5 to 11).
//!
//! [`UdpDevice`] and [`TcpDevice`] are one connection each, from HELLO to BYE; a reconnect is a new value. They own no socket,
//! clock, heap or randomness. The loop of a driver, the same on every runtime:
//!
//! 1. hand in what happened: `handle_datagram` or `handle_bytes`, `handle_timeout`, or a command such as `send`;
//! 2. call `poll_transmit` until `None` and write what it gave;
//! 3. call `poll_event` until `None`;
//! 4. sleep until the network has something, or until `poll_timeout`.
//!
//! ```
//! # #[cfg(feature = "rustcrypto")] {
//! use usmp::crypto::RustCrypto;
//! use usmp::device::{Config, Event, Psk, UdpDevice};
//! use usmp::{DeviceId, Instant, Secret};
//!
//! let psk = Psk::new(&[7; 32])?;
//! let fresh_random_bytes = Secret::new([42; 32]);
//! let now = Instant::ZERO;
//! let mut device =
//!     UdpDevice::<RustCrypto>::connect(now, DeviceId([2, 0, 0, 0, 0, 1]), psk, fresh_random_bytes, Config::default());
//! let mut out = [0; usmp::wire::MAX_FRAME];
//! assert_eq!(device.poll_transmit(now, &mut out), Some(50)); // HELLO
//! assert_eq!(device.poll_event(), None);
//! assert!(device.poll_timeout().is_some());
//! # }
//! # Ok::<(), usmp::device::PskError>(())
//! ```
//!
//! The type parameters `TX` and `RX` are the longest message to send and to receive, 1808 bytes each unless told otherwise;
//! they are most of a machine's memory: beside them a [`UdpDevice`] has 0.9 KB at most, a [`TcpDevice`] 1.3 KB.

mod config;
mod event;
mod handshake;
mod inbox;
mod outbox;
mod session;
mod tcp;
mod udp;
mod udp_input;
mod utacks;

pub use config::{Config, Exhaustion, HandshakeNumbers, Psk, PskError, Retransmission};
pub use event::{CloseReason, CommandError, DropReason, Event, MessageId, ProtocolError, SendError};
pub use tcp::TcpDevice;
pub use udp::UdpDevice;
