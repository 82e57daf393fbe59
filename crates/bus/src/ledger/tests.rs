//! Golden bytes, damage, and what a reader knows in the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SESSION: SessionKey = [0xa1; 16];

fn entries() -> [LedgerEntry; 3] {
    [
        LedgerEntry::State {
            session: SESSION,
            device: [2, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5],
            birth: 7,
            epoch: 1,
            committed: Some(41),
            fragment_open: true,
        },
        LedgerEntry::Number { session: SESSION, epoch: 1, seq: 42, fragment_open: false },
        LedgerEntry::Closed { session: SESSION },
    ]
}

fn record_of(generation: u32, entries: &[LedgerEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    begin_entries(&mut bytes, generation);
    entries.iter().for_each(|entry| append_entry(&mut bytes, entry));
    seal(&mut bytes, 0);
    bytes
}

fn owner_record(nonce: u8) -> Vec<u8> {
    let owner = Owner { pod: [0x0d; 16], address: "10.0.0.7:7400".to_owned() };
    encode_owner(&owner, OwnerMark([nonce; 16])).expect("a short address")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn entries_are_read_as_they_were_written() {
    let bytes = record_of(9, &entries());
    let Ok(LedgerRecord::Entries { generation, entries: read }) = LedgerRecord::decode(&bytes) else {
        panic!("not read: {}", hex(&bytes));
    };
    assert_eq!((generation, read.iter().collect::<Vec<_>>()), (9, entries().to_vec()));
}

#[test]
fn owner_is_read_as_it_was_written_and_a_long_address_is_none() {
    let bytes = owner_record(0x5e);
    let expected = LedgerRecord::Owner { pod: [0x0d; 16], nonce: [0x5e; 16], address: "10.0.0.7:7400" };
    assert_eq!(LedgerRecord::decode(&bytes), Ok(expected));
    let long = Owner { pod: [0; 16], address: "a".repeat(256) };
    assert_eq!(encode_owner(&long, OwnerMark([0; 16])), None);
}

/// Version 1, as it lies in topics and stores: never to be changed, only to be followed by a version 2.
#[test]
fn version_1_has_these_bytes() {
    let snapshot = Snapshot {
        offset: 0x0102_0304_0506,
        generation: 9,
        sessions: vec![SessionState {
            session: SESSION,
            device: [2, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5],
            birth: 7,
            epoch: 1,
            committed: None,
            fragment_open: false,
        }],
    };
    for (bytes, golden) in [
        (
            owner_record(0x5e),
            "01010d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e0d31302e302e302e373a3734303078f0\
             f646",
        ),
        (
            record_of(9, &entries()),
            "01020000000901a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a102a1b2c3d4e50000000700000001030000002902a1a1a1a1a1a1a1\
             a1a1a1a1a1a1a1a1a100000001020000002a03a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a177b49bf3",
        ),
        (record_of(0x0102_0304, &[]), "010201020304972605b7"),
        (
            snapshot.encode(),
            "01000001020304050600000009a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a102a1b2c3d4e500000007000000010000000000d8d7\
             50c4",
        ),
    ] {
        assert_eq!(hex(&bytes), golden);
    }
    assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let state = SessionState {
        session: SESSION,
        device: [1; 6],
        birth: 1,
        epoch: 2,
        committed: Some(3),
        fragment_open: true,
    };
    let snapshot = Snapshot { offset: 5, generation: 6, sessions: vec![state; 3] }.encode();
    let is_record: fn(&[u8]) -> bool = |bytes| LedgerRecord::decode(bytes).is_ok();
    let is_snapshot: fn(&[u8]) -> bool = |bytes| Snapshot::decode(bytes).is_ok();
    let cases =
        [(owner_record(1), is_record), (record_of(9, &entries()), is_record), (snapshot, is_snapshot)];
    for (bytes, is_taken) in cases {
        assert!(is_taken(&bytes), "whole: {}", hex(&bytes));
        for length in 0..bytes.len() {
            assert!(!is_taken(&bytes[..length]), "cut to {length}: {}", hex(&bytes));
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_taken(&damaged), "bit {bit} flipped: {}", hex(&damaged));
        }
    }
}

/// Body bytes under a checksum that is right.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.to_vec();
    seal(&mut bytes, 0);
    bytes
}

#[test]
fn later_version_is_named_and_not_mistaken_for_damage() {
    assert_eq!(LedgerRecord::decode(&sealed(&[2, 1, 2, 3])), Err(LedgerError::UnknownVersion(2)));
    assert_eq!(Snapshot::decode(&sealed(&[7])), Err(LedgerError::UnknownVersion(7)));
}

