use crate::wire::{Utack, UtackBytes};

/// How many UTACKs wait at most; a driver that polls after every datagram never has more than one.
const ROOM: usize = 4;

/// UTACKs that wait to be sent. When full the oldest is dropped: to the peer that is a lost datagram, and it repeats its frame.
#[derive(Debug, Default)]
pub(super) struct Utacks {
    waiting: [Option<UtackBytes>; ROOM],
}

impl Utacks {
    pub(super) fn push(&mut self, utack: &Utack) {
        let free = self.waiting.iter().position(Option::is_none).unwrap_or_else(|| {
            self.waiting.rotate_left(1);
            ROOM.saturating_sub(1)
        });
        if let Some(slot) = self.waiting.get_mut(free) {
            *slot = Some(utack.emit());
        }
    }

    pub(super) fn pop(&mut self) -> Option<UtackBytes> {
        let oldest = self.waiting.first_mut()?.take()?;
        self.waiting.rotate_left(1);
        Some(oldest)
    }
}
