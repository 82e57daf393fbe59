//! `negative_session_frames` of the recordings, on TCP and on UDP. Where the outcome is ours and not the reference's, the rule is
//! named in `docs/usmp/deviations.md`.

use usmp::server::*;
use usmp::wire::{Challenge, Frame, Hello, HelloAck};
use usmp::*;
use usmp_testkit::crypto::PlantedKeys;
use usmp_testkit::vectors::{self, NegativeSessionFrame, PlantedSession};

use crate::support::{HOME, NONCE, PSK, handshake_sends, hello, server_private, utack_for};

fn plant(session: &PlantedSession) -> SessionId {
    let key = |key: &[u8]| <[u8; 32]>::try_from(key).expect("32 bytes");
    PlantedKeys::plant(&key(&session.k_c2s.0), &key(&session.k_s2c.0));
    session.session_id.session_id()
}

fn ack_for(challenge: &[u8], hello: &Hello) -> HelloAck {
    let Challenge { nonce, public_key } =
        Challenge::parse(&Frame::parse(challenge).expect("a frame")).expect("CHALLENGE");
    let mac = client_proof::<PlantedKeys>(&PSK, &nonce, hello.device_id, &hello.public_key, &public_key);
    HelloAck { seq: 0, mac }
}

const T0: Instant = Instant::from_millis(1);

fn udp_session(session: &PlantedSession) -> UdpSession<PlantedKeys, u8> {
    let id = plant(session);
    let config = HandshakeConfig::default();
    let mut handshake = UdpHandshake::<PlantedKeys>::start(T0, &hello(), server_private(), NONCE, 1, &config);
    let ack = ack_for(&handshake_sends(&mut handshake, T0)[0], &hello());
    let proof = handshake.verify(&ack, &[&PSK]).expect("the right key");
    handshake.accept(T0, proof, id, HOME, &SessionConfig::udp()).expect("a good key")
}

fn tcp_session(session: &PlantedSession) -> TcpSession<PlantedKeys> {
    let id = plant(session);
    let mut handshake = TcpHandshake::<PlantedKeys>::new(T0, &HandshakeConfig::default());
    let mut out = [0; 100];
    let length = hello().emit(&mut out).expect("fits");
    handshake.receive(&out[..length]).expect("a HELLO");
    let length = handshake.challenge(T0, server_private(), NONCE, &mut out).expect("the state for it");
    let proof = handshake.verify(&ack_for(&out[..length], &hello()), &[&PSK]).expect("the right key");
    handshake.accept(T0, proof, id, &SessionConfig::tcp(), &mut [0; 60]).expect("a good key")
}

fn each(check: impl Fn(&PlantedSession, &NegativeSessionFrame)) {
    let groups = &vectors::v2().negative_session_frames;
    assert_eq!(groups.iter().map(|group| group.cases.len()).sum::<usize>(), 38, "entries in the recordings");
    for group in groups {
        for case in &group.cases {
            println!("{}", case.name);
            check(&group.session, case);
        }
    }
}

