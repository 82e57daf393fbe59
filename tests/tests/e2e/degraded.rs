//! Redis or Kafka is down, slow, or cut off from one pod: what becomes of everything that devices and operators do meanwhile, and
//! afterwards. Each test is a row of the table in docs/operations.md, and looks at each of its columns, at two pods.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use sluice_bus::Topic;
use sluice_test_env::{Kafka, Redis};
use sluice_tests::chaos::{Cluster, ClusterOptions, Probe, Probes, Reaches, Step, Verdict, Wiring};
use sluice_tests::{Condition, Credentials, Transport, wait_for};
use sluice_types::PodId;

/// Until what must come is given up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pod whose sessions the others adopt, before anything else happens.
const DEAD: usize = 0;
/// The pod that is cut off, where one is.
const CUT: usize = 1;
/// The other one.
const OTHER: usize = 2;

/// Sessions of the dead pod. So many that each of the others gets some of them.
const ASLEEP: usize = 24;
/// Sessions that are born within a quarter of a second share a slot; those that come after it lie in the next one.
const NEXT_SLOT: Duration = Duration::from_millis(260);

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// What a pod can do.
#[derive(Debug, Clone, Copy)]
struct Can {
    /// Give out keys, without which no session opens.
    open: bool,
    /// Get what sessions over UDP say committed and acknowledged, here or at another pod, which has the place for new ones then.
    commit: bool,
    /// Commit what sessions over TCP say.
    commit_tcp: bool,
    /// Go on with a session that it adopted and that has not spoken since.
    wake: bool,
    /// End the sessions of a device that is revoked.
    hear: bool,
    /// Be sent more.
    ready: bool,
}

impl Can {
    /// Whether sessions open. One over UDP is committed before its device hears of it.
    fn opens(self, transport: Transport) -> bool {
        self.open && (self.commit || transport == Transport::Tcp)
    }
}

const ALL: Can = Can { open: true, commit: true, commit_tcp: true, wake: true, hear: true, ready: true };

/// Devices at one pod, whose address they know; but for those that sleep: these come by the balancer, to either pod.
struct Side {
    pod: usize,
    can: Can,
    udp: Probe,
    tcp: Probe,
    asleep: Vec<Probe>,
    /// These are revoked.
    doomed: [Probe; 2],
}

struct Stage {
    cluster: Cluster,
    probes: Probes,
    fleet: Vec<Credentials>,
    /// Devices that took part so far.
    used: usize,
    gone: Vec<Probe>,
}

impl Stage {
    /// Two pods with live sessions, and sleeping ones which they adopted from a third.
    fn set(redis: &Redis, kafka: Option<&Kafka>) -> (Self, [Side; 2]) {
        let bootstrap = kafka.map_or_else(|| Kafka::shared().unwrap().bootstrap(), Kafka::bootstrap);
        let options = ClusterOptions { pods: 1, ..ClusterOptions::default() };
        let cluster = Cluster::wired(redis, &bootstrap, Wiring::new(redis, kafka).unwrap(), options).unwrap();
        let fleet = cluster.world().devices(ASLEEP + 16).unwrap();
        let mut stage = Self { cluster, probes: Probes::start().unwrap(), fleet, used: 0, gone: Vec::new() };
        // Their pod will go, so they come by the balancer.
        let balancer = stage.cluster.balancer().address();
        let mut asleep: Vec<_> = (0..ASLEEP)
            .map(|_| {
                let device = stage.open(Transport::Udp, balancer);
                // They are to lie in all slots, so that each adopter gets some.
                std::thread::sleep(NEXT_SLOT);
                device
            })
            .collect();
        for device in &mut asleep {
            device.get_through(PATIENCE).unwrap();
        }
        stage.cluster.add().unwrap();
        stage.cluster.wait_at_rest().unwrap();
        stage.cluster.kill(DEAD);
        stage.cluster.wait_at_rest().unwrap();
        stage.cluster.add().unwrap();
        stage.cluster.wait_at_rest().unwrap();

        let sessions = stage.sessions();
        let mut asleep_at = [Vec::new(), Vec::new()];
        for device in asleep {
            let session = &sessions[&format!("default/{}", device.log().device)];
            asleep_at[stage.cluster.owner_of(session).unwrap() - 1].push(device);
        }
        eprintln!("asleep at each pod: {:?}", asleep_at.each_ref().map(Vec::len));
        let mut pods = [CUT, OTHER].into_iter();
        let sides = asleep_at.map(|asleep| {
            assert!(!asleep.is_empty(), "no session sleeps at one of the pods");
            let pod = pods.next().unwrap();
            let mut open = |transport| {
                let mut device = stage.open_at(transport, pod);
                device.get_through(PATIENCE).unwrap();
                device
            };
            let (udp, tcp) = (open(Transport::Udp), open(Transport::Tcp));
            Side { pod, can: ALL, udp, tcp, asleep, doomed: [open(Transport::Udp), open(Transport::Tcp)] }
        });
        (stage, sides)
    }

