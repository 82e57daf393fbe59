use std::time::Duration;

use sluice_types::{DeviceId, TenantId};

use crate::StoreError;
use crate::store::Store;

/// Who is limited.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitSubject {
    /// One device.
    Device(DeviceId),
    /// All devices of a tenant together.
    Tenant(TenantId),
}

/// A token bucket: full at first, refilled evenly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, such as `handshake`; buckets of different names are apart.
    pub name: &'static str,
    /// Tokens that fit, 1 or more; as many may be taken at once.
    pub burst: u32,
    /// Time in which an empty bucket is full again, 1 ms to 1 day (others are clamped).
    pub refill: Duration,
}

impl Limit {
    pub(crate) fn burst_at_least_one(&self) -> u32 {
        self.burst.max(1)
    }

    pub(crate) fn refill_micros(&self) -> u64 {
        let micros = u64::try_from(self.refill.as_micros()).unwrap_or(u64::MAX);
        micros.clamp(1_000, 86_400_000_000)
    }
}

/// Whether a token was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitOutcome {
    /// Taken.
    Allowed,
    /// Not taken; one will be there after this time, if nobody else takes it.
    RetryAfter(Duration),
}

impl Store {
    /// Takes one token of a bucket that all pods share. After a timeout the token may be gone.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; whether to allow then is the caller's decision.
    pub async fn take_token(
        &self,
        subject: &LimitSubject,
        limit: &Limit,
    ) -> Result<LimitOutcome, StoreError> {
        let wait = self.backend.take_token(subject, limit).await?;
        Ok(if wait.is_zero() { LimitOutcome::Allowed } else { LimitOutcome::RetryAfter(wait) })
    }
}
