//! The local store: one `redb` file, or memory, for one process.
//!
//! Every call runs on tokio's blocking pool, since even a read may have to wait for the disk. The registry, tenants and the log are
//! on disk when a call returns. Session records, device epochs and reports are written without waiting for the disk: after a crash
//! the process has no sessions to go on with, and epochs start from the clock. Buckets of limits live in memory alone.

mod buckets;
mod cluster;
mod holders;
mod log;
mod sessions;
mod tables;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

#[cfg(feature = "simulated")]
pub(crate) use redb::Savepoint;
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction,
};
use sluice_types::{DeviceId, TenantId};

use self::buckets::Buckets;
use self::tables::{DEVICES, INDEX, META, TENANTS};
use crate::backend::Listing;
use crate::record::Stored;
use crate::{OpenError, StoreError};

/// Memory for pages of the file; a fleet's worth of keys fits, and a laptop does not notice.
const CACHE_BYTES: usize = 32 << 20;

#[derive(Clone)]
pub(crate) struct Local {
    database: Arc<Database>,
    /// Whether calls run on the caller's thread.
    inline: bool,
    /// Highest number in the revocation log.
    head: Arc<tokio::sync::watch::Sender<u64>>,
    buckets: Arc<Mutex<Buckets>>,
}

type Outcome<T> = Result<T, redb::Error>;

