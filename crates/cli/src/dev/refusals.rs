//! One line for people about devices that were refused, from the security topic.

use sluice_bus::TailedRecord;

/// What `sluice dev` prints about an event of the security topic; `None` for what is none.
pub(super) fn line(record: &TailedRecord) -> Option<String> {
    let event = record.event()?;
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let transport = text("transport").trim_start_matches("TRANSPORT_");
    let device = match text("device") {
        "" => "a device",
        device => device,
    };
    let reason = text("reason").trim_start_matches("SECURITY_REASON_");
    let why = match reason {
        "WRONG_KEY" => {
            "it does not have the key that is registered (a device that failed five times waits for up to a minute, also with the right key)"
        }
        "UNKNOWN_DEVICE" => "it is not registered; `sluice device add ID` registers it",
        "REVOKED" => "it is revoked",
        "SUSPENDED" => "it is suspended; `sluice device resume ID` lets it connect",
        "RATE_LIMITED" => "it failed several times and waits for up to a minute, also with the right key",
        "VERSION" => "it speaks another version of the protocol",
        other => &other.to_ascii_lowercase().replace('_', " "),
    };
    let time = record.header("ce_time").unwrap_or("-");
    // A 64-bit number is text in JSON of protobuf.
    let times = match text("count") {
        "" | "0" | "1" => String::new(),
        count => format!(", {count} more times"),
    };
    Some(format!("{time}  refused  {device} over {transport}{times}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> TailedRecord {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        TailedRecord {
            topic: "sluice.security".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: Vec::new(),
            payload: json.as_bytes().to_vec(),
            headers: vec![
                header("ce_type", "sluice.events.security.v1"),
                header("ce_time", "2026-11-26T08:15:30.123Z"),
            ],
        }
    }

    #[test]
    fn a_device_with_a_wrong_key_is_named_and_the_wait_after_it() {
        let record = event(
            r#"{"reason":"SECURITY_REASON_WRONG_KEY","device":"02a1b2c3d4e5","count":"1","transport":"TRANSPORT_UDP"}"#,
        );
        let line = line(&record).expect("an event");
        assert!(line.starts_with("2026-11-26T08:15:30.123Z  refused  02a1b2c3d4e5 over UDP: "), "{line}");
        assert!(line.contains("key") && line.contains("up to a minute"), "{line}");
    }

    #[test]
    fn repeats_are_one_line_and_other_reasons_are_words() {
        let record =
            event(r#"{"reason":"SECURITY_REASON_LOW_ORDER_KEY","count":"12","transport":"TRANSPORT_TCP"}"#);
        let line = line(&record).expect("an event");
        assert!(line.ends_with("refused  a device over TCP, 12 more times: low order key"), "{line}");
    }

    #[test]
    fn a_record_that_is_no_event_gives_no_line() {
        let mut record = event("{}");
        record.headers.clear();
        assert_eq!(line(&record), None);
    }
}
