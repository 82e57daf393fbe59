use crate::wire::FrameType;

/// Most messages of a session that are taken and not yet committed.
pub const MAX_PENDING: usize = 4;

/// Names a message within its session: the session's keys restart the device's numbers, so both are needed. `seq` is that of the
/// message's last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitToken {
    /// How many REKEYs came before it.
    pub epoch: u32,
    /// Sequence number of its last frame.
    pub seq: u32,
}

/// What a commit frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed<A> {
    /// The UTACK, to be sent to the source of the copy that was taken, which the driver kept with the record.
    pub utack: crate::wire::UtackBytes,
    /// Where the last repeat of the message came from, if one came meanwhile; the same UTACK goes there too, unless it is the
    /// same source.
    pub also_to: Option<A>,
}

/// What a sequence number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Above all that was taken.
    New,
    /// To be acknowledged again.
    Again,
    /// Taken, not committed.
    Pending,
    /// To be met with silence.
    Stale,
}

/// Which numbers of this epoch were taken, and which are committed. Numbers only increase (WIRE.md section 7, W12).
#[derive(Debug)]
pub(super) struct Commits<A> {
    /// The highest number taken, if `any_seen`.
    seen: u32,
    /// The highest number committed, if `any_committed`.
    committed: u32,
    pending: [u32; MAX_PENDING],
    echo: Option<(u32, A)>,
    len: u8,
    /// Bit n: pending n is a fragment.
    fragments: u8,
    any_seen: bool,
    any_committed: bool,
    /// Frame `seen` was acknowledged when it came.
    immediate: bool,
    /// Frame `seen` was a message in one frame, or a REKEY, so that taking it can be undone.
    whole: bool,
    /// Frame `committed` is a fragment.
    fragment_committed: bool,
    /// A message broke off after frame `committed`, which nobody can complete any more.
    interrupted: bool,
}

impl<A: Copy + Eq> Commits<A> {
    pub(super) const fn new() -> Self {
        Self {
            seen: 0,
            committed: 0,
            pending: [0; MAX_PENDING],
            echo: None,
            len: 0,
            fragments: 0,
            any_seen: false,
            any_committed: false,
            immediate: false,
            whole: false,
            fragment_committed: false,
            interrupted: false,
        }
    }

    /// What a journal says. An open fragment whose message is not at hand stays open: its end never comes.
    pub(super) const fn resumed(committed: Option<u32>, fragment_open: bool) -> Self {
        let mut commits = Self::new();
        if let Some(seq) = committed {
            commits.seen = seq;
            commits.any_seen = true;
            commits.committed = seq;
            commits.any_committed = true;
            commits.fragment_committed = fragment_open;
            commits.interrupted = fragment_open;
        }
        commits
    }

    /// Whether this number would continue, or pass for the start after, a message that broke off when the session was handed over.
    /// Its other fragments are gone, and the device was never told that it is stored.
    pub(super) fn is_interrupted_at(&self, seq: u32) -> bool {
        self.interrupted && self.committed().is_some_and(|committed| committed.checked_add(1) == Some(seq))
    }

    /// The message that frame `committed` is a fragment of broke off.
    pub(super) const fn interrupt(&mut self) {
        self.interrupted = self.fragment_committed;
    }

    /// Whether the number before this one is taken and not committed.
    pub(super) fn is_pending_before(&self, seq: u32) -> bool {
        seq.checked_sub(1).is_some_and(|before| self.pending().contains(&before))
    }

    /// Whether frame `committed` is a fragment of a message that goes on.
    pub(super) const fn fragment_open(&self) -> bool {
        self.fragment_committed
    }

    fn pending(&self) -> &[u32] {
        self.pending.get(..usize::from(self.len)).unwrap_or_default()
    }

