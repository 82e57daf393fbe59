/// Makes a type of 16 bytes whose text form is 32 lowercase hex digits, and the error of reading that.
macro_rules! hex_id {
    ($(#[$about:meta])* $id:ident, $(#[$place:meta])* $error:ident, $message:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $id([u8; 16]);

        impl $id {
            $(#[$place])*
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            $(#[$place])*
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl std::fmt::Display for $id {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $id {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($id), "({})"), self)
            }
        }

        /// Why a text is not such a name.
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error($message)]
        pub struct $error;

        impl std::str::FromStr for $id {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::hex_id::bytes(text).map(Self).ok_or($error)
            }
        }
    };
}

pub(crate) use hex_id;

/// 32 hex digits of either case, nothing else.
pub(crate) fn bytes(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes) } else { None }
}

#[cfg(test)]
mod tests {
    use super::bytes;
    use crate::{PodId, PodIdError, SessionId, SessionIdError};

    #[test]
    fn the_text_form_is_read_back() {
        let all = *b"\x00\x01\x02\x03\x04\x05\x06\x07\xff\x09\x0a\x0b\x0c\x0d\x0e\x0f";
        let (pod, session) = (PodId::from_bytes(all), SessionId::from_bytes(all));
        assert_eq!(pod.to_string(), "0001020304050607ff090a0b0c0d0e0f");
        assert_eq!(format!("{session:?}"), "SessionId(0001020304050607ff090a0b0c0d0e0f)");
        assert_eq!(pod.to_string().parse(), Ok(pod));
        assert_eq!(session.to_string().to_uppercase().parse(), Ok(session));
        assert_eq!(session.prefix(), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "00", "+001020304050607ff090a0b0c0d0e0f", "zz01020304050607ff090a0b0c0d0e0f"] {
            assert_eq!(bytes(text), None, "{text}");
            assert_eq!(text.parse::<PodId>(), Err(PodIdError), "{text}");
            assert_eq!(text.parse::<SessionId>(), Err(SessionIdError), "{text}");
        }
    }
}
