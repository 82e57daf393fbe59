use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The 6 bytes by which a USMP device names itself, unique in a deployment (WIRE.md section 4).
///
/// Read from 12 hex digits in either case, with `:` or `-` between the bytes or without; written as 12 lowercase digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId([u8; 6]);

impl DeviceId {
    /// Takes the 6 bytes as they stand in a HELLO frame.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The 6 bytes as they stand in a HELLO frame.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }

    /// The 12 lowercase hex digits as ASCII, without allocating.
    #[must_use]
    pub fn to_hex(self) -> [u8; 12] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; 12];
        for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        out
    }
}

/// Why a text is not a device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a device id: write 12 hex digits, such as 02a1b2c3d4e5 or 02:a1:b2:c3:d4:e5")]
pub struct DeviceIdError {
    text: String,
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes())
            .map(Self)
            .ok_or_else(|| DeviceIdError { text: text.chars().take(40).collect() })
    }
}

fn parse(text: &[u8]) -> Option<[u8; 6]> {
    let step = match text.len() {
        12 => 2,
        17 => 3,
        _ => return None,
    };
    let mut id = [0; 6];
    for (byte, group) in id.iter_mut().zip(text.chunks(step)) {
        let (&[high, low], separator) = group.split_first_chunk::<2>()?;
        *byte = nibble(high)? << 4 | nibble(low)?;
        // One kind of separator throughout, and none after the last byte.
        if let Some(&mark) = separator.first()
            && (!matches!(mark, b':' | b'-') || Some(&mark) != text.get(2))
        {
            return None;
        }
    }
    Some(id)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex().iter().try_for_each(|&digit| fmt::Write::write_char(f, char::from(digit)))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_written_form_of_one_id_is_the_same_id() {
        let expected = DeviceId::from_bytes([0x02, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5]);
        for text in ["02a1b2c3d4e5", "02A1B2C3D4E5", "02:a1:b2:c3:d4:e5", "02-A1-b2-C3-d4-E5"] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(expected.to_string(), "02a1b2c3d4e5");
    }

    #[test]
    fn texts_that_are_no_id_are_refused_with_an_example() {
        for text in [
            "",
            "02a1b2c3d4e",
            "02a1b2c3d4e5f",
            "02a1b2c3d4eg",
            "02:a1:b2:c3:d4-e5",
            "02.a1.b2.c3.d4.e5",
            "02:a1:b2:c3:d4:e5:",
            "0 2a1b2c3d4e5",
            "é2a1b2c3d4e",
            "+2a1b2c3d4e5",
        ] {
            let refused = text.parse::<DeviceId>().expect_err(text);
            assert!(refused.to_string().contains("02a1b2c3d4e5"), "{refused}");
        }
    }

    #[test]
    fn json_carries_the_lowercase_text() {
        let id = DeviceId::from_bytes([0xff, 0, 1, 2, 3, 4]);
        let json = serde_json::to_string(&id).expect("a string always serializes");
        assert_eq!(json, "\"ff0001020304\"");
        assert_eq!(serde_json::from_str::<DeviceId>(&json).expect("just written"), id);
    }

    proptest! {
        #[test]
        fn any_six_bytes_survive_their_text(bytes: [u8; 6]) {
            let id = DeviceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
