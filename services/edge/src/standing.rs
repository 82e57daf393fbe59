//! How this process stands: whether the store and Kafka answer it, and whether other pods serve what it cannot. `/readyz?verbose` shows it,
//! metrics do (`crate::gauges`), and the log says when it changes.

use std::sync::Arc;
use std::time::Duration;

use sluice_bus::{BusConfig, BusError};
use sluice_peers::{KAFKA_LOST, View};
use sluice_store::{Store, StoreError};
use sluice_svc::readiness::{Check, Condition, Readiness};
use tokio::sync::watch;

/// How often the store is asked whether it is there.
const ASK_STORE: Duration = Duration::from_secs(1);
/// How often Kafka is asked for its topics. One of many pods asks something smaller all the time, and goes by that.
const ASK_KAFKA: Duration = Duration::from_secs(5);
/// The same of a pod that has nothing else to go by.
const ASK_KAFKA_ALONE: Duration = Duration::from_secs(2);
/// Pause between two questions how safely the topics keep records.
const WEAKNESSES_EVERY: Duration = Duration::from_secs(300);

/// What is shown beside readiness, and does not decide.
#[derive(Debug, Clone)]
pub(crate) struct Checks {
    /// The store answers.
    pub(crate) store: Check,
    /// The store lacked nothing that is known, when it was last heard: keys are given out.
    pub(crate) trusted: Check,
    /// Kafka answers and has the topics.
    pub(crate) kafka: Check,
    /// The topics keep records as safely as they can.
    pub(crate) topics: Check,
}

impl Checks {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        Self {
            store: readiness.check("store"),
            trusted: readiness.check("store_trusted"),
            kafka: readiness.check("kafka"),
            topics: readiness.check("topics"),
        }
    }
}

/// Asks the store, for ever.
pub(crate) async fn watch_store(store: Store, checks: Checks) {
    let mut sight = StoreSight { checks, answered: None, trusted: None };
    loop {
        sight.look(store.check().await);
        tokio::time::sleep(ASK_STORE).await;
    }
}

/// What was seen of the store so far.
struct StoreSight {
    checks: Checks,
    answered: Option<bool>,
    trusted: Option<bool>,
}

impl StoreSight {
    fn look(&mut self, found: Result<(), StoreError>) {
        let (answers, trusted) = match &found {
            Ok(()) => (true, Some(true)),
            Err(StoreError::Replaced | StoreError::RolledBack | StoreError::Record { .. }) => {
                (true, Some(false))
            }
            Err(_) => (false, None),
        };
        if let Err(error) = &found {
            if answers {
                self.checks.trusted.failing(error);
            } else {
                self.checks.store.failing(error);
            }
        }
        if answers {
            self.checks.store.ok();
        }
        if trusted == Some(true) {
            self.checks.trusted.ok();
        }
        match (self.answered.replace(answers), found) {
            (None | Some(true), Err(error)) if !answers => tracing::warn!(
                %error,
                "the store does not answer: no session opens or wakes, and no revocation is heard, until it does; live sessions go on. Look at the servers of store.redis and the way to them"
            ),
            (Some(false), _) if answers => tracing::info!("the store answers again"),
            _ => {}
        }
        // The store itself says why it is not trusted.
        if trusted.is_some()
            && self.trusted.replace(trusted == Some(true)) == Some(false)
            && trusted == Some(true)
        {
            tracing::info!(
                "the store is trusted again: keys are given out, since nothing is missing or what is was accepted"
            );
        }
    }
}

/// What came of asking Kafka for its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Not asked yet, or not for long enough.
    NotYet,
    /// All topics are there.
    Whole,
    /// No answer so far.
    Silent,
    /// It answered, and something is wrong with what it has.
    Wrong(String),
}

