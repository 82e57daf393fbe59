//! The secrets of HELLO_RETRY's cookies, by the hour.

use usmp::crypto::Provider;
use usmp::{CookieSecrets, DeviceId, Secret};

use crate::secrets::CookieMasters;

/// Cookies issued under one secret, in seconds; the one before is still accepted.
const COOKIE_ROTATION_S: u64 = 3600;

/// The secrets of cookies, from masters: every shard and every pod comes to the same ones.
pub(crate) struct Cookies {
    current: Hourly,
    /// Only accepted: of the masters before and after, which other pods may issue under for a moment.
    near: Vec<Hourly>,
}

/// The secrets of one master.
struct Hourly {
    master: Secret<32>,
    secrets: CookieSecrets,
    period: u64,
}

impl Hourly {
    fn new<P: Provider>(master: Secret<32>, now_unix_s: u64) -> Self {
        let period = now_unix_s / COOKIE_ROTATION_S;
        let mut secrets = CookieSecrets::new(derive::<P>(&master, period.saturating_sub(1)));
        secrets.rotate(derive::<P>(&master, period));
        Self { master, secrets, period }
    }

    fn at<P: Provider>(&mut self, now_unix_s: u64) -> &CookieSecrets {
        let period = now_unix_s / COOKIE_ROTATION_S;
        if period != self.period {
            self.period = period;
            self.secrets.rotate(derive::<P>(&self.master, period));
        }
        &self.secrets
    }
}

impl Cookies {
    pub(crate) fn new<P: Provider>(masters: CookieMasters, now_unix_s: u64) -> Self {
        let hourly = |master| Hourly::new::<P>(master, now_unix_s);
        Self { current: hourly(masters.current), near: masters.near.into_iter().map(hourly).collect() }
    }

    /// The cookie for a HELLO from this address, as [`CookieSecrets::issue`].
    pub(crate) fn issue<P: Provider>(
        &mut self,
        now_unix_s: u64,
        address: &[u8],
        device: DeviceId,
        public_key: &[u8; 32],
    ) -> [u8; 16] {
        self.current.at::<P>(now_unix_s).issue::<P>(now_unix_s, address, device, public_key)
    }

    /// Whether a cookie was issued by any pod to this address, as [`CookieSecrets::check`].
    pub(crate) fn check<P: Provider>(
        &mut self,
        now_unix_s: u64,
        address: &[u8],
        device: DeviceId,
        public_key: &[u8; 32],
        given: &[u8; 16],
    ) -> bool {
        let mut all = std::iter::once(&mut self.current).chain(&mut self.near);
        all.any(|hourly| {
            hourly.at::<P>(now_unix_s).check::<P>(now_unix_s, address, device, public_key, given)
        })
    }
}

fn derive<P: Provider>(master: &Secret<32>, period: u64) -> Secret<32> {
    Secret::new(P::hmac_sha256(master.expose(), &[b"sluice cookie secret", &period.to_be_bytes()]))
}

#[cfg(test)]
mod tests {
    use usmp::crypto::AwsLc;

    use super::*;

    const NOW: u64 = 1_700_000_000;
    const DEVICE: DeviceId = DeviceId([2, 0, 0, 0, 0, 1]);

    fn of(current: u8, near: &[u8]) -> Cookies {
        let secret = |byte: &u8| Secret::new([*byte; 32]);
        let masters = CookieMasters { current: secret(&current), near: near.iter().map(secret).collect() };
        Cookies::new::<AwsLc>(masters, NOW)
    }

    #[test]
    fn pods_on_both_sides_of_a_change_of_keys_accept_each_others_cookies_and_no_others() {
        // The ring goes from key 1 to key 2; key 3 comes much later.
        let (mut before, mut after, mut later) = (of(1, &[2]), of(2, &[1]), of(3, &[2]));
        let old = before.issue::<AwsLc>(NOW, b"a", DEVICE, &[5; 32]);
        let new = after.issue::<AwsLc>(NOW, b"a", DEVICE, &[5; 32]);
        let check = |cookies: &mut Cookies, given| cookies.check::<AwsLc>(NOW, b"a", DEVICE, &[5; 32], given);
        assert_ne!(old, new);
        assert!(check(&mut before, &new) && check(&mut after, &old));
        assert!(check(&mut later, &new) && !check(&mut later, &old));
        assert!(!after.check::<AwsLc>(NOW, b"b", DEVICE, &[5; 32], &new), "of another address");
    }

    #[test]
    fn a_cookie_outlives_the_hour_in_which_it_was_issued() {
        let mut cookies = of(1, &[]);
        let last = NOW - NOW % COOKIE_ROTATION_S + COOKIE_ROTATION_S - 1;
        let cookie = cookies.issue::<AwsLc>(last, b"a", DEVICE, &[5; 32]);
        assert!(cookies.check::<AwsLc>(last + 1, b"a", DEVICE, &[5; 32], &cookie));
    }
}
