//! What can be typed after `sluice`.

mod device;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use device::{
    DeviceAddArgs, DeviceCommand, DeviceShowArgs, KeyArgs, KeyCommand, Patience, Platform, PskFormatArg,
    SimArgs,
};

/// Telemetry of USMP devices, verified, in Kafka.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  sluice dev --simulate 5                        everything in one process, with five simulated devices
  sluice device add 02:a1:b2:c3:d4:e5            register a device, print its key once
  sluice tail                                    show records as they arrive
  sluice device add 02a1b2c3d4e5 --snippet python > device.py")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Folder of the local store, its keys and the socket of the running `sluice dev` [default: the user's data folder].
    #[arg(long, global = true, value_name = "DIR", env = "SLUICE_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Work on the store and the brokers of this configuration file instead of a running `sluice dev`; goes before the
    /// data folder.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How tables and results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in this process: edge, store, broker; nothing else needs to be installed.
    Dev(DevArgs),
    /// Register, show, revoke and simulate devices, and change their keys.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Print records as they arrive.
    Tail(TailArgs),
    /// Create the topics on the brokers.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Decide about the store.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check what was published.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  sluice completions bash > /etc/bash_completion.d/sluice")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluice dev                                     devices dial 127.0.0.1:9000, TCP or UDP
  sluice dev --simulate 5                        with five simulated devices
  sluice dev --lan                               a board on the local network can reach it
  sluice dev --kafka localhost:9092              records go to a Kafka of yours")]
pub(crate) struct DevArgs {
    /// Where devices dial over TCP; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub(crate) tcp: SocketAddr,
    /// Where devices dial over UDP; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000")]
    pub(crate) udp: SocketAddr,
    /// Where health, metrics and the log filter are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub(crate) admin: SocketAddr,
    /// Publish to this Kafka instead of the broker inside the process.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) kafka: Option<String>,
    /// Run this many simulated devices, half over TCP, half over UDP.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) simulate: u32,
    /// Time between two records of a simulated device.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) simulate_interval: Duration,
    /// Write the addresses as JSON to this file once everything is ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Listen on every address of this machine, so that a board on the local network can connect.
    #[arg(long)]
    pub(crate) lan: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluice tail                                    telemetry of the running `sluice dev`
  sluice tail --topic lifecycle --format json    sessions as they open and close
  sluice tail --brokers localhost:9092           telemetry of a Kafka")]
pub(crate) struct TailArgs {
    /// Topic, by its short name or whole.
    #[arg(long, default_value = "telemetry")]
    pub(crate) topic: String,
    /// How records are printed.
    #[arg(long, value_enum, default_value_t = TailFormat::Text)]
    pub(crate) format: TailFormat,
    /// Brokers to read from [default: those of the running `sluice dev`, or of `--config`].
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) brokers: Option<String>,
    /// Start at the oldest record kept instead of the next one.
    #[arg(long)]
    pub(crate) from_beginning: bool,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TailFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsCommand {
    /// Create the topics that are missing; existing ones are left as they are.
    #[command(after_help = "Example:\n  sluice topics apply --config edge.toml --partitions 24")]
    Apply {
        /// Partitions of each new topic. The count cannot be changed later: order per device depends on it.
        #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        partitions: i32,
        /// Copies of each record.
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=32))]
        replication_factor: i32,
        /// Brokers [default: those of `--config`].
        #[arg(long, value_name = "HOST:PORT,...")]
        brokers: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Accept a store that was rolled back or replaced, whose pods give out no keys, or do not get ready, for that. Revocations that it
    /// lost are not in force any more: revoke those devices again first. If the ledgers (bus.topic_prefix) are another store's, this
    /// one takes its place: only when no deployment uses that one any more.
    #[command(after_help = "Example:
  sluice store accept --config edge.toml")]
    Accept {
        /// Entries of the revocation log that may be missing: up to this number, which the pods' log has as `missing`
        /// [default: all until now, by the store's clock].
        #[arg(long, value_name = "NUMBER")]
        up_to: Option<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Read a topic of telemetry up to its end, and check that nothing is doubled, out of order, or another device's.
    #[command(
        after_help = "Exit code: 0 nothing is wrong, 1 something is, 2 the topic could not be read, 3 nothing is wrong among the sessions
that were remembered, and some were forgotten (--max-sessions).

Examples:
  sluice audit topic                             all telemetry of the running `sluice dev`
  sluice audit topic --brokers localhost:9092 -o json
  sluice audit topic --from 1200,940,1017        from these offsets, one per partition"
    )]
    Topic(AuditTopicArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditTopicArgs {
    /// Topic, by its short name or whole.
    #[arg(long, default_value = "telemetry")]
    pub(crate) topic: String,
    /// Where to begin: `beginning`, or one offset per partition with commas between. What repeats an older record is not seen.
    #[arg(long, value_name = "beginning|OFFSET,...", default_value = "beginning", value_parser = from)]
    pub(crate) from: FromArg,
    /// Which records: those of committed transactions, or all.
    #[arg(long, value_enum, default_value_t = IsolationArg::ReadCommitted)]
    pub(crate) isolation: IsolationArg,
    /// Brokers to read from [default: those of the running `sluice dev`, or of `--config`].
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) brokers: Option<String>,
    /// Sessions remembered at once, 200 bytes each; beyond, those without a record for longest are forgotten, and counted.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub(crate) max_sessions: usize,
    /// Findings printed of each kind.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) examples: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FromArg(pub(crate) sluice_bus::ScanFrom);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum IsolationArg {
    ReadCommitted,
    ReadUncommitted,
}

fn from(text: &str) -> Result<FromArg, String> {
    if text == "beginning" {
        return Ok(FromArg(sluice_bus::ScanFrom::Beginning));
    }
    let offsets = text.split(',').map(|offset| offset.trim().parse()).collect::<Result<_, _>>();
    let offsets =
        offsets.map_err(|_| "write `beginning`, or one offset per partition: 12,40,7".to_owned())?;
    Ok(FromArg(sluice_bus::ScanFrom::Offsets(offsets)))
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective configuration, secrets hidden: defaults, then the file of `--config`, then the environment.
    Print,
}

fn duration(text: &str) -> Result<Duration, String> {
    let value = humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if value < Duration::from_millis(1) {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_audit_begins_at_the_beginning_or_at_an_offset_of_each_partition() {
        assert_eq!(from("beginning"), Ok(FromArg(sluice_bus::ScanFrom::Beginning)));
        assert_eq!(from("12, 0,7"), Ok(FromArg(sluice_bus::ScanFrom::Offsets(vec![12, 0, 7]))));
        for wrong in ["", "end", "1,,2", "1;2"] {
            assert!(from(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_data_folder_may_stand_before_or_after_the_subcommand() {
        for line in
            [["sluice", "--data-dir", "d", "device", "list"], ["sluice", "device", "list", "--data-dir", "d"]]
        {
            let cli = Cli::try_parse_from(line).expect("both places are allowed");
            assert_eq!(cli.global.data_dir.as_deref(), Some(std::path::Path::new("d")));
        }
    }
}
