//! What is said over the socket in the data folder: one JSON object a line, a request and its answer.
//!
//! The socket belongs to the user who runs `sluice dev` (mode 0600); keys cross it in clear.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_types::{DeviceId, TenantId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Longest line either side reads, in bytes.
pub(crate) const MAX_LINE: u64 = 4 << 20;

/// Longest path a socket can have on Linux, its final zero not counted.
const MAX_SOCKET_PATH: usize = 107;

/// How long a command waits for the running process.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The version of this conversation; a running process of another one is told apart, not misread.
pub(crate) const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    pub(crate) request: Request,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Where the process listens.
    Info,
    AddDevice {
        id: DeviceId,
        tenant: TenantId,
        psk_hex: String,
    },
    ListDevices {
        tenant: Option<TenantId>,
    },
    ShowDevice {
        id: DeviceId,
        reveal: bool,
    },
    AddKey {
        id: DeviceId,
        psk_hex: String,
    },
    RetireKey {
        id: DeviceId,
        key: u32,
    },
    Withdraw {
        id: DeviceId,
        how: Withdrawal,
    },
    ResumeDevice {
        id: DeviceId,
    },
    ReleaseDevice {
        id: DeviceId,
    },
}

/// How a device loses the right to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Withdrawal {
    /// For good.
    Revoke { reason: String },
    /// Until it is resumed.
    Suspend { reason: String },
    /// Out of the registry.
    Remove,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    Info(Info),
    Device(DeviceView),
    Devices { devices: Vec<DeviceView> },
    Released { hold: Option<HoldView> },
    Done,
    Error { message: String },
}

/// The addresses of a running process, as `--ready-file` has them too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Info {
    pub(crate) tcp: String,
    pub(crate) udp: String,
    pub(crate) admin: String,
    pub(crate) kafka: String,
}

/// A device as it is shown.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct DeviceView {
    pub(crate) device: DeviceId,
    pub(crate) tenant: TenantId,
    pub(crate) state: String,
    pub(crate) profile: String,
    /// Its own keys, oldest first.
    pub(crate) keys: Vec<KeyView>,
    /// RFC 3339, UTC.
    pub(crate) created: String,
    /// Why and until when it is refused for a time; only when one device is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<HoldView>,
    /// Only when it was asked for with `--reveal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) psk_hex: Option<String>,
}

/// A key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyView {
    pub(crate) epoch: u32,
    /// RFC 3339, UTC.
    pub(crate) created: String,
    /// From when on it opens no session. RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_after: Option<String>,
}

/// Why a device is refused for a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HoldView {
    pub(crate) reason: String,
    /// RFC 3339, UTC.
    pub(crate) since: String,
    /// RFC 3339, UTC.
    pub(crate) until: String,
}

/// Why the running process could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(
        "no `sluice dev` is running on the data folder {}: start one, or name the store with `--config FILE`",
        folder.display()
    )]
    NotRunning { folder: PathBuf },
    #[error("the path of the socket {} has {length} bytes, at most {MAX_SOCKET_PATH} work: choose a shorter --data-dir", path.display())]
    PathTooLong { path: PathBuf, length: usize },
    #[error("the running `sluice dev` did not answer within {} s", ANSWER_WITHIN.as_secs())]
    TimedOut,
    #[error("the connection to the running `sluice dev` broke")]
    Broken(#[source] io::Error),
    #[error("the running `sluice dev` is of another version: restart it")]
    OtherVersion(#[source] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Where the socket of a data folder lies.
pub(crate) fn socket_path(data_dir: &Path) -> Result<PathBuf, AskError> {
    let path = data_dir.join("control.sock");
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(AskError::PathTooLong { path, length });
    }
    Ok(path)
}

/// Asks the process that runs on a data folder.
pub(crate) async fn ask(data_dir: &Path, request: Request) -> Result<Answer, AskError> {
    let path = socket_path(data_dir)?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, exchange(&path, data_dir, request)).await;
    match answer.map_err(|_| AskError::TimedOut)?? {
        Answer::Error { message } => Err(AskError::Refused(message)),
        answer => Ok(answer),
    }
}

async fn exchange(path: &Path, data_dir: &Path, request: Request) -> Result<Answer, AskError> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning { folder: data_dir.to_owned() }
        }
        _ => AskError::Broken(error),
    })?;
    let envelope = Envelope { version: VERSION, request };
    let mut line = serde_json::to_vec(&envelope).map_err(AskError::OtherVersion)?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(AskError::Broken)?;
    let mut answer = String::new();
    BufReader::new(stream).take(MAX_LINE).read_line(&mut answer).await.map_err(AskError::Broken)?;
    serde_json::from_str(&answer).map_err(AskError::OtherVersion)
}
