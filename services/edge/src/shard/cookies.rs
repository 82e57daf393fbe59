//! The secrets of HELLO_RETRY's cookies, by the hour.

use usmp::CookieSecrets;
use usmp::crypto::Provider;

/// Cookies issued under one secret, in seconds; the one before is still accepted.
const COOKIE_ROTATION_S: u64 = 3600;

/// The secrets of cookies, from one master: every shard, and later every pod, comes to the same ones.
pub(crate) struct Cookies {
    master: usmp::Secret<32>,
    secrets: CookieSecrets,
    period: u64,
}

impl Cookies {
    pub(crate) fn new<P: Provider>(master: usmp::Secret<32>, now_unix_s: u64) -> Self {
        let period = now_unix_s / COOKIE_ROTATION_S;
        let mut secrets = CookieSecrets::new(derive::<P>(&master, period.saturating_sub(1)));
        secrets.rotate(derive::<P>(&master, period));
        Self { master, secrets, period }
    }

    /// Those in force at a time.
    pub(crate) fn at<P: Provider>(&mut self, now_unix_s: u64) -> &CookieSecrets {
        let period = now_unix_s / COOKIE_ROTATION_S;
        if period != self.period {
            self.period = period;
            self.secrets.rotate(derive::<P>(&self.master, period));
        }
        &self.secrets
    }
}

fn derive<P: Provider>(master: &usmp::Secret<32>, period: u64) -> usmp::Secret<32> {
    usmp::Secret::new(P::hmac_sha256(master.expose(), &[b"sluice cookie secret", &period.to_be_bytes()]))
}
