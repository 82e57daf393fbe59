//! Golden bytes, damage, and what a reader knows in the end.

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
