//! What a handshake knows of its device's keys, and the same answer for devices that have none.

use sluice_proto::events::v1::SecurityReason;
use sluice_store::{DeviceState, HandshakeKeys, HoldReason, KeyLookup};
use sluice_types::TenantId;
use usmp::Secret;
use usmp::server::MAX_PSKS;

use crate::link::Lookup;

/// The state of a handshake's look-up.
#[derive(Debug)]
pub(crate) enum Keys {
    /// The budget for look-ups was used up; asked again when one ends.
    Waiting,
    /// On its way.
    Asked,
    /// May connect under these.
    Known(HandshakeKeys),
    /// May not connect. The proof is checked all the same, under keys nobody has, so that neither time nor answer tells.
    Decoy {
        /// What to report when the proof has failed.
        reason: SecurityReason,
        /// Whose the device is, if it is in the registry, so that its id may be repeated.
        tenant: Option<TenantId>,
    },
    /// The store did not answer: no session (the keys cannot be trusted), and no event either, for it is not the device's fault.
    Unavailable,
}

impl Keys {
    pub(crate) fn from_lookup(lookup: Option<Lookup>) -> Self {
        match lookup {
            Some(Lookup::Keys(KeyLookup::Known(keys))) => Self::Known(keys),
            Some(Lookup::Keys(KeyLookup::Refused { state, tenant })) => {
                let suspended = state == DeviceState::Suspended;
                let reason = if suspended { SecurityReason::Suspended } else { SecurityReason::Revoked };
                Self::Decoy { reason, tenant: Some(tenant) }
            }
            Some(Lookup::Held { tenant, reason }) => {
                let reason = match reason {
                    HoldReason::SuspectedClone => SecurityReason::Quarantined,
                    HoldReason::RateLimited => SecurityReason::RateLimited,
                };
                Self::Decoy { reason, tenant: Some(tenant) }
            }
            Some(Lookup::Keys(_)) => Self::Decoy { reason: SecurityReason::UnknownDevice, tenant: None },
            None => Self::Unavailable,
        }
    }

    pub(crate) const fn known(&self) -> Option<&HandshakeKeys> {
        match self {
            Self::Known(keys) => Some(keys),
            _ => None,
        }
    }

    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self, Self::Known(_) | Self::Decoy { .. })
    }

    /// The keys to check a proof under, one that nobody has where there is none. However many there are, the check is the same
    /// work.
    pub(crate) fn candidates<'a>(&'a self, decoy: &'a Secret<32>) -> Candidates<'a> {
        let mut keys: [&[u8]; MAX_PSKS] = [decoy.expose(); MAX_PSKS];
        let known = self.known().map_or(&[][..], |keys| &keys.psks);
        for (candidate, (_, psk)) in keys.iter_mut().zip(known) {
            *candidate = psk.expose();
        }
        Candidates { keys, count: known.len().clamp(1, MAX_PSKS) }
    }

    /// What a failed proof is reported as, and whose the device is if it may be named.
    pub(crate) const fn failure(&self) -> (SecurityReason, Option<&TenantId>) {
        match self {
            Self::Decoy { reason, tenant } => (*reason, tenant.as_ref()),
            Self::Known(keys) => (SecurityReason::WrongKey, Some(&keys.tenant)),
            _ => (SecurityReason::WrongKey, None),
        }
    }
}

/// Up to [`MAX_PSKS`] keys, borrowed.
pub(crate) struct Candidates<'a> {
    keys: [&'a [u8]; MAX_PSKS],
    count: usize,
}

impl<'a> Candidates<'a> {
    pub(crate) fn as_slice(&self) -> &[&'a [u8]] {
        self.keys.get(..self.count).unwrap_or(&self.keys)
    }
}

#[cfg(test)]
mod tests {
    use sluice_types::{KeyEpoch, Psk};

    use super::*;

    #[test]
    fn a_device_that_may_not_connect_is_checked_under_a_key_that_nobody_has() {
        let decoy = Secret::new([9; 32]);
        let psk = Psk::new(&[1; 32]).expect("32 bytes");
        let keys = HandshakeKeys {
            state: DeviceState::Active,
            tenant: TenantId::default(),
            profile: sluice_store::Profile::Raw,
            psks: vec![(KeyEpoch(4), psk)],
        };
        let known = Keys::from_lookup(Some(Lookup::Keys(KeyLookup::Known(keys))));
        assert_eq!(known.candidates(&decoy).as_slice(), [&[1; 32]]);
        let unknown = Keys::from_lookup(Some(Lookup::Keys(KeyLookup::Unknown)));
        assert_eq!(unknown.candidates(&decoy).as_slice(), [&[9; 32]]);
        assert_eq!(unknown.failure(), (SecurityReason::UnknownDevice, None));
    }

    #[test]
    fn a_device_that_is_refused_for_a_time_is_checked_under_a_key_that_nobody_has() {
        let decoy = Secret::new([9; 32]);
        for (reason, reported) in [
            (HoldReason::SuspectedClone, SecurityReason::Quarantined),
            (HoldReason::RateLimited, SecurityReason::RateLimited),
        ] {
            let keys = Keys::from_lookup(Some(Lookup::Held { tenant: TenantId::default(), reason }));
            assert_eq!(keys.candidates(&decoy).as_slice(), [&[9; 32]]);
            assert_eq!(keys.failure(), (reported, Some(&TenantId::default())));
        }
    }

    #[test]
    fn a_store_that_is_away_is_nobodys_wrong_key() {
        assert!(!Keys::from_lookup(None).is_ready());
        let refused = KeyLookup::Refused { tenant: TenantId::default(), state: DeviceState::Revoked };
        assert_eq!(
            Keys::from_lookup(Some(Lookup::Keys(refused))).failure(),
            (SecurityReason::Revoked, Some(&TenantId::default()))
        );
    }
}
