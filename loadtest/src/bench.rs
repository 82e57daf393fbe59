//! An edge, a bare producer and the devices in one run on one Kafka.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use sluice_bus::{ApplyOptions, BusConfig};
use sluice_edge::config::{EdgeConfig, Listen};
use sluice_edge::{Count, Deps, Edge, EdgeHandle};
use sluice_sim::Target;
use sluice_store::{KekRing, Store};
use sluice_svc::telemetry::{Service, Telemetry};

use crate::burst::Burst;
use crate::cpu::{self, Cpu};
use crate::limits::{bare_producer, handshake_seconds};
use crate::swarm::{self, Tally, per_second};
use crate::{Load, report};

/// How long the bare producer runs.
const BARE: Duration = Duration::from_secs(5);
/// Longest wait for the records that stopped devices left in the edge.
const SETTLE: Duration = Duration::from_secs(60);

pub(crate) async fn run(kafka: &str, shards: NonZeroUsize, burst: usize, load: &Load) -> Result<Value> {
    let prefix = format!("sluice-bench-{}", std::process::id());
    let bus =
        BusConfig { brokers: vec![kafka.to_owned()], topic_prefix: prefix.clone(), ..BusConfig::default() };
    let options = ApplyOptions { partitions: 12, replication_factor: 1, exact_partitions: false };
    sluice_bus::apply(&bus, options).await?;
    let (brokers, topic, size) = (kafka.to_owned(), format!("{prefix}.telemetry"), usize::from(load.size));
    let bare = tokio::task::spawn_blocking(move || bare_producer(&brokers, &topic, size, BARE)).await??;
    let handshake = tokio::task::spawn_blocking(handshake_seconds).await?;
    let results = loads(bus, shards, burst, load, bare).await?;
    Ok(json!({
        "conditions": {
            "cores": std::thread::available_parallelism().map_or(0, NonZeroUsize::get),
            "shards": shards,
            "devices_per_transport": load.devices,
            "record_bytes": load.size,
            "note": "devices, edge and bare producer share the machine with whatever else runs on it",
        },
        "bounds": {
            "bare_producer_records_per_second": bare,
            "bare_handshake_ms": handshake * 1000.0,
        },
        "results": results,
    }))
}

/// Starts an edge on this bus and puts each load on it: TCP with everything sealed before, then per transport the swarm as
/// fast as it is acknowledged (or at the given rate), then the swarm at half of what that reached.
async fn loads(
    bus: BusConfig,
    shards: NonZeroUsize,
    burst: usize,
    load: &Load,
    bare: f64,
) -> Result<Map<String, Value>> {
    let store = Store::in_memory(KekRing::generate()?).await?;
    let telemetry = Telemetry::metrics_only(&Service::new("sluice-loadtest", env!("CARGO_PKG_VERSION")))?;
    let local = Listen::On(([127, 0, 0, 1], 0).into());
    let config = EdgeConfig { tcp: local, udp: local, shards: Some(shards), ..EdgeConfig::default() };
    let deps = Deps { store: store.clone(), bus, meter: telemetry.meter("sluice.edge") };
    let edge = Edge::start(config, &deps)?;
    let handle = edge.handle();
    let addresses = handle.addresses();
    let tcp = addresses.tcp.context("the TCP listener was asked for")?;
    let udp = addresses.udp.context("the UDP listener was asked for")?;

    let mut results = Map::new();
    let members = swarm::members(0, load)?;
    swarm::register(&store, &members).await?;
    let measured = measure(&handle, bursts(tcp, members, burst, load.size)).await?;
    results.insert("tcp_sealed_before".to_owned(), measured.report(bare));

    for (number, (name, target)) in (1_u8..).zip([("tcp", Target::Tcp(tcp)), ("udp", Target::Udp(udp))]) {
        let members = swarm::members(number, load)?;
        swarm::register(&store, &members).await?;
        let full = measure(&handle, swarmed(target, members.clone(), load.clone())).await?;
        results.insert(name.to_owned(), full.report(bare));
        let rate = full.rate() / 2.0 / f64::from(load.devices);
        let half = Load { rate, ..load.clone() };
        let measured = measure(&handle, swarmed(target, members, half)).await?;
        results.insert(format!("{name}_at_half_load"), measured.report(bare));
    }
    edge.drain().await;
    Ok(results)
}

/// What was handed over, since when, and what must stay open until it is committed.
struct Sent<T> {
    records: u64,
    since: Instant,
    tally: Option<Tally>,
    cpu: Cpu,
    _open: T,
}

