//! Kafka's own Java consumer as a witness from outside.

use anyhow::{Context, Result, bail, ensure};
use sluice_test_env::Kafka;

use crate::topic::Record;

/// Reads `count` records of a topic from its beginning with `ConsoleConsumer`, `read_committed`.
///
/// # Errors
/// The consumer fails, does not find `count` records within 30 s, or prints what cannot be read back.
pub fn consume(brokers: &str, topic: &str, count: usize) -> Result<Vec<Record>> {
    // Kafka's `Bytes` print as ASCII with every other byte, and the backslash, as \xNN: nothing is lost on the way.
    let bytes = "org.apache.kafka.common.serialization.BytesDeserializer";
    let count_text = count.to_string();
    let properties = [
        "print.partition=true".to_owned(),
        "print.offset=true".to_owned(),
        "print.headers=true".to_owned(),
        "print.key=true".to_owned(),
        "print.value=true".to_owned(),
        format!("key.deserializer={bytes}"),
        format!("value.deserializer={bytes}"),
        format!("headers.deserializer={bytes}"),
    ];
    let mut args = vec!["--bootstrap-server", brokers, "--topic", topic, "--from-beginning"];
    args.extend(["--isolation-level", "read_committed", "--max-messages", &count_text]);
    args.extend(["--timeout-ms", "30000"]);
    for property in &properties {
        args.extend(["--property", property]);
    }
    let output = Kafka::tool_output("org.apache.kafka.tools.consumer.ConsoleConsumer", &args)?;
    let text = String::from_utf8(output.stdout).context("its output is no text")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ConsoleConsumer: {}\n{errors}", output.status);
    let records = text.lines().map(parse).collect::<Result<Vec<_>>>()?;
    ensure!(records.len() == count, "{} records instead of {count}\n{errors}", records.len());
    Ok(records)
}

/// `Partition:0<TAB>Offset:1<TAB>name:value,name:value<TAB>key<TAB>value`
fn parse(line: &str) -> Result<Record> {
    let parts = line.split('\t').collect::<Vec<_>>();
    let [partition, offset, headers, key, value] = parts[..] else { bail!("not five columns: {line}") };
    let number = |text: &str, name: &str| -> Result<i64> {
        let text = text.strip_prefix(name).with_context(|| format!("no {name} in {line}"))?;
        text.parse().with_context(|| format!("no number: {text}"))
    };
    let headers = headers.split(',').filter(|text| *text != "NO_HEADERS").map(|header| {
        let (name, value) = header.split_once(':').with_context(|| format!("header {header}"))?;
        Ok((name.to_owned(), unescape(value)?))
    });
    Ok(Record {
        partition: i32::try_from(number(partition, "Partition:")?)?,
        offset: number(offset, "Offset:")?,
        headers: headers.collect::<Result<_>>()?,
        key: unescape(key)?,
        payload: unescape(value)?,
    })
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        let (digits, after) = escaped.split_at_checked(2).with_context(|| format!("cut short: {text}"))?;
        bytes.push(u8::from_str_radix(digits, 16).with_context(|| format!("no hex: {digits}"))?);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_console_consumer_is_read_back_to_its_bytes() {
        let line = "Partition:3\tOffset:17\tce_specversion:1.0,ce_time:2026-11-26T08:15:30.123Z\tdefault/02\t\\x00a,\\x5C\\xFF";
        let record = parse(line).expect("a line");
        assert_eq!((record.partition, record.offset), (3, 17));
        assert_eq!(record.headers[1], ("ce_time".to_owned(), b"2026-11-26T08:15:30.123Z".to_vec()));
        assert_eq!(record.key, b"default/02");
        assert_eq!(record.payload, [0, b'a', b',', b'\\', 0xff]);
    }
}
