//! Secrets that all pods of a deployment share: a ring of keys that rotates by itself.

pub(crate) mod ring;

use std::fmt;
use std::sync::{Arc, Mutex};

use self::ring::{KEY_IDS, Ring};
use crate::kek::KeyName;
use crate::record::next_version;
use crate::seal::{Keys, Name};
use crate::store::Store;
use crate::{RecordError, SecretKey, StoreError};

/// Rounds of read, change, compare-and-swap before a writer gives up against others.
const ATTEMPTS: u32 = 8;

/// What a secret of the ring is for. Secrets of different purposes tell nothing of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Tags in session ids. Kept after the key's end, until its id is given again (after about 15 rotations).
    SessionIdTag,
    /// Cookies of HELLO_RETRY.
    Cookie,
    /// Answers to devices that nobody knows.
    Decoy,
    /// The authority that signs the certificates of peer links.
    PeerCa,
    /// Session records.
    SessionRecord,
    /// Snapshots of slots.
    Snapshot,
}

impl Purpose {
    pub(crate) const fn label(self) -> &'static [u8] {
        match self {
            Self::SessionIdTag => b"session-id-tag",
            Self::Cookie => b"cookie",
            Self::Decoy => b"decoy",
            Self::PeerCa => b"peer-ca",
            Self::SessionRecord => b"session-record",
            Self::Snapshot => b"snapshot",
        }
    }
}

/// The ring as it was at one moment. Clones are cheap.
///
/// A key has an id of 0 to 15, which is public: session ids show it. Each is known to all pods for a while before it is in
/// force (`ahead`), and destroyed a while after the next one took its place (`keep`).
#[derive(Clone)]
pub struct ClusterSecrets {
    ring: Arc<Ring>,
    current: u8,
}

impl ClusterSecrets {
    fn new(ring: Ring, now: u64) -> Option<Self> {
        let current = ring.current(now)?.id;
        Some(Self { ring: Arc::new(ring), current })
    }

    /// The key to use now for anything new. 0 to 15; public.
    #[must_use]
    pub const fn current_id(&self) -> u8 {
        self.current
    }

    /// The ids of all keys that still open something, the one in force and the next one among them, in no order.
    pub fn ids(&self) -> impl Iterator<Item = u8> {
        self.ring.keys().iter().filter(|key| !key.is_destroyed()).map(|key| key.id)
    }

    /// The secret of a key for a purpose: `HKDF-Expand(key, purpose || 0x00, 32)`. `None` when there is no such key, or it
    /// was destroyed ([`Purpose::SessionIdTag`] outlives it).
    #[must_use]
    pub fn secret(&self, id: u8, purpose: Purpose) -> Option<SecretKey> {
        self.ring.key(id)?.secret(purpose)
    }

    /// Grows with every change: compare it to know whether anything is to be taken over.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.ring.version
    }

    /// A ring that no store knows.
    #[cfg(test)]
    pub(crate) fn golden() -> Self {
        Self::new(Ring::golden(), u64::MAX).expect("a key in force")
    }

    pub(crate) const fn keys_for(&self, purpose: Purpose) -> RingKeys<'_> {
        RingKeys { secrets: self, purpose }
    }
}

impl fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.ids().collect();
        f.debug_struct("ClusterSecrets")
            .field("version", &self.version())
            .field("current", &self.current)
            .field("ids", &ids)
            .finish_non_exhaustive()
    }
}

/// The ring's keys of one purpose, as keys that seal.
#[derive(Clone, Copy)]
pub(crate) struct RingKeys<'a> {
    secrets: &'a ClusterSecrets,
    purpose: Purpose,
}

impl Keys for RingKeys<'_> {
    const REVISION: u32 = 2;

    fn current(&self) -> KeyName {
        self.secrets.ring.key(self.secrets.current).map_or(KeyName([0; 8]), |key| key.name)
    }

    fn subkey(&self, key: KeyName, name: Name<'_>) -> Result<SecretKey, RecordError> {
        let secret = self.secrets.ring.key_named(key).and_then(|key| key.secret(self.purpose));
        let secret = secret.ok_or_else(|| RecordError::KeyDestroyed { name: key.to_string() })?;
        let mut info = vec![name.purpose.as_bytes(), &[0]];
        info.extend_from_slice(name.parts);
        let mut subkey = SecretKey::new([0; 32]);
        ring::expand(&secret, &info, subkey.expose_mut());
        Ok(subkey)
    }
}

