//! The two processes of `sluice-edge`, as whoever runs it and as devices see them when one of them dies.
#![cfg(feature = "embedded-broker")]

mod common;

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::device::{Attempt, UdpDevice, receive, udp_socket};
use common::{PSK, eventually, id, registered};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use sluice_bus::EmbeddedBroker;
use sluice_store::{NewDevice, NewKey, Store, StoreConfig};
use sluice_types::Psk;

/// What an edge needs: a registered device, a broker, and settings.
struct World {
    folder: tempfile::TempDir,
    broker: EmbeddedBroker,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
        let world = Self { folder, broker };
        std::fs::write(world.path("kek"), rand::random::<[u8; 32]>()).expect("a file");
        let store = StoreConfig {
            kek_file: world.path("kek"),
            local: sluice_store::LocalConfig { path: world.path("store.redb") },
            ..StoreConfig::default()
        };
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let store = Store::open(&store).await.expect("a new store");
            let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
            store.create_device(NewDevice::raw(registered(id(1)), key)).await.expect("a new device");
        });
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts an edge at ports that the system chooses; `settings` are those of `[edge.parent]` and what follows.
    fn start(&self, settings: &str, arguments: &[&str]) -> Edge {
        self.start_in(Some(0), settings, arguments)
    }

    /// The same in a process group of its own (0), or in the test's.
    fn start_in(&self, group: Option<i32>, settings: &str, arguments: &[&str]) -> Edge {
        let config = format!(
            "[edge]\ntcp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\nshards = 3\n[edge.parent]\n{settings}\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[store]\nkind = \"local\"\nkek_file = {kek:?}\n\
             [store.local]\npath = {store:?}\n[bus]\nbrokers = [{broker:?}]\n",
            kek = self.path("kek"),
            store = self.path("store.redb"),
            broker = self.broker.address(),
        );
        std::fs::write(self.path("edge.toml"), config).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-edge"));
        command.arg("--config").arg(self.path("edge.toml")).args(arguments).env_clear();
        if let Some(group) = group {
            command.process_group(group);
        }
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, written) = (BufReader::new(process.stderr.take().expect("piped")), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                written.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let edge = Edge { process, log };
        eventually("the edge is ready", || edge.logged("ready") > 0);
        edge
    }
}

/// A running `sluice-edge`, killed on drop with what it started.
struct Edge {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        for (child, _) in children(self.id()) {
            let _ = kill(child, Signal::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let lines = self.lines();
            eprintln!("end of the log: {:#?}", &lines[lines.len().saturating_sub(40)..]);
        }
    }
}

impl Edge {
    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"))
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often this message was logged.
    fn logged(&self, message: &str) -> usize {
        let message = format!("\"message\":\"{message}\"");
        self.lines().iter().filter(|line| line.contains(&message)).count()
    }

    /// Where devices connect, as the first worker said.
    fn udp(&self) -> SocketAddr {
        self.address("listening for devices over UDP")
    }

    /// The address in the last line with this text.
    fn address(&self, text: &str) -> SocketAddr {
        let lines = self.lines();
        let line = lines.iter().rfind(|line| line.contains(text)).expect("it says where it listens");
        let mut parts = line.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
        parts.find_map(|part| part.parse().ok()).expect("an address in the line")
    }

    /// The worker that lives, if one does.
    fn worker(&self) -> Option<Pid> {
        let children = children(self.id());
        assert!(children.len() <= 1, "one worker at a time, and no zombies: {children:?}");
        children.first().filter(|(_, state)| *state != 'Z').map(|&(id, _)| id)
    }

    /// Kills the worker and waits until it is not there any more.
    fn kill_worker(&self) {
        let mut worker = None;
        eventually("there is a worker", || {
            worker = self.worker();
            worker.is_some()
        });
        let worker = worker.expect("just seen");
        kill(worker, Signal::SIGKILL).expect("it lives");
        eventually("the worker is gone", || self.worker() != Some(worker) && !lives(worker));
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("it lives");
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the edge ends", || {
            status = self.process.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("just seen")
    }

    /// Open descriptors of a process, as the system names them.
    fn descriptors(process: Pid) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it lives");
        let names = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

/// The state of a process (`Z`: ended, nobody has asked how), and whose child it is.
fn state(process: Pid) -> Option<(char, Pid)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, Pid::from_raw(fields.next()?.parse().ok()?)))
}

/// Stops a process and waits until none of its threads does anything any more.
fn hang(process: Pid) {
    kill(process, Signal::SIGSTOP).expect("it lives");
    eventually("all of its threads stand still", || {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
        let stat = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()
        };
        threads
            .filter_map(stat)
            .all(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")))
    });
}

