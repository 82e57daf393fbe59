//! Development tasks: test environment, generated files, checks. `cargo xtask help` lists them.

mod env;

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
    Env,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Env => env::run(),
    }
}
