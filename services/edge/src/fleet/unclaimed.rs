//! Sessions that the store has not numbered, because it did not answer when they first spoke: they are claimed late.

use sluice_store::{Store, StoreError};
use sluice_types::{DeviceEpoch, DeviceId, PodId, SessionId, Timestamp};

use super::across::{self, Across};
use super::{Answer, Claimed, Fleet};
use crate::link::SessionRef;

/// Claims tried again in a second.
const AT_ONCE: usize = 64;

/// A session that has spoken, `since` by this pod's wall clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unclaimed {
    pub(super) device: DeviceId,
    pub(super) session: SessionRef,
    pub(super) id: SessionId,
    pub(super) since: Timestamp,
}

/// What came of a late claim.
enum Late {
    Claimed(Claimed),
    /// A session that spoke later was faster.
    Older(DeviceEpoch),
}

/// Numbers are microseconds of the store's clock at the moment of the claim, or above the last one: a holder with a higher one than the
/// time when this session first spoke is the newer one.
async fn claim_late(store: &Store, me: PodId, unclaimed: Unclaimed) -> Result<Late, StoreError> {
    let Unclaimed { device, id, since, .. } = unclaimed;
    let since = u64::try_from(since.as_millis()).unwrap_or_default().saturating_mul(1000);
    match store.device_location(device).await? {
        Some(other) if other.session != id && other.epoch.0 > since => Ok(Late::Older(other.epoch)),
        _ => across::claim(store, me, device, id).await.map(Late::Claimed),
    }
}

impl Fleet {
    /// Claims some again that the store did not answer about.
    pub(super) fn claim_some(&mut self) {
        let Some(me) = self.across.as_ref().map(Across::me) else { return };
        let some = self.unclaimed.len().min(AT_ONCE);
        let some: Vec<_> = self.unclaimed.drain(..some).collect();
        // What ended meanwhile needs no number.
        for unclaimed in
            some.into_iter().filter(|one| self.directory.id(one.session, one.device) == Some(one.id))
        {
            let store = self.store.clone();
            self.ask(async move {
                match claim_late(&store, me, unclaimed).await {
                    Ok(Late::Claimed(claimed)) => Answer::Claim { unclaimed, claim: Ok(claimed) },
                    Ok(Late::Older(by)) => Answer::Older { unclaimed, by },
                    Err(error) => Answer::Claim { unclaimed, claim: Err(error) },
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_store::KekRing;

    use super::*;

    #[tokio::test]
    async fn a_session_that_is_claimed_late_displaces_those_before_it_and_none_after_it() {
        let store = Store::in_memory(KekRing::generate().expect("bytes")).await.expect("a store");
        let (me, other) = (PodId::from_bytes([1; 16]), PodId::from_bytes([2; 16]));
        let device = DeviceId::from_bytes([2, 0, 0, 0, 0, 1]);
        let session = |byte| SessionId::from_bytes([byte; 16]);
        let ttl = Duration::from_secs(60);
        let unclaimed = |byte, since: i64| Unclaimed {
            device,
            session: SessionRef { shard: 0, tcp: false, index: 0, serial: u32::from(byte) },
            id: session(byte),
            since: Timestamp(since),
        };
        let held = store.claim_device(device, other, session(1), ttl).await.expect("claimed");
        let claimed_at = i64::try_from(held.epoch.0 / 1000).expect("milliseconds");

        let older = claim_late(&store, me, unclaimed(2, claimed_at - 1000)).await.expect("an answer");
        assert!(matches!(older, Late::Older(by) if by == held.epoch), "it spoke a second before");
        let location = store.device_location(device).await.expect("an answer").expect("held");
        assert_eq!(location.session, session(1), "nothing was taken from the newer one");

        let newer = claim_late(&store, me, unclaimed(3, claimed_at + 1000)).await.expect("an answer");
        let Late::Claimed((claim, hold)) = newer else { panic!("it spoke a second later") };
        assert!(claim.epoch > held.epoch && hold.is_none());
        assert_eq!(claim.previous.map(|previous| previous.session), Some(session(1)));
        // The answer was lost.
        let again = claim_late(&store, me, unclaimed(3, claimed_at - 5000)).await.expect("an answer");
        assert!(matches!(again, Late::Claimed((again, _)) if again.epoch == claim.epoch));
    }
}
