use subtle::{Choice, ConstantTimeEq as _};

use crate::crypto::Provider;
use crate::{DeviceId, Secret};

/// How long one bucket of cookies lasts, in seconds; a cookie is good for this one and the next.
const BUCKET_SECONDS: u64 = 30;

/// Distinguishes this use of the secret from any other.
const LABEL: &[u8] = b"sluice cookie v1";

/// The secrets behind the cookies of HELLO_RETRY (WIRE.md sections 11.4 and 14, W10).
///
/// Stateless: a cookie is an HMAC over the address that it was sent to, the device id and the public key of the HELLO, and the
/// time in buckets of 30 s. All pods that share the secrets accept each other's cookies. After a
/// [`rotate`](Self::rotate) the secret before is still accepted.
///
/// The first byte of a cookie is the low byte of its bucket, in clear, so that a flood of wrong cookies costs one HMAC each
/// (two while there is a previous secret), not one per bucket that could be meant. The other 15 bytes are the HMAC.
#[derive(Debug)]
pub struct CookieSecrets {
    current: Secret<32>,
    previous: Option<Secret<32>>,
}

impl CookieSecrets {
    /// With one secret.
    #[must_use]
    pub const fn new(current: Secret<32>) -> Self {
        Self { current, previous: None }
    }

    /// Issues under `next` from now on and still accepts what was issued under the current one.
    pub fn rotate(&mut self, next: Secret<32>) {
        self.previous = Some(core::mem::replace(&mut self.current, next));
    }

    /// The cookie for a HELLO from this address. `address` is any encoding of IP and port that is the same next time.
    #[must_use]
    pub fn issue<P: Provider>(
        &self,
        now_unix_s: u64,
        address: &[u8],
        device_id: DeviceId,
        pub_c: &[u8; 32],
    ) -> [u8; 16] {
        cookie::<P>(&self.current, now_unix_s.div_euclid(BUCKET_SECONDS), address, device_id, pub_c)
    }

    /// Whether a cookie was issued to this address for this device and key within the last 30 to 60 s. One of the next 30 s is
    /// accepted as well, so that pods whose clocks differ a little accept each other's.
    #[must_use]
    pub fn check<P: Provider>(
        &self,
        now_unix_s: u64,
        address: &[u8],
        device_id: DeviceId,
        pub_c: &[u8; 32],
        given: &[u8; 16],
    ) -> bool {
        let now = now_unix_s.div_euclid(BUCKET_SECONDS);
        let [low, ..] = *given;
        let near = [now, now.saturating_sub(1), now.saturating_add(1)];
        let Some(bucket) = near.into_iter().find(|bucket| low_byte(*bucket) == low) else {
            return false;
        };
        let mut fits = Choice::from(0);
        for secret in core::iter::once(&self.current).chain(&self.previous) {
            fits |= cookie::<P>(secret, bucket, address, device_id, pub_c).ct_eq(given);
        }
        fits.into()
    }
}

const fn low_byte(bucket: u64) -> u8 {
    let [low, ..] = bucket.to_le_bytes();
    low
}

fn cookie<P: Provider>(
    secret: &Secret<32>,
    bucket: u64,
    address: &[u8],
    device_id: DeviceId,
    pub_c: &[u8; 32],
) -> [u8; 16] {
    let length = u32::try_from(address.len()).unwrap_or(u32::MAX).to_le_bytes();
    let parts: [&[u8]; 6] = [LABEL, &bucket.to_le_bytes(), &length, address, &device_id.0, pub_c];
    let mut cookie: [u8; 16] =
        P::hmac_sha256(secret.expose(), &parts).first_chunk().copied().unwrap_or_default();
    let [first, ..] = &mut cookie;
    *first = low_byte(bucket);
    cookie
}
