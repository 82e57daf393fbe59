use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a tenant, in characters (it becomes a part of topic names and record keys).
const MAX_LEN: usize = 63;

/// The name of a tenant: 1 to 63 lowercase letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Box<str>);

impl TenantId {
    /// The tenant of a deployment that does not tell tenants apart.
    pub const DEFAULT_NAME: &str = "default";

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Self::DEFAULT_NAME.into())
    }
}

/// Why a text is not the name of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a tenant name: use 1 to 63 lowercase letters, digits and hyphens, no hyphen at the ends"
)]
pub struct TenantIdError {
    text: String,
}

impl FromStr for TenantId {
    type Err = TenantIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=MAX_LEN).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-')
        {
            Ok(Self(text.into()))
        } else {
            Err(TenantIdError { text: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for TenantId {
    type Error = TenantIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.0.into()
    }
}

impl Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_for_topics_and_keys_are_taken() {
        for text in ["default", "a", "7", "acme-eu-2", &"x".repeat(63)] {
            assert_eq!(text.parse::<TenantId>().expect(text).as_str(), text);
        }
    }

    #[test]
    fn names_that_would_break_a_topic_or_key_are_refused() {
        for text in ["", "A", "a/b", "a.b", "a_b", "-a", "a-", "ä", "a b", &"x".repeat(64)] {
            assert!(text.parse::<TenantId>().is_err(), "{text}");
        }
    }
}
