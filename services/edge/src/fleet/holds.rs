//! Devices that are refused for a time by what they did with their own key: the store says so to every pod at the next handshake.
//!
//! Nothing here follows from what a stranger sends: a session counts once its device has shown the key.

use std::sync::Arc;
use std::time::Duration;

use sluice_proto::events::v1::CloseReason;
use sluice_store::{HoldReason, Limit, LimitOutcome, LimitSubject, Store, StoreError};
use sluice_types::DeviceId;

use super::{Answer, Fleet};
use crate::config::EdgeConfig;
use crate::counts::{Count, Counts};
use crate::link::SessionRef;

/// Shortest time for which a device is refused that opened too many sessions.
const LEAST: Duration = Duration::from_secs(1);

/// What a device may do.
#[derive(Debug)]
pub(crate) struct Bounds {
    half_open_per_device: usize,
    /// New sessions at all pods together.
    rate: Option<Limit>,
    quarantine: Option<Duration>,
    counts: Arc<Counts>,
}

impl Bounds {
    pub(crate) fn new(config: &EdgeConfig, counts: Arc<Counts>) -> Self {
        let rate = config.admission.new_sessions_per_device.map(|burst| Limit {
            name: "sessions",
            burst: burst.get(),
            refill: config.admission.window,
        });
        Self {
            half_open_per_device: config.session.half_open_per_device.get() as usize,
            rate,
            quarantine: config.clones.quarantine.time(),
            counts,
        }
    }

    pub(super) const fn half_open_per_device(&self) -> usize {
        self.half_open_per_device
    }
}

/// Why a session ends whose device is refused.
pub(super) const fn why(reason: HoldReason) -> CloseReason {
    match reason {
        HoldReason::SuspectedClone => CloseReason::Quarantined,
        HoldReason::RateLimited => CloseReason::Limit,
    }
}

/// Counts a session of a device, and has the device refused for a time if it is one too many.
async fn is_over_rate(store: &Store, device: DeviceId, limit: &Limit) -> Result<bool, StoreError> {
    let wait = match store.take_token(&LimitSubject::Device(device), limit).await? {
        LimitOutcome::Allowed => return Ok(false),
        LimitOutcome::RetryAfter(wait) => wait,
    };
    store.hold_device(device, HoldReason::RateLimited, wait.max(LEAST)).await?;
    Ok(true)
}

impl Fleet {
    /// A device has shown its key once more.
    pub(super) fn count_opened(&self, session: SessionRef, device: DeviceId) {
        if let Some(limit) = self.bounds.rate {
            let store = self.store.clone();
            self.ask(async move {
                Answer::OverRate { device, session, over: is_over_rate(&store, device, &limit).await }
            });
        }
    }

    pub(super) async fn counted(
        &self,
        device: DeviceId,
        session: SessionRef,
        over: Result<bool, StoreError>,
    ) {
        match over {
            Ok(false) => {}
            Ok(true) => {
                self.bounds.counts.one(Count::SessionsOverRate);
                tracing::debug!(%device, "a device opens more sessions than it may; it is refused for a time");
                self.close(session, CloseReason::Limit).await;
            }
            // Its keys were there a moment ago: the session is as good as any.
            Err(error) => self.not_held(device, &error),
        }
    }

    /// The sessions of a device keep taking each other's place.
    pub(super) fn quarantine(&self, device: DeviceId) {
        if let Some(time) = self.bounds.quarantine {
            let store = self.store.clone();
            self.ask(async move {
                let held = store.hold_device(device, HoldReason::SuspectedClone, time).await;
                Answer::Quarantined { device, held }
            });
        }
    }

    pub(super) async fn quarantined(&self, device: DeviceId, held: Result<(), StoreError>) {
        match held {
            Ok(()) => {
                self.bounds.counts.one(Count::DevicesQuarantined);
                tracing::warn!(
                    %device,
                    "two holders of this device's key are suspected: it is refused for a time (`sluice device release` ends that)"
                );
                self.close_all(device, CloseReason::Quarantined).await;
            }
            // The next time that they take each other's place it is tried again.
            Err(error) => self.not_held(device, &error),
        }
    }

    fn not_held(&self, device: DeviceId, error: &StoreError) {
        self.bounds.counts.one(Count::HoldsFailed);
        tracing::warn!(%error, %device, "the store was not told to have a device refused");
    }
}
