//! What bounds all shards of a process together.

use std::io;
use std::sync::Arc;

use sluice_store::Store;
use sluice_types::PodId;
use tokio::sync::mpsc;

use crate::admission::{Failed, Penalties};
use crate::clock::Clock;
use crate::config::EdgeConfig;
use crate::counts::Counts;
use crate::shard::random;
use crate::tenant_places::TenantPlaces;

/// Penalties that wait to be told to other pods; those beyond are counted and not told.
const NEWS: usize = 4096;

/// Clones mean the same.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) penalties: Penalties,
    pub(crate) tenants: TenantPlaces,
    /// What is counted beside the shards.
    pub(crate) counts: Arc<Counts>,
}

impl Limits {
    pub(crate) fn new(config: &EdgeConfig, store: &Store, clock: Clock) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let tenants = match config.admission.sessions_per_tenant {
            None => TenantPlaces::unlimited(),
            Some(limit) => {
                // A name of its own: a process that is started again must not take over what it had before.
                let me = random().ok_or_else(|| io::Error::other("no random bytes"))?;
                let me = PodId::from_bytes(me);
                TenantPlaces::new(store.clone(), clock, Arc::clone(&counts), me, limit.get())
            }
        };
        let penalties = Penalties::new(
            config.handshake.failures_before_penalty.get(),
            config.handshake.max_penalty,
            config.handshake.in_progress_per_shard.get() as usize * config.shard_count(),
        );
        Ok(Self { penalties, tenants, counts })
    }

    /// The same, and where what is to be told of penalties comes out.
    pub(crate) fn telling(self) -> (Self, mpsc::Receiver<Failed>) {
        let (news, told) = mpsc::channel(NEWS);
        let penalties = self.penalties.telling(news, Arc::clone(&self.counts));
        (Self { penalties, ..self }, told)
    }
}
