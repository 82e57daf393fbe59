//! Apache Kafka in KRaft mode, one or three combined nodes.

mod counters;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cache::RunDir;
use crate::ports::Port;
use crate::process::{Process, dying_with_us, spawn_from_lasting_thread};
use crate::tools;
use crate::wait::wait_for;

const START_LIMIT: Duration = Duration::from_secs(90);
/// A port is free when claimed and may be taken by a stranger before the server binds it.
const START_TRIES: usize = 3;
/// Any fixed cluster id will do: clusters on loopback never meet.
const CLUSTER_ID: &str = "c2x1aWNlLXRlc3Rz4oCmLg";

/// A further listener of every broker, beside the plain one.
#[derive(Debug, Clone)]
pub struct KafkaListener {
    /// Listener name, such as `SECURE`.
    pub name: String,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// Whether clients are told another port than the one it listens on: [`Kafka::advertised`], where the test puts something in between.
    pub apart: bool,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// 1 or 3 nodes, each broker and controller.
    pub nodes: usize,
    /// Further lines of `server.properties`; they win over ours.
    pub properties: Vec<(String, String)>,
    /// Further listeners.
    pub listeners: Vec<KafkaListener>,
    /// SCRAM-SHA-512 users (name, password) known from the start.
    pub scram_users: Vec<(String, String)>,
    /// Java heap of each node, in MiB.
    pub heap_mib: u32,
    /// For figures: both of Java's compilers, as in production, and counters that [`Kafka::requests`] reads. Starts more slowly.
    pub measured: bool,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            properties: vec![],
            listeners: vec![],
            scram_users: vec![],
            heap_mib: 384,
            measured: false,
        }
    }
}

/// A Kafka cluster of its own for one test. Topics are not created by clients' requests for them; the default number
/// of partitions is 4; replication is as wide as there are nodes (with `min.insync.replicas` 2 on three).
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Node>,
    libs: PathBuf,
    dir: RunDir,
    heap_mib: u32,
}

#[derive(Debug)]
struct Node {
    process: Option<Process>,
    dir: PathBuf,
    broker: Port,
    controller: Port,
    listeners: Vec<Listening>,
    /// Where Java's management answers.
    counters: Option<Port>,
}

#[derive(Debug)]
struct Listening {
    listener: KafkaListener,
    port: Port,
    /// What clients are told instead.
    told: Option<Port>,
}

impl Listening {
    fn claim(listener: &KafkaListener) -> Result<Self> {
        let told = listener.apart.then(Port::claim).transpose()?;
        Ok(Self { listener: listener.clone(), port: Port::claim()?, told })
    }

    fn told(&self) -> u16 {
        self.told.as_ref().unwrap_or(&self.port).number()
    }
}

