//! Pods die, hang, go and come while devices send: what was acknowledged is there once, and the devices' sessions go on.

mod backends;
#[cfg(feature = "long")]
mod kills;
#[cfg(feature = "long")]
mod pairs;
#[cfg(feature = "long")]
mod restarts;
mod rotation;

use std::path::Path;
use std::time::Duration;

use sluice_bus::Topic;
use sluice_tests::chaos::{Cluster, ClusterOptions, DeviceLog, Fleet, Verdict, size_of};
use sluice_tests::{
    Credentials, Device, EdgeOptions, Pending, Recovery, Sdk, StreamPlan, Streamed, Transport, payload,
    wait_for,
};

const DEVICES: usize = 20;
const INTERVAL: Duration = Duration::from_millis(50);
/// A device's own timers and a busy machine included.
const PROGRESS: Duration = Duration::from_secs(30);
/// A pod that is asked to stop gives its slots away and ends.
const DRAIN: Duration = Duration::from_secs(30);

/// Times of the devices' ways back, in a line.
fn print_recoveries(what: &str, recoveries: &[Recovery]) {
    let mut times: Vec<_> = recoveries.iter().filter_map(Recovery::unanswered).collect();
    times.sort_unstable();
    let reached = recoveries.iter().map(|recovery| recovery.reached).max();
    let at = |share: usize| times.get(times.len() * share / 100).or_else(|| times.last()).copied();
    eprintln!(
        "{what}: {} of {} devices were answered; a living pod was reached within {reached:?}, and answered p50 {:?}, p99 {:?}, max {:?} later",
        times.len(),
        recoveries.len(),
        at(50),
        at(99),
        times.last()
    );
}

/// Sessions that may be lost to a slow machine: a device with an adaptive timer is patient for three seconds, and adopting a dozen slots
/// on two busy cores can take longer. Were sessions not to go on, all of the dead pod's would be lost.
const OUT_OF_TIME: u64 = DEVICES as u64 / 4;

/// What must go on, beside that nothing that was acknowledged is lost, doubled, out of order, or another device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    /// Every session, with every message.
    Everything,
    /// Every session, but for messages of two frames of which one was acknowledged: the other half was with the pod that died. The device
    /// gives the message up, and a client in C its session.
    WholeMessages,
    /// Devices may have had to open sessions.
    Devices,
}

/// Twenty simulated devices and one official client over UDP on two pods; something happens to them, and all devices get further.
fn devices_go_on(what: &str, cluster: Cluster, goes_on: GoesOn, happens: impl FnOnce(&mut Cluster, &Fleet)) {
    devices_and_others_go_on(what, cluster, goes_on, |cluster, devices| {
        happens(cluster, devices);
        Vec::new()
    });
}

/// The same while other devices come, whose logs what happens gives.
fn devices_and_others_go_on(
    what: &str,
    cluster: Cluster,
    goes_on: GoesOn,
    happens: impl FnOnce(&mut Cluster, &Fleet) -> Vec<DeviceLog>,
) {
    let mut cluster = cluster;
    let fleet = cluster.world().devices(DEVICES + 1).unwrap();
    let (official, simulated) = fleet.split_last().unwrap();
    let number = u32::try_from(DEVICES).unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let client = sdk.device(official, Transport::Udp, cluster.balancer().address());
    client.connect().unwrap();
    let plan = StreamPlan {
        first: DeviceLog::first_message(number),
        size: size_of(number),
        interval: INTERVAL,
        limit: Duration::from_secs(1200),
        ..StreamPlan::default()
    };
    let stream = client.start_stream(&plan).unwrap();
    let devices = Fleet::start(simulated, cluster.balancer().address(), INTERVAL).unwrap();
    devices.wait_progress(5, PROGRESS).unwrap();

    let others = happens(&mut cluster, &devices);

    devices.wait_progress(10, PROGRESS).unwrap();
    print_recoveries(what, &cluster.balancer().recoveries());
    cluster.print_moves().unwrap();
    client.stop_stream().unwrap();
    let streamed = Streamed::try_from(stream.wait().unwrap()).unwrap();
    let mut logs = devices.stop(PROGRESS).unwrap();
    logs.push(DeviceLog::of_stream(official.id, number, &streamed));
    logs.extend(others);
    let verdict = Verdict::new(&logs, &cluster.world().committed(Topic::Telemetry).unwrap());
    let counts = cluster.balancer().counts();
    eprintln!("{what}: {verdict}, retransmissions {}, {counts:?}", counts.repeats);
    if !verdict.is_kept() {
        keep(what, &cluster);
    }
    assert!(verdict.is_kept(), "{verdict}");
    let (gone, allowed) = match goes_on {
        GoesOn::Everything => ((verdict.handshakes, verdict.given_up), 0),
        GoesOn::WholeMessages => ((verdict.unprovoked, verdict.whole_given_up), OUT_OF_TIME),
        GoesOn::Devices => ((0, 0), 0),
    };
    assert!(
        gone.0 <= allowed && gone.1 <= allowed,
        "sessions opened anew, and messages given up, that should have gone on: {gone:?}, at most {allowed}: {verdict}"
    );
}

