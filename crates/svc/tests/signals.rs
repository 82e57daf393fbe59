//! What signals do to a process.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use sluice_svc::shutdown::{Shutdown, on_signals};

/// Set in the process that is sent signals: the test's own program, started again.
const CHILD: &str = "SLUICE_SIGNAL_TEST_CHILD";

fn as_child() -> bool {
    if std::env::var_os(CHILD).is_none() {
        return false;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        on_signals(&shutdown).unwrap();
        eprintln!("waiting");
        shutdown.requested().await;
        eprintln!("draining");
        if std::env::var(CHILD).is_ok_and(|v| v == "stuck") {
            std::future::pending::<()>().await;
        }
    });
    true
}

struct Stopped {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Stopped {
    fn start(test: &str, kind: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(CHILD, kind)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.is_ok_and(|l| l.contains(text))), "it never said {text:?}");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn first_signal_asks_for_a_drain() {
    if as_child() {
        return;
    }
    for name in ["TERM", "INT"] {
        let mut process = Stopped::start("first_signal_asks_for_a_drain", "drains");
        process.wait_for("waiting");
        process.signal(name);
        process.wait_for("draining");
        assert_eq!(process.child.wait().unwrap().code(), Some(0), "after {name}");
    }
}

#[test]
fn second_signal_ends_at_once() {
    if as_child() {
        return;
    }
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let mut process = Stopped::start("second_signal_ends_at_once", "stuck");
        process.wait_for("waiting");
        process.signal("TERM");
        process.wait_for("draining");
        process.signal(name);
        assert_eq!(process.child.wait().unwrap().code(), Some(code), "after {name}");
    }
}
