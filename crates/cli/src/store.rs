//! `sluice store …`

use anyhow::{Result, bail};
use serde_json::json;
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
    let accepted = store.accept_log(up_to.map(LogPosition)).await?;
    let text = format!("accepted: revocations up to number {} may be missing", accepted.0);
    Printer::new(global.output).done(&text, &json!({ "accepted_up_to": accepted.0 }));
    Ok(())
}