async fn swarmed(target: Target, members: Vec<swarm::Member>, load: Load) -> Result<Sent<()>> {
    let tally = swarm::run(target, members, &load).await;
    let started = tally.started.context("no device got in")?;
    Ok(Sent { records: tally.done, since: started.at, cpu: started.cpu, tally: Some(tally), _open: () })
}

#[expect(clippy::disallowed_methods, reason = "this measures time")]
async fn bursts(
    edge: std::net::SocketAddr,
    members: Vec<swarm::Member>,
    records: usize,
    size: u16,
) -> Result<Sent<Vec<std::net::TcpStream>>> {
    let each = records.div_ceil(members.len().max(1));
    let total = each * members.len();
    tokio::task::spawn_blocking(move || {
        let prepared: Vec<_> = members
            .iter()
            .map(|member| Burst::prepare(edge, member, each, size.into()))
            .collect::<Result<_>>()?;
        let (since, cpu) = (Instant::now(), cpu::of_the_edge()?);
        let threads: Vec<_> =
            prepared.into_iter().map(|burst| std::thread::spawn(move || burst.send())).collect();
        let open = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a device's thread failed")))
            .collect::<Result<_>>()?;
        Ok(Sent { records: total as u64, since, tally: None, cpu, _open: open })
    })
    .await?
}

struct Measured {
    tally: Option<Tally>,
    committed: u64,
    time: Duration,
    cpu: Cpu,
}

impl Measured {
    fn rate(&self) -> f64 {
        per_second(self.committed, self.time)
    }

    fn report(&self, bare: f64) -> Value {
        let per_cpu = |seconds| report::ratio(per_second(self.committed, Duration::from_secs(1)), seconds);
        json!({
            "committed": self.committed,
            "seconds": self.time.as_secs_f64(),
            "committed_per_second": self.rate(),
            "ratio_to_bare_producer": report::ratio(self.rate(), bare),
            "committed_per_second_of_shard_cpu": per_cpu(self.cpu.shards),
            "committed_per_second_of_edge_cpu": per_cpu(self.cpu.shards + self.cpu.writers),
            "devices": self.tally.as_ref().map(Tally::report),
        })
    }
}

/// Waits until what was handed over is committed. TCP devices have no acknowledgement: the end of their sending says little.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
async fn measure<T>(edge: &EdgeHandle, sending: impl Future<Output = Result<Sent<T>>>) -> Result<Measured> {
    let before = edge.count(Count::MessagesCommitted);
    let sent = sending.await?;
    let waiting = Instant::now();
    while edge.count(Count::MessagesCommitted) - before < sent.records && waiting.elapsed() < SETTLE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let time = sent.since.elapsed();
    let committed = edge.count(Count::MessagesCommitted) - before;
    let cpu = cpu::of_the_edge()?.since(sent.cpu);
    Ok(Measured { tally: sent.tally, committed, time, cpu })
}

#[cfg(test)]
mod tests {
    use sluice_bus::EmbeddedBroker;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_load_over_both_transports_reports_what_it_did() {
        let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
        let bus = broker.configure(&BusConfig::default());
        let load = Load {
            devices: 5,
            rate: 20.0,
            size: 128,
            duration: Duration::from_millis(500),
            connect_rate: 100.0,
            seed: 7,
        };
        let results = loads(bus, NonZeroUsize::MIN, 1000, &load, 1000.0).await.expect("a run");
        let results = Value::Object(results);
        assert_eq!(results["tcp_sealed_before"]["committed"], 1000, "{results:#}");
        for name in ["tcp", "tcp_at_half_load", "udp", "udp_at_half_load"] {
            let devices = &results[name]["devices"];
            assert_eq!(devices["connected"], 5, "{name} of {results:#}");
            assert_eq!(devices["refused"], 0, "{name} of {results:#}");
            assert_eq!(devices["lost_sessions"], 0, "{name} of {results:#}");
            assert_eq!(devices["records"]["given_up"], 0, "{name} of {results:#}");
            assert_eq!(results[name]["committed"], devices["records"]["done"], "{name} of {results:#}");
            let latencies = &devices["records"]["latency_from_intended_time"]["count"];
            assert_eq!(*latencies, devices["records"]["done"], "{name} of {results:#}");
        }
        // Five devices, twenty a second, half a second; what a slow machine does not do it reports as skipped.
        let records = &results["udp"]["devices"]["records"];
        let intended =
            ["done", "skipped"].map(|key| records[key].as_u64().expect("a count")).iter().sum::<u64>();
        assert!((45..=55).contains(&intended), "{intended} records intended: {results:#}");
    }
}
