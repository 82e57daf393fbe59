//! What slots do on Kafka, by guarantee, number of slots and group interval:
//! `cargo run --release -p sluice-bus --features backends --example slot_figures -- [SECONDS] [NODES] [ROUNDS] [SLOTS,..] [MILLISECONDS,..] [RECORDS]`
//!
//! All slots are in this process, as those of all pods together would be. Both guarantees alternate in each round; what is printed at the end are
//! medians over the rounds. Three runs each. Idle: nothing is sent. Paced: RECORDS a second (200), each a group of its own, over all slots;
//! from a record's submission until it is back. Full: two groups of 100 records under way in each slot. Requests are all that the brokers
//! served, each other's included. Brokers, writers and this program share the machine. Nothing is asserted.

mod cost;
mod slots;

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_bus::{ApplyOptions, BusConfig, Guarantee, apply};
use sluice_test_env::{Kafka, KafkaOptions, unique};

use crate::cost::Cost;
use crate::slots::Slots;

/// What one run of one guarantee gave.
#[derive(Debug, Clone, Default)]
struct Figures {
    adopted: f64,
    threads: f64,
    idle_cores: f64,
    idle_broker_cores: f64,
    idle_requests: f64,
    paced_p50: f64,
    paced_p99: f64,
    paced_commits: f64,
    paced_cores: f64,
    paced_broker_cores: f64,
    /// For each record.
    paced_requests: f64,
    full_rate: f64,
    full_broker_cores: f64,
    /// For a hundred records.
    full_requests: f64,
}

impl Figures {
    fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            let mut all: Vec<_> = runs.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            let middle = all.len() / 2;
            if all.len() % 2 == 1 { all[middle] } else { f64::midpoint(all[middle - 1], all[middle]) }
        };
        Self {
            adopted: of(|run| run.adopted),
            threads: of(|run| run.threads),
            idle_cores: of(|run| run.idle_cores),
            idle_broker_cores: of(|run| run.idle_broker_cores),
            idle_requests: of(|run| run.idle_requests),
            paced_p50: of(|run| run.paced_p50),
            paced_p99: of(|run| run.paced_p99),
            paced_commits: of(|run| run.paced_commits),
            paced_cores: of(|run| run.paced_cores),
            paced_broker_cores: of(|run| run.paced_broker_cores),
            paced_requests: of(|run| run.paced_requests),
            full_rate: of(|run| run.full_rate),
            full_broker_cores: of(|run| run.full_broker_cores),
            full_requests: of(|run| run.full_requests),
        }
    }

    fn row(&self) -> String {
        format!(
            "{:.1} | {:.0} | {:.3} | {:.2} | {:.0} | {:.1} | {:.1} | {:.0} | {:.2} | {:.2} | {:.1} | {:.0} | {:.2} | {:.1}",
            self.adopted,
            self.threads,
            self.idle_cores,
            self.idle_broker_cores,
            self.idle_requests,
            self.paced_p50,
            self.paced_p99,
            self.paced_commits,
            self.paced_cores,
            self.paced_broker_cores,
            self.paced_requests,
            self.full_rate,
            self.full_broker_cores,
            self.full_requests,
        )
    }
}

/// What is measured with.
#[derive(Debug, Clone, Copy)]
struct Setting {
    slots: u16,
    interval: Duration,
    /// Of each of the three runs.
    run: Duration,
    /// Records a second of the paced run.
    pace: u32,
}

fn requests(kafka: &Kafka) -> f64 {
    kafka.requests().expect("it was started so").values().sum()
}

