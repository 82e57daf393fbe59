//! The remote control of the official SDK, proved against the SDK's own server before anything of ours is asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sluice_test_env::install::SDK_VERSIONS;
use sluice_test_env::{Port, Process, PythonSdk};
use sluice_tests::{Credentials, Sdk, StreamPlan, Streamed, Transport, payload, wait_for};

struct Reference {
    process: Process,
    _folder: tempfile::TempDir,
    _port: Port,
    address: SocketAddr,
}

impl Reference {
    fn start(release: &str, transport: Transport, credentials: &Credentials) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), Port::claim().unwrap());
        let (log, number) = (folder.path().join("log"), port.number().to_string());
        let psk = hex::encode(credentials.psk.expose());
        let python = PythonSdk::venv(release).unwrap();
        let args = [transport.as_str(), &number, &psk];
        let mut process = python.spawn(&Sdk::script("reference.py"), &args, &log).unwrap();
        let limit = Duration::from_secs(20);
        process
            .wait_ready(limit, || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                text.contains("serving").then_some(()).ok_or(text)
            })
            .unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.number()).into();
        Self { process, _folder: folder, _port: port, address }
    }
}

/// Every operation of the driver once, over this transport.
fn every_operation(release: &str, transport: Transport) {
    let credentials = Credentials::unregistered();
    let server = Reference::start(release, transport, &credentials);
    let sdk = Sdk::start(release).unwrap();
    let device = sdk.device(&credentials, transport, server.address);
    // It says that it serves just before it listens.
    wait_for("the reference server", Duration::from_secs(10), || {
        device.connect().map_err(|error| format!("{error:#} {}", server.process.log_tail()))
    })
    .unwrap();

    for (index, size) in [(0, 1), (1, 452), (2, 453), (3, 1808)] {
        let message = payload(index, size);
        device.send(&message).unwrap();
        let reversed = message.iter().rev().copied().collect::<Vec<_>>();
        assert_eq!(device.recv(Duration::from_secs(5)).unwrap(), reversed, "{size} bytes");
    }
    device.ping().unwrap();
    let silence = device.start_recv(Duration::from_millis(300)).unwrap().failure().unwrap();
    assert_eq!(silence.class, "TimeoutError", "{silence}");
    assert_eq!(device.frames("PONG").unwrap(), 1);
    if release == "1.2.2" {
        device.rekey().unwrap();
        device.send(b"under new keys").unwrap();
        assert_eq!(device.recv(Duration::from_secs(5)).unwrap(), b"syek wen rednu");
    }
    let plan = StreamPlan { first: 7, count: 5, size: 60, ..StreamPlan::default() };
    let streamed = Streamed::try_from(device.start_stream(&plan).unwrap().wait().unwrap()).unwrap();
    assert_eq!(streamed.acked, [7, 8, 9, 10, 11]);
    assert_eq!(
        device.recv(Duration::from_secs(5)).unwrap(),
        payload(7, 60).into_iter().rev().collect::<Vec<_>>()
    );
    device.bye().unwrap();
    let refused = device.start_send(b"after the end", Duration::from_secs(5)).unwrap().failure().unwrap();
    assert!(refused.text.to_lowercase().contains("not connected"), "{refused}");
}

#[test]
fn every_operation_works_against_the_reference_server_over_tcp() {
    for release in SDK_VERSIONS {
        every_operation(release, Transport::Tcp);
    }
}

#[test]
fn every_operation_works_against_the_reference_server_over_udp() {
    for release in SDK_VERSIONS {
        every_operation(release, Transport::Udp);
    }
}
