//! The two envelopes of stored values: authenticated in clear, and sealed.
//!
//! What an envelope is bound to, its [`Name`], is not stored in it but given by the reader, so a value moved to another name does
//! not open there.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use sluice_proto::store::v1::{Authenticated, Sealed};
use zeroize::Zeroizing;

use crate::kek::{KekRing, KeyName};
use crate::{RecordError, SecretKey};

/// Revision of what is authenticated, and of what is sealed under a key-encryption key.
const REVISION: u32 = 1;
const NONCE: usize = 12;
const TAG: usize = 16;

/// What a value is and whose: the purpose of its subkey, and parts that are unique within that purpose.
///
/// For one purpose every part has a fixed length, except the last; so different parts never join to the same bytes.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) purpose: &'static str,
    pub(crate) parts: &'a [&'a [u8]],
}

impl Name<'_> {
    /// Associated data: `purpose || 0x00 || envelope revision, u32 BE || key id || parts`.
    fn bind(&self, revision: u32, key: KeyName, mut update: impl FnMut(&[u8])) {
        update(self.purpose.as_bytes());
        update(&[0]);
        update(&revision.to_be_bytes());
        update(&key.0);
        self.parts.iter().for_each(|part| update(part));
    }
}

/// Keys that seal: those of the key file, or those of the cluster's ring. What one kind sealed never opens under the other.
pub(crate) trait Keys {
    /// Revision of the envelope, which says which kind of keys it is.
    const REVISION: u32;

    /// The key that seals now.
    fn current(&self) -> KeyName;

    /// The subkey of a key for a name.
    ///
    /// # Errors
    ///
    /// The key is not there (any more).
    fn subkey(&self, key: KeyName, name: Name<'_>) -> Result<SecretKey, RecordError>;
}

impl Keys for KekRing {
    const REVISION: u32 = REVISION;

    fn current(&self) -> KeyName {
        self.current_id()
    }

    fn subkey(&self, key: KeyName, name: Name<'_>) -> Result<SecretKey, RecordError> {
        self.subkey(key, name.purpose, name.parts)
            .ok_or_else(|| RecordError::UnknownKek { kek_id: key.to_string() })
    }
}

/// Seals `plain` under the current key, bound to `name`. The subkey belongs to the name alone, so a random nonce is enough.
pub(crate) fn seal<K: Keys>(keys: &K, name: Name<'_>, plain: &[u8]) -> std::io::Result<Sealed> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce)?;
    let key = keys.current();
    let subkey = keys.subkey(key, name).expect("the current key is in its own ring");
    // Room for the tag, so that no copy of the plain text is left behind by growing.
    let mut text = Vec::with_capacity(plain.len() + TAG);
    text.extend_from_slice(plain);
    let mut aad = Vec::new();
    name.bind(K::REVISION, key, |part| aad.extend_from_slice(part));
    let tag = cipher(&subkey)
        .encrypt_inout_detached(&Nonce::from(nonce), &aad, text.as_mut_slice().into())
        .expect("stored values are far below the limits of AES-GCM");
    text.extend_from_slice(&tag);
    Ok(Sealed { revision: K::REVISION, kek_id: key.0.to_vec(), nonce: nonce.to_vec(), ciphertext: text })
}

/// Opens what [`seal`] made for the same name.
pub(crate) fn open<K: Keys>(
    keys: &K,
    name: Name<'_>,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    check_revision(sealed.revision, K::REVISION)?;
    if sealed.revision != K::REVISION {
        return Err(RecordError::Malformed);
    }
    let key = key_name(&sealed.kek_id)?;
    let nonce: [u8; NONCE] = sealed.nonce.as_slice().try_into().map_err(|_| RecordError::Malformed)?;
    let (text, tag) = sealed.ciphertext.split_last_chunk::<TAG>().ok_or(RecordError::Malformed)?;
    let subkey = keys.subkey(key, name)?;
    let mut aad = Vec::new();
    name.bind(K::REVISION, key, |part| aad.extend_from_slice(part));
    let mut plain = Zeroizing::new(text.to_vec());
    cipher(&subkey)
        .decrypt_inout_detached(&Nonce::from(nonce), &aad, plain.as_mut_slice().into(), &(*tag).into())
        .map_err(|_| RecordError::Tampered)?;
    Ok(plain)
}

/// Authenticates an encoded message, readable in clear, as one of `purpose`. Whose it is must be in the message itself and be
/// checked by the reader: so a value of another name is told from a forged one.
pub(crate) fn authenticate(ring: &KekRing, purpose: &'static str, body: Vec<u8>) -> Vec<u8> {
    let kek = ring.current_id();
    let name = Name { purpose, parts: &[] };
    let subkey = Keys::subkey(ring, kek, name).expect("the current key is in its own ring");
    let mac = mac(&subkey, name, kek, &body).finalize().into_bytes().to_vec();
    Authenticated { revision: REVISION, kek_id: kek.0.to_vec(), body, mac }.encode_to_vec()
}

/// Checks what [`authenticate`] made and gives the message back.
pub(crate) fn verify(ring: &KekRing, purpose: &'static str, stored: &[u8]) -> Result<Vec<u8>, RecordError> {
    let envelope = Authenticated::decode(stored).map_err(|_| RecordError::Malformed)?;
    check_revision(envelope.revision, REVISION)?;
    let kek = key_name(&envelope.kek_id)?;
    let name = Name { purpose, parts: &[] };
    let subkey = Keys::subkey(ring, kek, name)?;
    mac(&subkey, name, kek, &envelope.body).verify_slice(&envelope.mac).map_err(|_| RecordError::Tampered)?;
    Ok(envelope.body)
}

/// The key that an authenticated value says it was made under, unchecked.
pub(crate) fn key_of(stored: &[u8]) -> Option<KeyName> {
    key_name(&Authenticated::decode(stored).ok()?.kek_id).ok()
}

/// Refuses what a newer release wrote, and what no release wrote.
pub(crate) fn check_revision(found: u32, ours: u32) -> Result<(), RecordError> {
    match found {
        0 => Err(RecordError::Malformed),
        revision if revision > ours => Err(RecordError::TooNew { revision }),
        _ => Ok(()),
    }
}

fn cipher(key: &SecretKey) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}

fn mac(key: &SecretKey, name: Name<'_>, kek: KeyName, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    name.bind(REVISION, kek, |part| mac.update(part));
    mac.update(body);
    mac
}

fn key_name(bytes: &[u8]) -> Result<KeyName, RecordError> {
    bytes.try_into().map(KeyName).map_err(|_| RecordError::Malformed)
}
