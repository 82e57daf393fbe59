//! The nine recorded sessions, replayed at the server role with the recorded secrets. Byte for byte the same, but for what
//! `docs/usmp/deviations.md` names.

use std::collections::VecDeque;

use usmp::crypto::RustCrypto;
use usmp::server::demux::{Datagram, classify};
use usmp::server::*;
use usmp::wire::{FrameType, HelloRetry, MAX_FRAME, Utack};
use usmp::*;
use usmp_testkit::vectors::{self, Direction, Record, Session, Transport};

use crate::support::{HOME, header};

const COOKIE: [u8; 16] = [0xC0; 16];

fn sessions(transport: Transport) -> impl Iterator<Item = &'static Session> {
    let all = &vectors::v2().sessions;
    assert_eq!(all.len(), 9, "entries in the recordings");
    all.iter().filter(move |session| session.transport == transport)
}

/// The messages that the application at the server sends, in order: chunks up to and with each DATA.
fn downlink(session: &Session) -> VecDeque<Vec<u8>> {
    let mut messages = VecDeque::new();
    let mut message = Vec::new();
    for record in session.records.iter().filter(|record| record.dir == Direction::S2c) {
        match record.frame_type.as_deref() {
            Some("DATA_FRAG") => message.extend_from_slice(&record.plaintext.0),
            Some("DATA") if record.kind.as_deref() == Some("frame") => {
                message.extend_from_slice(&record.plaintext.0);
                messages.push_back(std::mem::take(&mut message));
            }
            _ => {}
        }
    }
    messages
}

fn salt_of_the_server(session: &Session) -> Option<Secret<32>> {
    session.secrets.rekeys.iter().find(|rekey| rekey.initiator == "server").map(|rekey| rekey.salt.secret())
}

#[test]
fn on_udp() {
    let mut replayed = 0;
    for session in sessions(Transport::Udp) {
        println!("{}", session.name);
        UdpReplay::new(session).run();
        replayed += 1;
    }
    assert_eq!(replayed, 4);
}

struct UdpReplay {
    recording: &'static Session,
    now: Instant,
    handshake: Option<UdpHandshake<RustCrypto>>,
    session: Option<UdpSession<RustCrypto, u8>>,
    pool: ArrayPool<1>,
    out: VecDeque<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
    lent: Vec<u8>,
    delivered: Vec<Vec<u8>>,
    cookies: usize,
}

impl UdpReplay {
    fn new(recording: &'static Session) -> Self {
        Self {
            recording,
            now: Instant::from_millis(1),
            handshake: None,
            session: None,
            pool: ArrayPool::new(),
            out: VecDeque::new(),
            to_send: downlink(recording),
            lent: Vec::new(),
            delivered: Vec::new(),
            cookies: 0,
        }
    }

    fn run(mut self) {
        for record in &self.recording.records {
            match record.dir {
                Direction::C2s if record.delivered => self.receive(&record.bytes.0),
                Direction::C2s => {}
                Direction::S2c => self.expect(record),
            }
        }
        assert!(self.out.is_empty(), "more was sent: {:?}", self.out);
        let expected: Vec<_> =
            self.recording.app_messages_in_delivery_order.by_server.iter().map(|m| m.0.clone()).collect();
        assert_eq!(self.delivered, expected);
        assert_eq!(self.session.is_some_and(|session| session.is_established()), self.recording.established);
    }

    fn receive(&mut self, bytes: &[u8]) {
        let secrets = &self.recording.secrets;
        match classify(bytes).expect("a device of the recordings sends good datagrams") {
            Datagram::Utack(utack) => {
                let early = utack.frame_type.code() < 5 || utack.frame_type == FrameType::HelloRetry;
                if early {
                    if let Some(handshake) = &mut self.handshake {
                        handshake.handle_utack(self.now, &utack).expect("it awaits this one");
                    }
                } else {
                    let session = self.session.as_mut().expect("a session");
                    let taken = session.handle_utack(self.now, session.path(), &utack);
                    // After REKEY the numbers are others; see `expect`.
                    let other_number = session.epoch() > 0;
                    assert_eq!(taken.is_err(), other_number, "{taken:?}");
                }
            }
            Datagram::Hello(hello) => {
                self.out.push_back(Utack::plain(FrameType::Hello, hello.seq).emit().to_vec());
                if hello.cookie.is_none() {
                    let mut out = [0; 28];
                    HelloRetry { cookie: COOKIE }.emit(0, &mut out).expect("fits");
                    self.out.push_back(out.to_vec());
                } else {
                    self.handshake = Some(UdpHandshake::start(
                        self.now,
                        &hello,
                        secrets.server_private.secret(),
                        secrets.nonce.array(),
                        1,
                        &HandshakeConfig::default(),
                    ));
                }
            }
            Datagram::HelloAck(ack) => {
                let handshake = self.handshake.as_mut().expect("a handshake");
                let Ok(AckOutcome::Proved(proof)) =
                    handshake.handle_hello_ack(self.now, &ack, &[&secrets.server_psk.0])
                else {
                    return;
                };
                self.out.push_back(Utack::plain(FrameType::HelloAck, ack.seq).emit().to_vec());
                let config = SessionConfig::udp();
                let id = secrets.session_id.session_id();
                self.session =
                    Some(handshake.accept(self.now, proof, id, HOME, &config).expect("a good key"));
            }
            Datagram::Sealed { .. } => {
                let session = self.session.as_mut().expect("a session");
                let mut bytes = bytes.to_vec();
                let received = session.handle_datagram(self.now, HOME, &mut bytes, &mut self.pool);
                match received.expect("a device of the recordings sends good frames") {
                    Received::Message { token, payload } => {
                        self.delivered.push(payload.to_vec());
                        self.out
                            .push_back(session.committed(self.now, token).expect("pending").utack.to_vec());
                    }
                    Received::Acknowledge { utack, .. } => self.out.push_back(utack.to_vec()),
                    received => panic!("nothing waits for a commit here: {received:?}"),
                }
            }
        }
        self.transmit();
    }

