//! Session ids that say where their session lives, and that strangers cannot make up.
//!
//! The first 8 bytes stand in every sealed frame (WIRE.md section 6): 4 bits key id, 10 bits slot, 26 random bits, 24 bits of a keyed
//! tag over the others. A frame whose tag is wrong is refused without a look-up. The other 8 bytes are random.

use subtle::ConstantTimeEq;
use usmp::crypto::Provider;
use usmp::{Secret, SessionId};

const SLOT_BITS: u32 = 10;
const RANDOM_BITS: u32 = 26;
const TAG_BITS: u32 = 24;

/// Keys that there can be at once.
const KEYS: usize = 16;

/// Names sessions and reads the slot back out of their names.
#[derive(Debug)]
pub(crate) struct SessionIds {
    /// By their ids. A session's name is made by the current one, and read with the one that made it.
    keys: [Option<Secret<32>>; KEYS],
    current: u8,
}

impl SessionIds {
    /// `key_id` below 16 tells which key made a tag, so that keys can follow each other.
    pub(crate) fn new(key: Secret<32>, key_id: u8) -> Self {
        let mut ids = Self { keys: [const { None }; KEYS], current: key_id & 15 };
        ids.add(key, key_id);
        ids
    }

    /// Reads names made with this key too.
    pub(crate) fn add(&mut self, key: Secret<32>, key_id: u8) {
        if let Some(place) = self.keys.get_mut(usize::from(key_id & 15)) {
            *place = Some(key);
        }
    }

    pub(crate) fn duplicate(&self) -> Self {
        let keys = self.keys.each_ref().map(|key| key.as_ref().map(Secret::duplicate));
        Self { keys, current: self.current }
    }

    /// Makes a name for a session of `slot` from fresh random bytes.
    pub(crate) fn mint<P: Provider>(&self, slot: u16, random: [u8; 16]) -> SessionId {
        let [a, b, c, d, _, _, _, _, second_half @ ..] = random;
        let random = u64::from(u32::from_le_bytes([a, b, c, d])) & ((1 << RANDOM_BITS) - 1);
        let slot = u64::from(slot) & ((1 << SLOT_BITS) - 1);
        let head = (u64::from(self.current) << SLOT_BITS | slot) << RANDOM_BITS | random;
        // There is always a current one.
        let tag = self.tag::<P>(head).unwrap_or(0);
        let prefix = head << TAG_BITS | u64::from(tag);
        let mut id = [0; 16];
        let (first, second) = id.split_at_mut(8);
        first.copy_from_slice(&prefix.to_be_bytes());
        second.copy_from_slice(&second_half);
        SessionId(id)
    }

    /// The slot of a session, if its name is one of ours.
    pub(crate) fn slot<P: Provider>(&self, prefix: [u8; 8]) -> Option<u16> {
        let value = u64::from_be_bytes(prefix);
        let head = value >> TAG_BITS;
        let given = (value & ((1 << TAG_BITS) - 1)) as u32;
        let right: bool = given.ct_eq(&self.tag::<P>(head)?).into();
        right.then(|| slot_in(prefix))
    }

    fn tag<P: Provider>(&self, head: u64) -> Option<u32> {
        let key = self.keys.get((head >> (SLOT_BITS + RANDOM_BITS)) as usize)?.as_ref()?;
        let mac = P::hmac_sha256(key.expose(), &[b"sluice session id", &head.to_be_bytes()]);
        let [a, b, c, ..] = mac;
        Some(u32::from_be_bytes([0, a, b, c]))
    }
}

/// The slot in a name that is known to be right.
pub(crate) const fn slot_in(prefix: [u8; 8]) -> u16 {
    (u64::from_be_bytes(prefix) >> (RANDOM_BITS + TAG_BITS) & ((1 << SLOT_BITS) - 1)) as u16
}

#[cfg(test)]
mod tests {
    use usmp::crypto::AwsLc;

    use super::*;

    fn ids(byte: u8) -> SessionIds {
        SessionIds::new(Secret::new([byte; 32]), 3)
    }

    #[test]
    fn the_slot_is_read_back_and_names_differ_by_their_random_bits() {
        let ids = ids(7);
        for slot in [0, 1, 255, 1023] {
            let one = ids.mint::<AwsLc>(slot, [1; 16]);
            let other = ids.mint::<AwsLc>(slot, [2; 16]);
            assert_ne!(one.prefix(), other.prefix());
            assert_eq!(ids.slot::<AwsLc>(one.prefix()), Some(slot));
            assert_eq!(one.0[8..], [1; 8]);
        }
    }

    #[test]
    fn any_changed_bit_and_any_other_key_are_refused() {
        let id = ids(7).mint::<AwsLc>(5, [9; 16]);
        for bit in 0..64 {
            let guess = u64::from_be_bytes(id.prefix()) ^ 1 << bit;
            assert_eq!(ids(7).slot::<AwsLc>(guess.to_be_bytes()), None, "bit {bit}");
        }
        assert_eq!(ids(8).slot::<AwsLc>(id.prefix()), None);
    }

    #[test]
    fn names_of_an_earlier_key_are_read_until_it_is_gone() {
        let old = ids(7).mint::<AwsLc>(5, [9; 16]);
        let mut ids = SessionIds::new(Secret::new([8; 32]), 4);
        assert_eq!(ids.slot::<AwsLc>(old.prefix()), None);
        ids.add(Secret::new([7; 32]), 3);
        assert_eq!(ids.slot::<AwsLc>(old.prefix()), Some(5));
        let new = ids.mint::<AwsLc>(6, [9; 16]);
        assert_eq!(ids.duplicate().slot::<AwsLc>(new.prefix()), Some(6));
        assert_eq!(slot_in(new.prefix()), 6);
    }

    #[test]
    fn the_key_does_not_show() {
        assert!(!format!("{:?}", ids(0xa7)).contains("167"));
    }
}
