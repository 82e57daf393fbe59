//! A handshake and a session of the server role, with the device's half and the time in the test's hand.

use usmp::crypto::{Provider, RustCrypto};
use usmp::server::*;
use usmp::wire::{Challenge, Frame, FrameType, Hello, HelloAck, MAX_FRAME, Utack};
use usmp::*;

pub(crate) use usmp::wire::FrameType::{Bye, Data, DataFrag, Ping, Pong, Rekey};

pub(crate) const PSK: [u8; 32] = [0x44; 32];
pub(crate) const NONCE: [u8; 32] = [0x33; 32];
pub(crate) const DEVICE: DeviceId = DeviceId([2, 0, 0, 0, 0, 1]);
pub(crate) const SESSION: SessionId = SessionId(*b"prefix-8-rest-16");
/// Where the device is, and where it may go.
pub(crate) const HOME: u8 = 1;
pub(crate) const AWAY: u8 = 2;

pub(crate) fn device_private() -> Secret<32> {
    Secret::new([0x11; 32])
}

pub(crate) fn server_private() -> Secret<32> {
    Secret::new([0x22; 32])
}

pub(crate) fn hello() -> Hello {
    let public_key = RustCrypto::x25519_public(&device_private());
    Hello { seq: 1, device_id: DEVICE, public_key, cookie: Some([7; 16]) }
}

pub(crate) fn hello_ack(challenge: &[u8], psk: &[u8]) -> HelloAck {
    let frame = Frame::parse(challenge).expect("a frame");
    let Challenge { nonce, public_key } = Challenge::parse(&frame).expect("a CHALLENGE");
    let mac = client_proof::<RustCrypto>(psk, &nonce, DEVICE, &hello().public_key, &public_key);
    HelloAck { seq: 2, mac }
}

/// The keys that the handshake of these constants gives.
pub(crate) fn device_keys() -> SessionKeys {
    let pub_s = RustCrypto::x25519_public(&server_private());
    let shared = RustCrypto::x25519(&device_private(), &pub_s).expect("a good key");
    session_keys::<RustCrypto>(&shared, &NONCE, &hello().public_key, &pub_s)
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn start_handshake(now: Instant) -> UdpHandshake<RustCrypto> {
    UdpHandshake::start(now, &hello(), server_private(), NONCE, 1, &HandshakeConfig::default())
}

/// What a handshake sends now.
pub(crate) fn handshake_sends<P: Provider>(handshake: &mut UdpHandshake<P>, now: Instant) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut out = [0; MAX_FRAME];
    while let Some(length) = handshake.poll_transmit(now, &mut out) {
        all.push(out[..length].to_vec());
    }
    all
}

/// A received thing without a borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Message(CommitToken, Vec<u8>),
    Fragment(CommitToken),
    Rekey(CommitToken),
    Utack(Vec<u8>, Acknowledged),
}

impl From<Received<'_>> for Got {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Message { token, payload } => Self::Message(token, payload.to_vec()),
            Received::Fragment { token } => Self::Fragment(token),
            Received::Rekey { token } => Self::Rekey(token),
            Received::Acknowledge { utack, what } => Self::Utack(utack.to_vec(), what),
        }
    }
}

pub(crate) struct Udp {
    pub(crate) now: Instant,
    pub(crate) session: UdpSession<RustCrypto, u8>,
    pub(crate) pool: ArrayPool<1>,
    pub(crate) keys: SessionKeys,
    /// The device's next number.
    pub(crate) seq: u32,
    /// What the driver lends to poll_transmit.
    pub(crate) lent: Vec<u8>,
}

impl Udp {
    pub(crate) fn half_open_with(config: &SessionConfig) -> Self {
        let now = Instant::from_millis(10_000);
        let mut handshake = start_handshake(now);
        let challenge = handshake_sends(&mut handshake, now).remove(0);
        let proof = handshake.verify(&hello_ack(&challenge, &PSK), &[&PSK]).expect("the right key");
        let session = handshake.accept(now, proof, SESSION, HOME, config).expect("a good key");
        Self { now, session, pool: ArrayPool::new(), keys: device_keys(), seq: 0, lent: Vec::new() }
    }

    pub(crate) fn half_open() -> Self {
        Self::half_open_with(&SessionConfig::udp())
    }

    /// Established by a PONG with number 0, and a second later, so that no limit has begun to count.
    pub(crate) fn with(config: &SessionConfig) -> Self {
        let mut udp = Self::half_open_with(config);
        let frame = udp.next(Pong, b"");
        udp.give(&frame).expect("a PONG is taken");
        assert_eq!(udp.events(), [SessionEvent::Established]);
        udp.now = udp.now + secs(1);
        udp
    }

    pub(crate) fn new() -> Self {
        Self::with(&SessionConfig::udp())
    }

    pub(crate) fn seal(&self, frame_type: FrameType, seq: u32, plaintext: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let length = seal_frame::<RustCrypto>(&self.keys.c2s, SESSION, frame_type, seq, plaintext, &mut out)
            .expect("fits");
        out[..length].to_vec()
    }

