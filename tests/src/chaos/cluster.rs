//! Several edges as one, and what can be done to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use sluice_bus::{TailedRecord, Topic};
use sluice_store::RedisConfig;
use sluice_test_env::{Kafka, Redis};

use crate::balancer::Balancer;
use crate::clock::wait_for;
use crate::edge::{Edge, EdgeOptions};
use crate::line::Condition;
use crate::world::World;

use super::wiring::{Lines, Reaches, Wiring};

/// How long slots may need to come to rest, on a busy machine.
const REST_LIMIT: Duration = Duration::from_secs(60);

const REST: Duration = Duration::from_secs(2);

/// How a cluster begins.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Pods at the start.
    pub pods: usize,
    /// Slots for the sessions over UDP.
    pub slots: u16,
    /// Copies of each topic: as many as there are brokers, or fewer.
    pub copies: i32,
    /// Of the balancer's choices.
    pub seed: u64,
    /// Settings of each pod that differ.
    pub edge: EdgeOptions,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { pods: 2, slots: 12, copies: 1, seed: 1, edge: EdgeOptions::default() }
    }
}

/// Pods of one deployment behind a balancer.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: nothing is sent to pods that are gone.
    balancer: Balancer,
    pods: Vec<Pod>,
    world: World,
    options: ClusterOptions,
    wiring: Option<Wiring>,
}

type Adopted = BTreeMap<u16, u32>;

/// A slot that a pod adopted, as it logged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Adoption {
    /// Which.
    pub slot: u16,
    /// One more with each adoption.
    pub generation: u32,
    /// Who.
    pub pod: usize,
    /// Sessions in it.
    pub sessions: u32,
}

#[derive(Debug)]
struct Pod {
    edge: Edge,
    lines: Option<Lines>,
    /// Whether it is there and goes on.
    runs: bool,
    /// What it had adopted, if it is gone for good: a slot, and in which generation.
    ended: Option<Adopted>,
    /// Lines in its log at the last fault.
    logged: usize,
}

impl Pod {
    /// The slots it adopted so far, each with the last generation.
    fn adopted(&self) -> Result<Adopted> {
        if let Some(adopted) = &self.ended {
            return Ok(adopted.clone());
        }
        let mut adopted = Adopted::new();
        for Adoption { slot, generation, .. } in self.adoptions(0)? {
            let known = adopted.entry(slot).or_insert(generation);
            *known = (*known).max(generation);
        }
        Ok(adopted)
    }

    fn adoptions(&self, pod: usize) -> Result<Vec<Adoption>> {
        let read = |line: &str| {
            let slot = u16::try_from(field(line, "slot")?).ok()?;
            let (generation, sessions) = (field(line, "generation")?, field(line, "sessions")?);
            Some(Adoption { slot, generation, pod, sessions })
        };
        let log = self.edge.log()?;
        let lines = log.lines().filter(|line| line.contains("slot adopted"));
        lines.map(|line| read(line).context("a line of another form")).collect()
    }
}

