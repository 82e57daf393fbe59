use std::time::Duration;

use sluice_types::{PodId, TenantId};

use crate::StoreError;
use crate::store::Store;

/// Pods that hold places of one tenant; more get none until one of them falls silent.
pub(crate) const MAX_LESSEES: usize = crate::pod::MAX_PODS;

/// What a pod asks of a tenant's places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacesRequest {
    pub(crate) pod: PodId,
    pub(crate) limit: u32,
    pub(crate) wanted: u32,
    pub(crate) ttl: Duration,
}

impl Store {
    /// Leases places for sessions of a tenant to a pod, out of `limit` for all pods together: gives as many of the `wanted` as
    /// the others leave, in place of what the pod had. They are the pod's for `ttl`, by the store's clock.
    ///
    /// A pod keeps the number of its sessions within what it was granted, asks for its sessions and some more well before
    /// `ttl` is over, and counts its places as none when it was not renewed in time. So a dead pod's places are free
    /// again by themselves, and no session costs an operation of its own. A pod may be granted fewer than it has sessions, when
    /// the limit fell: it opens no more then, and closes none.
    ///
    /// The count is not authenticated: who can write to the store can refuse a tenant's sessions, or let more of them in.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; go on with the places at hand until their time is over. Safe to repeat.
    pub async fn lease_places(
        &self,
        tenant: &TenantId,
        pod: PodId,
        limit: u32,
        wanted: u32,
        ttl: Duration,
    ) -> Result<u32, StoreError> {
        self.backend.lease_places(tenant, PlacesRequest { pod, limit, wanted, ttl }).await
    }
}
