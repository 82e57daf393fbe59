//! `sluice topics …`

use anyhow::Result;
use serde_json::json;
use sluice_bus::ApplyOptions;

use crate::args::{Global, TopicsCommand};
use crate::output::Printer;

pub(crate) async fn run(global: &Global, command: TopicsCommand) -> Result<()> {
    let TopicsCommand::Apply { partitions, replication_factor, brokers } = command;
    let bus = crate::config::bus(global, brokers.as_deref())?;
    let options = ApplyOptions { partitions, replication_factor, exact_partitions: true };
    let created = sluice_bus::apply(&bus, options).await?;
    let text = match created.as_slice() {
        [] => "all topics are there".to_owned(),
        names => format!("created {}", names.join(", ")),
    };
    Printer::new(global.output).done(&text, &json!({ "created": created }));
    Ok(())
}
