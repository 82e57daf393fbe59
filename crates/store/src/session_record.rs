//! The stored form of a session record.

use prost::Message;
use sluice_proto::store::v1 as proto;
use sluice_types::{DeviceEpoch, DeviceId, KeyEpoch, SessionId, Timestamp};
use zeroize::{Zeroize, Zeroizing};

use crate::cluster::{ClusterSecrets, Purpose};
use crate::kek::KekRing;
use crate::record::{decode_profile, encode_profile};
use crate::seal::{self, Keys, Name, check_revision};
use crate::session::{LastRekey, SessionKeys, SessionRecord};
use crate::{RecordError, SecretKey};

/// Schema revision written; the first one was sealed under the key-encryption key and is still read.
const REVISION: u32 = 2;
const SESSION: &str = "sluice/session";

fn with_name<R>(device: DeviceId, session: SessionId, epoch: u32, with: impl FnOnce(Name<'_>) -> R) -> R {
    let epoch = epoch.to_be_bytes();
    with(Name { purpose: SESSION, parts: &[device.as_bytes(), session.as_bytes(), &epoch] })
}

/// Seals a session record under a subkey of its own, bound to device, session and re-key epoch.
pub(crate) fn seal_session(secrets: &ClusterSecrets, record: &SessionRecord) -> std::io::Result<Vec<u8>> {
    let mut message = proto::SessionRecord {
        revision: REVISION,
        session: record.session.as_bytes().to_vec(),
        device: record.device.as_bytes().to_vec(),
        tenant: record.tenant.as_str().to_owned(),
        profile: encode_profile(record.profile).into(),
        device_epoch: record.device_epoch.0,
        rekey_epoch: record.rekey_epoch,
        current: Some(encode_keys(&record.current)),
        previous: record.previous.as_ref().map(encode_keys),
        last_rekey: Vec::new(),
        key_epoch: record.key_epoch.0,
        opened_unix_ms: record.opened.as_millis(),
        birth_generation: record.birth_generation,
        answered: record.last_rekey.as_ref().map(|rekey| proto::LastRekey {
            old_c2s: rekey.old_c2s.expose().to_vec(),
            fingerprint: rekey.fingerprint.to_vec(),
            seq: rekey.seq,
            at_unix_ms: rekey.at.as_millis(),
        }),
    };
    let mut plain = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
    message.encode_raw(&mut *plain);
    wipe(&mut message);
    let keys = secrets.keys_for(Purpose::SessionRecord);
    let sealed =
        with_name(record.device, record.session, record.rekey_epoch, |name| seal::seal(&keys, name, &plain))?;
    Ok(sealed.encode_to_vec())
}

/// Opens a session record stored for `device`, `session` and re-key epoch `epoch`.
pub(crate) fn open_session(
    kek: &KekRing,
    secrets: &ClusterSecrets,
    device: DeviceId,
    session: SessionId,
    epoch: u32,
    blob: &[u8],
) -> Result<SessionRecord, RecordError> {
    let sealed = proto::Sealed::decode(blob).map_err(|_| RecordError::Malformed)?;
    let keys = secrets.keys_for(Purpose::SessionRecord);
    let plain = with_name(device, session, epoch, |name| {
        if sealed.revision == KekRing::REVISION {
            seal::open(kek, name, &sealed)
        } else {
            seal::open(&keys, name, &sealed)
        }
    })?;
    let mut message = proto::SessionRecord::decode(plain.as_slice()).map_err(|_| RecordError::Malformed)?;
    let record = decode(&message, device, session, epoch);
    wipe(&mut message);
    record
}

fn decode(
    message: &proto::SessionRecord,
    device: DeviceId,
    session: SessionId,
    epoch: u32,
) -> Result<SessionRecord, RecordError> {
    check_revision(message.revision, REVISION)?;
    if message.device != device.as_bytes() || message.session != session.as_bytes() {
        return Err(RecordError::Swapped);
    }
    if message.rekey_epoch != epoch {
        return Err(RecordError::Malformed);
    }
    Ok(SessionRecord {
        session,
        device,
        tenant: message.tenant.parse().map_err(|_| RecordError::Malformed)?,
        profile: decode_profile(message.profile())?,
        device_epoch: DeviceEpoch(message.device_epoch),
        rekey_epoch: message.rekey_epoch,
        birth_generation: message.birth_generation,
        current: decode_keys(message.current.as_ref().ok_or(RecordError::Malformed)?)?,
        previous: message.previous.as_ref().map(decode_keys).transpose()?,
        // Revision 1 kept what cannot be answered from: its repeat gets silence, and the device opens a new session.
        last_rekey: message.answered.as_ref().map(decode_rekey).transpose()?,
        key_epoch: KeyEpoch(message.key_epoch),
        opened: Timestamp(message.opened_unix_ms),
    })
}

fn encode_keys(keys: &SessionKeys) -> proto::SessionKeys {
    proto::SessionKeys { c2s: keys.c2s.expose().to_vec(), s2c: keys.s2c.expose().to_vec() }
}

fn decode_keys(keys: &proto::SessionKeys) -> Result<SessionKeys, RecordError> {
    Ok(SessionKeys { c2s: key(&keys.c2s)?, s2c: key(&keys.s2c)? })
}

fn decode_rekey(message: &proto::LastRekey) -> Result<LastRekey, RecordError> {
    Ok(LastRekey {
        old_c2s: key(&message.old_c2s)?,
        fingerprint: message.fingerprint.as_slice().try_into().map_err(|_| RecordError::Malformed)?,
        seq: message.seq,
        at: Timestamp(message.at_unix_ms),
    })
}

fn key(bytes: &[u8]) -> Result<SecretKey, RecordError> {
    SecretKey::from_slice(bytes).ok_or(RecordError::Malformed)
}

/// Generated messages do not wipe themselves.
fn wipe(message: &mut proto::SessionRecord) {
    for keys in message.current.iter_mut().chain(message.previous.iter_mut()) {
        keys.c2s.zeroize();
        keys.s2c.zeroize();
    }
    message.answered.iter_mut().for_each(|rekey| rekey.old_c2s.zeroize());
}
