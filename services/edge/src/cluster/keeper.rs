//! Sessions in the store: what another pod needs to go on with them. Off the packet path; a session costs a write when it opens and
//! one when it is established, never one per record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice_bus::{SessionState, Snapshot};
use sluice_store::{KeyLookup, LastRekey, SecretKey, SessionKeys, SessionRecord, Store, StoreError};
use sluice_types::{DeviceId, KeyEpoch, SessionId, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use usmp::server::SessionSecrets;
use usmp::{Instant, Secret};

use crate::link::{Found, Kept, ShardLink, ToShard};

/// Writes that wait for the store. Beyond it a session is not kept: the death of its pod costs a handshake then.
const MAX_WAITING: usize = 1 << 16;

/// Calls to the store at once.
const CALLS: usize = 64;

/// How long a write is tried. A device that waits for one repeats its frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a session's record outlives twice the silence that is allowed.
const MARGIN: Duration = Duration::from_secs(600);

/// Pause between tries, doubled up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What all shards share.
#[derive(Debug)]
pub(crate) struct KeeperPool {
    store: Store,
    calls: Semaphore,
    waiting: AtomicUsize,
    ttl: Duration,
    runtime: Handle,
    tasks: TaskTracker,
}

impl KeeperPool {
    /// Records live for a while after they were last written: a session that a dead pod had may be silent for `idle` at its next one.
    pub(crate) fn new(store: Store, idle: Duration, runtime: Handle, tasks: TaskTracker) -> Arc<Self> {
        let ttl = 2 * idle + MARGIN;
        let (calls, waiting) = (Semaphore::new(CALLS), AtomicUsize::new(0));
        Arc::new(Self { store, calls, waiting, ttl, runtime, tasks })
    }
}

/// Keeps the sessions of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pool: Arc<KeeperPool>,
    shard: ShardLink,
}

impl Keeper {
    pub(crate) const fn new(pool: Arc<KeeperPool>, shard: ShardLink) -> Self {
        Self { pool, shard }
    }

    /// Within this time each live session's record is to be written again. What is left of it then outlasts the silence that is
    /// allowed, and the key that it is sealed under is not destroyed before.
    pub(crate) fn rewritten_within(&self) -> Duration {
        rewritten_within(self.pool.ttl, self.pool.store.cluster_keys().keep)
    }

    /// Asks for a session's record, and whether its device may still connect; the answer comes as [`ToShard::SessionFound`]. `false` when
    /// too many questions wait.
    pub(crate) fn find(&self, now: Instant, state: &SessionState) -> bool {
        let (device, session) = (DeviceId::from_bytes(state.device), SessionId::from_bytes(state.session));
        // Written before the epoch is in the ledger, so an older one is of a store that forgot.
        let at_least = state.epoch;
        self.spawn(move |pool, shard| async move {
            let found = match pool
                .call(|store| async move { store.session(device, session, at_least).await })
                .await
            {
                Ok(Some(record)) => {
                    let key = record.key_epoch;
                    match pool.call(|store| async move { may_go_on(&store, device, key).await }).await {
                        Ok(may_connect) => {
                            Found::Record { record: Box::new(record), may_connect, looked_up: now }
                        }
                        Err(_) => Found::NoAnswer,
                    }
                }
                Ok(None) | Err(StoreError::Record { .. }) => Found::Nothing,
                Err(_) => Found::NoAnswer,
            };
            shard.send(ToShard::SessionFound { session, found }).await;
        })
    }