impl Kafka {
    /// Starts the nodes and waits until each sees all of them.
    ///
    /// # Errors
    /// Java or Kafka is missing (the message says what to run), or the cluster does not come up.
    pub fn start(options: KafkaOptions) -> Result<Self> {
        if !matches!(options.nodes, 1 | 3) {
            bail!("Kafka starts with 1 or 3 nodes, not {}", options.nodes);
        }
        let mut last = None;
        for _ in 0..START_TRIES {
            match Self::try_start(&options) {
                Ok(kafka) => return Ok(kafka),
                Err(error) if format!("{error:#}").contains("Address already in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    fn try_start(options: &KafkaOptions) -> Result<Self> {
        let (libs, dir) = (tools::kafka_libs()?.join("libs"), RunDir::create("kafka")?);
        let mut nodes = Vec::new();
        for id in 1..=options.nodes {
            let node_dir = dir.path().join(format!("node-{id}"));
            fs::create_dir_all(&node_dir).with_context(|| format!("cannot make {}", node_dir.display()))?;
            nodes.push(Node {
                process: None,
                dir: node_dir,
                broker: Port::claim()?,
                controller: Port::claim()?,
                listeners: options.listeners.iter().map(Listening::claim).collect::<Result<_>>()?,
                counters: options.measured.then(Port::claim).transpose()?,
            });
        }
        let voters = (1..).zip(&nodes).map(|(id, n)| format!("{id}@127.0.0.1:{}", n.controller.number()));
        let voters = voters.collect::<Vec<_>>().join(",");
        for (id, node) in (1..).zip(&nodes) {
            let text = properties(id, node, &voters, options);
            fs::write(node.dir.join("server.properties"), text).context("cannot write server.properties")?;
        }
        let mut kafka = Self { nodes, libs, dir, heap_mib: options.heap_mib };
        kafka.format(options)?;
        for index in 0..kafka.nodes.len() {
            kafka.spawn(index)?;
        }
        for index in 0..kafka.nodes.len() {
            kafka.wait_ready(index)?;
        }
        Ok(kafka)
    }

    /// Writes each node's storage, all at once: each is a start of Java.
    fn format(&self, options: &KafkaOptions) -> Result<()> {
        let mut running = Vec::new();
        for node in &self.nodes {
            let mut args = vec!["format".to_owned(), "-t".to_owned(), CLUSTER_ID.to_owned(), "-c".to_owned()];
            args.push(node.dir.join("server.properties").display().to_string());
            for (name, password) in &options.scram_users {
                args.push("--add-scram".to_owned());
                args.push(format!("SCRAM-SHA-512=[name={name},password={password}]"));
            }
            let mut command = dying_with_us(&self.java(64, "kafka.tools.StorageTool", &args)?);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            running.push(spawn_from_lasting_thread(command).context("cannot run Kafka's StorageTool")?);
        }
        for child in running {
            let output = child.wait_with_output().context("cannot wait for Kafka's StorageTool")?;
            if !output.status.success() {
                let (out, err) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                bail!("Kafka's StorageTool: {}\n{out}{err}", output.status);
            }
        }
        Ok(())
    }

    fn java(&self, heap_mib: u32, class: &str, args: &[impl AsRef<str>]) -> Result<Command> {
        self.java_with(&[], heap_mib, class, args)
    }

    /// The last of two options that say the same counts.
    fn java_with(
        &self,
        options: &[String],
        heap_mib: u32,
        class: &str,
        args: &[impl AsRef<str>],
    ) -> Result<Command> {
        let mut command = Command::new(tools::java()?);
        // Short-lived tools and small brokers: the quick compiler and the simplest collector start fastest.
        command.arg(format!("-Xmx{heap_mib}m")).args([
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xshare:auto",
        ]);
        command.args(options).arg("-cp").arg(format!("{}/*", self.libs.display())).arg(class);
        command.args(args.iter().map(AsRef::as_ref)).current_dir(self.dir.path());
        Ok(command)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let config = self.node(index)?.dir.join("server.properties").display().to_string();
        let options = self.node(index)?.counters.as_ref().map(counters::java_options).unwrap_or_default();
        let command = self.java_with(&options, self.heap_mib, "kafka.Kafka", &[config])?;
        let node = &mut self.nodes[index];
        node.process = Some(Process::spawn_command(&command, &node.dir.join("kafka.log"))?);
        Ok(())
    }

    fn wait_ready(&mut self, index: usize) -> Result<()> {
        let expected = self.nodes.iter().filter(|n| n.process.is_some()).count();
        let node = &mut self.nodes[index];
        let port = node.broker.number();
        node.process.as_mut().context("this Kafka node was killed")?.wait_ready(START_LIMIT, || {
            match brokers_seen(port) {
                // More than expected: a killed node whose session has not timed out yet.
                Ok(count) if count >= expected => Ok(()),
                Ok(count) => Err(format!("{count} of {expected} brokers")),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Some Kafka for tests that share: the one of `SLUICE_TEST_KAFKA`, else one node started once for this process.
    /// Use topics named by [`crate::unique`]; never hurt it.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn shared() -> Result<SharedKafka> {
        static OWN: OnceLock<std::result::Result<Kafka, String>> = OnceLock::new();
        if let Some(bootstrap) = std::env::var("SLUICE_TEST_KAFKA").ok().filter(|v| !v.is_empty()) {
            return Ok(SharedKafka { bootstrap });
        }
        match OWN.get_or_init(|| Self::start(KafkaOptions::default()).map_err(|e| format!("{e:#}"))) {
            Ok(kafka) => Ok(SharedKafka { bootstrap: kafka.bootstrap() }),
            Err(error) => bail!("{error}"),
        }
    }

    /// `host:port` of every node's plain listener, comma-separated.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.addresses(|n| Some(n.broker.number()))
    }

    /// `host:port` of every node's listener of that name, comma-separated; empty if there is none.
    #[must_use]
    pub fn listener(&self, name: &str) -> String {
        self.addresses(|n| Some(n.listening(name)?.port.number()))
    }

    /// The port that clients of that listener are told, on the first node: another than its own if it is [`KafkaListener::apart`].
    #[must_use]
    pub fn advertised(&self, name: &str) -> Option<u16> {
        Some(self.nodes.first()?.listening(name)?.told())
    }

    fn addresses(&self, port: impl Fn(&Node) -> Option<u16>) -> String {
        self.nodes.iter().filter_map(port).map(|p| format!("127.0.0.1:{p}")).collect::<Vec<_>>().join(",")
    }

    /// The number of nodes, dead ones included.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn node(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).with_context(|| format!("no Kafka node {index}"))
    }

    /// The process of a node (0-based).
    ///
    /// # Errors
    /// There is no such node, or it was killed.
    pub fn process(&self, index: usize) -> Result<&Process> {
        self.node(index)?.process.as_ref().context("this Kafka node was killed")
    }

    /// Kills a node (0-based) with SIGKILL.
    ///
    /// # Errors
    /// There is no such node.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.nodes.get_mut(index).with_context(|| format!("no Kafka node {index}"))?.process = None;
        Ok(())
    }

    /// Starts a node (0-based) again on its ports, with its data, and waits until it serves; kills it first if it
    /// runs.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.kill(index)?;
        self.spawn(index)?;
        self.wait_ready(index)
    }

    /// Stops a node's clock (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::SIGSTOP)
    }

    /// Lets a paused node go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.process(index)?.signal(Signal::SIGCONT)
    }

