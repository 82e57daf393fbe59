use std::net::SocketAddr;

use sluice_types::PodId;

use crate::frame::Control;
use crate::liveness::Event;

/// The user of the crate had no room for a control frame. The link it came by is ended, so that the sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for a control frame")]
pub struct NoRoom;

/// What links bring in. Called from the tasks of the links: nothing here may block or wait, put it into a queue of your own.
pub trait Inbound: Send + Sync + 'static {
    /// A datagram that reached `from` and belongs to a slot of this pod; `flow` and `source` go into the answer. It may be opened
    /// in place.
    fn datagram(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]);

    /// A datagram of a handshake that reached `from`, which does not know that handshake or cannot do it. Whoever does not know it
    /// either says nothing, and hands it on to nobody: `from` has asked everybody that is to be asked.
    fn handshake(&self, from: PodId, flow: u32, source: SocketAddr, bytes: &mut [u8]);

    /// The owner's answer to a datagram that this pod relayed: send it to `destination` by the socket that `flow` names.
    fn reply(&self, from: PodId, flow: u32, destination: SocketAddr, bytes: &mut [u8]);

    /// A control frame; in the order they were sent, each at most once.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] ends the link rather than losing the frame silently.
    fn control(&self, from: PodId, control: Control) -> Result<(), NoRoom>;

    /// This pod can send to `pod` from now on: tell it again what it must know.
    fn link_up(&self, _pod: PodId) {}

    /// This pod cannot send to `pod` any more; control frames that were queued may be lost.
    fn link_down(&self, _pod: PodId) {}

    /// Somebody is alive, dead or draining.
    fn changed(&self, _event: Event) {}
}
