//! What is so at this moment, as metrics show it. Read from where `/readyz?verbose` and those who act read it, when somebody looks; so
//! they cannot disagree, and nothing is done on the way of a packet.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use sluice_peers::{Aside, PeerState, PeersHandle};
use sluice_svc::readiness::Check;
use tokio::sync::watch;

use crate::cluster::SlotMap;
use crate::standing::Checks;

/// A gauge of this name, by what `observe` says of the moment.
fn gauge(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    observe: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let _registered = meter
        .u64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |observer| observe(observer))
        .build();
}

/// Lets `meter` see what `/readyz?verbose` says of what this process depends on.
pub(crate) fn export_checks(meter: &Meter, checks: &Checks) {
    let one = |name, description, check: &Check| {
        let check = check.clone();
        gauge(meter, name, description, move |seen| seen.observe(check.is_ok().into(), &[]));
    };
    one(
        "sluice.edge.store.answers",
        "1 while the store answers: the line `store` of /readyz?verbose",
        &checks.store,
    );
    one(
        "sluice.edge.store.trusted",
        "1 while the store, when it was last heard, lacked nothing that is known, so that keys are given out: the line `store_trusted` of /readyz?verbose",
        &checks.trusted,
    );
    one(
        "sluice.edge.kafka.answers",
        "1 while Kafka answers and has the topics: the line `kafka` of /readyz?verbose",
        &checks.kafka,
    );
}

/// Lets `meter` see how this pod stands among the others.
pub(crate) fn export_cluster(meter: &Meter, peers: &PeersHandle, slots: &watch::Receiver<Arc<SlotMap>>) {
    let of_slots = |name, description, figure: fn(&SlotMap) -> usize| {
        let slots = slots.clone();
        gauge(meter, name, description, move |seen| seen.observe(figure(&slots.borrow()) as u64, &[]));
    };
    of_slots("sluice.edge.slots.served", "slots that this pod serves", SlotMap::served);
    of_slots("sluice.edge.slots.adopting", "slots that this pod is adopting", SlotMap::adopting);
    of_slots(
        "sluice.edge.slots.unserved",
        "slots that nobody serves as far as this pod knows, those that it is adopting among them",
        SlotMap::unserved,
    );

    let view = peers.view();
    gauge(meter, "sluice.edge.aside", "1 while this pod stands aside, by the reason", move |seen| {
        let aside = view.borrow().aside;
        for (why, reason) in [(Aside::NoKafka, "no_kafka"), (Aside::NoLinks, "no_links")] {
            seen.observe(u64::from(aside == Some(why)), &[KeyValue::new("reason", reason)]);
        }
    });
    let of_peers = |name, description, counts: fn(&PeerState) -> bool| {
        let view = peers.view();
        gauge(meter, name, description, move |seen| {
            let count = view.borrow().peers.iter().filter(|peer| counts(peer)).count();
            seen.observe(count as u64, &[]);
        });
    };
    of_peers("sluice.peers.known", "other pods that live and are on the list", is_known);
    of_peers("sluice.peers.linked", "those of them to which a link stands", |peer| {
        is_known(peer) && peer.linked
    });
    let peers = peers.clone();
    gauge(
        meter,
        "sluice.peers.older_secret",
        "links of this pod that rest on an older secret: 0, but for some seconds after each rotation",
        move |seen| seen.observe(peers.links_by_older_secret() as u64, &[]),
    );
}

const fn is_known(peer: &PeerState) -> bool {
    peer.listed && peer.dead.is_none()
}

#[cfg(test)]
mod tests {
    use sluice_svc::readiness::Readiness;
    use sluice_svc::telemetry::{Service, Telemetry};

    use super::*;

    #[test]
    fn a_gauge_says_what_the_line_of_readyz_says() {
        let telemetry = Telemetry::metrics_only(&Service::new("test", "0")).expect("telemetry");
        let readiness = Readiness::new();
        let checks = Checks::new(&readiness);
        export_checks(&telemetry.meter("test"), &checks);
        let both = [
            (&checks.store, "store", "sluice_edge_store_answers"),
            (&checks.trusted, "store_trusted", "sluice_edge_store_trusted"),
            (&checks.kafka, "kafka", "sluice_edge_kafka_answers"),
        ];
        let agree = |name: &str, gauge: &str, is_ok: bool| {
            let lines = readiness.report().lines;
            let line = format!("[{}] {name} ", if is_ok { '+' } else { '-' });
            assert!(lines.iter().any(|seen| seen.starts_with(&line)), "no `{line}` in {lines:?}");
            let metrics = telemetry.render_metrics().expect("metrics");
            let value = metrics.lines().find(|line| line.starts_with(&format!("{gauge}{{")));
            let expected = if is_ok { " 1" } else { " 0" };
            assert!(value.is_some_and(|line| line.ends_with(expected)), "{gauge}: {value:?}, not {expected}");
        };
        for (check, name, gauge) in both {
            agree(name, gauge, false);
            check.ok();
            agree(name, gauge, true);
            check.failing("gone");
            agree(name, gauge, false);
        }
    }
}
