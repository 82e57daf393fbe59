//! `sluice dev` as a user meets it: one process, nothing else installed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything on a loaded machine.
const WITHIN: Duration = Duration::from_secs(60);

const ID: &str = "02:A1:b2:c3:d4:e5";

/// A running `sluice dev` on a folder of its own, killed when dropped.
struct Dev {
    child: Child,
    data_dir: PathBuf,
    ready: Value,
    lines: BufReader<ChildStdout>,
    folder: Option<tempfile::TempDir>,
}

impl Dev {
    fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), args)
    }

    fn start_in(folder: tempfile::TempDir, args: &[&str]) -> Self {
        let data_dir = folder.path().join("data");
        let ready_file = folder.path().join("ready.json");
        std::fs::write(&ready_file, "{\"stale\": true}").expect("written");
        let mut child = sluice(&data_dir)
            .args([
                "dev",
                "--tcp",
                "127.0.0.1:0",
                "--udp",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--ready-file",
            ])
            .arg(&ready_file)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let ready = eventually("the ready file", || {
            let text = std::fs::read_to_string(&ready_file).ok()?;
            // Renamed into place: whatever is there is whole. The stale one must be gone before.
            let ready: Value = serde_json::from_str(&text).expect("whole JSON");
            ready.get("stale").is_none().then_some(ready)
        });
        Self { child, data_dir, ready, lines, folder: Some(folder) }
    }

    fn address(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("host:port")
    }

    fn run(&self, args: &[&str]) -> Output {
        sluice(&self.data_dir).args(args).output().expect("the binary starts")
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The complaint of a command that must fail: one line.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        text
    }

    fn line_with(&mut self, part: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).expect("readable") > 0,
                "the output ended before `{part}` came"
            );
            if line.contains(part) {
                return line;
            }
        }
    }

    fn terminate(self) -> (Option<i32>, String) {
        let (code, rest, _folder) = self.terminate_keeping();
        (code, rest)
    }

    /// The exit code, what was printed to the end, and the folder.
    fn terminate_keeping(mut self) -> (Option<i32>, String, tempfile::TempDir) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        let status = eventually("the end of the process", || self.child.try_wait().expect("its own child"));
        let rest: Vec<_> = std::iter::from_fn(|| {
            let mut line = String::new();
            (self.lines.read_line(&mut line).ok()? > 0).then_some(line)
        })
        .collect();
        (status.code(), rest.concat(), self.folder.take().expect("taken only here"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Fails for one that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sluice(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("--data-dir").arg(data_dir).env_remove("SLUICE_DATA_DIR");
    command
}

#[expect(clippy::disallowed_methods, reason = "waits for another process")]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come within {} s", WITHIN.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn simulated_devices_send_over_both_transports_and_a_signal_drains() {
    let mut dev = Dev::start(&["--simulate", "2", "--simulate-interval", "200ms"]);
    for id in ["020000000001", "020000000002"] {
        let line = dev.line_with(&format!("default/{id}  "));
        assert!(line.contains("temperature"), "{line}");
    }
    let (code, rest) = dev.terminate();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("everything received was committed"), "{rest}");
}

#[test]
fn a_device_is_added_sends_is_seen_and_is_revoked() {
    let dev = Dev::start(&[]);
    let added: Value = serde_json::from_str(&dev.ok(&["device", "add", ID, "-o", "json"])).expect("JSON");
    assert_eq!(added["device"], "02a1b2c3d4e5");
    let key = dev.data_dir.join("key.hex");
    std::fs::write(&key, added["key"].as_str().expect("a key that was made is shown")).expect("written");
    let key = key.to_str().expect("text");
    for transport in ["udp", "tcp"] {
        let url = format!("{transport}://{}", dev.address(transport));
        let sim = [
            "device",
            "sim",
            "--connect",
            &url,
            "--id",
            ID,
            "--psk-file",
            key,
            "--count",
            "3",
            "--interval",
            "1ms",
        ];
        let done = dev.ok(&sim);
        assert!(done.contains(" 3, failed 0"), "{transport}: {done}");
    }
    let tail = dev.ok(&["tail", "--from-beginning", "--count", "6", "--format", "json"]);
    let records: Vec<Value> =
        tail.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    assert!(records.iter().all(|record| record["key"] == "default/02a1b2c3d4e5"), "{tail}");
    let mut ids: Vec<_> = records.iter().filter_map(|record| record["headers"]["ce_id"].as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 6, "every record has an id of its own: {tail}");
    let audit: Value = serde_json::from_str(&dev.ok(&["audit", "topic", "-o", "json"])).expect("JSON");
    assert_eq!(
        (&audit["committed"], &audit["sessions"], &audit["clean"]),
        (&6.into(), &2.into(), &true.into()),
        "{audit}"
    );

    let listed = dev.ok(&["device", "list"]);
    assert!(listed.contains("02a1b2c3d4e5  default  active"), "{listed}");
    dev.ok(&["device", "revoke", ID, "--reason", "lost"]);
    let shown: Value = serde_json::from_str(&dev.ok(&["device", "show", ID, "-o", "json"])).expect("JSON");
    assert_eq!(shown["state"], "revoked");
    let url = format!("udp://{}", dev.address("udp"));
    let sim = ["device", "sim", "--connect", &url, "--id", ID, "--psk-file", key, "--count", "1"];
    let refused = dev.refused(&sim[..]);
    assert!(refused.contains("no session") && refused.contains("registered"), "{refused}");
}