    /// A device that nobody has seen begins to connect.
    fn begin(&mut self, transport: Transport, server: SocketAddr) -> Probe {
        let (device, number) = (&self.fleet[self.used], u32::try_from(self.used).unwrap());
        self.used += 1;
        self.probes.connect(device, number, transport, server)
    }

    fn begin_at(&mut self, transport: Transport, pod: usize) -> Probe {
        self.begin(transport, self.cluster.pod(pod).address())
    }

    /// Tries until a session opens: a busy machine may need more than a device has patience for, and a pod a moment to find again what it
    /// reaches.
    fn open(&mut self, transport: Transport, server: SocketAddr) -> Probe {
        wait_for("a new session", PATIENCE, || {
            let mut device = self.begin(transport, server);
            match device.step(PATIENCE).map_err(|error| error.to_string())? {
                Step::Connected => Ok(device),
                step => {
                    self.used -= 1;
                    Err(format!("{step:?}"))
                }
            }
        })
        .unwrap()
    }

    fn open_at(&mut self, transport: Transport, pod: usize) -> Probe {
        self.open(transport, self.cluster.pod(pod).address())
    }

    /// The session of each record's key.
    fn sessions(&self) -> HashMap<String, String> {
        let records = self.cluster.world().committed(Topic::Telemetry).unwrap();
        let named = records.iter().map(|record| {
            let id = record.header("ce_id").unwrap();
            (String::from_utf8(record.key.clone()).unwrap(), id.split('.').next().unwrap().to_owned())
        });
        named.collect()
    }

    /// What is committed under a device's key.
    fn committed(&self, device: &Probe) -> usize {
        let key = format!("default/{}", device.log().device);
        let records = self.cluster.world().committed(Topic::Telemetry).unwrap();
        records.iter().filter(|record| record.key == key.as_bytes()).count()
    }

    /// The pod lives, and may be sent work, or not.
    fn is_ready(&self, pod: usize, ready: bool) {
        for (path, expected) in [("/livez", 200), ("/readyz", if ready { 200 } else { 503 })] {
            let (status, text) = self.cluster.pod(pod).ask("GET", path, b"").unwrap();
            assert_eq!(status, expected, "pod {pod} {path}: {text}");
        }
    }

    /// Its list of checks names what it does not reach.
    fn wait_names(&self, pod: usize, missing: &str) {
        wait_for(&format!("/readyz?verbose of pod {pod} to name {missing}"), PATIENCE, || {
            let (_, text) = self.cluster.pod(pod).ask("GET", "/readyz?verbose", b"").unwrap();
            if text.contains(&format!("[-] {missing} ")) { Ok(()) } else { Err(text) }
        })
        .unwrap();
        let (gauge, value) = match missing {
            "slots" => ("sluice_edge_aside", 1.0),
            "kafka" => ("sluice_edge_kafka_answers", 0.0),
            _ => ("sluice_edge_store_answers", 0.0),
        };
        self.wait_gauge(pod, gauge, value);
    }

    fn wait_gauge(&self, pod: usize, gauge: &str, expected: f64) {
        wait_for(&format!("{gauge} of pod {pod} to be {expected}"), PATIENCE, || {
            let seen = self.cluster.pod(pod).metric(gauge, &[]).map_err(|error| format!("{error:#}"))?;
            if (seen - expected).abs() < 0.5 { Ok(()) } else { Err(seen.to_string()) }
        })
        .unwrap();
    }

    /// What an operator sees when all is well.
    fn is_well(&self, pod: usize) {
        for gauge in ["sluice_edge_store_answers", "sluice_edge_store_trusted", "sluice_edge_kafka_answers"] {
            self.wait_gauge(pod, gauge, 1.0);
        }
        for gauge in ["sluice_edge_aside", "sluice_edge_slots_adopting", "sluice_edge_slots_unserved"] {
            self.wait_gauge(pod, gauge, 0.0);
        }
        for gauge in ["sluice_peers_known", "sluice_peers_linked"] {
            self.wait_gauge(pod, gauge, 1.0);
        }
    }

