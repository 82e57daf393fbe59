//! All pods are gone, and then a whole fleet comes back at once.

mod progress;
mod report;
mod watch;

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use self::watch::{Seen, Usages, Watched, local_port};
use crate::fleet::Fleet;
use crate::{Load, limits, swarm};

/// Attempts of a device whose key pairs are made before.
const PREPARED: usize = 3;

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

/// A second since the first pod was ready, at the devices.
#[derive(Debug, Default, Clone, Copy)]
struct Second {
    back: u32,
    attempts: u64,
    /// Devices with an attempt under way at its end.
    trying: u32,
    /// How late timers and datagrams were served.
    late: [Duration; 3],
}

/// What came of it.
struct Run {
    fleet: Fleet,
    /// When the first pod was ready, by two clocks.
    since: usmp::Instant,
    start: Instant,
    seconds: Vec<Second>,
    /// Each pod, in the order of the command line.
    pods: Vec<Seen>,
    watched: Vec<Watched>,
    usages: Usages,
}

pub(crate) async fn run(storm: Storm) -> Result<Value> {
    let sources = sluice_svc::config::Sources::from_process(Some(&storm.config))?;
    let config = sluice_svc::config::load::<sluice_edge::Config>(&sources)?.config;
    let cores = std::thread::available_parallelism()?.get();
    let budget = config.edge.handshake.in_progress_per_shard.get() as usize * config.edge.shard_count();
    let watched = watched(&storm, &config);
    let members = swarm::members(2, &storm.load())?;
    let store = sluice_store::Store::open(&config.store).await?;
    swarm::register(&store, &members).await?;
    tokio::task::spawn_blocking(move || {
        // Before anything else needs a processor.
        let bounds = report::Bounds {
            pods: limits::handshake_seconds(),
            devices: limits::device_seconds(),
            cores,
            handshakes: storm.devices,
        };
        Fleet::prepare(members.len() * PREPARED);
        let run = rage(&storm, members, watched)?;
        eprint!("{}", report::table(&run));
        Ok(report::report(&storm, &run, budget, &bounds))
    })
    .await?
}

/// This process, the pods, and those servers that are on this machine.
fn watched(storm: &Storm, config: &sluice_edge::Config) -> Vec<Watched> {
    let mut watched = vec![Watched::new("generator", None)];
    let pods = (0..).zip(&storm.admins);
    watched.extend(pods.map(|(number, admin)| Watched::new(format!("pod{number}"), Some(admin.port()))));
    let servers = [("kafka", &config.bus.brokers), ("redis", &config.store.redis.urls)];
    for (name, addresses) in servers {
        let ports = addresses.iter().filter_map(|address| local_port(address));
        watched.extend(ports.map(|port| Watched::new(name, Some(port))));
    }
    watched
}

fn rage(storm: &Storm, members: Vec<swarm::Member>, watched: Vec<Watched>) -> Result<Run> {
    let over = &AtomicBool::new(false);
    let mut fleet = Fleet::new(members, storm.edges.clone(), storm.spread, None)?;
    std::thread::scope(|scope| {
        let watchers: Vec<_> =
            storm.admins.iter().map(|&admin| scope.spawn(move || watch::watch(admin, over))).collect();
        let accountant = scope.spawn(|| watch::account(&watched, over));
        let first = scope.spawn(|| watch::first_ready(&storm.admins, over));
        let outcome = drive(&mut fleet, storm, || first.is_finished());
        over.store(true, Ordering::Relaxed);
        let failed = |_| anyhow::anyhow!("a watcher failed");
        let pods = watchers.into_iter().map(|watcher| watcher.join().map_err(failed));
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let usages = accountant.join().map_err(failed)?;
        let (since, start, seconds) = outcome?;
        Ok(Run { fleet, since, start, seconds, pods, watched: watched.clone(), usages })
    })
}

/// Until all are back or the time is over.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn drive(
    fleet: &mut Fleet,
    storm: &Storm,
    ready: impl Fn() -> bool,
) -> Result<(usmp::Instant, Instant, Vec<Second>)> {
    let (began, all) = (Instant::now(), storm.devices);
    let mut announced = false;
    // Whoever starts the pods waits for the line; nobody does for ever.
    while !ready() && began.elapsed() < storm.deadline {
        fleet.turn()?;
        if !announced && fleet.counts.attempts >= u64::from(all) && fleet.tried() == all as usize {
            announced = true;
            eprintln!("every device has tried");
        }
    }
    let (since, start) = (fleet.there_are_pods(), Instant::now());
    fleet.take_lateness();
    let (mut seconds, mut before) = (Vec::new(), (fleet.back(), fleet.counts.attempts));
    while fleet.back() < all && start.elapsed() < storm.deadline {
        fleet.turn()?;
        let is_last = fleet.back() == all;
        if is_last || start.elapsed() >= Duration::from_secs(seconds.len() as u64 + 1) {
            let late = fleet.take_lateness();
            seconds.push(Second {
                back: fleet.back() - before.0,
                attempts: fleet.counts.attempts - before.1,
                trying: fleet.trying(),
                late: [late.quantile(0.5), late.quantile(0.99), late.max()],
            });
            before = (fleet.back(), fleet.counts.attempts);
        }
    }
    Ok((since, start, seconds))
}