/// Keeps what tells the cause, where cargo keeps files of tests.
fn keep(what: &str, cluster: &Cluster) {
    let name = sluice_test_env::unique(&what.replace(|char: char| !char.is_ascii_alphanumeric(), "-"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match cluster.keep(&folder) {
        Ok(()) => {
            eprintln!("logs of the pods, and the records of the topics, are kept in {}", folder.display())
        }
        Err(error) => eprintln!("not everything that tells the cause could be kept: {error:#}"),
    }
}

fn two_pods(seed: u64) -> Cluster {
    Cluster::start(ClusterOptions { seed, ..ClusterOptions::default() }).unwrap()
}

/// The pod with more of the fleet's sessions, by its own count.
fn busier(cluster: &Cluster) -> usize {
    let opened = |pod: usize| {
        let opened = cluster.pod(pod).metric("sluice_edge_sessions_opened_total", &["transport=\"udp\""]);
        opened.unwrap()
    };
    let opened = [opened(0), opened(1)];
    eprintln!("sessions opened by pod: {opened:?}");
    let busier = usize::from(opened[1] > opened[0]);
    assert!(opened[busier] >= 1.0, "nobody has sessions");
    busier
}

#[test]
fn sessions_of_a_killed_pod_go_on_at_another() {
    devices_go_on("kill -9", two_pods(0xc4a0_0001), GoesOn::WholeMessages, |cluster, _| {
        let victim = busier(cluster);
        cluster.kill(victim);
    });
}

#[test]
fn sessions_of_a_draining_pod_go_on_at_another_and_its_old_flows_are_relayed() {
    devices_go_on("drain", two_pods(0xc4a0_0002), GoesOn::WholeMessages, |cluster, _| {
        let victim = busier(cluster);
        let status = cluster.drain(victim, false, DRAIN).unwrap();
        assert!(status.success(), "{status}: {}", cluster.pod(victim).log().unwrap());
    });
}

#[test]
fn flows_that_arrive_at_another_pod_are_relayed() {
    devices_go_on("remap", two_pods(0xc4a0_0003), GoesOn::Everything, |cluster, devices| {
        for seed in 1..=4 {
            cluster.balancer().fault(&[]);
            cluster.balancer().remap_flows(seed);
            devices.wait_progress(3, PROGRESS).unwrap();
        }
        cluster.balancer().fault(&[]);
        cluster.balancer().forget_flows();
    });
}

#[test]
fn a_pod_that_hangs_and_comes_back_doubles_nothing() {
    devices_go_on("zombie", two_pods(0xc4a0_0004), GoesOn::Devices, |cluster, devices| {
        let victim = busier(cluster);
        cluster.pause(victim).unwrap();
        devices.wait_progress(5, PROGRESS).unwrap();
        print_recoveries("hang", &cluster.balancer().recoveries());
        cluster.resume(victim).unwrap();
        // What devices send reaches the zombie, too.
        cluster.balancer().fault(&[]);
        cluster.balancer().remap_flows(5);
    });
}

/// Messages of one official client, each tried until it is acknowledged, without ever connecting again. Returns what was acknowledged.
fn send_on(client: &Device<'_>, messages: std::ops::Range<u32>) -> Vec<u32> {
    messages
        .filter(|&message| match client.send(&payload(message, size_of(0))) {
            Ok(()) => true,
            Err(error) => {
                // Python gives a message up after its five transmissions, and a slow machine may need longer. The session stays.
                eprintln!("message {message}: {error:#}");
                false
            }
        })
        .collect()
}

/// Sends until one more message is acknowledged.
fn send_until_acknowledged(client: &Device<'_>, next: &mut u32, acked: &mut Vec<u32>) {
    let before = acked.len();
    wait_for("a message to be acknowledged", PROGRESS * 2, || {
        acked.extend(send_on(client, *next..*next + 1));
        *next += 1;
        if acked.len() > before { Ok(()) } else { Err(format!("{next} messages, {before} acknowledged")) }
    })
    .unwrap();
}

/// The pod that the only device's flow goes to.
fn only_flow(cluster: &Cluster) -> usize {
    let flows = cluster.balancer().flows();
    let [flow] = flows[..] else { panic!("one device has one flow: {flows:?}") };
    cluster.running().into_iter().find(|&pod| cluster.pod(pod).address() == flow).unwrap()
}

/// No closed port was told to the only device, and what was acknowledged to it is committed, in one session.
fn nothing_was_told_and_all_is_kept(what: &str, cluster: &Cluster, device: &Credentials, acked: Vec<u32>) {
    let counts = cluster.balancer().counts();
    assert_eq!(counts.unreachable, 0, "a closed port was told: {counts:?}");
    let log = DeviceLog { acked, sessions: 1, ..DeviceLog::new(device.id, 0) };
    let verdict = Verdict::new(&[log], &cluster.world().committed(Topic::Telemetry).unwrap());
    eprintln!("{what}: {verdict}, {counts:?}");
    assert!(verdict.is_kept(), "{verdict}");
}

/// Kills the worker of the pod that the client talks to, and waits until a datagram has reached the pod since. There may be no other: the
/// next worker reads it from the socket, and can be there before the client sends it again.
fn kill_under(cluster: &mut Cluster, client: &Device<'_>, message: u32) -> (usize, Pending) {
    let up = |cluster: &Cluster, pod: usize| {
        let counts = cluster.balancer().counts();
        counts.backends.get(&cluster.pod(pod).address()).map_or(0, |backend| backend.up)
    };
    let victim = only_flow(cluster);
    cluster.kill_worker(victim).unwrap();
    let before = up(cluster, victim);
    let sending = client.start_send(&payload(message, size_of(0)), PROGRESS).unwrap();
    wait_for("a datagram to reach the pod of the dead worker", PROGRESS, || {
        if up(cluster, victim) > before { Ok(()) } else { Err("none".to_owned()) }
    })
    .unwrap();
    (victim, sending)
}

#[test]
fn an_official_client_keeps_its_session_when_workers_are_killed_and_icmp_is_passed_on() {
    let mut cluster = two_pods(0xc4a0_0009);
    cluster.balancer().pass_icmp_on();
    let device = cluster.world().device().unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let client = sdk.device(&device, Transport::Udp, cluster.balancer().address());
    client.connect().unwrap();
    let mut next = DeviceLog::first_message(0) + 1;
    let mut acked = Vec::new();
    send_until_acknowledged(&client, &mut next, &mut acked);

    for notices in [true, false] {
        // A balancer that notices moves the flow to the other pod; one that does not leaves it to the next worker.
        let (victim, sending) = kill_under(&mut cluster, &client, next);
        cluster.set_healthy(victim, !notices);
        acked.extend(sending.wait().is_ok().then_some(next));
        next += 1;
        send_until_acknowledged(&client, &mut next, &mut acked);
        cluster.pod(victim).wait_ready_again().unwrap();
        cluster.set_healthy(victim, true);
        send_until_acknowledged(&client, &mut next, &mut acked);
        cluster.print_moves().unwrap();
    }

    nothing_was_told_and_all_is_kept("workers killed", &cluster, &device, acked);
}

#[test]
fn an_official_client_keeps_its_session_when_a_worker_hangs_and_icmp_is_passed_on() {
    let edge = EdgeOptions::default().with("edge.parent.worker_patience", "5s");
    let cluster =
        Cluster::start(ClusterOptions { seed: 0xc4a0_000b, edge, ..ClusterOptions::default() }).unwrap();
    cluster.balancer().pass_icmp_on();
    let device = cluster.world().device().unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let client = sdk.device(&device, Transport::Udp, cluster.balancer().address());
    client.connect().unwrap();
    let mut next = DeviceLog::first_message(0) + 1;
    let mut acked = Vec::new();
    send_until_acknowledged(&client, &mut next, &mut acked);

    let victim = only_flow(&cluster);
    cluster.pod(victim).hang_worker().unwrap();
    // The balancer notices nothing: what is sent meanwhile waits in the socket that the parent has kept.
    acked.extend(send_on(&client, next..next + 1));
    next += 1;
    wait_for("the parent to end the hang", PROGRESS * 2, || {
        let log = cluster.pod(victim).log().map_err(|error| error.to_string())?;
        if log.contains("the worker hangs") { Ok(()) } else { Err("it still waits".to_owned()) }
    })
    .unwrap();
    cluster.pod(victim).wait_ready_again().unwrap();
    send_until_acknowledged(&client, &mut next, &mut acked);

    nothing_was_told_and_all_is_kept("a worker hung", &cluster, &device, acked);
}

#[test]
fn without_a_parent_an_official_client_loses_its_session_to_icmp() {
    let edge = EdgeOptions::default().without_parent();
    let mut cluster =
        Cluster::start(ClusterOptions { seed: 0xc4a0_000a, edge, ..ClusterOptions::default() }).unwrap();
    cluster.balancer().pass_icmp_on();
    let device = cluster.world().device().unwrap();
    let sdk = Sdk::start("1.2.2").unwrap();
    let client = sdk.device(&device, Transport::Udp, cluster.balancer().address());
    client.connect().unwrap();
    let first = DeviceLog::first_message(0) + 1;
    assert_eq!(send_on(&client, first..first + 1), [first]);

    let victim = only_flow(&cluster);
    cluster.kill_worker(victim).unwrap();
    assert!(send_on(&client, first + 1..first + 3).is_empty(), "nobody told the client");
    assert!(cluster.balancer().counts().unreachable > 0, "{:?}", cluster.balancer().counts());
    // Were the balancer there again, the client would not be: its session is closed for good.
    let error = format!("{:#}", client.send(b"more").unwrap_err());
    eprintln!("told by ICMP, the client says {error}");
    assert!(error.contains("Stream is closed"), "{error}");
}
