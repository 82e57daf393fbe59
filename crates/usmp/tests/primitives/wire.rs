//! Sections of `vectors.json` about frames, keys, UTACKs and cookies.

use usmp::crypto::Provider;
use usmp::wire::{Frame, FrameType, Hello, HelloRetry, StreamDecode, Utack, crc16, decode_stream, emit};
use usmp::{
    CookieSecrets, DeviceId, OpenFrameError, Role, Secret, SessionId, SessionKeys, client_proof, open_frame,
    rekey, seal_frame, server_proof, session_keys,
};

use super::vectors::{array, at, bytes, each, number, text};

for_each_provider!(
    aes_frames_are_sealed_and_opened_as_recorded,
    chacha_frames_are_refused_since_the_suite_is_not_implemented,
    explicit_nonces_are_those_recorded,
    keys_of_a_session_are_those_recorded,
    proofs_of_both_sides_are_those_recorded,
    keys_after_a_rekey_are_those_recorded,
    utacks_are_built_as_recorded,
    utacks_are_accepted_or_ignored_as_recorded,
    own_cookies_replace_the_recorded_ones,
    cookies_are_bound_to_address_device_and_key,
    cookies_of_the_secret_before_are_accepted_until_the_next_rotation,
);

const NAMES: [(&str, FrameType); 12] = [
    ("HELLO", FrameType::Hello),
    ("CHALLENGE", FrameType::Challenge),
    ("HELLO_ACK", FrameType::HelloAck),
    ("SESSION_OK", FrameType::SessionOk),
    ("DATA", FrameType::Data),
    ("PING", FrameType::Ping),
    ("PONG", FrameType::Pong),
    ("BYE", FrameType::Bye),
    ("DATA_FRAG", FrameType::DataFrag),
    ("HELLO_RETRY", FrameType::HelloRetry),
    ("REKEY", FrameType::Rekey),
    ("ERROR", FrameType::Error),
];

#[test]
fn crcs_are_those_recorded() {
    each("/v2/crc16", 7, |case| {
        let input = bytes(&case["input_hex"]);
        let crc = crc16(&[&input]);
        assert_eq!(crc, number::<u16>(&case["crc16"]), "{case}");
        assert_eq!(crc.to_le_bytes(), array(&case["crc16_le_hex"]), "{case}");
        for cut in 0..=input.len() {
            assert_eq!(crc16(&[&input[..cut], &input[cut..]]), crc, "cut at {cut}: {case}");
        }
    });
}

/// One bit at a time, as the definition says.
fn crc_by_definition(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFF;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc
}

