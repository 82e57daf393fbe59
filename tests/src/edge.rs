//! The edge as the process that is shipped.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_store::Topology;
use sluice_test_env::{Port, Process, resident_kib, unique, wait_for};
use sluice_types::{DeviceId, PodId};
use toml::{Table, Value};

use crate::sdk::Transport;
use crate::world::World;

const START_LIMIT: Duration = Duration::from_secs(30);

/// Settings of an edge that differ from a test's usual ones.
#[derive(Debug, Clone, Default)]
pub struct EdgeOptions {
    overrides: Vec<(String, Value)>,
    without_parent: bool,
    program: Option<PathBuf>,
}

impl EdgeOptions {
    /// Sets one key, such as `edge.session.tcp_idle_timeout`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.overrides.push((key.to_owned(), value.into()));
        self
    }

    /// Starts this program instead of the edge that was built with the tests.
    #[must_use]
    pub fn of_program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Starts it as one process, whose sockets close when it dies.
    #[must_use]
    pub fn without_parent(mut self) -> Self {
        self.without_parent = true;
        self
    }
}

/// A running `sluice-edge`: a parent, and its worker, which is the edge. Both are killed on drop.
#[derive(Debug)]
pub struct Edge {
    process: Process,
    command: Vec<String>,
    log: PathBuf,
    devices: Arc<Port>,
    admin: Arc<Port>,
}

impl Edge {
    /// Starts an edge in this world and waits until it is ready.
    ///
    /// # Errors
    /// The binary is not built (the text says what to run), or does not become ready; the text has the end of its log.
    pub fn start(world: &World, options: &EdgeOptions) -> Result<Self> {
        let mut edge = Self::begin(world, options)?;
        edge.wait_ready()?;
        Ok(edge)
    }

    /// Starts an edge that need not become ready.
    ///
    /// # Errors
    /// The binary is not built; the text says what to run.
    pub fn begin(world: &World, options: &EdgeOptions) -> Result<Self> {
        let (devices, admin) = (Arc::new(Port::claim()?), Arc::new(Port::claim()?));
        let name = unique("edge");
        let config = world.file(&format!("{name}.toml"));
        let text = toml::to_string(&table(world, options, &devices, &admin)?).context("no TOML")?;
        std::fs::write(&config, text).context("cannot write the edge's settings")?;
        let log = world.file(&format!("{name}.log"));
        let binary = options.program.clone().map_or_else(|| program("sluice-edge"), Ok)?;
        let mut command =
            vec![binary.display().to_string(), "--config".to_owned(), config.display().to_string()];
        command.extend(options.without_parent.then(|| "--no-parent".to_owned()));
        let process = spawn(&command, &log)?;
        Ok(Self { process, command, log, devices, admin })
    }

