//! Many devices at once, each with a schedule of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};
use sluice_sim::{Config, Connection, Happening, Target};
use sluice_store::{KeyLookup, NewDevice, NewKey, Store};
use sluice_types::{DeviceId, Psk};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Load;
use crate::cpu::{self, Cpu};
use crate::report::Latencies;

/// How long after the last intended record its acknowledgement is still waited for.
const GRACE: Duration = Duration::from_secs(5);

/// A device of the swarm.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: DeviceId,
    pub(crate) psk: Psk,
}

/// Ids and keys of a seed; the first byte keeps the swarms of both transports apart.
pub(crate) fn members(first: u8, load: &Load) -> Result<Vec<Member>> {
    let mut random = ChaCha12Rng::seed_from_u64(load.seed);
    (0..load.devices)
        .map(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            let psk = Psk::new(&random.random::<[u8; 32]>())?;
            Ok(Member { id: DeviceId::from_bytes([0x02, first, a, b, c, d]), psk })
        })
        .collect()
}

/// Registrations under way at once.
const AT_ONCE: usize = 64;

/// Registers those that are not there yet.
pub(crate) async fn register(store: &Store, members: &[Member]) -> Result<()> {
    let mut running = JoinSet::new();
    for member in members {
        if running.len() == AT_ONCE
            && let Some(registered) = running.join_next().await
        {
            registered??;
        }
        let (store, member) = (store.clone(), member.clone());
        running.spawn(async move {
            if matches!(store.handshake_keys(member.id).await?, KeyLookup::Unknown) {
                let key = NewKey::Individual(member.psk);
                store.create_device(NewDevice::raw(member.id, key)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(registered) = running.join_next().await {
        registered??;
    }
    Ok(())
}

pub(crate) async fn against(config: &Path, url: &str, load: &Load) -> Result<Value> {
    let (scheme, host) = url.split_once("://").context("write tcp://HOST:PORT or udp://HOST:PORT")?;
    let address = tokio::net::lookup_host(host).await?.next().context("the host has no address")?;
    let target = match scheme {
        "tcp" => Target::Tcp(address),
        "udp" => Target::Udp(address),
        _ => bail!("`{scheme}` is no transport: write tcp://HOST:PORT or udp://HOST:PORT"),
    };
    let sources = sluice_svc::config::Sources::from_process(Some(config))?;
    let config = sluice_svc::config::load::<sluice_edge::Config>(&sources)?.config;
    let store = Store::open(&config.store).await?;
    let members = members(u8::from(scheme == "udp"), load)?;
    register(&store, &members).await?;
    Ok(run(target, members, load).await.report())
}

/// What the swarm saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connected: u64,
    pub(crate) refused: u64,
    pub(crate) done: u64,
    pub(crate) given_up: u64,
    pub(crate) lost_sessions: u64,
    /// Records whose intended time passed while the one before was under way.
    pub(crate) skipped: u64,
    pub(crate) handshakes: Latencies,
    pub(crate) latencies: Latencies,
    pub(crate) lag: Latencies,
    pub(crate) sending: Duration,
    /// When the first device began to send.
    pub(crate) started: Option<Started>,
}

/// The end of all handshakes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    pub(crate) at: std::time::Instant,
    pub(crate) cpu: Cpu,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.connected += other.connected;
        self.refused += other.refused;
        self.done += other.done;
        self.given_up += other.given_up;
        self.lost_sessions += other.lost_sessions;
        self.skipped += other.skipped;
        self.handshakes.add(&other.handshakes);
        self.latencies.add(&other.latencies);
        self.lag.add(&other.lag);
        self.sending = self.sending.max(other.sending);
        self.started = self.started.or(other.started);
    }

    pub(crate) fn report(&self) -> Value {
        json!({
            "connected": self.connected,
            "refused": self.refused,
            "handshake": self.handshakes.report(),
            "records": {
                "done": self.done,
                "given_up": self.given_up,
                "skipped": self.skipped,
                "per_second": per_second(self.done, self.sending),
                "latency_from_intended_time": self.latencies.report(),
            },
            "lost_sessions": self.lost_sessions,
            "generator_lag": self.lag.report(),
        })
    }
}

pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    let rate = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64().max(1e-9);
    rate.round()
}

/// Connects all, waits until each is in or refused, then lets them send for the load's duration.
pub(crate) async fn run(target: Target, members: Vec<Member>, load: &Load) -> Tally {
    let together = Arc::new(Barrier::new(members.len()));
    let mut random = ChaCha12Rng::seed_from_u64(load.seed ^ 0x5eed);
    let mut devices = JoinSet::new();
    let start = Instant::now();
    for (number, member) in members.into_iter().enumerate() {
        let number = f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let wait = if load.connect_rate > 0.0 { number / load.connect_rate } else { 0.0 };
        let phase: f64 = random.random();
        let device = device(
            target,
            member,
            load.clone(),
            start + Duration::from_secs_f64(wait),
            phase,
            Arc::clone(&together),
        );
        devices.spawn(device);
    }
    let mut total = Tally::default();
    while let Some(tally) = devices.join_next().await {
        match tally {
            Ok(tally) => total.add(&tally),
            Err(error) => eprintln!("sluice-loadtest: a device failed: {error}"),
        }
    }
    total
}

async fn device(
    target: Target,
    member: Member,
    load: Load,
    connect_at: Instant,
    phase: f64,
    together: Arc<Barrier>,
) -> Tally {
    let mut tally = Tally::default();
    sleep_until(connect_at).await;
    let mut connection = connect(target, &member, connect_at, &mut tally).await;
    // One of all looks at the clock.
    if together.wait().await.is_leader() {
        let cpu = cpu::of_the_edge().unwrap_or_default();
        tally.started = Some(Started { at: Instant::now().into_std(), cpu });
    }
    let Some(connection) = &mut connection else { return tally };
    let start = Instant::now();
    let payload = vec![b'x'; usize::from(load.size)];
    let end = start + load.duration;
    let interval = (load.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / load.rate));
    let mut intended = interval.map_or(start, |interval| start + interval.mul_f64(phase));
    while intended < end {
        // A device still answers while it waits for its next turn.
        while let Ok(happening) = timeout_at(intended, connection.next()).await {
            if let Happening::Closed(_) = happening {
                tally.lost_sessions += 1;
                return tally;
            }
        }
        tally.lag.record(Instant::now().saturating_duration_since(intended));
        if connection.send(&payload).is_err() {
            tally.lost_sessions += 1;
            return tally;
        }
        match outcome(connection, end + GRACE).await {
            Some(true) => {
                tally.done += 1;
                tally.latencies.record(Instant::now().saturating_duration_since(intended));
            }
            Some(false) => tally.given_up += 1,
            None => {
                tally.lost_sessions += 1;
                return tally;
            }
        }
        match interval {
            None => intended = Instant::now(),
            Some(interval) => {
                intended += interval;
                while intended + interval < Instant::now() && intended < end {
                    intended += interval;
                    tally.skipped += 1;
                }
            }
        }
    }
    tally.sending = start.elapsed();
    connection.bye();
    let goodbye = Instant::now() + GRACE;
    while let Ok(happening) = timeout_at(goodbye, connection.next()).await {
        if let Happening::Closed(_) = happening {
            break;
        }
    }
    tally
}

async fn connect(
    target: Target,
    member: &Member,
    intended: Instant,
    tally: &mut Tally,
) -> Option<Connection> {
    let opened =
        Connection::open(target, *member.id.as_bytes(), member.psk.expose(), Config::default()).await;
    let Ok(mut connection) = opened else {
        tally.refused += 1;
        return None;
    };
    loop {
        match connection.next().await {
            Happening::Connected => {
                tally.connected += 1;
                tally.handshakes.record(intended.elapsed());
                return Some(connection);
            }
            Happening::Closed(_) => {
                tally.refused += 1;
                return None;
            }
            _ => {}
        }
    }
}

/// Whether the record under way came through; `None` when the session ended or the grace is over.
async fn outcome(connection: &mut Connection, until: Instant) -> Option<bool> {
    loop {
        match timeout_at(until, connection.next()).await.ok()? {
            Happening::Done => return Some(true),
            Happening::GivenUp => return Some(false),
            Happening::Closed(_) => return None,
            _ => {}
        }
    }
}
