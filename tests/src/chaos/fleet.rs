//! Simulated devices that keep a log of what they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sluice_sim::{Config, Connection, Exhaustion, Happening, Target};
use sluice_types::DeviceId;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::{now, time_of_day, wait_for};
use crate::sdk::{Streamed, payload};
use crate::world::Credentials;

/// Messages of one device: its number times this, and above.
const MESSAGES: u32 = 1_000_000;

/// What fits in one frame (WIRE.md section 8).
const MAX_FRAGMENT: usize = 452;

/// Pause before a device connects again.
const BACKOFF: Duration = Duration::from_millis(200);

/// The device of a message, by the number in its payload.
#[must_use]
pub const fn number_of(message: u32) -> u32 {
    message / MESSAGES
}

/// Bytes of each message of the device with this number: every fourth sends messages of two fragments.
#[must_use]
pub const fn size_of(device: u32) -> usize {
    if device % 4 == 3 { 700 } else { 60 }
}

/// Whether a device with this number needs two frames for a message.
#[must_use]
pub const fn is_fragmented(device: u32) -> bool {
    size_of(device) > MAX_FRAGMENT
}

/// Half of the devices are like the clients in C, whose session ends with a message that is not acknowledged; the others are like
/// Python, where only the message fails.
fn config(device: u32) -> Config {
    let exhaustion =
        if (device / 4).is_multiple_of(2) { Exhaustion::CloseSession } else { Exhaustion::KeepSession };
    Config { exhaustion, ..Config::default() }
}

/// What one device saw.
#[derive(Debug, Clone)]
pub struct DeviceLog {
    /// Which.
    pub device: DeviceId,
    /// Its number in the fleet; its messages tell it.
    pub number: u32,
    /// The messages that the server acknowledged.
    pub acked: Vec<u32>,
    /// Sessions opened.
    pub sessions: u64,
    /// Messages that were given up.
    pub given_up: u64,
    /// Ends of sessions that the device did not ask for, and vain attempts to connect, by reason.
    pub closed: BTreeMap<String, u64>,
    /// The longest time from the first attempt at a message to the next acknowledgement of any.
    pub longest_dark: Duration,
}

impl DeviceLog {
    /// Of a device that has sent nothing.
    #[must_use]
    pub const fn new(device: DeviceId, number: u32) -> Self {
        Self {
            device,
            number,
            acked: Vec::new(),
            sessions: 0,
            given_up: 0,
            closed: BTreeMap::new(),
            longest_dark: Duration::ZERO,
        }
    }

    /// Number of the first message of the device with this number.
    #[must_use]
    pub const fn first_message(number: u32) -> u32 {
        number * MESSAGES
    }

    /// The log of an official client, out of a stream whose first message was [`DeviceLog::first_message`].
    #[must_use]
    pub fn of_stream(device: DeviceId, number: u32, streamed: &Streamed) -> Self {
        Self {
            acked: streamed.acked.clone(),
            sessions: streamed.reconnects + 1,
            closed: streamed.failures.clone().into_iter().collect(),
            longest_dark: streamed.longest,
            ..Self::new(device, number)
        }
    }
}

type SharedLog = Arc<Mutex<DeviceLog>>;

/// Devices that send one message after the other until they are told to stop.
#[derive(Debug)]
pub struct Fleet {
    runtime: Runtime,
    logs: Vec<SharedLog>,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Starts devices, numbered from 0, that send to `server` over UDP, `interval` after each acknowledgement.
    ///
    /// # Errors
    /// No runtime can be had.
    pub fn start(devices: &[Credentials], server: SocketAddr, interval: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let stop = watch::Sender::new(false);
        let mut fleet = Self { runtime, logs: Vec::new(), tasks: Vec::new(), stop };
        for (credentials, number) in devices.iter().zip(0..) {
            let log = Arc::new(Mutex::new(DeviceLog::new(credentials.id, number)));
            fleet.logs.push(Arc::clone(&log));
            let device = Device {
                credentials: credentials.clone(),
                server,
                interval,
                log,
                number,
                next: DeviceLog::first_message(number),
                waiting_since: None,
                stop: fleet.stop.subscribe(),
            };
            fleet.tasks.push(fleet.runtime.spawn(device.run()));
        }
        Ok(fleet)
    }

    /// What each device saw until now.
    #[must_use]
    pub fn logs(&self) -> Vec<DeviceLog> {
        let copy = |log: &SharedLog| log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.logs.iter().map(copy).collect()
    }