impl Cluster {
    /// Starts the pods on the shared Redis and Kafka, and waits until the slots have come to rest.
    ///
    /// # Errors
    /// A pod does not start, or the slots do not find their owners.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        Self::on(&Redis::shared()?.url(), &Kafka::shared()?.bootstrap(), options)
    }

    /// The same on these servers.
    ///
    /// # Errors
    /// A pod does not start, or the slots do not find their owners.
    pub fn on(redis_url: &str, kafka: &str, options: ClusterOptions) -> Result<Self> {
        let world = World::with_slots(redis_url, kafka, options.slots, options.copies)?;
        Self::begin(world, options, None)
    }

    /// The same with whatever servers of Redis.
    ///
    /// # Errors
    /// A pod does not start, or the slots do not find their owners.
    pub fn on_redis(redis: RedisConfig, kafka: &str, options: ClusterOptions) -> Result<Self> {
        let world = World::with_redis(redis, kafka, options.slots, options.copies)?;
        Self::begin(world, options, None)
    }

    /// Pods that reach servers and each other over lines of their own. The test itself reads and writes past them.
    ///
    /// # Errors
    /// A pod does not start, or the slots do not find their owners.
    pub fn wired(redis: &Redis, kafka: &str, wiring: Wiring, options: ClusterOptions) -> Result<Self> {
        let world = World::with_slots(&redis.url(), kafka, options.slots, options.copies)?;
        Self::begin(world, options, Some(wiring))
    }

    fn begin(world: World, options: ClusterOptions, wiring: Option<Wiring>) -> Result<Self> {
        let balancer = Balancer::start(&[], options.seed)?;
        let mut cluster = Self { balancer, pods: Vec::new(), world, options, wiring };
        for _ in 0..cluster.options.pods {
            cluster.add()?;
        }
        cluster.wait_at_rest()?;
        Ok(cluster)
    }

    /// Starts another pod, which the balancer finds healthy once it is ready. Returns its number.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn add(&mut self) -> Result<usize> {
        let options = self
            .options
            .edge
            .clone()
            .with("edge.cluster.enabled", true)
            .with("edge.cluster.listen", "127.0.0.1:0")
            .with("edge.cluster.advertise", "127.0.0.1:0")
            .with("bus.guarantee", "exactly_once");
        let (options, lines) = match &self.wiring {
            Some(wiring) => {
                let (options, lines) = wiring.pod(self.pods.len(), options)?;
                (options, Some(lines))
            }
            None => (options, None),
        };
        let edge = Edge::start(&self.world, &options)?;
        self.pods.push(Pod { edge, lines, runs: true, ended: None, logged: 0 });
        self.tell_balancer();
        Ok(self.pods.len() - 1)
    }

    /// Starts this program in the place of a pod that has ended: with its file of settings, at its address. Returns the number of the new
    /// pod, which the balancer finds healthy once it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn replace(&mut self, number: usize, program: &Path) -> Result<usize> {
        let comes = self.pods.len();
        let edge =
            self.pods[number].edge.succeeded_by(program, &self.world.file(&format!("pod-{comes}.log")))?;
        self.pods.push(Pod { edge, lines: None, runs: true, ended: None, logged: 0 });
        self.tell_balancer();
        Ok(comes)
    }

    /// Hurts, or mends, what these pods reach. [`Balancer::recoveries`] counts from here; all pods stay healthy for the balancer.
    ///
    /// # Errors
    /// A pod has no such line.
    pub fn set_lines(&mut self, pods: &[usize], to: Reaches, condition: Condition) -> Result<()> {
        self.note(&format!("{to:?} becomes {condition:?} for pods {pods:?}"));
        for &pod in pods {
            let lines = self.pods[pod].lines.as_ref();
            let line = lines.and_then(|lines| lines.to(to));
            line.with_context(|| format!("pod {pod} has no line to {to:?}"))?.set(condition);
        }
        self.balancer.fault(&[]);
        Ok(())
    }

    /// Hurts, or mends, the ways of all pods to each other.
    ///
    /// # Errors
    /// A pod has no line.
    pub fn set_peer_lines(&mut self, condition: Condition) -> Result<()> {
        self.note(&format!("pods become {condition:?} for each other"));
        for pod in &self.pods {
            pod.lines.as_ref().context("a pod without lines")?.peers().set_all(condition);
        }
        self.balancer.fault(&[]);
        Ok(())
    }

    /// Hurts, or mends, the way that `from` dials to `to`: what goes over it both ways, but not what goes over the connection that `to` dials
    /// to `from`.
    ///
    /// # Errors
    /// A pod has no line.
    pub fn set_peer_line(&mut self, from: usize, to: usize, condition: Condition) -> Result<()> {
        self.note(&format!("the way from pod {from} to pod {to} becomes {condition:?}"));
        self.pods[to].lines.as_ref().context("a pod without lines")?.peers().set(from, condition)?;
        self.balancer.fault(&[]);
        Ok(())
    }

    /// Hurts, or mends, the ways of all others to one pod. Its own ways to them stay as they are.
    ///
    /// # Errors
    /// It has no line.
    pub fn set_peer_lines_to(&mut self, pod: usize, condition: Condition) -> Result<()> {
        self.note(&format!("pod {pod} becomes {condition:?} for the others"));
        self.pods[pod].lines.as_ref().context("a pod without lines")?.peers().set_all(condition);
        self.balancer.fault(&[]);
        Ok(())
    }

    /// Numbers of the pods that have dialed this one.
    ///
    /// # Errors
    /// It has no line, or somebody dialed it who is no pod.
    pub fn dialers(&self, pod: usize) -> Result<Vec<usize>> {
        let dialers = self.pods[pod].lines.as_ref().context("a pod without lines")?.peers().dialers();
        dialers.into_iter().map(|dialer| dialer.context("a dialer that is no pod")).collect()
    }

    /// The corner of Redis and Kafka that the pods share.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// What stands in front of the pods.
    #[must_use]
    pub const fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// A pod, by its number.
    #[must_use]
    pub fn pod(&self, number: usize) -> &Edge {
        &self.pods[number].edge
    }

    /// Numbers of the pods that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.pods.len()).filter(|&number| self.pods[number].runs).collect()
    }

    /// SIGKILL of the worker alone: the pod's parent keeps its UDP sockets open and starts another. The balancer hears nothing of it, until
    /// [`Cluster::set_healthy`].
    ///
    /// # Errors
    /// There is no worker.
    pub fn kill_worker(&mut self, number: usize) -> Result<()> {
        self.mark(number);
        self.pods[number].edge.kill_worker()
    }

    /// The balancer hears whether a pod is healthy.
    pub fn set_healthy(&mut self, number: usize, healthy: bool) {
        self.pods[number].runs = healthy;
        self.tell_balancer();
    }

    /// Whether a pod says that it is ready, and what it says of it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn is_ready(&self, number: usize) -> Result<(bool, String)> {
        let (status, text) = self.pod(number).ask("GET", "/readyz?verbose", b"")?;
        Ok((status == 200, text))
    }

    /// Waits until a pod says that it is ready, or that it is not, and tells the balancer, as its probe would.
    ///
    /// # Errors
    /// It does not say so within `limit`.
    pub fn follow_readiness(&mut self, number: usize, ready: bool, limit: Duration) -> Result<()> {
        let what = format!("pod {number} to be {}", if ready { "ready" } else { "not ready" });
        wait_for(&what, limit, || {
            let (is, text) = self.is_ready(number).map_err(|error| format!("{error:#}"))?;
            if is == ready { Ok(()) } else { Err(text) }
        })?;
        self.note(&format!(
            "the balancer hears that pod {number} is {}",
            if ready { "ready" } else { "not ready" }
        ));
        self.set_healthy(number, ready);
        Ok(())
    }

    /// SIGKILL of all of a pod; the balancer hears of it at once.
    pub fn kill(&mut self, number: usize) {
        self.pods[number].edge.kill();
        self.fault(number);
        self.end(number);
    }

    /// SIGSTOP, as a node that hangs; the balancer hears of it at once.
    ///
    /// # Errors
    /// The process is gone.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.pods[number].edge.signal_all(Signal::SIGSTOP)?;
        self.fault(number);
        Ok(())
    }

    /// SIGCONT; for the balancer it is healthy again.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resume(&mut self, number: usize) -> Result<()> {
        self.pods[number].edge.signal_all(Signal::SIGCONT)?;
        self.pods[number].runs = true;
        self.tell_balancer();
        Ok(())
    }

    /// SIGTERM. New flows go elsewhere at once; the pod's own go on to it until it has ended, or with `move_flows` elsewhere, too.
    ///
    /// # Errors
    /// It has not ended within `limit`.
    pub fn drain(&mut self, number: usize, move_flows: bool, limit: Duration) -> Result<ExitStatus> {
        self.mark(number);
        let address = self.pods[number].edge.address();
        let kept: &[_] = if move_flows { &[] } else { &[address] };
        self.balancer.set_draining(&self.healthy(), kept);
        let status = self.pods[number].edge.terminate(limit)?;
        self.tell_balancer();
        self.end(number);
        Ok(status)
    }

    /// A pod is gone for good: its log need not be read over and over.
    fn end(&mut self, number: usize) {
        let pod = &mut self.pods[number];
        // If the log cannot be read now, it is asked again, and who asks is told.
        pod.ended = pod.adopted().ok();
    }

    fn fault(&mut self, number: usize) {
        self.mark(number);
        self.tell_balancer();
    }

    /// Something happens to a pod now.
    fn mark(&mut self, number: usize) {
        self.note(&format!("something happens to pod {number}"));
        self.pods[number].runs = false;
        self.balancer.fault(&[self.pods[number].edge.address()]);
    }

    fn note(&mut self, what: &str) {
        for pod in self.pods.iter_mut().filter(|pod| pod.ended.is_none()) {
            // Only what is printed depends on it.
            pod.logged = pod.edge.log().map_or(0, |log| log.lines().count());
        }
        eprintln!("{} {what}", crate::clock::time_of_day());
    }

    fn healthy(&self) -> Vec<SocketAddr> {
        self.pods.iter().filter(|pod| pod.runs).map(|pod| pod.edge.address()).collect()
    }

    fn tell_balancer(&self) {
        self.balancer.set_backends(&self.healthy());
    }

    /// The pod that adopted each slot last, by what the pods that are there say in their logs.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn owners(&self) -> Result<BTreeMap<u16, usize>> {
        let mut owners = BTreeMap::<u16, (u32, usize)>::new();
        for (number, pod) in self.pods.iter().enumerate() {
            for (slot, generation) in pod.adopted()? {
                let known = owners.entry(slot).or_insert((generation, number));
                *known = (*known).max((generation, number));
            }
        }
        Ok(owners.into_iter().map(|(slot, (_, number))| (slot, number)).collect())
    }

    /// How many slots a pod has adopted so far.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn adoptions(&self, number: usize) -> Result<usize> {
        Ok(self.pods[number].adoptions(number)?.len())
    }

    /// All adoptions so far: slot by slot, in the order of generations.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn all_adoptions(&self) -> Result<Vec<Adoption>> {
        let mut all = Vec::new();
        for (number, pod) in self.pods.iter().enumerate() {
            all.extend(pod.adoptions(number)?);
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Prints what the pods logged of each other and of their slots since the balancer was told of the last fault.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn print_moves(&self) -> Result<()> {
        for (number, pod) in self.pods.iter().enumerate() {
            for line in pod.edge.log()?.lines().skip(pod.logged) {
                if ["slot", "peer", "drain", "ready"].iter().any(|word| line.contains(word)) {
                    eprintln!("pod {number}: {line}");
                }
            }
        }
        Ok(())
    }

    /// Copies everything that tells what happened to `folder`: settings and logs of the pods, and all that is committed in the topics of
    /// telemetry and of the ledger, a line a record.
    ///
    /// # Errors
    /// A file cannot be written, or Kafka is not reached.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for entry in fs::read_dir(self.world.folder()).context("no folder of the pods")? {
            let file = entry.context("no folder of the pods")?.path();
            let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            if [".log", ".toml"].iter().any(|end| name.ends_with(end)) {
                fs::copy(&file, folder.join(name)).context("cannot copy a pod's file")?;
            }
        }
        for topic in [Topic::Telemetry, Topic::Ledger] {
            let mut text = String::new();
            for record in self.world.committed(topic)? {
                let TailedRecord { partition, offset, timestamp_ms, .. } = &record;
                let (key, value) = (String::from_utf8_lossy(&record.key), hex::encode(&record.payload));
                let headers = &record.headers;
                let id = headers
                    .iter()
                    .find(|(name, _)| name == "ce_id")
                    .map(|(_, id)| String::from_utf8_lossy(id));
                writeln!(
                    text,
                    "{partition}:{offset} {timestamp_ms:?} {key} {} {value}",
                    id.unwrap_or_default()
                )?;
            }
            let file = folder.join(format!("{}.txt", topic.short_name()));
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// The owner of a session, by the slot in its name (32 hex digits).
    ///
    /// # Errors
    /// That is no name of a session in a slot, or a log cannot be read.
    pub fn owner_of(&self, session: &str) -> Result<usize> {
        let slot = slot_of(session)?;
        self.owners()?.get(&slot).copied().with_context(|| format!("nobody owns slot {slot}"))
    }

    /// Waits until every slot has an owner that runs, and two seconds passed without a change: a pod that starts waits for one before it
    /// takes what is its own.
    ///
    /// # Errors
    /// That does not come.
    pub fn wait_at_rest(&self) -> Result<BTreeMap<u16, usize>> {
        let mut last = None;
        let owners = wait_for("the slots to be at rest", REST_LIMIT, || {
            let owners = self.owners().map_err(|error| error.to_string())?;
            let all = owners.len() == usize::from(self.options.slots);
            let live = owners.values().all(|&number| self.pods[number].runs);
            let now = crate::clock::now();
            let (seen, since) = last.get_or_insert_with(|| (owners.clone(), now));
            if *seen != owners {
                (*seen, *since) = (owners.clone(), now);
            }
            let rests = now.saturating_duration_since(*since) >= REST;
            if all && live && rests { Ok(owners) } else { Err(format!("{owners:?}")) }
        })?;
        eprintln!("slots: {owners:?}");
        Ok(owners)
    }
}

