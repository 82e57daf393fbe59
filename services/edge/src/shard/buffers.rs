//! PACKET PATH: no lock, no log, no await; allocates a buffer once, then lends it again and again.
//!
//! Room for messages of more than one frame, lent to sessions while one is in the making.

use usmp::MessageBuffer;
use usmp::server::{MessageHandle, MessagePool};

/// A bounded pool. When all are lent a fragment is not acknowledged, and its device sends it again.
#[derive(Debug)]
pub(crate) struct Buffers {
    #[expect(clippy::vec_box, reason = "a growing list of buffers moves pointers, not the buffers")]
    buffers: Vec<Box<MessageBuffer>>,
    free: Vec<u32>,
    most: u32,
}

impl Buffers {
    pub(crate) const fn new(most: u32) -> Self {
        Self { buffers: Vec::new(), free: Vec::new(), most }
    }
}

impl MessagePool for Buffers {
    fn lend(&mut self) -> Option<MessageHandle> {
        if let Some(index) = self.free.pop() {
            return Some(MessageHandle(index));
        }
        let index = u32::try_from(self.buffers.len()).ok().filter(|&index| index < self.most)?;
        self.buffers.push(Box::new([0; usmp::wire::MAX_MESSAGE]));
        Some(MessageHandle(index))
    }

    fn buffer(&mut self, id: MessageHandle) -> Option<&mut MessageBuffer> {
        self.buffers.get_mut(id.0 as usize).map(|buffer| &mut **buffer)
    }

    fn give_back(&mut self, id: MessageHandle) {
        debug_assert!(
            (id.0 as usize) < self.buffers.len() && !self.free.contains(&id.0),
            "buffer {id:?} not lent"
        );
        self.free.push(id.0);
    }

    fn last_look(&mut self, id: MessageHandle) -> Option<&mut MessageBuffer> {
        self.give_back(id);
        self.buffer(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again_and_no_more_than_allowed_are() {
        let mut buffers = Buffers::new(2);
        let (a, b) = (buffers.lend().expect("the first"), buffers.lend().expect("the second"));
        assert_ne!(a, b);
        assert_eq!(buffers.lend(), None);
        assert!(buffers.buffer(a).is_some());
        buffers.give_back(a);
        assert_eq!(buffers.lend(), Some(a));
        assert_eq!(buffers.buffer(MessageHandle(2)), None);
    }
}
