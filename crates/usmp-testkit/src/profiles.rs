//! Imitations of the official clients, made from what WIRE.md sections 5, 8 and 11 say of their timers and quirks. No code of a
//! client runs here, and the C clients were never run for that document either.
//!
//! Imitated: timers and give-up of frames and handshakes, numbers of the handshake, polling, what is set aside while a UTACK is
//! awaited, duplicates of HELLO_RETRY, keepalive, BYE, pauses before a reconnect. Not imitated: UTACKs before authentication
//! (section 14, W5), which no honest path shows.

use std::collections::VecDeque;

use usmp::crypto::RustCrypto;
use usmp::device::{
    Config, DropReason, Event, Exhaustion, HandshakeNumbers, MessageId, Psk, Retransmission, SendError,
    UdpDevice,
};
use usmp::wire::{Frame, FrameType, MAX_FRAME, Utack};
use usmp::{DeviceId, Duration, Instant, Secret};

use crate::sim::Endpoint;
use crate::vectors::Transport;

/// How one release of a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Which client and release, for messages of tests.
    pub name: &'static str,
    /// Longest handshake; `None` waits for ever.
    pub handshake_timeout: Option<Duration>,
    /// Longest wait for one frame of the handshake, per transport: TCP, UDP.
    pub step_timeout: (Option<Duration>, Option<Duration>),
    /// PING after this long without a frame of its own.
    pub keepalive: Option<Duration>,
    /// Sequence numbers of the handshake.
    pub numbers: HandshakeNumbers,
    /// When a frame is sent again.
    pub retransmission: Retransmission,
    /// How long after its UTACK a HELLO is sent again; no official client does that.
    pub hello_repeat: Option<Duration>,
    /// What follows a frame in vain.
    pub exhaustion: Exhaustion,
    /// How often the application lets the client read; `None`: it always reads.
    pub poll: Option<Duration>,
    /// What becomes of frames that come while a UTACK is awaited.
    pub meanwhile: Meanwhile,
    /// Whether HELLO_RETRY is acknowledged.
    pub acknowledges_retry: bool,
    /// Whether a second HELLO_RETRY ends the attempt.
    pub retry_twice_aborts: bool,
    /// Whether repeated session frames are acknowledged again.
    pub acknowledges_duplicates: bool,
    /// Whether closing sends BYE.
    pub says_bye: bool,
    /// Pauses before each reconnect, the last one for all further ones. Empty: the application decides.
    pub reconnect: &'static [u64],
}

/// What becomes of frames that come while a UTACK is awaited (WIRE.md section 11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// They are taken as ever: Python.
    Taken,
    /// The first is kept until the next poll, without a UTACK; others are dropped: ESP-IDF, Arduino.
    FirstKept,
    /// The last is kept: POSIX.
    LastKept,
}

const HALF_SECOND: Retransmission = Retransmission::Fixed(Duration::from_millis(500));
const FIVE_SECONDS: Option<Duration> = Some(Duration::from_secs(5));

const PYTHON_1_2: Profile = Profile {
    name: "Python 1.2",
    handshake_timeout: Some(Duration::from_secs(10)),
    step_timeout: (None, None),
    keepalive: None,
    numbers: HandshakeNumbers::Counted,
    retransmission: Retransmission::Adaptive,
    hello_repeat: None,
    exhaustion: Exhaustion::KeepSession,
    poll: None,
    meanwhile: Meanwhile::Taken,
    acknowledges_retry: true,
    retry_twice_aborts: false,
    acknowledges_duplicates: true,
    says_bye: true,
    reconnect: &[],
};

const PYTHON_1_1: Profile = Profile { name: "Python 1.1.0", retransmission: HALF_SECOND, ..PYTHON_1_2 };

const PYTHON_1_0: Profile =
    Profile { name: "Python 1.0.0", handshake_timeout: None, numbers: HandshakeNumbers::Zero, ..PYTHON_1_1 };

const ESP_IDF_1_2: Profile = Profile {
    name: "ESP-IDF 1.2",
    handshake_timeout: None,
    step_timeout: (None, None),
    keepalive: None,
    numbers: HandshakeNumbers::Counted,
    retransmission: HALF_SECOND,
    hello_repeat: None,
    exhaustion: Exhaustion::CloseSession,
    poll: Some(Duration::from_millis(100)),
    meanwhile: Meanwhile::FirstKept,
    acknowledges_retry: true,
    retry_twice_aborts: false,
    acknowledges_duplicates: true,
    says_bye: true,
    reconnect: &[1],
};