/// The ring that this process knows: what it puts back when the store loses it.
#[derive(Default)]
pub(crate) struct KnownRing(Mutex<Option<ClusterSecrets>>);

impl KnownRing {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ClusterSecrets>> {
        // Written as a whole, so a poisoned lock is as good as another.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Option<ClusterSecrets> {
        self.lock().clone()
    }

    /// Of two reads that overlapped the one of the later version stays.
    fn remember(&self, secrets: &ClusterSecrets) {
        let mut known = self.lock();
        if known.as_ref().is_none_or(|known| known.version() <= secrets.version()) {
            *known = Some(secrets.clone());
        }
    }
}

impl Store {
    /// Reads the ring; makes it when there is none, adds the next key and destroys an old one when that is due, and puts back
    /// what the store lost and this process still knows.
    ///
    /// One small read when nothing is to be done: call it every few seconds, at least twice in `store.cluster_keys.ahead`, so
    /// that no pod meets a key it does not know. On an error go on with the secrets at hand.
    ///
    /// The time is the store's, so that pods whose clocks differ agree.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] when the ring was sealed under an unknown key-encryption key or by a newer release;
    /// [`StoreError::Contended`]; [`StoreError`].
    pub async fn cluster_secrets(&self) -> Result<ClusterSecrets, StoreError> {
        let mut unknown = false;
        for _ in 0..ATTEMPTS {
            let (now, stored) = self.backend.read_ring().await?;
            let expected = stored.as_ref().map_or(0, |stored| stored.version);
            let found = match stored.map(|stored| Ring::decode(&self.kek, &stored)).transpose() {
                Ok(found) => found,
                Err(source @ (RecordError::UnknownKek { .. } | RecordError::TooNew { .. })) => {
                    return Err(StoreError::Record { record: "the ring of the cluster".to_owned(), source });
                }
                // Who can change it can also delete it: made anew, or put back by who knows it.
                Err(error) => {
                    self.distrust("the ring of the cluster", &error);
                    None
                }
            };
            let mine = self.ring.get().map(|secrets| Ring::clone(&secrets.ring));
            let mut ring = match (mine, found.clone()) {
                (Some(mine), Some((found, _))) => mine.merged(found),
                (Some(ring), None) | (None, Some((ring, _))) => ring,
                (None, None) => Ring::first(now).map_err(StoreError::Randomness)?,
            };
            ring.advance(now, &self.cluster_keys).map_err(StoreError::Randomness)?;
            let same = found.filter(|(found, current_kek)| *current_kek && found.same_keys(&ring));
            if let Some((found, _)) = same {
                return self.remember_ring(found, now);
            }
            ring.version = next_version(expected.max(ring.version), now);
            let blob = ring.encode(&self.kek).map_err(StoreError::Randomness)?;
            match self.backend.swap_ring(expected, ring.version, blob).await {
                Ok(true) => return self.remember_ring(ring, now),
                Ok(false) => unknown = false,
                // One look back; a store that stays silent is reported.
                Err(StoreError::Timeout | StoreError::Unavailable { .. }) if !unknown => unknown = true,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Contended)
    }

    fn remember_ring(&self, ring: Ring, now: u64) -> Result<ClusterSecrets, StoreError> {
        let secrets = ClusterSecrets::new(ring, now).ok_or(StoreError::Contended)?;
        self.ring.remember(&secrets);
        Ok(secrets)
    }

    /// The secrets at hand, read now when there are none yet.
    pub(crate) async fn known_secrets(&self) -> Result<ClusterSecrets, StoreError> {
        match self.ring.get() {
            Some(secrets) => Ok(secrets),
            None => self.cluster_secrets().await,
        }
    }
}

const _: () = assert!(KEY_IDS == 16, "session ids have 4 bits for the key");
