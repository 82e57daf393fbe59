//! Official clients: `tests/sdk/driver.py` in the virtual environment of one release.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use sluice_test_env::PythonSdk;

use crate::world::Credentials;

/// How far an answer may lag behind the time the driver itself was given.
const ANSWER_LAG: Duration = Duration::from_secs(20);

/// Longest time one message of a stream may need: more than the longest stall of a test, as over TCP a message just waits.
const MESSAGE_LIMIT: Duration = Duration::from_secs(90);

/// The way a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As the SDK names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What the SDK raised: the exception's class and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdkError {
    /// Such as `OSError`.
    pub class: String,
    /// Its message.
    pub text: String,
    /// How long the call took.
    pub took: Duration,
}

impl std::fmt::Display for SdkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (after {:?})", self.class, self.text, self.took)
    }
}

impl std::error::Error for SdkError {}

/// The bytes of message `index` of that size: they say which message they are and differ at every place. `driver.py`
/// has the same function.
#[must_use]
pub fn payload(index: u32, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    for place in 0..size {
        let sum = u64::from(index) * 131 + place as u64 * 7 + size as u64;
        bytes.push(u8::try_from(sum & 0xff).expect("masked to a byte"));
    }
    for (byte, number) in bytes.iter_mut().zip(index.to_le_bytes()) {
        *byte = number;
    }
    bytes
}

type Waiting = Arc<Mutex<Option<HashMap<u64, SyncSender<Value>>>>>;

/// A process with clients of one release of the SDK.
#[derive(Debug)]
pub struct Sdk {
    child: Child,
    requests: Mutex<Option<ChildStdin>>,
    waiting: Waiting,
    next: AtomicU64,
    release: String,
}

impl Sdk {
    /// Starts a process with the SDK of that release.
    ///
    /// # Errors
    /// The release is not installed (the text says what to run), or is not what the environment claims.
    pub fn start(release: &str) -> Result<Self> {
        let python = PythonSdk::venv(release)?;
        let mut command = python.command(&Self::script("driver.py"), &[]);
        // It ends with its standard input, which the kernel closes with this process.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the SDK's interpreter")?;
        let requests = child.stdin.take().context("no standard input")?;
        let answers = child.stdout.take().context("no standard output")?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let for_reader = Arc::clone(&waiting);
        std::thread::spawn(move || read_answers(BufReader::new(answers), &for_reader));
        let sdk = Self {
            child,
            requests: Mutex::new(Some(requests)),
            waiting,
            next: AtomicU64::new(1),
            release: release.to_owned(),
        };
        let hello = sdk.request("hello", "", Map::new(), Duration::from_secs(20))?.wait()?;
        if hello.get("release").and_then(Value::as_str) != Some(release) {
            bail!("expected the SDK {release}, found {hello:?}");
        }
        Ok(sdk)
    }

    /// The folder of the Python scripts.
    #[must_use]
    pub fn script(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
    }

