//! Open-loop swarm of devices, and the bounds it is measured against.
//!
//! Open loop: each record has an intended time, and its latency counts from there, so that a stalled edge cannot hide its stall
//! by slowing the devices down. Every report says how late the generator itself was.

mod admin;
mod bench;
mod burst;
mod cpu;
mod drain;
mod fleet;
mod limits;
mod report;
mod storm;
mod swarm;
mod system;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Load for an edge, and what the machine could do at best.
#[derive(Debug, Parser)]
#[command(name = "sluice-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Devices against a running edge. They are registered first in the store of `--config`.
    Swarm {
        /// Configuration of the edge, for its store.
        #[arg(long, value_name = "FILE")]
        config: std::path::PathBuf,
        #[command(flatten)]
        load: Load,
        /// Where the edge listens: tcp://HOST:PORT or udp://HOST:PORT.
        #[arg(long, value_name = "URL")]
        connect: String,
    },
    /// Bare cryptography of a handshake, and a bare producer's throughput: the bounds.
    Limits {
        /// Brokers; without them only the cryptography is measured.
        #[arg(long, value_name = "HOST:PORT")]
        kafka: Option<String>,
    },
    /// An edge in this process, the bare producer and devices, in one run on one Kafka: TCP with everything sealed
    /// before, then over each transport the swarm at `--rate` and at half of what that reached.
    Bench {
        /// The brokers. Topics under a prefix of its own are created and left behind.
        #[arg(long, value_name = "HOST:PORT")]
        kafka: String,
        /// Threads of the edge.
        #[arg(long, default_value = "1")]
        shards: std::num::NonZeroUsize,
        /// Records sent over TCP that are sealed before the clock starts, all devices together.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        burst: u32,
        #[command(flatten)]
        load: Load,
    },
    /// A whole fleet over UDP comes back when pods do: how long it takes, how steadily, and against what the cryptography needs. The
    /// devices try while no pod is there yet; start the pods when it says that every device has tried.
    Storm(storm::Storm),
    /// A pod drains while its sessions over UDP go on: repetitions, handshakes, and the longest that a device has no answer.
    Drain(drain::Drain),
}

/// What the devices do.
#[derive(Debug, Clone, Args)]
struct Load {
    /// Devices per transport.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    devices: u32,
    /// Records per second and device; 0: each as fast as it is acknowledged.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Bytes per record.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1808))]
    size: u16,
    /// How long records are sent.
    #[arg(long, default_value = "10s", value_parser = humantime_serde::re::humantime::parse_duration)]
    duration: Duration,
    /// Handshakes started per second; 0: all at once.
    #[arg(long, default_value_t = 0.0)]
    connect_rate: f64,
    /// Decides ids, keys and phases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// librdkafka allocates a record and its headers in one thread and frees them in another, for which the C library's allocator takes a
/// lock each time. docs/performance.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = run(Cli::parse().command);
    match outcome {
        Ok(report) => {
            println!("{report:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluice-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Swarm { config, load, connect } => swarm::against(&config, &connect, &load).await,
            Command::Storm(storm) => storm::run(storm).await,
            Command::Drain(drain) => drain::run(drain).await,
            Command::Limits { kafka } => limits::measure(kafka).await,
            Command::Bench { kafka, shards, burst, load } => {
                bench::run(&kafka, shards, burst as usize, &load).await
            }
        }
    })
}
