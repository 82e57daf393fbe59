//! Whether a number was ever used for two plaintexts under one key.

use std::collections::BTreeMap;

use usmp::wire::Frame;
use usmp::{Secret, SessionId};

/// Every frame that left, by key, session and number. AES-GCM with one nonce for two plaintexts betrays both and the key, so a
/// second frame of a name must be the first one byte for byte.
#[derive(Default)]
pub struct SealedFrames(BTreeMap<([u8; 32], SessionId, u32), Vec<u8>>);

impl SealedFrames {
    /// Notes a frame that leaves.
    ///
    /// # Panics
    ///
    /// When its number was used for another frame, or it is no frame.
    #[track_caller]
    pub fn note(&mut self, key: &Secret<32>, session: SessionId, frame: &[u8]) {
        let header = Frame::parse(frame).expect("a frame leaves").header();
        let first = self.0.entry((*key.expose(), session, header.seq)).or_insert_with(|| frame.to_vec());
        assert_eq!(first, frame, "number {} of {session:?} was used for two frames", header.seq);
    }

    /// Frames that differ.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none has left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use usmp::crypto::RustCrypto;
    use usmp::seal_frame;
    use usmp::wire::{FrameType, MAX_FRAME};

    use super::*;

    fn note(frames: &mut SealedFrames, key: u8, seq: u32, plaintext: &[u8]) {
        let (key, session) = (Secret::new([key; 32]), SessionId([7; 16]));
        let mut out = [0; MAX_FRAME];
        let length =
            seal_frame::<RustCrypto>(&key, session, FrameType::Data, seq, plaintext, &mut out).expect("fits");
        frames.note(&key, session, &out[..length]);
    }

    #[test]
    fn a_repeat_another_number_and_another_key_are_fine() {
        let mut frames = SealedFrames::default();
        for (key, seq, plaintext) in [(1, 0, b"a"), (1, 0, b"a"), (1, 1, b"b"), (2, 0, b"b")] {
            note(&mut frames, key, seq, plaintext);
        }
        assert_eq!(frames.len(), 3);
    }

    #[test]
    #[should_panic(expected = "was used for two frames")]
    fn a_number_that_is_used_again_is_found() {
        let mut frames = SealedFrames::default();
        note(&mut frames, 1, 0, b"a");
        note(&mut frames, 1, 0, b"b");
    }
}