fn lives(process: Pid) -> bool {
    state(process).is_some_and(|(state, _)| state != 'Z')
}

fn children(parent: Pid) -> Vec<(Pid, char)> {
    let all = std::fs::read_dir("/proc").expect("a system with /proc");
    let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    numbers
        .filter_map(|process| match state(process)? {
            (state, of) if of == parent => Some((process, state)),
            _ => None,
        })
        .collect()
}

/// Whether the system has told this connected socket that nobody is at the other end. Datagrams that came are dropped.
fn refused(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time");
    // The first send is told at the receive after it, or at the next send.
    let mut datagram = [0; 2048];
    let sent = socket.send(b"nothing that the edge would take");
    let results = [sent, socket.recv(&mut datagram)];
    results
        .iter()
        .any(|result| result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

#[test]
fn a_killed_worker_is_told_to_no_device_and_the_next_one_reads_what_was_sent_meanwhile() {
    let world = World::new();
    let edge = world.start("", &[]);
    let udp = edge.udp();
    let device = UdpDevice::connect(udp, id(1), &PSK);
    let waiting = udp_socket(udp);
    for crash in 1..=2 {
        edge.kill_worker();
        waiting.send(&Attempt::new(id(1)).hello(0, None)).expect("nobody says that the port is closed");
        eventually("the next worker serves", || {
            assert!(!refused(&device.socket), "a device was told that nobody is there");
            edge.logged("ready") > crash
        });
        let answer = receive(&waiting, common::device::PATIENCE);
        assert!(answer.is_some(), "what was sent to the dead worker was not read, or refused");
    }
    assert_eq!(edge.udp(), udp, "the same port, though the system had chosen it");
    let mut device = UdpDevice::connect(udp, id(1), &PSK);
    device.send(b"to the third worker");
    assert_eq!(metric(&edge, "sluice_edge_worker_restarts_total"), 2);
    assert_eq!(metric(&edge, "sluice_edge_worker_hung_total"), 0);
}

fn get(admin: SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin).expect("listening");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").expect("room");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn without_a_parent_a_killed_process_is_told_to_devices() {
    let world = World::new();
    let edge = world.start("", &["--no-parent"]);
    assert_eq!(children(edge.id()), [], "one process is all of it");
    let device = udp_socket(edge.udp());
    assert!(!refused(&device));
    edge.signal(Signal::SIGKILL);
    eventually("the device is told", || refused(&device));
}

#[test]
fn the_sockets_outlive_the_last_worker_for_a_while_and_then_the_parent_ends_as_the_worker_did() {
    let world = World::new();
    let linger = Duration::from_secs(2);
    let mut edge = world.start("restarts = 1\nlinger = \"2s\"", &[]);
    let device = udp_socket(edge.udp());
    edge.kill_worker();
    eventually("the second worker", || edge.logged("ready") == 2);
    let killed = now();
    edge.kill_worker();
    while !refused(&device) {
        assert!(killed.elapsed() < Duration::from_secs(60), "the sockets stay open for ever");
    }
    assert!(killed.elapsed() >= linger, "the device was told after {:?}", killed.elapsed());
    assert_eq!(edge.wait().code(), Some(137));
    assert!(edge.lines().iter().any(|line| line.contains("signal 9, for the last time")), "it says why");
}

#[expect(clippy::disallowed_methods, reason = "real processes in real time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn who_does_not_want_to_wait_for_the_sockets_says_so_twice() {
    let world = World::new();
    let mut edge = world.start("restarts = 0\nlinger = \"1h\"", &[]);
    let device = udp_socket(edge.udp());
    edge.kill_worker();
    eventually("it lingers", || edge.lines().iter().any(|line| line.contains("for the last time")));
    edge.signal(Signal::SIGTERM);
    assert!(!refused(&device));
    eventually("the first request was read", || pending(edge.id()) == 0);
    assert!(lives(edge.id()));
    edge.signal(Signal::SIGINT);
    assert_eq!(edge.wait().code(), Some(137));
}

/// Signals that wait to be read by a process.
fn pending(process: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("a line of the kernel's");
    u64::from_str_radix(line.trim(), 16).expect("hex digits")
}

#[test]
fn a_request_to_stop_that_reaches_both_processes_is_one() {
    let world = World::new();
    let mut edge = world.start("", &[]);
    let device = UdpDevice::connect(edge.udp(), id(1), &PSK);
    killpg(edge.id(), Signal::SIGTERM).expect("both live");
    common::device::await_frame(&device.socket, usmp::wire::FrameType::Bye);
    assert!(edge.wait().success());
    assert_eq!(edge.logged("drained: everything received was committed"), 1);
}