    pub(super) fn known(&self, seq: u32) -> Known {
        match self.seen() {
            Some(seen) if seq <= seen => {}
            _ => return Known::New,
        }
        if self.committed() == Some(seq) || (self.immediate && self.seen() == Some(seq)) {
            Known::Again
        } else if self.pending().contains(&seq) {
            Known::Pending
        } else {
            Known::Stale
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len as usize >= MAX_PENDING
    }

    /// Takes a number that is acknowledged at once.
    pub(super) const fn take_now(&mut self, seq: u32) {
        self.seen = seq;
        self.any_seen = true;
        self.immediate = true;
        self.whole = false;
    }

    /// Takes a number that is never acknowledged.
    pub(super) const fn take_silently(&mut self, seq: u32) {
        self.seen = seq;
        self.any_seen = true;
        self.immediate = false;
        self.whole = false;
    }

    /// Takes a number that is acknowledged after its commit. The caller asked [`is_full`](Self::is_full).
    pub(super) fn take_pending(&mut self, seq: u32, fragment: bool, whole: bool) {
        let Some(slot) = self.pending.get_mut(usize::from(self.len)) else { return };
        *slot = seq;
        let bit = 1_u8.wrapping_shl(u32::from(self.len));
        self.fragments = if fragment { self.fragments | bit } else { self.fragments & !bit };
        self.len = self.len.saturating_add(1);
        self.take_silently(seq);
        self.whole = whole;
    }

    /// Notes where a repeat of a pending number came from.
    pub(super) const fn echo(&mut self, seq: u32, from: A) {
        self.echo = Some((seq, from));
    }

    /// A pending number is committed. Returns the type that its UTACK names, and where else it goes.
    pub(super) fn commit(&mut self, seq: u32) -> Option<(FrameType, Option<A>)> {
        let (frame_type, also_to) = self.remove(seq)?;
        if self.committed().is_none_or(|before| before < seq) {
            self.committed = seq;
            self.any_committed = true;
            self.fragment_committed = frame_type == FrameType::DataFrag;
            self.interrupted = false;
        }
        Some((frame_type, also_to))
    }

    /// A pending number will never be committed. Returns its type.
    pub(super) fn refuse(&mut self, seq: u32) -> Option<FrameType> {
        self.remove(seq).map(|(frame_type, _)| frame_type)
    }

    /// Where the last repeat of a pending number came from; the number is not pending any more.
    pub(super) fn settle(&mut self, seq: u32) -> Option<Option<A>> {
        self.remove(seq).map(|(_, also_to)| also_to)
    }

    /// Undoes the taking of the newest number, if it is a message in one frame.
    pub(super) fn withdraw(&mut self, seq: u32) -> bool {
        if !self.whole || self.seen() != Some(seq) || self.remove(seq).is_none() {
            return false;
        }
        // Numbers between the one before and this one never come from a stop-and-wait sender.
        self.take_silently_before(seq);
        true
    }

    const fn take_silently_before(&mut self, seq: u32) {
        self.any_seen = seq > 0;
        self.seen = seq.saturating_sub(1);
        self.immediate = false;
        self.whole = false;
    }

    fn remove(&mut self, seq: u32) -> Option<(FrameType, Option<A>)> {
        let at = self.pending().iter().position(|&pending| pending == seq)?;
        let bit = 1_u8.wrapping_shl(u32::try_from(at).unwrap_or(0));
        let frame_type = if self.fragments & bit == 0 { FrameType::Data } else { FrameType::DataFrag };
        let below = bit.wrapping_sub(1);
        self.fragments = (self.fragments & below) | (self.fragments.wrapping_shr(1) & !below);
        self.pending.copy_within(at.saturating_add(1).., at);
        self.len = self.len.saturating_sub(1);
        let echo = match self.echo {
            Some((echoed, from)) if echoed == seq => {
                self.echo = None;
                Some(from)
            }
            _ => None,
        };
        Some((frame_type, echo))
    }

    pub(super) const fn pending_count(&self) -> usize {
        self.len as usize
    }

    pub(super) const fn seen(&self) -> Option<u32> {
        if self.any_seen { Some(self.seen) } else { None }
    }

    pub(super) const fn committed(&self) -> Option<u32> {
        if self.any_committed { Some(self.committed) } else { None }
    }
}
