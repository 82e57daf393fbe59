//! Who gets no session, and what is said of it.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use sluice_bus::Topic;
use sluice_proto::events::v1::{CloseReason, SecurityReason};
use sluice_test_env::install::SDK_VERSIONS;
use sluice_tests::expect::{SOON, closed, security};
use sluice_tests::{Credentials, Edge, EdgeOptions, Sdk, SdkError, Transport, World, hostile, now};

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

fn stage() -> (World, Edge) {
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    (world, edge)
}

fn refused(sdk: &Sdk, credentials: &Credentials, transport: Transport, edge: &Edge) -> SdkError {
    let device = sdk.device(credentials, transport, edge.address());
    device.start_connect(Duration::from_secs(3)).unwrap().failure().unwrap()
}

/// Each release over each transport; the waits run side by side.
fn nobody_gets_in(edge: &Edge, credentials: &[Credentials]) {
    std::thread::scope(|scope| {
        for release in SDK_VERSIONS {
            scope.spawn(move || {
                let sdk = Sdk::start(release).unwrap();
                for transport in BOTH {
                    for credentials in credentials {
                        let error = refused(&sdk, credentials, transport, edge);
                        eprintln!("{release} {transport:?}: {error}");
                    }
                }
            });
        }
    });
}

#[test]
fn a_wrong_key_opens_no_session_and_is_reported_under_the_device() {
    let (world, edge) = stage();
    let registered = world.device().unwrap();
    let psk = Credentials::unregistered().psk;
    nobody_gets_in(&edge, &[Credentials { id: registered.id, psk }]);
    security(&world, SecurityReason::WrongKey, Some(registered.id)).unwrap();
    // The right key still works from the same address.
    let sdk = Sdk::start("1.2.2").unwrap();
    for transport in BOTH {
        let device = sdk.device(&registered, transport, edge.address());
        let start = now();
        while let Err(error) = device.connect() {
            // The same device id from the same address may have to wait after five failures, a minute at most
            // (handshake.max_penalty).
            assert!(now().duration_since(start) < Duration::from_secs(90), "{error:#}");
        }
        device.send(b"right key").unwrap();
    }
    world.reader(Topic::Telemetry).unwrap().read_exactly(2, SOON).unwrap();
}

#[test]
fn an_unknown_device_opens_no_session_and_its_id_is_not_repeated() {
    let (world, edge) = stage();
    let stranger = Credentials::unregistered();
    nobody_gets_in(&edge, std::slice::from_ref(&stranger));
    security(&world, SecurityReason::UnknownDevice, None).unwrap();
    let mut reader = world.reader(Topic::Security).unwrap();
    for record in reader.read_all(SOON).unwrap() {
        let everything = format!("{record:?}");
        let id = stranger.id.to_string();
        assert!(!everything.contains(&id), "the stranger's id is in {everything}");
        let raw = stranger.id.as_bytes();
        assert!(!record.payload.windows(6).any(|window| window == raw), "{everything}");
    }
    assert_eq!(world.reader(Topic::Telemetry).unwrap().read_all(SOON).unwrap(), []);
}

#[test]
fn a_revoked_device_is_out_within_a_second_and_stays_out() {
    let (world, edge) = stage();
    let sdk = Sdk::start("1.2.2").unwrap();
    for transport in BOTH {
        let credentials = world.device().unwrap();
        let device = sdk.device(&credentials, transport, edge.address());
        let session = device.connect().unwrap();
        device.send(b"before").unwrap();
        let hears = device.start_recv(Duration::from_secs(10)).unwrap();
        let start = now();
        world.revoke(credentials.id).unwrap();
        let end = hears.failure().unwrap();
        let after = now().duration_since(start);
        eprintln!("{transport:?}: revoked, told after {after:?}: {end}");
        assert_ne!(end.class, "TimeoutError", "it was not told");
        assert!(after < Duration::from_secs(1), "in force only after {after:?}");
        assert_eq!(closed(&world, credentials.id, &session).unwrap(), CloseReason::Revoked);
        refused(&sdk, &credentials, transport, &edge);
        security(&world, SecurityReason::Revoked, Some(credentials.id)).unwrap();
    }
    world.reader(Topic::Telemetry).unwrap().read_exactly(2, SOON).unwrap();
}

#[test]
fn version_one_is_refused_without_a_word() {
    let (world, edge) = stage();
    let id = world.device().unwrap().id;
    let mut frame = hostile::hello(id, [9; 32], None);
    frame[2] = 1;
    let crc = usmp::wire::crc16(&[&frame[..10], &frame[12..]]);
    frame[10..12].copy_from_slice(&crc.to_le_bytes());

    let mut stream = TcpStream::connect(edge.address()).unwrap();
    stream.write_all(&frame).unwrap();
    hostile::until_closed(&mut stream, Duration::from_secs(3)).unwrap();

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(edge.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send(&frame).unwrap();
    let answer = socket.recv(&mut [0; 512]).unwrap_err();
    assert_eq!(answer.kind(), std::io::ErrorKind::WouldBlock, "{answer}");
    security(&world, SecurityReason::Version, None).unwrap();
}
