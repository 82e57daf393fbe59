use std::collections::{HashMap, HashSet};

use usmp::crypto::Provider as _;
use usmp::server::demux::{Datagram, classify};
use usmp::server::{
    AckOutcome, Acknowledged, ArrayPool, CommitToken, HandshakeConfig, MAX_PENDING, Received, SessionConfig,
    SessionEvent, TcpHandshake, TcpHandshakeStep, TcpReceived, TcpSession, UdpHandshake, UdpSession,
};
use usmp::wire::{Challenge, Frame, FrameType, Hello, HelloAck, MAX_CHUNK, MAX_FRAME, MAX_MESSAGE, Utack};
use usmp::{
    DeviceId, Duration, Instant, Role, Secret, SessionId, SessionKeys, client_proof, rekey, seal_frame,
    session_keys,
};

use super::{CALLS, Reach, Script, framed};
use crate::crypto::FakeCrypto;
use crate::server::SimServer;
use crate::sim::Endpoint as _;

const PSK: [u8; 16] = [0x42; 16];
const DEVICE: DeviceId = DeviceId([2, 0, 0, 0, 0, 7]);
pub(super) const SESSION: SessionId = SessionId([0x5E; 16]);

fn hello(key: u8, cookie: Option<[u8; 16]>) -> Hello {
    let public_key = if key == 0 { [0; 32] } else { FakeCrypto::x25519_public(&Secret::new([key; 32])) };
    Hello { seq: u32::from(cookie.is_some()), device_id: DEVICE, public_key, cookie }
}

fn proof(hello: &Hello, challenge: &Challenge) -> HelloAck {
    let Challenge { nonce, public_key } = challenge;
    let mac = client_proof::<FakeCrypto>(&PSK, nonce, hello.device_id, &hello.public_key, public_key);
    HelloAck { seq: 2, mac }
}

/// The keys that both sides have after a handshake with this HELLO.
fn keys(key: u8, hello: &Hello, challenge: &Challenge) -> SessionKeys {
    let Challenge { nonce, public_key } = challenge;
    let shared = FakeCrypto::x25519(&Secret::new([key; 32]), public_key).expect("the server's key is good");
    session_keys::<FakeCrypto>(&shared, nonce, &hello.public_key, public_key)
}

fn emitted(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0; MAX_FRAME];
    let length = write(&mut out).expect("a frame fits");
    out.truncate(length);
    out
}

/// Datagrams of any kind to a server that has no session yet: cookies, handshakes, both right and wrong. A session opens only
/// after a right proof.
pub fn server_handshake(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let mut reach = Reach::default();
    let mut now = Instant::from_millis(1);
    let mut server = SimServer::<FakeCrypto>::new(&PSK, u64::from(script.byte()));
    let (mut cookie, mut challenge, mut key, mut proved) = ([0; 16], None::<Challenge>, 1, 0);
    for _ in 0..CALLS {
        if script.is_empty() {
            break;
        }
        let datagram = match script.byte() % 10 {
            0 => Some(script.bytes(600).to_vec()),
            1 => Some(framed(&mut script)),
            2 => {
                key = script.byte() % 4;
                Some(emitted(|out| hello(key, None).emit(out).ok()))
            }
            3 | 4 => Some(emitted(|out| hello(key, Some(cookie)).emit(out).ok())),
            5 => {
                let forged = core::array::from_fn(|_| script.byte());
                Some(emitted(|out| hello(key, Some(forged)).emit(out).ok()))
            }
            6 | 7 => challenge.map(|challenge| {
                proved += 1;
                emitted(|out| proof(&hello(key, None), &challenge).emit(out).ok())
            }),
            8 => Some(Utack::plain(FrameType::from_code(script.byte()), 0).emit().to_vec()),
            _ => {
                now = now + Duration::from_millis(u64::from(script.byte()) * 10);
                server.handle_timeout(now);
                None
            }
        };
        if let Some(mut datagram) = datagram {
            server.handle_datagram(now, &mut datagram);
        }
        let mut sent = 0;
        server.transmit(now, &mut |datagram| {
            sent += 1;
            if let Ok(frame) = Frame::parse(datagram) {
                match frame.header().frame_type {
                    FrameType::HelloRetry => cookie = frame.payload().try_into().expect("16 bytes"),
                    FrameType::Challenge => challenge = Challenge::parse(&frame).ok(),
                    _ => {}
                }
            } else {
                assert!(Utack::parse(datagram).is_some(), "a server sends frames or UTACKs only");
            }
        });
        assert!(sent <= 16 + server.sessions(), "{sent} datagrams for one");
        assert!(server.sessions() <= proved, "a session without a proof");
        assert!(server.stored.is_empty() || proved > 0, "a message without a proof");
    }
    reach.connected += u32::try_from(server.sessions()).unwrap_or(u32::MAX);
    reach
}

