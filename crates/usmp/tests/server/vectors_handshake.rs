//! `negative_handshake_server_role` of the recordings. Where the outcome is ours and not the reference's, the rule is named in
//! `docs/usmp/deviations.md`.

use usmp::crypto::{LowOrderPoint, Provider as _, RustCrypto};
use usmp::server::demux::{Datagram, classify};
use usmp::server::*;
use usmp::wire::{Frame, FrameType, Hello, HelloAck, HelloRetry, Utack};
use usmp::*;
use usmp_testkit::vectors::{self, NegativeServerHandshake, NegativeServerHandshakes};

use crate::support::*;

const T0: Instant = Instant::from_millis(1);

fn each(check: impl Fn(&NegativeServerHandshakes, &NegativeServerHandshake)) {
    let groups = &vectors::v2().negative_handshake_server_role;
    let cases: Vec<_> =
        groups.iter().flat_map(|group| group.cases.iter().map(move |case| (group, case))).collect();
    assert_eq!(cases.len(), 21, "entries in the recordings");
    for (group, case) in cases {
        println!("{}", case.name);
        check(group, case);
    }
}

/// HELLO_ACK as the holder of the key makes it.
fn ack_for(group: &NegativeServerHandshakes, hello: &Hello) -> HelloAck {
    let pub_s = RustCrypto::x25519_public(&group.server_private.secret());
    let nonce = group.nonce.array();
    let mac =
        client_proof::<RustCrypto>(&group.server_psk.0, &nonce, hello.device_id, &hello.public_key, &pub_s);
    HelloAck { seq: 2, mac }
}

#[test]
fn first_frames_on_tcp() {
    each(|group, case| {
        let mut handshake = TcpHandshake::<RustCrypto>::new(T0, &HandshakeConfig::default());
        let step = handshake.receive(&case.first_frame.0);
        let reference_answers = !case.tcp.server_sends.is_empty();
        if case.name == "hello_bad_crc" {
            // Ours: the CRC is checked in the handshake too.
            assert!(reference_answers);
            assert_eq!(step, Err(DropReason::Crc));
            return;
        }
        let Ok(TcpHandshakeStep::Hello { hello, .. }) = step else {
            assert!(step.is_err() && !reference_answers, "{step:?}");
            assert_eq!(case.tcp.server_closes, Some(true));
            return;
        };
        let mut out = [0; 76];
        handshake
            .challenge(T0, group.server_private.secret(), group.nonce.array(), &mut out)
            .expect("the state");
        assert_eq!(
            case.tcp.server_sends.iter().map(|sent| sent.0.clone()).collect::<Vec<_>>(),
            [out.to_vec()]
        );
        let proof = handshake.verify(&ack_for(group, &hello), &[&group.server_psk.0]).expect("the right key");
        let accepted = handshake.accept(T0, proof, SESSION, &SessionConfig::tcp(), &mut [0; 60]);
        // A low-order key fails where the exchange is made: at the reference after CHALLENGE, here after HELLO_ACK.
        let refused = case.tcp.server_closes == Some(true);
        assert_eq!(accepted.map(|_| ()), if refused { Err(LowOrderPoint) } else { Ok(()) });
    });
}

#[test]
fn first_datagrams_without_a_cookie() {
    let cookies = CookieSecrets::new(Secret::new([8; 32]));
    each(|_, case| {
        let reference = &case.udp_first_datagram_without_cookie.server_sends;
        let classified = classify(&case.first_frame.0);
        // Ours: header and CRC are checked before any reply; the reference looks at size and type alone.
        let strict = ["hello_bad_crc", "hello_bad_magic", "hello_version_1"].contains(&case.name.as_str());
        match classified {
            Ok(Datagram::Hello(hello)) if hello.cookie.is_none() => {
                assert_eq!(Utack::plain(FrameType::Hello, hello.seq).emit().to_vec(), reference[0].0);
                let cookie = cookies.issue::<RustCrypto>(0, b"address", hello.device_id, &hello.public_key);
                let mut out = [0; 28];
                HelloRetry { cookie }.emit(0, &mut out).expect("fits");
                // Ours: other cookie bytes. All else is the same.
                assert_eq!((&out[..10], out.len()), (&reference[1].0[..10], reference[1].0.len()));
            }
            Ok(Datagram::Hello(hello)) => {
                let cookie = hello.cookie.expect("the other length");
                let valid =
                    cookies.check::<RustCrypto>(0, b"address", hello.device_id, &hello.public_key, &cookie);
                assert!(!valid && reference.is_empty(), "a cookie of nobody's: silence");
            }
            Ok(Datagram::HelloAck(_) | Datagram::Sealed { .. }) => {
                assert!(reference.is_empty(), "nobody at this address or of this prefix: silence");
            }
            Ok(Datagram::Utack(_)) => panic!("not a UTACK"),
            Err(_) => assert!(strict || reference.is_empty(), "{classified:?}"),
        }
    });
}

#[test]
fn second_datagrams_with_a_cookie() {
    let mut seen = 0;
    let mut low_order = 0;
    let groups = &vectors::v2().negative_handshake_server_role;
    for (group, case) in groups.iter().flat_map(|group| group.cases.iter().map(move |case| (group, case))) {
        let Some(answer) = &case.udp_second_datagram_with_cookie else { continue };
        println!("{}", case.name);
        seen += 1;
        let datagram = &answer.datagram.as_ref().expect("a datagram").0;
        let classified = classify(datagram);
        let Ok(Datagram::Hello(hello)) = classified else {
            let reason = match case.name.as_str() {
                "hello_bad_crc" => DropReason::Crc,
                "hello_bad_magic" => DropReason::Magic,
                "hello_version_1" => DropReason::Version,
                other => panic!("{other}: {classified:?}"),
            };
            assert_eq!(classified, Err(reason));
            continue;
        };
        let config = HandshakeConfig::default();
        let mut handshake = UdpHandshake::<RustCrypto>::start(
            T0,
            &hello,
            group.server_private.secret(),
            group.nonce.array(),
            1,
            &config,
        );
        let mut ours = vec![Utack::plain(FrameType::Hello, hello.seq).emit().to_vec()];
        ours.extend(handshake_sends(&mut handshake, T0));
        assert_eq!(ours, answer.server_sends.iter().map(|sent| sent.0.clone()).collect::<Vec<_>>());
        assert!(Frame::parse(&ours[1]).is_ok());
        let proof = handshake.verify(&ack_for(group, &hello), &[&group.server_psk.0]).expect("the right key");
        let accepted = handshake.accept(T0, proof, SESSION, HOME, &SessionConfig::udp());
        let abandoned = answer.handshake_abandoned_silently == Some(true);
        low_order += usize::from(abandoned);
        assert_eq!(accepted.is_err(), abandoned, "{}", case.name);
    }
    assert!(seen >= 12 && low_order == 9, "{seen} with a second datagram, {low_order} of low order");
}
