//! Pods that say they live, and when all of them have applied a revocation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use prost::Message;
use sluice_proto::store::v1 as proto;
use sluice_types::{PodId, Timestamp};

use crate::kek::{KekRing, KeyName};
use crate::record::Identity;
use crate::seal::{self, check_revision};
use crate::store::Store;
use crate::{LogPosition, RecordError, StoreError};

/// Pods that a store names; when there are more, those that were silent for the longest go first.
pub(crate) const MAX_PODS: usize = 1024;
/// Largest stored record of a pod; a longer value is not ours and is not read.
pub(crate) const MAX_POD_BYTES: usize = 3072;
/// Longest `host:port`: 253 bytes of name, and the port.
const MAX_ADDRESS: usize = 259;
const MAX_VERSION: usize = 64;
/// Most pods that a record names as out of reach.
pub const MAX_UNLINKED: usize = 128;
/// Pods whose counters are remembered.
const REMEMBERED: usize = 4 * MAX_PODS;
/// Schema revision of the message.
const REVISION: u32 = 1;
const POD: &str = "sluice/pod";
/// How often a wait for a revocation looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a pod says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// Drawn anew at each start of a process.
    pub pod: PodId,
    /// Where the other pods reach it, `host:port`, at most 259 bytes.
    pub address: String,
    /// One more with each sign of life. Observers judge by whether it grows, never by a clock of somebody else.
    pub counter: u64,
    /// It takes no new sessions and gives its slots away.
    pub draining: bool,
    /// Its release, at most 64 bytes.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// The last entry of the revocation log that it has applied.
    pub applied: LogPosition,
    /// Milliseconds since Kafka last answered it.
    pub kafka_ok_within_ms: Option<u32>,
    /// Pods that it does not hear over a link, at most [`MAX_UNLINKED`].
    pub unlinked: Vec<PodId>,
    /// Whether it bars every other writer of a slot that it serves (`bus.guarantee`); `None` from a release that does not say so.
    pub exactly_once: Option<bool>,
}

/// What became of a revocation by the deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationOutcome {
    /// Every pod has applied it, or was retired.
    Completed,
    /// These pods may still serve the device: they have not said that they applied it, or cannot be trusted to have.
    Outstanding(Vec<PodId>),
}

/// A pod as the back end knows it.
pub(crate) struct PodRow {
    pub(crate) pod: String,
    /// Empty when it was too long to be ours.
    pub(crate) blob: Vec<u8>,
    pub(crate) live: bool,
}

/// A record, and what the store itself says with it.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) record: PodRecord,
    /// The store whose log it has applied.
    pub(crate) store: Identity,
    /// The key-encryption keys that the pod has; none of a release that does not say so.
    pub(crate) keks: Vec<KeyName>,
}

/// The highest counter of each pod that this process has seen, so that an old record put back is no sign of life.
///
/// Bounded: when it is full, pods that the store does not name at that moment are forgotten.
#[derive(Default)]
pub(crate) struct Heartbeats(Mutex<HashMap<PodId, u64>>);

impl Heartbeats {
    /// `None` when the counter is no lower than any before; otherwise the one expected.
    fn check(&self, pod: PodId, counter: u64) -> Option<u64> {
        let mut seen = self.lock();
        let highest = seen.entry(pod).or_default();
        if counter < *highest {
            return Some(*highest);
        }
        *highest = counter;
        None
    }

