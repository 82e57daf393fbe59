//! Key look-ups: off the packet path, within a budget of their own, begun at HELLO so that the keys are there at HELLO_ACK.

use std::sync::Arc;
use std::time::Duration;

use sluice_store::{KeyLookup, Store, StoreError};
use sluice_types::DeviceId;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::link::{Lookup, SessionRef, ShardLink, ToShard};
use crate::tenant_places::TenantPlaces;

/// After how long handshakes ask again for a place among the look-ups: nobody tells a shard that another one gave one back.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Asks the store on behalf of one shard. The budget is shared by all shards.
#[derive(Debug, Clone)]
pub(crate) struct Lookups {
    pub(crate) store: Store,
    pub(crate) budget: Arc<Semaphore>,
    pub(crate) timeout: Duration,
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) shard: ShardLink,
    pub(crate) tenants: TenantPlaces,
}

/// The keys of a device, unless it is refused for a time; and a place for its session. `None` when there may be one and nobody knows.
async fn look_up(
    store: &Store,
    tenants: &TenantPlaces,
    device: DeviceId,
) -> Result<Option<Lookup>, StoreError> {
    let (keys, hold) = tokio::try_join!(store.handshake_keys(device), store.device_hold(device))?;
    let KeyLookup::Known(keys) = keys else { return Ok(Some(Lookup::Keys(keys))) };
    if let Some(hold) = hold {
        return Ok(Some(Lookup::Held { tenant: keys.tenant, reason: hold.reason }));
    }
    // What is leased may be less than what there is: see `TenantPlaces`.
    let may_have_place = tenants.prepare(&keys.tenant).await;
    Ok(may_have_place.then_some(Lookup::Keys(KeyLookup::Known(keys))))
}

impl Lookups {
    /// Whether a look-up could start now.
    pub(crate) fn has_room(&self) -> bool {
        self.budget.available_permits() > 0
    }

    /// Starts a look-up whose answer comes as [`ToShard::Keys`]; `false` when the budget is used up.
    pub(crate) fn try_start(&self, handshake: SessionRef, device: DeviceId) -> bool {
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_owned() else { return false };
        let (store, shard, timeout) = (self.store.clone(), self.shard.clone(), self.timeout);
        let tenants = self.tenants.clone();
        self.tasks.spawn_on(
            async move {
                let lookup = match tokio::time::timeout(timeout, look_up(&store, &tenants, device)).await {
                    Ok(Ok(lookup)) => lookup,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "key look-up failed");
                        None
                    }
                    Err(_) => None,
                };
                drop(permit);
                shard.send(ToShard::Keys { handshake, lookup }).await;
            },
            &self.runtime,
        );
        true
    }
}
