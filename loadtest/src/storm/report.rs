//! What is said of a storm.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::progress::{Progress, starvation};
use super::watch::{Seen, Usage};
use super::{Run, Storm};
use crate::report::ratio;
use crate::system;

/// The least that the cryptography needs.
pub(super) struct Bounds {
    /// Seconds of a processor for a handshake, at a pod.
    pub(super) pods: f64,
    /// The same at a device, without the key pair.
    pub(super) devices: f64,
    pub(super) cores: usize,
    pub(super) handshakes: u32,
}

impl Bounds {
    fn report(&self, took: Option<f64>) -> Value {
        let bound = |each: f64| {
            let seconds = f64::from(self.handshakes) * each / self.cores as f64;
            json!({
                "handshake_us": each * 1e6,
                "seconds": seconds,
                "times_as_long": took.and_then(|took| ratio(took, seconds)),
            })
        };
        json!({
            "cores": self.cores,
            "pods": bound(self.pods),
            "generator": bound(self.devices),
            "machine": bound(self.pods + self.devices),
        })
    }
}

pub(super) fn report(storm: &Storm, run: &Run, budget: usize, bounds: &Bounds) -> Value {
    let (fleet, counts) = (&run.fleet, &run.fleet.counts);
    let stories: Vec<_> = fleet.stories().collect();
    let returns: Vec<Duration> =
        fleet.returns().into_iter().map(|at| at.saturating_duration_since(run.since)).collect();
    let last = returns.last().filter(|_| returns.len() == stories.len());
    let took = last.map(Duration::as_secs_f64);
    let pods = storm.edges.iter().zip(&run.pods);
    json!({
        "devices": stories.len(),
        "back": fleet.back(),
        "seconds_until_all_are_back": took,
        "progress": Progress::new(&returns, stories.len()).map(|progress| progress.report()),
        "waits": starvation(&stories),
        "closed": counts.closed,
        "records": { "delivered": counts.delivered, "given_up": counts.given_up },
        "handshake_queue_budget": budget,
        "pods": pods.map(|(edge, pod)| of_pod(pod, edge.port())).collect::<Vec<_>>(),
        "generator": {
            "timers_late": counts.lag.report(),
            "datagrams_waited": counts.queued.report(),
            "datagrams_lost": fleet.lost(),
            "datagrams_per_device": {
                "sent": ratio(counts.datagrams_sent as f64, stories.len() as f64),
                "received": ratio(counts.datagrams_received as f64, stories.len() as f64),
            },
            "unsent": counts.unsent,
        },
        "processor_seconds": processors(run),
        "crypto_bound": bounds.report(took),
    })
}

/// What a pod says of itself, and its socket.
fn of_pod(pod: &Seen, port: u16) -> Value {
    let sum = |name: &str, label: &str| pod.last.sum(name, label);
    let dropped = |reason: &str| sum("sluice_edge_dropped_total", &format!("reason=\"{reason}\""));
    let in_progress = pod.looks.iter().map(|look| look.in_progress);
    json!({
        "handshakes_in_progress_max": in_progress.fold(0.0, f64::max),
        "handshakes_started": sum("sluice_edge_handshakes_started_total", "transport=\"udp\""),
        "sessions_opened": sum("sluice_edge_sessions_opened_total", "transport=\"udp\""),
        "dropped": {
            "handshakes_full": dropped("handshakes_full"),
            "handshake_timeout": dropped("handshake_timeout"),
            "not_journaled": dropped("not_journaled"),
            "evicted": dropped("evicted"),
            "penalty": dropped("penalty"),
            "proof": dropped("proof"),
            "in_the_socket": system::datagrams_lost(port),
        },
        "key_lookups_failed": sum("sluice_edge_key_lookups_failed_total", ""),
        // A pod that is taken for dead while it runs loses its slots, and its links end.
        "slots": {
            "adopted": sum("sluice_edge_slots_adopted_total", ""),
            "left": sum("sluice_edge_slots_left_total", ""),
            "lost": sum("sluice_edge_slots_lost_total", ""),
        },
        "links": {
            "opened": sum("sluice_peers_links_opened_total", ""),
            "ended": sum("sluice_peers_links_ended_total", ""),
            "idle": sum("sluice_peers_links_idle_total", ""),
            "heartbeats_sent": sum("sluice_peers_heartbeats_sent_total", ""),
            "heartbeats_received": sum("sluice_peers_heartbeats_received_total", ""),
        },
        "looks": pod.looks.len(),
        "slowest_answer_of_admin_ms": pod.slowest_answer.as_millis(),
    })
}

/// What each process used from the first ready pod to the end.
fn processors(run: &Run) -> Value {
    let each = &run.usages.each;
    let Some((first, last)) = each.iter().rev().find(|usage| usage.at <= run.start).zip(each.last()) else {
        return Value::Null;
    };
    let mut report = json!({
        "of_the_machine": (last.at - first.at).as_secs_f64(),
        "idle": last.idle - first.idle,
    });
    for (index, watched) in run.watched.iter().enumerate() {
        let threads = run.usages.threads.get(index).into_iter().flatten();
        // The many that do next to nothing are not worth a line.
        let busy =
            threads.filter(|(_, seconds)| **seconds >= 0.1).collect::<std::collections::BTreeMap<_, _>>();
        report[&watched.name] =
            json!({ "used": used(first, last, index), "by_thread_since_its_start": busy });
    }
    report
}

/// What a process used between two looks. One that began meanwhile had used nothing before.
fn used(first: &Usage, last: &Usage, index: usize) -> Option<f64> {
    let (before, after) = (first.processes.get(index)?, last.processes.get(index)?);
    let before = before.unwrap_or(0.0);
    after.map(|after| (after - before).max(0.0))
}

/// One line for each second since the first pod was ready.
pub(super) fn table(run: &Run) -> String {
    let mut text = String::from(
        "second  back attempts trying  late p50/p99/max ms   in progress at each pod   processors of",
    );
    for watched in &run.watched {
        let _ = write!(text, " {}", watched.name);
    }
    text.push_str(" idle\n");
    for (number, second) in (0_u64..).zip(&run.seconds) {
        let [p50, p99, max] = second.late.map(|late| late.as_millis());
        let _ = write!(
            text,
            "{number:6} {:5} {:8} {:6}  {p50:5} {p99:6} {max:6}  ",
            second.back, second.attempts, second.trying
        );
        let end = run.start + Duration::from_secs(number + 1);
        for pod in &run.pods {
            let look = pod.looks.iter().rev().find(|look| look.at <= end);
            let _ = write!(text, " {:6}", look.map_or(0.0, |look| look.in_progress));
        }
        text.push_str("  ");
        match around(&run.usages.each, end) {
            Some((before, after)) => {
                let time = (after.at - before.at).as_secs_f64();
                for index in 0..run.watched.len() {
                    let _ = write!(text, " {:5.2}", used(before, after, index).unwrap_or(0.0) / time);
                }
                let _ = writeln!(text, " {:5.2}", (after.idle - before.idle) / time);
            }
            None => text.push('\n'),
        }
    }
    text
}

/// The last look by then, and the one before it.
fn around(usages: &[Usage], by: Instant) -> Option<(&Usage, &Usage)> {
    let last = usages.iter().rposition(|usage| usage.at <= by)?;
    Some((usages.get(last.checked_sub(1)?)?, usages.get(last)?))
}