    /// Writes a session's record, for as long as it takes or [`PATIENCE`] lasts. If `waits` names a frame, the outcome comes as
    /// [`ToShard::SessionKept`]. `false` when too many writes wait.
    pub(crate) fn keep(&self, record: SessionRecord, waits: Option<Kept>) -> bool {
        self.spawn(move |pool, shard| async move {
            let mut pause = FIRST_PAUSE;
            let write = async {
                let (record, ttl) = (&record, pool.ttl);
                while let Err(error) =
                    pool.call(|store| async move { store.put_session(record, ttl).await }).await
                {
                    tracing::debug!(%error, "a session's record was not written, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(Duration::from_secs(1));
                }
            };
            let written = tokio::time::timeout(PATIENCE, write).await.is_ok();
            if let Some(kept) = waits {
                shard.send(ToShard::SessionKept { kept, written }).await;
            }
        })
    }

    /// Deletes the record of a session that is over. One that stays expires.
    pub(crate) fn forget(&self, device: DeviceId, session: SessionId) {
        let _expires = self.spawn(move |pool, _| async move {
            if let Err(error) =
                pool.call(|store| async move { store.delete_session(device, session).await }).await
            {
                tracing::debug!(%error, "the record of a closed session stays until it expires");
            }
        });
    }

    /// Writes a slot's snapshot, once: the next one is no worse. Lets `done` go when it is through.
    pub(crate) fn keep_snapshot(&self, slot: u16, snapshot: Snapshot, done: Arc<()>) {
        let _no_room = self.spawn(move |pool, _| async move {
            let Snapshot { offset, generation, ref sessions } = snapshot;
            let sessions = sessions.len();
            let bytes = snapshot.encode();
            drop(snapshot);
            let written = pool
                .call(|store| async move { store.put_slot_snapshot(slot, generation, offset, &bytes).await })
                .await;
            match written {
                Ok(taken) => tracing::debug!(slot, generation, offset, sessions, taken, "a slot's snapshot"),
                Err(error) => tracing::debug!(%error, slot, "a slot's snapshot was not written"),
            }
            drop(done);
        });
    }

    fn spawn<F>(&self, task: impl FnOnce(Arc<KeeperPool>, ShardLink) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.pool.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let pool = Arc::clone(&self.pool);
        let work = task(Arc::clone(&pool), self.shard.clone());
        self.pool.tasks.spawn_on(
            async move {
                work.await;
                pool.waiting.fetch_sub(1, Ordering::Relaxed);
            },
            &self.pool.runtime,
        );
        true
    }
}

/// Whether a session may go on that this device opened under this key. One that sleeps is in no directory: a revocation has found
/// nothing to close, and the device may have been let in again since, under another key, as one that was removed and added anew, or
/// one whose key was stolen.
async fn may_go_on(store: &Store, device: DeviceId, key: KeyEpoch) -> Result<bool, StoreError> {
    match store.handshake_keys(device).await {
        Ok(KeyLookup::Known(keys)) => Ok(keys.psks.iter().any(|(epoch, _)| *epoch == key)),
        Ok(_) => Ok(false),
        // Of a store that is known to have forgotten something nothing is asked; sessions live on, as those do that are awake.
        Err(StoreError::RolledBack | StoreError::Replaced) => Ok(true),
        Err(error) => Err(error),
    }
}

impl KeeperPool {
    async fn call<T, F>(&self, ask: impl FnOnce(Store) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        // The semaphore is never closed.
        let _permit = self.calls.acquire().await;
        ask(self.store.clone()).await
    }
}

fn rewritten_within(ttl: Duration, keep: Duration) -> Duration {
    (ttl / 2).min(keep / 2)
}

/// The secrets of a session for its record.
pub(crate) fn for_the_store(secrets: &SessionSecrets, now: Timestamp) -> (SessionKeys, Option<LastRekey>) {
    let last = secrets.last_rekey.as_ref().map(|last| LastRekey {
        old_c2s: SecretKey::new(*last.old_c2s.expose()),
        fingerprint: last.fingerprint,
        seq: last.seq,
        at: now,
    });
    (keys_for_the_store(&secrets.keys), last)
}

pub(crate) fn keys_for_the_store(keys: &usmp::SessionKeys) -> SessionKeys {
    SessionKeys { c2s: SecretKey::new(*keys.c2s.expose()), s2c: SecretKey::new(*keys.s2c.expose()) }
}

/// The secrets of the epoch that the ledger names, out of the session's record: those in force, or those before a REKEY that
/// was written but never journaled. `None` if the record has neither.
pub(crate) fn from_the_store(record: &SessionRecord, epoch: u32) -> Option<SessionSecrets> {
    let usmp_keys = |keys: &SessionKeys| usmp::SessionKeys {
        c2s: Secret::new(*keys.c2s.expose()),
        s2c: Secret::new(*keys.s2c.expose()),
    };
    let session_id = usmp::SessionId(*record.session.as_bytes());
    if record.rekey_epoch == epoch {
        let last_rekey = record.last_rekey.as_ref().map(|last| usmp::server::LastRekey {
            old_c2s: Secret::new(*last.old_c2s.expose()),
            fingerprint: last.fingerprint,
            seq: last.seq,
        });
        // Names the REKEY for as long as the store does; after that only a ledger that had the name too could use it.
        let begun_by = last_rekey.as_ref().map_or([0; 8], |last| last.fingerprint);
        return Some(SessionSecrets {
            session_id,
            epoch,
            keys: usmp_keys(&record.current),
            begun_by,
            last_rekey,
        });
    }
    let previous = record.previous.as_ref().filter(|_| record.rekey_epoch.checked_sub(1) == Some(epoch))?;
    Some(SessionSecrets { session_id, epoch, keys: usmp_keys(previous), begun_by: [0; 8], last_rekey: None })
}

#[cfg(test)]
mod tests {
    use sluice_store::{KekRing, NewDevice, NewKey, Profile, Reason};
    use sluice_types::{DeviceEpoch, Psk, TenantId};

