//! `sluice dev`: edge, store and broker in one process.

mod refusals;
mod sample;
mod simulate;
mod socket;
mod view;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use sluice_bus::{ApplyOptions, BusConfig, EmbeddedBroker};
use sluice_edge::config::{EdgeConfig, Listen};
use sluice_edge::{Deps, Edge, Ending, StartError};
use sluice_store::{KekRing, LocalConfig, OpenError, Store, StoreConfig};
use sluice_svc::admin::{Admin, AdminConfig, AdminError};
use sluice_svc::readiness::Readiness;
use sluice_svc::shutdown::Shutdown;
use sluice_svc::tasks::{OnEnd, Tasks};
use sluice_svc::telemetry::{self, LogConfig, Service, TelemetryConfig};

use crate::args::{DevArgs, Global};
use crate::control::Info;
use crate::folder;

/// Partitions of each topic that `sluice dev` creates.
const PARTITIONS: i32 = 4;

/// How long the first answers of Kafka are waited for.
const WARM_WITHIN: Duration = Duration::from_secs(5);

/// Whoever waits for Kafka for longer than this is told so.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// How long the parts beside the edge may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(global: &Global, args: DevArgs) -> Result<()> {
    if let Some(file) = &global.config {
        bail!(
            "`sluice dev` takes no `--config`: its addresses and its Kafka are flags of its own (`sluice dev --help`), its store lies in \
             `--data-dir`; `sluice-edge --config {}` runs the edge with that file",
            file.display()
        );
    }
    let shutdown = Shutdown::new();
    sluice_svc::shutdown::on_signals(&shutdown).context("signals cannot be heard")?;
    if let Some(file) = &args.ready_file {
        remove_stale(file)?;
    }
    let data_dir = folder::data_dir(global)?;
    folder::prepare(&data_dir)?;
    // Warnings alone: what happens is on standard output.
    let log = LogConfig { filter: "warn".to_owned(), ..LogConfig::default() };
    let service = Service::new("sluice-dev", env!("CARGO_PKG_VERSION"));
    let telemetry = telemetry::init(&service, &TelemetryConfig { log, ..TelemetryConfig::default() })?;

    let readiness = Readiness::new();
    let listening = readiness.latch("listeners");
    let admin_config = AdminConfig { listen: args.admin, ..AdminConfig::default() };
    let admin = Admin::bind(&admin_config)
        .map_err(|error| match error {
            AdminError::Bind(bind) => cannot_listen("admin", bind.address, bind.source),
            other => other.into(),
        })?
        .with(telemetry.clone(), readiness.clone());
    let admin_address = admin.local_addr();
    let store = open_store(&data_dir).await?;
    let broker = Broker::open(args.kafka.as_deref()).await?;
    let deps =
        Deps { store: store.clone(), bus: broker.config.clone(), meter: telemetry.meter("sluice.edge") };
    let mut edge = Edge::start(edge_config(&args), &deps).map_err(|error| match error {
        StartError::Bind(bind) => cannot_listen(bind.transport, bind.address, bind.source),
        other => other.into(),
    })?;
    let addresses = edge.handle().addresses();
    let tcp = addresses.tcp.context("the edge does not listen on TCP")?;
    let udp = addresses.udp.context("the edge does not listen on UDP")?;
    let info = Info {
        tcp: tcp.to_string(),
        udp: udp.to_string(),
        admin: admin_address.to_string(),
        kafka: broker.config.brokers.join(","),
    };

    // The admin listener outlives the drain, so that probes hear "not ready" until the end.
    let over = Shutdown::new();
    let tasks = Tasks::new(over.clone());
    tasks.accompany("admin", admin.serve());
    let control = socket::Listener::bind(&data_dir)?;
    tasks.spawn("control", OnEnd::Log, control.serve(store.clone(), info.clone(), over.clone()));

    let sample = sample::device(&store).await?;
    view::print_start(&view::Start {
        info: &info,
        embedded: broker.embedded.is_some(),
        sample: &sample,
        dial: crate::device::reachable(udp),
        data_dir: &data_dir,
    });
    let viewer = view::follow(broker.config.clone(), edge.handle(), over.clone()).await;
    let targets = simulate::Targets { tcp: loopback(tcp), udp: loopback(udp) };
    // With the broker here or at hand this takes a moment; without it records wait, as ever.
    let _slow = edge.warm(WARM_WITHIN).await;
    let simulated = simulate::start(&store, targets, args.simulate, args.simulate_interval).await?;
    listening.release();
    if let Some(file) = &args.ready_file {
        folder::write_whole(file, &serde_json::to_string(&info)?)
            .with_context(|| format!("cannot write the ready file {}", file.display()))?;
    }

    let failed = tokio::select! {
        () = shutdown.requested() => false,
        () = edge.failure() => true,
    };
    readiness.drain();
    simulated.stop(END_WITHIN).await;
    let ending = edge.drain().await;
    over.trigger();
    viewer.end(END_WITHIN).await;
    tasks.drain(END_WITHIN).await;
    telemetry.shutdown(END_WITHIN).await;
    drop(broker);
    match ending {
        _ if failed => {
            bail!("a part of the edge ended by itself; the log on standard error says why")
        }
        Ending::Complete => println!("stopped: everything received was committed"),
        Ending::Late { unknown_records } => {
            bail!("stopped before {unknown_records} records were committed; none of them was acknowledged")
        }
    }
    Ok(())
}

