//! One device of the device role and a scripted server, with the time in the test's hand.

use usmp::crypto::RustCrypto;
use usmp::device::{CloseReason, Config, DropReason, Event, MessageId, Psk, TcpDevice, UdpDevice};
use usmp::wire::MAX_FRAME;
use usmp::{DeviceId, Duration, Instant, Secret, SessionId};

use crate::script::{OpenedFrame, ScriptedServer};

/// An event without a borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of `usmp::device::Event`")]
pub enum Told {
    Connected(SessionId),
    Message(Vec<u8>),
    Sent(MessageId),
    Delivered(MessageId),
    Failed(MessageId),
    Rekeyed,
    Closed(CloseReason),
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Connected { session_id } => Self::Connected(session_id),
            Event::Message(message) => Self::Message(message.to_vec()),
            Event::Sent(id) => Self::Sent(id),
            Event::Delivered(id) => Self::Delivered(id),
            Event::Failed(id) => Self::Failed(id),
            Event::Rekeyed => Self::Rekeyed,
            Event::Closed(reason) => Self::Closed(reason),
            other => unreachable!("an event that this kit does not know: {other:?}"),
        }
    }
}

/// A UDP device, the server it speaks to, and the time.
#[derive(Debug)]
pub struct UdpPair {
    /// The device.
    pub device: UdpDevice<RustCrypto>,
    /// The server, frame by frame.
    pub server: ScriptedServer,
    /// The time.
    pub now: Instant,
}

impl UdpPair {
    /// The key that both have.
    pub const PSK: [u8; 32] = [0x51; 32];

    /// Defaults without a keepalive.
    #[must_use]
    pub fn quiet() -> Config {
        Config { keepalive: None, ..Config::default() }
    }

    /// A device whose HELLO is still to be sent.
    ///
    /// # Panics
    ///
    /// Never: the key is long enough.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let now = Instant::from_millis(100);
        let psk = Psk::new(&Self::PSK).expect("long enough");
        let device =
            UdpDevice::connect(now, DeviceId([2, 0, 0, 0, 0, 1]), psk, Secret::new([0x33; 32]), config);
        Self { device, server: ScriptedServer::new(&Self::PSK, 1), now }
    }

    /// A device with an open session, without HELLO_RETRY.
    ///
    /// # Panics
    ///
    /// When the handshake fails.
    #[must_use]
    pub fn connected(config: Config) -> Self {
        let mut pair = Self::new(config);
        let hello = pair.frame();
        let challenge = pair.server.challenge(&hello);
        assert_eq!(pair.give(challenge), Ok(()));
        let ack = pair.frame();
        let ok = pair.server.session_ok(&ack).expect("a right proof");
        assert_eq!(pair.give(ok), Ok(()));
        pair.sent();
        assert_eq!(pair.told(), [Told::Connected(pair.server.session_id())]);
        pair
    }

    /// Hands the device a datagram.
    ///
    /// # Errors
    ///
    /// Why the device did not take it.
    pub fn give(&mut self, mut datagram: Vec<u8>) -> Result<(), DropReason> {
        self.device.handle_datagram(self.now, &mut datagram)
    }

    /// Everything the device sends now.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut out = [0; MAX_FRAME];
        std::iter::from_fn(|| {
            self.device.poll_transmit(self.now, &mut out).map(|length| out[..length].to_vec())
        })
        .collect()
    }

    /// The one frame among what the device sends now.
    ///
    /// # Panics
    ///
    /// When there is not exactly one.
    pub fn frame(&mut self) -> Vec<u8> {
        let frames: Vec<_> = self.sent().into_iter().filter(|bytes| bytes[0] == 0xCD).collect();
        assert_eq!(frames.len(), 1, "one frame is outstanding at a time");
        frames.into_iter().next().expect("one frame")
    }

    /// What the device tells its application now.
    pub fn told(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(event) = self.device.poll_event() {
            told.push(event.into());
        }
        told
    }

    /// Takes the frame the device sends now, opens it and acknowledges it.
    ///
    /// # Panics
    ///
    /// When there is none, or it does not open.
    pub fn accept(&mut self) -> OpenedFrame {
        let frame = self.frame();
        let opened = self.server.open(&frame);
        assert_eq!(self.give(self.server.utack(&frame)), Ok(()));
        opened
    }

    /// Goes to the next timer.
    ///
    /// # Panics
    ///
    /// When no timer runs.
    pub fn wait(&mut self) {
        self.now = self.device.poll_timeout().expect("a timer runs");
        self.device.handle_timeout(self.now);
    }

    /// Lets the frame under way be sent until it is given up; returns the times between the transmissions.
    ///
    /// # Panics
    ///
    /// When a retransmission is not byte-identical.
    pub fn exhaust(&mut self) -> Vec<Duration> {
        let first = self.frame();
        let mut waits = Vec::new();
        let mut last = self.now;
        for _ in 0..4 {
            self.wait();
            assert_eq!(self.frame(), first, "a retransmission is byte-identical");
            waits.push(self.now - last);
            last = self.now;
        }
        self.wait();
        waits.push(self.now - last);
        waits
    }
}

/// A TCP device, the server it speaks to, and the time.
#[derive(Debug)]
pub struct TcpPair {
    /// The device.
    pub device: TcpDevice<RustCrypto>,
    /// The server, frame by frame.
    pub server: ScriptedServer,
    /// The time.
    pub now: Instant,
}

impl TcpPair {
    /// A device whose HELLO is still to be sent.
    ///
    /// # Panics
    ///
    /// Never: the key is long enough.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let now = Instant::from_millis(100);
        let psk = Psk::new(&UdpPair::PSK).expect("long enough");
        let device =
            TcpDevice::connect(now, DeviceId([2, 0, 0, 0, 0, 2]), psk, Secret::new([0x34; 32]), config);
        Self { device, server: ScriptedServer::new(&UdpPair::PSK, 1), now }
    }

    /// A device with an open session.
    ///
    /// # Panics
    ///
    /// When the handshake fails.
    #[must_use]
    pub fn connected(config: Config) -> Self {
        let mut pair = Self::new(config);
        let hello = pair.frame();
        let challenge = pair.server.challenge(&hello);
        pair.give(&challenge);
        let ack = pair.frame();
        let ok = pair.server.session_ok(&ack).expect("a right proof");
        pair.give(&ok);
        assert_eq!(pair.told(), [Told::Connected(pair.server.session_id())]);
        pair
    }

    /// Hands the device bytes, all of which it must take.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn give(&mut self, bytes: &[u8]) {
        assert_eq!(self.device.handle_bytes(self.now, bytes), bytes.len(), "bytes taken");
    }

    /// Every frame the device sends now.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut out = [0; MAX_FRAME];
        std::iter::from_fn(|| {
            self.device.poll_transmit(self.now, &mut out).map(|length| out[..length].to_vec())
        })
        .collect()
    }

    /// The one frame the device sends now.
    ///
    /// # Panics
    ///
    /// When there is not exactly one.
    pub fn frame(&mut self) -> Vec<u8> {
        let frames = self.sent();
        assert_eq!(frames.len(), 1, "one frame");
        frames.into_iter().next().expect("one frame")
    }

    /// What the device tells its application now.
    pub fn told(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(event) = self.device.poll_event() {
            told.push(event.into());
        }
        told
    }
}
