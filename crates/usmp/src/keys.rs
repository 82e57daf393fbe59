use crate::crypto::Provider;
use crate::wire::{FrameType, MAGIC, VERSION};
use crate::{DeviceId, Secret, SessionId};

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The client, c.
    Device,
    /// The server, s.
    Server,
}

/// The two keys of a session; each seals one direction and keys the UTACKs for it.
#[derive(Debug)]
pub struct SessionKeys {
    /// Device to server.
    pub c2s: Secret<32>,
    /// Server to device.
    pub s2c: Secret<32>,
}

impl SessionKeys {
    /// A second copy, which is wiped on its own.
    #[must_use]
    pub const fn duplicate(&self) -> Self {
        Self { c2s: self.c2s.duplicate(), s2c: self.s2c.duplicate() }
    }
}

const fn label(frame_type: FrameType) -> [u8; 4] {
    let [m0, m1] = MAGIC;
    [m0, m1, VERSION, frame_type.code()]
}

/// `HMAC(PSK, CD AB 02 03 || nonce || device_id || pub_C || pub_S)` (WIRE.md section 5).
#[must_use]
pub fn client_proof<P: Provider>(
    psk: &[u8],
    nonce: &[u8; 32],
    device_id: DeviceId,
    pub_c: &[u8; 32],
    pub_s: &[u8; 32],
) -> [u8; 32] {
    P::hmac_sha256(psk, &[&label(FrameType::HelloAck), nonce, &device_id.0, pub_c, pub_s])
}

/// `HMAC(PSK, CD AB 02 04 || nonce || session_id || pub_C || pub_S)` (WIRE.md section 5).
#[must_use]
pub fn server_proof<P: Provider>(
    psk: &[u8],
    nonce: &[u8; 32],
    session_id: SessionId,
    pub_c: &[u8; 32],
    pub_s: &[u8; 32],
) -> [u8; 32] {
    P::hmac_sha256(psk, &[&label(FrameType::SessionOk), nonce, &session_id.0, pub_c, pub_s])
}

/// `HKDF(salt = nonce, ikm = shared, info = "usmp-v2" || pub_C || pub_S, L = 64)` (WIRE.md section 5).
#[must_use]
pub fn session_keys<P: Provider>(
    shared: &Secret<32>,
    nonce: &[u8; 32],
    pub_c: &[u8; 32],
    pub_s: &[u8; 32],
) -> SessionKeys {
    let (c2s, s2c) = expand::<P>(nonce, shared.expose(), &[b"usmp-v2", pub_c, pub_s]);
    SessionKeys { c2s, s2c }
}

/// `HKDF(salt, ikm = tx || rx, info = "usmp-rekey" || session_id, L = 64)`, tx and rx as the initiator has them
/// (WIRE.md section 9).
#[must_use]
pub fn rekey<P: Provider>(
    keys: &SessionKeys,
    initiator: Role,
    salt: &[u8; 32],
    session_id: SessionId,
) -> SessionKeys {
    let (tx, rx) = match initiator {
        Role::Device => (&keys.c2s, &keys.s2c),
        Role::Server => (&keys.s2c, &keys.c2s),
    };
    let mut ikm = Secret::<64>::zeroed();
    for (to, from) in ikm.expose_mut().iter_mut().zip(tx.expose().iter().chain(rx.expose())) {
        *to = *from;
    }
    let (tx, rx) = expand::<P>(salt, ikm.expose(), &[b"usmp-rekey", &session_id.0]);
    match initiator {
        Role::Device => SessionKeys { c2s: tx, s2c: rx },
        Role::Server => SessionKeys { c2s: rx, s2c: tx },
    }
}

fn expand<P: Provider>(salt: &[u8; 32], ikm: &[u8], info: &[&[u8]]) -> (Secret<32>, Secret<32>) {
    let mut okm = Secret::<64>::zeroed();
    P::hkdf_sha256(salt, ikm, info, okm.expose_mut());
    let (mut first, mut second) = (Secret::zeroed(), Secret::zeroed());
    if let ([a, b], _) = okm.expose().as_chunks::<32>() {
        *first.expose_mut() = *a;
        *second.expose_mut() = *b;
    }
    (first, second)
}