#[test]
fn a_signal_to_the_worker_after_one_to_the_parent_is_not_the_second_one() {
    let world = World::new();
    let edge = world.start("[edge.drain]\nnotice = \"1h\"", &[]);
    let worker = edge.worker().expect("it is ready");
    edge.signal(Signal::SIGTERM);
    eventually("it drains", || edge.logged("draining") == 1);
    kill(worker, Signal::SIGTERM).expect("it drains");
    eventually("the worker has heard of it", || edge.logged("asked to stop") == 2);
    assert_eq!(edge.worker(), Some(worker));
}

#[test]
fn a_second_request_to_stop_ends_at_once() {
    let world = World::new();
    let mut edge = world.start("[edge.drain]\nnotice = \"1h\"", &[]);
    edge.signal(Signal::SIGTERM);
    eventually("it drains", || edge.logged("draining") == 1);
    edge.signal(Signal::SIGTERM);
    assert_eq!(edge.wait().code(), Some(143));
}

#[test]
fn a_worker_killed_in_its_drain_leaves_the_sockets_open_for_a_while_and_is_not_followed() {
    let world = World::new();
    let mut edge = world.start("linger = \"1s\"\n[edge.drain]\nnotice = \"1h\"", &[]);
    let device = udp_socket(edge.udp());
    edge.signal(Signal::SIGTERM);
    eventually("it drains", || edge.logged("draining") == 1);
    let killed = now();
    edge.kill_worker();
    while !refused(&device) {
        assert!(killed.elapsed() < Duration::from_secs(60), "the sockets stay open for ever");
    }
    assert!(killed.elapsed() >= Duration::from_secs(1), "the device was told after {:?}", killed.elapsed());
    assert_eq!(edge.wait().code(), Some(137));
    assert_eq!(edge.logged("ready"), 1);
}

#[test]
fn the_worker_dies_with_its_parent_even_if_it_hangs() {
    for hangs in [false, true] {
        let world = World::new();
        // A stopped group that lost its last link to a shell is sent SIGHUP; a hanging process would not be.
        let mut edge = world.start_in(None, "", &[]);
        let worker = edge.worker().expect("it is ready");
        if hangs {
            kill(worker, Signal::SIGSTOP).expect("it lives");
        }
        edge.signal(Signal::SIGKILL);
        assert_eq!(edge.wait().signal(), Some(9));
        eventually("the worker is gone", || !lives(worker));
    }
}

#[test]
fn a_worker_that_hangs_is_told_to_no_device() {
    let world = World::new();
    let edge = world.start("", &[]);
    let device = udp_socket(edge.udp());
    kill(edge.worker().expect("it is ready"), Signal::SIGSTOP).expect("it lives");
    assert!(!refused(&device));
    edge.kill_worker();
    eventually("the next worker serves", || {
        assert!(!refused(&device), "a device was told that nobody is there");
        edge.logged("ready") > 1
    });
}

/// The metric of this name, as the worker that logged last says.
fn metric(edge: &Edge, name: &str) -> u64 {
    let metrics = get(edge.address("admin listener"), "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).1.parse().expect("a number")
}

#[test]
fn a_worker_that_hangs_is_killed_and_the_next_one_serves_on_the_same_sockets() {
    let world = World::new();
    let edge = world.start("worker_patience = \"5s\"", &[]);
    let udp = edge.udp();
    let device = UdpDevice::connect(udp, id(1), &PSK);
    let waiting = udp_socket(udp);
    let hangs = edge.worker().expect("it is ready");
    hang(hangs);
    waiting.send(&Attempt::new(id(1)).hello(0, None)).expect("nobody says that the port is closed");
    eventually("the next worker serves", || {
        assert!(!refused(&device.socket), "a device was told that nobody is there");
        edge.logged("ready") > 1
    });
    assert!(!lives(hangs));
    assert!(
        receive(&waiting, common::device::PATIENCE).is_some(),
        "what was sent to the hanging worker is lost"
    );
    let mut device = UdpDevice::connect(udp, id(1), &PSK);
    device.send(b"to the second worker");
    assert!(metric(&edge, "sluice_edge_worker_hung_total") >= 1);
    assert!(edge.lines().iter().any(|line| line.starts_with("sluice-edge: the worker hangs")), "it says why");
}

#[test]
fn a_shard_that_stands_still_is_a_worker_that_hangs() {
    let world = World::new();
    // Time for a busy machine to say which shard it is before the process is killed.
    let edge = world.start("worker_patience = \"10s\"", &[]);
    let worker = edge.worker().expect("it is ready");
    let threads = std::fs::read_dir(format!("/proc/{worker}/task")).expect("it lives");
    let mut threads = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_shard = |id: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{worker}/task/{id}/comm")).expect("it lives");
        name.trim() == "shard-1"
    };
    let shard = Pid::from_raw(threads.find(is_shard).expect("three shards"));
    // Stops this thread and no other, as a debugger does; it stays so until it is killed with its process.
    nix::sys::ptrace::attach(shard).expect("a child of ours");
    let any_thread = nix::sys::wait::WaitPidFlag::__WALL;
    nix::sys::wait::waitpid(shard, Some(any_thread)).expect("stopped");
    eventually("it is said which shard stands still", || {
        edge.lines().iter().any(|line| line.contains("a part hangs") && line.contains("shard-1"))
    });
    let end = nix::sys::wait::waitpid(shard, Some(any_thread)).expect("its end");
    assert_eq!(end, nix::sys::wait::WaitStatus::Signaled(shard, Signal::SIGKILL, false));
    eventually("the next worker serves", || edge.logged("ready") > 1);
}