/// A device's frames under the right keys, as the script wants them.
pub(super) struct DeviceSide {
    keys: SessionKeys,
    next: u32,
    given: Vec<Vec<u8>>,
}

impl DeviceSide {
    pub(super) fn frame(&mut self, script: &mut Script<'_>) -> Vec<u8> {
        let frame_type = match script.byte() % 10 {
            0..4 => FrameType::Data,
            4 | 5 => FrameType::DataFrag,
            6 => FrameType::Ping,
            7 => FrameType::Pong,
            8 => FrameType::Rekey,
            _ if script.byte() > 250 => FrameType::Bye,
            _ => FrameType::Data,
        };
        let seq = match script.byte() {
            0..220 => self.next,
            220..235 => self.next.wrapping_sub(u32::from(script.byte())),
            235..254 => self.next.wrapping_add(u32::from(script.byte())),
            _ => script.number(),
        };
        self.next = seq.wrapping_add(1);
        let whole_salt = frame_type == FrameType::Rekey && script.byte() > 20;
        let length = if whole_salt { 32 } else { script.length(MAX_CHUNK) };
        let text = vec![script.byte(); length];
        let frame = emitted(|out| {
            seal_frame::<FakeCrypto>(&self.keys.c2s, SESSION, frame_type, seq, &text, out).ok()
        });
        self.given.push(frame.clone());
        frame
    }

    /// The fake cipher leaves the plaintext where it is.
    pub(super) fn switch(&mut self, initiator: Role, salt: &[u8; 32]) {
        self.keys = rekey::<FakeCrypto>(&self.keys, initiator, salt, SESSION);
        self.next = 0;
    }

    pub(super) fn utack(&self, frame: &[u8]) -> Vec<u8> {
        let header = Frame::parse(frame).expect("the server sends frames").header();
        Utack::sealed::<FakeCrypto>(&self.keys.s2c, header.frame_type, header.seq).emit().to_vec()
    }
}

pub(super) fn salt_of(frame: &[u8]) -> Option<[u8; 32]> {
    frame.get(24..56)?.try_into().ok()
}

pub(super) fn open_udp(now: Instant, config: &SessionConfig) -> (UdpSession<FakeCrypto, u8>, DeviceSide) {
    let first = hello(1, None);
    let limits = HandshakeConfig::default();
    let mut handshake =
        UdpHandshake::<FakeCrypto>::start(now, &first, Secret::new([7; 32]), [8; 32], 1, &limits);
    let mut out = [0; MAX_FRAME];
    let length = handshake.poll_transmit(now, &mut out).expect("CHALLENGE");
    let challenge = Challenge::parse(&Frame::parse(&out[..length]).expect("a frame")).expect("CHALLENGE");
    let keys_ = keys(1, &first, &challenge);
    let ack = proof(&first, &challenge);
    let Ok(AckOutcome::Proved(proof)) = handshake.handle_hello_ack(now, &ack, &[&PSK]) else {
        unreachable!("the proof is right")
    };
    let session = handshake.accept(now, proof, SESSION, 0, config).expect("the key is good");
    (session, DeviceSide { keys: keys_, next: 0, given: Vec::new() })
}

