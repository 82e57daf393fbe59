use crate::reassembly::{Reassembly, ReassemblyError};

/// Room for one message: the one in the making, or the one that waits to be polled.
#[derive(Debug)]
pub(super) struct Inbox<const RX: usize> {
    buffer: [u8; RX],
    ready: Option<usize>,
    run: Reassembly,
    /// The rest of a run that cannot be taken: the number that continues it. Without this its tail would pass for a message
    /// of its own (WIRE.md section 14, W13).
    discard: Option<u32>,
}

impl<const RX: usize> Inbox<RX> {
    pub(super) const fn new() -> Self {
        Self { buffer: [0; RX], ready: None, run: Reassembly::new(), discard: None }
    }

    /// Whether a message waits to be polled; no chunk may be taken until then.
    pub(super) const fn is_full(&self) -> bool {
        self.ready.is_some()
    }

    /// Whether a run is open, into which no control frame may fall.
    pub(super) const fn in_message(&self) -> bool {
        self.run.is_open()
    }

    pub(super) fn poll(&mut self) -> Option<&[u8]> {
        let length = self.ready.take()?;
        self.buffer.get(..length)
    }

    /// Gives up what is in the making; a message that waits stays.
    pub(super) const fn restart(&mut self) {
        self.run.reset();
        self.discard = None;
    }

    /// Takes the plaintext of a DATA_FRAG, or of the DATA that ends a message.
    pub(super) fn take(&mut self, seq: u32, ends: bool, chunk: &[u8]) -> Result<(), ReassemblyError> {
        if self.discard.take() == Some(seq) {
            self.discard = (!ends).then_some(seq.saturating_add(1));
            return Ok(());
        }
        if !ends {
            let taken = self.run.push_fragment(seq, chunk, &mut self.buffer);
            if taken.is_err() {
                self.discard = Some(seq.saturating_add(1));
            }
            return taken;
        }
        if !self.run.continues(seq) {
            self.run.reset();
        }
        self.ready = Some(self.run.finish(chunk, &mut self.buffer)?.len());
        Ok(())
    }
}
