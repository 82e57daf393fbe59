use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::backend::Backend;
use crate::cluster::KnownRing;
use crate::config::ClusterKeysConfig;
use crate::error::OpenError;
use crate::floor::Floors;
use crate::handshake::RootCache;
use crate::kek::KekRing;
use crate::local::Local;
use crate::log_memory::LogMemory;
use crate::pod::Heartbeats;
use crate::record::Identity;
use crate::redis::Redis;
use crate::{RecordError, StoreConfig, StoreError, StoreKind, clock, seal};

/// The store of a deployment. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Store {
    pub(crate) backend: Arc<Backend>,
    pub(crate) kek: Arc<KekRing>,
    pub(crate) floors: Arc<Floors>,
    pub(crate) roots: Arc<RootCache>,
    pub(crate) ring: Arc<KnownRing>,
    pub(crate) cluster_keys: ClusterKeysConfig,
    pub(crate) heartbeats: Arc<Heartbeats>,
    pub(crate) log: Arc<LogMemory>,
    distrusted: Arc<AtomicU64>,
    pub(crate) identity: Identity,
    /// Cleared when another life of the store was seen; keys are not given out then.
    trusted: Arc<AtomicBool>,
}

impl Store {
    /// Opens the configured store: reads the key file, connects or opens the file, and checks that the store belongs to the
    /// key. A new store is given its identity.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the text says what to do. Nothing stays open then.
    pub async fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        config.cluster_keys.check()?;
        let kek = KekRing::load(&config.kek_file)?;
        let store = match config.kind {
            StoreKind::Local => {
                let path = config.local.path.clone();
                let address = path.display().to_string();
                Self::assemble(Backend::Local(Local::open(path).await?), kek, address).await
            }
            StoreKind::Redis => {
                let redis = Redis::new(&config.redis)?;
                let address = config.redis.urls.join(", ");
                Self::assemble(Backend::Redis(Box::new(redis)), kek, address).await
            }
        }?;
        Ok(Self { cluster_keys: config.cluster_keys.clone(), ..store })
    }

    /// A store that lives in this process and ends with it, for tests and trials. It is the local store on another medium.
    ///
    /// # Errors
    ///
    /// [`OpenError::File`] when the medium cannot be set up.
    pub async fn in_memory(kek: KekRing) -> Result<Self, OpenError> {
        Self::assemble(Backend::Local(Local::in_memory().await?), kek, "memory".to_owned()).await
    }

    pub(crate) async fn assemble(backend: Backend, kek: KekRing, address: String) -> Result<Self, OpenError> {
        let unreachable = |source| OpenError::Unreachable { address: address.clone(), source };
        let fresh = Identity::generate().map_err(|error| unreachable(StoreError::Randomness(error)))?;
        let found = backend.identity(fresh.encode(&kek, clock::now())).await.map_err(unreachable)?;
        let identity = match Identity::decode(&kek, &found) {
            Ok(identity) => {
                follow_key(&kek, &found);
                identity
            }
            Err(RecordError::UnknownKek { .. }) => {
                return Err(OpenError::WrongKek { kek_file: kek.source().to_owned() });
            }
            Err(source) => {
                let record = "the identity of the store".to_owned();
                return Err(unreachable(StoreError::Record { record, source }));
            }
        };
        Ok(Self {
            backend: Arc::new(backend),
            kek: Arc::new(kek),
            floors: Arc::default(),
            roots: Arc::default(),
            ring: Arc::default(),
            cluster_keys: ClusterKeysConfig::default(),
            heartbeats: Arc::default(),
            log: Arc::default(),
            distrusted: Arc::default(),
            identity,
            trusted: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Asks the store whether it answers and is still the one that was opened. Cheap enough for a readiness check each
    /// second; a [`RevocationWatch`](crate::RevocationWatch) does the same all the time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] when it was emptied or another one stands in its place, [`StoreError::RolledBack`] when its
    /// revocation log lacks entries that are known: until that is put right no keys are given out. [`StoreError`] when it does not answer.
    pub async fn check(&self) -> Result<(), StoreError> {
        let page = self.look_at_log(u64::MAX, 1).await?;
        self.check_identity(page.identity.as_deref())?;
        let accepted = self.check_log(&page).await?;
        self.settle_doubts(&page, accepted).await
    }

    /// Whether the store is still the one that was opened. It also says which key seals from now on.
    pub(crate) fn check_identity(&self, found: Option<&[u8]>) -> Result<(), StoreError> {
        let error = match found.map(|blob| (blob, Identity::decode(&self.kek, blob))) {
            Some((blob, Ok(identity))) if identity == self.identity => {
                follow_key(&self.kek, blob);
                self.trusted.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Some((_, Err(source @ RecordError::UnknownKek { .. }))) => {
                StoreError::Record { record: "the identity of the store".to_owned(), source }
            }
            _ => StoreError::Replaced,
        };
        if self.trusted.swap(false, Ordering::Relaxed) {
            self.count_distrusted();
            tracing::error!(%error, "no keys are given out, live sessions go on");
        }
        Err(error)
    }

    /// Stored values that this process found changed, cut, swapped or rolled back, and did not use. Any rise means that
    /// somebody writes to the store who should not, or that it lost writes.
    #[must_use]
    pub fn distrusted_values(&self) -> u64 {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// When the secrets that pods share are followed by others, and for how long they still open something.
    #[must_use]
    pub const fn cluster_keys(&self) -> &ClusterKeysConfig {
        &self.cluster_keys
    }

    /// Counts a value that was not used.
    pub(crate) fn distrust(&self, record: &str, error: &RecordError) {
        self.count_distrusted();
        tracing::warn!(record, %error, "a stored value cannot be trusted and is not used");
    }

    pub(crate) fn count_distrusted(&self) {
        self.distrusted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn trusted(&self) -> Result<(), StoreError> {
        if !self.trusted.load(Ordering::Relaxed) {
            return Err(StoreError::Replaced);
        }
        self.log.check()
    }
}

/// Seals under the key that the store's identity is sealed under; that is checked before.
fn follow_key(kek: &KekRing, identity: &[u8]) {
    if let Some(key) = seal::key_of(identity)
        && kek.seal_under(key)
    {
        let first = kek.first_id();
        if key == first {
            tracing::info!(%key, "the first key of the key file is in force: values are sealed under it");
        } else {
            tracing::info!(
                %key, %first,
                "the store is not sealed under the first key of the key file yet: `sluice device reseal` brings that in force, once every process has it"
            );
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match *self.backend {
            Backend::Local(_) => "local",
            Backend::Redis(_) => "redis",
            #[cfg(feature = "simulated")]
            Backend::Simulated(_) => "simulated",
        };
        f.debug_struct("Store").field("backend", &backend).field("kek", &self.kek).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Store {
    /// The same process, before which another store or another key ring stands now.
    pub(crate) fn in_front_of(&self, backend: Arc<Backend>) -> Self {
        Self { backend, ..self.clone() }
    }

    /// Another process on the same store: it shares what is stored, and remembers nothing.
    pub(crate) fn newcomer(&self) -> Self {
        Self {
            floors: Arc::default(),
            roots: Arc::default(),
            ring: Arc::default(),
            heartbeats: Arc::default(),
            log: Arc::default(),
            distrusted: Arc::default(),
            trusted: Arc::new(AtomicBool::new(true)),
            ..self.clone()
        }
    }

    pub(crate) fn with_cluster_keys(&self, cluster_keys: ClusterKeysConfig) -> Self {
        Self { cluster_keys, ..self.clone() }
    }

    pub(crate) fn with_kek(&self, kek: KekRing) -> Self {
        Self { kek: Arc::new(kek), ..self.clone() }
    }
}