const ESP_IDF_1_0: Profile = Profile {
    name: "ESP-IDF 1.0",
    numbers: HandshakeNumbers::Zero,
    exhaustion: Exhaustion::KeepSession,
    retry_twice_aborts: true,
    says_bye: false,
    ..ESP_IDF_1_2
};

const ESP_IDF_1_3: Profile =
    Profile { name: "ESP-IDF 1.3", step_timeout: (FIVE_SECONDS, FIVE_SECONDS), ..ESP_IDF_1_2 };

const ARDUINO_1_2: Profile = Profile {
    name: "Arduino 1.2",
    keepalive: Some(Duration::from_secs(30)),
    poll: Some(Duration::from_millis(50)),
    reconnect: &[2, 4, 8, 16, 32],
    ..ESP_IDF_1_2
};

const ARDUINO_1_0: Profile =
    Profile { name: "Arduino 1.0", numbers: HandshakeNumbers::Zero, says_bye: false, ..ARDUINO_1_2 };

const ARDUINO_1_3: Profile = Profile {
    name: "Arduino 1.3",
    step_timeout: (FIVE_SECONDS, FIVE_SECONDS),
    retransmission: Retransmission::Adaptive,
    ..ARDUINO_1_2
};

const POSIX: Profile = Profile {
    name: "POSIX",
    step_timeout: (Some(Duration::from_millis(500)), FIVE_SECONDS),
    retransmission: Retransmission::Adaptive,
    poll: Some(Duration::from_millis(10)),
    meanwhile: Meanwhile::LastKept,
    acknowledges_retry: false,
    retry_twice_aborts: true,
    acknowledges_duplicates: false,
    reconnect: &[],
    ..ESP_IDF_1_2
};

/// No imitation: the device role with its defaults, as firmware runs it.
pub const OWN: Profile = Profile {
    name: "our device role",
    keepalive: Some(Duration::from_secs(30)),
    hello_repeat: Some(Duration::from_secs(2)),
    exhaustion: Exhaustion::CloseSession,
    reconnect: &[1, 2, 4],
    ..PYTHON_1_2
};

/// Every client that is imitated.
pub const ALL: [Profile; 10] = [
    PYTHON_1_0,
    PYTHON_1_1,
    PYTHON_1_2,
    ESP_IDF_1_0,
    ESP_IDF_1_2,
    ESP_IDF_1_3,
    ARDUINO_1_0,
    ARDUINO_1_2,
    ARDUINO_1_3,
    POSIX,
];

impl Profile {
    /// What the device role is told.
    #[must_use]
    pub const fn config(&self, transport: Transport) -> Config {
        Config {
            handshake_timeout: self.handshake_timeout,
            step_timeout: match transport {
                Transport::Tcp => self.step_timeout.0,
                Transport::Udp => self.step_timeout.1,
            },
            keepalive: self.keepalive,
            handshake_numbers: self.numbers,
            retransmission: self.retransmission,
            exhaustion: self.exhaustion,
            hello_repeat: self.hello_repeat,
        }
    }

    /// The pause before reconnect number `attempt`, 0 for the first; `None` when the application decides.
    #[must_use]
    pub fn pause(&self, attempt: usize) -> Option<Duration> {
        let seconds = self.reconnect.get(attempt).or_else(|| self.reconnect.last())?;
        Some(Duration::from_secs(*seconds))
    }
}

/// Datagrams that wait in the socket of a client that does not read; more are lost, as in a small board's.
const SOCKET: usize = 8;

/// Reads of one receive call of the C core (WIRE.md section 8).
const READS: usize = 10;

/// An imitated client on UDP.
#[derive(Debug)]
pub struct ImitatedClient {
    profile: Profile,
    device: UdpDevice<RustCrypto>,
    /// What waits in the socket.
    socket: VecDeque<Vec<u8>>,
    /// What was kept while a UTACK was awaited.
    kept: Option<Vec<u8>>,
    next_poll: Instant,
    retries: u32,
    aborted: bool,
    /// The next UTACK is one that this client would not send.
    mute: bool,
    lost: u64,
}