    /// While the fault lasts: everything that a pod can do is done, and nothing else, at both pods at once.
    fn during(&mut self, sides: &mut [Side; 2], revocable: bool) {
        let mut new = Vec::new();
        for (transport, side) in
            BOTH.iter().flat_map(|transport| sides.iter().map(move |side| (transport, side)))
        {
            let device = self.begin_at(*transport, side.pod);
            new.push((side.pod, side.can.opens(*transport), *transport, device));
        }
        let before = sides.each_ref().map(|side| self.committed(&side.tcp));
        for side in &mut *sides {
            side.udp.send().unwrap();
            side.tcp.send().unwrap();
            for device in &mut side.asleep {
                device.send().unwrap();
            }
        }
        let mut revoked = None;
        for device in sides.iter().flat_map(|side| &side.doomed) {
            let position = self.cluster.world().revoke(device.log().device);
            assert_eq!(position.is_ok(), revocable, "a revocation: {position:?}");
            revoked = position.ok();
        }
        for side in &mut *sides {
            let can = side.can;
            said(&mut side.udp, can.commit);
            for device in &mut side.asleep {
                said(device, can.wake && can.commit);
            }
            side.tcp.expect(&Step::Through, PATIENCE).unwrap();
            if can.hear {
                for device in &mut side.doomed {
                    let step = device.step(PATIENCE).unwrap();
                    assert!(matches!(step, Step::Closed(_)), "revoked at pod {}: {step:?}", side.pod);
                }
            } else {
                // What cannot be known changes nothing.
                side.doomed.iter_mut().for_each(|device| device.get_through(PATIENCE).unwrap());
            }
            self.is_ready(side.pod, can.ready);
        }
        for (pod, opens, transport, mut device) in new {
            let step = device.step(PATIENCE).unwrap();
            if opens && step != Step::Connected {
                device = self.open_at(transport, pod);
            }
            assert!(opens || matches!(step, Step::Closed(_)), "a session opens at pod {pod}: {step:?}");
            self.gone.push(device);
        }
        for (side, before) in sides.iter().zip(before) {
            if side.can.commit_tcp {
                wait_for("the message over TCP", PATIENCE, || {
                    if self.committed(&side.tcp) > before { Ok(()) } else { Err("not committed".to_owned()) }
                })
                .unwrap();
            } else {
                assert_eq!(self.committed(&side.tcp), before, "committed without Kafka");
            }
        }
        // Who could not hear is known by name.
        let deaf: Vec<_> =
            sides.iter().filter(|side| !side.can.hear).map(|side| self.name(side.pod)).collect();
        if let Some(position) = revoked {
            // The dead pod may still be waited for, too, while one that is left cannot take it off the list.
            let patience = if deaf.is_empty() { PATIENCE } else { Duration::ZERO };
            let outstanding = self.cluster.world().revocation_outstanding(position, patience).unwrap();
            assert!(
                deaf.iter().all(|pod| outstanding.contains(pod)),
                "outstanding are {outstanding:?}, and {deaf:?} cannot hear"
            );
            assert!(!deaf.is_empty() || outstanding.is_empty(), "{outstanding:?} could hear");
        }
    }

    fn name(&self, pod: usize) -> PodId {
        self.cluster.pod(pod).pod_id().unwrap()
    }

    /// Afterwards: everybody gets on, in the session it has; nothing that was acknowledged is lost, doubled or out of order.
    fn afterwards(&mut self, mut sides: [Side; 2], revocable: bool) {
        for side in &mut sides {
            for device in [&mut side.udp, &mut side.tcp].into_iter().chain(&mut side.asleep) {
                device.get_through(PATIENCE).unwrap();
            }
            for transport in BOTH {
                let mut device = self.open_at(transport, side.pod);
                device.get_through(PATIENCE).unwrap();
                self.gone.push(device);
            }
            for device in &mut side.doomed {
                if !revocable {
                    device.get_through(PATIENCE).unwrap();
                    self.cluster.world().revoke(device.log().device).unwrap();
                }
                if !revocable || !side.can.hear {
                    let step = device.step(PATIENCE).unwrap();
                    assert!(matches!(step, Step::Closed(_)), "revoked at pod {}: {step:?}", side.pod);
                }
            }
        }
        for side in sides {
            self.gone.extend([side.udp, side.tcp].into_iter().chain(side.asleep).chain(side.doomed));
        }
        // TCP says nothing of when something is committed.
        let verdict = wait_for("all that was sent over TCP", PATIENCE, || {
            let logs: Vec<_> = self.gone.iter().map(|device| device.log().clone()).collect();
            let records = self.cluster.world().committed(Topic::Telemetry).unwrap();
            let verdict = Verdict::new(&logs, &records);
            if verdict.lost.is_empty() { Ok(verdict) } else { Err(verdict.to_string()) }
        })
        .unwrap();
        eprintln!("{verdict}");
        assert!(verdict.is_kept(), "{verdict}");
        [CUT, OTHER].into_iter().for_each(|pod| self.is_well(pod));
    }
}