    fn transmit(&mut self) {
        let mut out = [0; MAX_FRAME];
        if let Some(handshake) = &mut self.handshake {
            while let Some(length) = handshake.poll_transmit(self.now, &mut out) {
                self.out.push_back(out[..length].to_vec());
            }
        }
        if let Some(session) = &mut self.session {
            while let Some(sent) = session.poll_transmit(self.now, &self.lent, &mut out) {
                self.out.push_back(out[..sent.length].to_vec());
            }
        }
    }

    /// Makes the machine do what the application at the reference did.
    fn act(&mut self, record: &Record) {
        match record.frame_type.as_deref() {
            Some("CHALLENGE" | "SESSION_OK") => {
                let handshake = self.handshake.as_mut().expect("a handshake");
                self.now = handshake.poll_timeout().expect("a copy is planned");
                handshake.handle_timeout(self.now);
            }
            Some("DATA" | "DATA_FRAG") => {
                self.lent = self.to_send.pop_front().expect("a message");
                self.session.as_mut().expect("a session").send(self.lent.len()).expect("free");
            }
            Some("PING") => assert!(self.session.as_mut().expect("a session").ping()),
            other => panic!("{}: the machine should have sent {other:?}", record.i),
        }
        self.transmit();
    }

    fn expect(&mut self, record: &Record) {
        let is_utack = record.kind.as_deref() == Some("utack");
        if is_utack && record.frame_type.as_deref() == Some("HELLO_ACK") && !self.recording.established {
            // Ours: a wrong HELLO_ACK gets no UTACK.
            assert!(self.out.is_empty());
            return;
        }
        if self.out.is_empty() {
            self.act(record);
        }
        let ours = self.out.pop_front().unwrap_or_else(|| panic!("{}: nothing was sent", record.i));
        let theirs = &record.bytes.0;
        if record.frame_type.as_deref() == Some("HELLO_RETRY") {
            // Ours: other cookie bytes.
            assert_eq!((&ours[..10], ours.len()), (&theirs[..10], theirs.len()));
            self.cookies += 1;
        } else if !is_utack && record.key_epoch.is_some_and(|epoch| epoch > 0) {
            // Ours: the server's numbers go on after REKEY. The same plaintext, under the same key.
            let key = &self.recording.secrets.key_epochs[record.key_epoch.expect("checked") as usize]
                .k_s2c
                .secret();
            let mut frame = ours;
            let opened =
                open_frame::<RustCrypto>(key, self.recording.secrets.session_id.session_id(), &mut frame);
            let opened = opened.expect("opens under the key of this epoch");
            assert_eq!(opened.plaintext, record.plaintext.0);
            assert!(opened.seq > record.seq.expect("a number"), "the number goes on");
            // The device of the recording acknowledges its own number; here it acknowledges ours.
            let utack = Utack::sealed::<RustCrypto>(key, opened.frame_type, opened.seq);
            let session = self.session.as_mut().expect("a session");
            session.handle_utack(self.now, session.path(), &utack).expect("outstanding");
        } else {
            assert_eq!(
                hex::encode(&ours),
                hex::encode(theirs),
                "{}: record {}",
                self.recording.name,
                record.i
            );
        }
    }
}

#[test]
fn on_tcp() {
    let mut replayed = 0;
    for session in sessions(Transport::Tcp) {
        println!("{}", session.name);
        TcpReplay::new(session).run();
        replayed += 1;
    }
    assert_eq!(replayed, 5);
}

struct TcpReplay {
    recording: &'static Session,
    now: Instant,
    handshake: Option<TcpHandshake<RustCrypto>>,
    session: Option<TcpSession<RustCrypto>>,
    pool: ArrayPool<1>,
    out: VecDeque<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
    delivered: Vec<Vec<u8>>,
    closed: bool,
}

