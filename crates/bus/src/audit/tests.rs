use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const DEVICE: &str = "02a1b2c3d4e5";
const OTHER: &str = "02a1b2c3d4ff";

fn named(session: u8, epoch: u32, sequence: u32) -> TailedRecord {
    let id = format!("{}.{epoch}.{sequence}", hex(session));
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", &format!("//sluice/tenants/default/devices/{DEVICE}")),
        ("ce_type", "sluice.telemetry.raw.v1"),
        ("ce_sequence", &sequence.to_string()),
    ];
    TailedRecord {
        topic: "sluice.telemetry".to_owned(),
        partition: 0,
        offset: 0,
        timestamp_ms: None,
        key: format!("default/{DEVICE}").into_bytes(),
        payload: Vec::new(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec(),
    }
}

fn hex(session: u8) -> String {
    format!("{session:02x}").repeat(16)
}

fn with_header(mut record: TailedRecord, name: &str, value: &str) -> TailedRecord {
    let header = record.headers.iter_mut().find(|(header, _)| header == name).expect("it has that header");
    header.1 = value.as_bytes().to_vec();
    record
}

/// Of the device `OTHER`, in every place.
fn of_other(record: TailedRecord) -> TailedRecord {
    let mut record = with_header(record, "ce_source", &format!("//sluice/tenants/default/devices/{OTHER}"));
    record.key = format!("default/{OTHER}").into_bytes();
    record
}

fn audit(records: &[TailedRecord]) -> AuditReport {
    let mut audit = Audit::new(AuditLimits::default());
    for (record, offset) in records.iter().zip(0..) {
        audit.look(&TailedRecord { offset, ..record.clone() });
    }
    audit.report().clone()
}

#[track_caller]
fn assert_counts(report: &AuditReport, expected: &[(Fault, u64)]) {
    for fault in Fault::ALL {
        let wanted = expected.iter().find(|(wanted, _)| *wanted == fault).map_or(0, |(_, count)| *count);
        assert_eq!(report.count(fault), wanted, "{}: {report:#?}", fault.as_str());
    }
    assert_eq!(report.is_clean(), expected.is_empty());
}

#[test]
fn rising_names_are_well_with_gaps_and_changes_of_keys() {
    let report = audit(&[
        named(1, 0, 0),
        named(2, 0, 7),
        named(1, 0, 4),
        named(1, 1, 0),
        named(2, 0, u32::MAX),
        named(1, 3, 2),
    ]);
    assert_counts(&report, &[]);
    assert_eq!((report.records, report.committed(), report.sessions), (6, 6, 2));
}

#[test]
fn a_copy_is_doubled_at_once_and_later() {
    let report = audit(&[named(1, 0, 5), named(1, 0, 5), named(1, 0, 9), named(1, 0, 5)]);
    assert_counts(&report, &[(Fault::Doubled, 2)]);
    assert_eq!(report.committed(), 2);
    let places: Vec<_> = report.examples.iter().map(|example| (example.fault, example.offset)).collect();
    assert_eq!(places, [(Fault::Doubled, 1), (Fault::Doubled, 3)]);
    assert_eq!(report.examples[0].id, format!("{}.0.5", hex(1)));
}

#[test]
fn a_name_that_is_late_breaks_the_order_and_its_copy_is_doubled() {
    let report = audit(&[named(1, 0, 5), named(1, 0, 9), named(1, 0, 7), named(1, 0, 7), named(1, 0, 10)]);
    assert_counts(&report, &[(Fault::OrderBreak, 1), (Fault::Doubled, 1)]);
}

#[test]
fn an_epoch_that_falls_breaks_the_order() {
    let report = audit(&[named(1, 2, 0), named(1, 1, 100), named(1, 2, 1)]);
    assert_counts(&report, &[(Fault::OrderBreak, 1)]);
}

#[test]
fn what_lies_behind_the_window_is_not_guessed() {
    let edge = WINDOW - 1;
    let report = audit(&[named(1, 0, 0), named(1, 0, edge), named(1, 0, 0)]);
    assert_counts(&report, &[(Fault::Doubled, 1)]);
    let report = audit(&[named(1, 0, 0), named(1, 0, edge + 1), named(1, 0, 0)]);
    assert_counts(&report, &[(Fault::FarBehind, 1)]);
}

#[test]
fn a_session_is_one_devices() {
    let report = audit(&[named(1, 0, 0), of_other(named(1, 0, 1)), named(1, 0, 1), of_other(named(1, 0, 1))]);
    assert_counts(&report, &[(Fault::WrongDevice, 2), (Fault::Doubled, 1)]);
}

#[test]
fn key_and_source_must_agree() {
    let mut device = named(1, 0, 0);
    device.key = format!("default/{OTHER}").into_bytes();
    let mut tenant = named(2, 0, 0);
    tenant.key = format!("acme/{DEVICE}").into_bytes();
    assert_counts(&audit(&[device, tenant, named(1, 0, 0)]), &[(Fault::WrongDevice, 2)]);
}

