//! The ring as stored: which keys there are, when they change, and what becomes of two versions of it. No clock, no store.

use std::time::Duration;

use hkdf::Hkdf;
use prost::Message;
use sha2::Sha256;
use sluice_proto::store::v1 as proto;
use zeroize::{Zeroize, Zeroizing};

use crate::config::ClusterKeysConfig;
use crate::kek::{KekRing, KeyName};
use crate::record::Stored;
use crate::seal::{self, Name, check_revision};
use crate::{RecordError, SecretKey};

/// Key ids, since session ids have 4 bits for them.
pub(crate) const KEY_IDS: u8 = 16;
/// Schema revision of the message.
const REVISION: u32 = 1;
const PURPOSE: &str = "sluice/cluster-secrets";
const SALT: &[u8] = b"sluice-cluster-v1";

/// The keys by id, at most one for each.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Ring {
    pub(crate) version: u64,
    keys: Vec<RingKey>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RingKey {
    pub(crate) id: u8,
    pub(crate) name: KeyName,
    /// Times in ms of the store's clock.
    created: u64,
    active_from: u64,
    /// `HKDF-Extract(salt = "sluice-cluster-v1", ikm = 32 random bytes)`; `None` once it was destroyed.
    root: Option<SecretKey>,
    /// Kept after the root, so that the id of a session that outlives the key is still told from a guess. It opens nothing.
    tag: SecretKey,
}

impl RingKey {
    fn generate(id: u8, created: u64, active_from: u64) -> std::io::Result<Self> {
        let random = SecretKey::generate()?;
        let (mut prk, _) = Hkdf::<Sha256>::extract(Some(SALT), random.expose());
        let root = SecretKey::new(prk.into());
        prk.as_mut_slice().zeroize();
        let mut name = [0; 8];
        // Public: what sealed values refer to their key by.
        expand(&root, &[b"key id"], &mut name);
        let mut tag = SecretKey::new([0; 32]);
        expand(&root, &[super::Purpose::SessionIdTag.label(), &[0]], tag.expose_mut());
        Ok(Self { id, name: KeyName(name), created, active_from, root: Some(root), tag })
    }

    pub(crate) const fn is_destroyed(&self) -> bool {
        self.root.is_none()
    }

    /// `HKDF-Expand(root, purpose || 0x00, 32)`; for the tag what was derived so when the key was made.
    pub(crate) fn secret(&self, purpose: super::Purpose) -> Option<SecretKey> {
        if purpose == super::Purpose::SessionIdTag {
            return Some(self.tag.clone());
        }
        let root = self.root.as_ref()?;
        let mut secret = SecretKey::new([0; 32]);
        expand(root, &[purpose.label(), &[0]], secret.expose_mut());
        Some(secret)
    }
}

pub(crate) fn expand(key: &SecretKey, info: &[&[u8]], out: &mut [u8]) {
    let expand = Hkdf::<Sha256>::from_prk(key.expose()).expect("32 bytes are a PRK of SHA-256");
    expand.expand_multi_info(info, out).expect("32 bytes are under the limit of HKDF");
}

impl Ring {
    /// A ring of one key, in force at once. Its id is drawn, so that two first rings made in ignorance of each other mostly
    /// join without loss.
    pub(crate) fn first(now: u64) -> std::io::Result<Self> {
        let mut id = [0];
        getrandom::fill(&mut id)?;
        Ok(Self { version: 0, keys: vec![RingKey::generate(id[0] % KEY_IDS, now, now)?] })
    }

    pub(crate) fn keys(&self) -> &[RingKey] {
        &self.keys
    }

    pub(crate) fn key(&self, id: u8) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(crate) fn key_named(&self, name: KeyName) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key in force: the last one whose time has come, or the first one when a clock fell behind all of them.
    pub(crate) fn current(&self, now: u64) -> Option<&RingKey> {
        let usable = || self.keys.iter().filter(|key| !key.is_destroyed());
        let begun = usable().filter(|key| key.active_from <= now).max_by_key(|key| key.order());
        begun.or_else(|| usable().min_by_key(|key| key.order()))
    }

