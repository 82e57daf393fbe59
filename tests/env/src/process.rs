//! One server process: started from a thread that lives as long as this process, killed with it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// A running child process with its output in a log file.
///
/// Killed (SIGKILL, by its own process id) on drop. The kernel kills it too when this process dies in whatever way:
/// it runs under `setpriv --pdeathsig KILL`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with its output appended to `log`.
    ///
    /// # Errors
    /// The program or `setpriv` (Debian: `util-linux`) does not exist, or the log cannot be opened.
    pub fn spawn<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
        dir: &Path,
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir);
        Self::spawn_command(&command, log)
    }

    /// Starts a prepared command (program, arguments, folder and variables are taken; its stdio is not), with its
    /// output appended to `log`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_command(command: &Command, log: &Path) -> Result<Self> {
        let name = Path::new(command.get_program())
            .file_name()
            .map_or_else(|| "process".to_owned(), |n| n.to_string_lossy().into_owned());
        let output = open_log(log)?;
        let errors = output.try_clone().context("cannot share the log file")?;
        let mut wrapped = dying_with_us(command);
        wrapped.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn_from_lasting_thread(wrapped)
            .with_context(|| format!("cannot start {name} through setpriv (Debian package util-linux)"))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("process id out of range")?;
        kill(Pid::from_raw(id), signal)
            .with_context(|| format!("cannot send {signal} to {} ({id})", self.name))
    }

    /// Kills the process at once (SIGKILL) and reaps it. Harmless when it is gone already.
    pub fn kill(&mut self) {
        // An error here means it has exited, which is what was asked for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask for the end of {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (child, name) = (&mut self.child, &self.name);
        wait_for(&format!("the end of {name}"), limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits until `probe` succeeds, and fails early, with the end of the log, if the process ends first.
    ///
    /// # Errors
    /// The process ended or the limit passed.
    pub fn wait_ready<T>(
        &mut self,
        limit: Duration,
        mut probe: impl FnMut() -> std::result::Result<T, String>,
    ) -> Result<T> {
        let mut ended = None;
        let (child, name) = (&mut self.child, &self.name);
        let outcome = wait_for(&format!("{name} to be ready"), limit, || {
            if let Ok(Some(status)) = child.try_wait() {
                ended = Some(status);
                return Ok(None);
            }
            probe().map(Some)
        });
        match outcome {
            Ok(Some(value)) => Ok(value),
            Ok(None) => bail!(
                "{name} ended at its start ({}); end of its log:\n{}",
                ended.map_or_else(|| "unknown status".to_owned(), |s| s.to_string()),
                self.log_tail()
            ),
            Err(error) => Err(error.context(format!("end of the log of {name}:\n{}", self.log_tail()))),
        }
    }

    /// The last 4 KiB of what it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let start = bytes.len().saturating_sub(4096);
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// Resident memory, in KiB.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        resident_kib(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// The process is gone.
pub fn resident_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS line")?;
    let number = line.trim().trim_end_matches("kB").trim();
    number.parse().with_context(|| format!("not a number of KiB: {number}"))
}

/// The same command, run so that the kernel kills it when the thread that started it ends.
pub(crate) fn dying_with_us(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    wrapped
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}

type Request = (Command, SyncSender<io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that started the child ends, and test threads end early; so
/// all children are started by one thread that never does.
pub(crate) fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static REQUESTS: OnceLock<SyncSender<Request>> = OnceLock::new();
    let requests = REQUESTS.get_or_init(|| {
        let (sender, receiver) = sync_channel::<Request>(16);
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = receiver.recv() {
                // The asker waits for the answer; it can only be gone if its thread was torn down.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (sender, receiver) = sync_channel(1);
    requests.send((command, sender)).map_err(|_| gone())?;
    receiver.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::RunDir;

    #[test]
    fn child_outlives_the_thread_that_asked_for_it_and_dies_on_drop() {
        let dir = RunDir::create("process").unwrap();
        let log = dir.path().join("log");
        let start = || Process::spawn(Path::new("sleep"), ["600"], Path::new("/"), &log);
        let mut child = std::thread::scope(|s| s.spawn(start).join().unwrap()).unwrap();
        assert!(child.wait(Duration::from_millis(300)).is_err(), "died with the asking thread");
        let id = i32::try_from(child.id()).unwrap();
        drop(child);
        assert!(kill(Pid::from_raw(id), None).is_err(), "still there after drop");
    }

    #[test]
    fn child_dies_with_its_killed_starter() {
        // A shell stands for the test process: it starts a child in our way, tells its id, and is killed.
        let dir = RunDir::create("process").unwrap();
        let log = dir.path().join("log");
        let script = "setpriv --pdeathsig KILL -- sleep 600 & echo $!; wait";
        let mut shell = Process::spawn(Path::new("sh"), ["-c", script], Path::new("/"), &log).unwrap();
        let id: i32 = wait_for("the child's id", Duration::from_secs(10), || {
            let text = shell.log_tail();
            text.trim().parse().map_err(|_| format!("{text:?}"))
        })
        .unwrap();
        let command = format!("/proc/{id}/comm");
        wait_for("sleep to run", Duration::from_secs(10), || match std::fs::read_to_string(&command) {
            Ok(name) if name.trim() == "sleep" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
        shell.kill();
        wait_for("the end of the child", Duration::from_secs(10), || {
            let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // An orphan nobody reaps stays as a zombie where there is no init process.
            if state.is_empty() || state.contains(") Z") { Ok(()) } else { Err(state) }
        })
        .unwrap();
    }

    #[test]
    fn failed_start_shows_the_log() {
        let dir = RunDir::create("process").unwrap();
        let log = dir.path().join("log");
        let mut child =
            Process::spawn(Path::new("sh"), ["-c", "echo bad option; exit 3"], Path::new("/"), &log).unwrap();
        let error = child.wait_ready(Duration::from_secs(10), || Err::<(), _>("no".into())).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("bad option") && text.contains('3'), "{text}");
    }
}
