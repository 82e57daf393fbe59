//! All pods are gone, and then a whole fleet comes back at once.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::admin::{self, Series};
use crate::fleet::Fleet;
use crate::limits::handshake_seconds;
use crate::report::{Latencies, ratio};
use crate::{Load, swarm};

/// How often the pods are looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Storm {
    /// Configuration of one of the pods, for its store and its bounds.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// A pod's UDP address; give each.
    #[arg(long = "edge", value_name = "HOST:PORT", required = true)]
    pub(crate) edges: Vec<SocketAddrV4>,
    /// A pod's admin listener; give each, in the same order.
    #[arg(long = "admin", value_name = "HOST:PORT", required = true)]
    pub(crate) admins: Vec<SocketAddr>,
    /// Devices, at most as many as there are addresses for in 127.64.0.0/10.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) devices: u32,
    /// Within this time all begin.
    #[arg(long, default_value = "2s", value_parser = humantime_serde::re::humantime::parse_duration)]
    pub(crate) spread: Duration,
    /// When it ends though some are not back, counted from the first pod that is ready.
    #[arg(long, default_value = "10m", value_parser = humantime_serde::re::humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// Decides ids and keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Storm {
    fn load(&self) -> Load {
        Load {
            devices: self.devices,
            rate: 0.0,
            size: 128,
            duration: Duration::ZERO,
            connect_rate: 0.0,
            seed: self.seed,
        }
    }
}

/// What is seen of one pod from outside, beside the devices.
#[derive(Debug, Default)]
struct Seen {
    in_progress: f64,
    slowest_answer: Duration,
    looks: u32,
    last: Series,
}

pub(crate) async fn run(storm: Storm) -> Result<Value> {
    let sources = sluice_svc::config::Sources::from_process(Some(&storm.config))?;
    let config = sluice_svc::config::load::<sluice_edge::Config>(&sources)?.config;
    let cores = std::thread::available_parallelism()?;
    let budget = config.edge.handshake.in_progress_per_shard.get() as usize * config.edge.shard_count();
    let members = swarm::members(2, &storm.load())?;
    let store = sluice_store::Store::open(&config.store).await?;
    swarm::register(&store, &members).await?;
    tokio::task::spawn_blocking(move || {
        let handshake = handshake_seconds();
        let mut report = rage(&storm, members, budget)?;
        let bound = f64::from(storm.devices) * handshake / cores.get() as f64;
        let took = report["seconds_until_all_are_back"].as_f64();
        report["crypto_bound"] = json!({
            "handshake_ms": handshake * 1000.0,
            "cores": cores,
            "seconds": bound,
            "times_as_long": took.and_then(|took| ratio(took, bound)),
        });
        Ok(report)
    })
    .await?
}

fn rage(storm: &Storm, members: Vec<swarm::Member>, budget: usize) -> Result<Value> {
    let over = &AtomicBool::new(false);
    let mut fleet = Fleet::new(members, storm.edges.clone(), storm.spread, None)?;
    std::thread::scope(|scope| {
        let watchers: Vec<_> =
            storm.admins.iter().map(|&admin| scope.spawn(move || watch(admin, over))).collect();
        let first = scope.spawn(|| first_ready(&storm.admins, over));
        let outcome = drive(&mut fleet, storm, || first.is_finished());
        over.store(true, Ordering::Relaxed);
        let seen = watchers
            .into_iter()
            .map(|watcher| watcher.join().map_err(|_| anyhow::anyhow!("a watcher failed")));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        let (since, progress) = outcome?;
        report(&fleet, since, &progress, &seen, budget)
    })
}

