//! Simulated devices that do what a test tells them, one step at a time.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_sim::{Config, Connection, Exhaustion, Happening, Target};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::fleet::{DeviceLog, size_of};
use crate::sdk::{Transport, payload};
use crate::world::Credentials;

/// Long enough for what a living edge answers at once, on any machine.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Steps that wait to be asked for: a device does one thing at a time.
const STEPS: usize = 16;

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It has a session.
    Connected,
    /// Its message is acknowledged (UDP), or taken by its connection (TCP).
    Through,
    /// It sent its message five times in vain; its session lives on.
    GivenUp,
    /// Its session is over, or there was none, and why.
    Closed(String),
}

/// Where probes run.
#[derive(Debug)]
pub struct Probes(Runtime);

/// One device. Over UDP it keeps its session, whatever becomes of its messages, as the clients in Python do.
#[derive(Debug)]
pub struct Probe {
    log: DeviceLog,
    transport: Transport,
    next: u32,
    messages: mpsc::Sender<Vec<u8>>,
    steps: Receiver<Step>,
}

impl Probes {
    /// With a thread of their own.
    ///
    /// # Errors
    /// No runtime can be had.
    pub fn start() -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        Ok(Self(runtime.worker_threads(1).enable_all().build().context("no runtime")?))
    }

    /// A device that begins to connect to `server`. Its messages are those of the device with this number in a fleet.
    #[must_use]
    pub fn connect(
        &self,
        device: &Credentials,
        number: u32,
        transport: Transport,
        server: SocketAddr,
    ) -> Probe {
        let (messages, to_send) = mpsc::channel(1);
        let (tell, steps) = sync_channel(STEPS);
        let target = match transport {
            Transport::Udp => Target::Udp(server),
            Transport::Tcp => Target::Tcp(server),
        };
        self.0.spawn(run(device.clone(), target, to_send, tell));
        let log = DeviceLog { sessions: 1, ..DeviceLog::new(device.id, number) };
        Probe { log, transport, next: DeviceLog::first_message(number), messages, steps }
    }
}

async fn run(
    device: Credentials,
    target: Target,
    mut messages: mpsc::Receiver<Vec<u8>>,
    tell: SyncSender<Step>,
) {
    let config = Config {
        exhaustion: Exhaustion::KeepSession,
        handshake_timeout: Some(HANDSHAKE),
        ..Config::default()
    };
    let opened = Connection::open(target, *device.id.as_bytes(), device.psk.expose(), config).await;
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(error) => {
            // Whoever is gone does not want to know.
            let _ = tell.try_send(Step::Closed(error.to_string()));
            return;
        }
    };
    let mut idle = false;
    loop {
        let happening = tokio::select! {
            happening = connection.next() => happening,
            message = messages.recv(), if idle => {
                // Dropped, the device is gone, as if it had lost its power.
                let Some(message) = message else { return };
                idle = connection.send(&message).is_err();
                continue;
            }
        };
        let step = match happening {
            Happening::Connected => Step::Connected,
            Happening::Done => Step::Through,
            Happening::GivenUp => Step::GivenUp,
            Happening::Message(_) | Happening::Rekeyed => continue,
            Happening::Closed(reason) => Step::Closed(format!("{reason:?}")),
        };
        idle = true;
        let closed = matches!(step, Step::Closed(_));
        if tell.try_send(step).is_err() || closed {
            return;
        }
    }
}

impl Probe {
    /// Its next message, its number in the payload. One at a time: ask for [`Probe::step`] before the next.
    ///
    /// # Errors
    /// Its session is over.
    pub fn send(&mut self) -> Result<u32> {
        let message = self.next;
        let sent = self.messages.try_send(payload(message, size_of(self.log.number)));
        sent.with_context(|| format!("device {} cannot send", self.log.number))?;
        self.next += 1;
        Ok(message)
    }

    /// The next thing that happens to it.
    ///
    /// # Errors
    /// Nothing does within `limit`.
    pub fn step(&mut self, limit: Duration) -> Result<Step> {
        let number = self.log.number;
        let step = self.steps.recv_timeout(limit);
        let step = step.with_context(|| format!("device {number}: nothing happens within {limit:?}"))?;
        match &step {
            Step::Through => self.log.acked.push(self.next - 1),
            Step::GivenUp => self.log.given_up += 1,
            Step::Closed(reason) => *self.log.closed.entry(reason.clone()).or_default() += 1,
            Step::Connected => {}
        }
        Ok(step)
    }

    /// Waits for a step that must come next.
    ///
    /// # Errors
    /// Another one comes, or none within `limit`.
    pub fn expect(&mut self, expected: &Step, limit: Duration) -> Result<()> {
        let step = self.step(limit)?;
        let (number, transport) = (self.log.number, self.transport.as_str());
        ensure!(step == *expected, "device {number} over {transport}: expected {expected:?}, seen {step:?}");
        Ok(())
    }

    /// Sends messages until one is through. Those before were given up.
    ///
    /// # Errors
    /// Its session ends, or none is through within `limit`.
    pub fn get_through(&mut self, limit: Duration) -> Result<()> {
        let deadline = crate::now() + limit;
        loop {
            self.send()?;
            match self.step(deadline.saturating_duration_since(crate::now()))? {
                Step::Through => return Ok(()),
                Step::GivenUp => {}
                step => anyhow::bail!("device {}: {step:?}", self.log.number),
            }
        }
    }

    /// Goes on where the same device was: with its next message, and its log.
    pub fn follow(&mut self, earlier: Self) {
        self.next = earlier.next;
        self.log = DeviceLog { sessions: earlier.log.sessions + 1, ..earlier.log };
    }

    /// What it saw.
    #[must_use]
    pub const fn log(&self) -> &DeviceLog {
        &self.log
    }
}
