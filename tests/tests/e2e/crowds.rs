//! More devices than any other test has, by `sluice-loadtest` against real pods. Times are printed and not asserted; docs/performance.md has
//! the figures of 100,000 devices and of 50,000 sessions.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluice_test_env::{Kafka, Process, Redis, wait_for};
use sluice_tests::{Edge, EdgeOptions, World, program};

const WITHIN: Duration = Duration::from_secs(1200);

/// Eight and more for each of three pods: who gets which is by chance, and a pod without any opens no session.
const SLOTS: u16 = 32;

/// Attempts of a device since there are pods: with its pauses of up to 32 s, more of them are four minutes in which nobody served it.
const MOST_ATTEMPTS: u64 = 10;

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn pods(count: u32) -> (World, Vec<Edge>) {
    let redis = Redis::shared().unwrap().url();
    let world = World::with_slots(&redis, &Kafka::shared().unwrap().bootstrap(), SLOTS, 1).unwrap();
    let options = EdgeOptions::default()
        .with("edge.cluster.enabled", true)
        .with("edge.cluster.listen", "127.0.0.1:0")
        .with("edge.cluster.advertise", "127.0.0.1:0")
        .with("bus.guarantee", "exactly_once")
        .without_parent();
    let pods = (0..count).map(|_| Edge::start(&world, &options).unwrap()).collect();
    (world, pods)
}

/// A load that runs beside the test, and what it says.
struct Load {
    process: Process,
    log: PathBuf,
}

impl Load {
    fn start(world: &World, command: &Command) -> Self {
        let log = world.file("load.log");
        Self { process: Process::spawn_command(command, &log).unwrap(), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it said before its report, and the report.
    fn report(mut self) -> (String, Value) {
        let status = self.process.wait(WITHIN).unwrap();
        let text = self.said();
        assert!(status.success(), "{text}");
        let (before, report) = text.split_at(text.find('{').unwrap());
        let report = serde_json::from_str(report).unwrap();
        println!("{report:#}");
        (before.to_owned(), report)
    }
}

fn load(subcommand: &str, pods: &[Edge]) -> Command {
    let mut command = Command::new(program("sluice-loadtest").unwrap());
    command.arg(subcommand).arg("--config").arg(pods[0].config());
    for pod in pods {
        command.args(["--edge", &pod.address().to_string()]);
    }
    command
}

/// `SLUICE_TEST_STORM_DEVICES` come back to `SLUICE_TEST_STORM_PODS` pods.
#[test]
fn a_fleet_that_lost_all_pods_comes_back_whole_within_the_budget_of_handshakes() {
    let devices = number("SLUICE_TEST_STORM_DEVICES", 1000);
    let (world, mut pods) = pods(number("SLUICE_TEST_STORM_PODS", 2));
    pods.iter_mut().for_each(Edge::kill);
    let mut command = load("storm", &pods);
    // A device that nobody answers waits for up to 32 s between its attempts.
    command.args(["--deadline", "15m", "--devices", &devices.to_string()]);
    for pod in &pods {
        command.args(["--admin", &pod.admin().to_string()]);
    }
    let storm = Load::start(&world, &command);
    wait_for("every device to have tried", WITHIN, || {
        let text = storm.said();
        if text.contains("every device has tried") { Ok(()) } else { Err(text) }
    })
    .unwrap();
    std::thread::scope(|scope| {
        for pod in &mut pods {
            scope.spawn(|| pod.restart().unwrap());
        }
    });
    let (table, report) = storm.report();
    // Nobody starved: the slowest is there, too, and nobody was sent away time after time.
    assert_eq!(report["back"], devices, "{report:#}");
    let most = report["waits"]["all"]["attempts"]["max"].as_u64().unwrap();
    assert!(most <= MOST_ATTEMPTS, "{most} attempts of a device: {report:#}");
    let budget = report["handshake_queue_budget"].as_f64().unwrap();
    let seen = report["pods"].as_array().unwrap();
    for pod in seen {
        assert!(pod["handshakes_in_progress_max"].as_f64().unwrap() <= budget, "{report:#}");
    }
    // Every second, and how steady it was, are for whoever reads on: a machine with too little time for all proves nothing by its pauses.
    println!("{table}\nsteady: {}", report["progress"]["steady"]);
    for pod in &pods {
        let log = pod.log().unwrap();
        let lost = log.lines().filter(|line| line.contains("another owner") || line.contains("is lost"));
        lost.for_each(|line| println!("a slot was taken from a pod that runs: {line}"));
    }
}

/// One of two pods stops under `SLUICE_TEST_DRAIN_SESSIONS` sessions, each with a record every `SLUICE_TEST_DRAIN_INTERVAL` seconds.
#[cfg(feature = "long")]
#[test]
fn sessions_of_a_pod_that_stops_go_on_without_a_handshake() {
    let sessions = number("SLUICE_TEST_DRAIN_SESSIONS", 2000);
    let (world, pods) = pods(2);
    let mut command = load("drain", &pods);
    command.args(["--admin", &pods[0].admin().to_string(), "--pid", &pods[0].id().to_string()]);
    let interval = format!("{}s", number("SLUICE_TEST_DRAIN_INTERVAL", 10));
    command.args(["--sessions", &sessions.to_string(), "--interval", &interval]);
    let (_, report) = Load::start(&world, &command).report();
    assert_eq!(report["handshakes_begun_during_all_of_it"], 0, "{report:#}");
    assert_eq!(report["connected_at_the_end"], sessions, "{report:#}");
}