    /// Waits until every living node sees exactly `count` brokers: after a kill, the others' view catches up within
    /// seconds.
    ///
    /// # Errors
    /// Not within 30 s.
    pub fn wait_brokers(&self, count: usize) -> Result<()> {
        for node in self.nodes.iter().filter(|n| n.process.is_some()) {
            wait_for(&format!("{count} brokers"), Duration::from_secs(30), || {
                match brokers_seen(node.broker.number()) {
                    Ok(seen) if seen == count => Ok(()),
                    Ok(seen) => Err(format!("{seen} brokers")),
                    Err(error) => Err(error.to_string()),
                }
            })?;
        }
        Ok(())
    }

    /// Runs one of Kafka's own command line tools against any cluster, such as
    /// `org.apache.kafka.tools.TopicCommand` with `--bootstrap-server …`, and returns its output.
    ///
    /// # Errors
    /// It cannot be started, does not end within `limit`, or ends with an error (the message has its output).
    pub fn tool(class: &str, args: &[&str], limit: Duration) -> Result<String> {
        let (libs, dir) = (tools::kafka_libs()?.join("libs"), RunDir::create("kafka-tool")?);
        let log = dir.path().join("output");
        let runner = Self { nodes: vec![], libs, dir, heap_mib: 128 };
        let mut process = Process::spawn_command(&runner.java(128, class, args)?, &log)?;
        let status = process.wait(limit).with_context(|| format!("{class}: {}", process.log_tail()))?;
        let bytes = fs::read(&log).context("cannot read the tool's output")?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !status.success() {
            bail!("{class} {}: {status}\n{text}", args.join(" "));
        }
        Ok(text)
    }

    /// Runs a tool like [`Kafka::tool`], with its standard output apart, byte for byte.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn tool_output(class: &str, args: &[&str]) -> Result<Output> {
        let (libs, dir) = (tools::kafka_libs()?.join("libs"), RunDir::create("kafka-tool")?);
        let runner = Self { nodes: vec![], libs, dir, heap_mib: 128 };
        let mut command = dying_with_us(&runner.java(128, class, args)?);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = spawn_from_lasting_thread(command).with_context(|| format!("cannot run {class}"))?;
        child.wait_with_output().with_context(|| format!("cannot wait for {class}"))
    }

    /// The class path of Kafka's jars, to run a Java program of a test.
    ///
    /// # Errors
    /// Kafka is not downloaded yet; the message says what to run.
    pub fn class_path() -> Result<String> {
        Ok(format!("{}/*", tools::kafka_libs()?.join("libs").display()))
    }

    /// The cluster's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Node {
    fn listening(&self, name: &str) -> Option<&Listening> {
        self.listeners.iter().find(|listening| listening.listener.name == name)
    }
}

/// Where a shared Kafka listens.
#[derive(Debug, Clone)]
pub struct SharedKafka {
    bootstrap: String,
}

impl SharedKafka {
    /// `host:port`, comma-separated.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }
}

