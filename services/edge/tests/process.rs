//! The binary `sluice-edge`: starts from a file, serves, drains on SIGTERM; refuses what it cannot use.
#![cfg(feature = "embedded-broker")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::device::UdpDevice;
use common::{PSK, id, registered};
use sluice_bus::{BusConfig, EmbeddedBroker, Start, Tail};
use sluice_store::{NewDevice, NewKey, Store, StoreConfig};
use sluice_types::Psk;

fn edge(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-edge"));
    command.arg("--config").arg(config).env_clear().stderr(Stdio::piped());
    command
}

/// The addresses in the log lines with these messages, in whatever order those come.
fn logged_addresses<const N: usize>(log: &mut impl BufRead, messages: [&str; N]) -> [SocketAddr; N] {
    let (mut seen, mut found) = (String::new(), [None; N]);
    for line in log.lines() {
        let line = line.expect("text");
        if let Some(place) = messages.iter().position(|message| line.contains(message)) {
            let address = line.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
            found[place] = address.filter_map(|part| part.parse().ok()).next_back();
            assert!(found[place].is_some(), "no address in the line: {line}");
        }
        if found.iter().all(Option::is_some) {
            return found.map(|address| address.expect("all are there"));
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    panic!("the log ended without all of {messages:?}:\n{seen}");
}

fn get(admin: SocketAddr, path: &str) -> String {
    request(admin, "GET", path, "")
}

fn post(admin: SocketAddr, path: &str, body: &str) -> String {
    request(admin, "POST", path, body)
}

/// One request and the whole answer.
fn request(admin: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = std::net::TcpStream::connect(admin).expect("listening");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .expect("room");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_serves_from_a_file_and_drains_on_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let broker = EmbeddedBroker::start("sluice", 4).expect("a broker");
    std::fs::write(path("kek"), rand::random::<[u8; 32]>()).expect("a file");
    let store = StoreConfig {
        kek_file: path("kek"),
        local: sluice_store::LocalConfig { path: path("store.redb") },
        ..StoreConfig::default()
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let store = Store::open(&store).await.expect("a new store");
        let key = NewKey::Individual(Psk::new(&PSK).expect("32 bytes"));
        store.create_device(NewDevice::raw(registered(id(1)), key)).await.expect("a new device");
    });
    let config = format!(
        "[edge]\ntcp = \"off\"\nudp = \"127.0.0.1:0\"\ndangerously_allow_admin_send = true\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [store]\nkind = \"local\"\nkek_file = {kek:?}\n[store.local]\npath = {db:?}\n\
         [bus]\nbrokers = [{broker:?}]\n",
        kek = path("kek"),
        db = path("store.redb"),
        broker = broker.address(),
    );
    std::fs::write(path("edge.toml"), config).expect("a file");

    let mut child = Killed(edge(&path("edge.toml")).spawn().expect("the binary"));
    let mut log = BufReader::new(child.0.stderr.take().expect("piped"));
    let [udp, admin] = logged_addresses(&mut log, ["listening for devices over UDP", "admin listener"]);
    let mut device = UdpDevice::connect(udp, id(1), &PSK);
    device.send(b"from a file");
    common::eventually("ready", || get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    // The embedded broker cannot describe topics, and saying so is the answer here.
    common::eventually("what the topics keep was asked for", || {
        get(admin, "/readyz?verbose").contains("[-] topics cannot be described: ")
    });
    let answer = get(admin, "/metrics");
    for line in
        ["sluice_edge_messages_committed_total", "sluice_edge_sessions{", "sluice_edge_dropped_total{"]
    {
        assert!(answer.contains(line), "no {line} in {answer}");
    }
    let answer = post(admin, "/debug/devices/02:00:00:00:00:09/send", "nobody");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let sent = std::thread::spawn(move || post(admin, "/debug/devices/02:00:00:00:00:01/send", "down"));
    assert_eq!(device.receive_message(), b"down");
    let answer = sent.join().expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("running");
    common::device::await_frame(&device.socket, usmp::wire::FrameType::Bye);
    let rest: Vec<String> = log.lines().map_while(Result::ok).collect();
    let status = child.0.wait().expect("a child");
    assert!(status.success(), "{status}: {rest:#?}");

    let bus = broker.configure(&BusConfig::default());
    let tail = Tail::open(&bus, "sluice.telemetry", Start::Beginning).expect("a consumer");
    let mut record = None;
    common::eventually("the record", || {
        record = tail.next(Duration::from_millis(200)).expect("a readable topic");
        record.is_some()
    });
    assert_eq!(record.expect("just seen").payload, b"from a file");
}

#[test]
fn it_starts_without_kafka_says_so_and_is_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("kek"), rand::random::<[u8; 32]>()).expect("a file");
    // Nobody listens here: the port was free a moment ago.
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port");
    let config = format!(
        "[edge]\ntcp = \"127.0.0.1:0\"\nudp = \"off\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [store]\nkind = \"local\"\nkek_file = {kek:?}\n[store.local]\npath = {db:?}\n[bus]\nbrokers = [\"{nobody}\"]\n",
        kek = path("kek"),
        db = path("store.redb"),
    );
    std::fs::write(path("edge.toml"), config).expect("a file");
    let mut child = Killed(edge(&path("edge.toml")).spawn().expect("the binary"));
    let mut log = BufReader::new(child.0.stderr.take().expect("piped"));
    let [admin] = logged_addresses(&mut log, ["admin listener"]);
    common::eventually("ready without Kafka", || get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    common::eventually("Kafka is named", || {
        let answer = get(admin, "/readyz?verbose");
        answer.contains("[-] kafka no answer from Kafka at") && answer.contains(&nobody.to_string())
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("running");
    let rest: Vec<String> = log.lines().map_while(Result::ok).collect();
    let status = child.0.wait().expect("a child");
    assert!(status.success(), "nothing was there to be given up, {status}: {rest:#?}");
}

#[test]
fn an_unknown_setting_is_refused_by_name_and_nothing_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("edge.toml");
    std::fs::write(&file, "[edge]\nudpp = \"127.0.0.1:0\"\n").expect("a file");
    let output = edge(&file).output().expect("the binary");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("edge.udpp") && error.contains("edge.toml"), "{error}");
}
