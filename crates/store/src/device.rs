use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sluice_types::{DeviceId, KeyEpoch, Psk, TenantId, Timestamp};

/// Active keys of one device, at most: the current one, the next one while it is rolled out, and one that a straggler has.
pub(crate) const MAX_KEYS: usize = 3;

/// What a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Registered, not seen yet; may connect.
    Provisioned,
    /// May connect.
    Active,
    /// Held off for a while; may not connect, and may become active again.
    Suspended,
    /// May not connect.
    Revoked,
    /// Its keys are erased and its id is refused for good.
    Decommissioned,
}

impl DeviceState {
    /// Whether a session may be opened.
    #[must_use]
    pub const fn may_connect(self) -> bool {
        matches!(self, Self::Provisioned | Self::Active)
    }

    /// The lowercase name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Decommissioned => "decommissioned",
        }
    }
}

/// What a device's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Each message is one telemetry record, byte for byte: any official SDK.
    #[default]
    Raw,
    /// Messages of the managed device protocol.
    Managed,
}

/// Where a device's keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeySource {
    /// Random keys of its own, sealed in its record.
    Individual,
    /// Derived from the roots of its tenant, see [`derived_psk`](crate::derived_psk).
    Derived,
}

/// The key a device gets.
#[derive(Debug, Clone)]
pub enum NewKey {
    /// A key of its own. One under 32 bytes is taken only while its tenant accepts such.
    Individual(Psk),
    /// The keys derived from its tenant's roots.
    Derived,
}

/// A device to be registered.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its id, unique in the deployment.
    pub id: DeviceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What its messages are.
    pub profile: Profile,
    /// Its first state: [`DeviceState::Provisioned`], [`DeviceState::Active`] or [`DeviceState::Suspended`].
    pub state: DeviceState,
    /// Its first key.
    pub key: NewKey,
}

impl NewDevice {
    /// An active device of the default tenant with the raw profile.
    #[must_use]
    pub fn raw(id: DeviceId, key: NewKey) -> Self {
        Self { id, tenant: TenantId::default(), profile: Profile::Raw, state: DeviceState::Active, key }
    }
}

/// A device of the registry, without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it may do.
    pub state: DeviceState,
    /// Why it may not, in the operator's words; empty when nobody said.
    pub reason: String,
    /// What its messages are.
    pub profile: Profile,
    /// Where its keys come from.
    pub key_source: KeySource,
    /// Its active individual keys, oldest first; empty when they are derived.
    pub keys: Vec<KeyInfo>,
    /// When it was registered.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
    /// Grows with every change.
    pub version: u64,
}

/// An active individual key, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its number.
    pub epoch: KeyEpoch,
    /// When it was added.
    pub created: Timestamp,
    /// From when on it opens no session; `None` for never.
    pub not_after: Option<Timestamp>,
    /// Under 32 bytes, by the tenant's dangerous permission.
    pub short: bool,
}

/// What the registry knows for a handshake.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KeyLookup {
    /// No such device. A normal answer: strangers ask all the time.
    Unknown,
    /// A device that may not connect.
    Refused {
        /// Whose it is.
        tenant: TenantId,
        /// Why.
        state: DeviceState,
    },
    /// A device that may connect under one of these keys.
    Known(HandshakeKeys),
}

/// The keys under which a device may open a session.
#[derive(Debug, Clone)]
pub struct HandshakeKeys {
    /// What the device may do; a state that may connect.
    pub state: DeviceState,
    /// Whose it is.
    pub tenant: TenantId,
    /// What its messages are.
    pub profile: Profile,
    /// 0 to 3 keys, newest first. None when all have passed their deadline: refuse like a wrong key.
    pub psks: Vec<(KeyEpoch, Psk)>,
}

/// Which part of the registry to list.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Only this tenant's devices.
    pub tenant: Option<TenantId>,
    /// Go on after the page before; `None` for the first page.
    pub after: Option<PageToken>,
    /// Devices wanted, 1 to 1000; others are clamped.
    pub limit: u16,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { tenant: None, after: None, limit: 100 }
    }
}

/// Devices in the order of tenant, then id.
#[derive(Debug, Clone)]
pub struct DevicePage {
    /// The devices. A page may be shorter than asked for, even empty, and yet not be the last one.
    pub devices: Vec<Device>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<PageToken>,
}

/// The place behind a page. A device registered before it later on is not seen by who goes on from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    pub(crate) tenant: TenantId,
    pub(crate) device: DeviceId,
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.device)
    }
}

/// Why a text is no page token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a page token: pass on the one of the page before unchanged")]
pub struct PageTokenError;

impl FromStr for PageToken {
    type Err = PageTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tenant, device) = text.split_once('/').ok_or(PageTokenError)?;
        Ok(Self {
            tenant: tenant.parse().map_err(|_| PageTokenError)?,
            device: device.parse().map_err(|_| PageTokenError)?,
        })
    }
}

/// Why something was done, in the operator's words: up to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason(String);

const MAX_REASON_CHARS: usize = 200;

impl Reason {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a reason has at most {MAX_REASON_CHARS} characters and no line breaks or other control characters")]
pub struct ReasonError;

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().count() > MAX_REASON_CHARS || text.chars().any(char::is_control) {
            return Err(ReasonError);
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod device_tests {
    use super::*;

    #[test]
    fn a_page_token_survives_its_text_and_others_are_refused() {
        let token: PageToken = "acme/02a1b2c3d4e5".parse().expect("as printed");
        assert_eq!(token.to_string().parse(), Ok(token));
        for text in ["", "acme", "acme/", "/02a1b2c3d4e5", "ACME/02a1b2c3d4e5", "acme/02a1b2c3d4e5/x"] {
            assert_eq!(text.parse::<PageToken>(), Err(PageTokenError), "{text}");
        }
    }

    #[test]
    fn a_reason_that_would_break_a_log_line_is_refused() {
        assert!("stolen from the depot".parse::<Reason>().is_ok());
        assert!("x".repeat(200).parse::<Reason>().is_ok());
        assert_eq!("x".repeat(201).parse::<Reason>(), Err(ReasonError));
        assert_eq!("a\nb".parse::<Reason>(), Err(ReasonError));
    }
}