/// What became of a device's message.
fn said(device: &mut Probe, is_committed: bool) {
    let step = device.step(PATIENCE).unwrap();
    match step {
        // A busy machine.
        Step::GivenUp if is_committed => device.get_through(PATIENCE).unwrap(),
        _ => {
            let expected = if is_committed { Step::Through } else { Step::GivenUp };
            assert_eq!(step, expected, "{:?}", device.log());
        }
    }
}

const SLOW: Condition = Condition::Slow(Duration::from_millis(150));

#[test]
fn without_redis_live_sessions_go_on_and_no_other_opens_wakes_or_is_revoked() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let (mut stage, mut sides) = Stage::set(&redis, None);
    redis.kill();
    for side in &mut sides {
        side.can = Can { open: false, wake: false, hear: false, ..ALL };
    }
    stage.during(&mut sides, false);
    for side in &sides {
        stage.wait_names(side.pod, "store");
    }
    redis.restart().unwrap();
    stage.afterwards(sides, false);
}

#[test]
fn with_a_slow_redis_everything_goes_on() {
    let redis = Redis::start().unwrap();
    let (mut stage, mut sides) = Stage::set(&redis, None);
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Redis, SLOW).unwrap();
    stage.during(&mut sides, true);
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Redis, Condition::Open).unwrap();
    stage.afterwards(sides, true);
}

#[test]
fn a_pod_cut_off_from_redis_goes_on_with_live_sessions_and_is_named_by_revocations() {
    let redis = Redis::start().unwrap();
    let (mut stage, mut sides) = Stage::set(&redis, None);
    stage.cluster.set_lines(&[CUT], Reaches::Redis, Condition::Dark).unwrap();
    sides[0].can = Can { open: false, wake: false, hear: false, ..ALL };
    stage.during(&mut sides, true);
    stage.wait_names(CUT, "store");
    stage.cluster.set_lines(&[CUT], Reaches::Redis, Condition::Open).unwrap();
    stage.afterwards(sides, true);
}

#[test]
fn without_kafka_no_session_opens_over_udp_and_nothing_is_acknowledged() {
    let (redis, kafka) = (Redis::start().unwrap(), Wiring::kafka(3).unwrap());
    let (mut stage, mut sides) = Stage::set(&redis, Some(&kafka));
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Kafka, Condition::Broken).unwrap();
    for side in &mut sides {
        (side.can.commit, side.can.commit_tcp) = (false, false);
    }
    stage.during(&mut sides, true);
    for side in &sides {
        stage.wait_names(side.pod, "kafka");
    }
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Kafka, Condition::Open).unwrap();
    stage.afterwards(sides, true);
}

#[test]
fn with_a_slow_kafka_everything_goes_on() {
    let (redis, kafka) = (Redis::start().unwrap(), Wiring::kafka(3).unwrap());
    let (mut stage, mut sides) = Stage::set(&redis, Some(&kafka));
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Kafka, SLOW).unwrap();
    stage.during(&mut sides, true);
    stage.cluster.set_lines(&[CUT, OTHER], Reaches::Kafka, Condition::Open).unwrap();
    stage.afterwards(sides, true);
}

#[test]
fn sessions_of_a_pod_cut_off_from_kafka_go_on_at_others() {
    let (redis, kafka) = (Redis::start().unwrap(), Wiring::kafka(3).unwrap());
    let (mut stage, mut sides) = Stage::set(&redis, Some(&kafka));
    stage.cluster.set_lines(&[CUT], Reaches::Kafka, Condition::Dark).unwrap();
    wait_for("the other pod to adopt all slots", PATIENCE, || {
        let owners = stage.cluster.owners().map_err(|error| format!("{error:#}"))?;
        if owners.values().all(|pod| *pod == OTHER) { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .unwrap();
    stage.wait_names(CUT, "slots");
    // So that the next owner knows where to tell its device that it is revoked.
    sides[0].doomed[0].get_through(PATIENCE).unwrap();
    sides[0].can = Can { commit_tcp: false, ready: false, ..ALL };
    stage.during(&mut sides, true);
    stage.wait_names(CUT, "kafka");
    stage.cluster.set_lines(&[CUT], Reaches::Kafka, Condition::Open).unwrap();
    stage.afterwards(sides, true);
}
