//! Peers that mean harm or are broken, while honest devices work.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use sluice_bus::Topic;
use sluice_tests::expect::SOON;
use sluice_tests::hostile::{Flood, SlowPeers, hello, until_closed};
use sluice_tests::{Edge, EdgeOptions, Sdk, Transport, World, now, payload};

#[test]
fn silent_and_slow_tcp_peers_are_closed_in_time_and_hold_nobody_up() {
    let world = World::shared().unwrap();
    let options = EdgeOptions::default()
        .with("edge.handshake.tcp_step_timeout", "2s")
        .with("edge.handshake.timeout", "4s");
    let edge = Edge::start(&world, &options).unwrap();
    let peers = SlowPeers::open(edge.address(), 50).unwrap();
    let watching =
        std::thread::spawn(move || peers.outlast(Duration::from_millis(200), Duration::from_secs(15)));
    let sdk = Sdk::start("1.2.2").unwrap();
    for index in 0..10 {
        let device = sdk.device(&world.device().unwrap(), Transport::Tcp, edge.address());
        let start = now();
        device.connect().unwrap();
        let took = now().duration_since(start);
        assert!(took < Duration::from_secs(2), "an honest device waited {took:?}");
        device.send(&payload(index, 50)).unwrap();
    }
    world.reader(Topic::Telemetry).unwrap().read_exactly(10, SOON).unwrap();
    let longest = watching.join().unwrap().unwrap();
    eprintln!("the last of 100 slow peers was closed after {longest:?}");
    // One step, whatever trickles in; and the time of a busy machine.
    assert!(longest < Duration::from_secs(6), "{longest:?}");
}

#[test]
fn a_peer_that_stops_after_the_hello_is_closed_in_time() {
    let world = World::shared().unwrap();
    let options = EdgeOptions::default()
        .with("edge.handshake.tcp_step_timeout", "1s")
        .with("edge.handshake.timeout", "2s");
    let edge = Edge::start(&world, &options).unwrap();
    let mut stream = TcpStream::connect(edge.address()).unwrap();
    let mut public_key = [9; 32];
    public_key[31] = 1;
    stream.write_all(&hello(world.device().unwrap().id, public_key, None)).unwrap();
    let open = until_closed(&mut stream, Duration::from_secs(8)).unwrap();
    assert!(open >= Duration::from_millis(900), "closed already after {open:?}");
}

#[test]
fn fifty_honest_devices_connect_through_a_flood_of_spoofed_hellos() {
    const HONEST: usize = 50;
    let world = World::shared().unwrap();
    let edge = Edge::start(&world, &EdgeOptions::default()).unwrap();
    let before = edge.resident_kib().unwrap();
    // One place in front of all of it, not one per connection: nobody may be kept out by an address in the flood.
    let flood = Flood::start(edge.address(), 500, 20_000, 0xf100d).unwrap();
    let received = || edge.metric("sluice_edge_datagrams_received_total", &[]).unwrap();
    sluice_tests::wait_for("the flood to arrive", Duration::from_secs(10), || {
        if received() > 5_000.0 { Ok(()) } else { Err(format!("{}", received())) }
    })
    .unwrap();

    let sdk = Sdk::start("1.2.2").unwrap();
    let fleet = world.devices(HONEST).unwrap();
    let clients = fleet.iter().map(|credentials| sdk.device(credentials, Transport::Udp, edge.address()));
    let clients = clients.collect::<Vec<_>>();
    let start = now();
    let connecting = clients.iter().map(|client| client.start_connect(Duration::from_secs(10)).unwrap());
    let connecting = connecting.collect::<Vec<_>>();
    let connected = connecting.into_iter().map(|answer| answer.wait().is_ok()).collect::<Vec<_>>();
    let took = now().duration_since(start);
    let lucky = clients.iter().zip(&connected).filter(|(_, connected)| **connected);
    let mut sent = 0;
    for ((client, _), index) in lucky.zip(0..) {
        client.send(&payload(index, 100)).unwrap();
        sent += 1;
    }
    let flooded = flood.stop();
    let after = edge.resident_kib().unwrap();
    let seconds = now().duration_since(start).as_secs_f64();
    eprintln!(
        "{sent} of {HONEST} honest devices connected at the first attempt within {took:?}, beside {flooded} spoofed \
         HELLOs ({seconds:.1} s); memory {before} -> {after} KiB"
    );
    world.reader(Topic::Telemetry).unwrap().read_exactly(sent, SOON).unwrap();
    assert!(sent * 100 >= HONEST * 95, "only {sent} of {HONEST} connected");
    assert!(after < before + 32 * 1024, "the flood took {} KiB of memory", after - before);
    let started =
        edge.metric("sluice_edge_handshakes_started_total", &["network_transport=\"udp\""]).unwrap();
    assert!(started <= (2 * HONEST) as f64, "{started} handshakes begun: strangers got beyond the cookie");
}