#[test]
fn whole_bytes_that_the_format_does_not_know_are_malformed() {
    let entry = |tail: &[u8]| sealed(&[&[1, 2, 0, 0, 0, 1][..], tail].concat());
    let number_with_flags = |flags: u8| [&[2][..], &[0; 20], &[flags, 0, 0, 0, 1]].concat();
    for bytes in [
        sealed(&[]),
        sealed(&[1]),
        sealed(&[1, 3]),
        sealed(&[1, 2, 0, 0, 0]),
        // An owner whose address is longer or shorter than it says, or no text.
        sealed(&[&[1, 1][..], &[0; 32], &[3], b"ab"].concat()),
        sealed(&[&[1, 1][..], &[0; 32], &[1], b"ab"].concat()),
        sealed(&[&[1, 1][..], &[0; 32], &[1, 0xff]].concat()),
        entry(&[0]),
        entry(&[4; 17]),
        entry(&[3; 16]),
        entry(&number_with_flags(0)),
        entry(&number_with_flags(4 | 2)),
    ] {
        assert_eq!(LedgerRecord::decode(&bytes), Err(LedgerError::Malformed), "{}", hex(&bytes));
    }
    for bytes in [sealed(&[1, 0]), sealed(&[1; 13 + 34]), sealed(&[&[1, 0x80][..], &[0; 11]].concat())] {
        assert_eq!(Snapshot::decode(&bytes), Err(LedgerError::Malformed), "{}", hex(&bytes));
    }
}

fn fold(records: &[Vec<u8>]) -> LedgerState {
    go_on(LedgerState::default(), records)
}

fn go_on(mut state: LedgerState, records: &[Vec<u8>]) -> LedgerState {
    records.iter().for_each(|bytes| state.apply(&LedgerRecord::decode(bytes).expect("written here")));
    state
}

/// Generation and sessions.
type Known = (u32, BTreeMap<SessionKey, SessionState>);

fn known(state: &LedgerState) -> Known {
    (state.generation(), state.sessions().map(|state| (state.session, *state)).collect())
}

fn state_entry(epoch: u32, committed: Option<u32>) -> LedgerEntry {
    LedgerEntry::State { session: SESSION, device: [1; 6], birth: 1, epoch, committed, fragment_open: false }
}

fn number(epoch: u32, seq: u32) -> LedgerEntry {
    LedgerEntry::Number { session: SESSION, epoch, seq, fragment_open: seq.is_multiple_of(2) }
}

#[test]
fn numbers_rise_only_and_a_rekey_begins_anew() {
    let read = |entries: &[LedgerEntry]| {
        let state = fold(&[record_of(1, entries)]);
        let found = state.sessions().next().map(|state| (state.epoch, state.committed, state.fragment_open));
        (found, state.oddities())
    };
    let none = Oddities::default();
    let regressed = Oddities { regressions: 1, ..none };
    let open = state_entry(0, None);
    assert_eq!(read(&[open]), (Some((0, None, false)), none));
    assert_eq!(read(&[open, number(0, 0)]), (Some((0, Some(0), true)), none), "zero is a number");
    assert_eq!(read(&[open, number(0, 7), number(0, 6)]), (Some((0, Some(7), false)), regressed));
    assert_eq!(read(&[open, number(0, 7), state_entry(1, None)]), (Some((1, None, false)), none));
    assert_eq!(read(&[open, number(1, 2), number(0, 9)]), (Some((1, Some(2), true)), regressed));
    assert_eq!(read(&[open, number(0, 7), state_entry(0, Some(7))]), (Some((0, Some(7), false)), none));
    assert_eq!(read(&[open, number(0, 7), state_entry(0, Some(3))]), (Some((0, Some(7), false)), regressed));
}

#[test]
fn session_without_an_opening_or_after_its_close_is_not_kept() {
    let state = fold(&[record_of(1, &[number(0, 3), state_entry(0, None), entries()[2], number(0, 4)])]);
    assert_eq!(known(&state).1, BTreeMap::new());
    assert_eq!(state.oddities().orphans, 2);
}

#[test]
fn generation_is_counted_and_never_falls() {
    let owners = [owner_record(1), owner_record(2)];
    assert_eq!(fold(&owners).generation(), 2);
    assert_eq!(fold(&[owner_record(1), owner_record(1)]).generation(), 1, "a copy of one record");
    let forgotten = [record_of(57, &[]), owner_record(1)];
    assert_eq!(fold(&forgotten).generation(), 58, "what the topic forgot is known by its records");
    let late = [record_of(57, &[]), owner_record(1), record_of(57, &[])];
    assert_eq!(fold(&late).generation(), 58, "one that does not know it is no owner any more");
}

/// A step of a slot's life.
#[derive(Debug, Clone)]
enum Step {
    Adopted,
    Open(u8),
    Number { session: u8, ahead: u8, fragment: bool },
    Rekey(u8),
    Again(u8),
    Close(u8),
    EndOfRecord,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Adopted),
        3 => any::<u8>().prop_map(Step::Open),
        8 => (any::<u8>(), 1..4_u8, any::<bool>())
            .prop_map(|(session, ahead, fragment)| Step::Number { session, ahead, fragment }),
        1 => any::<u8>().prop_map(Step::Rekey),
        1 => any::<u8>().prop_map(Step::Again),
        2 => any::<u8>().prop_map(Step::Close),
        4 => Just(Step::EndOfRecord),
    ];
    proptest::collection::vec(step, 0..200)
}

