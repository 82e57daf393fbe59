//! The `sluice` command: everything in one process, device simulator, fleet administration.

mod args;
mod audit;
mod config;
mod control;
mod dev;
mod device;
mod folder;
mod output;
mod snippets;
mod store;
mod tail;
mod topics;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Cli, Command};

/// librdkafka allocates a record and its headers in one thread and frees them in another, for which the C library's allocator takes a
/// lock each time. docs/performance.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(async {
        match command {
            Command::Dev(args) => dev::run(&global, args).await,
            Command::Device(command) => return device::run(&global, command).await,
            Command::Tail(args) => tail::run(&global, args).await,
            Command::Topics(command) => topics::run(&global, command).await,
            Command::Store(command) => store::run(&global, &command).await,
            Command::Audit(command) => return Ok(audit::run(&global, command).await),
            Command::Config(command) => config::run(&global, &command),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
                Ok(())
            }
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // A blocked read of a topic must not hold up the end.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| failed(&error))
}

/// One line: what happened and what to do, the cause behind it.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("sluice: {}", sluice_svc::tasks::chain(error.as_ref()));
    ExitCode::FAILURE
}