fn properties(id: u32, node: &Node, voters: &str, options: &KafkaOptions) -> String {
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{}", node.broker.number());
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    let mut told = listeners.clone();
    for listening in &node.listeners {
        let listener = &listening.listener;
        let _ = write!(listeners, ",{}://127.0.0.1:{}", listener.name, listening.port.number());
        let _ = write!(told, ",{}://127.0.0.1:{}", listener.name, listening.told());
        let _ = write!(protocols, ",{}:{}", listener.name, listener.protocol);
    }
    let replicas = options.nodes.to_string();
    let in_sync = if options.nodes == 1 { "1" } else { "2" };
    let ours = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", id.to_string()),
        ("controller.quorum.voters", voters.to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("advertised.listeners", told),
        ("listeners", format!("{listeners},CONTROLLER://127.0.0.1:{}", node.controller.number())),
        ("listener.security.protocol.map", protocols),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        ("log.dirs", node.dir.join("data").display().to_string()),
        ("num.partitions", "4".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("default.replication.factor", replicas.clone()),
        ("min.insync.replicas", in_sync.to_owned()),
        ("offsets.topic.num.partitions", "4".to_owned()),
        ("offsets.topic.replication.factor", replicas.clone()),
        ("transaction.state.log.num.partitions", "4".to_owned()),
        ("transaction.state.log.replication.factor", replicas),
        ("transaction.state.log.min.isr", in_sync.to_owned()),
        ("share.coordinator.state.topic.replication.factor", options.nodes.to_string()),
        ("share.coordinator.state.topic.min.isr", in_sync.to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("num.network.threads", "2".to_owned()),
        ("num.io.threads", "4".to_owned()),
        ("log.cleaner.dedupe.buffer.size", "4194304".to_owned()),
        // A killed node is missed, and elections happen, within seconds instead of tens of them.
        ("broker.session.timeout.ms", "3000".to_owned()),
        ("broker.heartbeat.interval.ms", "500".to_owned()),
    ];
    let mut text = String::new();
    for (key, value) in &ours {
        if !options.properties.iter().any(|(k, _)| k == key) {
            let _ = writeln!(text, "{key}={value}");
        }
    }
    for (key, value) in &options.properties {
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

/// Asks a broker for the cluster's metadata (version 1 of the request) and returns how many brokers it sees unfenced.
fn brokers_seen(port: u16) -> Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // length 14; API 3 (metadata), version 1, correlation 7, client id "", no topics
    stream.write_all(&[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0])?;
    let length = read_i32(&mut stream)?;
    if !(16..=65536).contains(&length) {
        bail!("metadata answer of {length} bytes");
    }
    if read_i32(&mut stream)? != 7 {
        bail!("metadata answer to another question");
    }
    Ok(usize::try_from(read_i32(&mut stream)?)?)
}

fn read_i32(stream: &mut TcpStream) -> Result<i32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL_LIMIT: Duration = Duration::from_secs(60);

    fn topics(bootstrap: &str, args: &[&str]) -> String {
        let args = [&["--bootstrap-server", bootstrap], args].concat();
        Kafka::tool("org.apache.kafka.tools.TopicCommand", &args, TOOL_LIMIT).unwrap()
    }

    #[test]
    fn single_node_keeps_its_topics_over_a_kill() {
        let mut kafka = Kafka::start(KafkaOptions::default()).unwrap();
        let bootstrap = kafka.bootstrap();
        topics(&bootstrap, &["--create", "--topic", "kept"]);
        kafka.kill(0).unwrap();
        kafka.restart(0).unwrap();
        assert_eq!(kafka.bootstrap(), bootstrap);
        let described = topics(&bootstrap, &["--describe", "--topic", "kept"]);
        assert!(described.contains("PartitionCount: 4"), "{described}");
    }

    #[test]
    fn paused_node_answers_after_resume() {
        let kafka = Kafka::start(KafkaOptions::default()).unwrap();
        let port = kafka.nodes[0].broker.number();
        kafka.pause(0).unwrap();
        // The signal reaches a process's threads one after another; an answer may already be on its way.
        let silent = (0..10).any(|_| brokers_seen(port).is_err());
        assert!(silent, "answers although paused");
        kafka.resume(0).unwrap();
        kafka.wait_brokers(1).unwrap();
    }

    #[test]
    fn three_nodes_replicate_and_outlive_one() {
        let mut kafka = Kafka::start(KafkaOptions { nodes: 3, heap_mib: 256, ..Default::default() }).unwrap();
        kafka.wait_brokers(3).unwrap();
        let bootstrap = kafka.bootstrap();
        topics(&bootstrap, &["--create", "--topic", "wide"]);
        let described = topics(&bootstrap, &["--describe", "--topic", "wide"]);
        assert!(described.contains("ReplicationFactor: 3"), "{described}");
        kafka.kill(0).unwrap();
        kafka.wait_brokers(2).unwrap();
        kafka.restart(0).unwrap();
        kafka.wait_brokers(3).unwrap();
    }

    #[test]
    fn wrong_property_is_reported() {
        let properties = vec![("broker.session.timeout.ms".to_owned(), "soon".to_owned())];
        let error = Kafka::start(KafkaOptions { properties, ..Default::default() }).unwrap_err();
        assert!(format!("{error:#}").contains("broker.session.timeout.ms"), "{error:#}");
    }
}
