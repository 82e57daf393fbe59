//! The secrets behind names of sessions, cookies, and answers to devices that nobody knows: those of all pods, or of this process alone.

use sluice_store::{ClusterSecrets, Purpose};
use usmp::Secret;

use crate::session_ids::SessionIds;
use crate::shard::random_secret;

/// Key ids that a ring has: as many as session ids can name.
const KEY_IDS: u8 = 16;

/// What a shard needs of them. They change while it runs.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) ids: SessionIds,
    pub(crate) cookies: CookieMasters,
    pub(crate) decoy: Secret<32>,
}

/// What cookies are made from, and what else they may have been made from: another pod may have changed to the next key a moment
/// before this one, or not yet.
#[derive(Debug)]
pub(crate) struct CookieMasters {
    pub(crate) current: Secret<32>,
    /// Of the key before and the key after.
    pub(crate) near: Vec<Secret<32>>,
}

impl CookieMasters {
    pub(crate) fn duplicate(&self) -> Self {
        Self { current: self.current.duplicate(), near: self.near.iter().map(Secret::duplicate).collect() }
    }
}

impl Secrets {
    /// Nobody else's; `None` when the system has no random bytes.
    pub(crate) fn own() -> Option<Self> {
        let cookies = CookieMasters { current: random_secret()?, near: Vec::new() };
        Some(Self { ids: SessionIds::new(random_secret()?, 0), cookies, decoy: random_secret()? })
    }

    /// Those of all pods; `None` when the ring has no key in force.
    pub(crate) fn shared(ring: &ClusterSecrets) -> Option<Self> {
        let current = ring.current_id();
        let of = |id, purpose| ring.secret(id, purpose).map(|secret| Secret::new(*secret.expose()));
        let mut ids = SessionIds::new(of(current, Purpose::SessionIdTag)?, current);
        // A session may outlive the key that made its name: that is still read, though the key is destroyed.
        for id in (0..KEY_IDS).filter(|&id| id != current) {
            if let Some(key) = of(id, Purpose::SessionIdTag) {
                ids.add(key, id);
            }
        }
        // Ids are given in a ring, one after the other.
        let near = [(current + 1) % KEY_IDS, (current + KEY_IDS - 1) % KEY_IDS];
        let cookies = CookieMasters {
            current: of(current, Purpose::Cookie)?,
            near: near.into_iter().filter_map(|id| of(id, Purpose::Cookie)).collect(),
        };
        Some(Self { ids, cookies, decoy: of(current, Purpose::Decoy)? })
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self { ids: self.ids.duplicate(), cookies: self.cookies.duplicate(), decoy: self.decoy.duplicate() }
    }
}
