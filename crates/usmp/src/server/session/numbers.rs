/// Numbers of one owner of a session under [`SendingNumbers::Blocks`].
const BLOCK_BITS: u32 = 22;

/// The last block that an owner sends with. The one above it is for the PING that finds the device and for BYE.
const LAST_BLOCK: u32 = 1022;

/// Which sequence numbers the server may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SendingNumbers {
    /// All of them: the session has one owner for life.
    #[default]
    Continuous,
    /// Blocks of 2^22, one for each owner that the session has had; see [`first_number`]. Jumps are legal on UDP (WIRE.md section 7).
    Blocks,
}

/// The first sending number of a session's owner, so that no two owners ever use the same: `generations` counts the owners that
/// the session's journal has had since the session was opened. `None` when the numbers are used up: such a session is dropped
/// without a word.
#[must_use]
pub const fn first_number(generations: u32) -> Option<u32> {
    if generations > LAST_BLOCK + 1 { None } else { Some(generations << BLOCK_BITS) }
}

/// The server's sequence numbers: each is given once.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
    supply: Supply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// All numbers from `next` on.
    All,
    /// Those of the block that `next` is in.
    Block,
    /// The block is used up.
    Empty,
    /// The driver knows.
    Asked,
}

impl Numbers {
    pub(super) const fn new(next: u32, kind: SendingNumbers) -> Self {
        let supply = match kind {
            SendingNumbers::Continuous => Supply::All,
            SendingNumbers::Blocks => Supply::Block,
        };
        Self { next, supply }
    }

    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    const fn block(&self) -> u32 {
        self.next >> BLOCK_BITS
    }

    /// Nothing but what ends the session may use the numbers that are left, if any is.
    pub(super) const fn is_ending(&self) -> bool {
        match self.supply {
            Supply::All => self.next == u32::MAX,
            Supply::Block => self.block() > LAST_BLOCK,
            Supply::Empty | Supply::Asked => false,
        }
    }

    /// No number can be given until the driver brings more.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self.supply, Supply::Empty | Supply::Asked)
    }

    /// Whether the driver is to be asked for more. Says so once for each block.
    pub(super) fn ask(&mut self) -> bool {
        let ask = self.supply == Supply::Empty;
        if ask {
            self.supply = Supply::Asked;
        }
        ask
    }

    /// A number was used.
    pub(super) fn advance(&mut self) {
        let before = self.block();
        self.next = self.next.saturating_add(1);
        if self.supply == Supply::Block && self.block() != before {
            self.supply = Supply::Empty;
        }
    }

    /// Goes on with the block that starts at `next`, if it is one above all numbers used.
    pub(super) const fn extend(&mut self, next: u32) -> bool {
        let starts = next.trailing_zeros() >= BLOCK_BITS;
        // A used-up block leaves `next` at the start of the one above, which is nobody's before the driver brings it.
        let above = next > self.next || (self.is_empty() && next == self.next);
        if matches!(self.supply, Supply::All) || !starts || !above {
            return false;
        }
        self.next = next;
        self.supply = Supply::Block;
        true
    }
}