#[test]
fn on_tcp_the_outcome_is_that_of_the_reference() {
    let mut applicable = 0;
    for group in &vectors::v2().negative_session_frames {
        for case in &group.cases {
            if case.tcp.result == "not_applicable" {
                continue;
            }
            applicable += 1;
            let mut session = tcp_session(&group.session);
            let mut pool = ArrayPool::<1>::new();
            let prior: Vec<u8> = case.prior_frames.iter().flat_map(|frame| frame.0.clone()).collect();
            let (_, end) = drain(&mut session, &mut pool, prior);
            assert_eq!(end, End::Open, "{}: what comes before is good", case.name);
            let stream: Vec<u8> = case.frames.iter().flat_map(|frame| frame.0.clone()).collect();
            let (delivered, end) = drain(&mut session, &mut pool, stream);
            match (case.tcp.result.as_str(), case.name.as_str()) {
                ("accept", _) => {
                    let expected: Vec<_> =
                        case.tcp.delivered.iter().map(|message| message.0.clone()).collect();
                    assert_eq!(delivered, expected, "{}", case.name);
                }
                // The reference closes when the stream ends; so does the driver, with bytes left over.
                ("close_connection", "truncated_frame") => assert_eq!(end, End::Waiting),
                ("close_connection", name) => {
                    assert_eq!(delivered, Vec::<Vec<u8>>::new(), "{name}");
                    assert_eq!(end, End::Closed, "{name}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(applicable, 35);
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Open,
    Waiting,
    Closed,
}

fn drain(
    session: &mut TcpSession<PlantedKeys>,
    pool: &mut ArrayPool<1>,
    mut stream: Vec<u8>,
) -> (Vec<Vec<u8>>, End) {
    let mut delivered = Vec::new();
    loop {
        let left = stream.len();
        let consumed = match session.receive(T0, &mut stream, pool) {
            Ok(TcpReceived::NeedMore(_)) => {
                return (delivered, if left == 0 { End::Open } else { End::Waiting });
            }
            Ok(TcpReceived::Message { consumed, payload, .. }) => {
                delivered.push(payload.to_vec());
                consumed
            }
            Ok(TcpReceived::Control { consumed } | TcpReceived::Rekeyed { consumed, .. }) => consumed,
            Ok(TcpReceived::Bye { .. }) | Err(_) => return (delivered, End::Closed),
        };
        stream.drain(..consumed);
    }
}

/// What one datagram did.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Delivered(Vec<u8>),
    Utack(Vec<u8>, Acknowledged),
    Dropped(DropReason),
}

fn give(session: &mut UdpSession<PlantedKeys, u8>, pool: &mut ArrayPool<1>, datagram: &[u8]) -> Did {
    if let Err(reason) = demux::classify(datagram) {
        return Did::Dropped(reason);
    }
    let (token, payload) = match session.handle_datagram(T0, HOME, &mut datagram.to_vec(), pool) {
        Ok(Received::Message { token, payload }) => (token, payload.to_vec()),
        Ok(Received::Acknowledge { utack, what }) => return Did::Utack(utack.to_vec(), what),
        Ok(received) => panic!("nothing waits for a commit here: {received:?}"),
        Err(reason) => return Did::Dropped(reason),
    };
    assert!(session.committed(T0, token).is_some());
    Did::Delivered(payload)
}

#[test]
fn on_udp_nothing_unauthentic_is_acknowledged_and_the_session_goes_on() {
    use DropReason::*;
    each(|planted, case| {
        let mut session = udp_session(planted);
        let mut pool = ArrayPool::<1>::new();
        for frame in &case.prior_frames {
            let did = give(&mut session, &mut pool, &frame.0);
            assert!(!matches!(did, Did::Dropped(_)), "{}: {did:?}", case.name);
        }
        let all: Vec<Did> = case.frames.iter().map(|frame| give(&mut session, &mut pool, &frame.0)).collect();
        let (last, before) = all.split_last().expect("at least one frame");
        let sent = &case.frames.last().expect("at least one frame").0;
        let utack = |what| Did::Utack(utack_for(&planted.k_c2s.secret(), sent), what);
        let mut follows = case
            .udp
            .delivered_from_following_valid_frame
            .as_ref()
            .map(|list| list.iter().map(|message| message.0.clone()).collect::<Vec<_>>());

        let dropped = |reason| Did::Dropped(reason);
        let expected = match case.name.as_str() {
            "bad_magic" => dropped(Magic),
            "bad_version_1" | "bad_version_3" => dropped(Version),
            "oversized_length_481" => dropped(Length),
            "truncated_frame" | "trailing_byte" | "two_frames_in_one_datagram" => dropped(Size),
            "bad_crc" => dropped(Crc),
            "bad_tag"
            | "bad_ciphertext"
            | "header_type_changed_DATA_to_BYE"
            | "reflected_frame_other_direction_key"
            | "old_key_after_rekey" => dropped(Authentication),
            "wrong_explicit_nonce_seq_part"
            | "wrong_explicit_nonce_session_part"
            | "explicit_nonce_altered_only"
            | "header_seq_changed" => dropped(ExplicitNonce),
            "payload_27_bytes" | "empty_payload_data" => dropped(PayloadTooShort),
            "unknown_type_0x55" | "unknown_type_0x0c" | "error_type_sealed" | "error_type_plaintext" => {
                dropped(UnknownType)
            }
            "hello_retry_type_in_session" => dropped(UnexpectedType),
            "replayed_seq" => utack(Acknowledged::Duplicate),
            "skipped_seq_5" => Did::Delivered(case.udp.delivered[0].0.clone()),
            // Ours: numbers only increase.
            "reordered_seq_udp" | "window_edge_seq_udp" | "too_old_seq_udp" => dropped(Stale),
            "seq_ffffffff" => dropped(SequenceExhausted),
            // Ours: a control frame inside a run is acted upon, and ends the run.
            "ping_inside_fragmented_message" => utack(Acknowledged::Ping),
            "rekey_inside_fragmented_message" => {
                // Then the frame that follows in the recording is under keys of the past.
                follows = Some(Vec::new());
                utack(Acknowledged::Rekey)
            }
            "bye_inside_fragmented_message" => utack(Acknowledged::Bye),
            // Ours: what does not continue a run starts a new message.
            "fragment_gap_udp" => match last {
                Did::Delivered(message) => Did::Delivered(message.clone()),
                other => panic!("{other:?}"),
            },
            "five_fragments" => dropped(TooManyFragments),
            "rekey_wrong_length_31" => dropped(RekeyLength),
            // Ours: the repeat of a REKEY is acknowledged under the old key.
            "rekey_replayed" => utack(Acknowledged::Duplicate),
            "nine_pings_within_one_second" => {
                assert_eq!(before.len(), 8);
                assert!(before.iter().all(|did| matches!(did, Did::Utack(_, Acknowledged::Ping))));
                dropped(ControlFlood)
            }
            other => panic!("{other} is a new case"),
        };
        assert_eq!(*last, expected, "{}", case.name);

        let closes = case.udp.result == "close_session";
        assert_eq!(session.closed().is_some(), closes, "{}", case.name);
        if let Some(following) = &case.udp.following_valid_frame {
            let did = give(&mut session, &mut pool, &following.0);
            let delivered = match did {
                Did::Delivered(message) => vec![message],
                _ => Vec::new(),
            };
            assert_eq!(Some(delivered), follows, "{}: the frame that follows", case.name);
        }
    });
}
