//! Development tasks: test environment, generated files, checks. `cargo xtask help` lists them.

mod alone;
mod arrows;
mod beside;
mod claims;
mod docs;
mod env;
mod fuzz;
mod instructions;
mod junit;
mod lines;
mod metrics;
mod source;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "Development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the tests need, and say what could not be got
    Env {
        /// Also what the tests against an API server of Kubernetes need (minutes of building, once)
        #[arg(long)]
        api_server: bool,
    },
    /// Install and start what the tests need, and run all of them
    Test(test::Options),
    /// Build the edge of an earlier revision, which long tests run beside this one, and print where it is
    Beside {
        /// By default the last tag before this revision
        revision: Option<String>,
    },
    /// Print the features that checks are made with, for cargo's `--features`
    Features,
    /// Check that crates depend on each other in the allowed directions only
    Arrows,
    /// Check each crate alone, with and without each of its features
    Alone,
    /// Write the generated pages of docs/
    Docs {
        /// Change nothing; fail if a page is not as it would be written
        #[arg(long)]
        check: bool,
    },
    /// Check that every test named in docs/security.md and docs/operations.md exists, and every metric named in docs
    Claims,
    /// Check that no hand-written file is too long
    Lines,
    /// Count the instructions of each operation of the protocol (needs valgrind)
    Instructions,
    /// Run each fuzz target with cargo-fuzz (needs the nightly toolchain)
    Fuzz {
        /// For how long each target runs
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Env { api_server } => env::run(api_server),
        Task::Test(options) => test::run(&options),
        Task::Beside { revision } => beside::build(revision.as_deref()).map(|_| ()),
        Task::Features => test::print_features(),
        Task::Arrows => arrows::run(),
        Task::Alone => alone::run(),
        Task::Docs { check } => docs::run(check),
        Task::Claims => claims::run(),
        Task::Lines => lines::run(),
        Task::Instructions => instructions::run(),
        Task::Fuzz { seconds } => fuzz::run(seconds),
    }
}