/// A sequence of calls on an open UDP session: frames in and out of order, commits in any order, changes of keys from both
/// sides, roaming, time. No message is handed out twice, nothing unstored is acknowledged, no number seals two things.
pub fn server_udp(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let mut reach = Reach { connected: 1, ..Reach::default() };
    let mut now = Instant::from_millis(1);
    let (mut session, mut device) = open_udp(now, &SessionConfig::udp());
    let mut pool = ArrayPool::<2>::new();
    let mut pending: Vec<CommitToken> = Vec::new();
    let mut taken: HashSet<CommitToken> = HashSet::new();
    let mut sealed: HashMap<u32, Vec<u8>> = HashMap::new();
    let (mut outgoing, mut sent, mut our_salt): (Vec<u8>, Vec<Vec<u8>>, [u8; 32]) =
        (Vec::new(), Vec::new(), [0; 32]);
    for _ in 0..CALLS {
        if script.is_empty() || session.closed().is_some() {
            break;
        }
        let mut datagram = None;
        let mut their_salt = None;
        match script.byte() % 16 {
            0 => datagram = Some(framed(&mut script)),
            1..7 => datagram = Some(device.frame(&mut script)),
            7 => datagram = device.given.get(usize::from(script.byte()) % device.given.len().max(1)).cloned(),
            8 | 9 if !pending.is_empty() => {
                let at = if script.byte() < 200 { 0 } else { usize::from(script.byte()) % pending.len() };
                let token = pending.remove(at);
                if let Some(committed) = session.committed(now, token) {
                    let utack = Utack::parse(&committed.utack).expect("a UTACK");
                    assert_eq!(
                        (utack.seq, token.epoch),
                        (token.seq, session.epoch()),
                        "a UTACK for another message"
                    );
                    reach.delivered += 1;
                }
                assert_eq!(session.committed(now, token), None, "{token:?} committed twice");
            }
            10 if !pending.is_empty() => {
                let token = pending.remove(usize::from(script.byte()) % pending.len());
                session.refused(token);
                assert_eq!(
                    session.committed(now, token),
                    None,
                    "{token:?} acknowledged after it was refused"
                );
            }
            11 if !pending.is_empty() => {
                let token = pending.remove(pending.len() - 1);
                if session.withdraw(token) {
                    taken.remove(&token);
                }
            }
            12 => {
                now = now + Duration::from_millis(u64::from(script.byte()) * 8);
                session.handle_timeout(now, &mut pool);
            }
            13 => {
                let length = script.length(MAX_MESSAGE + 1);
                if session.send(length).is_ok() {
                    outgoing = vec![script.byte(); length];
                }
            }
            14 => datagram = sent.last().map(|frame| device.utack(frame)),
            15 if script.byte() > 240 => {
                let salt = [script.byte(); 32];
                if session.start_rekey(Secret::new(salt)).is_ok() {
                    our_salt = salt;
                }
            }
            15 if script.byte() > 250 => drop(session.say_bye()),
            _ => {}
        }
        let from = u8::from(script.byte() > 240);
        if let Some(mut datagram) = datagram {
            let salt = salt_of(&datagram);
            match classify(&datagram) {
                Ok(Datagram::Utack(utack)) => drop(session.handle_utack(now, from, &utack)),
                Ok(Datagram::Sealed { prefix, .. }) if prefix == SESSION.prefix() => {
                    match session.handle_datagram(now, from, &mut datagram, &mut pool) {
                        Ok(Received::Message { token, payload }) => {
                            assert!(payload.len() <= MAX_MESSAGE, "{} bytes", payload.len());
                            assert!(taken.insert(token), "{token:?} handed out twice");
                            let newest = taken.iter().filter(|other| other.epoch == token.epoch).max();
                            assert_eq!(newest, Some(&token), "a message out of order");
                            pending.push(token);
                            reach.messages += 1;
                        }
                        Ok(Received::Acknowledge { what: Acknowledged::Rekey, .. }) => their_salt = salt,
                        Ok(Received::Acknowledge { what: Acknowledged::Bye, .. }) => {
                            assert!(session.closed().is_some(), "BYE leaves the session open");
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        while let Some(event) = session.poll_event() {
            match event {
                SessionEvent::Rekeyed { .. } => {
                    match their_salt.take() {
                        Some(salt) => device.switch(Role::Device, &salt),
                        None => device.switch(Role::Server, &our_salt),
                    }
                    sealed.clear();
                    reach.rekeyed += 1;
                }
                SessionEvent::Closed(_) => reach.closed += 1,
                _ => {}
            }
        }
        let waiting = pending.iter().filter(|token| token.epoch == session.epoch()).count();
        assert!(waiting <= MAX_PENDING && session.pending() <= MAX_PENDING, "{waiting} messages wait");
        let mut out = [0; MAX_FRAME];
        let mut frames = 0;
        while let Some(transmit) = session.poll_transmit(now, &outgoing, &mut out) {
            let frame = out[..transmit.length].to_vec();
            let seq = Frame::parse(&frame).expect("a server sends frames").header().seq;
            let before = sealed.insert(seq, frame.clone());
            assert!(before.is_none_or(|before| before == frame), "number {seq} sealed two things");
            sent.push(frame);
            frames += 1;
            assert!(frames <= 8, "a session that sends without end");
        }
    }
    session.release(&mut pool);
    assert_eq!(pool.lent(), 0, "a buffer was not given back");
    reach
}

fn open_tcp(now: Instant) -> (TcpSession<FakeCrypto>, DeviceSide) {
    let first = hello(1, None);
    let mut handshake = TcpHandshake::<FakeCrypto>::new(now, &HandshakeConfig::default());
    let frame = emitted(|out| first.emit(out).ok());
    let Ok(TcpHandshakeStep::Hello { .. }) = handshake.receive(&frame) else { unreachable!("a right HELLO") };
    let mut out = [0; MAX_FRAME];
    let length = handshake.challenge(now, Secret::new([7; 32]), [8; 32], &mut out).expect("HELLO came");
    let challenge = Challenge::parse(&Frame::parse(&out[..length]).expect("a frame")).expect("CHALLENGE");
    let keys_ = keys(1, &first, &challenge);
    let proof = handshake.verify(&proof(&first, &challenge), &[&PSK]).expect("the proof is right");
    let mut ok = [0; 60];
    let session =
        handshake.accept(now, proof, SESSION, &SessionConfig::tcp(), &mut ok).expect("the key is good");
    (session, DeviceSide { keys: keys_, next: 0, given: Vec::new() })
}

/// A sequence of calls on a TCP connection, its handshake on half of the scripts included, with the stream cut anywhere.
pub fn server_tcp(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let mut now = Instant::from_millis(1);
    if script.byte() & 1 == 0 {
        return tcp_handshake(&mut script, now);
    }
    let mut reach = Reach { connected: 1, ..Reach::default() };
    let (mut session, mut device) = open_tcp(now);
    let mut pool = ArrayPool::<1>::new();
    let mut stream: Vec<u8> = Vec::new();
    let mut last: Option<CommitToken> = None;
    for _ in 0..CALLS {
        if script.is_empty() || session.closed().is_some() {
            break;
        }
        match script.byte() % 8 {
            0 if script.byte() > 200 => stream.extend(framed(&mut script)),
            1..5 => stream.extend(device.frame(&mut script)),
            5 => {
                now = now + Duration::from_millis(u64::from(script.byte()) * 8);
                session.handle_timeout(now);
            }
            6 => {
                let length = script.length(MAX_MESSAGE + 1);
                let mut out = [0; 4 * MAX_FRAME];
                reach.delivered += u32::from(session.send(&vec![1; length], &mut out).is_ok());
            }
            _ => {}
        }
        let piece = script.length(stream.len());
        let mut at = 0;
        while at < piece {
            let salt = salt_of(&stream[at..piece]);
            let epoch = session.epoch();
            match session.receive(now, &mut stream[at..piece], &mut pool) {
                Ok(TcpReceived::NeedMore(total)) => {
                    assert!(total > piece - at && total <= MAX_FRAME, "asks for {total} bytes");
                    break;
                }
                Ok(TcpReceived::Message { consumed, token, payload }) => {
                    assert!(payload.len() <= MAX_MESSAGE, "{} bytes", payload.len());
                    assert!(last < Some(token), "{token:?} after {last:?}");
                    last = Some(token);
                    reach.messages += 1;
                    at += consumed;
                }
                Ok(TcpReceived::Control { consumed } | TcpReceived::Rekeyed { consumed, .. }) => {
                    at += consumed
                }
                Ok(TcpReceived::Bye { .. }) => {
                    reach.closed += 1;
                    break;
                }
                Err(_) => {
                    reach.closed += 1;
                    session.release(&mut pool);
                    assert_eq!(pool.lent(), 0, "a buffer was not given back");
                    return reach;
                }
            }
            assert!(at <= piece, "more taken than there was");
            if session.epoch() != epoch {
                device.switch(Role::Device, &salt.expect("a REKEY has a salt"));
                reach.rekeyed += 1;
            }
        }
        stream.drain(..at);
        let mut out = [0; MAX_FRAME];
        for _ in 0..32 {
            let Some(length) = session.poll_transmit(&mut out) else { break };
            assert!(Frame::parse(&out[..length]).is_ok(), "a server sends frames");
        }
        assert_eq!(session.poll_transmit(&mut out), None, "a session that sends without end");
    }
    session.release(&mut pool);
    assert_eq!(pool.lent(), 0, "a buffer was not given back");
    reach
}

fn tcp_handshake(script: &mut Script<'_>, now: Instant) -> Reach {
    let mut reach = Reach::default();
    let mut handshake = TcpHandshake::<FakeCrypto>::new(now, &HandshakeConfig::default());
    let mut challenge = None;
    let mut out = [0; MAX_FRAME];
    for _ in 0..8 {
        let honest = script.byte() > 60;
        let bytes = match &challenge {
            None if honest => emitted(|out| hello(1, None).emit(out).ok()),
            Some(challenge) if honest => emitted(|out| proof(&hello(1, None), challenge).emit(out).ok()),
            _ => framed(script),
        };
        match handshake.receive(&bytes) {
            Ok(TcpHandshakeStep::Hello { consumed, .. }) => {
                assert_eq!(consumed, bytes.len(), "bytes of the HELLO");
                let length =
                    handshake.challenge(now, Secret::new([7; 32]), [8; 32], &mut out).expect("HELLO came");
                let frame = Frame::parse(&out[..length]).expect("a frame");
                challenge = Challenge::parse(&frame).ok();
            }
            Ok(TcpHandshakeStep::HelloAck { ack, .. }) => {
                let Some(proof) = handshake.verify(&ack, &[&PSK]) else { return reach };
                let mut ok = [0; 60];
                let session = handshake.accept(now, proof, SESSION, &SessionConfig::tcp(), &mut ok);
                reach.connected += u32::from(session.is_ok());
                return reach;
            }
            Ok(TcpHandshakeStep::NeedMore(total)) => assert!(total > bytes.len(), "asks for {total} bytes"),
            Err(_) => {
                reach.closed += 1;
                return reach;
            }
        }
    }
    reach
}