/// `name=NUMBER` in a line of a log, or `"name":NUMBER`.
fn field(line: &str, name: &str) -> Option<u32> {
    let plain = [format!(" {name}="), format!("\"{name}\":")];
    let (_, rest) = plain.iter().find_map(|start| line.split_once(start.as_str()))?;
    let digits = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// The slot of a session, by its name (32 hex digits).
///
/// # Errors
/// That is no name of a session.
pub fn slot_of(session: &str) -> Result<u16> {
    let Some(prefix) = session.get(..16) else { bail!("{session} is no session") };
    let prefix = u64::from_str_radix(prefix, 16).with_context(|| format!("{session} is no session"))?;
    // 4 bits name the key, 10 the slot.
    Ok(u16::try_from(prefix >> 50 & 0x3ff).expect("ten bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_names_are_read() {
        let line = "INFO sluice_edge: slot adopted slot=7 generation=12 sessions=0 read=3";
        assert_eq!(
            (field(line, "slot"), field(line, "generation"), field(line, "x")),
            (Some(7), Some(12), None)
        );
        assert_eq!(field("{\"slot\":7,\"generation\":12}", "generation"), Some(12));
        // Key 1, slot 3.
        assert_eq!(slot_of("100c0000000000000000000000000000").unwrap(), 3);
        assert!(slot_of("10").is_err());
    }
}
