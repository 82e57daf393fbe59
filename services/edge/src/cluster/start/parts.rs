//! What a pod finds out before it joins the others: what all share, and whether it belongs to them at all. Nothing is fenced here, and
//! nobody served; what does not fit yet is waited for, or refused with what to do.

use std::time::Duration;

use sluice_bus::{BusConfig, BusError, Guarantee, Topic, TopicNames, Witnesses};
use sluice_store::{ClusterSecrets, LogPosition, Store, StoreError, StoreWitness};
use tokio::time::Instant;

use super::JoinError;
use super::advertised::resolve;
use crate::cluster::members::TTL;
use crate::cluster::slot_map::{Place, SlotMap};
use crate::config::ClusterConfig;

/// Pause between two questions to a Kafka that is away.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Pause between two looks whose the ledgers are.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often a pod that waits for an operator says so.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How long pods of another guarantee may take to end: those that were killed are listed for [`TTL`].
const OTHERS_END: Duration = TTL.saturating_add(Duration::from_secs(5));

/// What pods need to know before they can be one of many.
pub(crate) struct ClusterParts {
    secrets: ClusterSecrets,
    slots: u16,
}

impl ClusterParts {
    /// Waits for Kafka, which alone knows how many slots there are: it may be away when a pod starts, and comes back sooner than a pod
    /// that is started ever more seldom. Waits as well while the ledgers belong to pods of another store.
    ///
    /// # Errors
    ///
    /// [`JoinError`]: without the store, or the ledger's topic, no pod starts as one of many; nor one that the others cannot reach, or
    /// that promises something else than they do.
    pub(crate) async fn read(
        config: &ClusterConfig,
        store: &Store,
        bus: &BusConfig,
    ) -> Result<Self, JoinError> {
        resolve(&config.advertised()).await?;
        let secrets = store.cluster_secrets().await.map_err(JoinError::Secrets)?;
        let mut waiting = false;
        let slots = loop {
            match sluice_bus::slots(bus).await {
                Ok(slots) => break slots,
                Err(error @ BusError::Unreachable { .. }) => {
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::warn!(%error, "waiting for Kafka: it knows how many slots there are");
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(JoinError::Ledger(error)),
            }
        };
        if let Some(differs) = differing(bus, slots) {
            tracing::warn!("{differs}");
        }
        let found = own_ledgers(store, bus).await?;
        hear_witnesses(store, found).await;
        promise_the_same(store, bus.guarantee()).await?;
        Ok(Self { secrets, slots })
    }

    #[cfg(test)]
    pub(super) const fn new(secrets: ClusterSecrets, slots: u16) -> Self {
        Self { secrets, slots }
    }

    /// The secrets at the start; shards hear of later ones.
    pub(crate) const fn secrets(&self) -> &ClusterSecrets {
        &self.secrets
    }

    pub(super) const fn slots(&self) -> u16 {
        self.slots
    }

    /// Nobody is known to serve anything yet.
    pub(crate) fn slot_map(&self) -> SlotMap {
        SlotMap::new(vec![Place::Nowhere; usize::from(self.slots)])
    }
}

/// What to say where the ledger has another number of slots than is configured.
fn differing(bus: &BusConfig, slots: u16) -> Option<String> {
    let topic = TopicNames::new(&bus.topic_prefix);
    let topic = topic.of(Topic::Ledger);
    (bus.slots != slots).then(|| {
        format!(
            "bus.slots is {}, but {topic} was made with {slots} partitions: {slots} slots are used, and the number of an existing ledger cannot be changed. Set bus.slots = {slots}",
            bus.slots
        )
    })
}

/// Reads the ends of the ledgers, once they are those of this store. A pod that was given another deployment's topics by mistake would
/// take the slots of a fleet that lives.
async fn own_ledgers(store: &Store, bus: &BusConfig) -> Result<Witnesses, JoinError> {
    let (mut told, mut asked): (Option<Instant>, bool) = (None, false);
    loop {
        let found = ends(bus).await?;
        match strangers(store, &found).await {
            Ok(strangers) if strangers.is_empty() => {
                if told.is_some() {
                    tracing::info!("the ledgers are those of this store now");
                }
                return Ok(found);
            }
            Ok(strangers) => {
                if told.is_none_or(|told| told.elapsed() >= SAY_AGAIN) {
                    told = Some(Instant::now());
                    tracing::error!(
                        slots = strangers.len(),
                        of = hex::encode(strangers.first().copied().unwrap_or_default()),
                        ours = hex::encode(store.life()),
                        topic_prefix = bus.topic_prefix,
                        "the ledgers belong to the pods of another store: this pod takes no slot from them and waits, not ready. If it is of another deployment than they are, set a bus.topic_prefix that no other one has; if it is one of them, set store.redis.urls and store.redis.key_prefix as theirs; if the store of this deployment was emptied or replaced for good, run `sluice store accept`"
                    );
                }
            }
            // Whoever waits for an operator sees what he did: a store that was restored is read by a new process.
            Err(error @ StoreError::Replaced) => return Err(JoinError::Store(error)),
            Err(error) => {
                if !std::mem::replace(&mut asked, true) {
                    tracing::warn!(%error, "waiting for the store: it says whether the ledgers are those of another one");
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// For each slot that another store's pods had last, which one that is; none of those in whose place this one stands.
async fn strangers(store: &Store, found: &Witnesses) -> Result<Vec<[u8; 16]>, StoreError> {
    let mut strangers = Vec::new();
    for (_, life) in &found.last {
        if strangers.last() == Some(life) || !store.stands_in_place_of(*life).await? {
            strangers.push(*life);
        }
    }
    Ok(strangers)
}

/// What the ends of the ledgers say, as soon as Kafka says it.
async fn ends(bus: &BusConfig) -> Result<Witnesses, JoinError> {
    let mut waiting = false;
    loop {
        match sluice_bus::witnesses(bus).await {
            Ok(found) => return Ok(found),
            Err(error @ BusError::TopicMissing(_)) => return Err(JoinError::Ledger(error)),
            Err(error) => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::warn!(%error, "waiting for Kafka: its ledgers know how far the store had got");
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Hears from the ledgers how far the store had got, before anything is taken from it: when no other pod runs, nobody else knows whether
/// it was rolled back meanwhile. A store that is not trusted for it gives no keys; the pod runs all the same, and says so.
async fn hear_witnesses(store: &Store, found: Witnesses) {
    if found.unread > 0 {
        tracing::warn!(slots = found.unread, "not every ledger was heard about the store");
    }
    for heard in found.heard {
        let witness = StoreWitness { position: LogPosition(heard.position), store: heard.store };
        match store.hear_witness(witness).await {
            // It has said so itself.
            Ok(()) | Err(StoreError::RolledBack) => {}
            Err(error) => {
                tracing::warn!(%error, "the store is not trusted until it says whether it is whole");
            }
        }
    }
}

/// Refuses to be a pod among others that promise something else: who does not fence a slot, and who relies on it, would both write for it.
async fn promise_the_same(store: &Store, guarantee: Guarantee) -> Result<(), JoinError> {
    let until = Instant::now() + OTHERS_END;
    let mut waiting = false;
    loop {
        let pods = store.pods().await.map_err(JoinError::Store)?;
        let mut others = pods.iter().filter_map(|pod| {
            let theirs = promised(pod.exactly_once?);
            (theirs != guarantee).then(|| (theirs, pod.address.clone()))
        });
        let Some((theirs, address)) = others.next() else { return Ok(()) };
        if Instant::now() >= until {
            return Err(JoinError::Guarantee { ours: guarantee.as_str(), theirs: theirs.as_str(), address });
        }
        if !std::mem::replace(&mut waiting, true) {
            tracing::warn!(
                address,
                "a pod of this fleet runs bus.guarantee = \"{}\", and this one is configured \"{}\": it takes no slot and waits for {} s for all such pods to end",
                theirs.as_str(),
                guarantee.as_str(),
                OTHERS_END.as_secs()
            );
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What a pod promises that says so of itself.
pub(in crate::cluster) const fn promised(exactly_once: bool) -> Guarantee {
    if exactly_once { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce }
}

#[cfg(test)]
mod tests {
    use sluice_bus::Witness;
    use sluice_store::{KekRing, PodRecord};
    use sluice_types::{PodId, Timestamp};

    use super::*;

    async fn store() -> Store {
        Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store")
    }

    #[tokio::test]
    async fn ledgers_of_another_store_are_strangers_until_an_operator_accepts_that_very_one() {
        let (store, other, third) = (store().await, [7; 16], [8; 16]);
        let found = |last: &[[u8; 16]]| Witnesses {
            // However far another one had got: that is not asked here.
            heard: vec![Witness { store: other, position: 0 }],
            last: (0..).zip(last.iter().copied()).collect(),
            unread: 0,
        };
        let nobody: [[u8; 16]; 0] = [];
        let seen = async |last: &[[u8; 16]]| strangers(&store, &found(last)).await.expect("an answer");
        assert_eq!(seen(&[]).await, nobody, "ledgers that nobody has written, or releases before the header");
        assert_eq!(seen(&[store.life(), store.life()]).await, nobody);
        // A single slot of another one's is enough.
        assert_eq!(seen(&[store.life(), other, other]).await, [other, other]);
        store.accept_log(None).await.expect("accepted");
        assert_eq!(seen(&[other]).await, [other], "revocations that may be missing are another thing");
        store.accept_in_place_of(None, &[other]).await.expect("accepted");
        assert_eq!(seen(&[other, store.life(), third]).await, [third]);
    }

    #[tokio::test]
    async fn pods_of_another_guarantee_are_waited_for_and_then_refuse_a_newcomer() {
        let store = store().await;
        let say = |exactly_once| {
            let record = PodRecord {
                pod: PodId::from_bytes([7; 16]),
                address: "10.0.0.7:9443".to_owned(),
                counter: 1,
                draining: true,
                version: "0.1.0".to_owned(),
                started: Timestamp(0),
                applied: LogPosition::START,
                kafka_ok_within_ms: None,
                unlinked: Vec::new(),
                exactly_once,
            };
            let store = store.clone();
            async move { store.announce_pod(&record, Duration::from_secs(3600)).await.expect("announced") }
        };
        let (exactly, at_least) = (Guarantee::ExactlyOnce, Guarantee::AtLeastOnce);
        promise_the_same(&store, at_least).await.expect("alone");
        say(None).await;
        promise_the_same(&store, at_least).await.expect("of a release that does not say");
        say(Some(true)).await;
        promise_the_same(&store, exactly).await.expect("the same");

        tokio::time::pause();
        let began = Instant::now();
        let refused = promise_the_same(&store, at_least).await.expect_err("refused").to_string();
        assert!(began.elapsed() >= TTL, "a pod that was killed is listed for so long");
        for word in ["exactly_once", "at_least_once", "10.0.0.7:9443", "stop all pods"] {
            assert!(refused.contains(word), "{word} is not in: {refused}");
        }
        let retired = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            store.retire_pod(PodId::from_bytes([7; 16])).await.expect("retired");
        };
        let (fits, ()) = tokio::join!(promise_the_same(&store, at_least), retired);
        fits.expect("it has ended meanwhile");
    }

    #[test]
    fn another_number_of_slots_than_configured_is_said_with_both() {
        let bus = BusConfig { slots: 16, topic_prefix: "acme".to_owned(), ..BusConfig::default() };
        assert_eq!(differing(&bus, 16), None);
        let said = differing(&bus, 12).expect("it differs");
        for word in ["bus.slots is 16", "acme.ledger", "12 slots are used", "bus.slots = 12"] {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
    }
}
