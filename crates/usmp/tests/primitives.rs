//! The primitives against the recorded vectors.
use serde_json::Value;
use usmp::crypto::{AwsLc, Provider, RustCrypto};
use usmp::wire::{Frame, crc16};
use usmp::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).expect("the vectors are JSON")
}
fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a hex string")).expect("hex")
}
fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("this many bytes")
}

#[test]
fn crc_seal_and_keys_are_those_of_the_recordings() {
    let vectors = vectors();
    for case in vectors["v2"]["crc16"].as_array().expect("list") {
        assert_eq!(u64::from(crc16(&[&bytes(&case["input_hex"])])), case["crc16"].as_u64().expect("number"));
    }
    check::<RustCrypto>(&vectors);
    check::<AwsLc>(&vectors);
}

fn check<P: Provider>(vectors: &Value) {
    for case in vectors["v2"]["seal"].as_array().expect("list") {
        if case["cipher"] != "AES-256-GCM" {
            continue;
        }
        let key = Secret::new(array(&case["key_hex"]));
        let session = SessionId(array(&case["session_id_hex"]));
        let (code, seq) =
            (case["type"].as_u64().expect("type") as u8, case["seq"].as_u64().expect("seq") as u32);
        let plaintext = bytes(&case["plaintext_hex"]);
        let mut out = [0; 492];
        let length = seal_frame::<P>(&key, session, code.into(), seq, &plaintext, &mut out).expect("fits");
        assert_eq!(out[..length], bytes(&case["frame_hex"]));
        Frame::parse(&out[..length]).expect("well-formed");
        assert_eq!(open_frame::<P>(&key, session, &mut out[..length]).expect("opens").plaintext, plaintext);
    }
    for case in vectors["v2"]["key_derivation"].as_array().expect("list") {
        let private = Secret::new(array(&case["server_private_hex"]));
        let (pub_c, pub_s) = (array(&case["client_public_hex"]), array(&case["server_public_hex"]));
        assert_eq!(P::x25519_public(&private), pub_s);
        let shared = P::x25519(&private, &pub_c).expect("a good point");
        let keys = session_keys::<P>(&shared, &array(&case["nonce_hex"]), &pub_c, &pub_s);
        assert_eq!(keys.c2s.expose(), &array(&case["k_c2s_hex"]));
        assert_eq!(keys.s2c.expose(), &array(&case["k_s2c_hex"]));
    }
}
