//! `sluice store …`

use anyhow::{Result, bail};
use serde_json::json;
use sluice_bus::{BusError, BusKind};
use sluice_store::LogPosition;

use crate::args::{Global, StoreCommand};
use crate::device::Registry;
use crate::output::Printer;

pub(crate) async fn run(global: &Global, command: &StoreCommand) -> Result<()> {
    let StoreCommand::Accept { up_to } = command;
    let registry = Registry::open(global).await?;
    let Some(store) = registry.store() else {
        bail!("the store of the running `sluice dev` is never doubted: name another one with `--config FILE`")
    };
    let (others, unread) = match ledgers_of(global, store.life()).await {
        Ok(others) => (others, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let accepted = store.accept_in_place_of(up_to.map(LogPosition), &others).await?;
    let in_place_of: Vec<String> = others.iter().map(hex::encode).collect();
    let mut text = format!("accepted: revocations up to number {} may be missing", accepted.0);
    if !in_place_of.is_empty() {
        text += &format!(
            "; this store stands in the place of {}, whose ledgers are its own now",
            in_place_of.join(", ")
        );
    }
    if let Some(error) = &unread {
        text += &format!(
            "\nKafka did not say whose the ledgers are: if pods wait for that, run this again when it answers ({error})"
        );
    }
    let report = json!({
        "accepted_up_to": accepted.0,
        "in_place_of": in_place_of,
        "ledgers_unread": unread.map(|error| error.to_string()),
    });
    Printer::new(global.output).done(&text, &report);
    Ok(())
}

/// The other stores whose pods had slots last.
async fn ledgers_of(global: &Global, ours: [u8; 16]) -> Result<Vec<[u8; 16]>> {
    let bus = crate::config::bus(global, None)?;
    if bus.kind != BusKind::Kafka {
        return Ok(Vec::new());
    }
    let found = match sluice_bus::witnesses(&bus).await {
        Ok(found) => found,
        // Pods without it share nothing.
        Err(BusError::TopicMissing(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if found.unread > 0 {
        bail!("{} ledgers were not read in time", found.unread);
    }
    let mut others: Vec<_> =
        found.last.into_iter().map(|(_, life)| life).filter(|life| *life != ours).collect();
    others.sort_unstable();
    others.dedup();
    Ok(others)
}
