//! Compares what devices were told with what Kafka has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use sluice_bus::{Audit, AuditLimits, AuditReport, TailedRecord};
use sluice_types::DeviceId;

use super::fleet::{DeviceLog, is_fragmented, number_of, size_of};
use crate::sdk::payload;

/// What came of a scenario.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Messages that devices were told are committed.
    pub acked: usize,
    /// What the records themselves say; `doubled`, `wrong_device` and order are in here.
    pub audit: AuditReport,
    /// Messages that were acknowledged and are not there.
    pub lost: Vec<(DeviceId, u32)>,
    /// Records under another device's key than the one whose message it is, or that are no message of the fleet.
    pub foreign: Vec<String>,
    /// Records whose message is not above all before it in the same session: the devices count up, and say nothing twice in a session.
    pub disordered: Vec<String>,
    /// Sessions opened beyond each device's first.
    pub handshakes: u64,
    /// Of those, the ones of devices whose messages are one frame: no adoption may cause them.
    pub unprovoked: u64,
    /// Messages that devices gave up.
    pub given_up: u64,
    /// Of those, the ones of one frame.
    pub whole_given_up: u64,
    /// Why sessions ended, or were not opened.
    pub closed: BTreeMap<String, u64>,
    /// The device that was longest without an acknowledgement while it tried, and how long.
    pub darkest: Option<(DeviceId, Duration)>,
}

impl Verdict {
    /// Compares the logs of all devices that sent with everything that is committed.
    #[must_use]
    pub fn new(logs: &[DeviceLog], records: &[TailedRecord]) -> Self {
        let mut audit = Audit::new(AuditLimits::default());
        let keys: HashMap<String, u32> =
            logs.iter().map(|log| (format!("default/{}", log.device), log.number)).collect();
        let mut there = BTreeSet::new();
        let mut highest = HashMap::<&str, u32>::new();
        let (mut foreign, mut disordered) = (Vec::new(), Vec::new());
        for record in records {
            audit.look(record);
            let key = String::from_utf8_lossy(&record.key);
            let place = format!("{}:{} {key}", record.partition, record.offset);
            let message = record.payload.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            let (Some(&number), Some(message)) = (keys.get(key.as_ref()), message) else {
                foreign.push(place);
                continue;
            };
            if number_of(message) != number || record.payload != payload(message, size_of(number)) {
                foreign.push(format!("{place}: message {message}"));
                continue;
            }
            there.insert(message);
            let session = record.header("ce_id").and_then(|id| id.split('.').next()).unwrap_or_default();
            match highest.get_mut(session) {
                Some(highest) if message <= *highest => {
                    disordered.push(format!("{place}: message {message} after {highest} in {session}"));
                }
                Some(highest) => *highest = message,
                None => _ = highest.insert(session, message),
            }
        }
        let lost = logs.iter().flat_map(|log| log.acked.iter().map(|&message| (log.device, message)));
        let lost = lost.filter(|(_, message)| !there.contains(message)).collect();
        let mut closed = BTreeMap::new();
        for (reason, count) in logs.iter().flat_map(|log| &log.closed) {
            *closed.entry(reason.clone()).or_default() += count;
        }
        let whole = || logs.iter().filter(|log| !is_fragmented(log.number));
        Self {
            acked: logs.iter().map(|log| log.acked.len()).sum(),
            audit: audit.report().clone(),
            lost,
            foreign,
            disordered,
            handshakes: logs.iter().map(|log| log.sessions.saturating_sub(1)).sum(),
            unprovoked: whole().map(|log| log.sessions.saturating_sub(1)).sum(),
            given_up: logs.iter().map(|log| log.given_up).sum(),
            whole_given_up: whole().map(|log| log.given_up).sum(),
            closed,
            darkest: logs.iter().map(|log| (log.device, log.longest_dark)).max_by_key(|(_, dark)| *dark),
        }
    }

