//! `sluice-edge --config FILE`: the edge as a process of its own.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

/// Terminates USMP sessions and hands verified records to Kafka.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// File with the settings, TOML; `SLUICE__EDGE__UDP` and the like override single ones.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(sluice_edge::main(&args.config)).map_err(anyhow::Error::from)
}