#[test]
fn a_session_in_two_partitions_has_no_order() {
    let moved = TailedRecord { partition: 3, ..named(1, 0, 6) };
    assert_counts(&audit(&[named(1, 0, 5), moved, named(1, 0, 7)]), &[(Fault::OrderBreak, 1)]);
}

#[test]
fn what_cannot_be_read_is_malformed() {
    let without = |name: &str| {
        let mut record = named(1, 0, 0);
        record.headers.retain(|(header, _)| header != name);
        record
    };
    let mut twice = named(1, 0, 0);
    twice.headers.push(("ce_id".to_owned(), format!("{}.0.1", hex(1)).into_bytes()));
    let mut no_text = named(1, 0, 0);
    no_text.headers[1].1 = vec![0xff];
    let mut no_key = named(1, 0, 0);
    no_key.key = b"no slash".to_vec();
    let mut records = vec![twice, no_text, no_key];
    for name in ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_sequence"] {
        records.push(without(name));
    }
    for (name, value) in [
        ("ce_specversion", "2.0"),
        ("ce_type", "sluice.telemetry.raw.v2"),
        ("ce_sequence", "1"),
        ("ce_id", ""),
        ("ce_id", &format!("{}.0", hex(1))),
        ("ce_id", &format!("{}.0.0.0", hex(1))),
        ("ce_id", &format!("{}.00.0", hex(1))),
        ("ce_id", &format!("{}.0.+0", hex(1))),
        ("ce_id", &format!("{}.0.4294967296", hex(1))),
        ("ce_id", &format!("{}.0.0", hex(0xab).to_uppercase())),
        ("ce_source", "//sluice/edge"),
        ("ce_source", "//sluice/tenants/default/devices/02:a1:b2:c3:d4:e5"),
        ("ce_source", "//sluice/tenants//devices/02a1b2c3d4e5"),
    ] {
        records.push(with_header(named(1, 0, 0), name, value));
    }
    for record in &records {
        assert_counts(&audit(std::slice::from_ref(record)), &[(Fault::Malformed, 1)]);
    }
    assert_eq!(audit(&records).committed(), 0);
}

#[test]
fn of_each_kind_the_first_examples_are_kept_and_no_terminal_obeys_them() {
    let mut hostile = named(1, 0, 0);
    hostile.key = b"\x1b[2J".to_vec();
    let mut records = vec![hostile; 20];
    records.extend((0..20).map(|_| named(1, 0, 0)));
    let report = audit(&records);
    assert_counts(&report, &[(Fault::Malformed, 20), (Fault::Doubled, 19)]);
    assert_eq!(report.examples.len(), 10);
    assert_eq!(report.examples[0].key, "\\u{1b}[2J");
}

#[test]
fn more_sessions_than_fit_are_forgotten_and_counted() {
    let mut audit = Audit::new(AuditLimits { sessions: 4, examples: 1 });
    for session in 0..6 {
        assert!(audit.look(&named(session, 0, 0)));
        assert!(!audit.look(&named(session, 0, 0)), "what is near is still checked");
    }
    assert_eq!(audit.report().sessions_forgotten, 2, "{:?}", audit.report());
    assert!(!audit.report().is_complete());
    assert!(audit.look(&named(0, 0, 0)), "its session was forgotten");
    assert!(!audit.look(&named(4, 0, 0)), "this one was not");
}

proptest! {
    /// Against a check that remembers everything.
    #[test]
    fn counts_are_those_of_a_check_with_unbounded_memory(
        names in prop::collection::vec((0u8..4, 0u32..3, 0u32..40), 0..200)
    ) {
        let mut seen = BTreeSet::new();
        let mut highest = BTreeMap::new();
        let (mut doubled, mut breaks) = (0, 0);
        for &(session, epoch, sequence) in &names {
            let top = highest.entry(session).or_insert((epoch, sequence));
            let fell = epoch < top.0;
            if !seen.insert((session, epoch, sequence)) && !fell {
                doubled += 1;
            } else if (epoch, sequence) < *top {
                // Of keys that were changed nothing is remembered: a copy of that time breaks the order.
                breaks += 1;
            }
            *top = (*top).max((epoch, sequence));
        }
        let records: Vec<_> = names.iter().map(|&(session, epoch, sequence)| named(session, epoch, sequence)).collect();
        let report = audit(&records);
        prop_assert_eq!((report.doubled, report.order_breaks, report.far_behind), (doubled, breaks, 0));
        prop_assert_eq!(report.records, names.len() as u64);
    }

    #[test]
    fn no_headers_or_keys_end_the_check(
        key in prop::collection::vec(any::<u8>(), 0..40),
        id in ".{0,80}",
        source in ".{0,80}",
    ) {
        let mut record = with_header(with_header(named(1, 0, 0), "ce_id", &id), "ce_source", &source);
        record.key = key;
        prop_assert!(!Audit::new(AuditLimits::default()).look(&record));
    }
}