    /// Whether every promise was kept: nothing acknowledged is lost, nothing is there twice, in another order, or as another device's.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lost.is_empty() && self.foreign.is_empty() && self.disordered.is_empty() && self.audit.is_clean()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, audit, lost, foreign, disordered, closed, darkest, .. } = self;
        let Self { handshakes, unprovoked, given_up, whole_given_up, .. } = self;
        write!(
            f,
            "acked {acked}, committed {}, lost {}, doubled {}, wrong device {}, order breaks {}, handshakes caused {handshakes} (of \
             devices whose messages are one frame {unprovoked}), given up {given_up} ({whole_given_up}), closed {closed:?}, longest dark {darkest:?}",
            audit.committed(),
            lost.len(),
            audit.doubled,
            audit.wrong_device as usize + foreign.len(),
            audit.order_breaks as usize + audit.far_behind as usize + disordered.len(),
        )?;
        for (device, message) in lost.iter().take(5) {
            write!(f, "\nlost: {message} of {device}")?;
        }
        for place in foreign.iter().chain(disordered).take(10) {
            write!(f, "\nwrong: {place}")?;
        }
        audit.examples.iter().try_for_each(|example| write!(f, "\n{example:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u8, acked: &[u32]) -> DeviceLog {
        DeviceLog {
            device: DeviceId::from_bytes([2, 0, 0, 0, 0, number]),
            number: number.into(),
            acked: acked.to_vec(),
            sessions: 1,
            given_up: 0,
            closed: BTreeMap::new(),
            longest_dark: Duration::ZERO,
        }
    }

    fn record(device: u8, message: u32, sequence: u32) -> TailedRecord {
        let id = DeviceId::from_bytes([2, 0, 0, 0, 0, device]);
        let headers = [
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", format!("{}.0.{sequence}", format!("{device:02x}").repeat(16))),
            ("ce_source", format!("//sluice/tenants/default/devices/{id}")),
            ("ce_type", "sluice.telemetry.raw.v1".to_owned()),
            ("ce_sequence", sequence.to_string()),
        ];
        TailedRecord {
            topic: String::new(),
            partition: 0,
            offset: 0,
            timestamp_ms: None,
            key: format!("default/{id}").into_bytes(),
            payload: payload(message, size_of(device.into())),
            headers: headers.map(|(name, value)| (name.to_owned(), value.into_bytes())).to_vec(),
        }
    }

    #[test]
    fn what_was_acked_and_is_there_once_in_order_is_kept() {
        // More may be committed than the device heard of.
        let records = [record(1, 1_000_000, 0), record(2, 2_000_000, 0), record(1, 1_000_001, 3)];
        let verdict = Verdict::new(&[log(1, &[1_000_000]), log(2, &[2_000_000])], &records);
        assert!(verdict.is_kept(), "{verdict}");
        assert_eq!((verdict.acked, verdict.audit.committed()), (2, 3));
    }

    #[test]
    fn each_broken_promise_shows() {
        let logs = [log(1, &[1_000_000, 1_000_001]), log(2, &[])];
        let first = || record(1, 1_000_000, 0);
        let verdict = Verdict::new(&logs, &[first()]);
        assert_eq!(verdict.lost, [(logs[0].device, 1_000_001)]);
        let doubled = Verdict::new(&logs, &[first(), record(1, 1_000_001, 1), first()]);
        assert_eq!((doubled.audit.doubled, doubled.disordered.len()), (1, 1), "{doubled}");
        let foreign = Verdict::new(&logs, &[first(), record(1, 1_000_001, 1), record(2, 1_000_002, 0)]);
        assert_eq!(foreign.foreign.len(), 1, "{foreign}");
        let altered = TailedRecord { payload: payload(1_000_001, 59), ..record(1, 1_000_001, 1) };
        assert_eq!(Verdict::new(&logs, &[first(), altered]).foreign.len(), 1);
        let disordered = Verdict::new(&logs, &[record(1, 1_000_001, 0), record(1, 1_000_000, 1)]);
        assert_eq!((disordered.disordered.len(), disordered.audit.order_breaks), (1, 0), "{disordered}");
        let renamed = Verdict::new(&logs, &[first(), record(1, 1_000_001, 1), record(1, 1_000_001, 2)]);
        assert_eq!((renamed.disordered.len(), renamed.audit.doubled), (1, 0), "{renamed}");
        for verdict in [verdict, doubled, foreign, disordered, renamed] {
            assert!(!verdict.is_kept(), "{verdict}");
        }
    }
}