fn edge_config(args: &DevArgs) -> EdgeConfig {
    let listen = |address: SocketAddr| {
        let everywhere = args.lan && address.ip().is_loopback();
        let ip = if everywhere { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { address.ip() };
        Listen::On(SocketAddr::new(ip, address.port()))
    };
    EdgeConfig { tcp: listen(args.tcp), udp: listen(args.udp), ..EdgeConfig::default() }
}

/// The settings that the libraries name in their own text are flags here.
fn cannot_listen(flag: &str, address: SocketAddr, why: std::io::Error) -> Error {
    Error::new(why)
        .context(format!("cannot listen on {address}: `--{flag} HOST:PORT` chooses another address"))
}

/// A reader of the file must never meet the addresses of the run before.
fn remove_stale(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("cannot remove the old ready file {}", file.display()))
        }
    }
}

async fn open_store(data_dir: &Path) -> Result<Store> {
    let kek_file = data_dir.join("kek");
    if !kek_file.exists() {
        KekRing::create_file(&kek_file)?;
    }
    let local = LocalConfig { path: data_dir.join("devices.redb") };
    let config = StoreConfig { kek_file, local, ..StoreConfig::default() };
    match Store::open(&config).await {
        Err(OpenError::Locked { .. }) => bail!(
            "another `sluice dev` runs on the data folder {}: use that one, or choose another folder with `--data-dir DIR`",
            data_dir.display()
        ),
        opened => Ok(opened?),
    }
}

/// The brokers in use; the embedded one lives as long as this does.
struct Broker {
    config: BusConfig,
    embedded: Option<EmbeddedBroker>,
}

impl Broker {
    async fn open(kafka: Option<&str>) -> Result<Self> {
        let config = BusConfig::default();
        let Some(brokers) = kafka else {
            let embedded = EmbeddedBroker::start(&config.topic_prefix, PARTITIONS)?;
            return Ok(Self { config: embedded.configure(&config), embedded: Some(embedded) });
        };
        let names = brokers.split(',').map(|broker| broker.trim().to_owned()).collect();
        let config = BusConfig { brokers: names, ..config };
        let options = ApplyOptions { partitions: PARTITIONS, replication_factor: 1, exact_partitions: false };
        apply_aloud(&config, options).await.context("`--kafka HOST:PORT` names the broker")?;
        Ok(Self { config, embedded: None })
    }
}

/// Creates the topics, and says so when Kafka is long in coming.
async fn apply_aloud(config: &BusConfig, options: ApplyOptions) -> Result<()> {
    let applied = sluice_bus::apply(config, options);
    tokio::pin!(applied);
    tokio::select! {
        applied = &mut applied => applied?,
        () = tokio::time::sleep(SAY_AFTER) => {
            eprintln!("sluice: no answer from Kafka at {} yet, waiting for it", config.brokers.join(","));
            applied.await?
        }
    };
    Ok(())
}

/// Where a process on this machine reaches a listener.
fn loopback(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), listen.port()),
        _ => listen,
    }
}

/// The address under which the local network knows this machine: the one its routes would send from. Nothing is sent.
pub(crate) fn lan_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address of the documentation range; connecting a UDP socket only looks up the route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}
