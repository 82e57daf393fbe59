//! A device for tests, step by step on real sockets, so that a test can also do what no honest device does. It shares the
//! primitives with the edge, not the machines.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use usmp::crypto::{AwsLc, Provider};
use usmp::wire::{
    Challenge, Frame, FrameType, Hello, HelloAck, HelloRetry, MAX_CHUNK, MAX_FRAME, SessionOk, StreamDecode,
    Utack, decode_stream,
};
use usmp::{DeviceId, Secret, SessionId, SessionKeys, client_proof, open_frame, seal_frame, session_keys};

/// How long a device waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a device waits for what must not come. Long enough for loopback; a false "silence" can only pass a test.
pub const SILENCE: Duration = Duration::from_millis(300);

fn random() -> [u8; 32] {
    rand::random()
}

/// What both transports share after the handshake.
pub struct Keys {
    pub session_id: SessionId,
    pub keys: SessionKeys,
    pub seq: u32,
}

/// One side of a handshake in progress.
pub struct Attempt {
    device: DeviceId,
    private: Secret<32>,
    public: [u8; 32],
}

impl Attempt {
    pub fn new(device: DeviceId) -> Self {
        let private = Secret::new(random());
        let public = AwsLc::x25519_public(&private);
        Self { device, private, public }
    }

    pub fn hello(&self, seq: u32, cookie: Option<[u8; 16]>) -> Vec<u8> {
        let hello = Hello { seq, device_id: self.device, public_key: self.public, cookie };
        let mut out = [0; MAX_FRAME];
        let length = hello.emit(&mut out).expect("room");
        out[..length].to_vec()
    }

    pub fn hello_ack(&self, seq: u32, psk: &[u8], challenge: &Challenge) -> Vec<u8> {
        let mac =
            client_proof::<AwsLc>(psk, &challenge.nonce, self.device, &self.public, &challenge.public_key);
        hello_ack_of(seq, mac)
    }

    pub fn keys(&self, challenge: &Challenge, ok: &SessionOk) -> Keys {
        let shared = AwsLc::x25519(&self.private, &challenge.public_key).expect("an honest server");
        let keys = session_keys::<AwsLc>(&shared, &challenge.nonce, &self.public, &challenge.public_key);
        Keys { session_id: ok.session_id, keys, seq: 0 }
    }
}

impl Keys {
    /// The next sealed frame.
    pub fn seal(&mut self, frame_type: FrameType, plaintext: &[u8]) -> Vec<u8> {
        let seq = self.seq;
        self.seq += 1;
        self.seal_as(frame_type, seq, plaintext)
    }

    pub fn seal_as(&self, frame_type: FrameType, seq: u32, plaintext: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let length =
            seal_frame::<AwsLc>(&self.keys.c2s, self.session_id, frame_type, seq, plaintext, &mut out)
                .expect("room");
        out[..length].to_vec()
    }

    pub fn open(&self, frame: &[u8]) -> (FrameType, u32, Vec<u8>) {
        let mut frame = frame.to_vec();
        let opened = open_frame::<AwsLc>(&self.keys.s2c, self.session_id, &mut frame).expect("authentic");
        (opened.frame_type, opened.seq, opened.plaintext.to_vec())
    }

    pub fn chunks(message: &[u8]) -> Vec<(FrameType, &[u8])> {
        let mut chunks: Vec<_> = message.chunks(MAX_CHUNK).collect();
        let last = chunks.pop().unwrap_or_default();
        let first = chunks.into_iter().map(|chunk| (FrameType::DataFrag, chunk));
        first.chain([(FrameType::Data, last)]).collect()
    }
}

/// A HELLO_ACK with this proof.
pub fn hello_ack_of(seq: u32, mac: [u8; 32]) -> Vec<u8> {
    let mut out = [0; MAX_FRAME];
    let length = HelloAck { seq, mac }.emit(&mut out).expect("room");
    out[..length].to_vec()
}