    /// Starts it again with the same settings and ports; kills it first if it runs.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = spawn(&self.command, &self.log)?;
        self.wait_ready()
    }

    /// Starts this program where an edge has ended: with the same file of settings, on the same ports, and with a log of its own.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn succeeded_by(&self, program: &Path, log: &Path) -> Result<Self> {
        let mut command = self.command.clone();
        *command.first_mut().context("no command")? = program.display().to_string();
        let (log, process) = (log.to_owned(), spawn(&command, log)?);
        let (devices, admin) = (Arc::clone(&self.devices), Arc::clone(&self.admin));
        let mut edge = Self { process, command, log, devices, admin };
        edge.wait_ready()?;
        Ok(edge)
    }

    /// Kills parent and worker at once (SIGKILL), as the loss of their node would; its ports stay claimed.
    pub fn kill(&mut self) {
        let worker = self.worker();
        self.process.kill();
        // The kernel kills it with its parent, and its ports are free a moment later.
        if let Some(worker) = worker
            && let Err(error) = wait_gone(worker)
        {
            eprintln!("{error:#}");
        }
    }

    /// Kills the worker alone (SIGKILL), as the system does when it runs out of memory, and waits until it is gone. The parent
    /// keeps the UDP sockets open and starts another.
    ///
    /// # Errors
    /// There is no worker.
    pub fn kill_worker(&self) -> Result<()> {
        let worker = self.worker().context("there is no worker")?;
        signal_to(worker, Signal::SIGKILL)?;
        wait_gone(worker)
    }

    /// Stops the worker alone (SIGSTOP), as one that hangs. The parent goes on.
    ///
    /// # Errors
    /// There is no worker.
    pub fn hang_worker(&self) -> Result<()> {
        signal_to(self.worker().context("there is no worker")?, Signal::SIGSTOP)
    }

    /// The process that serves, unless it is dead just now: the worker, or the one process there is.
    fn worker(&self) -> Option<u32> {
        let parent = self.process.id();
        if self.command.iter().any(|argument| argument == "--no-parent") {
            return Some(parent);
        }
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Sends a signal to all of it: SIGSTOP and SIGCONT are not handed on by the parent.
    ///
    /// # Errors
    /// A process is gone.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        let worker = self.worker().context("there is no worker")?;
        signal_to(worker, signal)?;
        if worker == self.process.id() { Ok(()) } else { self.process.signal(signal) }
    }

    /// Resident memory of the process that serves, in KiB.
    ///
    /// # Errors
    /// There is none.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.worker().context("there is no worker")?)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let admin = self.admin();
        self.process.wait_ready(START_LIMIT, || is_ready(admin))
    }

    /// Waits until the worker that follows a killed one is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn wait_ready_again(&self) -> Result<()> {
        let admin = self.admin();
        wait_for("the next worker to be ready", START_LIMIT, || is_ready(admin))
    }

    /// Where devices connect, over either transport.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.devices.number()).into()
    }

    /// Where operators and probes connect.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.admin.number()).into()
    }

    /// The file with its settings.
    #[must_use]
    pub fn config(&self) -> &Path {
        Path::new(self.command.get(2).map_or("", String::as_str))
    }

    /// The process that takes signals: the parent, where there is one.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks the admin listener; gives the status and the body.
    ///
    /// # Errors
    /// It does not answer within 30 s.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
        http(self.admin(), method, path, body)
    }

    /// Brings a message down to a device and waits until it has taken it.
    ///
    /// # Errors
    /// The edge does not say that it was delivered.
    pub fn send_down(&self, device: DeviceId, message: &[u8]) -> Result<()> {
        let (status, text) = self.ask("POST", &format!("/debug/devices/{device}/send"), message)?;
        ensure!(status == 200, "sending to {device}: {status} {text}");
        Ok(())
    }

    /// The sum of a metric over its labels, where each of `labels` (`name="value"`) is among them.
    ///
    /// # Errors
    /// The admin listener does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (status, text) = self.ask("GET", "/metrics", b"")?;
        ensure!(status == 200, "metrics: {status} {text}");
        let mut sum = 0.0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (metric, found) = series.split_once('{').unwrap_or((series, ""));
            if metric == name && labels.iter().all(|label| found.contains(label)) {
                sum += value.parse::<f64>().with_context(|| format!("no number: {line}"))?;
            }
        }
        Ok(sum)
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(limit).with_context(|| format!("end of its log:\n{}", self.process.log_tail()))
    }

    /// Waits for its end, which it comes to by itself.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).with_context(|| format!("end of its log:\n{}", self.process.log_tail()))
    }

    /// Everything it has logged.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).context("cannot read the edge's log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The name by which the other pods know this one, if it is one of many; another one with each worker.
    ///
    /// # Errors
    /// It has not said its name.
    pub fn pod_id(&self) -> Result<PodId> {
        let log = self.log()?;
        let said = log.lines().rev().find(|line| line.contains("one of many pods")).context("no name")?;
        let said: serde_json::Value = serde_json::from_str(said).context("no line of the log")?;
        said["pod"].as_str().and_then(|name| name.parse().ok()).context("no name of a pod")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("end of the edge's log:\n{}", self.process.log_tail());
        }
        self.kill();
    }
}

impl Transport {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Tcp => Self::Udp,
            Self::Udp => Self::Tcp,
        }
    }
}

