//! What strangers send to pods, and what somebody does to their Redis and Kafka: no session moves, no record is doubled, no device gets
//! another one's session, and a counter that has a name rises.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use sluice_bus::Topic;
use sluice_test_env::{Kafka, Redis};
use sluice_tests::chaos::{Cluster, ClusterOptions, Probe, Probes, Step, Verdict, slot_of};
use sluice_tests::hostile::{Tap, frame};
use sluice_tests::{Credentials, EdgeOptions, Transport, now, wait_for};
use usmp::wire::{Frame, FrameType};

const PATIENCE: Duration = Duration::from_secs(60);

const BOTH: [usize; 2] = [0, 1];

fn two_pods(redis: &Redis, edge: EdgeOptions) -> Cluster {
    let options = ClusterOptions { edge, ..ClusterOptions::default() };
    Cluster::on(&redis.url(), &Kafka::shared().unwrap().bootstrap(), options).unwrap()
}

/// The sum of a counter over both pods, of those that run.
fn count(cluster: &Cluster, name: &str, labels: &[&str]) -> f64 {
    cluster.running().into_iter().map(|pod| cluster.pod(pod).metric(name, labels).unwrap()).sum()
}

fn dropped(cluster: &Cluster, reason: &str) -> f64 {
    count(cluster, "sluice_edge_dropped_total", &[&format!("reason=\"{reason}\"")])
}

/// Opens a session by this address, after an earlier one if there was one, and says something in it.
fn open(
    probes: &Probes,
    device: &Credentials,
    number: usize,
    server: SocketAddr,
    earlier: Option<Probe>,
) -> Probe {
    let number = u32::try_from(number).unwrap();
    let mut probe = wait_for("a session", PATIENCE, || {
        let mut probe = probes.connect(device, number, Transport::Udp, server);
        match probe.step(PATIENCE).map_err(|error| error.to_string())? {
            Step::Connected => Ok(probe),
            step => Err(format!("{step:?}")),
        }
    })
    .unwrap();
    if let Some(earlier) = earlier {
        probe.follow(earlier);
    }
    probe.get_through(PATIENCE).unwrap();
    probe
}

/// The session of each device.
fn sessions(cluster: &Cluster) -> HashMap<String, String> {
    let records = cluster.world().committed(Topic::Telemetry).unwrap();
    let named = records.iter().map(|record| {
        let id = record.header("ce_id").unwrap();
        let key = String::from_utf8(record.key.clone()).unwrap();
        (key.split('/').next_back().unwrap().to_owned(), id.split('.').next().unwrap().to_owned())
    });
    named.collect()
}

fn is_kept(cluster: &Cluster, probes: &[Probe]) {
    let logs: Vec<_> = probes.iter().map(|probe| probe.log().clone()).collect();
    let verdict = Verdict::new(&logs, &cluster.world().committed(Topic::Telemetry).unwrap());
    eprintln!("{verdict}");
    assert!(verdict.is_kept(), "{verdict}");
}