    use super::*;

    fn record(rekey_epoch: u32, previous: bool) -> SessionRecord {
        let keys =
            |byte: u8| SessionKeys { c2s: SecretKey::new([byte; 32]), s2c: SecretKey::new([byte + 1; 32]) };
        SessionRecord {
            session: SessionId::from_bytes([5; 16]),
            device: DeviceId::from_bytes([2; 6]),
            tenant: "default".parse::<TenantId>().expect("a name"),
            profile: Profile::Raw,
            device_epoch: DeviceEpoch(1),
            rekey_epoch,
            birth_generation: 3,
            current: keys(10),
            previous: previous.then(|| keys(20)),
            last_rekey: None,
            key_epoch: KeyEpoch(1),
            opened: Timestamp::from_system_time(std::time::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_record_is_written_again_before_it_or_its_key_is_gone() {
        let (hour, idle) = (Duration::from_secs(3600), Duration::from_secs(3600));
        let ttl = 2 * idle + MARGIN;
        let each = rewritten_within(ttl, 3 * hour);
        assert_eq!(each, Duration::from_secs(3900), "as configured by default");
        assert!(
            ttl - each > idle,
            "a session that falls silent right before it is due is found until it is over"
        );
        assert_eq!(rewritten_within(ttl, hour), hour / 2);
        assert_eq!(rewritten_within(2 * (24 * hour) + MARGIN, 3 * hour), 3 * hour / 2);
    }

    #[tokio::test]
    async fn a_session_that_slept_while_its_device_was_taken_away_and_let_in_again_does_not_go_on() {
        let store = Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store");
        let device = DeviceId::from_bytes([2; 6]);
        let may = |key| may_go_on(&store, device, KeyEpoch(key));
        let with_key = |byte: u8| {
            let psk = Psk::new(&[byte; 32]).expect("32 bytes");
            store.create_device(NewDevice::raw(device, NewKey::Individual(psk)))
        };
        assert!(!may(1).await.expect("an answer"), "not registered");
        with_key(0x5a).await.expect("new");
        assert!(may(1).await.expect("an answer"));
        store.revoke(device, &Reason::default()).await.expect("registered");
        assert!(!may(1).await.expect("an answer"), "revoked");
        store.remove(device).await.expect("registered");
        with_key(0xa5).await.expect("its id is free again");
        assert!(!may(1).await.expect("an answer"), "a session of the device before");
        assert!(may(2).await.expect("an answer"));

        let another = Psk::new(&[0x77; 32]).expect("32 bytes");
        store.add_key(device, &another).await.expect("a third key");
        assert!(may(2).await.expect("an answer") && may(3).await.expect("an answer"));
        store.retire_key(device, KeyEpoch(2)).await.expect("not the last one");
        assert!(!may(2).await.expect("an answer"), "under a key that was stolen");
    }

    #[test]
    fn a_rekey_that_the_ledger_never_heard_of_gives_the_keys_before_it() {
        let of = |record: &SessionRecord, epoch| {
            from_the_store(record, epoch).map(|secrets| secrets.keys.c2s.expose()[0])
        };
        assert_eq!(of(&record(2, true), 2), Some(10));
        assert_eq!(of(&record(2, true), 1), Some(20));
        assert_eq!(of(&record(2, false), 1), None, "those keys are gone");
        assert_eq!(of(&record(2, true), 3), None, "a store that forgot");
        assert_eq!(of(&record(2, true), 0), None);
    }
}
