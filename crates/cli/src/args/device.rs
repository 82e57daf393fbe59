//! What can be typed after `sluice device`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sluice_types::{DeviceId, KeyEpoch, TenantId};

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Register a device and its key; in force when the command returns.
    #[command(after_help = "Examples:
  sluice device add 02:a1:b2:c3:d4:e5                       make a key, print it once
  sluice device add 02a1b2c3d4e5 --psk-file key.hex         take the key from a file
  openssl rand -hex 32 | sluice device add 02a1b2c3d4e5 --psk-file -
  sluice device add 02a1b2c3d4e5 --snippet arduino          print a sketch with the new key")]
    Add(DeviceAddArgs),
    /// Give a device another key, or take one away.
    #[command(subcommand)]
    Key(KeyCommand),
    /// List the devices.
    List(DeviceListArgs),
    /// Show one device.
    Show(DeviceShowArgs),
    /// Refuse a device from now on, for good, and close its sessions.
    ///
    /// A revoked device stays in the registry and never connects again: `remove` takes it out, and its id can then be added anew.
    #[command(after_help = IN_FORCE)]
    Revoke {
        /// The device.
        id: DeviceId,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "revoked by operator")]
        reason: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Refuse a device until `resume`, and close its sessions; its keys stay.
    #[command(after_help = IN_FORCE)]
    Suspend {
        /// The device.
        id: DeviceId,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "suspended by operator")]
        reason: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Let a suspended device connect again; in force when the command returns.
    Resume {
        /// The device.
        id: DeviceId,
    },
    /// Take a device out of the registry, erase its keys and close its sessions. Its id may be added again.
    #[command(after_help = IN_FORCE)]
    Remove {
        /// The device.
        id: DeviceId,
        #[command(flatten)]
        patience: Patience,
    },
    /// Let a device connect again that is refused for a time, since two holders of its key are suspected or it opened too many sessions.
    ///
    /// In force when the command returns. What it tried meanwhile can keep it waiting for up to `edge.handshake.max_penalty` at the
    /// address it came from.
    #[command(after_help = "Example:\n  sluice --config edge.toml device release 02a1b2c3d4e5")]
    Release {
        /// The device.
        id: DeviceId,
    },
    /// Bring the first key of the key-encryption key file into force and write everything anew under it, so that older keys can be taken out.
    ///
    /// Put the new key first and the old one below it in the key file of every process, and restart all of them, before. A pod that does not have the
    /// new key is named, and nothing is changed. Safe to repeat, and beside a fleet at work.
    #[command(after_help = "Example:\n  sluice --config edge.toml device reseal")]
    Reseal,
    /// Be a device: connect and send records.
    #[command(after_help = "Example:
  sluice device sim --connect udp://127.0.0.1:9000 --id 02a1b2c3d4e5 --psk-file key.hex --count 10")]
    Sim(SimArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DeviceAddArgs {
    /// 12 hex digits, with `:` or `-` between the bytes or without.
    pub(crate) id: DeviceId,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The device's tenant.
    #[arg(long, default_value_t = TenantId::default())]
    pub(crate) tenant: TenantId,
}

/// The key that a device gets.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// File with the key, `-` for standard input; without it a key is made and printed once.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) psk_file: Option<PathBuf>,
    /// How the key is written: hex digits, or the characters themselves as in an Arduino sketch.
    #[arg(long, value_enum, default_value_t = PskFormatArg::Hex)]
    pub(crate) psk_format: PskFormatArg,
    /// Print code for this platform with the key in it.
    #[arg(long, value_enum)]
    pub(crate) snippet: Option<Platform>,
}

/// How long a command that takes a right away waits until it is in force.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Patience {
    /// With `--config` and a shared store: how long to wait until every edge has closed the device's sessions. Those that have
    /// not by then are named; what was done stands all the same.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Give a device one more key, up to three; those it has stay in force until they are retired.
    #[command(after_help = "A key is changed without a gap in three steps:
  sluice device key add 02a1b2c3d4e5                        make key 2, print it once
  (put it into the device; `sluice tail --topic lifecycle` shows keyEpoch 2 when it has connected with it)
  sluice device key retire 02a1b2c3d4e5 1                   key 1 opens no session any more")]
    Add {
        /// The device.
        id: DeviceId,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Take a key from a device: no session opens under it from now on. Sessions that are open go on.
    #[command(after_help = "To end the sessions that somebody opened with a stolen key, after it is retired:
  sluice device suspend 02a1b2c3d4e5 && sluice device resume 02a1b2c3d4e5")]
    Retire {
        /// The device.
        id: DeviceId,
        /// Number of the key, as `sluice device show` has it.
        #[arg(value_name = "NUMBER", value_parser = epoch)]
        key: KeyEpoch,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DeviceListArgs {
    /// Only the devices of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceShowArgs {
    /// The device.
    pub(crate) id: DeviceId,
    /// Print code for this platform, with a placeholder for the key.
    #[arg(long, value_enum)]
    pub(crate) snippet: Option<Platform>,
    /// Put the real key into the output.
    #[arg(long)]
    pub(crate) reveal: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Where to connect: tcp://HOST:PORT or udp://HOST:PORT.
    #[arg(long, value_name = "URL")]
    pub(crate) connect: String,
    /// The device to be.
    #[arg(long)]
    pub(crate) id: DeviceId,
    /// File with the device's key, `-` for standard input.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) psk_file: PathBuf,
    /// How the key is written.
    #[arg(long, value_enum, default_value_t = PskFormatArg::Hex)]
    pub(crate) psk_format: PskFormatArg,
    /// Records to send; 0: until interrupted.
    #[arg(long, default_value_t = 0)]
    pub(crate) count: u64,
    /// Time between two records.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Bytes per record, 1 to 1808; without it a small JSON reading.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1..=1808))]
    pub(crate) size: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PskFormatArg {
    Hex,
    Text,
}

impl From<PskFormatArg> for sluice_types::PskFormat {
    fn from(format: PskFormatArg) -> Self {
        match format {
            PskFormatArg::Hex => Self::Hex,
            PskFormatArg::Text => Self::Text,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Platform {
    /// The official Python SDK.
    Python,
    /// The official Arduino library.
    Arduino,
    /// The official ESP-IDF component.
    Idf,
}

const IN_FORCE: &str = "Exit code: 0 it is in force everywhere, 1 it could not be made, 3 it stands, and is not in force everywhere yet.";

fn epoch(text: &str) -> Result<KeyEpoch, String> {
    text.parse().map(KeyEpoch).map_err(|_| "a key has a number, as `sluice device show` has it".to_owned())
}
