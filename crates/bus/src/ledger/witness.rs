//! What an owner of a slot knows of the store, for those who come when no pod runs that could tell them.
//!
//! It is a header of ledger records and not part of their value, so that a release which knows nothing of it reads the ledger as ever.

use super::LedgerError;

/// The header's name.
pub(crate) const WITNESS_HEADER: &str = "sluice_store";

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;

/// Bytes of version 1.
pub(crate) const WITNESS_BYTES: usize = 1 + 16 + 8;

/// That this life of the store had got as far as this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Which life of the store: another one after it was emptied.
    pub store: [u8; 16],
    /// Number of an entry of its revocation log.
    pub position: u64,
}

impl Witness {
    /// The header's value.
    ///
    /// Bytes: docs/ledger.md, "Records".
    #[must_use]
    pub fn encode(self) -> [u8; WITNESS_BYTES] {
        let mut bytes = [VERSION; WITNESS_BYTES];
        bytes[1..17].copy_from_slice(&self.store);
        bytes[17..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }

    /// Reads a header's value.
    ///
    /// # Errors
    ///
    /// [`LedgerError::UnknownVersion`], [`LedgerError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        let (&version, rest) = bytes.split_first().ok_or(LedgerError::Malformed)?;
        if version != VERSION {
            return Err(LedgerError::UnknownVersion(version));
        }
        let (store, position) = rest.split_first_chunk().ok_or(LedgerError::Malformed)?;
        let position = position.try_into().map_err(|_| LedgerError::Malformed)?;
        Ok(Self { store: *store, position: u64::from_be_bytes(position) })
    }
}

/// The highest position of each life of a store that somebody speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Testimony(Vec<Witness>);

/// Lives that are kept; when there are more, those with the lowest positions go first, which are the oldest.
const LIVES: usize = 8;

impl Testimony {
    /// Takes one more in.
    pub(crate) fn hear(&mut self, witness: Witness) {
        match self.0.iter_mut().find(|known| known.store == witness.store) {
            Some(known) => known.position = known.position.max(witness.position),
            None => self.0.push(witness),
        }
        self.0.sort_unstable_by_key(|known| std::cmp::Reverse(known.position));
        self.0.truncate(LIVES);
    }

    /// All of them, the highest position first.
    pub(crate) fn into_witnesses(self) -> Vec<Witness> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITNESS: Witness = Witness { store: [0x5a; 16], position: 0x0102_0304_0506_0708 };

    #[test]
    fn a_witness_of_version_1_has_these_bytes() {
        let golden = [[1].as_slice(), &[0x5a; 16], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert_eq!(WITNESS.encode().as_slice(), golden);
        assert_eq!(Witness::decode(&golden), Ok(WITNESS));
    }

    #[test]
    fn what_is_no_witness_is_refused_with_its_reason() {
        let mut bytes = WITNESS.encode().to_vec();
        for length in 0..bytes.len() {
            assert_eq!(Witness::decode(&bytes[..length]), Err(LedgerError::Malformed), "{length}");
        }
        bytes.push(0);
        assert_eq!(Witness::decode(&bytes), Err(LedgerError::Malformed));
        bytes[0] = 2;
        assert_eq!(Witness::decode(&bytes), Err(LedgerError::UnknownVersion(2)));
    }

    #[test]
    fn the_highest_position_of_each_life_is_kept_and_of_few_lives() {
        let witness = |life: u8, position| Witness { store: [life; 16], position };
        let mut heard = Testimony::default();
        for position in [5, 9, 7] {
            heard.hear(witness(1, position));
            heard.hear(witness(2, position + 100));
        }
        assert_eq!(heard.clone().into_witnesses(), [witness(2, 109), witness(1, 9)]);
        for life in 3..=200 {
            heard.hear(witness(life, u64::from(life)));
        }
        let kept = heard.into_witnesses();
        assert_eq!((kept.len(), kept[0], kept[7]), (LIVES, witness(200, 200), witness(193, 193)));
    }
}