#[test]
fn devices_survive_a_restart_of_the_data_folder() {
    let first = Dev::start(&[]);
    first.ok(&["device", "add", ID]);
    let (code, rest, folder) = first.terminate_keeping();
    assert_eq!(code, Some(0), "{rest}");
    let second = Dev::start_in(folder, &[]);
    assert!(second.ok(&["device", "list"]).contains("02a1b2c3d4e5"));
}

#[test]
fn mistakes_are_told_in_one_line_with_what_to_do() {
    let dev = Dev::start(&[]);
    let taken = dev.address("tcp").to_owned();
    let other = tempfile::tempdir().expect("a folder");
    let port = sluice(other.path())
        .args(["dev", "--tcp", &taken, "--udp", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .output();
    let port = port.expect("the binary starts");
    assert!(!port.status.success());
    let text = String::from_utf8_lossy(&port.stderr).into_owned();
    assert!(text.contains(&taken) && text.contains("in use"), "{text}");

    let again =
        dev.refused(&["dev", "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(again.contains("devices.redb"), "a second process on the same folder: {again}");

    let absent =
        sluice(&other.path().join("nobody")).args(["device", "list"]).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(!absent.status.success() && text.contains("sluice dev"), "{text}");

    assert!(dev.refused(&["device", "show", "02ffffffffff"]).contains("device list"));
    dev.ok(&["device", "add", ID]);
    assert!(dev.refused(&["device", "add", ID]).contains("02a1b2c3d4e5"));
}

#[test]
fn keys_come_from_standard_input_and_weak_ones_are_refused() {
    let dev = Dev::start(&[]);
    let add = |id: &str, key: &str, format: &str| {
        let mut child = sluice(&dev.data_dir)
            .args(["device", "add", id, "--psk-file", "-", "--psk-format", format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("piped").write_all(key.as_bytes()).expect("written");
        child.wait_with_output().expect("its own child")
    };
    let taken = add("020000000011", &format!(" {}\n", "5a".repeat(32)), "hex");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(!String::from_utf8_lossy(&taken.stdout).contains("5a5a"), "a key that was given is not shown");
    let hex_of_published: String =
        "usmp-dev-psk-change-me-before-prod".bytes().map(|byte| format!("{byte:02x}")).collect();
    for (key, format, why) in [
        ("5a5a", "hex", "at least 32"),
        ("usmp-dev-psk-change-me-before-prod", "text", "public"),
        (hex_of_published.as_str(), "hex", "public"),
        ("no hex", "hex", "not hex"),
    ] {
        let refused = add("020000000012", key, format);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(why), "{key}: {text}");
    }
    let shown = dev.ok(&["device", "show", "020000000011", "--snippet", "python"]);
    assert!(!shown.contains("5a5a") && shown.contains("PUT-THE-KEY"), "{shown}");
    let shown = dev.ok(&["device", "show", "020000000011", "--snippet", "idf", "--reveal"]);
    assert!(shown.contains("0x5a, 0x5a"), "{shown}");
    let sketch = dev.ok(&["device", "add", "020000000013", "--snippet", "arduino"]);
    assert!(sketch.contains("USMPClient usmp(\""), "{sketch}");
}