    /// Does what is due: adds the next key ahead of its time, destroys those that nothing may be sealed under any more.
    pub(crate) fn advance(&mut self, now: u64, settings: &ClusterKeysConfig) -> std::io::Result<()> {
        for index in 0..self.keys.len() {
            let successor = self.keys.iter().filter(|key| key.order() > self.keys[index].order());
            let retired = successor.map(|key| key.active_from).min();
            if retired.is_some_and(|at| at.saturating_add(millis(settings.keep)) <= now) {
                self.keys[index].root = None;
            }
        }
        let Some(newest) = self.keys.iter().max_by_key(|key| key.order()) else { return Ok(()) };
        let due = newest.created.saturating_add(millis(settings.rotate_after)) <= now;
        if due && newest.active_from <= now {
            let id = (newest.id + 1) % KEY_IDS;
            // An id that still opens something is not given again: the rotation waits.
            if self.key(id).is_none_or(RingKey::is_destroyed) {
                self.keys.retain(|key| key.id != id);
                self.keys.push(RingKey::generate(id, now, now.saturating_add(millis(settings.ahead)))?);
            }
        }
        Ok(())
    }

    /// What both know. Where they disagree the one of the higher version counts, except that a destroyed key stays destroyed.
    ///
    /// So a pod puts back what the store lost or what was rolled back, and pods of an emptied store keep the secrets of their
    /// live sessions beside those of a ring that was made anew meanwhile.
    pub(crate) fn merged(self, other: Self) -> Self {
        let (older, mut newer) = if self.version > other.version { (other, self) } else { (self, other) };
        for key in older.keys {
            match newer.keys.iter_mut().find(|known| known.id == key.id) {
                None => newer.keys.push(key),
                Some(known) if known.name == key.name && key.is_destroyed() => known.root = None,
                Some(_) => {}
            }
        }
        newer.keys.sort_unstable_by_key(|key| key.id);
        newer
    }

    pub(crate) fn same_keys(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len()
            && self.keys.iter().all(|key| other.key(key.id).is_some_and(|known| known == key))
    }

    pub(crate) fn encode(&self, kek: &KekRing) -> std::io::Result<Vec<u8>> {
        let mut message = proto::ClusterSecrets {
            revision: REVISION,
            version: self.version,
            keys: self.keys.iter().map(RingKey::encode).collect(),
        };
        let mut plain = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
        message.encode_raw(&mut *plain);
        message.keys.iter_mut().for_each(wipe);
        with_name(self.version, |name| seal::seal(kek, name, &plain)).map(|sealed| sealed.encode_to_vec())
    }

    /// Also says whether it is sealed under the current key-encryption key.
    pub(crate) fn decode(kek: &KekRing, stored: &Stored) -> Result<(Self, bool), RecordError> {
        let sealed = proto::Sealed::decode(stored.blob.as_slice()).map_err(|_| RecordError::Malformed)?;
        let plain = with_name(stored.version, |name| seal::open(kek, name, &sealed))?;
        let mut message =
            proto::ClusterSecrets::decode(plain.as_slice()).map_err(|_| RecordError::Malformed)?;
        let ring = Self::read(&message, stored.version);
        message.keys.iter_mut().for_each(wipe);
        Ok((ring?, sealed.kek_id == kek.current_id().0))
    }

    fn read(message: &proto::ClusterSecrets, version: u64) -> Result<Self, RecordError> {
        check_revision(message.revision, REVISION)?;
        if message.version != version || message.keys.is_empty() {
            return Err(RecordError::Malformed);
        }
        let mut ring = Self { version, keys: Vec::with_capacity(message.keys.len().min(KEY_IDS.into())) };
        for key in &message.keys {
            let key = RingKey::decode(key)?;
            if ring.key(key.id).is_some() {
                return Err(RecordError::Malformed);
            }
            ring.keys.push(key);
        }
        if ring.keys.iter().all(RingKey::is_destroyed) {
            return Err(RecordError::Malformed);
        }
        Ok(ring)
    }
}