fn signal_to(process: u32, signal: Signal) -> Result<()> {
    let id = i32::try_from(process).context("process id out of range")?;
    kill(Pid::from_raw(id), signal).with_context(|| format!("cannot send {signal} to {process}"))
}

/// Waits until a process that was killed has given back what it had; somebody else's child may stay as a zombie.
fn wait_gone(process: u32) -> Result<()> {
    let stat = format!("/proc/{process}/stat");
    wait_for("the end of a killed process", START_LIMIT, || match std::fs::read_to_string(&stat) {
        Ok(state) if !state.contains(") Z") => Err(state),
        _ => Ok(()),
    })
}

fn spawn(command: &[String], log: &Path) -> Result<Process> {
    let (program, args) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(args);
    // The settings come from the file alone, whatever the tests themselves were started with.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE__") {
            command.env_remove(name);
        }
    }
    Process::spawn_command(&command, log)
}

/// A program of ours beside this test's own file: cargo builds no binary of another package for a test.
///
/// # Errors
/// It is not built; the message says what to run.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this test?")?;
    let profile = own.ancestors().nth(2).context("the test is not in a target folder")?;
    let binary = profile.join(name);
    if !binary.is_file() {
        bail!(
            "{} is not built: run `cargo build -p sluice-edge -p sluice-cli` first (`cargo xtask test` does)",
            binary.display()
        );
    }
    Ok(binary)
}

/// The edge of an earlier release.
///
/// # Errors
/// Nobody says where it is; the message says what to run.
pub fn program_beside() -> Result<PathBuf> {
    let path = std::env::var_os("SLUICE_TEST_EDGE_BESIDE").filter(|path| !path.is_empty());
    let path = path.map(PathBuf::from).filter(|path| path.is_file());
    path.context(
        "SLUICE_TEST_EDGE_BESIDE names no program: `cargo xtask beside` builds the edge of an earlier revision and says where it is \
         (`cargo xtask test --long` does so by itself)",
    )
}

fn table(world: &World, options: &EdgeOptions, devices: &Port, admin: &Port) -> Result<Table> {
    let (store, bus) = (world.store_config(), world.bus_config());
    let devices = format!("127.0.0.1:{}", devices.number());
    let text = format!(
        r#"
        [edge]
        tcp = "{devices}"
        udp = "{devices}"
        dangerously_allow_admin_send = true
        [store]
        kind = "redis"
        kek_file = "{}"
        [store.redis]
        topology = "{}"
        sentinel_master = "{}"
        urls = ["{}"]
        key_prefix = "{}"
        [bus]
        brokers = ["{}"]
        topic_prefix = "{}"
        slots = {}
        [admin]
        listen = "127.0.0.1:{}"
        "#,
        store.kek_file.display(),
        match store.redis.topology {
            Topology::Single => "single",
            Topology::Cluster => "cluster",
            Topology::Sentinel => "sentinel",
        },
        store.redis.sentinel_master,
        store.redis.urls.join("\", \""),
        store.redis.key_prefix,
        bus.brokers.join("\", \""),
        bus.topic_prefix,
        bus.slots,
        admin.number(),
    );
    let mut table: Table = text.parse().context("the settings are no TOML")?;
    for (key, value) in &options.overrides {
        let mut names = key.split('.').collect::<Vec<_>>();
        let last = names.pop().context("a key has a name")?;
        let mut level = &mut table;
        for name in names {
            let entry = level.entry(name).or_insert_with(|| Value::Table(Table::new()));
            level = entry.as_table_mut().with_context(|| format!("{key}: {name} is no table"))?;
        }
        level.insert(last.to_owned(), value.clone());
    }
    Ok(table)
}

fn is_ready(admin: SocketAddr) -> std::result::Result<(), String> {
    match http(admin, "GET", "/readyz", b"") {
        Ok((200, _)) => Ok(()),
        Ok((status, text)) => Err(format!("{status} {text}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn http(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).context("no HTTP status")?;
    // A chunked body stays with its chunk marks; no reader here minds.
    Ok((status, body.to_owned()))
}
