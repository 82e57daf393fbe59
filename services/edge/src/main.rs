//! `sluice-edge --config FILE`: the edge as a process of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use sluice_edge::Config;
use sluice_edge::parent::{self, Parent};
use sluice_svc::config::{self, Sources};
use sluice_svc::tasks::chain;

/// Terminates USMP sessions and hands verified records to Kafka.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// File with the settings, TOML; `SLUICE__EDGE__UDP` and the like override single ones. `--print-sample` prints one to begin
    /// with.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings in force, without secrets, and end.
    #[arg(long)]
    print_config: bool,
    /// Print the reference page of all settings, and end.
    #[arg(long, conflicts_with = "config")]
    print_reference: bool,
    /// Print a file with all settings and their defaults, and end.
    #[arg(long, conflicts_with = "config")]
    print_sample: bool,
    /// Serve in this process, without a parent that keeps the UDP sockets open when it dies.
    #[arg(long)]
    no_parent: bool,
    /// Serve for the parent on standard input.
    #[arg(long, hide = true, conflicts_with = "no_parent")]
    worker: bool,
}

impl Args {
    fn is_parent(&self) -> bool {
        self.config.is_some() && !self.print_config && !self.no_parent && !self.worker
    }
}

/// librdkafka allocates a record and its headers in one thread and frees them in another, for which the C library's allocator takes a
/// lock each time. docs/performance.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let args = Args::parse_from(&arguments);
    if args.is_parent() {
        return parent::run(&arguments);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let Some(file) = &args.config else {
        let text = if args.print_reference {
            config::markdown::<Config>("Settings of sluice-edge")
        } else if args.print_sample {
            config::sample::<Config>()
        } else {
            let missing = "no settings: name a file with `--config FILE`; `sluice-edge --print-sample > edge.toml` \
                           writes one with every setting and its default";
            Args::command().error(ErrorKind::MissingRequiredArgument, missing).exit();
        };
        print!("{text}");
        return Ok(());
    };
    if args.print_config {
        let config = config::load::<Config>(&Sources::from_process(Some(file))?)?.config;
        print!("{}", config::print(&config)?);
        return Ok(());
    }
    let parent = args.worker.then(Parent::of_this_process).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    Ok(runtime.block_on(sluice_edge::main(file, parent))?)
}