impl RingKey {
    /// Later keys are greater; the name decides between two of the same moment, so that all pods choose alike.
    const fn order(&self) -> (u64, u64, u64) {
        (self.active_from, self.created, u64::from_be_bytes(self.name.0))
    }

    fn encode(&self) -> proto::ClusterKey {
        proto::ClusterKey {
            id: self.id.into(),
            created_unix_ms: i64::try_from(self.created).unwrap_or(i64::MAX),
            active_from_unix_ms: i64::try_from(self.active_from).unwrap_or(i64::MAX),
            root: self.root.as_ref().map(|root| root.expose().to_vec()).unwrap_or_default(),
            tag: self.tag.expose().to_vec(),
            name: self.name.0.to_vec(),
        }
    }

    fn decode(message: &proto::ClusterKey) -> Result<Self, RecordError> {
        let id = u8::try_from(message.id).ok().filter(|id| *id < KEY_IDS).ok_or(RecordError::Malformed)?;
        let time = |millis: i64| u64::try_from(millis).map_err(|_| RecordError::Malformed);
        let key = |bytes: &[u8]| SecretKey::from_slice(bytes).ok_or(RecordError::Malformed);
        Ok(Self {
            id,
            name: message.name.as_slice().try_into().map(KeyName).map_err(|_| RecordError::Malformed)?,
            created: time(message.created_unix_ms)?,
            active_from: time(message.active_from_unix_ms)?,
            root: if message.root.is_empty() { None } else { Some(key(&message.root)?) },
            tag: key(&message.tag)?,
        })
    }
}

