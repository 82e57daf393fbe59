use hkdf::Hkdf;
use sha2::Sha256;
use sluice_types::{DeviceId, KeyEpoch, Psk};

use crate::SecretKey;

const SALT: &[u8] = b"sluice-derived-psk-v1";

/// The key of one device, derived from its tenant's root:
///
/// ```text
/// PSK = HKDF-SHA256(salt = "sluice-derived-psk-v1" (21 ASCII bytes),
///                   ikm  = tenant root (32 bytes),
///                   info = key epoch (u32, big endian) || device id (6 bytes),
///                   L    = 32)
/// ```
///
/// A factory can compute the same with any HKDF; `crates/store/tests/vectors/derived-keys.json` has examples. Whoever has the
/// root has every device of the tenant.
///
/// ```
/// # use sluice_store::{SecretKey, derived_psk};
/// # use sluice_types::KeyEpoch;
/// let root = SecretKey::new([0x42; 32]);
/// let psk = derived_psk(&root, KeyEpoch(1), "02a1b2c3d4e5".parse()?);
/// assert_eq!(psk.expose().len(), 32);
/// # Ok::<(), sluice_types::DeviceIdError>(())
/// ```
#[must_use]
pub fn derived_psk(root: &SecretKey, epoch: KeyEpoch, device: DeviceId) -> Psk {
    let mut psk = SecretKey::new([0; 32]);
    Hkdf::<Sha256>::new(Some(SALT), root.expose())
        .expand_multi_info(&[&epoch.0.to_be_bytes(), device.as_bytes()], psk.expose_mut())
        .expect("32 bytes are under the limit of HKDF");
    Psk::new(psk.expose()).expect("32 bytes, and none of the published keys has that length")
}