/// Returns once a pod is ready.
fn first_ready(admins: &[SocketAddr], over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) && !admins.iter().any(|&admin| admin::ready(admin)) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Until all are back or the time is over. Gives the time of the first ready pod, and who came back in each second since then.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn drive(fleet: &mut Fleet, storm: &Storm, ready: impl Fn() -> bool) -> Result<(usmp::Instant, Vec<u32>)> {
    let (began, all) = (Instant::now(), storm.devices);
    let mut announced = false;
    // Whoever starts the pods waits for the line; nobody does for ever.
    while !ready() && began.elapsed() < storm.deadline {
        fleet.turn()?;
        if !announced && fleet.tried() == all as usize {
            announced = true;
            eprintln!("every device has tried");
        }
    }
    let (since, mut progress, mut before) = (fleet.now(), Vec::new(), fleet.back());
    let start = Instant::now();
    while fleet.back() < all && start.elapsed() < storm.deadline {
        fleet.turn()?;
        if start.elapsed() >= Duration::from_secs(progress.len() as u64 + 1) {
            progress.push(fleet.back() - before);
            before = fleet.back();
        }
    }
    Ok((since, progress))
}

/// Looks at a pod until it is over.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn watch(admin: SocketAddr, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        // It is not there yet at first.
        if let Ok(series) = admin::metrics(admin) {
            let udp = "transport=\"udp\"";
            let begun = series.sum("sluice_edge_handshakes_started_total", udp);
            let in_progress = begun - series.sum("sluice_edge_handshakes_ended_total", udp);
            seen.in_progress = seen.in_progress.max(in_progress);
            seen.slowest_answer = seen.slowest_answer.max(asked.elapsed());
            (seen.looks, seen.last) = (seen.looks + 1, series);
        }
        std::thread::sleep(LOOK);
    }
    seen
}

fn report(
    fleet: &Fleet,
    since: usmp::Instant,
    progress: &[u32],
    seen: &[Seen],
    budget: usize,
) -> Result<Value> {
    let all = fleet.attempts().count();
    let (mut waits, mut slowest) = (Latencies::default(), Duration::ZERO);
    for wait in fleet.waits(since) {
        waits.record(wait);
        slowest = slowest.max(wait);
    }
    let took = (fleet.back() as usize == all).then_some(slowest.as_secs_f64());
    let attempts: u64 = fleet.attempts().map(u64::from).sum();
    let pods = seen.iter().map(|pod| {
        let dropped =
            |reason: &str| pod.last.sum("sluice_edge_dropped_total", &format!("reason=\"{reason}\""));
        json!({
            "handshakes_in_progress_max": pod.in_progress,
            "handshakes_started": pod.last.sum("sluice_edge_handshakes_started_total", "transport=\"udp\""),
            "sessions_opened": pod.last.sum("sluice_edge_sessions_opened_total", "transport=\"udp\""),
            "dropped": {
                "handshakes_full": dropped("handshakes_full"),
                "handshake_timeout": dropped("handshake_timeout"),
                "evicted": dropped("evicted"),
                "penalty": dropped("penalty"),
            },
            "slots_adopted": pod.last.sum("sluice_edge_slots_adopted_total", ""),
            "slots_lost": pod.last.sum("sluice_edge_slots_lost_total", ""),
            "looks": pod.looks,
            "slowest_answer_of_admin_ms": pod.slowest_answer.as_millis(),
        })
    });
    let mut sorted = progress.to_vec();
    sorted.sort_unstable();
    Ok(json!({
        "devices": all,
        "back": fleet.back(),
        "seconds_until_all_are_back": took,
        "wait_of_each": waits.report(),
        "back_per_second": {
            "each": progress,
            "min": sorted.first(),
            "median": sorted.get(sorted.len() / 2),
            "max": sorted.last(),
        },
        "attempts": {
            "per_device": ratio(attempts as f64, all as f64),
            "most": fleet.attempts().max(),
        },
        "closed": fleet.counts.closed,
        "records": { "delivered": fleet.counts.delivered, "given_up": fleet.counts.given_up },
        "handshake_queue_budget": budget,
        "pods": pods.collect::<Vec<_>>(),
        "generator": { "lag": fleet.counts.lag.report(), "unsent": fleet.counts.unsent },
    }))
}