impl Local {
    pub(crate) async fn open(path: PathBuf) -> Result<Self, OpenError> {
        let for_errors = path.clone();
        let opened = tokio::task::spawn_blocking(move || {
            make_private(&path).map_err(redb::Error::Io)?;
            let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path);
            Self::set_up(database.map_err(redb::Error::from)?)
        })
        .await;
        let file = |source| OpenError::File { path: for_errors.clone(), source };
        match opened {
            Ok(Ok(local)) => Ok(local),
            Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(OpenError::Locked { path: for_errors }),
            Ok(Err(error)) => Err(file(error.into())),
            Err(join) => Err(file(join.into())),
        }
    }

    pub(crate) async fn in_memory() -> Result<Self, OpenError> {
        let opened = tokio::task::spawn_blocking(|| {
            let mut builder = redb::Builder::new();
            let database: Result<_, DatabaseError> =
                builder.set_cache_size(CACHE_BYTES).create_with_backend(InMemoryBackend::new());
            Self::set_up(database.map_err(redb::Error::from)?)
        })
        .await;
        let file = |source| OpenError::File { path: PathBuf::from("memory"), source };
        opened.map_err(|join| file(join.into()))?.map_err(|error| file(error.into()))
    }

    /// One in memory that needs no other thread.
    #[cfg(feature = "simulated")]
    pub(crate) fn on_this_thread() -> Result<Self, OpenError> {
        let mut builder = redb::Builder::new();
        let database: Result<_, DatabaseError> =
            builder.set_cache_size(CACHE_BYTES).create_with_backend(InMemoryBackend::new());
        let made = database.map_err(redb::Error::from).and_then(Self::set_up);
        let file = |error: redb::Error| OpenError::File { path: "memory".into(), source: error.into() };
        Ok(Self { inline: true, ..made.map_err(file)? })
    }

    #[cfg(feature = "simulated")]
    pub(crate) fn savepoint(&self) -> Result<Savepoint, StoreError> {
        let failed = |error: redb::Error| StoreError::Local { source: error.into() };
        let transaction = self.database.begin_write().map_err(|error| failed(error.into()))?;
        let savepoint = transaction.ephemeral_savepoint().map_err(|error| failed(error.into()))?;
        transaction.commit().map_err(|error| failed(error.into()))?;
        Ok(savepoint)
    }

    #[cfg(feature = "simulated")]
    pub(crate) fn restore(&self, savepoint: &Savepoint) -> Result<(), StoreError> {
        let failed = |error: redb::Error| StoreError::Local { source: error.into() };
        let mut transaction = self.database.begin_write().map_err(|error| failed(error.into()))?;
        transaction.restore_savepoint(savepoint).map_err(|error| failed(error.into()))?;
        transaction.commit().map_err(|error| failed(error.into()))?;
        Ok(())
    }

    fn set_up(database: Database) -> Outcome<Self> {
        let transaction = database.begin_write()?;
        tables::create_all(&transaction)?;
        let head = log::head(&transaction)?;
        transaction.commit()?;
        Ok(Self {
            database: Arc::new(database),
            inline: false,
            head: Arc::new(tokio::sync::watch::Sender::new(head)),
            buckets: Arc::default(),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        self.run(move || work(&database.begin_read()?)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.inline {
            return work().map_err(|error| StoreError::Local { source: error.into() });
        }
        blocking(work).await
    }

    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        self.run(move || {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability).map_err(redb::Error::from)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
        .await
    }

    pub(crate) async fn identity(&self, blob: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut meta = transaction.open_table(META)?;
            if let Some(found) = meta.get(tables::IDENTITY)? {
                return Ok(found.value().to_vec());
            }
            meta.insert(tables::IDENTITY, blob.as_slice())?;
            Ok(blob)
        })
        .await
    }

    pub(crate) async fn swap_identity(&self, old: Vec<u8>, new: Vec<u8>) -> Result<bool, StoreError> {
        self.write(Durability::Immediate, move |transaction| {
            let mut meta = transaction.open_table(META)?;
            let same = meta.get(tables::IDENTITY)?.is_some_and(|found| found.value() == old.as_slice());
            if same {
                meta.insert(tables::IDENTITY, new.as_slice())?;
            }
            Ok(same)
        })
        .await
    }

    pub(crate) async fn read_device(&self, id: DeviceId) -> Result<Option<Stored>, StoreError> {
        self.read(move |transaction| {
            let devices = transaction.open_table(DEVICES)?;
            Ok(devices.get(id.as_bytes().as_slice())?.map(|found| stored(found.value())))
        })
        .await
    }

    pub(crate) async fn swap_device(
        &self,
        id: DeviceId,
        listing: Listing<'_>,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        let entry = tables::index_key(listing.tenant, id);
        let listed = listing.listed;
        self.write(Durability::Immediate, move |transaction| {
            let mut devices = transaction.open_table(DEVICES)?;
            let key = id.as_bytes().as_slice();
            let current = devices.get(key)?.map_or(0, |found| found.value().0);
            if current != expected {
                return Ok(false);
            }
            devices.insert(key, (new.version, new.blob.as_slice()))?;
            let mut index = transaction.open_table(INDEX)?;
            if listed {
                index.insert(entry.as_slice(), ())?;
            } else {
                index.remove(entry.as_slice())?;
            }
            Ok(true)
        })
        .await
    }

    pub(crate) async fn list_devices(
        &self,
        tenant: &TenantId,
        after: Option<DeviceId>,
        limit: usize,
    ) -> Result<Vec<DeviceId>, StoreError> {
        let (start, end) = tables::index_range(tenant, after);
        self.read(move |transaction| {
            let index = transaction.open_table(INDEX)?;
            let mut ids = Vec::new();
            for entry in index.range(start.as_slice()..end.as_slice())?.take(limit) {
                ids.extend(tables::index_device(entry?.0.value()));
            }
            Ok(ids)
        })
        .await
    }

    pub(crate) async fn tenant_from(
        &self,
        from: Option<&TenantId>,
        inclusive: bool,
    ) -> Result<Option<TenantId>, StoreError> {
        let start = match from {
            None => Vec::new(),
            Some(tenant) if inclusive => tables::index_range(tenant, None).0,
            Some(tenant) => tables::index_range(tenant, None).1,
        };
        self.read(move |transaction| {
            let index = transaction.open_table(INDEX)?;
            let first = index.range(start.as_slice()..)?.next().transpose()?;
            Ok(first.and_then(|entry| tables::index_tenant(entry.0.value())))
        })
        .await
    }

    pub(crate) async fn read_tenant(&self, id: &TenantId) -> Result<Option<Stored>, StoreError> {
        let id = id.clone();
        self.read(move |transaction| {
            let tenants = transaction.open_table(TENANTS)?;
            Ok(tenants.get(id.as_str())?.map(|found| stored(found.value())))
        })
        .await
    }

    pub(crate) async fn swap_tenant(
        &self,
        id: &TenantId,
        expected: u64,
        new: Stored,
    ) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write(Durability::Immediate, move |transaction| {
            let mut tenants = transaction.open_table(TENANTS)?;
            let current = tenants.get(id.as_str())?.map_or(0, |found| found.value().0);
            if current != expected {
                return Ok(false);
            }
            tenants.insert(id.as_str(), (new.version, new.blob.as_slice()))?;
            Ok(true)
        })
        .await
    }
}

/// Makes an empty file that its owner alone may read, which `redb` then fills; a file that is there stays as it is.
fn make_private(path: &std::path::Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn stored((version, blob): (u64, &[u8])) -> Stored {
    Stored { version, blob: blob.to_vec() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::Local { source: error.into() }),
        Err(join) => Err(StoreError::Local { source: join.into() }),
    }
}
