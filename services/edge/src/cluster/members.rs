//! Says in the store that this pod lives, and reads who else says so.

use std::time::Duration;

use sluice_peers::{Member, PeersHandle};
use sluice_store::{LogPosition, MAX_UNLINKED, PodRecord, Store, StoreError};
use sluice_types::{PodId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Whoever names as many lacks perhaps more, by the rule of `sluice_peers`.
const NAMED: usize = sluice_peers::MAX_NAMED;
const _: () = assert!(NAMED <= MAX_UNLINKED);

/// How often. Links carry the heartbeats that count; this is for those without a link, and for newcomers.
const EACH: Duration = Duration::from_millis(500);

/// How long a record outlives its pod.
const TTL: Duration = Duration::from_secs(15);

/// What this pod says of itself.
#[derive(Debug, Clone)]
pub(super) struct Myself {
    pub(super) pod: PodId,
    pub(super) address: String,
    pub(super) started: Timestamp,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) applied: watch::Receiver<LogPosition>,
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
    loop {
        tokio::select! {
            _ = each.tick() => {}
            () = stop.cancelled() => break,
        }
        match round(&store, &myself, &peers, &members).await {
            Ok(()) => {
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
) -> Result<(), StoreError> {
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
    };
    store.announce_pod(&record, TTL).await?;
    let found: Vec<Member> = store.pods().await?.iter().map(member).collect();
    members.send_if_modified(|known| {
        let changed = *known != found;
        if changed {
            *known = found;
        }
        changed
    });
    Ok(())
}
