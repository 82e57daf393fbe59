//! Says in the store that this pod lives, and reads who else says so.

use std::collections::HashSet;
use std::time::Duration;

use sluice_bus::Guarantee;
use sluice_peers::{Member, PeersHandle};
use sluice_store::{LogPosition, MAX_UNLINKED, PodRecord, Store, StoreError};
use sluice_types::{PodId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::start::promised;

/// Whoever names as many lacks perhaps more, by the rule of `sluice_peers`.
const NAMED: usize = sluice_peers::MAX_NAMED;
const _: () = assert!(NAMED <= MAX_UNLINKED);

/// How often. Links carry the heartbeats that count; this is for those without a link, and for newcomers.
const EACH: Duration = Duration::from_millis(500);

/// How long a record outlives its pod.
pub(super) const TTL: Duration = Duration::from_secs(15);

/// What this pod says of itself.
#[derive(Debug, Clone)]
pub(super) struct Myself {
    pub(super) pod: PodId,
    pub(super) address: String,
    pub(super) started: Timestamp,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) applied: watch::Receiver<LogPosition>,
    pub(super) guarantee: Guarantee,
}

pub(super) fn member(record: &PodRecord) -> Member {
    Member {
        pod: record.pod,
        address: record.address.clone(),
        counter: record.counter,
        draining: record.draining,
        kafka_ok_within_ms: record.kafka_ok_within_ms,
        unlinked: record.unlinked.clone(),
    }
}

/// Until told to stop; then the record goes. While the store does not answer, the members stay as they were.
pub(super) async fn tell_and_listen(
    store: Store,
    myself: Myself,
    peers: PeersHandle,
    members: watch::Sender<Vec<Member>>,
    stop: CancellationToken,
) {
    let mut each = tokio::time::interval(EACH);
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    let mut odd = HashSet::new();
    loop {
        tokio::select! {
            _ = each.tick() => {}
            () = stop.cancelled() => break,
        }
        match round(&store, &myself, &peers, &members).await {
            Ok(found) => {
                warn_of_others(&found, myself.guarantee, &mut odd);
                if std::mem::take(&mut failing) {
                    tracing::info!("the store answers about other pods again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the store does not answer about other pods; links and sessions go on");
                }
            }
        }
    }
    if let Err(error) = store.retire_pod(myself.pod).await {
        tracing::debug!(%error, "the record of this pod stays until it expires");
    }
}

async fn round(
    store: &Store,
    myself: &Myself,
    peers: &PeersHandle,
    members: &watch::Sender<Vec<Member>>,
) -> Result<Vec<PodRecord>, StoreError> {
    let record = PodRecord {
        pod: myself.pod,
        address: myself.address.clone(),
        counter: peers.counter(),
        draining: *myself.draining.borrow(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: myself.started,
        applied: *myself.applied.borrow(),
        kafka_ok_within_ms: peers.kafka_ok_within_ms(),
        unlinked: peers.unlinked(NAMED),
        exactly_once: Some(myself.guarantee == Guarantee::ExactlyOnce),
    };
    store.announce_pod(&record, TTL).await?;
    let pods = store.pods().await?;
    let found: Vec<Member> = pods.iter().map(member).collect();
    members.send_if_modified(|known| {
        let changed = *known != found;
        if changed {
            *known = found;
        }
        changed
    });
    Ok(pods)
}

/// Says it once of each pod that promises something else. One that starts among others is refused; these two have started together.
fn warn_of_others(found: &[PodRecord], ours: Guarantee, told: &mut HashSet<PodId>) {
    told.retain(|pod| found.iter().any(|record| record.pod == *pod));
    for record in found {
        let theirs = record.exactly_once.map(promised);
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours)
            && told.insert(record.pod)
        {
            tracing::warn!(
                pod = %record.pod,
                address = record.address,
                "a pod of this fleet runs bus.guarantee = \"{}\", and this one \"{}\": neither stops the other one's writers. Stop one of them, and set the same for all",
                theirs.as_str(),
                ours.as_str()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_promises_something_else_is_told_of_once_and_again_when_it_comes_back() {
        let pod = |byte, exactly_once| PodRecord {
            pod: PodId::from_bytes([byte; 16]),
            address: "10.0.0.7:9443".to_owned(),
            counter: 1,
            draining: false,
            version: "0.1.0".to_owned(),
            started: Timestamp(0),
            applied: LogPosition::START,
            kafka_ok_within_ms: None,
            unlinked: Vec::new(),
            exactly_once,
        };
        let (same, other, silent) = (pod(1, Some(true)), pod(2, Some(false)), pod(3, None));
        let mut told = HashSet::new();
        for _ in 0..2 {
            let all = [same.clone(), other.clone(), silent.clone()];
            warn_of_others(&all, Guarantee::ExactlyOnce, &mut told);
            assert_eq!(told, HashSet::from([other.pod]));
        }
        warn_of_others(&[same], Guarantee::ExactlyOnce, &mut told);
        assert!(told.is_empty(), "what is over is forgotten");
    }
}
