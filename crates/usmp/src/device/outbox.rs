use super::event::{MessageId, SendError};
use crate::wire::{FrameType, MAX_CHUNK, MAX_MESSAGE};

/// The one message that is under way to the server.
#[derive(Debug)]
pub(super) struct Outbox<const TX: usize> {
    buffer: [u8; TX],
    message: Option<Outgoing>,
    next_id: u32,
}

#[derive(Debug, Clone, Copy)]
struct Outgoing {
    id: MessageId,
    length: usize,
    /// Bytes whose frames are done.
    offset: usize,
}

impl<const TX: usize> Outbox<TX> {
    pub(super) const fn new() -> Self {
        Self { buffer: [0; TX], message: None, next_id: 0 }
    }

    pub(super) fn put(&mut self, message: &[u8]) -> Result<MessageId, SendError> {
        if self.message.is_some() {
            return Err(SendError::Busy);
        }
        if message.len() > MAX_MESSAGE {
            return Err(SendError::TooLong);
        }
        self.buffer.get_mut(..message.len()).ok_or(SendError::TooLong)?.copy_from_slice(message);
        let id = MessageId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.message = Some(Outgoing { id, length: message.len(), offset: 0 });
        Ok(id)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.message.is_none()
    }

    /// Whether some but not all frames of a message are done; nothing else may go out until the rest has (WIRE.md section 12,
    /// rule 3).
    pub(super) const fn in_message(&self) -> bool {
        matches!(self.message, Some(Outgoing { offset, .. }) if offset > 0)
    }

    /// The next frame's type and plaintext (WIRE.md section 8).
    pub(super) fn chunk(&self) -> Option<(FrameType, &[u8])> {
        let Outgoing { length, offset, .. } = self.message?;
        let rest = self.buffer.get(offset..length)?;
        match rest.split_at_checked(MAX_CHUNK) {
            Some((chunk, [_, ..])) => Some((FrameType::DataFrag, chunk)),
            _ => Some((FrameType::Data, rest)),
        }
    }

    /// Notes that the frame of [`chunk`](Self::chunk) is done; gives the message's name if it was the last.
    pub(super) fn advance(&mut self) -> Option<MessageId> {
        let message = self.message.as_mut()?;
        message.offset = message.offset.saturating_add(MAX_CHUNK);
        if message.offset < message.length {
            return None;
        }
        self.abandon()
    }

    /// Starts the message from its first frame again.
    pub(super) const fn restart(&mut self) {
        if let Some(message) = &mut self.message {
            message.offset = 0;
        }
    }

    pub(super) fn abandon(&mut self) -> Option<MessageId> {
        self.message.take().map(|message| message.id)
    }
}
