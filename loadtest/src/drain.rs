//! A pod is asked to stop while its sessions go on.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fleet::{Counts, Fleet};
use crate::report::{Latencies, ratio};
use crate::{Load, admin, swarm};

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Configuration of one of the pods, for its store.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// UDP address of the pod that drains, then of the one that stays.
    #[arg(long = "edge", value_name = "HOST:PORT", required = true, num_args = 1)]
    edges: Vec<SocketAddrV4>,
    /// Admin listener of the pod that drains.
    #[arg(long, value_name = "HOST:PORT")]
    admin: SocketAddr,
    /// Process of the pod that drains; it gets SIGTERM.
    #[arg(long)]
    pid: i32,
    /// Sessions, half of them at each pod.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,
    /// From one record of a device to its next.
    #[arg(long, default_value = "10s", value_parser = humantime_serde::re::humantime::parse_duration)]
    interval: Duration,
    /// How long records flow before the drain, and again after the pod has ended.
    #[arg(long, default_value = "15s", value_parser = humantime_serde::re::humantime::parse_duration)]
    around: Duration,
    /// Handshakes begun per second at the start.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: u32,
    /// Decides ids and keys.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Longest wait for the sessions at the start, and for the pod's end.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn run(drain: Drain) -> Result<Value> {
    let sources = sluice_svc::config::Sources::from_process(Some(&drain.config))?;
    let config = sluice_svc::config::load::<sluice_edge::Config>(&sources)?.config;
    let load = Load {
        devices: drain.sessions,
        rate: 0.0,
        size: 128,
        duration: Duration::ZERO,
        connect_rate: 0.0,
        seed: drain.seed,
    };
    let members = swarm::members(3, &load)?;
    let store = sluice_store::Store::open(&config.store).await?;
    swarm::register(&store, &members).await?;
    tokio::task::spawn_blocking(move || flow(&drain, members)).await?
}

/// The longest that a record was under way, ended or not, and what was counted, within one part of the run.
struct Part {
    name: &'static str,
    time: Duration,
    before: Counts,
    after: Counts,
    darkest: Duration,
}

impl Part {
    fn report(&self) -> Value {
        let (before, after) = (&self.before, &self.after);
        let records = after.messages - before.messages;
        let frames = after.data_frames - before.data_frames;
        let repeated = frames.saturating_sub(records);
        json!({
            "part": self.name,
            "seconds": self.time.as_secs_f64(),
            "records": records,
            "delivered": after.delivered - before.delivered,
            "retransmissions": repeated,
            "retransmissions_per_record": ratio(repeated as f64, records as f64),
            "handshakes_begun": after.attempts - before.attempts,
            "given_up": after.given_up - before.given_up,
            "longest_dark_ms": self.darkest.as_millis(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn part(
    fleet: &mut Fleet,
    name: &'static str,
    mut until: impl FnMut(Duration) -> Result<bool>,
) -> Result<Part> {
    let (start, before) = (Instant::now(), fleet.counts.clone());
    (fleet.counts.latencies, fleet.counts.lag) = (Latencies::default(), Latencies::default());
    let (mut darkest, mut looked) = (Duration::ZERO, start);
    while !until(start.elapsed())? {
        fleet.turn()?;
        if looked.elapsed() > Duration::from_millis(100) {
            // Nobody under way may be longer without an answer than who got one; both count.
            darkest = darkest.max(fleet.longest_under_way());
            looked = Instant::now();
        }
    }
    let darkest = darkest.max(fleet.counts.latencies.max());
    Ok(Part { name, time: start.elapsed(), before, after: fleet.counts.clone(), darkest })
}

#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn flow(drain: &Drain, members: Vec<swarm::Member>) -> Result<Value> {
    if drain.edges.len() != 2 {
        bail!("give --edge twice: the pod that drains, then the one that stays");
    }
    let spread = Duration::from_secs_f64(f64::from(drain.sessions) / f64::from(drain.connect_rate));
    let spread = spread.max(drain.interval);
    let mut fleet = Fleet::new(members, drain.edges.clone(), spread, Some(drain.interval))?;
    let opening = Instant::now();
    while fleet.back() < drain.sessions {
        fleet.turn()?;
        if opening.elapsed() > PATIENCE {
            bail!("{} of {} sessions are open after {PATIENCE:?}", fleet.connected(), drain.sessions);
        }
    }
    let around = |time: Duration| Ok(time > drain.around);
    let quiet = part(&mut fleet, "before", around)?;
    // What a balancer does that asks whether a pod is ready: new datagrams go elsewhere, from the same addresses.
    let pod = Pid::from_raw(drain.pid);
    kill(pod, Signal::SIGTERM).context("the pod that is to drain is not there")?;
    let mut unready = None;
    let mut looked = Duration::ZERO;
    let stopping = part(&mut fleet, "until it is seen not ready", |time| {
        if time >= looked + Duration::from_millis(50) {
            looked = time;
            if !admin::ready(drain.admin) {
                unready = Some(time);
            }
        }
        if time > PATIENCE {
            bail!("the pod does not drain");
        }
        Ok(unready.is_some())
    })?;
    fleet.move_flows(0, 1);
    let moved = part(&mut fleet, "until it has ended", |time| {
        if time > PATIENCE {
            bail!("the pod does not end");
        }
        Ok(ended(pod))
    })?;
    let after = part(&mut fleet, "after", around)?;
    let parts = [quiet, stopping, moved, after];
    let of_all = |count: fn(&Counts) -> u64| {
        let [first, .., last] = &parts;
        count(&last.after) - count(&first.before)
    };
    let (records, frames) = (of_all(|counts| counts.messages), of_all(|counts| counts.data_frames));
    let darkest = parts.iter().map(|part| part.darkest).max().unwrap_or_default();
    Ok(json!({
        "sessions": drain.sessions,
        "connected_at_the_end": fleet.connected(),
        "handshakes_begun_during_all_of_it": of_all(|counts| counts.attempts),
        "records": records,
        "retransmissions_per_record": ratio(frames.saturating_sub(records) as f64, records as f64),
        "longest_dark_ms": darkest.as_millis(),
        "closed": fleet.counts.closed,
        "parts": parts.iter().map(Part::report).collect::<Vec<_>>(),
        "generator": { "lag": fleet.counts.lag.report(), "unsent": fleet.counts.unsent },
    }))
}

/// A process that nobody has waited for yet is still listed; it has no command line any more.
fn ended(pod: Pid) -> bool {
    std::fs::read(format!("/proc/{pod}/cmdline")).map_or(true, |line| line.is_empty())
}