    /// The release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// A client of this process, not connected yet.
    pub fn device(&self, credentials: &Credentials, transport: Transport, server: SocketAddr) -> Device<'_> {
        let name = format!("{}-{}", credentials.id, self.next.fetch_add(1, Ordering::Relaxed));
        let login = json!({
            "transport": transport.as_str(),
            "host": server.ip().to_string(),
            "port": server.port(),
            "psk": hex::encode(credentials.psk.expose()),
            "device": credentials.id.to_string(),
        });
        let Value::Object(login) = login else { unreachable!("an object was just written") };
        Device { sdk: self, name, login }
    }

    fn request(
        &self,
        op: &str,
        client: &str,
        mut fields: Map<String, Value>,
        limit: Duration,
    ) -> Result<Pending> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        fields.insert("id".into(), id.into());
        fields.insert("op".into(), op.into());
        fields.insert("client".into(), client.into());
        let (sender, answer) = sync_channel(1);
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = waiting.as_mut().context("the SDK's process has ended")?;
            waiting.insert(id, sender);
        }
        let mut line = Value::Object(fields).to_string();
        line.push('\n');
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = requests.as_mut().context("the SDK's process was told to end")?;
        requests.write_all(line.as_bytes()).context("the SDK's process has ended")?;
        Ok(Pending { answer, limit: limit + ANSWER_LAG, what: format!("{op} of {client}") })
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It may be in the middle of something; nothing of it is wanted any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_answers(answers: impl BufRead, waiting: &Waiting) {
    for line in answers.lines().map_while(std::result::Result::ok) {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            eprintln!("driver.py: {line}");
            continue;
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = answer
            .get("id")
            .and_then(Value::as_u64)
            .and_then(|id| waiting.as_mut().and_then(|waiting| waiting.remove(&id)));
        if let Some(sender) = sender {
            // A test that no longer waits has dropped the other end.
            let _ = sender.send(answer);
        }
    }
    // Whoever still waits hears at once that nothing will come.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// An operation that was started; the answer can be waited for later.
#[derive(Debug)]
pub struct Pending {
    answer: Receiver<Value>,
    limit: Duration,
    what: String,
}

impl Pending {
    /// The operation's results.
    ///
    /// # Errors
    /// [`SdkError`] when the SDK raised something; another error when the driver does not answer.
    pub fn wait(self) -> Result<Map<String, Value>> {
        let Self { answer, limit, what } = self;
        let answer =
            answer.recv_timeout(limit).map_err(|_| anyhow!("no answer to {what} within {limit:?}"))?;
        let Value::Object(answer) = answer else { bail!("{what}: answer {answer}") };
        if answer.get("ok") == Some(&Value::Bool(true)) {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let took = Duration::from_millis(answer.get("ms").and_then(Value::as_u64).unwrap_or_default());
        Err(SdkError { class: text("error"), text: text("text"), took }.into())
    }

    /// What the SDK raised.
    ///
    /// # Errors
    /// It succeeded, or the driver does not answer.
    pub fn failure(self) -> Result<SdkError> {
        let what = self.what.clone();
        match self.wait() {
            Ok(answer) => bail!("{what} succeeded although it must not: {answer:?}"),
            Err(error) => error.downcast::<SdkError>(),
        }
    }
}

/// What a stream of messages came to.
#[derive(Debug, Clone)]
pub struct Streamed {
    /// The messages whose `send` returned: over UDP, those that were acknowledged.
    pub acked: Vec<u32>,
    /// Calls of `send`.
    pub sent: u64,
    /// Exceptions by class.
    pub failures: HashMap<String, u64>,
    /// Connections made after the first.
    pub reconnects: u64,
    /// The longest a message needed, repetitions by the SDK included.
    pub longest: Duration,
}

/// One official client.
#[derive(Debug, Clone)]
pub struct Device<'a> {
    sdk: &'a Sdk,
    name: String,
    login: Map<String, Value>,
}

impl Device<'_> {
    fn start(&self, op: &str, fields: Value, limit: Duration) -> Result<Pending> {
        let Value::Object(mut fields) = fields else { bail!("{op}: fields {fields}") };
        fields.entry("timeout").or_insert_with(|| limit.as_secs_f64().into());
        self.sdk.request(op, &self.name, fields, limit)
    }

    /// Starts to connect.
    ///
    /// # Errors
    /// The process has ended.
    pub fn start_connect(&self, limit: Duration) -> Result<Pending> {
        self.start("connect", Value::Object(self.login.clone()), limit)
    }

    /// Connects within 10 s and gives the session id, 32 hex digits.
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn connect(&self) -> Result<String> {
        session_id(&self.start_connect(Duration::from_secs(10))?.wait()?)
    }

    /// Starts to send a message.
    ///
    /// # Errors
    /// The process has ended.
    pub fn start_send(&self, message: &[u8], limit: Duration) -> Result<Pending> {
        self.start("send", json!({ "hex": hex::encode(message) }), limit)
    }

    /// Sends a message within 30 s; over UDP it returns when the message is acknowledged.
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.start_send(message, Duration::from_secs(30))?.wait().map(drop)
    }

    /// Starts to receive a message.
    ///
    /// # Errors
    /// The process has ended.
    pub fn start_recv(&self, limit: Duration) -> Result<Pending> {
        self.start("recv", json!({}), limit)
    }

    /// Receives a message.
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn recv(&self, limit: Duration) -> Result<Vec<u8>> {
        message(&self.start_recv(limit)?.wait()?)
    }

    /// Sends a PING.
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn ping(&self) -> Result<()> {
        self.start("ping", json!({}), Duration::from_secs(15))?.wait().map(drop)
    }

    /// Changes the keys (1.2 and later).
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn rekey(&self) -> Result<()> {
        self.start("rekey", json!({}), Duration::from_secs(15))?.wait().map(drop)
    }

    /// Says goodbye; returns how long that took.
    ///
    /// # Errors
    /// What the SDK raised.
    pub fn bye(&self) -> Result<Duration> {
        let answer = self.start("bye", json!({}), Duration::from_secs(30))?.wait()?;
        Ok(Duration::from_millis(answer.get("ms").and_then(Value::as_u64).unwrap_or_default()))
    }

    /// Goes away without a word.
    ///
    /// # Errors
    /// The process has ended.
    pub fn close(&self) -> Result<()> {
        self.start("close", json!({}), Duration::from_secs(5))?.wait().map(drop)
    }

    /// How many frames of a type, such as `PONG`, the client has read in this session.
    ///
    /// # Errors
    /// The process has ended.
    pub fn frames(&self, frame_type: &str) -> Result<u64> {
        let answer = self.start("frames", json!({}), Duration::from_secs(5))?.wait()?;
        let count = answer.get("counts").and_then(|counts| counts.get(frame_type));
        Ok(count.and_then(Value::as_u64).unwrap_or_default())
    }

    /// Starts to send messages `first..first + count` of `size` bytes, `interval` apart; with `reconnect` it connects
    /// again after an error and repeats the message.
    ///
    /// # Errors
    /// The process has ended.
    pub fn start_stream(&self, stream: &StreamPlan) -> Result<Pending> {
        let mut fields = json!({
            "first": stream.first,
            "count": stream.count,
            "size": stream.size,
            "interval": stream.interval.as_secs_f64(),
            "give_up": stream.limit.as_secs_f64(),
            "timeout": MESSAGE_LIMIT.as_secs_f64(),
        });
        if stream.reconnect {
            let mut login = self.login.clone();
            login.insert("timeout".into(), 5.into());
            fields["connect"] = Value::Object(login);
        }
        // The last message may have started just before the limit.
        self.start("stream", fields, stream.limit + MESSAGE_LIMIT)
    }

    /// Ends the running stream after the message in the making.
    ///
    /// # Errors
    /// The process has ended.
    pub fn stop_stream(&self) -> Result<()> {
        self.start("stop", json!({}), Duration::from_secs(5))?.wait().map(drop)
    }
}