#[test]
fn forged_copied_and_guessed_datagrams_move_no_session_between_pods() {
    let redis = Redis::start().unwrap();
    let cluster = two_pods(&redis, EdgeOptions::default());
    let (probes, fleet) = (Probes::start().unwrap(), cluster.world().devices(4).unwrap());
    // Each pod has sessions of its own, and relays what comes for the other's.
    let servers = BOTH.map(|pod| cluster.pod(pod).address());
    let taps: Vec<_> = (0..4).map(|number| Tap::start(servers[number % 2]).unwrap()).collect();
    let mut devices: Vec<_> = fleet
        .iter()
        .zip(&taps)
        .enumerate()
        .map(|(number, (device, tap))| open(&probes, device, number, tap.address(), None))
        .collect();
    for device in &mut devices {
        device.get_through(PATIENCE).unwrap();
    }
    let recorded: Vec<_> = taps.iter().flat_map(Tap::recorded).collect();
    let opened = count(&cluster, "sluice_edge_sessions_opened_total", &["transport=\"udp\""]);
    let (forged, guessed) = (dropped(&cluster, "forged"), dropped(&cluster, "forged_session"));

    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in &recorded {
        for server in servers {
            stranger.send_to(datagram, server).unwrap();
            let Ok(seen) = Frame::parse(datagram) else { continue };
            let mut payload = seen.payload().to_vec();
            if let Some(last) = payload.last_mut().filter(|_| seen.header().frame_type.is_sealed()) {
                // A number that is to come, so that it is no copy.
                *last ^= 1;
                let sequence = seen.header().seq.wrapping_add(1000);
                stranger.send_to(&frame(seen.header().frame_type, sequence, &payload), server).unwrap();
            }
        }
    }
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(0x000b_ad1d);
    let start = now();
    let mut sent = 0;
    while sent < 20_000 {
        let mut payload = [0; 60];
        random.fill(&mut payload[..]);
        let datagram = frame(FrameType::Data, random.random(), &payload);
        // A full buffer loses some of them.
        sent += usize::from(stranger.send_to(&datagram, servers[sent % 2]).is_ok());
    }
    eprintln!("{} recorded, {sent} guessed in {:?}", recorded.len(), now().duration_since(start));
    wait_for("forged and guessed datagrams to be counted", PATIENCE, || {
        let seen = (dropped(&cluster, "forged") - forged, dropped(&cluster, "forged_session") - guessed);
        if seen.0 >= 8.0 && seen.1 >= 100.0 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();

    for device in &mut devices {
        device.get_through(PATIENCE).unwrap();
    }
    is_kept(&cluster, &devices);
    let after = count(&cluster, "sluice_edge_sessions_opened_total", &["transport=\"udp\""]);
    assert_eq!(after, opened, "a copy opened a session");
}

#[test]
fn a_stranger_on_the_peer_port_of_a_pod_is_counted() {
    let redis = Redis::start().unwrap();
    let cluster = two_pods(&redis, EdgeOptions::default());
    let log = cluster.pod(0).log().unwrap();
    let line = log.lines().find(|line| line.contains("one of many pods")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let address: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(&[0x16; 600]).unwrap();
    sluice_tests::hostile::until_closed(&mut stranger, PATIENCE).unwrap();
    wait_for("it to be counted", PATIENCE, || {
        let refused = count(&cluster, "sluice_peers_refused_handshake_total", &[]);
        if refused >= 1.0 { Ok(()) } else { Err(format!("{refused}")) }
    })
    .unwrap();
}

/// What is done to the stored session of a device that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    Cut,
    /// Another device's is put in its place.
    Swapped,
    /// The device's session of before is put in its place.
    RolledBack,
}

/// Cuts every value of the hash `KEYS[1]` to half.
const CUT: &str = "local f = redis.call('HGETALL', KEYS[1]) for i = 1, #f, 2 do if #f[i + 1] > 16 then \
                   redis.call('HSET', KEYS[1], f[i], string.sub(f[i + 1], 1, math.floor(#f[i + 1] / 2))) end end return #f";

fn keys(redis: &Redis, pattern: &str) -> Vec<String> {
    redis
        .command(&["KEYS", pattern])
        .unwrap()
        .lines()
        .map(str::to_owned)
        .filter(|key| !key.is_empty())
        .collect()
}

#[test]
fn stored_sessions_and_snapshots_that_are_cut_swapped_or_old_open_nothing() {
    const DEVICES: usize = 24;
    let redis = Redis::start().unwrap();
    let edge = EdgeOptions::default().with("edge.cluster.snapshot_interval", "200ms");
    let mut cluster = two_pods(&redis, edge);
    let prefix = cluster.world().store_config().redis.key_prefix.clone();
    let (probes, fleet) = (Probes::start().unwrap(), cluster.world().devices(DEVICES).unwrap());
    let balancer = cluster.balancer().address();
    let key = |device: &Credentials, session: &str| format!("{prefix}:{{{}}}:session:{session}", device.id);

    // Each device has an earlier session, of which somebody keeps what was stored.
    let mut devices: Vec<_> =
        fleet.iter().enumerate().map(|(n, device)| open(&probes, device, n, balancer, None)).collect();
    let earlier = sessions(&cluster);
    for (number, device) in fleet.iter().enumerate() {
        let from = key(device, &earlier[&device.id.to_string()]);
        assert_eq!(redis.command(&["COPY", &from, &format!("kept:{number}")]).unwrap(), "1", "{from}");
    }
    let of_before = devices.drain(..).enumerate();
    let mut devices: Vec<_> =
        of_before.map(|(n, before)| open(&probes, &fleet[n], n, balancer, Some(before))).collect();
    let later = sessions(&cluster);
    let session = |number: usize| &later[&fleet[number].id.to_string()];
    let stored = |number: usize| key(&fleet[number], session(number));
    let asleep: Vec<_> =
        (0..DEVICES).filter(|&number| cluster.owner_of(session(number)).unwrap() == 0).collect();
    assert!(asleep.len() >= 4, "{} sessions at the pod that is killed", asleep.len());
    let snapshots = format!("{prefix}:{{slot:*}}:snapshot");
    wait_for("snapshots", PATIENCE, || {
        let slots = asleep.iter().map(|&number| slot_of(session(number)).unwrap());
        let missing =
            slots.filter(|slot| keys(&redis, &snapshots.replace('*', &slot.to_string())).is_empty());
        match missing.count() {
            0 => Ok(()),
            count => Err(format!("{count} missing")),
        }
    })
    .unwrap();

    for key in keys(&redis, &snapshots) {
        redis.command(&["EVAL", CUT, "1", &key]).unwrap();
    }
    cluster.kill(0);
    // Nobody writes them any more, and nobody reads them before their devices speak.
    let kinds = [Harm::None, Harm::Cut, Harm::Swapped, Harm::RolledBack];
    let harms: HashMap<_, _> = asleep.iter().copied().zip(kinds.into_iter().cycle()).collect();
    for (&number, harm) in &harms {
        let (from, to) = match harm {
            Harm::None => continue,
            Harm::Cut => {
                redis.command(&["EVAL", CUT, "1", &stored(number)]).unwrap();
                continue;
            }
            Harm::Swapped => (stored((number + 1) % DEVICES), stored(number)),
            Harm::RolledBack => (format!("kept:{number}"), stored(number)),
        };
        assert_eq!(redis.command(&["COPY", &from, &to, "REPLACE"]).unwrap(), "1", "{from} to {to}");
    }
    cluster.wait_at_rest().unwrap();
    let is_harmed = |number: &usize| harms.get(number).is_some_and(|harm| *harm != Harm::None);
    let harmed: Vec<_> = (0..DEVICES).filter(is_harmed).collect();
    for &number in &harmed {
        devices[number].send().unwrap();
    }
    for (number, device) in devices.iter_mut().enumerate() {
        if harmed.contains(&number) {
            assert_eq!(device.step(PATIENCE).unwrap(), Step::GivenUp, "{:?}", harms[&number]);
        } else {
            device.get_through(PATIENCE).unwrap();
        }
    }
    let distrusted = count(&cluster, "sluice_edge_store_distrusted_total", &[]);
    let discarded = count(&cluster, "sluice_edge_slots_snapshots_discarded_total", &[]);
    eprintln!("{} harmed, {distrusted} distrusted, {discarded} snapshots discarded", harmed.len());
    assert!(distrusted >= harmed.len() as f64 && discarded >= 1.0, "{distrusted}, {discarded}");
    is_kept(&cluster, &come_again(&probes, &fleet, devices, &harmed, balancer));
}

/// These devices open new sessions.
fn come_again(
    probes: &Probes,
    fleet: &[Credentials],
    devices: Vec<Probe>,
    which: &[usize],
    server: SocketAddr,
) -> Vec<Probe> {
    let all = devices.into_iter().enumerate();
    all.map(|(number, device)| match which.contains(&number) {
        true => open(probes, &fleet[number], number, server, Some(device)),
        false => device,
    })
    .collect()
}

#[test]
fn a_ledger_cut_by_retention_accepts_nothing_that_it_does_not_know() {
    const DEVICES: usize = 16;
    let redis = Redis::start().unwrap();
    let mut cluster = two_pods(&redis, EdgeOptions::default());
    let (probes, fleet) = (Probes::start().unwrap(), cluster.world().devices(DEVICES).unwrap());
    let balancer = cluster.balancer().address();
    let taps: Vec<_> = (0..DEVICES).map(|_| Tap::start(balancer).unwrap()).collect();
    let mut devices: Vec<_> =
        (0..DEVICES).map(|n| open(&probes, &fleet[n], n, taps[n].address(), None)).collect();
    let sessions = sessions(&cluster);
    let owner = |number: usize| cluster.owner_of(&sessions[&fleet[number].id.to_string()]).unwrap();
    let forgotten: Vec<_> = (0..DEVICES).filter(|&number| owner(number) == 0).collect();
    assert!(!forgotten.is_empty(), "no session at the pod that is killed");

    // Up to its end, as retention would long after all of it was written.
    let world = cluster.world();
    let slots = 0..ClusterOptions::default().slots;
    let topic = format!("{}.ledger", world.bus_config().topic_prefix);
    let partitions: Vec<_> =
        slots.map(|slot| serde_json::json!({ "topic": topic, "partition": slot, "offset": -1 })).collect();
    let json = serde_json::json!({ "version": 1, "partitions": partitions }).to_string();
    let file = world.file("delete.json");
    std::fs::write(&file, json).unwrap();
    let file = file.display().to_string();
    let args = ["--bootstrap-server", &world.brokers(), "--offset-json-file", &file];
    eprintln!("{}", Kafka::tool("org.apache.kafka.tools.DeleteRecordsCommand", &args, PATIENCE).unwrap());
    cluster.kill(0);
    cluster.wait_at_rest().unwrap();

    // Somebody who recorded all of it plays it again, and the devices go on.
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in taps.iter().flat_map(Tap::recorded) {
        stranger.send_to(&datagram, cluster.pod(1).address()).unwrap();
    }
    for &number in &forgotten {
        devices[number].send().unwrap();
    }
    for (number, device) in devices.iter_mut().enumerate() {
        if forgotten.contains(&number) {
            assert_eq!(device.step(PATIENCE).unwrap(), Step::GivenUp, "a session that nobody knows goes on");
        } else {
            device.get_through(PATIENCE).unwrap();
        }
    }
    let unknown = dropped(&cluster, "unknown_session");
    assert!(unknown >= forgotten.len() as f64, "{unknown} datagrams of unknown sessions");
    is_kept(&cluster, &come_again(&probes, &fleet, devices, &forgotten, balancer));
}
