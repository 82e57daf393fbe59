//! What the steady path asks of the store: nothing, however many records there are.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_sim::{Config, Connection, Happening, Target};
use sluice_test_env::{Kafka, Redis};
use sluice_tests::{Credentials, Edge, EdgeOptions, World, now, wait_for};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(60);
/// As long as commands are counted that nobody's record causes.
const QUIET: Duration = Duration::from_secs(3);

/// Commands that a server has run, whoever asked, without those of scripts and of who counts.
fn commands(redis: &Redis) -> u64 {
    let text = redis.command(&["INFO", "commandstats"]).unwrap();
    let calls = text.lines().filter(|line| !line.starts_with("cmdstat_info:")).filter_map(|line| {
        let (_, rest) = line.strip_prefix("cmdstat_")?.split_once("calls=")?;
        rest.split(',').next()?.parse::<u64>().ok()
    });
    calls.sum()
}

async fn connect(target: Target, device: &Credentials) -> Connection {
    let id = *device.id.as_bytes();
    let mut connection = Connection::open(target, id, device.psk.expose(), Config::default()).await.unwrap();
    let happened = timeout(WITHIN, connection.next()).await.expect("an answer");
    assert_eq!(happened, Happening::Connected);
    connection
}

/// Each device sends so many records, one after the other.
fn send(runtime: &Runtime, connections: Vec<Connection>, records: u32) -> Vec<Connection> {
    runtime.block_on(async {
        let mut sending = JoinSet::new();
        for mut connection in connections {
            sending.spawn(async move {
                for _ in 0..records {
                    connection.send(&[0x5a; 100]).unwrap();
                    loop {
                        match timeout(WITHIN, connection.next()).await.expect("an acknowledgement") {
                            Happening::Done => break,
                            Happening::Message(_) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                }
                connection
            });
        }
        sending.join_all().await
    })
}

#[test]
fn records_of_live_sessions_ask_nothing_of_the_store() {
    let redis = Redis::start().unwrap();
    let world = World::on(&redis.url(), &Kafka::shared().unwrap().bootstrap()).unwrap();
    let options = EdgeOptions::default()
        .with("edge.cluster.enabled", true)
        .with("edge.cluster.listen", "127.0.0.1:0")
        .with("edge.cluster.advertise", "127.0.0.1:0")
        .with("bus.guarantee", "exactly_once")
        .without_parent();
    let edge = Edge::start(&world, &options).unwrap();
    let address: SocketAddr = edge.address();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let targets = [Target::Udp(address), Target::Udp(address), Target::Tcp(address), Target::Udp(address)];
    let devices = world.devices(targets.len()).unwrap();
    let connections = targets
        .iter()
        .zip(&devices)
        .map(|(target, device)| runtime.block_on(connect(*target, device)))
        .collect();
    let mut total = 0;
    let mut committed = |connections, records| {
        let connections = send(&runtime, connections, records);
        total += records * u32::try_from(targets.len()).unwrap();
        wait_for("all to be committed", WITHIN, || {
            let seen = edge.metric("sluice_edge_messages_committed_total", &[]).unwrap();
            if seen >= f64::from(total) { Ok(()) } else { Err(format!("{seen} of {total}")) }
        })
        .unwrap();
        connections
    };
    // What a session is kept by is written at its beginning, and with its first record.
    let connections = committed(connections, 5);
    let at_rest = || {
        let before = commands(&redis);
        std::thread::sleep(QUIET);
        commands(&redis) - before
    };
    // Until nothing of the beginning is left.
    let mut quiet = at_rest();
    let quiet = wait_for("a store that is asked as often as before", WITHIN, || {
        let before = std::mem::replace(&mut quiet, at_rest());
        if quiet <= before + before / 4 + 5 {
            Ok(quiet.max(before))
        } else {
            Err(format!("{before}, {quiet}"))
        }
    })
    .unwrap();

    let mut connections = connections;
    let counted = [20, 200].map(|records| {
        let (start, before) = (now(), commands(&redis));
        connections = committed(std::mem::take(&mut connections), records);
        let took = now() - start;
        let asked = commands(&redis) - before;
        // What it would have been without records, in as much time.
        let without = quiet as f64 * took.as_secs_f64() / QUIET.as_secs_f64();
        println!(
            "{} records of each device in {took:?}: {asked} commands, {without:.0} without any",
            records
        );
        (asked as f64, without)
    });
    // One command for each would be 800 of them. Whether the time was long or short, twice what is asked without records is none of it.
    for (asked, without) in counted {
        assert!(
            asked <= 2.0 * without + 100.0,
            "{asked} commands, {without:.0} expected; {quiet} in {QUIET:?}"
        );
    }
}
