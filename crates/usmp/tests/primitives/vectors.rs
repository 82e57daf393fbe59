//! How a section of `vectors.json` is walked, and the proof that none is forgotten.

use std::sync::OnceLock;

use serde_json::Value;

fn file() -> &'static Value {
    static FILE: OnceLock<Value> = OnceLock::new();
    FILE.get_or_init(|| serde_json::from_str(include_str!("../vectors.json")).expect("the vectors are JSON"))
}

/// Gives every entry of the list at a JSON pointer to `entry`; fails unless there were exactly `expected`.
pub(crate) fn each(section: &str, expected: usize, mut entry: impl FnMut(&'static Value)) {
    let entries = file().pointer(section).and_then(Value::as_array).expect("the section is a list");
    let mut visited = 0;
    for value in entries {
        entry(value);
        visited += 1;
    }
    assert_eq!(visited, expected, "entries of {section}");
}

/// The value at a JSON pointer.
pub(crate) fn at(pointer: &str) -> &'static Value {
    file().pointer(pointer).expect("the value is in the file")
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hex digits")
}

pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("this many bytes")
}

pub(crate) fn number<T: TryFrom<u64>>(value: &Value) -> T {
    T::try_from(value.as_u64().expect("a number")).ok().expect("in range")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// A section that appears in the file and in no list here would be one that no test looks at.
#[test]
fn every_section_of_the_file_has_a_test() {
    let here = [
        "/v2/crc16",
        "/v2/frame_header",
        "/v2/aad",
        "/v2/gcm_nonce",
        "/v2/seal",
        "/v2/key_derivation",
        "/v2/handshake_hmac",
        "/v2/rekey_derivation",
        "/v2/utack",
        "/v2/cookie",
        "/v2/replay_window_udp",
        "/v1_deterministic_nonce_dialect/frame_header",
        "/v1_deterministic_nonce_dialect/key_derivation",
        "/v1_deterministic_nonce_dialect/handshake_hmac",
        "/v1_deterministic_nonce_dialect/gcm_nonce",
        "/v1_deterministic_nonce_dialect/seal",
        "/v1_deterministic_nonce_dialect/sessions",
        "/v1_random_nonce_dialect/frame_header",
        "/v1_random_nonce_dialect/key_derivation",
        "/v1_random_nonce_dialect/handshake_hmac",
        "/v1_random_nonce_dialect/sessions",
    ];
    // These need a machine: the tests of the server and of the device role walk them.
    let in_the_roles = [
        "/v2/sessions",
        "/v2/negative_session_frames",
        "/v2/negative_handshake_server_role",
        "/v2/negative_handshake_client_role",
    ];
    for (dialect, sections) in file().as_object().expect("an object") {
        let Some(sections) = sections.as_object().filter(|_| dialect != "conventions") else { continue };
        for (name, section) in sections {
            let pointer = format!("/{dialect}/{name}");
            let known = here.contains(&pointer.as_str()) || in_the_roles.contains(&pointer.as_str());
            let remark = section.is_string() || section.is_number();
            assert!(known || remark, "no test walks {pointer}");
        }
    }
}
