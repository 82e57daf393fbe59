use std::fmt;

use zeroize::Zeroizing;

/// Most secrets that are accepted at once.
pub const MAX_SECRETS: usize = 4;

/// The 32 bytes all pods of a deployment share for their links. They come from the cluster secret, derived for this purpose alone;
/// whoever has them is a pod.
#[derive(Clone)]
pub struct PeerSecret(Zeroizing<[u8; 32]>);

impl PeerSecret {
    /// Takes the bytes; the caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSecret(..)")
    }
}

/// The ring of secrets: one to prove oneself by, all of them to accept.
///
/// To rotate: give every pod the new secret as accepted, then as current with the old one accepted, then drop the old one. The
/// first step may be left out: an end that does not know the new secret yet is answered under the old one.
#[derive(Debug, Clone)]
pub struct PeerSecrets {
    pub(crate) current: PeerSecret,
    pub(crate) accepted: Vec<PeerSecret>,
}

impl PeerSecrets {
    /// `accepted` are further secrets (the previous one, or the next); what exceeds [`MAX_SECRETS`] in all is not taken.
    #[must_use]
    pub fn new(current: PeerSecret, accepted: impl IntoIterator<Item = PeerSecret>) -> Self {
        Self { current, accepted: accepted.into_iter().take(MAX_SECRETS.saturating_sub(1)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let secret = PeerSecret::from_bytes([0xab; 32]);
        let ring = PeerSecrets::new(secret.clone(), [secret]);
        let shown = format!("{ring:?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
    }

    #[test]
    fn a_ring_is_bounded() {
        let many = std::iter::repeat_n(PeerSecret::from_bytes([1; 32]), 100);
        assert_eq!(PeerSecrets::new(PeerSecret::from_bytes([0; 32]), many).accepted.len(), MAX_SECRETS - 1);
    }
}