fn with_name<R>(version: u64, with: impl FnOnce(Name<'_>) -> R) -> R {
    with(Name { purpose: PURPOSE, parts: &[&version.to_be_bytes()] })
}

/// Generated messages do not wipe themselves.
fn wipe(key: &mut proto::ClusterKey) {
    key.root.zeroize();
    key.tag.zeroize();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl Ring {
    /// What the golden bytes hold: a key in force, and one that was destroyed.
    pub(crate) fn golden() -> Self {
        let key = |id: u8, created, root| RingKey {
            id,
            name: KeyName([id; 8]),
            created,
            active_from: created + 60_000,
            root,
            tag: SecretKey::new([0x70 + id; 32]),
        };
        let root = Some(SecretKey::new([0x7f; 32]));
        let keys = vec![key(3, 1_764_000_000_000, None), key(4, 1_764_086_400_000, root)];
        Self { version: 1_764_086_400_000, keys }
    }
}

#[cfg(test)]
mod ring_tests {
    use proptest::prelude::*;

    use super::super::Purpose;
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn settings() -> ClusterKeysConfig {
        ClusterKeysConfig {
            rotate_after: Duration::from_secs(24 * 3600),
            keep: Duration::from_secs(3 * 3600),
            ahead: Duration::from_secs(60),
        }
    }

    fn ring(now: u64) -> Ring {
        Ring::first(now).expect("randomness")
    }

    fn advanced(ring: &Ring, now: u64) -> Ring {
        let mut next = ring.clone();
        next.advance(now, &settings()).expect("randomness");
        next
    }

    fn current(ring: &Ring, now: u64) -> u8 {
        ring.current(now).expect("a key").id
    }

    #[test]
    fn the_next_key_is_known_before_it_is_used_and_the_last_one_is_destroyed_after() {
        let first = ring(0);
        let old = current(&first, 0);
        assert!(advanced(&first, 24 * HOUR - 1).same_keys(&first), "nothing is due");
        let rotated = advanced(&first, 24 * HOUR);
        let new = (old + 1) % KEY_IDS;
        assert!(rotated.key(new).is_some(), "every pod that looks now knows it");
        assert_eq!(current(&rotated, 24 * HOUR + 59_999), old);
        assert_eq!(current(&rotated, 24 * HOUR + 60_000), new);
        let kept = advanced(&rotated, 27 * HOUR + 59_999);
        assert!(kept.same_keys(&rotated), "records under the old key still open");
        let gone = advanced(&rotated, 27 * HOUR + 60_000);
        let destroyed = gone.key(old).expect("its tag stays");
        assert!(destroyed.is_destroyed());
        assert_eq!(destroyed.secret(Purpose::SessionRecord), None);
        let before = first.key(old).expect("there").secret(Purpose::SessionIdTag);
        assert_eq!(destroyed.secret(Purpose::SessionIdTag), before);
    }

    #[test]
    fn an_id_is_given_again_only_after_its_key_was_destroyed() {
        let keep = Duration::from_secs(17 * 24 * 3600);
        let slow = ClusterKeysConfig { keep, ..settings() };
        let mut ring = ring(0);
        for day in 1..=40 {
            ring.advance(day * 24 * HOUR, &slow).expect("randomness");
            assert!(ring.keys.len() <= 16, "day {day}: {} keys", ring.keys.len());
        }
        let mut ids: Vec<_> = ring.keys.iter().map(|key| key.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ring.keys.len());
    }

    #[test]
    fn a_rotation_waits_while_every_id_still_opens_something() {
        let forever = ClusterKeysConfig { keep: Duration::from_secs(u64::MAX / 2000), ..settings() };
        let first = ring(0);
        let mut ring = first.clone();
        for day in 1..=40 {
            ring.advance(day * 24 * HOUR, &forever).expect("randomness");
        }
        assert_eq!(ring.keys.len(), 16);
        assert!(ring.key_named(first.keys[0].name).is_some(), "the first key still opens its records");
        assert!(ring.keys.iter().all(|key| !key.is_destroyed()));
    }

    #[test]
    fn a_clock_that_fell_back_changes_nothing() {
        let first = ring(100 * HOUR);
        let rotated = advanced(&first, 124 * HOUR);
        let early = advanced(&rotated, 0);
        assert!(early.same_keys(&rotated));
        assert_eq!(current(&early, 0), current(&first, 100 * HOUR));
    }

    #[test]
    fn a_key_that_one_side_destroyed_does_not_come_back_from_an_older_version() {
        let first = Ring { version: 1, ..ring(0) };
        let rotated = Ring { version: 2, ..advanced(&first, 24 * HOUR) };
        let gone = Ring { version: 3, ..advanced(&rotated, 30 * HOUR) };
        for (one, other) in [(gone.clone(), rotated.clone()), (rotated.clone(), gone.clone())] {
            assert!(one.merged(other).same_keys(&gone));
        }
        // Not even by somebody who raises the version of the old one.
        let raised = Ring { version: 9, ..rotated };
        assert!(gone.clone().merged(raised).same_keys(&gone));
    }

    #[test]
    fn rings_made_apart_join_and_the_newest_key_is_in_force() {
        let mine = Ring { version: 1, ..ring(0) };
        let mut other = Ring { version: 2, ..ring(HOUR) };
        other.keys[0].id = (mine.keys[0].id + 7) % KEY_IDS;
        let joined = mine.clone().merged(other.clone());
        assert_eq!(joined.keys.len(), 2);
        assert_eq!(current(&joined, HOUR), other.keys[0].id);
        assert!(joined.key(mine.keys[0].id).is_some_and(|key| *key == mine.keys[0]));
    }

    proptest! {
        #[test]
        fn at_any_pace_there_is_one_key_in_force_and_no_id_twice(
            steps in proptest::collection::vec(0u64..40 * HOUR, 1..60),
        ) {
            let (mut now, mut ring) = (0, ring(0));
            for step in steps {
                now += step;
                let before = ring.current(now).expect("a key").name;
                ring.advance(now, &settings()).expect("randomness");
                let usable = ring.current(now).expect("a key");
                prop_assert!(!usable.is_destroyed());
                // Every pod that read the ring before knows the key that seals now.
                prop_assert_eq!(usable.name, before);
                for id in 0..KEY_IDS {
                    prop_assert!(ring.keys.iter().filter(|key| key.id == id).count() <= 1);
                }
            }
        }
    }
}
