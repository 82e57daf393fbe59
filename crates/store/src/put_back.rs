//! Whether the revocation log still has what is known of it, and putting back what it lost.

use crate::backend::LogPage;
use crate::record::RevocationData;
use crate::store::Store;
use crate::{LogPosition, StoreError, StoreWitness};

impl Store {
    /// Looks at the log, and whether it still has the last entry that was read here. Later entries do not show that: after a fail-over
    /// that lost it somebody may have revoked something else.
    pub(crate) async fn look_at_log(&self, after: u64, limit: usize) -> Result<LogPage, StoreError> {
        self.backend.log_after(after, limit, self.log.newest()).await
    }

    /// Compares the log with what is known of it. Entries that were read here and that a fail-over or an old backup took away are
    /// appended again, so that every pod hears them; until that is done no keys are given out, and neither as long as somebody else knows
    /// of an entry that the log does not have. What an operator has accepted may be missing: up to the position returned.
    pub(crate) async fn check_log(&self, page: &LogPage) -> Result<LogPosition, StoreError> {
        let accepted = self.accepted(page);
        for number in self.log.take_heard() {
            if number <= accepted.0 || self.log_has(page, number).await? {
                self.log.found(number);
            } else {
                self.log.doubt(StoreWitness { position: LogPosition(number), store: self.identity.0 });
            }
        }
        let newest = page.known;
        if newest == 0 || page.has_known || newest <= page.trimmed {
            self.log.is_behind(false);
            return Ok(accepted);
        }
        let common = self.last_common(page).await?;
        let accepted =
            if newest <= accepted.0 { accepted } else { self.put_back(page, common, newest).await? };
        self.log.set_back(common.unwrap_or_default());
        self.log.is_behind(false);
        Ok(accepted)
    }

    /// Whether the log has this very entry, or had it and dropped it for newer ones.
    pub(crate) async fn log_has(&self, page: &LogPage, number: u64) -> Result<bool, StoreError> {
        Ok(number <= page.trimmed || self.backend.log_after(u64::MAX, 1, number).await?.has_known)
    }

    /// The last entry that was read here and is still there, 0 when nothing was there before; `None` when all that is remembered is
    /// missing, and what was there before it as well. A log that was set back lacks all that came after some moment.
    async fn last_common(&self, page: &LogPage) -> Result<Option<u64>, StoreError> {
        let (before, numbers) = self.log.numbers();
        let (mut there, mut missing) = (0, numbers.len());
        while there < missing {
            let middle = usize::midpoint(there, missing);
            if self.log_has(page, numbers[middle]).await? {
                there = middle + 1;
            } else {
                missing = middle;
            }
        }
        match there.checked_sub(1) {
            Some(last) => Ok(Some(numbers[last])),
            None => Ok((before == 0 || self.log_has(page, before).await?).then_some(before)),
        }
    }

    async fn put_back(
        &self,
        page: &LogPage,
        common: Option<u64>,
        newest: u64,
    ) -> Result<LogPosition, StoreError> {
        if !self.log.is_behind(true) {
            self.count_distrusted();
            tracing::error!(
                head = page.head,
                known = newest,
                "the store was rolled back, no keys are given out until the revocations that it lost are put back"
            );
        }
        let lost = self.log.after(common.unwrap_or_default());
        for entry in &lost {
            // Under the key in force, which may be another one than when it was read.
            let blob = RevocationData::decode(&self.kek, &entry.blob)
                .map_or_else(|_| entry.blob.clone(), |data| data.encode(&self.kek));
            // Above what it was: whoever has read on to there reads it again.
            self.backend.append(entry.device, entry.device_version, blob, newest).await?;
        }
        tracing::warn!(entries = lost.len(), "put revocations back that the store had lost");
        if common.is_none() {
            // It ends before all that is remembered here: what else is missing nobody can tell.
            self.log.doubt(StoreWitness { position: LogPosition(newest), store: self.identity.0 });
            return Ok(self.accepted(page));
        }
        // They have other numbers now; whoever still hears of the old ones need not look for them.
        self.write_acceptance(page, LogPosition(newest), &[]).await
    }
}
