//! Version 0x01 is refused: both its dialects are broken (WIRE.md section 14, W1 and W2). Every 0x01 entry of `vectors.json`.

use usmp::crypto::Provider;
use usmp::wire::{Frame, FrameError, FrameType, Utack, crc16, decode_stream};
use usmp::{
    DeviceId, OpenFrameError, Secret, SessionId, client_proof, open_frame, seal_frame, server_proof,
    session_keys,
};

use super::vectors::{array, bytes, each, number, text};

const DETERMINISTIC: &str = "/v1_deterministic_nonce_dialect";
const RANDOM: &str = "/v1_random_nonce_dialect";

for_each_provider!(
    frames_sealed_by_version_1_do_not_open_even_when_relabelled,
    key_schedule_of_version_1_is_not_ours,
    proofs_of_version_1_are_not_ours,
    nonces_of_version_1_look_like_ours_so_only_the_version_tells_them_apart,
);

fn assert_refused(frame: &[u8]) {
    assert_eq!(Frame::parse(frame).map(drop), Err(FrameError::Version(1)), "{}", hex::encode(frame));
    assert_eq!(decode_stream(frame), Err(FrameError::Version(1)), "{}", hex::encode(frame));
    assert_eq!(decode_stream(&frame[..12]), Err(FrameError::Version(1)), "the header is enough");
}

#[test]
fn frames_of_version_1_are_refused() {
    for dialect in [DETERMINISTIC, RANDOM] {
        each(&format!("{dialect}/frame_header"), 9, |case| assert_refused(&bytes(&case["frame_hex"])));
    }
    each(&format!("{DETERMINISTIC}/seal"), 9, |case| assert_refused(&bytes(&case["frame_hex"])));
}

#[test]
fn sessions_of_version_1_are_refused_frame_by_frame() {
    for (dialect, sessions) in [(DETERMINISTIC, 2), (RANDOM, 1)] {
        each(&format!("{dialect}/sessions"), sessions, |session| {
            let mut frames = 0;
            for record in session["records"].as_array().expect("a list") {
                let Some(datagram) = record.get("bytes_hex").map(bytes) else {
                    assert!(record.get("event").is_some(), "{record}");
                    continue;
                };
                if text(&record["kind"]) == "utack" {
                    let utack = Utack::parse(&datagram).expect("a UTACK, which names no version");
                    assert_eq!(utack.mac, None, "{record}");
                } else {
                    assert_refused(&datagram);
                    frames += 1;
                }
            }
            assert!(frames >= 4, "a handshake at least: {}", session["name"]);
        });
    }
}

fn frames_sealed_by_version_1_do_not_open_even_when_relabelled<P: Provider>() {
    each(&format!("{DETERMINISTIC}/seal"), 9, |case| {
        let mut frame = bytes(&case["frame_hex"]);
        frame[2] = 2;
        let crc = crc16(&[&frame[..10], &frame[12..]]);
        frame[10..12].copy_from_slice(&crc.to_le_bytes());
        Frame::parse(&frame).expect("well-formed as version 2");
        let (key, session) =
            (Secret::new(array(&case["key_hex"])), SessionId(array(&case["session_id_hex"])));
        let opened = open_frame::<P>(&key, session, &mut frame).map(drop);
        assert_eq!(opened, Err(OpenFrameError::Tag), "{case}");
    });
}

fn key_schedule_of_version_1_is_not_ours<P: Provider>() {
    for dialect in [DETERMINISTIC, RANDOM] {
        each(&format!("{dialect}/key_derivation"), 3, |case| {
            let (pub_c, pub_s) = (array(&case["client_public_hex"]), array(&case["server_public_hex"]));
            let shared =
                P::x25519(&Secret::new(array(&case["server_private_hex"])), &pub_c).expect("a good point");
            assert_eq!(*shared.expose(), array::<32>(&case["shared_secret_hex"]), "{case}");
            let keys = session_keys::<P>(&shared, &array(&case["nonce_hex"]), &pub_c, &pub_s);
            let theirs = array::<32>(&case["session_key_both_directions_hex"]);
            assert_ne!(*keys.c2s.expose(), theirs, "{case}");
            assert_ne!(*keys.s2c.expose(), theirs, "{case}");
        });
    }
}

fn proofs_of_version_1_are_not_ours<P: Provider>() {
    for dialect in [DETERMINISTIC, RANDOM] {
        each(&format!("{dialect}/handshake_hmac"), 3, |case| {
            let (psk, nonce) = (bytes(&case["psk_hex"]), array(&case["nonce_hex"]));
            let (pub_c, pub_s) = (array(&case["client_public_hex"]), array(&case["server_public_hex"]));
            let device = DeviceId(array(&case["device_id_hex"]));
            let session = SessionId(array(&case["session_id_hex"]));
            let theirs = array::<32>(&case["client_hmac_hex"]);
            assert_eq!(P::hmac_sha256(&psk, &[&bytes(&case["client_hmac_input_hex"])]), theirs, "{case}");
            assert_ne!(client_proof::<P>(&psk, &nonce, device, &pub_c, &pub_s), theirs, "{case}");
            let theirs = array::<32>(&case["server_hmac_hex"]);
            assert_eq!(P::hmac_sha256(&psk, &[&bytes(&case["server_hmac_input_hex"])]), theirs, "{case}");
            assert_ne!(server_proof::<P>(&psk, &nonce, session, &pub_c, &pub_s), theirs, "{case}");
        });
    }
}

fn nonces_of_version_1_look_like_ours_so_only_the_version_tells_them_apart<P: Provider>() {
    each(&format!("{DETERMINISTIC}/gcm_nonce"), 6, |case| {
        let session = SessionId(array(&case["session_id_hex"]));
        let mut out = [0; 40];
        seal_frame::<P>(&Secret::new([7; 32]), session, FrameType::Ping, number(&case["seq"]), &[], &mut out)
            .expect("fits");
        assert_eq!(out[12..24], array::<12>(&case["nonce_hex"]), "{case}");
        out[2] = 1;
        assert_refused(&out);
    });
}