#[test]
fn crcs_of_every_length_and_cut_are_those_of_the_definition() {
    let input: Vec<u8> = (0..492_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for length in 0..=input.len() {
        let expected = crc_by_definition(&input[..length]);
        assert_eq!(crc16(&[&input[..length]]), expected, "{length} bytes");
    }
    for first in 0..40 {
        for second in 0..40 {
            let parts = [&input[..first], &input[first..first + second], &input[first + second..100]];
            assert_eq!(crc16(&parts), crc_by_definition(&input[..100]), "{first} and {second} bytes");
        }
    }
}

#[test]
fn frames_are_written_and_read_as_recorded() {
    each("/v2/frame_header", 10, |case| {
        let frame = bytes(&case["frame_hex"]);
        let payload = bytes(&case["payload_hex"]);
        let (code, seq) = (number::<u8>(&case["type"]), number(&case["seq"]));
        let frame_type = FrameType::from(code);
        let named = NAMES.iter().find(|(name, _)| *name == text(&case["type_name"])).expect("a known name");
        assert_eq!(frame_type, named.1, "{case}");

        let mut out = [0; 492];
        let length = emit(frame_type, seq, &payload, &mut out).expect("fits");
        assert_eq!(hex::encode(&out[..length]), text(&case["frame_hex"]), "{case}");

        assert_eq!(decode_stream(&frame), Ok(StreamDecode::Frame(frame.len())), "{case}");
        let parsed = Frame::parse(&frame).expect("well-formed");
        let header = parsed.header();
        assert_eq!((header.frame_type, header.seq), (frame_type, seq), "{case}");
        assert_eq!(usize::from(header.length), number::<usize>(&case["payload_len"]), "{case}");
        assert_eq!(parsed.payload(), payload, "{case}");
        assert_eq!(header.aad(), array(&case["aad_hex"]), "{case}");
        assert_eq!(out[..12], array::<12>(&case["header_hex"]), "{case}");
        assert_eq!(out[10..12], array::<2>(&case["crc16_le_hex"]), "{case}");
    });
}

#[test]
fn additional_data_is_that_recorded() {
    each("/v2/aad", 6, |case| {
        assert_eq!(number::<u8>(&case["version"]), usmp::wire::VERSION, "{case}");
        let frame_type = FrameType::from(number::<u8>(&case["type"]));
        let length = number(&case["payload_len"]);
        let header = usmp::wire::Header { frame_type, seq: number(&case["seq"]), length };
        assert_eq!(header.aad(), array(&case["aad_hex"]), "{case}");
    });
}

fn explicit_nonces_are_those_recorded<P: Provider>() {
    each("/v2/gcm_nonce", 6, |case| {
        let session = SessionId(array(&case["session_id_hex"]));
        let mut out = [0; 492];
        let key = Secret::new([7; 32]);
        let length = seal_frame::<P>(&key, session, FrameType::Ping, number(&case["seq"]), &[], &mut out);
        assert_eq!(length, Ok(40), "{case}");
        assert_eq!(out[12..24], array::<12>(&case["nonce_hex"]), "{case}");
        out[12] ^= 1;
        let opened = open_frame::<P>(&key, session, &mut out[..40]).map(drop);
        assert_eq!(opened, Err(OpenFrameError::ExplicitNonce), "{case}");
    });
}

const AES: &str = "AES-256-GCM";
const CHACHA: &str = "CHACHA20-POLY1305";

fn aes_frames_are_sealed_and_opened_as_recorded<P: Provider>() {
    let mut sealed = 0;
    each("/v2/seal", 22, |case| {
        if text(&case["cipher"]) != AES {
            return assert_eq!(text(&case["cipher"]), CHACHA);
        }
        sealed += 1;
        let (key, session) =
            (Secret::new(array(&case["key_hex"])), SessionId(array(&case["session_id_hex"])));
        let (frame_type, seq) = (FrameType::from(number::<u8>(&case["type"])), number(&case["seq"]));
        let plaintext = bytes(&case["plaintext_hex"]);

        let mut out = [0; 492];
        let length = seal_frame::<P>(&key, session, frame_type, seq, &plaintext, &mut out).expect("fits");
        let frame = &mut out[..length];
        assert_eq!(hex::encode(&*frame), text(&case["frame_hex"]), "{case}");
        assert_eq!(frame[12..], bytes(&case["payload_hex"]), "{case}");
        assert_eq!(frame[12..24], array::<12>(&case["nonce_hex"]), "{case}");
        let header = Frame::parse(frame).expect("well-formed").header();
        assert_eq!(header.aad(), array(&case["aad_hex"]), "{case}");

        let opened = open_frame::<P>(&key, session, frame).expect("opens");
        assert_eq!((opened.frame_type, opened.seq), (frame_type, seq), "{case}");
        assert_eq!(opened.plaintext, plaintext, "{case}");
    });
    assert_eq!(sealed, 11, "entries of {AES}");
}

fn chacha_frames_are_refused_since_the_suite_is_not_implemented<P: Provider>() {
    let mut refused = 0;
    each("/v2/seal", 22, |case| {
        if text(&case["cipher"]) != CHACHA {
            return;
        }
        refused += 1;
        assert_eq!(case["used_on_the_wire_by_default"], false, "{case}");
        let (key, session) =
            (Secret::new(array(&case["key_hex"])), SessionId(array(&case["session_id_hex"])));
        let mut frame = bytes(&case["frame_hex"]);
        Frame::parse(&frame).expect("nothing in a frame names its suite");
        let opened = open_frame::<P>(&key, session, &mut frame).map(drop);
        assert_eq!(opened, Err(OpenFrameError::Tag), "{case}");
    });
    assert_eq!(refused, 11, "entries of {CHACHA}");
}

fn keys_of_a_session_are_those_recorded<P: Provider>() {
    each("/v2/key_derivation", 3, |case| {
        let private_c = Secret::new(array(&case["client_private_hex"]));
        let private_s = Secret::new(array(&case["server_private_hex"]));
        let (pub_c, pub_s) = (P::x25519_public(&private_c), P::x25519_public(&private_s));
        assert_eq!(pub_c, array(&case["client_public_hex"]), "{case}");
        assert_eq!(pub_s, array(&case["server_public_hex"]), "{case}");
        let shared = P::x25519(&private_c, &pub_s).expect("a good point");
        assert_eq!(*shared.expose(), array::<32>(&case["shared_secret_hex"]), "{case}");
        assert!(P::x25519(&private_s, &pub_c) == Ok(shared.duplicate()), "both sides agree: {case}");

        let info = [b"usmp-v2".as_slice(), &pub_c, &pub_s].concat();
        assert_eq!(info, bytes(&case["hkdf_info_hex"]), "{case}");
        let keys = session_keys::<P>(&shared, &array(&case["nonce_hex"]), &pub_c, &pub_s);
        assert_eq!(*keys.c2s.expose(), array::<32>(&case["k_c2s_hex"]), "{case}");
        assert_eq!(*keys.s2c.expose(), array::<32>(&case["k_s2c_hex"]), "{case}");
    });
}

fn proofs_of_both_sides_are_those_recorded<P: Provider>() {
    each("/v2/handshake_hmac", 3, |case| {
        let psk = bytes(&case["psk_hex"]);
        let nonce = array(&case["nonce_hex"]);
        let (pub_c, pub_s) = (array(&case["client_public_hex"]), array(&case["server_public_hex"]));
        let device = DeviceId(array(&case["device_id_hex"]));
        let session = SessionId(array(&case["session_id_hex"]));
        let client = client_proof::<P>(&psk, &nonce, device, &pub_c, &pub_s);
        assert_eq!(client, array(&case["client_hmac_hex"]), "{case}");
        assert_eq!(client, P::hmac_sha256(&psk, &[&bytes(&case["client_hmac_input_hex"])]), "{case}");
        let server = server_proof::<P>(&psk, &nonce, session, &pub_c, &pub_s);
        assert_eq!(server, array(&case["server_hmac_hex"]), "{case}");
        assert_eq!(server, P::hmac_sha256(&psk, &[&bytes(&case["server_hmac_input_hex"])]), "{case}");
    });
}

fn keys_after_a_rekey_are_those_recorded<P: Provider>() {
    each("/v2/rekey_derivation", 2, |case| {
        let old = SessionKeys {
            c2s: Secret::new(array(&case["old_k_c2s_hex"])),
            s2c: Secret::new(array(&case["old_k_s2c_hex"])),
        };
        let initiator = match text(&case["initiator"]) {
            "client" => Role::Device,
            "server" => Role::Server,
            other => panic!("unknown initiator {other}"),
        };
        let session = SessionId(array(&case["session_id_hex"]));
        let new = rekey::<P>(&old, initiator, &array(&case["salt_hex"]), session);
        assert_eq!(*new.c2s.expose(), array::<32>(&case["new_k_c2s_hex"]), "{case}");
        assert_eq!(*new.s2c.expose(), array::<32>(&case["new_k_s2c_hex"]), "{case}");

        let mut okm = [0; 64];
        let (ikm, info) = (bytes(&case["hkdf_ikm_hex"]), bytes(&case["hkdf_info_hex"]));
        P::hkdf_sha256(&bytes(&case["salt_hex"]), &ikm, &[&info], &mut okm);
        let (tx, rx) = match initiator {
            Role::Device => (&new.c2s, &new.s2c),
            Role::Server => (&new.s2c, &new.c2s),
        };
        assert_eq!((&okm[..32], &okm[32..]), (&tx.expose()[..], &rx.expose()[..]), "{case}");
    });
}

fn utacks_are_built_as_recorded<P: Provider>() {
    each("/v2/utack/build", 20, |case| {
        let (frame_type, seq) =
            (FrameType::from(number::<u8>(&case["acked_type"])), number(&case["acked_seq"]));
        let key = match case["mac_key"].as_str() {
            None => None,
            Some("k_c2s") => Some(&case["k_c2s_hex"]),
            Some("k_s2c") => Some(&case["k_s2c_hex"]),
            Some(other) => panic!("unknown key {other}"),
        };
        let utack = match key {
            None => Utack::plain(frame_type, seq),
            Some(key) => Utack::sealed::<P>(&Secret::new(array(key)), frame_type, seq),
        };
        assert_eq!(hex::encode(&*utack.emit()), text(&case["utack_hex"]), "{case}");
        assert_eq!(Utack::parse(&bytes(&case["utack_hex"])), Some(utack), "{case}");
        assert_eq!(text(&case["phase"]) == "session", utack.mac.is_some(), "{case}");
    });
}

fn utacks_are_accepted_or_ignored_as_recorded<P: Provider>() {
    each("/v2/utack/accept_or_ignore", 8, |case| {
        // The waiting side is the client: what it sent is opened, and acknowledged, under k_c2s.
        let key = Secret::new(array(&case["k_c2s_hex"]));
        let waiting =
            (FrameType::from(number::<u8>(&case["waiting_for_type"])), number(&case["waiting_for_seq"]));
        let accepted = Utack::parse(&bytes(&case["utack_hex"]))
            .is_some_and(|utack| (utack.frame_type, utack.seq) == waiting && utack.verify::<P>(&key));
        assert_eq!(accepted, case["accepted_by_client"], "{case}");
    });
}

/// The rule: a cookie is bound to device id and public key as well as to the address, under a secret that pods share; a
/// bucket of the near future is accepted (WIRE.md section 14, W10). So the bytes differ from those recorded on purpose,
/// while everything around them is as recorded.
fn own_cookies_replace_the_recorded_ones<P: Provider>() {
    each("/v2/cookie", 5, |case| {
        let secrets = CookieSecrets::new(Secret::new(array(&case["cookie_secret_hex"])));
        let address = format!("{}:{}", text(&case["client_ip"]), case["client_port"]).into_bytes();
        let recorded = array(&case["cookie_hex"]);
        let hmac =
            P::hmac_sha256(&bytes(&case["cookie_secret_hex"]), &[text(&case["hmac_input_ascii"]).as_bytes()]);
        assert_eq!(hmac[..16], recorded, "the recorded cookie is understood: {case}");

        let first = Hello::parse(&Frame::parse(&bytes(&case["hello_frame_hex"])).expect("well-formed"));
        let first = first.expect("a HELLO");
        assert_eq!((first.seq, first.cookie), (0, None), "{case}");
        let second =
            Hello::parse(&Frame::parse(&bytes(&case["hello_with_cookie_frame_hex"])).expect("well-formed"));
        let second = second.expect("a HELLO");
        assert_eq!((second.seq, second.cookie), (1, Some(recorded)), "{case}");
        assert_eq!((second.device_id, second.public_key), (first.device_id, first.public_key), "{case}");
        for hello in [first, second] {
            let mut out = [0; 66];
            let length = hello.emit(&mut out).expect("fits");
            let name = if hello.cookie.is_some() { "hello_with_cookie_frame_hex" } else { "hello_frame_hex" };
            assert_eq!(hex::encode(&out[..length]), text(&case[name]), "{case}");
        }

        let mut out = [0; 28];
        assert_eq!(HelloRetry { cookie: recorded }.emit(0, &mut out), Ok(28), "{case}");
        let replies = &case["reply_datagrams_hex"];
        assert_eq!(replies.as_array().map(Vec::len), Some(2), "{case}");
        assert_eq!(hex::encode(&*Utack::plain(FrameType::Hello, 0).emit()), text(&replies[0]), "{case}");
        assert_eq!(hex::encode(out), text(&replies[1]), "{case}");

        let issued_at = case["unix_time"].as_f64().expect("a time") as u64;
        let (device, pub_c) = (first.device_id, first.public_key);
        let own = secrets.issue::<P>(issued_at, &address, device, &pub_c);
        assert_ne!(own, recorded, "{case}");
        assert!(!secrets.check::<P>(issued_at, &address, device, &pub_c, &recorded), "{case}");
        let mut times = 0;
        for (name, time) in case["acceptance"].as_object().expect("an object") {
            times += 1;
            let now = time["unix_time"].as_f64().expect("a time") as u64;
            let accepted = secrets.check::<P>(now, &address, device, &pub_c, &own);
            let expected = match name.as_str() {
                "previous bucket (clock stepped back)" => {
                    assert_eq!(
                        time["accepted"], false,
                        "the reference knows no clock that is behind: {case}"
                    );
                    true
                }
                _ => time["accepted"] == true,
            };
            assert_eq!(accepted, expected, "{name}: {case}");
        }
        assert_eq!(times, 5, "{case}");
    });
}

fn cookies_are_bound_to_address_device_and_key<P: Provider>() {
    let secrets = CookieSecrets::new(Secret::new([1; 32]));
    let (device, other_device) = (DeviceId([2; 6]), DeviceId([3; 6]));
    let (key, other_key) = ([4; 32], [5; 32]);
    let cookie = secrets.issue::<P>(1000, b"10.0.0.1:5", device, &key);
    let check = |address: &[u8], device, key| secrets.check::<P>(1000, address, device, key, &cookie);
    assert!(check(b"10.0.0.1:5", device, &key));
    assert!(!check(b"10.0.0.1:6", device, &key));
    assert!(!check(b"10.0.0.1:", device, &key));
    assert!(!check(b"10.0.0.1:5", other_device, &key));
    assert!(!check(b"10.0.0.1:5", device, &other_key));
    for bit in 0..128 {
        let mut wrong = cookie;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(!secrets.check::<P>(1000, b"10.0.0.1:5", device, &key, &wrong), "bit {bit}");
    }
}

fn cookies_of_the_secret_before_are_accepted_until_the_next_rotation<P: Provider>() {
    let mut secrets = CookieSecrets::new(Secret::new([1; 32]));
    let (device, key) = (DeviceId([2; 6]), [4; 32]);
    let issued = secrets.issue::<P>(1000, b"a", device, &key);
    secrets.rotate(Secret::new([2; 32]));
    assert!(secrets.check::<P>(1000, b"a", device, &key, &issued));
    let newer = secrets.issue::<P>(1000, b"a", device, &key);
    assert_ne!(newer, issued);
    secrets.rotate(Secret::new([3; 32]));
    assert!(!secrets.check::<P>(1000, b"a", device, &key, &issued));
    assert!(secrets.check::<P>(1000, b"a", device, &key, &newer));
}

#[test]
fn utacks_are_told_from_frames_by_their_first_two_bytes() {
    assert_eq!(Utack::parse(&bytes(&at("/v2/frame_header/0")["frame_hex"])), None);
    assert_eq!(Utack::parse(&[0xAC, 0xAC, 5, 0, 0, 0]), None);
}
