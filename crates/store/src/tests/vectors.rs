//! The published vectors of derived keys, computed by `tests/vectors/derived_keys.py`, which shares nothing with this crate.

use sluice_types::KeyEpoch;

use crate::{SecretKey, derived_psk};

#[derive(serde::Deserialize)]
struct Vector {
    root: String,
    key_epoch: u32,
    device: sluice_types::DeviceId,
    psk: String,
}

#[test]
fn derived_keys_are_the_published_ones() {
    let text = include_str!("../../tests/vectors/derived-keys.json");
    let vectors: Vec<Vector> = serde_json::from_str(text).expect("well-formed vectors");
    assert!(vectors.len() >= 4, "only {} vectors", vectors.len());
    for vector in vectors {
        let root = hex::decode(&vector.root).expect("hex");
        let root = SecretKey::from_slice(&root).expect("32 bytes");
        let psk = derived_psk(&root, KeyEpoch(vector.key_epoch), vector.device);
        assert_eq!(hex::encode(psk.expose()), vector.psk, "{} epoch {}", vector.device, vector.key_epoch);
    }
}
