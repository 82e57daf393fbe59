//! The revocation log: followed from its start, handed to the fleet, and how far the fleet has applied it told to the store.

use std::time::Duration;

use sluice_store::{LogPosition, RevocationBatch, Store};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often the position is told when nothing happens: it is a sign of life as well.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Follows the revocation log and hands its entries to the fleet, until told to stop. An outage of the store is waited out.
pub(crate) async fn follow(store: Store, batches: mpsc::Sender<RevocationBatch>, stop: CancellationToken) {
    let mut watch = store.watch_revocations(LogPosition::START);
    let mut failing = false;
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            () = stop.cancelled() => return,
        };
        match next {
            Ok(batch) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("the revocation log is followed again");
                }
                if batches.send(batch).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the revocation log cannot be followed; live sessions go on, trying again");
                }
            }
        }
    }
}

/// Tells the store how far the log is applied here, as `name`: when it changes, and each few seconds.
pub(crate) async fn report(
    store: Store,
    name: String,
    mut applied: watch::Receiver<LogPosition>,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        let position = *applied.borrow_and_update();
        match store.report_applied(&name, position).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the store does not hear which revocations are applied here; trying again");
                }
            }
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            () = stop.cancelled() => return,
        }
    }
}
