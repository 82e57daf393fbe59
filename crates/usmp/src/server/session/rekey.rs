use super::secrets::LastRekey;
use crate::crypto::Provider;
use crate::server::timers::later;
use crate::wire::{FrameType, Utack};
use crate::{Duration, Instant, Secret};

/// How long repeats of a REKEY are answered (WIRE.md section 9).
pub(super) const REMEMBER: Duration = Duration::from_secs(15);

/// The fingerprint of a REKEY; zero stands for none.
pub(super) type RekeyName = [u8; 8];

/// What is kept about a REKEY. One place for both roles: it holds the old key, or our salt.
#[derive(Debug)]
pub(super) enum RekeyMemory {
    Nothing {
        begun_by: RekeyName,
    },
    /// The device's last one, which we followed.
    Followed {
        old_key: Secret<32>,
        hash: RekeyName,
        until: Instant,
        seq: u32,
    },
    /// Ours, on its way.
    Started {
        salt: Secret<32>,
        begun_by: RekeyName,
    },
    /// The device's, which waits for its commit.
    Pending {
        salt: Secret<32>,
        hash: RekeyName,
        seq: u32,
        begun_by: RekeyName,
    },
}

/// Tells whether two REKEY frames are the same without keeping the frame.
fn hash<P: Provider>(old_key: &Secret<32>, frame: &[u8]) -> [u8; 8] {
    P::hmac_sha256(old_key.expose(), &[b"rekey frame", frame]).first_chunk().copied().unwrap_or_default()
}

impl RekeyMemory {
    /// In an epoch that no REKEY of the device began.
    pub(super) const NOTHING: Self = Self::Nothing { begun_by: [0; 8] };

    /// Which REKEY of the device began the epoch.
    pub(super) const fn begun_by(&self) -> RekeyName {
        match self {
            Self::Followed { hash, .. } => *hash,
            Self::Nothing { begun_by } | Self::Started { begun_by, .. } | Self::Pending { begun_by, .. } => {
                *begun_by
            }
        }
    }

    /// Takes back what was started or waits.
    pub(super) fn forget(&mut self) {
        *self = Self::Nothing { begun_by: self.begun_by() };
    }

    /// Remembers a REKEY, as it came, and the key that opened it.
    pub(super) fn followed(now: Instant, old_key: Secret<32>, hash: [u8; 8], seq: u32) -> Self {
        Self::Followed { old_key, hash, until: later(now, REMEMBER), seq }
    }

    /// The fingerprint to remember, taken before the frame is opened in place.
    pub(super) fn fingerprint<P: Provider>(key: &Secret<32>, frame: &[u8]) -> [u8; 8] {
        hash::<P>(key, frame)
    }

    /// The UTACK, under the old key, if this is the remembered REKEY once more.
    pub(super) fn repeated<P: Provider>(
        &self,
        now: Instant,
        frame_type: FrameType,
        frame_seq: u32,
        frame: &[u8],
    ) -> Option<Utack> {
        let Self::Followed { old_key, hash: remembered, until, seq } = self else { return None };
        let same = frame_type == FrameType::Rekey
            && frame_seq == *seq
            && now < *until
            && hash::<P>(old_key, frame) == *remembered;
        same.then(|| Utack::sealed::<P>(old_key, FrameType::Rekey, *seq))
    }

    pub(super) fn expire(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            *self = Self::Nothing { begun_by: self.begun_by() };
        }
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Followed { until, .. } => Some(*until),
            Self::Nothing { .. } | Self::Started { .. } | Self::Pending { .. } => None,
        }
    }

    /// Our salt, on its way.
    pub(super) const fn salt(&self) -> Option<&Secret<32>> {
        match self {
            Self::Started { salt, .. } => Some(salt),
            Self::Nothing { .. } | Self::Followed { .. } | Self::Pending { .. } => None,
        }
    }

    /// Salt, fingerprint and number of the device's REKEY that waits for its commit.
    pub(super) const fn pending(&self) -> Option<(&Secret<32>, [u8; 8], u32)> {
        match self {
            Self::Pending { salt, hash, seq, .. } => Some((salt, *hash, *seq)),
            Self::Nothing { .. } | Self::Followed { .. } | Self::Started { .. } => None,
        }
    }

    /// What a REKEY of an earlier owner leaves to do.
    pub(super) fn resumed(now: Instant, begun_by: RekeyName, last: Option<LastRekey>) -> Self {
        match last {
            Some(LastRekey { old_c2s, fingerprint, seq }) => Self::followed(now, old_c2s, fingerprint, seq),
            None => Self::Nothing { begun_by },
        }
    }

    pub(super) fn last(&self) -> Option<LastRekey> {
        match self {
            Self::Followed { old_key, hash, seq, .. } => {
                Some(LastRekey { old_c2s: old_key.duplicate(), fingerprint: *hash, seq: *seq })
            }
            Self::Nothing { .. } | Self::Started { .. } | Self::Pending { .. } => None,
        }
    }
}
