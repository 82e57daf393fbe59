//! The configuration of the process, as the edge reads it too.

use std::path::Path;

use anyhow::{Result, bail};
use sluice_bus::BusConfig;
use sluice_edge::Config;
use sluice_svc::config::{Sources, load as load_sources};

use crate::args::{ConfigCommand, Global};
use crate::control::{Answer, Info, Request, ask};

/// Defaults, then the file, then the environment.
pub(crate) fn load(file: &Path) -> Result<Config> {
    Ok(load_sources::<Config>(&Sources::from_process(Some(file))?)?.config)
}

pub(crate) fn run(global: &Global, command: &ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Print => {
            let loaded = load_sources::<Config>(&Sources::from_process(global.config.as_deref())?)?;
            match global.output {
                crate::args::Output::Text => print!("{}", toml::to_string(&loaded.config)?),
                crate::args::Output::Json => println!("{}", serde_json::to_string_pretty(&loaded.config)?),
            }
            Ok(())
        }
    }
}

/// The bus settings of `--config`, or those for `--brokers`.
pub(crate) fn bus(global: &Global, brokers: Option<&str>) -> Result<BusConfig> {
    let mut bus = match &global.config {
        Some(file) => load(file)?.bus,
        None if brokers.is_some() => BusConfig::default(),
        None => bail!("name the brokers with `--brokers HOST:PORT`, or a configuration with `--config FILE`"),
    };
    if let Some(brokers) = brokers {
        bus.brokers = brokers.split(',').map(|broker| broker.trim().to_owned()).collect();
    }
    Ok(bus)
}

/// The bus settings of `--config`, those for `--brokers`, or those of the running `sluice dev`.
pub(crate) async fn reachable_bus(global: &Global, brokers: Option<&str>) -> Result<BusConfig> {
    match (brokers, &global.config) {
        (None, None) => running_bus(global).await,
        (brokers, _) => bus(global, brokers),
    }
}

async fn running_bus(global: &Global) -> Result<BusConfig> {
    let folder = crate::folder::data_dir(global)?;
    let Answer::Info(Info { kafka, .. }) = ask(&folder, Request::Info).await? else {
        bail!("the running `sluice dev` gave an answer to another question: restart it")
    };
    Ok(BusConfig { brokers: vec![kafka], ..BusConfig::default() })
}
