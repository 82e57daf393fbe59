//! The one way in which a record is read, changed and written.

use crate::error::RegistryError;
use crate::record::{ChangeId, next_version};
use crate::store::Store;
use crate::{StoreError, clock};

/// Rounds of read, change, compare-and-swap before a writer gives up against others.
const CHANGE_ATTEMPTS: u32 = 8;

/// A record whose every change has a higher version.
pub(crate) trait Versioned: Clone + Send + Sync {
    type Id: ?Sized + Sync;

    fn version(&self) -> u64;
    fn change_id(&self) -> ChangeId;
    fn stamp(&mut self, version: u64, change_id: ChangeId);

    fn read(store: &Store, id: &Self::Id) -> impl Future<Output = Result<Option<Self>, StoreError>> + Send;
    /// Writes if the stored version is still `expected` (0: nothing stored); `false` when it is not.
    fn write(
        &self,
        store: &Store,
        id: &Self::Id,
        expected: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl Store {
    /// Reads a record, applies `change` and writes the outcome, again from the start when another writer came between.
    ///
    /// A write without an answer is read back: the change's id in the record tells whether it was made. A late first write
    /// and its repeat exclude each other by the version they expect. Only when a second writer has changed the record since
    /// can our own change go unrecognised; `change` then sees its own work as found, and may refuse it as a repetition.
    pub(crate) async fn change<T: Versioned>(
        &self,
        id: &T::Id,
        mut change: impl FnMut(Option<T>) -> Result<T, RegistryError> + Send,
    ) -> Result<T, RegistryError> {
        let mine = ChangeId::generate().map_err(StoreError::Randomness)?;
        let mut unknown = false;
        for _ in 0..CHANGE_ATTEMPTS {
            let found = T::read(self, id).await?;
            if let Some(record) = found.as_ref().filter(|record| record.change_id() == mine) {
                return Ok(record.clone());
            }
            let expected = found.as_ref().map_or(0, Versioned::version);
            let mut record = change(found)?;
            record.stamp(next_version(expected, clock::now_millis()), mine);
            match record.write(self, id, expected).await {
                Ok(true) => return Ok(record),
                Ok(false) => unknown = false,
                // One look back; a store that stays silent is reported.
                Err(StoreError::Timeout | StoreError::Unavailable { .. }) if !unknown => unknown = true,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }
}
