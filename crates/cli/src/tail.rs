//! `sluice tail`

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_bus::{BusConfig, Start, Tail, TailedRecord, TopicNames};

use crate::args::{Global, TailArgs, TailFormat};

/// Longest wait for a record before the end of the command is looked at.
const WAIT: Duration = Duration::from_millis(200);

/// Bytes of a record shown in one line of text.
const SHOWN: usize = 200;

pub(crate) async fn run(global: &Global, args: TailArgs) -> Result<()> {
    let bus = crate::config::reachable_bus(global, args.brokers.as_deref()).await?;
    let topic = match sluice_bus::Topic::ALL.iter().find(|topic| topic.short_name() == args.topic) {
        Some(topic) => TopicNames::new(&bus.topic_prefix).of(*topic).to_owned(),
        None => args.topic.clone(),
    };
    let start = if args.from_beginning { Start::Beginning } else { Start::End };
    tokio::task::spawn_blocking(move || print_records(&bus, &topic, start, &args)).await?
}

fn print_records(bus: &BusConfig, topic: &str, start: Start, args: &TailArgs) -> Result<()> {
    let tail = Tail::open(bus, topic, start)?;
    let mut left = args.count;
    let mut out = std::io::stdout().lock();
    while left != Some(0) {
        let Some(record) = tail.next(WAIT)? else { continue };
        let line = match args.format {
            TailFormat::Text => text_line(&record),
            TailFormat::Json => json_line(&record).to_string(),
        };
        // A reader that went away, such as `head`, ends the command without a complaint.
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("cannot write to standard output"),
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// One line for people: time, key, and the value as far as it is text.
pub(crate) fn text_line(record: &TailedRecord) -> String {
    let time = record.header("ce_time").unwrap_or("-");
    let key = String::from_utf8_lossy(&record.key);
    format!("{time}  {key}  {}", shown_value(record))
}

pub(crate) fn shown_value(record: &TailedRecord) -> String {
    if let Some(event) = record.event() {
        return event.to_string();
    }
    match std::str::from_utf8(&record.payload) {
        Ok(text) if !text.chars().any(char::is_control) => cut(text),
        _ => cut(&format!("{} bytes: {}", record.payload.len(), hex::encode(&record.payload))),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn json_line(record: &TailedRecord) -> Value {
    let headers: serde_json::Map<_, _> = record
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), json!(String::from_utf8_lossy(value))))
        .collect();
    let mut line = json!({
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": String::from_utf8_lossy(&record.key),
        "headers": headers,
        "value_hex": hex::encode(&record.payload),
    });
    if let (Some(event), Some(map)) = (record.event(), line.as_object_mut()) {
        map.insert("event".to_owned(), event);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> TailedRecord {
        TailedRecord {
            topic: "sluice.telemetry".into(),
            partition: 0,
            offset: 7,
            timestamp_ms: None,
            key: b"default/02a1b2c3d4e5".to_vec(),
            payload: payload.to_vec(),
            headers: vec![("ce_time".into(), b"2026-11-26T08:15:30.123Z".to_vec())],
        }
    }

    #[test]
    fn text_is_shown_as_text_and_everything_else_as_hex() {
        let line = text_line(&record(b"{\"t\":20}"));
        assert_eq!(line, "2026-11-26T08:15:30.123Z  default/02a1b2c3d4e5  {\"t\":20}");
        for escape in [b"\x1b[2J".as_slice(), b"\xff\xfe", b"a\nb"] {
            let shown = text_line(&record(escape));
            assert!(shown.contains("bytes: "), "a terminal must not obey a device: {shown}");
        }
    }

    #[test]
    fn json_carries_every_byte() {
        assert_eq!(json_line(&record(&[0, 255]))["value_hex"], "00ff");
    }
}