#[test]
fn a_pause_of_both_processes_is_not_taken_for_a_hang() {
    let patience = Duration::from_secs(8);
    let world = World::new();
    let edge = world.start(&format!("worker_patience = \"{}s\"", patience.as_secs()), &[]);
    let worker = edge.worker().expect("it is ready");
    let paused = now();
    // The parent last and first: what it does not hear is all there is to judge by.
    kill(worker, Signal::SIGSTOP).expect("it lives");
    edge.signal(Signal::SIGSTOP);
    while paused.elapsed() < patience + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(100));
    }
    edge.signal(Signal::SIGCONT);
    eventually("the parent has taken a turn", || {
        let stopped = state(edge.id()).expect("it lives").0;
        let before = turns(edge.id());
        std::thread::sleep(Duration::from_millis(10));
        stopped != 'T' && turns(edge.id()) > before
    });
    kill(worker, Signal::SIGCONT).expect("it was not killed");
    let mut device = UdpDevice::connect(edge.udp(), id(1), &PSK);
    device.send(b"to the same worker");
    assert_eq!(edge.worker(), Some(worker));
    assert_eq!(edge.logged("ready"), 1);
}

/// How often a process gave the processor back.
fn turns(process: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("a line of the kernel's").trim().parse().expect("a number")
}

#[test]
fn a_hundred_crashes_leave_nothing_behind() {
    let world = World::new();
    let edge = world.start("restarts = 1000\nlongest_pause = \"0s\"", &[]);
    let device = udp_socket(edge.udp());
    let sockets = |edge: &Edge| {
        let (mut parent, mut worker) = (0, 0);
        eventually("there is a worker that serves", || {
            let Some(id) = edge.worker() else { return false };
            let count = |process| Edge::descriptors(process).len();
            (parent, worker) = (count(edge.id()), count(id));
            edge.logged("ready") > 0
        });
        (parent, worker)
    };
    // While a worker hands its sockets over, the parent has those of the one before, too.
    let kept = || {
        eventually("the parent has the sockets of three shards, and the one to the worker", || {
            let open = Edge::descriptors(edge.id());
            open.iter().filter(|name| name.starts_with("socket:")).count() == 4
        });
    };
    kept();
    let before = sockets(&edge);
    for _ in 0..100 {
        edge.kill_worker();
        assert!(!refused(&device));
    }
    let ready = edge.logged("ready");
    eventually("the last worker serves", || edge.logged("ready") > ready);
    kept();
    let open = Edge::descriptors(edge.id());
    assert_eq!(before.0, open.len(), "{open:?}");
    // Its own connections come and go; what each crash leaves behind would show a hundred times.
    eventually("the worker has about as many descriptors as the first one", || {
        sockets(&edge).1 < before.1 + 50
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.id())).expect("it lives");
    let figures =
        status.lines().filter(|line| ["VmRSS", "RssAnon", "Threads"].iter().any(|l| line.starts_with(l)));
    eprintln!("the parent after a hundred crashes: {:?}", figures.collect::<Vec<_>>());
    assert!(status.contains("Threads:\t1\n"), "{status}");
}

#[test]
fn a_worker_that_nobody_started_says_what_to_do() {
    let world = World::new();
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-edge"))
        .arg("--worker")
        .arg("--config")
        .arg(world.path("edge.toml"))
        .stdin(Stdio::null())
        .output()
        .expect("the binary");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("`--worker` is for sluice-edge itself"), "{error}");
}