pub struct UdpDevice {
    pub socket: UdpSocket,
    pub session: Keys,
}

pub fn udp_socket(edge: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(edge).expect("loopback");
    socket
}

/// The next datagram within the time, or none.
pub fn receive(socket: &UdpSocket, within: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(within)).expect("a timeout");
    let mut buffer = [0; 1024];
    match socket.recv(&mut buffer) {
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("receiving failed: {error}"),
    }
}

/// Waits for a frame of this type; UTACKs and other frames are passed over.
pub fn await_frame(socket: &UdpSocket, wanted: FrameType) -> Vec<u8> {
    for _ in 0..50 {
        let datagram = receive(socket, PATIENCE).unwrap_or_else(|| panic!("no {wanted:?} came"));
        if let Ok(frame) = Frame::parse(&datagram)
            && frame.header().frame_type == wanted
        {
            return datagram;
        }
    }
    panic!("fifty datagrams and no {wanted:?}");
}

impl UdpDevice {
    pub fn connect(edge: SocketAddr, device: DeviceId, psk: &[u8]) -> Self {
        Self::try_connect(edge, device, psk, PATIENCE).expect("SESSION_OK")
    }

    /// `None` when SESSION_OK does not come within the time.
    pub fn try_connect(edge: SocketAddr, device: DeviceId, psk: &[u8], within: Duration) -> Option<Self> {
        let socket = udp_socket(edge);
        let attempt = Attempt::new(device);
        let challenge = challenge(&socket, &attempt);
        socket.send(&attempt.hello_ack(2, psk, &challenge)).expect("loopback");
        let ok = loop {
            let datagram = receive(&socket, within)?;
            if let Ok(frame) = Frame::parse(&datagram)
                && let Ok(ok) = SessionOk::parse(&frame)
            {
                break ok;
            }
        };
        socket.send(&Utack::plain(FrameType::SessionOk, 0).emit()).expect("loopback");
        Some(Self { session: attempt.keys(&challenge, &ok), socket })
    }

    pub fn transmit(&mut self, frame_type: FrameType, plaintext: &[u8]) -> u32 {
        let seq = self.session.seq;
        let frame = self.session.seal(frame_type, plaintext);
        self.socket.send(&frame).expect("loopback");
        seq
    }

    /// Waits for the UTACK of a frame; `false` when it does not come within the time.
    pub fn is_acknowledged(&self, frame_type: FrameType, seq: u32, within: Duration) -> bool {
        while let Some(datagram) = receive(&self.socket, within) {
            if let Some(utack) = Utack::parse(&datagram)
                && (utack.frame_type, utack.seq) == (frame_type, seq)
            {
                assert!(utack.verify::<AwsLc>(&self.session.keys.c2s), "a UTACK with a wrong MAC");
                return true;
            }
        }
        false
    }

    /// Sends one message of any length, frame by frame, and waits for each UTACK.
    pub fn send(&mut self, message: &[u8]) {
        for (frame_type, chunk) in Keys::chunks(message) {
            let seq = self.transmit(frame_type, chunk);
            assert!(self.is_acknowledged(frame_type, seq, PATIENCE), "no UTACK of {frame_type:?} {seq}");
        }
    }

    /// The next sealed frame, acknowledged.
    fn receive_sealed(&self) -> (FrameType, Vec<u8>) {
        loop {
            let datagram = receive(&self.socket, PATIENCE).expect("a sealed frame");
            if Frame::parse(&datagram).is_ok() {
                let (frame_type, seq, plaintext) = self.session.open(&datagram);
                let utack = Utack::sealed::<AwsLc>(&self.session.keys.s2c, frame_type, seq);
                self.socket.send(&utack.emit()).expect("loopback");
                return (frame_type, plaintext);
            }
        }
    }