/// The records of a life, and what its owner knew after each.
fn live(steps: &[Step]) -> (Vec<Vec<u8>>, Vec<Known>) {
    let (mut records, mut known) = (Vec::new(), Vec::new());
    let (mut generation, mut opened) = (0, 0_u16);
    let mut sessions: BTreeMap<SessionKey, SessionState> = BTreeMap::new();
    let mut entries = Vec::new();
    let steps = std::iter::once(&Step::Adopted).chain(steps).chain([&Step::EndOfRecord]);
    for step in steps {
        let pick = |number: u8| {
            let index = usize::from(number) % sessions.len().max(1);
            sessions.values().nth(index).copied()
        };
        let entry_of = |s: SessionState| LedgerEntry::State {
            session: s.session,
            device: s.device,
            birth: s.birth,
            epoch: s.epoch,
            committed: s.committed,
            fragment_open: s.fragment_open,
        };
        match *step {
            Step::Open(device) => {
                let mut session = [0; 16];
                session[..2].copy_from_slice(&opened.to_be_bytes());
                opened += 1;
                let state = SessionState {
                    session,
                    device: [device; 6],
                    birth: generation,
                    epoch: 0,
                    committed: None,
                    fragment_open: false,
                };
                sessions.insert(session, state);
                entries.push(entry_of(state));
            }
            Step::Number { session, ahead, fragment } => {
                let Some(mut state) = pick(session) else { continue };
                let seq = state.committed.map_or(0, |seq| seq + u32::from(ahead));
                (state.committed, state.fragment_open) = (Some(seq), fragment);
                sessions.insert(state.session, state);
                let SessionState { session, epoch, .. } = state;
                entries.push(LedgerEntry::Number { session, epoch, seq, fragment_open: fragment });
            }
            Step::Rekey(session) => {
                let Some(mut state) = pick(session) else { continue };
                (state.epoch, state.committed, state.fragment_open) = (state.epoch + 1, None, false);
                sessions.insert(state.session, state);
                entries.push(entry_of(state));
            }
            Step::Again(session) => entries.extend(pick(session).map(entry_of)),
            Step::Close(session) => {
                let Some(state) = pick(session) else { continue };
                sessions.remove(&state.session);
                entries.push(LedgerEntry::Closed { session: state.session });
            }
            Step::EndOfRecord | Step::Adopted => {
                records.push(record_of(generation, &entries));
                entries.clear();
                known.push((generation, sessions.clone()));
            }
        }
        if let Step::Adopted = step {
            generation += 1;
            records.push(owner_record(u8::try_from(generation % 256).expect("below 256")));
            known.push((generation, sessions.clone()));
        }
    }
    (records, known)
}

proptest! {
    #[test]
    fn snapshot_anywhere_leads_to_what_reading_from_the_start_leads_to(steps in steps(), at in any::<prop::sample::Index>()) {
        let (records, owner_knew) = live(&steps);
        for (length, knew) in (1..).zip(&owner_knew) {
            prop_assert_eq!(&known(&fold(&records[..length])), knew, "after {} records", length);
        }
        let at = at.index(records.len());
        let (generation, sessions) = &owner_knew[at];
        let offset = i64::try_from(at + 1).expect("small");
        let snapshot = Snapshot { offset, generation: *generation, sessions: sessions.values().copied().collect() };
        let kept = Snapshot::decode(&snapshot.encode()).expect("just encoded");
        let read = go_on(kept.into_state(), &records[at + 1..]);
        prop_assert_eq!(&known(&read), owner_knew.last().expect("at least one"));
        prop_assert_eq!(read.oddities(), Oddities::default());
    }

    #[test]
    fn snapshot_that_knows_more_than_its_offset_leads_there_too(steps in steps(), back in 0..6_usize, to in any::<prop::sample::Index>()) {
        let (records, owner_knew) = live(&steps);
        let to = to.index(records.len());
        let is_owner = |bytes: &Vec<u8>| matches!(LedgerRecord::decode(bytes), Ok(LedgerRecord::Owner { .. }));
        // Its owner makes it: it goes back no further than its own record.
        let own = records[..=to].iter().rposition(is_owner).unwrap_or(0);
        let from = to.saturating_sub(back).max(own);
        let (generation, sessions) = &owner_knew[to];
        let start = LedgerState::starting_from(*generation, sessions.values().copied());
        let read = go_on(start, &records[from + 1..]);
        prop_assert_eq!(&known(&read), owner_knew.last().expect("at least one"));
    }

    #[test]
    fn strange_bytes_are_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), right_checksum in any::<bool>(), version in 0..3_u8) {
        let mut bytes = [&[version][..], &bytes].concat();
        if right_checksum {
            seal(&mut bytes, 0);
        }
        let _ = Snapshot::decode(&bytes);
        if let Ok(record) = LedgerRecord::decode(&bytes) {
            let mut state = LedgerState::default();
            state.apply(&record);
            prop_assert!(state.sessions().count() <= bytes.len() / MAX_ENTRY_BYTES);
        }
    }
}
