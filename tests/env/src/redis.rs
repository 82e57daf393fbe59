//! A single Redis server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::cache::RunDir;
use crate::ports::Port;
use crate::process::Process;
use crate::tools;
use crate::wait::wait_for;

const START_LIMIT: Duration = Duration::from_secs(20);
/// A port is free when claimed and may be taken by a stranger before the server binds it.
const START_TRIES: usize = 3;

/// A Redis server of its own for one test. Nothing is persisted unless the arguments say so, so [`Redis::restart`]
/// after [`Redis::kill`] comes back empty.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: Port,
    args: Vec<String>,
    _bus: Option<Port>,
    dir: RunDir,
}

impl Redis {
    /// Starts a server without persistence.
    ///
    /// # Errors
    /// `redis-server` is missing (the message says what to install) or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments, such as `["--requirepass", "x"]` or `["--appendonly", "yes"]`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with(args: &[&str]) -> Result<Self> {
        Self::start_on(args, || Ok((Port::claim()?, None)))
    }

    pub(crate) fn start_on(args: &[&str], ports: impl Fn() -> Result<(Port, Option<Port>)>) -> Result<Self> {
        let mut last = None;
        for _ in 0..START_TRIES {
            let (port, bus) = ports()?;
            let dir = RunDir::create("redis")?;
            let args = args.iter().map(|a| (*a).to_owned()).collect();
            let mut redis = Self { process: None, port, args, _bus: bus, dir };
            match redis.restart() {
                Ok(()) => return Ok(redis),
                Err(error) if format!("{error:#}").contains("Address already in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    /// Starts the server again on its port, with its files; kills it first if it runs.
    ///
    /// # Errors
    /// The server does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let server = tools::redis_server()?;
        let mut args = vec!["--port".to_owned(), self.port().to_string()];
        let dir = self.dir.path().display().to_string();
        args.extend(
            ["--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--loglevel", "notice"].map(str::to_owned),
        );
        args.extend(self.args.iter().cloned());
        let mut process =
            Process::spawn(&server, &args, self.dir.path(), &self.dir.path().join("redis.log"))?;
        let port = self.port.number();
        // Any answer will do: with a password set it is an error reply.
        process.wait_ready(START_LIMIT, || match ask(port, "PING\r\n") {
            Ok(reply) if reply.contains("LOADING") => Err(reply),
            Ok(reply) if reply.starts_with(['+', '-']) => Ok(()),
            Ok(reply) => Err(format!("reply {reply:?}")),
            Err(error) => Err(error.to_string()),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// A server for tests that share: the one of `SLUICE_TEST_REDIS`, else one started once for this process.
    /// Use key prefixes from [`crate::unique`]; never flush or hurt it.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn shared() -> Result<SharedRedis> {
        static OWN: OnceLock<std::result::Result<Redis, String>> = OnceLock::new();
        if let Some(url) = std::env::var("SLUICE_TEST_REDIS").ok().filter(|v| !v.is_empty()) {
            return Ok(SharedRedis { url });
        }
        match OWN.get_or_init(|| Self::start().map_err(|e| format!("{e:#}"))) {
            Ok(redis) => Ok(SharedRedis { url: redis.url() }),
            Err(error) => bail!("{error}"),
        }
    }

    /// `redis://127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The server's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server's clock (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGSTOP)
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal(Signal::SIGCONT)
    }

    /// Removes every key.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn flush(&self) -> Result<()> {
        self.command(&["FLUSHALL"]).map(drop)
    }

    /// Runs one command through `redis-cli` and returns what it printed.
    ///
    /// # Errors
    /// The server refuses the command or does not answer.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        cli(self.port(), args)
    }

    /// Waits until a replica has all that this server holds now. (`WAIT` on a connection of its own says nothing: it counts
    /// the writes of that connection only.)
    ///
    /// # Errors
    /// It does not answer, or no replica gets there within 30 s.
    pub fn wait_replicated(&self) -> Result<()> {
        let offset_in = |text: &str, name: &str| -> Option<u64> {
            let value = text.split([',', '\n', '\r']).find_map(|field| field.strip_prefix(name))?;
            value.parse().ok()
        };
        let mut target = None;
        wait_for("a replica to have it all", Duration::from_secs(30), || {
            let info = self.command(&["INFO", "replication"]).map_err(|e| e.to_string())?;
            let written = offset_in(&info, "master_repl_offset:").ok_or_else(|| info.clone())?;
            let target = *target.get_or_insert(written);
            let online =
                info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
            let there = online.filter_map(|line| offset_in(line, "offset=")).any(|offset| offset >= target);
            if there { Ok(()) } else { Err(info) }
        })
    }

    /// The running process.
    ///
    /// # Errors
    /// It was killed.
    pub fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("this Redis was killed")
    }
}

/// Where a shared Redis listens.
#[derive(Debug, Clone)]
pub struct SharedRedis {
    url: String,
}

impl SharedRedis {
    /// Its `redis://` URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

pub(crate) fn cli(port: u16, args: &[&str]) -> Result<String> {
    let output = Command::new(tools::redis_cli()?)
        .args(["-e", "-h", "127.0.0.1", "-p", &port.to_string()])
        .args(args)
        .output()
        .context("cannot run redis-cli")?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("redis-cli {} on port {port}: {}{text}", args.join(" "), errors.trim_end());
    }
    Ok(text)
}

/// One inline command, one short reply; far cheaper than a `redis-cli` in a polling loop.
fn ask(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(command.as_bytes())?;
    let mut reply = [0; 256];
    let count = stream.read(&mut reply)?;
    Ok(String::from_utf8_lossy(reply.get(..count).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_server_comes_back_empty_on_its_port() {
        let mut redis = Redis::start().unwrap();
        let port = redis.port();
        assert_eq!(redis.command(&["SET", "a", "1"]).unwrap(), "OK");
        redis.kill();
        assert!(redis.command(&["GET", "a"]).is_err(), "answers although killed");
        redis.restart().unwrap();
        assert_eq!(redis.port(), port);
        assert_eq!(redis.command(&["EXISTS", "a"]).unwrap(), "0");
    }

    #[test]
    fn paused_server_answers_after_resume() {
        let redis = Redis::start().unwrap();
        redis.command(&["SET", "a", "1"]).unwrap();
        redis.pause().unwrap();
        assert!(ask(redis.port(), "PING\r\n").is_err(), "answers although paused");
        redis.resume().unwrap();
        assert_eq!(redis.command(&["GET", "a"]).unwrap(), "1");
        redis.flush().unwrap();
        assert_eq!(redis.command(&["DBSIZE"]).unwrap(), "0");
    }

    #[test]
    fn password_is_demanded_when_asked_for() {
        let redis = Redis::start_with(&["--requirepass", "swordfish"]).unwrap();
        let refused = redis.command(&["GET", "a"]).unwrap_err().to_string();
        assert!(refused.contains("NOAUTH"), "{refused}");
    }

    #[test]
    fn wrong_argument_is_reported_with_the_log() {
        let error = format!("{:#}", Redis::start_with(&["--no-such-option", "1"]).unwrap_err());
        assert!(error.contains("no-such-option"), "{error}");
    }
}
