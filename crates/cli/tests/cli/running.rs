//! A `sluice dev` of its own for a test, and commands that talk to it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything on a loaded machine.
const WITHIN: Duration = Duration::from_secs(60);

/// A running `sluice dev` on a folder of its own, killed when dropped.
pub(crate) struct Dev {
    child: Child,
    pub(crate) data_dir: PathBuf,
    ready: Value,
    lines: BufReader<ChildStdout>,
    folder: Option<tempfile::TempDir>,
}

/// `sluice dev` beside whatever else listens.
pub(crate) const DEV_ON_FREE_PORTS: [&str; 7] =
    ["dev", "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

impl Dev {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), args)
    }

    pub(crate) fn start_in(folder: tempfile::TempDir, args: &[&str]) -> Self {
        let data_dir = folder.path().join("data");
        let ready_file = folder.path().join("ready.json");
        std::fs::write(&ready_file, "{\"stale\": true}").expect("written");
        let mut child = sluice(&data_dir)
            .args(DEV_ON_FREE_PORTS)
            .arg("--ready-file")
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

    pub(crate) fn address(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("host:port")
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        sluice(&self.data_dir).args(args).output().expect("the binary starts")
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The complaint of a command that must fail: one line.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        text
    }

    pub(crate) fn line_with(&mut self, part: &str) -> String {
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

    pub(crate) fn terminate(self) -> (Option<i32>, String) {
        let (code, rest, _folder) = self.terminate_keeping();
        (code, rest)
    }

    /// The exit code, what was printed to the end, and the folder.
    pub(crate) fn terminate_keeping(mut self) -> (Option<i32>, String, tempfile::TempDir) {
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

pub(crate) fn sluice(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("--data-dir").arg(data_dir).env_remove("SLUICE_DATA_DIR");
    command
}

#[expect(clippy::disallowed_methods, reason = "waits for another process")]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come within {} s", WITHIN.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