/// Asks Kafka for its topics, for ever; `alone` without other pods.
pub(crate) async fn ask_kafka(bus: BusConfig, topics: Check, alone: bool, asked: watch::Sender<Asked>) {
    let mut weaknesses = Weaknesses::default();
    let mut next_weaknesses = None;
    loop {
        let question = sluice_bus::check(&bus);
        tokio::pin!(question);
        // One question at a time: while Kafka is away each takes long, and is answered soon after it is back.
        let answer = match tokio::time::timeout(KAFKA_LOST, &mut question).await {
            Ok(answer) => answer,
            Err(_) => {
                asked.send_replace(Asked::Silent);
                question.await
            }
        };
        let is_there = answer.is_ok();
        asked.send_replace(match answer {
            Ok(()) => Asked::Whole,
            Err(BusError::Unreachable { .. }) => Asked::Silent,
            Err(error) => Asked::Wrong(error.to_string()),
        });
        let now = tokio::time::Instant::now();
        if is_there && next_weaknesses.is_none_or(|at| at <= now) {
            next_weaknesses = Some(now + WEAKNESSES_EVERY);
            weaknesses.ask(&bus, &topics).await;
        }
        tokio::time::sleep(if alone { ASK_KAFKA_ALONE } else { ASK_KAFKA }).await;
    }
}

/// Shows whether Kafka answers, for ever. One of many pods goes by what it tells the others with each heartbeat, and steps aside by.
pub(crate) async fn watch_kafka(
    mut sight: KafkaSight,
    mut asked: watch::Receiver<Asked>,
    mut view: Option<watch::Receiver<Arc<View>>>,
) {
    loop {
        let lost = view.as_mut().map(|view| view.borrow_and_update().kafka_is_lost);
        let last = asked.borrow_and_update().clone();
        sight.look(lost, &last);
        let heard = async {
            match &mut view {
                Some(view) => view.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = heard => if changed.is_err() { return },
            changed = asked.changed() => if changed.is_err() { return },
        }
    }
}

/// What was seen of Kafka so far.
pub(crate) struct KafkaSight {
    check: Check,
    brokers: String,
    answered: bool,
}

impl KafkaSight {
    /// `answers`: as the log has said it until now.
    pub(crate) fn new(check: Check, bus: &BusConfig, answers: bool) -> Self {
        Self { check, brokers: bus.brokers.join(","), answered: answers }
    }

    /// `lost`: whether Kafka has not answered for long, where something asks all the time.
    fn look(&mut self, lost: Option<bool>, asked: &Asked) {
        if lost.is_none() && *asked == Asked::NotYet {
            return;
        }
        let silent = lost.unwrap_or(*asked == Asked::Silent);
        match asked {
            _ if silent => self.check.failing(format_args!(
                "no answer from Kafka at {} for {} s: nothing is acknowledged",
                self.brokers,
                KAFKA_LOST.as_secs()
            )),
            Asked::Wrong(what) => self.check.failing(what),
            Asked::NotYet | Asked::Whole | Asked::Silent => self.check.ok(),
        }
        match (std::mem::replace(&mut self.answered, !silent), silent) {
            (true, true) => tracing::warn!(
                brokers = self.brokers,
                "Kafka does not answer: nothing is acknowledged until it does, and devices over UDP send again. Look at the brokers and the way to them"
            ),
            (false, false) => {
                tracing::info!("Kafka answers: what waits is committed and acknowledged");
            }
            _ => {}
        }
    }
}

/// Not ready while this pod stands aside and another one serves what devices bring. Only then: what is wrong for all pods must not take
/// every one of them out of the load balancer.
pub(crate) async fn follow_standing(mut view: watch::Receiver<Arc<View>>, condition: Condition) {
    loop {
        let (aside, others) = {
            let view = view.borrow_and_update();
            (view.aside, view.others_serve_instead)
        };
        match aside.filter(|_| others) {
            None => condition.met(),
            Some(why) => condition.unmet(why),
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// What makes an acknowledgement worth less than it could be; logged when it changes.
#[derive(Default)]
struct Weaknesses(Vec<String>);

impl Weaknesses {
    async fn ask(&mut self, bus: &BusConfig, check: &Check) {
        match sluice_bus::weaknesses(bus).await {
            Ok(found) => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                for weakness in found.iter().filter(|weakness| !self.0.contains(weakness)) {
                    tracing::warn!(weakness, "the topics keep records less safely than they could");
                }
                if found.is_empty() {
                    check.ok()
                } else {
                    check.failing(found.join("; "))
                }
                self.0 = found;
            }
            Err(error) => check.failing(format_args!("cannot be described: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
