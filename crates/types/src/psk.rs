use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Fewest bytes of a pre-shared key that Sluice takes. USMP allows 16; a recorded handshake can be guessed at hash speed
/// (WIRE.md section 14, W4), so a key must be out of reach of guessing.
pub const MIN_PSK_BYTES: usize = 32;

/// Most bytes of a pre-shared key. HMAC takes any length; the bound keeps a mistaken file out of the store.
const MAX_PSK_BYTES: usize = 1024;

/// Fewest bytes that the protocol itself allows.
const PROTOCOL_MIN_BYTES: usize = 16;

/// A key that was published somewhere and so protects nothing.
#[derive(Debug, Clone, Copy)]
pub struct PublishedKey {
    /// The key's characters, which are its bytes.
    pub text: &'static str,
    /// Where it is published.
    pub source: &'static str,
}

/// Keys that are refused wherever a key is taken, as bytes or as the hex text of those bytes.
pub const PUBLISHED_KEYS: &[PublishedKey] = &[PublishedKey {
    text: "usmp-dev-psk-change-me-before-prod",
    source: "the development key in the examples of the USMP SDKs",
}];

/// How a text stands for the bytes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PskFormat {
    /// Two hex digits a byte.
    #[default]
    Hex,
    /// The characters are the bytes, as an Arduino sketch has them.
    Text,
}

/// A pre-shared key of a device: 32 to 1024 bytes, none of [`PUBLISHED_KEYS`]; wiped when dropped, never printed.
#[derive(Clone)]
pub struct Psk(Zeroizing<Box<[u8]>>);

impl Psk {
    /// Takes key bytes.
    ///
    /// # Errors
    ///
    /// [`PskError::TooShort`], [`PskError::TooLong`] or [`PskError::Published`].
    pub fn new(bytes: &[u8]) -> Result<Self, PskError> {
        Self::with_minimum(bytes, MIN_PSK_BYTES)
    }

    /// Takes key bytes of an old device, 16 and more: what USMP itself allows and guessing reaches sooner.
    ///
    /// # Errors
    ///
    /// As [`Psk::new`], with the lower minimum.
    pub fn new_dangerously_short(bytes: &[u8]) -> Result<Self, PskError> {
        Self::with_minimum(bytes, PROTOCOL_MIN_BYTES)
    }

    fn with_minimum(bytes: &[u8], minimum: usize) -> Result<Self, PskError> {
        // A published key first: its name says more than its length.
        if let Some(known) = PUBLISHED_KEYS.iter().find(|known| known.matches(bytes)) {
            return Err(PskError::Published { source_of_key: known.source });
        }
        if bytes.len() < minimum {
            return Err(PskError::TooShort { length: bytes.len(), minimum });
        }
        if bytes.len() > MAX_PSK_BYTES {
            return Err(PskError::TooLong { length: bytes.len() });
        }
        Ok(Self(Zeroizing::new(bytes.into())))
    }

    /// Reads the content of a key file; white space around it is ignored.
    ///
    /// # Errors
    ///
    /// [`PskError::NotHex`], or as [`Psk::new`].
    pub fn parse(text: &[u8], format: PskFormat) -> Result<Self, PskError> {
        let text = text.trim_ascii();
        match format {
            PskFormat::Text => Self::new(text),
            PskFormat::Hex => Self::new(&unhex(text).ok_or(PskError::NotHex)?),
        }
    }

    /// The key bytes. Every use is a place where the key leaves its type.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PublishedKey {
    fn matches(&self, bytes: &[u8]) -> bool {
        let key = self.text.as_bytes();
        bytes == key || unhex(bytes).is_some_and(|decoded| *decoded == key)
    }
}

fn unhex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    // Reserved at once: a growing vector would leave copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for &[high, low] in pairs {
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(bytes)
}

impl PartialEq for Psk {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Psk {}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// Why a key is not taken. No variant holds a byte of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PskError {
    /// Fewer bytes than allowed.
    #[error(
        "the key has {length} bytes, at least {minimum} are needed: make one with `openssl rand -hex 32`"
    )]
    TooShort {
        /// Bytes given.
        length: usize,
        /// Bytes needed.
        minimum: usize,
    },
    /// More bytes than any device has.
    #[error("the key has {length} bytes, at most {MAX_PSK_BYTES} are taken: is this the right file?")]
    TooLong {
        /// Bytes given.
        length: usize,
    },
    /// Not an even number of hex digits.
    #[error("the key is not hex: write two hex digits a byte, or say that it is text (`--psk-format text`)")]
    NotHex,
    /// One of [`PUBLISHED_KEYS`].
    #[error("this key is public ({source_of_key}): make one of your own with `openssl rand -hex 32`")]
    Published {
        /// Where it is published.
        source_of_key: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_text_files_give_the_bytes_they_stand_for() {
        let hex = b"  000102030405060708090A0b0c0d0e0f101112131415161718191a1b1c1d1e1f\r\n";
        let psk = Psk::parse(hex, PskFormat::Hex).expect("32 bytes");
        assert_eq!(psk.expose(), (0..32).collect::<Vec<u8>>());
        let text = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ\n";
        assert_eq!(Psk::parse(text, PskFormat::Text).expect("43 bytes").expose(), text.trim_ascii());
    }

    #[test]
    fn short_long_and_garbled_keys_are_refused_by_name() {
        assert_eq!(Psk::new(&[7; 31]), Err(PskError::TooShort { length: 31, minimum: 32 }));
        assert_eq!(Psk::new_dangerously_short(&[7; 15]), Err(PskError::TooShort { length: 15, minimum: 16 }));
        assert!(Psk::new_dangerously_short(&[7; 16]).is_ok());
        assert_eq!(Psk::new(&[7; 1025]), Err(PskError::TooLong { length: 1025 }));
        assert_eq!(Psk::parse(b"xyz", PskFormat::Hex), Err(PskError::NotHex));
        assert_eq!(Psk::parse(b"abc", PskFormat::Hex), Err(PskError::NotHex));
    }

    #[test]
    fn the_published_key_is_refused_in_every_form_it_can_be_given() {
        let text = PUBLISHED_KEYS[0].text;
        let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
        let refused = [
            Psk::new(text.as_bytes()),
            Psk::new_dangerously_short(text.as_bytes()),
            Psk::new(hex.as_bytes()),
            Psk::parse(text.as_bytes(), PskFormat::Text),
            Psk::parse(hex.as_bytes(), PskFormat::Hex),
            Psk::parse(hex.as_bytes(), PskFormat::Text),
        ];
        for outcome in refused {
            assert!(matches!(outcome, Err(PskError::Published { .. })), "{outcome:?}");
        }
    }

    #[test]
    fn no_formatting_shows_a_byte_of_the_key() {
        let psk = Psk::new(b"planted-planted-planted-planted-").expect("32 bytes");
        let shown = format!("{psk:?} {:?} {:?}", Some(&psk), Psk::new(b"planted"));
        assert!(!shown.contains("planted") && !shown.contains("112, 108"), "{shown}");
    }
}
