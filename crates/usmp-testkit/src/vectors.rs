//! `vectors.json`, typed as far as more than one test needs it (`docs/usmp/WIRE.md` section 15).

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer};
use usmp::{DeviceId, Secret, SessionId};

/// The file itself.
pub const JSON: &str = include_str!("../../usmp/tests/vectors.json");

/// The entries for version 0x02.
///
/// # Panics
///
/// When the file does not fit the types, which a test then shows.
#[must_use]
pub fn v2() -> &'static V2 {
    static VECTORS: LazyLock<File> =
        LazyLock::new(|| serde_json::from_str(JSON).expect("the vectors fit their types"));
    &VECTORS.v2
}

/// The whole file without types, for entries that one test alone reads.
///
/// # Panics
///
/// When the file is no JSON.
#[must_use]
pub fn raw() -> serde_json::Value {
    serde_json::from_str(JSON).expect("the vectors are JSON")
}

#[derive(Deserialize)]
struct File {
    v2: V2,
}

/// Bytes that stand in the file as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// The bytes as an array.
    ///
    /// # Panics
    ///
    /// When there are not exactly `N`.
    #[must_use]
    pub fn array<const N: usize>(&self) -> [u8; N] {
        self.0.as_slice().try_into().unwrap_or_else(|_| panic!("{} bytes instead of {N}", self.0.len()))
    }

    /// The bytes as a secret.
    ///
    /// # Panics
    ///
    /// When there are not exactly `N`.
    #[must_use]
    pub fn secret<const N: usize>(&self) -> Secret<N> {
        Secret::new(self.array())
    }

    /// The bytes as a device id.
    ///
    /// # Panics
    ///
    /// When there are not exactly 6.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        DeviceId(self.array())
    }

    /// The bytes as a session id.
    ///
    /// # Panics
    ///
    /// When there are not exactly 16.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        SessionId(self.array())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Entries for version 0x02.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file, which WIRE.md section 15 describes")]
pub struct V2 {
    pub replay_window_udp: ReplayWindowTrace,
    pub sessions: Vec<Session>,
    pub negative_session_frames: Vec<NegativeSessionFrames>,
    pub negative_handshake_server_role: Vec<NegativeServerHandshakes>,
    pub negative_handshake_client_role: Vec<NegativeClientHandshakes>,
}

/// The window of 64 numbers, step by step.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct ReplayWindowTrace {
    #[serde(rename = "k_c2s_hex")]
    pub k_c2s: Bytes,
    #[serde(rename = "session_id_hex")]
    pub session_id: Bytes,
    pub steps: Vec<ReplayWindowStep>,
}

/// One frame and the window after it.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct ReplayWindowStep {
    pub step: u32,
    pub seq: u32,
    #[serde(rename = "frame_hex")]
    pub frame: Bytes,
    pub accepted: bool,
    pub highest_seq_after: u32,
    #[serde(rename = "bitmap_after_hex")]
    pub bitmap_after: Bytes,
}

/// A recording of the official SDK, with all secrets.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct Session {
    pub name: String,
    pub transport: Transport,
    pub established: bool,
    pub secrets: Secrets,
    pub records: Vec<Record>,
    #[serde(default)]
    pub app_messages_in_delivery_order: AppMessages,
}

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp,
    Udp,
}

/// The fixed randomness of a recording.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct Secrets {
    #[serde(rename = "client_psk_hex")]
    pub client_psk: Bytes,
    #[serde(rename = "server_psk_hex")]
    pub server_psk: Bytes,
    #[serde(rename = "device_id_hex")]
    pub device_id: Bytes,
    #[serde(rename = "client_x25519_private_hex")]
    pub client_private: Bytes,
    #[serde(rename = "server_x25519_private_hex")]
    pub server_private: Bytes,
    #[serde(rename = "handshake_nonce_hex")]
    pub nonce: Bytes,
    #[serde(rename = "session_id_hex")]
    pub session_id: Bytes,
    #[serde(default)]
    pub key_epochs: Vec<KeyEpoch>,
    #[serde(default)]
    pub rekeys: Vec<Rekey>,
}

/// Keys of one epoch.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct KeyEpoch {
    pub epoch: u32,
    #[serde(rename = "k_c2s_hex")]
    pub k_c2s: Bytes,
    #[serde(rename = "k_s2c_hex")]
    pub k_s2c: Bytes,
}

/// One change of keys.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct Rekey {
    pub initiator: String,
    #[serde(rename = "salt_hex")]
    pub salt: Bytes,
}