    fn forget_all_but(&self, named: &[PodRow]) {
        let mut seen = self.lock();
        if seen.len() > REMEMBERED {
            let named: Vec<PodId> = named.iter().filter_map(|row| row.pod.parse().ok()).collect();
            seen.retain(|pod, _| named.contains(pod));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodId, u64>> {
        // The map is whole after every statement, so a poisoned lock is as good as another.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl PodRecord {
    pub(crate) fn encode(&self, ring: &KekRing, store: Identity) -> Vec<u8> {
        let message = proto::PodRecord {
            revision: REVISION,
            pod: self.pod.as_bytes().to_vec(),
            address: self.address.clone(),
            counter: self.counter,
            draining: self.draining,
            version: self.version.clone(),
            started_unix_ms: self.started.as_millis(),
            applied: self.applied.0,
            store: store.0.to_vec(),
            kafka_ok_within_ms: self.kafka_ok_within_ms,
            unlinked: self.unlinked.iter().flat_map(|pod| *pod.as_bytes()).collect(),
            keks: ring.names().flat_map(|name| name.0).collect(),
            exactly_once: self.exactly_once,
        };
        seal::authenticate(ring, POD, message.encode_to_vec())
    }

    pub(crate) fn decode(ring: &KekRing, pod: &str, blob: &[u8]) -> Result<Announced, RecordError> {
        let body = seal::verify(ring, POD, blob)?;
        let message = proto::PodRecord::decode(body.as_slice()).map_err(|_| RecordError::Malformed)?;
        check_revision(message.revision, REVISION)?;
        let bytes = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| RecordError::Malformed);
        let store = Identity(bytes(&message.store)?);
        let (unlinked, []) = message.unlinked.as_chunks::<16>() else { return Err(RecordError::Malformed) };
        let (keks, []) = message.keks.as_chunks::<8>() else { return Err(RecordError::Malformed) };
        let record = Self {
            pod: PodId::from_bytes(bytes(&message.pod)?),
            address: message.address,
            counter: message.counter,
            draining: message.draining,
            version: message.version,
            started: Timestamp(message.started_unix_ms),
            applied: LogPosition(message.applied),
            kafka_ok_within_ms: message.kafka_ok_within_ms,
            unlinked: unlinked.iter().map(|pod| PodId::from_bytes(*pod)).collect(),
            exactly_once: message.exactly_once,
        };
        if record.pod.to_string() != pod {
            return Err(RecordError::Swapped);
        }
        if !record.fits() {
            return Err(RecordError::Malformed);
        }
        Ok(Announced { record, store, keks: keks.iter().map(|name| KeyName(*name)).collect() })
    }

    fn fits(&self) -> bool {
        self.address.len() <= MAX_ADDRESS
            && self.version.len() <= MAX_VERSION
            && self.unlinked.len() <= MAX_UNLINKED
    }
}

impl Store {
    /// Says that a pod lives, for `ttl` from now on by the store's clock. It is named for a day longer, as one that may still
    /// serve, unless it is retired.
    ///
    /// Safe to repeat.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] when address or version are too long, or too many pods out of reach; [`StoreError`].
    pub async fn announce_pod(&self, record: &PodRecord, ttl: Duration) -> Result<(), StoreError> {
        if !record.fits() {
            let record = format!("the record of pod {}", record.pod);
            return Err(StoreError::Record { record, source: RecordError::Malformed });
        }
        self.backend.announce_pod(record.pod, record.encode(&self.kek, self.identity), ttl).await
    }

    /// The pods that live, at most 1024, in no order.
    ///
    /// Only records made by somebody with the key-encryption key count; one older than this process has already seen is left
    /// out ([`distrusted_values`](Self::distrusted_values) counts them). One that no pod of this deployment ever saw newer
    /// passes, so its counter stands still: that is what tells a dead pod, not the list.
    ///
    /// What the pods have applied of the revocation log also tells this process how far the log must reach: a store that was
    /// rolled back as a whole is noticed by it.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn pods(&self) -> Result<Vec<PodRecord>, StoreError> {
        let rows = self.backend.pods().await?;
        self.heartbeats.forget_all_but(&rows);
        Ok(rows.iter().filter(|row| row.live).filter_map(|row| self.trusted_pod(row)).collect())
    }

    /// The pods that are named and do not live: what they announced last is over. Nothing that they said is believed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn silent_pods(&self) -> Result<Vec<PodId>, StoreError> {
        let rows = self.backend.pods().await?;
        Ok(rows.iter().filter(|row| !row.live).filter_map(|row| row.pod.parse().ok()).collect())
    }

    /// Takes a pod off the list: it has ended, or all its slots were fenced and are others' now. Safe to repeat.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn retire_pod(&self, pod: PodId) -> Result<(), StoreError> {
        self.backend.retire_pod(pod).await
    }

    /// Waits, for as long as `patience`, until no pod can serve a device any more that the log withdrew at `position`: each
    /// pod that was announced within the last day has applied it, or was retired. A silent pod that nobody retired is
    /// outstanding, and so is one whose record cannot be trusted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store cannot be asked; the revocation itself stands.
    pub async fn revocation_complete(
        &self,
        position: LogPosition,
        patience: Duration,
    ) -> Result<RevocationOutcome, StoreError> {
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            let rows = self.backend.pods().await?;
            let late = |row: &&PodRow| self.trusted_pod(row).is_none_or(|pod| pod.applied < position);
            // A name that is no pod's was put there by somebody else: there is nobody to wait for.
            let late: Vec<PodId> = rows.iter().filter(late).filter_map(|row| row.pod.parse().ok()).collect();
            if late.is_empty() {
                return Ok(RevocationOutcome::Completed);
            }
            tokio::select! {
                () = &mut deadline => return Ok(RevocationOutcome::Outstanding(late)),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn trusted_pod(&self, row: &PodRow) -> Option<PodRecord> {
        self.announced(row).map(|announced| announced.record)
    }

    /// What a pod announced, unless it cannot be trusted.
    pub(crate) fn announced(&self, row: &PodRow) -> Option<Announced> {
        let announced = PodRecord::decode(&self.kek, &row.pod, &row.blob).and_then(|announced| {
            let record = &announced.record;
            match self.heartbeats.check(record.pod, record.counter) {
                None => {
                    // A witness: a store that ends before what a living pod has applied was rolled back.
                    if announced.store == self.identity {
                        self.log.hear(record.applied.0);
                    }
                    Ok(announced)
                }
                Some(expected) => Err(RecordError::RolledBack { found: record.counter, expected }),
            }
        });
        announced.inspect_err(|error| self.distrust("the record of a pod", error)).ok()
    }
}

#[cfg(test)]
mod pod_tests {
    use super::*;

    #[test]
    fn memory_of_counters_is_bounded_and_keeps_the_named() {
        let heartbeats = Heartbeats::default();
        let pod = |number: u32| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            PodId::from_bytes(bytes)
        };
        let row = |pod: PodId| PodRow { pod: pod.to_string(), blob: Vec::new(), live: true };
        for number in 0..=u32::try_from(REMEMBERED).expect("small") {
            assert_eq!(heartbeats.check(pod(number), 5), None);
        }
        heartbeats.forget_all_but(&[row(pod(3))]);
        assert_eq!(heartbeats.lock().len(), 1);
        assert_eq!(heartbeats.check(pod(3), 4), Some(5));
        assert_eq!(heartbeats.check(pod(4), 4), None);
    }
}
