//! `sluice audit …`

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use sluice_bus::{
    Audit, AuditLimits, AuditReport, BusConfig, Fault, Isolation, Scan, ScanOptions, Scanned, Step, Topic,
    TopicNames,
};

use crate::args::{AuditCommand, AuditTopicArgs, Global, IsolationArg};
use crate::output::Printer;

/// Of the JSON that is printed.
const REPORT_VERSION: u32 = 1;

/// What a check found is success or failure; that it could not be made is neither.
const NOT_CHECKED: u8 = 2;
/// Nothing is wrong as far as sessions were remembered.
const NOT_COMPLETE: u8 = 3;

pub(crate) async fn run(global: &Global, command: AuditCommand) -> ExitCode {
    let AuditCommand::Topic(args) = command;
    match topic(global, args).await {
        Ok(report) => verdict(&report),
        Err(error) => {
            crate::failed(&error);
            ExitCode::from(NOT_CHECKED)
        }
    }
}

fn verdict(report: &AuditReport) -> ExitCode {
    match (report.is_clean(), report.is_complete()) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => NOT_COMPLETE.into(),
        (true, true) => ExitCode::SUCCESS,
    }
}

async fn topic(global: &Global, args: AuditTopicArgs) -> Result<AuditReport> {
    let bus = crate::config::reachable_bus(global, args.brokers.as_deref()).await?;
    let topic = match Topic::ALL.iter().find(|topic| topic.short_name() == args.topic) {
        Some(topic) => TopicNames::new(&bus.topic_prefix).of(*topic).to_owned(),
        None => args.topic,
    };
    let options = ScanOptions {
        from: args.from.0,
        isolation: match args.isolation {
            IsolationArg::ReadCommitted => Isolation::ReadCommitted,
            IsolationArg::ReadUncommitted => Isolation::ReadUncommitted,
        },
    };
    let limits = AuditLimits { sessions: args.max_sessions, examples: args.examples };
    let name = topic.clone();
    let (report, parts) = tokio::task::spawn_blocking(move || check(&bus, &name, &options, limits)).await??;
    let mut facts = json!({
        "version": REPORT_VERSION,
        "topic": topic,
        "clean": report.is_clean(),
        "complete": report.is_complete(),
    });
    let counts = serde_json::to_value(&report)?;
    if let (Some(facts), Some(counts)) = (facts.as_object_mut(), counts.as_object()) {
        facts.insert("committed".to_owned(), report.committed().into());
        facts.extend(counts.clone());
        let part = |part: &Scanned| json!({ "partition": part.partition, "from": part.from, "to": part.to });
        facts.insert("partitions".to_owned(), parts.iter().map(part).collect());
    }
    Printer::new(global.output).done(text(&topic, &report, &parts).trim_end(), &facts);
    Ok(report)
}

fn check(
    bus: &BusConfig,
    topic: &str,
    options: &ScanOptions,
    limits: AuditLimits,
) -> Result<(AuditReport, Vec<Scanned>)> {
    let mut scan = Scan::open(bus, topic, options)?;
    let mut audit = Audit::new(limits);
    loop {
        match scan.step()? {
            Step::Record(record) => {
                audit.look(&record);
            }
            Step::Waiting => {}
            Step::End => return Ok((audit.report().clone(), scan.parts().to_vec())),
        }
    }
}

fn text(topic: &str, report: &AuditReport, parts: &[Scanned]) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name:<13}  {value}");
    };
    line("topic", &topic);
    line("records", &report.records);
    line("sessions", &report.sessions);
    line("committed", &report.committed());
    for fault in Fault::ALL {
        line(fault.as_str(), &report.count(fault));
    }
    if report.sessions_forgotten > 0 {
        let forgotten = report.sessions_forgotten;
        line("forgotten", &format!("{forgotten} sessions, checked in part only: give --max-sessions more"));
    }
    let ends: Vec<_> = parts.iter().map(|part| part.to.to_string()).collect();
    line("read up to", &ends.join(","));
    for example in &report.examples {
        let place = format!("{}:{}", example.partition, example.offset);
        let _ = writeln!(
            text,
            "{:<13}  {place:<12}  {}  {}  {}",
            example.fault.as_str(),
            example.key,
            example.id,
            example.what
        );
    }
    text
}