/// What a stream shall send.
#[derive(Debug, Clone, Copy)]
pub struct StreamPlan {
    /// Number of the first message.
    pub first: u32,
    /// How many messages.
    pub count: u32,
    /// Their size, bytes.
    pub size: usize,
    /// Pause after each.
    pub interval: Duration,
    /// Time after which no further message is begun.
    pub limit: Duration,
    /// Whether to connect again after an error.
    pub reconnect: bool,
}

impl Default for StreamPlan {
    fn default() -> Self {
        Self {
            first: 0,
            count: u32::MAX,
            size: 100,
            interval: Duration::ZERO,
            limit: Duration::from_secs(120),
            reconnect: true,
        }
    }
}

/// The session id in an answer to `connect`.
///
/// # Errors
/// There is none.
pub fn session_id(answer: &Map<String, Value>) -> Result<String> {
    let id = answer.get("session").and_then(Value::as_str).context("no session id")?;
    Ok(id.to_owned())
}

/// The bytes in an answer to `recv`.
///
/// # Errors
/// There are none.
pub fn message(answer: &Map<String, Value>) -> Result<Vec<u8>> {
    let text = answer.get("hex").and_then(Value::as_str).context("no bytes")?;
    hex::decode(text).map_err(|error| anyhow!("no hex: {error}"))
}

impl TryFrom<Map<String, Value>> for Streamed {
    type Error = anyhow::Error;

    fn try_from(answer: Map<String, Value>) -> Result<Self> {
        let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
        let acked = answer.get("acked").cloned().context("no list of acknowledged messages")?;
        let failures = answer.get("failures").cloned().context("no failures")?;
        Ok(Self {
            acked: serde_json::from_value(acked).context("not a list of numbers")?,
            sent: number("sent"),
            failures: serde_json::from_value(failures).context("not a table of counts")?,
            reconnects: number("reconnects"),
            longest: Duration::from_millis(number("longest_ms")),
        })
    }
}
