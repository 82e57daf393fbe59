//! The way into a running edge.

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_types::DeviceId;
use tokio::sync::{mpsc, oneshot};
use usmp::wire::MAX_MESSAGE;

use crate::counts::{self, Count, Counts};
use crate::link::{Command, SendError};

/// Where the edge listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For TCP; `None` when off.
    pub tcp: Option<SocketAddr>,
    /// For UDP; `None` when off.
    pub udp: Option<SocketAddr>,
}

/// A running edge, seen from outside. Clones are cheap and mean the same edge.
#[derive(Debug, Clone)]
pub struct EdgeHandle {
    pub(crate) addresses: Addresses,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) counts: Arc<[Arc<Counts>]>,
}

impl EdgeHandle {
    /// Where the edge listens.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Brings a message to a device that has a session here, and waits until the device has acknowledged it (UDP) or its
    /// connection has taken it (TCP). Neither says that the device has acted upon it.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Cancellation Safety
    ///
    /// An abandoned call may still deliver.
    pub async fn send(&self, device: DeviceId, payload: &[u8]) -> Result<(), SendError> {
        if payload.len() > MAX_MESSAGE {
            return Err(SendError::TooLong);
        }
        let (done, outcome) = oneshot::channel();
        let command = Command::Send { device, payload: payload.into(), done };
        self.commands.send(command).await.map_err(|_| SendError::Stopping)?;
        outcome.await.unwrap_or(Err(SendError::Stopping))
    }

    /// Whether the device has a session here that has spoken.
    pub async fn is_connected(&self, device: DeviceId) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = self.commands.send(Command::Connected { device, reply }).await;
        asked.is_ok() && answer.await.unwrap_or(false)
    }

    /// Sessions open at the moment, over both transports.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        let opened = self.count(Count::SessionsOpenedTcp) + self.count(Count::SessionsOpenedUdp);
        let closed = self.count(Count::SessionsClosedTcp) + self.count(Count::SessionsClosedUdp);
        opened.saturating_sub(closed)
    }

    /// How often something happened since the start.
    #[must_use]
    pub fn count(&self, count: Count) -> u64 {
        counts::total(&self.counts, count)
    }
}