    /// Receives one message, acknowledging each frame.
    pub fn receive_message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        loop {
            match self.receive_sealed() {
                (FrameType::DataFrag, plaintext) => message.extend(plaintext),
                (FrameType::Data, plaintext) => return [message, plaintext].concat(),
                _ => {}
            }
        }
    }

    /// Waits for BYE, acknowledging each frame.
    pub fn is_told_to_go(&self) {
        while self.receive_sealed().0 != FrameType::Bye {}
    }
}

/// HELLO, cookie, HELLO, CHALLENGE.
pub fn challenge(socket: &UdpSocket, attempt: &Attempt) -> Challenge {
    socket.send(&attempt.hello(0, None)).expect("loopback");
    let datagram = await_frame(socket, FrameType::HelloRetry);
    let retry = HelloRetry::parse(&Frame::parse(&datagram).expect("a frame")).expect("a cookie");
    socket.send(&attempt.hello(1, Some(retry.cookie))).expect("loopback");
    let datagram = await_frame(socket, FrameType::Challenge);
    socket.send(&Utack::plain(FrameType::Challenge, 0).emit()).expect("loopback");
    Challenge::parse(&Frame::parse(&datagram).expect("a frame")).expect("CHALLENGE")
}

pub struct TcpDevice {
    pub stream: TcpStream,
    pub session: Keys,
}

pub fn tcp_stream(edge: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(edge).expect("listening");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// The next frame; `None` when the connection ends.
pub fn read_frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    loop {
        let more = match decode_stream(&frame).expect("frames only") {
            StreamDecode::Frame(length) => {
                assert_eq!(length, frame.len());
                return Some(frame);
            }
            StreamDecode::NeedMore(more) => more.saturating_sub(frame.len()).max(1),
        };
        let start = frame.len();
        frame.resize(start + more, 0);
        match stream.read(&mut frame[start..]) {
            Ok(0) => return None,
            Ok(count) => frame.truncate(start + count),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return None;
            }
            Err(error) => panic!("reading failed: {error}"),
        }
    }
}

impl TcpDevice {
    pub fn connect(edge: SocketAddr, device: DeviceId, psk: &[u8]) -> Self {
        Self::over(tcp_stream(edge), device, psk).expect("SESSION_OK")
    }

    /// `None` when the edge closes the connection.
    pub fn over(mut stream: TcpStream, device: DeviceId, psk: &[u8]) -> Option<Self> {
        let attempt = Attempt::new(device);
        stream.write_all(&attempt.hello(0, None)).expect("room");
        let frame = read_frame(&mut stream)?;
        let challenge = Challenge::parse(&Frame::parse(&frame).expect("a frame")).expect("CHALLENGE");
        stream.write_all(&attempt.hello_ack(2, psk, &challenge)).expect("room");
        let frame = read_frame(&mut stream)?;
        let ok = SessionOk::parse(&Frame::parse(&frame).expect("a frame")).expect("SESSION_OK");
        Some(Self { session: attempt.keys(&challenge, &ok), stream })
    }

    pub fn transmit(&mut self, frame_type: FrameType, plaintext: &[u8]) {
        let frame = self.session.seal(frame_type, plaintext);
        self.stream.write_all(&frame).expect("room");
    }

    pub fn send(&mut self, message: &[u8]) {
        for (frame_type, chunk) in Keys::chunks(message) {
            self.transmit(frame_type, chunk);
        }
    }

    /// The next sealed frame; `None` when the connection ends.
    pub fn receive(&mut self) -> Option<(FrameType, u32, Vec<u8>)> {
        read_frame(&mut self.stream).map(|frame| self.session.open(&frame))
    }

    pub fn receive_message(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        loop {
            let (frame_type, _, plaintext) = self.receive().expect("a message");
            match frame_type {
                FrameType::DataFrag => message.extend(plaintext),
                FrameType::Data => {
                    message.extend(plaintext);
                    return message;
                }
                _ => {}
            }
        }
    }
}