/// One write or datagram, or a close.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct Record {
    pub i: u32,
    pub dir: Direction,
    #[serde(rename = "bytes_hex", default)]
    pub bytes: Bytes,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(rename = "type", default)]
    pub frame_type: Option<String>,
    #[serde(default)]
    pub seq: Option<u32>,
    #[serde(default)]
    pub key_epoch: Option<u32>,
    #[serde(rename = "plaintext_hex", default)]
    pub plaintext: Bytes,
    #[serde(default = "delivered")]
    pub delivered: bool,
    #[serde(default)]
    pub event: Option<String>,
}

const fn delivered() -> bool {
    true
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Direction {
    C2s,
    S2c,
}

/// What the applications received.
#[derive(Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct AppMessages {
    #[serde(rename = "received_by_server_hex", default)]
    pub by_server: Vec<Bytes>,
    #[serde(rename = "received_by_client_hex", default)]
    pub by_client: Vec<Bytes>,
}

/// Frames that a session refuses, or takes although they look odd.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeSessionFrames {
    pub session: PlantedSession,
    pub cases: Vec<NegativeSessionFrame>,
}

/// A session whose keys are given.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct PlantedSession {
    #[serde(rename = "k_c2s_hex")]
    pub k_c2s: Bytes,
    #[serde(rename = "k_s2c_hex")]
    pub k_s2c: Bytes,
    #[serde(rename = "session_id_hex")]
    pub session_id: Bytes,
    #[serde(rename = "device_id_hex")]
    pub device_id: Bytes,
}

/// One case, all frames device to server.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeSessionFrame {
    pub name: String,
    #[serde(rename = "prior_frames_hex")]
    pub prior_frames: Vec<Bytes>,
    #[serde(rename = "frames_hex")]
    pub frames: Vec<Bytes>,
    pub tcp: NegativeOutcome,
    pub udp: NegativeOutcome,
    #[serde(default)]
    pub note: Option<String>,
}

/// What the reference did with a case on one transport.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeOutcome {
    pub result: String,
    #[serde(rename = "delivered_hex", default)]
    pub delivered: Vec<Bytes>,
    #[serde(default)]
    pub reference_exception: Option<String>,
    #[serde(default)]
    pub reference_sends_utack: Option<bool>,
    #[serde(rename = "following_valid_frame_hex", default)]
    pub following_valid_frame: Option<Bytes>,
    #[serde(rename = "delivered_from_following_valid_frame_hex", default)]
    pub delivered_from_following_valid_frame: Option<Vec<Bytes>>,
}

/// First frames that a server sees.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeServerHandshakes {
    #[serde(rename = "server_psk_hex")]
    pub server_psk: Bytes,
    #[serde(rename = "device_id_hex")]
    pub device_id: Bytes,
    #[serde(rename = "server_x25519_private_hex")]
    pub server_private: Bytes,
    #[serde(rename = "handshake_nonce_hex")]
    pub nonce: Bytes,
    pub cases: Vec<NegativeServerHandshake>,
}

/// One case.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeServerHandshake {
    pub name: String,
    #[serde(rename = "first_frame_hex")]
    pub first_frame: Bytes,
    pub tcp: ServerAnswer,
    pub udp_first_datagram_without_cookie: ServerAnswer,
    #[serde(default)]
    pub udp_second_datagram_with_cookie: Option<ServerAnswer>,
}

/// What the reference server did.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct ServerAnswer {
    #[serde(rename = "datagram_hex", default)]
    pub datagram: Option<Bytes>,
    #[serde(rename = "server_sends_hex")]
    pub server_sends: Vec<Bytes>,
    #[serde(default)]
    pub server_closes: Option<bool>,
    #[serde(default)]
    pub handshake_abandoned_silently: Option<bool>,
}

/// Answers that a device sees.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeClientHandshakes {
    #[serde(rename = "client_psk_hex")]
    pub client_psk: Bytes,
    #[serde(rename = "device_id_hex")]
    pub device_id: Bytes,
    #[serde(rename = "client_x25519_private_hex")]
    pub client_private: Bytes,
    pub cases: Vec<NegativeClientHandshake>,
}

/// One case.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the file")]
pub struct NegativeClientHandshake {
    pub name: String,
    #[serde(rename = "server_frames_hex")]
    pub server_frames: Vec<Bytes>,
    pub result: String,
    #[serde(rename = "client_tx_key_hex", default)]
    pub client_tx_key: Option<Bytes>,
    #[serde(rename = "client_sends_hex")]
    pub client_sends: Vec<Bytes>,
}
