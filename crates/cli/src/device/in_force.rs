//! Whether a revocation has reached every edge.
//!
//! Edges say in the store how far they have applied the log: each one by name, and pods that share sessions by pod as well, since those
//! must be waited for while they are silent.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use sluice_store::{AppliedPosition, LogPosition, RevocationOutcome, Store};

/// An edge repeats its sign of life each five seconds; one that has been silent for longer than this has ended.
const ALIVE: Duration = Duration::from_secs(30);

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How far a revocation has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// No edge has said anything lately.
    NoEdge,
    Everywhere,
    /// These may still serve the device.
    Outstanding(Vec<String>),
    /// The store did not answer; why.
    Unknown(String),
}

/// A device that is revoked, and may still be served somewhere. (2 is a command line that is none.)
const NOT_IN_FORCE: u8 = 3;

impl Spread {
    pub(super) const fn is_complete(&self) -> bool {
        matches!(self, Self::NoEdge | Self::Everywhere)
    }

    /// The status by which a script hears of it.
    pub(super) const fn exit_code(&self) -> u8 {
        if self.is_complete() { 0 } else { NOT_IN_FORCE }
    }

    pub(super) fn outstanding(&self) -> &[String] {
        match self {
            Self::Outstanding(names) => names,
            Self::NoEdge | Self::Everywhere | Self::Unknown(_) => &[],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEdge => {
                f.write_str(
                    "and no edge has been heard of lately: one that starts applies it before it serves, one that lost the store as soon as \
                     it reaches it",
                )
            }
            Self::Everywhere => f.write_str("in force on all pods"),
            Self::Outstanding(names) => {
                write!(f, "NOT YET in force on {}: they may still serve the device", names.join(", "))
            }
            Self::Unknown(why) => {
                write!(f, "and which pods have applied it is NOT KNOWN: {why}; ask again with the same command")
            }
        }
    }
}

/// Waits for as long as `patience` until every edge has applied the log up to `position`.
pub(super) async fn spread(store: &Store, position: LogPosition, patience: Duration) -> Result<Spread> {
    let deadline = tokio::time::sleep(patience);
    tokio::pin!(deadline);
    loop {
        // One look each: the patience is for both together.
        let pods = store.revocation_complete(position, Duration::ZERO).await?;
        let found = judge(pods, &store.applied_positions().await?, position);
        if found.is_complete() {
            return Ok(found);
        }
        tokio::select! {
            () = &mut deadline => return Ok(found),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn judge(pods: RevocationOutcome, edges: &[AppliedPosition], position: LogPosition) -> Spread {
    let alive = || edges.iter().filter(|edge| edge.age <= ALIVE);
    let late = alive().filter(|edge| edge.position < position).map(|edge| edge.pod.clone());
    let silent = match pods {
        RevocationOutcome::Completed => Vec::new(),
        RevocationOutcome::Outstanding(pods) => pods,
    };
    let late: Vec<String> = late.chain(silent.iter().map(|pod| format!("pod {pod}"))).collect();
    match (late.is_empty(), alive().next()) {
        (false, _) => Spread::Outstanding(late),
        (true, Some(_)) => Spread::Everywhere,
        (true, None) => Spread::NoEdge,
    }
}

#[cfg(test)]
mod tests {
    use sluice_store::KekRing;
    use sluice_types::PodId;

    use super::*;

    const HERE: LogPosition = LogPosition(7);

    fn edge(name: &str, position: u64, age: u64) -> AppliedPosition {
        AppliedPosition {
            pod: name.to_owned(),
            position: LogPosition(position),
            age: Duration::from_secs(age),
        }
    }

    #[test]
    fn edges_that_are_behind_and_pods_that_are_silent_are_named() {
        let all = [edge("a", 7, 1), edge("b", 8, 4)];
        assert_eq!(judge(RevocationOutcome::Completed, &all, HERE), Spread::Everywhere);
        let one_behind = [edge("a", 7, 1), edge("b", 6, 4)];
        let found = judge(RevocationOutcome::Completed, &one_behind, HERE);
        assert_eq!(found, Spread::Outstanding(vec!["b".to_owned()]));
        assert_eq!(found.to_string(), "NOT YET in force on b: they may still serve the device");
        let silent = RevocationOutcome::Outstanding(vec![PodId::from_bytes([1; 16])]);
        let found = judge(silent, &all, HERE);
        assert_eq!(found.outstanding(), [format!("pod {}", PodId::from_bytes([1; 16]))]);
        assert!(!found.is_complete());
    }

    #[test]
    fn a_script_hears_whether_it_is_in_force_by_the_exit_code() {
        let some = || vec!["a".to_owned()];
        for (spread, code) in [
            (Spread::Everywhere, 0),
            (Spread::NoEdge, 0),
            (Spread::Outstanding(some()), NOT_IN_FORCE),
            (Spread::Unknown("no answer".to_owned()), NOT_IN_FORCE),
        ] {
            assert_eq!(spread.exit_code(), code, "{spread}");
        }
    }

    #[test]
    fn an_edge_that_ended_long_ago_is_not_waited_for() {
        let ended = [edge("a", 1, 3000)];
        assert_eq!(judge(RevocationOutcome::Completed, &ended, HERE), Spread::NoEdge);
    }

    #[tokio::test]
    async fn an_edge_that_applies_it_while_we_wait_is_seen() {
        let store = Store::in_memory(KekRing::generate().expect("random bytes")).await.expect("a store");
        store.report_applied("a", LogPosition(6)).await.expect("noted");
        let now = spread(&store, HERE, Duration::from_millis(1)).await.expect("a store in memory");
        assert_eq!(now, Spread::Outstanding(vec!["a".to_owned()]));
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { spread(&store, HERE, Duration::from_secs(60)).await }
        });
        store.report_applied("a", HERE).await.expect("noted");
        let found = waiting.await.expect("no panic").expect("a store in memory");
        assert_eq!(found, Spread::Everywhere);
    }
}
