//! What is seen of pods and servers from outside, beside the devices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::admin::{self, Series};
use crate::system;

/// How often the pods are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// One look at a pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) in_progress: f64,
}

/// All that was seen of a pod.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) looks: Vec<Look>,
    pub(super) slowest_answer: Duration,
    pub(super) last: Series,
}

/// Returns once a pod is ready.
pub(super) fn first_ready(admins: &[SocketAddr], over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && !admins.iter().any(|&admin| admin::ready(admin)) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Looks at a pod until it is over.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub(super) fn watch(admin: SocketAddr, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut last = false;
    while !last {
        // Once more when all is over.
        last = over.load(Ordering::Relaxed);
        let at = Instant::now();
        // It is not there yet at first.
        if let Ok(series) = admin::metrics(admin) {
            let udp = "transport=\"udp\"";
            let begun = series.sum("sluice_edge_handshakes_started_total", udp);
            let in_progress = begun - series.sum("sluice_edge_handshakes_ended_total", udp);
            seen.slowest_answer = seen.slowest_answer.max(at.elapsed());
            seen.looks.push(Look { at, in_progress });
            seen.last = series;
        }
        if !last {
            std::thread::sleep(LOOK);
        }
    }
    seen
}

/// A process whose time is counted.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) name: String,
    /// Where it listens; `None` for this process.
    pub(super) port: Option<u16>,
}

impl Watched {
    pub(super) fn new(name: impl Into<String>, port: Option<u16>) -> Self {
        Self { name: name.into(), port }
    }

    fn find(&self) -> Option<u32> {
        self.port.map_or_else(|| Some(std::process::id()), system::listener)
    }
}

/// The port of an address on this machine, with or without a scheme and a name before it.
pub(super) fn local_port(address: &str) -> Option<u16> {
    let address = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    let address = address.split('/').next()?.rsplit('@').next()?;
    let address: SocketAddr = address.replace("localhost", "127.0.0.1").parse().ok()?;
    address.ip().is_loopback().then(|| address.port())
}

/// Processor time of each process, and how much the machine did not use, each since it was looked at first.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    pub(super) at: Instant,
    /// In seconds, in the order of those that are watched.
    pub(super) processes: Vec<Option<f64>>,
    pub(super) idle: f64,
}

/// What was seen of them.
#[derive(Debug, Default)]
pub(super) struct Usages {
    pub(super) each: Vec<Usage>,
    /// At the end, by the names of threads without their numbers.
    pub(super) threads: Vec<BTreeMap<String, f64>>,
}

/// Looks at the processes every second until it is over.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub(super) fn account(watched: &[Watched], over: &AtomicBool) -> Usages {
    let (mut usages, mut ids) = (Usages::default(), vec![None; watched.len()]);
    loop {
        let last = over.load(Ordering::Relaxed);
        let processes = watched.iter().zip(&mut ids).map(|(watched, id)| {
            let seconds = id.and_then(system::processor_seconds);
            if seconds.is_none() {
                *id = watched.find();
            }
            seconds.or_else(|| id.and_then(system::processor_seconds))
        });
        let processes = processes.collect();
        usages.each.push(Usage { at: Instant::now(), processes, idle: system::idle_seconds() });
        if last {
            usages.threads = ids.iter().map(|id| id.map(system::threads).unwrap_or_default()).collect();
            return usages;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_this_machine_are_looked_for() {
        assert_eq!(local_port("127.0.0.1:9092"), Some(9092));
        assert_eq!(local_port("localhost:9092"), Some(9092));
        assert_eq!(local_port("redis://user:pass@127.0.0.1:6379/3"), Some(6379));
        assert_eq!(local_port("rediss://[::1]:6379"), Some(6379));
        assert_eq!(local_port("192.0.2.1:9092"), None);
        assert_eq!(local_port("kafka"), None);
    }
}