    /// The device's next frame.
    pub(crate) fn next(&mut self, frame_type: FrameType, plaintext: &[u8]) -> Vec<u8> {
        self.seq += 1;
        self.seal(frame_type, self.seq - 1, plaintext)
    }

    pub(crate) fn give_from(&mut self, from: u8, frame: &[u8]) -> Result<Got, DropReason> {
        demux::classify(frame)?;
        let mut datagram = frame.to_vec();
        self.session.handle_datagram(self.now, from, &mut datagram, &mut self.pool).map(Got::from)
    }

    pub(crate) fn give(&mut self, frame: &[u8]) -> Result<Got, DropReason> {
        self.give_from(HOME, frame)
    }

    /// Gives a message in one frame and returns its token.
    pub(crate) fn message(&mut self, plaintext: &[u8]) -> (CommitToken, Vec<u8>) {
        let frame = self.next(Data, plaintext);
        match self.give(&frame) {
            Ok(Got::Message(token, payload)) => {
                assert_eq!(payload, plaintext);
                (token, frame)
            }
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The UTACK that the device waits for.
    pub(crate) fn utack(&self, frame: &[u8]) -> Vec<u8> {
        utack_for(&self.keys.c2s, frame)
    }

    pub(crate) fn sends_to(&mut self) -> Vec<(Vec<u8>, u8)> {
        let mut all = Vec::new();
        let mut out = [0; MAX_FRAME];
        while let Some(Transmit { length, to }) = self.session.poll_transmit(self.now, &self.lent, &mut out) {
            all.push((out[..length].to_vec(), to));
        }
        all
    }

    pub(crate) fn sends(&mut self) -> Vec<Vec<u8>> {
        self.sends_to().into_iter().map(|(frame, _)| frame).collect()
    }

    /// The one frame that the server sends now.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        let mut all = self.sends();
        assert_eq!(
            all.len(),
            1,
            "frames sent: {:?}",
            all.iter().map(|frame| header(frame)).collect::<Vec<_>>()
        );
        all.remove(0)
    }

    pub(crate) fn open(&self, frame: &[u8]) -> (FrameType, u32, Vec<u8>) {
        let mut frame = frame.to_vec();
        let opened =
            open_frame::<RustCrypto>(&self.keys.s2c, SESSION, &mut frame).expect("opens for the device");
        (opened.frame_type, opened.seq, opened.plaintext.to_vec())
    }

    /// The device acknowledges a frame.
    pub(crate) fn acknowledge(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let utack = Utack::parse(&utack_for(&self.keys.s2c, frame)).expect("a UTACK");
        self.session.handle_utack(self.now, HOME, &utack)
    }

    pub(crate) fn events(&mut self) -> Vec<SessionEvent<u8>> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.session.handle_timeout(self.now, &mut self.pool);
    }

    /// Lets time pass until the next timer.
    pub(crate) fn wait(&mut self) -> Duration {
        let before = self.now;
        self.now = self.session.poll_timeout().expect("a timer runs").max(self.now);
        self.session.handle_timeout(self.now, &mut self.pool);
        self.now - before
    }

    /// Never acknowledges: returns all copies of the frame that is due now, until something else happens.
    pub(crate) fn exhaust(&mut self) -> Vec<Vec<u8>> {
        let mut copies = self.sends();
        for _ in 0..20 {
            self.wait();
            let more = self.sends();
            if more.first().is_none_or(|frame| header(frame) != header(&copies[0])) {
                break;
            }
            copies.extend(more);
        }
        copies
    }

    /// The device does REKEY; returns the frame. Its keys are switched.
    pub(crate) fn rekey(&mut self, salt: [u8; 32]) -> Vec<u8> {
        let frame = self.next(Rekey, &salt);
        let old = self.utack(&frame);
        assert_eq!(self.give(&frame), Ok(Got::Utack(old, Acknowledged::Rekey)));
        self.keys = rekey::<RustCrypto>(&self.keys, Role::Device, &salt, SESSION);
        self.seq = 0;
        frame
    }
}

pub(crate) fn utack_for(key: &Secret<32>, frame: &[u8]) -> Vec<u8> {
    let (frame_type, seq) = header(frame);
    Utack::sealed::<RustCrypto>(key, frame_type, seq).emit().to_vec()
}

pub(crate) fn header(frame: &[u8]) -> (FrameType, u32) {
    let header = Frame::parse(frame).expect("a frame").header();
    (header.frame_type, header.seq)
}

/// Flips one bit of the tag and mends the CRC.
pub(crate) fn forged(frame: &[u8]) -> Vec<u8> {
    let mut forged = frame.to_vec();
    *forged.last_mut().expect("not empty") ^= 1;
    mend(&mut forged);
    forged
}

pub(crate) fn mend(frame: &mut [u8]) {
    let crc = wire::crc16(&[&frame[..10], &frame[12..]]);
    frame[10..12].copy_from_slice(&crc.to_le_bytes());
}