    /// Waits until every device has `more` acknowledgements more than now.
    ///
    /// # Errors
    /// One does not get them within `limit`; the text has its log.
    pub fn wait_progress(&self, more: usize, limit: Duration) -> Result<()> {
        self.wait_progress_of(self.logs.len(), more, limit)
    }

    /// Waits until at least so many devices have `more` acknowledgements more than now.
    ///
    /// # Errors
    /// They do not get them within `limit`; the text has the log of one.
    pub fn wait_progress_of(&self, devices: usize, more: usize, limit: Duration) -> Result<()> {
        let allowed = self.logs.len().saturating_sub(devices);
        let before: Vec<_> = self.logs().iter().map(|log| log.acked.len()).collect();
        let result = wait_for(&format!("{more} more acknowledgements of {devices} devices"), limit, || {
            let logs = self.logs();
            let short = logs.iter().zip(&before).filter(|(log, before)| log.acked.len() < **before + more);
            match short.count() {
                count if count <= allowed => Ok(()),
                count => Err(format!("{count} of {} devices have fewer", logs.len())),
            }
        });
        if let Err(error) = result {
            let logs = self.logs();
            let short = logs.iter().zip(&before).find(|(log, before)| log.acked.len() < **before + more);
            bail!("{error:#}; the first of them: {short:?}");
        }
        Ok(())
    }

    /// Lets each device finish its message and say goodbye, and gives their logs.
    ///
    /// # Errors
    /// One does not end within `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<Vec<DeviceLog>> {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut self.tasks);
        self.runtime.block_on(async {
            let all = async {
                for task in tasks {
                    task.await?;
                }
                Ok::<_, anyhow::Error>(())
            };
            tokio::time::timeout(limit, all).await?
        })?;
        Ok(self.logs())
    }
}

struct Device {
    credentials: Credentials,
    server: SocketAddr,
    interval: Duration,
    log: SharedLog,
    number: u32,
    next: u32,
    /// Since when it tries to send without an acknowledgement.
    waiting_since: Option<Instant>,
    stop: watch::Receiver<bool>,
}

impl Device {
    async fn run(mut self) {
        loop {
            let reason = self.connection().await;
            if *self.stop.borrow() {
                return;
            }
            eprintln!("{} device {}: {reason}", time_of_day(), self.credentials.id);
            self.write(|log| *log.closed.entry(reason).or_default() += 1);
            tokio::time::sleep(BACKOFF).await;
        }
    }

    fn write(&self, change: impl FnOnce(&mut DeviceLog)) {
        change(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One connection from its beginning to its end, and why it ended.
    async fn connection(&mut self) -> String {
        let (id, target) = (*self.credentials.id.as_bytes(), Target::Udp(self.server));
        let opened = Connection::open(target, id, self.credentials.psk.expose(), config(self.number)).await;
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(error) => return error.to_string(),
        };
        let mut stop = self.stop.clone();
        let mut connected = false;
        loop {
            let happening = tokio::select! {
                happening = connection.next() => happening,
                // Only where nothing is under way: a message in the making is finished.
                _ = stop.wait_for(|stop| *stop), if !connected => return "told to stop".to_owned(),
            };
            match happening {
                Happening::Connected => {
                    connected = true;
                    self.write(|log| log.sessions += 1);
                }
                Happening::Done => self.acknowledged(),
                Happening::GivenUp => {
                    eprintln!("{} device {}: gave up {}", time_of_day(), self.credentials.id, self.next);
                    self.write(|log| log.given_up += 1);
                }
                Happening::Message(_) | Happening::Rekeyed => continue,
                Happening::Closed(reason) => return format!("{reason:?}"),
            }
            if happening != Happening::Connected {
                self.next += 1;
                self.pause(&mut connection).await;
            }
            if *self.stop.borrow() {
                connection.bye();
            } else if connection.send(&payload(self.next, size_of(self.number))).is_ok() {
                self.waiting_since.get_or_insert_with(now);
            }
        }
    }

    fn acknowledged(&mut self) {
        let dark = self.waiting_since.take().map_or(Duration::ZERO, |since| now().duration_since(since));
        let message = self.next;
        self.write(|log| {
            log.acked.push(message);
            log.longest_dark = log.longest_dark.max(dark);
        });
    }

    /// Between two messages; the connection lives on meanwhile.
    async fn pause(&self, connection: &mut Connection) {
        let mut stop = self.stop.clone();
        let pause = tokio::time::sleep(self.interval);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                _ = stop.wait_for(|stop| *stop) => return,
                happening = connection.next() => {
                    // A connection that ended says so again when it is asked next.
                    if matches!(happening, Happening::Closed(_)) {
                        return;
                    }
                }
            }
        }
    }
}