fn measure(kafka: &Kafka, guarantee: Guarantee, setting: Setting) -> Figures {
    let Setting { slots, interval, run, pace } = setting;
    let config = BusConfig {
        brokers: kafka.bootstrap().split(',').map(str::to_owned).collect(),
        topic_prefix: unique("figures"),
        slots,
        guarantee: Some(guarantee),
        group_interval: interval,
        ..BusConfig::default()
    };
    let copies = i32::try_from(kafka.nodes()).expect("1 or 3");
    let options = ApplyOptions { partitions: 12, replication_factor: copies, exact_partitions: true };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(apply(&config, options)).expect("topics");
    let start = slots::now();
    let mut all = Slots::adopt(&config);
    let adopted = (slots::now() - start).as_secs_f64();

    // Asking for counts takes some seconds, in which idle writers ask brokers for little.
    let (served, cost) = (requests(kafka), Cost::now(kafka));
    std::thread::sleep(run);
    let idle = Cost::now(kafka).since(&cost);
    let served_idle = requests(kafka);
    let per_idle_second = (served_idle - served) / (slots::now() - cost.at()).as_secs_f64();
    let (cost, before) = (Cost::now(kafka), all.commits());
    let took = all.paced(run, pace);
    let paced = Cost::now(kafka).since(&cost);
    let commits = all.commits() - before;
    let served_paced = requests(kafka);
    let over = (slots::now() - cost.at()).as_secs_f64();
    let paced_requests = (served_paced - served_idle - per_idle_second * over) / took.records;
    let cost = Cost::now(kafka);
    let full_rate = all.full(run);
    let full = Cost::now(kafka).since(&cost);
    let over = (slots::now() - cost.at()).as_secs_f64();
    let full_requests = requests(kafka) - served_paced - per_idle_second * over;
    Figures {
        adopted,
        threads: cost::threads(),
        idle_cores: idle.own,
        idle_broker_cores: idle.brokers,
        idle_requests: per_idle_second,
        paced_p50: took.p50.as_secs_f64() * 1000.0,
        paced_p99: took.p99.as_secs_f64() * 1000.0,
        paced_commits: commits / paced.seconds,
        paced_cores: paced.own,
        paced_broker_cores: paced.brokers,
        paced_requests,
        full_rate,
        full_broker_cores: full.brokers,
        full_requests: 100.0 * full_requests / (full_rate * full.seconds),
    }
}

fn list<T: std::str::FromStr>(text: Option<String>, otherwise: Vec<T>) -> Vec<T> {
    text.map_or(otherwise, |text| text.split(',').filter_map(|one| one.parse().ok()).collect())
}

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let nodes = args.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let rounds: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let (slots, intervals) = (list(args.next(), vec![16, 64, 256]), list(args.next(), vec![1, 3, 5, 10]));
    let pace = args.next().and_then(|text| text.parse().ok()).unwrap_or(200);
    let options = KafkaOptions { nodes, heap_mib: 1024, measured: true, ..KafkaOptions::default() };
    let kafka = Kafka::start(options).expect("a Kafka");
    let guarantees = [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce];
    println!("{nodes} nodes, {rounds} rounds of {seconds} s; medians; load average at the end of each line");
    println!(
        "guarantee | slots | interval ms | all adopted s | threads | idle cores | idle broker cores | idle requests/s \
         | paced p50 ms | p99 ms | commits/s | cores | broker cores | requests/record | full records/s | broker cores \
         | requests/100 records | load"
    );
    for &slots in &slots {
        for &interval in &intervals {
            let mut runs = BTreeMap::<usize, Vec<Figures>>::new();
            for _ in 0..rounds {
                for (which, guarantee) in guarantees.into_iter().enumerate() {
                    let (run, interval) = (Duration::from_secs(seconds), Duration::from_millis(interval));
                    let setting = Setting { slots, interval, run, pace };
                    runs.entry(which).or_default().push(measure(&kafka, guarantee, setting));
                }
            }
            let medians: Vec<_> = runs.values().map(|runs| Figures::median(runs)).collect();
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let load = load.split(' ').next().unwrap_or_default();
            for (guarantee, figures) in guarantees.into_iter().zip(&medians) {
                println!("{guarantee:?} | {slots} | {interval} | {} | {load}", figures.row());
            }
            println!(
                "  exactly_once / at_least_once, full: {:.2}",
                medians[1].full_rate / medians[0].full_rate
            );
        }
    }
}
