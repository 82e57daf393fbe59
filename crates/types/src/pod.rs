use std::fmt;
use std::str::FromStr;

/// Names one running edge process among its peers: random, drawn anew at each start, so that a restarted pod is never taken
/// for the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId([u8; 16]);

impl PodId {
    /// Takes the 16 bytes as they stand in ledger records and peer frames.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes as they stand in ledger records and peer frames.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodId({self})")
    }
}

/// Why a text is not a pod id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pod id: write 32 hex digits")]
pub struct PodIdError;

impl FromStr for PodId {
    type Err = PodIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(PodIdError);
        }
        u128::from_str_radix(text, 16).map(|value| Self(value.to_be_bytes())).map_err(|_| PodIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_back() {
        let id = PodId::from_bytes(*b"\x00\x01\x02\x03\x04\x05\x06\x07\xff\x09\x0a\x0b\x0c\x0d\x0e\x0f");
        assert_eq!(id.to_string(), "0001020304050607ff090a0b0c0d0e0f");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "00", "+001020304050607ff090a0b0c0d0e0f", "zz01020304050607ff090a0b0c0d0e0f"] {
            assert_eq!(text.parse::<PodId>(), Err(PodIdError), "{text}");
        }
    }
}
