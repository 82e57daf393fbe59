//! What a pod serves, in one control frame of a peer link however many slots it are.
//!
//! Version 1: one byte of version, then for each slot its number (2 bytes) and its generation (4 bytes), big-endian.

use sluice_peers::{Control, FIRST_OTHER};

/// The kind of the frame among those that are the edge's own.
const KIND: u8 = FIRST_OTHER;
const VERSION: u8 = 1;

/// The kind of the frame that says that its sender drains: a byte of version. The one between is that of penalties.
const DRAINS: u8 = FIRST_OTHER + 2;

/// The frame by which a pod says that it drains, so that it is given no slot; the store says so half a second later.
pub(super) fn drains() -> Control {
    Control::Other { kind: DRAINS, bytes: vec![VERSION] }
}

/// Whether this is such a frame. What a later version says behind it does not matter.
pub(super) fn says_it_drains(kind: u8, bytes: &[u8]) -> bool {
    kind == DRAINS && bytes.first() == Some(&VERSION)
}

const EACH: usize = 6;

/// The frame that says which slots, since which generation, the sender serves.
pub(super) fn announce(slots: impl Iterator<Item = (u16, u32)>) -> Control {
    let mut bytes = vec![VERSION];
    for (slot, generation) in slots {
        bytes.extend_from_slice(&slot.to_be_bytes());
        bytes.extend_from_slice(&generation.to_be_bytes());
    }
    Control::Other { kind: KIND, bytes }
}

/// The slots in such a frame; none in one of another kind, a later version, or one that is cut.
pub(super) fn announced(kind: u8, bytes: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    let entries = match bytes {
        [VERSION, entries @ ..] if kind == KIND && entries.len().is_multiple_of(EACH) => entries,
        _ => &[],
    };
    entries
        .as_chunks::<EACH>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
}

#[cfg(test)]
mod tests {
    use sluice_peers::MAX_PAYLOAD;

    use super::*;

    #[test]
    fn what_is_announced_is_read_and_keeps_its_bytes() {
        let Control::Other { kind, bytes } = announce([(1, 2), (1023, 70_000)].into_iter()) else {
            panic!("a frame of the edge's own");
        };
        assert_eq!((kind, &bytes[..]), (128, &[1, 0, 1, 0, 0, 0, 2, 3, 255, 0, 1, 0x11, 0x70][..]));
        assert_eq!(announced(kind, &bytes).collect::<Vec<_>>(), [(1, 2), (1023, 70_000)]);
        for cut in 0..bytes.len() {
            let read: Vec<_> = announced(kind, &bytes[..cut]).collect();
            assert!(read.is_empty() || cut == 7, "{cut} bytes: {read:?}");
        }
        assert_eq!(announced(DRAINS, &bytes).count(), 0, "of another kind");
        assert_eq!(announced(kind, &[2, 0, 1, 0, 0, 0, 2]).count(), 0, "of a later version");
    }

    #[test]
    fn that_a_pod_drains_is_read_and_keeps_its_bytes() {
        let Control::Other { kind, bytes } = drains() else { panic!("a frame of the edge's own") };
        assert_eq!((kind, &bytes[..]), (130, &[1][..]));
        assert!(says_it_drains(kind, &bytes));
        assert!(!says_it_drains(KIND, &bytes) && !says_it_drains(kind, &[]) && !says_it_drains(kind, &[2]));
    }

    #[test]
    fn as_many_slots_as_there_can_be_fit_a_frame() {
        let Control::Other { bytes, .. } = announce((0..1024).map(|slot| (slot, u32::MAX))) else {
            panic!("a frame of the edge's own");
        };
        assert!(bytes.len() <= MAX_PAYLOAD, "{} bytes", bytes.len());
    }
}