impl ImitatedClient {
    /// Starts a connection.
    ///
    /// # Panics
    ///
    /// When the key is too short.
    #[must_use]
    pub fn connect(profile: Profile, now: Instant, id: DeviceId, psk: &[u8], private: [u8; 32]) -> Self {
        let psk = Psk::new(psk).expect("the key is long enough");
        let config = profile.config(Transport::Udp);
        Self {
            device: UdpDevice::connect(now, id, psk, Secret::new(private), config),
            profile,
            socket: VecDeque::new(),
            kept: None,
            next_poll: now,
            retries: 0,
            aborted: false,
            mute: false,
            lost: 0,
        }
    }

    /// Sends a message, see [`UdpDevice::send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(&mut self, message: &[u8]) -> Result<MessageId, SendError> {
        self.device.send(message)
    }

    /// Ends the connection, with BYE if this client says it.
    pub fn close(&mut self) {
        if self.profile.says_bye && self.device.is_connected() {
            self.device.bye().expect("connected");
        } else {
            self.aborted = true;
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        self.device.poll_event()
    }

    /// Changes the session's keys, see [`UdpDevice::rekey`]; returns whether that begins.
    pub fn rekey(&mut self, salt: [u8; 32]) -> bool {
        self.device.rekey(Secret::new(salt)).is_ok()
    }

    /// Whether a session is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.aborted && self.device.is_connected()
    }

    /// Whether the client gave up or was told to.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.aborted || self.device.is_closed()
    }

    /// Datagrams that this client lost by itself.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn take(&mut self, now: Instant, datagram: &mut [u8]) {
        let sealed = Frame::parse(datagram).is_ok_and(|frame| frame.header().frame_type.is_sealed());
        let dropped = self.device.handle_datagram(now, datagram);
        if sealed && dropped == Err(DropReason::Duplicate) && !self.profile.acknowledges_duplicates {
            self.mute = true;
        }
    }

    fn keep(&mut self, datagram: &[u8]) {
        match (self.profile.meanwhile, self.kept.is_some()) {
            (Meanwhile::FirstKept, true) => self.lost += 1,
            (_, occupied) => {
                self.lost += u64::from(occupied);
                self.kept = Some(datagram.to_vec());
            }
        }
    }

    fn has_input(&self) -> bool {
        self.kept.is_some() || !self.socket.is_empty()
    }
}

impl Endpoint for ImitatedClient {
    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) {
        if self.aborted {
            return;
        }
        let is_utack = Utack::parse(datagram).is_some();
        if !is_utack && self.device.session_id().is_none() {
            let is_retry =
                Frame::parse(datagram).is_ok_and(|frame| frame.header().frame_type == FrameType::HelloRetry);
            self.retries += u32::from(is_retry);
            self.aborted = self.profile.retry_twice_aborts && self.retries > 1;
        }
        if is_utack || self.device.session_id().is_none() || self.profile.poll.is_none() {
            self.take(now, datagram);
        } else if self.device.awaits_utack() {
            self.keep(datagram);
        } else if self.socket.len() < SOCKET {
            self.socket.push_back(datagram.to_vec());
        } else {
            self.lost += 1;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.device.handle_timeout(now);
        let Some(interval) = self.profile.poll else { return };
        // A client that awaits a UTACK sits inside its send call.
        if now < self.next_poll || self.device.awaits_utack() {
            return;
        }
        self.next_poll = now + interval;
        for _ in 0..READS {
            let Some(mut datagram) = self.kept.take().or_else(|| self.socket.pop_front()) else { break };
            self.take(now, &mut datagram);
        }
    }

    fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) {
        if self.aborted {
            return;
        }
        let mut out = [0; MAX_FRAME];
        while let Some(length) = self.device.poll_transmit(now, &mut out) {
            let datagram = &out[..length];
            match Utack::parse(datagram) {
                Some(utack)
                    if utack.frame_type == FrameType::HelloRetry && !self.profile.acknowledges_retry => {}
                Some(utack) if self.mute && utack.frame_type.is_sealed() => self.mute = false,
                _ => send(datagram),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.aborted {
            return None;
        }
        let poll = (self.has_input() && !self.device.awaits_utack()).then_some(self.next_poll);
        [poll, self.device.poll_timeout()].into_iter().flatten().min()
    }
}
