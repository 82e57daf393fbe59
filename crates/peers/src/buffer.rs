//! Collects what a link delivers until a frame is whole. It grows by what has really arrived, never by what a header promises,
//! and never past one longest frame.

use crate::frame::{FrameError, HEADER, MAX_FRAME, MAX_PAYLOAD};

const FIRST_SIZE: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; FIRST_SIZE], start: 0, end: 0 }
    }

    /// Where the next read goes; never empty once [`FrameBuffer::next_frame`] has returned `None`.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let size = self.bytes.len().saturating_mul(2).min(MAX_FRAME);
            self.bytes.resize(size, 0);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `count` bytes of the space hold what was read.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.bytes.len());
    }

    /// The next whole frame: kind and payload.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the link is of no use any more.
    pub(crate) fn next_frame(&mut self) -> Result<Option<(u8, &mut [u8])>, FrameError> {
        let waiting = self.bytes.get_mut(self.start..self.end).unwrap_or_default();
        let Some((&mut [high, low, kind], rest)) = waiting.split_first_chunk_mut::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong);
        }
        let Some((payload, _)) = rest.split_at_mut_checked(length) else {
            return Ok(None);
        };
        self.start = self.start.saturating_add(HEADER).saturating_add(length);
        Ok(Some((kind, payload)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut FrameBuffer, bytes: &[u8]) {
        let space = buffer.space();
        space[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn a_frame_in_single_bytes_is_put_together() {
        let mut buffer = FrameBuffer::new();
        for byte in [0, 2, 9, 0xaa] {
            feed(&mut buffer, &[byte]);
            assert_eq!(buffer.next_frame(), Ok(None));
        }
        feed(&mut buffer, &[0xbb, 0, 0, 7]);
        assert_eq!(buffer.next_frame(), Ok(Some((9, &mut [0xaa, 0xbb][..]))));
        assert_eq!(buffer.next_frame(), Ok(Some((7, &mut [][..]))));
        assert_eq!(buffer.next_frame(), Ok(None));
    }

    #[test]
    fn a_promised_length_takes_no_memory() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &[0xff, 0xfd, 200]);
        assert_eq!(buffer.next_frame(), Ok(None));
        assert_eq!(buffer.bytes.len(), FIRST_SIZE);
    }

    #[test]
    fn the_longest_frame_fits_and_one_longer_is_refused() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &[0xff, 0xfd, 200]);
        let mut left = MAX_PAYLOAD;
        while left > 0 {
            assert_eq!(buffer.next_frame(), Ok(None));
            let read = buffer.space().len().min(left);
            assert!(read > 0, "no space although the frame is not whole");
            buffer.filled(read);
            left -= read;
        }
        let (kind, payload) = buffer.next_frame().unwrap().unwrap();
        assert_eq!((kind, payload.len()), (200, MAX_PAYLOAD));
        feed(&mut buffer, &[0xff, 0xfe, 200]);
        assert_eq!(buffer.next_frame(), Err(FrameError::TooLong));
    }
}
