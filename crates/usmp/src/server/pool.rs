use crate::MessageBuffer;
use crate::wire::MAX_MESSAGE;

/// Names a lent buffer. Small, so that a session that waits for fragments stays small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHandle(pub u32);

/// Where sessions borrow the buffers in which fragments become messages. Bounded: when it is empty the fragment is not
/// acknowledged, and the device sends it again.
///
/// A session gives its buffer back when the message is whole, given up, or 30 s old, and in
/// [`UdpSession::release`](super::UdpSession::release), which a driver calls before it drops a session.
pub trait MessagePool {
    /// A free buffer, or `None` when all are lent.
    fn lend(&mut self) -> Option<MessageHandle>;

    /// A lent buffer; `None` only for a handle that this pool did not lend.
    fn buffer(&mut self, handle: MessageHandle) -> Option<&mut MessageBuffer>;

    /// Takes a buffer back.
    fn give_back(&mut self, handle: MessageHandle);

    /// Takes a buffer back and shows it for the last time: it is free for the next one as soon as the borrow ends.
    fn last_look(&mut self, handle: MessageHandle) -> Option<&mut MessageBuffer>;
}

/// A pool of `N` buffers in one array.
#[derive(Debug)]
pub struct ArrayPool<const N: usize> {
    buffers: [MessageBuffer; N],
    lent: [bool; N],
}

impl<const N: usize> ArrayPool<N> {
    /// All free.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffers: [[0; MAX_MESSAGE]; N], lent: [false; N] }
    }

    /// How many are lent.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent.iter().filter(|&&lent| lent).count()
    }
}

impl<const N: usize> Default for ArrayPool<N> {
    fn default() -> Self {
        Self::new()
    }
}

fn index(handle: MessageHandle) -> usize {
    usize::try_from(handle.0).unwrap_or(usize::MAX)
}

impl<const N: usize> MessagePool for ArrayPool<N> {
    fn lend(&mut self) -> Option<MessageHandle> {
        let free = self.lent.iter().position(|&lent| !lent)?;
        *self.lent.get_mut(free)? = true;
        u32::try_from(free).ok().map(MessageHandle)
    }

    fn buffer(&mut self, handle: MessageHandle) -> Option<&mut MessageBuffer> {
        self.buffers.get_mut(index(handle))
    }

    fn give_back(&mut self, handle: MessageHandle) {
        if let Some(lent) = self.lent.get_mut(index(handle)) {
            *lent = false;
        }
    }

    fn last_look(&mut self, handle: MessageHandle) -> Option<&mut MessageBuffer> {
        self.give_back(handle);
        self.buffer(handle)
    }
}
