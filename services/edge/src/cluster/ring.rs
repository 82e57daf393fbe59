//! The secrets that all pods share change while the pods run: this follows them.

use std::time::Duration;

use sluice_peers::{PeerSecret, PeerSecrets};
use sluice_store::{ClusterSecrets, Purpose, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::link::{ShardLink, ToShard};
use crate::secrets::Secrets;

/// Longest pause between two looks at the ring.
const LONGEST: Duration = Duration::from_secs(5);

/// Shortest pause, whatever is configured.
const SHORTEST: Duration = Duration::from_millis(50);

/// How often the ring is looked at: four times while a new key is known and not used yet, so that one failed look is no harm.
fn pace(ahead: Duration) -> Duration {
    (ahead / 4).clamp(SHORTEST, LONGEST)
}

/// The secrets of peer links out of the cluster's.
pub(super) fn peer_secrets(secrets: &ClusterSecrets) -> Option<PeerSecrets> {
    let of = |id| secrets.secret(id, Purpose::PeerCa).map(|secret| PeerSecret::from_bytes(*secret.expose()));
    let current = of(secrets.current_id())?;
    let others = secrets.ids().filter(|&id| id != secrets.current_id()).filter_map(of);
    Some(PeerSecrets::new(current, others))
}

/// Until told to stop. While the store does not answer, the secrets stay as they were.
pub(super) async fn follow_ring(
    store: Store,
    ring: watch::Sender<ClusterSecrets>,
    peers: watch::Sender<PeerSecrets>,
    stop: CancellationToken,
) {
    let mut each = tokio::time::interval(pace(store.cluster_keys().ahead));
    each.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = each.tick() => {}
            () = stop.cancelled() => return,
        }
        match store.cluster_secrets().await {
            Ok(found) => {
                failing = false;
                if take_over(&ring, &found)
                    && let Some(new) = peer_secrets(&found)
                {
                    tracing::debug!(secrets = ?found, "the secrets of the cluster have changed");
                    peers.send_replace(new);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the secrets of the cluster cannot be read; those at hand stay in force");
                }
            }
        }
    }
}

/// Whether there is anything new: other keys, or another one of them in force, which is a matter of time alone.
fn take_over(ring: &watch::Sender<ClusterSecrets>, found: &ClusterSecrets) -> bool {
    ring.send_if_modified(|known| {
        let same = known.version() == found.version() && known.current_id() == found.current_id();
        if !same {
            *known = found.clone();
        }
        !same
    })
}

/// Hands what changes to the shards, until nothing can.
pub(super) async fn hand_out(mut ring: watch::Receiver<ClusterSecrets>, shards: Vec<ShardLink>) {
    while ring.changed().await.is_ok() {
        let Some(secrets) = Secrets::shared(&ring.borrow_and_update()) else { continue };
        for shard in &shards {
            shard.send(ToShard::Secrets(Box::new(secrets.duplicate()))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_store::{ClusterKeysConfig, LocalConfig, StoreConfig};
    use usmp::crypto::AwsLc;

    use super::*;

    /// A test that waits this long has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_new_key_is_met_before_it_is_used() {
        for ahead in [Duration::from_millis(200), Duration::from_secs(10), Duration::from_secs(60)] {
            assert!(2 * pace(ahead) <= ahead, "{ahead:?}");
        }
        assert_eq!(pace(Duration::from_secs(3600)), LONGEST);
    }

    #[tokio::test]
    async fn names_made_by_a_key_are_read_after_it_was_followed_and_after_it_was_destroyed() {
        let folder = tempfile::tempdir().expect("a folder");
        let kek_file = folder.path().join("kek");
        let kek: Vec<u8> = (0..32).map(|byte: u8| byte * 7 + 1).collect();
        std::fs::write(&kek_file, kek).expect("room");
        let config = StoreConfig {
            kek_file,
            cluster_keys: ClusterKeysConfig {
                rotate_after: Duration::from_millis(400),
                keep: Duration::from_millis(300),
                ahead: Duration::from_millis(200),
            },
            local: LocalConfig { path: folder.path().join("store") },
            ..StoreConfig::default()
        };
        let store = Store::open(&config).await.expect("a store");
        let first = store.cluster_secrets().await.expect("a ring");
        let born = Secrets::shared(&first).expect("a key in force").ids.mint::<AwsLc>(9, [3; 16]).prefix();
        let (ring_tx, mut ring) = watch::channel(first.clone());
        let (peers, linked) = watch::channel(peer_secrets(&first).expect("a key in force"));
        let stop = CancellationToken::new();
        let following = tokio::spawn(follow_ring(store, ring_tx, peers, stop.clone()));

        let (mut followed, mut destroyed) = (false, false);
        let seen = async {
            while !(followed && destroyed) {
                ring.changed().await.expect("followed");
                let now = ring.borrow_and_update().clone();
                let shared = Secrets::shared(&now).expect("a key in force");
                assert_eq!(shared.ids.slot::<AwsLc>(born), Some(9), "{now:?}");
                // A pod that is a step behind reads what this one names.
                followed |= now.current_id() != first.current_id();
                destroyed |= now.secret(first.current_id(), Purpose::Cookie).is_none();
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("keys follow each other");
        assert!(linked.has_changed().expect("followed"), "links hear of it too");
        stop.cancel();
        following.await.expect("no panic");
    }
}