impl TcpReplay {
    fn new(recording: &'static Session) -> Self {
        let now = Instant::from_millis(1);
        Self {
            recording,
            now,
            handshake: Some(TcpHandshake::new(now, &HandshakeConfig::default())),
            session: None,
            pool: ArrayPool::new(),
            out: VecDeque::new(),
            to_send: downlink(recording),
            delivered: Vec::new(),
            closed: false,
        }
    }

    fn run(mut self) {
        let unknown = self.recording.name == "tcp_failed_auth_unknown_device";
        for record in &self.recording.records {
            match (record.dir, record.event.as_deref()) {
                (Direction::C2s, None) => self.receive(&record.bytes.0),
                (Direction::S2c, None) => self.expect(record),
                (Direction::S2c, Some(_)) if unknown => {
                    // Ours: an unknown device gets a CHALLENGE like any other.
                    assert_eq!(
                        self.out.pop_front().map(|frame| header(&frame).0),
                        Some(FrameType::Challenge)
                    );
                }
                // Our BYE, or a failure, or the device went first.
                (Direction::S2c, Some(_)) => assert!(
                    self.closed
                        || self.session.as_ref().is_none_or(|session| session.closed().is_some())
                        || self.recording.name.contains("rogue"),
                    "{}: the server closes",
                    self.recording.name
                ),
                (Direction::C2s, Some(_)) => {}
            }
        }
        assert!(self.out.is_empty(), "more was sent: {:?}", self.out);
        let expected: Vec<_> =
            self.recording.app_messages_in_delivery_order.by_server.iter().map(|m| m.0.clone()).collect();
        assert_eq!(self.delivered, expected);
    }

    fn receive(&mut self, bytes: &[u8]) {
        let secrets = &self.recording.secrets;
        if let Some(session) = &mut self.session {
            let mut stream = bytes.to_vec();
            match session.receive(self.now, &mut stream, &mut self.pool).expect("good frames") {
                TcpReceived::Message { payload, .. } => self.delivered.push(payload.to_vec()),
                TcpReceived::NeedMore(_) => panic!("whole frames only"),
                _ => {}
            }
            self.transmit();
            return;
        }
        let mut handshake = self.handshake.take().expect("a handshake");
        let mut out = [0; 76];
        match handshake.receive(bytes).expect("good frames") {
            TcpHandshakeStep::Hello { .. } => {
                handshake
                    .challenge(self.now, secrets.server_private.secret(), secrets.nonce.array(), &mut out)
                    .expect("the state for it");
                self.out.push_back(out.to_vec());
                self.handshake = Some(handshake);
            }
            TcpHandshakeStep::HelloAck { ack, .. } => {
                let Some(proof) = handshake.verify(&ack, &[&secrets.server_psk.0]) else {
                    self.closed = true;
                    return;
                };
                let mut out = [0; 60];
                let (id, config) = (secrets.session_id.session_id(), SessionConfig::tcp());
                let session = handshake.accept(self.now, proof, id, &config, &mut out).expect("a good key");
                self.session = Some(session);
                self.out.push_back(out.to_vec());
            }
            TcpHandshakeStep::NeedMore(_) => panic!("whole frames only"),
        }
    }

    fn transmit(&mut self) {
        let mut out = [0; MAX_FRAME];
        let session = self.session.as_mut().expect("a session");
        while let Some(length) = session.poll_transmit(&mut out) {
            self.out.push_back(out[..length].to_vec());
        }
    }

    fn act(&mut self, record: &Record) {
        let session = self.session.as_mut().expect("a session");
        let mut out = [0; MAX_MESSAGE_WIRE];
        let length = match record.frame_type.as_deref() {
            Some("DATA" | "DATA_FRAG") => {
                session.send(&self.to_send.pop_front().expect("a message"), &mut out).expect("open")
            }
            Some("PING") => {
                assert!(session.ping());
                session.poll_transmit(&mut out).expect("a PING")
            }
            Some("BYE") => session.say_bye(&mut out).expect("open"),
            Some("REKEY") => {
                let salt = salt_of_the_server(self.recording).expect("the server started one");
                session.start_rekey(&salt, &mut out).expect("open")
            }
            other => panic!("{}: the machine should have sent {other:?}", record.i),
        };
        let mut rest = &out[..length];
        while let Ok(wire::StreamDecode::Frame(length)) = wire::decode_stream(rest) {
            self.out.push_back(rest[..length].to_vec());
            rest = &rest[length..];
        }
    }

    fn expect(&mut self, record: &Record) {
        if self.out.is_empty() {
            self.act(record);
        }
        let ours = self.out.pop_front().unwrap_or_else(|| panic!("{}: nothing was sent", record.i));
        let theirs = &record.bytes.0;
        if self.recording.name == "tcp_rogue_server_bad_server_hmac"
            && record.frame_type.as_deref() == Some("SESSION_OK")
        {
            // The recorded server was made to lie by one bit; ours does not.
            let bits: u32 = ours[12..].iter().zip(&theirs[12..]).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((ours.len(), bits), (theirs.len(), 1));
            return;
        }
        assert_eq!(hex::encode(&ours), hex::encode(theirs), "{}: record {}", self.recording.name, record.i);
    }
}
