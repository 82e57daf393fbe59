//! Sessions on TCP (WIRE.md sections 6 to 10 and 12, rule 8).

use usmp::crypto::RustCrypto;
use usmp::server::*;
use usmp::wire::{Frame, FrameType, Hello, StreamDecode, decode_stream};
use usmp::*;

use crate::support::*;

/// A session and what the device knows.
pub(crate) struct Tcp {
    pub(crate) now: Instant,
    pub(crate) session: TcpSession<RustCrypto>,
    pub(crate) pool: ArrayPool<1>,
    pub(crate) keys: SessionKeys,
    pub(crate) seq: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Got {
    More(usize),
    Message(CommitToken, Vec<u8>),
    Control,
    Rekeyed(u32),
    Bye,
}

impl Tcp {
    pub(crate) fn with(config: &SessionConfig) -> Self {
        let now = Instant::from_millis(10_000);
        let mut handshake = TcpHandshake::new(now, &HandshakeConfig::default());
        let mut out = [0; 100];
        let length = Hello { cookie: None, ..hello() }.emit(&mut out).expect("fits");
        handshake.receive(&out[..length]).expect("a HELLO");
        let length = handshake.challenge(now, server_private(), NONCE, &mut out).expect("the state for it");
        let proof = handshake.verify(&hello_ack(&out[..length], &PSK), &[&PSK]).expect("the right key");
        let session = handshake.accept(now, proof, SESSION, config, &mut [0; 60]).expect("a good key");
        Self { now, session, pool: ArrayPool::new(), keys: device_keys(), seq: 0 }
    }

    pub(crate) fn new() -> Self {
        Self::with(&SessionConfig::tcp())
    }

    fn seal(&self, frame_type: FrameType, seq: u32, plaintext: &[u8]) -> Vec<u8> {
        let mut out = [0; 492];
        let length = seal_frame::<RustCrypto>(&self.keys.c2s, SESSION, frame_type, seq, plaintext, &mut out)
            .expect("fits");
        out[..length].to_vec()
    }

    fn next(&mut self, frame_type: FrameType, plaintext: &[u8]) -> Vec<u8> {
        self.seq += 1;
        self.seal(frame_type, self.seq - 1, plaintext)
    }

    fn give(&mut self, stream: &[u8]) -> Result<Got, DropReason> {
        let mut stream = stream.to_vec();
        let whole = stream.len();
        let got = self.session.receive(self.now, &mut stream, &mut self.pool)?;
        Ok(match got {
            TcpReceived::NeedMore(bytes) => Got::More(bytes),
            TcpReceived::Message { consumed, token, payload } => {
                assert_eq!(consumed, whole);
                Got::Message(token, payload.to_vec())
            }
            TcpReceived::Control { .. } => Got::Control,
            TcpReceived::Rekeyed { epoch, .. } => Got::Rekeyed(epoch),
            TcpReceived::Bye { .. } => Got::Bye,
        })
    }

    fn message(&mut self, plaintext: &[u8]) {
        let frame = self.next(Data, plaintext);
        let token = CommitToken { epoch: self.session.epoch(), seq: self.seq - 1 };
        assert_eq!(self.give(&frame), Ok(Got::Message(token, plaintext.to_vec())));
    }

    fn control(&mut self, frame_type: FrameType) -> Result<Got, DropReason> {
        let frame = self.next(frame_type, b"");
        self.give(&frame)
    }

    fn open(&self, frame: &[u8]) -> (FrameType, u32, Vec<u8>) {
        let mut frame = frame.to_vec();
        let opened =
            open_frame::<RustCrypto>(&self.keys.s2c, SESSION, &mut frame).expect("opens for the device");
        (opened.frame_type, opened.seq, opened.plaintext.to_vec())
    }

    fn sends(&mut self) -> Vec<(FrameType, u32)> {
        let mut all = Vec::new();
        let mut out = [0; 40];
        while let Some(length) = self.session.poll_transmit(&mut out) {
            let (frame_type, seq, plaintext) = self.open(&out[..length]);
            assert_eq!(plaintext, b"");
            all.push((frame_type, seq));
        }
        all
    }

    fn send(&mut self, message: &[u8]) -> Vec<(FrameType, u32, Vec<u8>)> {
        let mut out = [0; MAX_MESSAGE_WIRE];
        let length = self.session.send(message, &mut out).expect("open");
        self.frames(&out[..length])
    }

    fn frames(&self, mut stream: &[u8]) -> Vec<(FrameType, u32, Vec<u8>)> {
        let mut all = Vec::new();
        while let Ok(StreamDecode::Frame(length)) = decode_stream(stream) {
            all.push(self.open(&stream[..length]));
            stream = &stream[length..];
        }
        assert!(stream.is_empty(), "whole frames only");
        all
    }

    fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.session.handle_timeout(self.now);
    }
}

#[test]
fn messages_come_in_order_from_number_zero() {
    let mut tcp = Tcp::new();
    for message in [&b"one"[..], b"", &[7; 452]] {
        tcp.message(message);
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut tcp = Tcp::new();
    let frame = tcp.next(Data, b"slow");
    for end in 0..frame.len() {
        let needed = if end < 12 { 12 } else { frame.len() };
        assert_eq!(tcp.give(&frame[..end]), Ok(Got::More(needed)), "{end}");
    }
    assert!(matches!(tcp.give(&frame), Ok(Got::Message(..))));
}

#[test]
fn frames_back_to_back_are_taken_one_by_one() {
    let mut tcp = Tcp::new();
    let mut stream = [tcp.next(Data, b"one"), tcp.next(Data, b"two"), b"\xCD".to_vec()].concat();
    let mut from = 0;
    for expected in [&b"one"[..], b"two"] {
        match tcp.session.receive(tcp.now, &mut stream[from..], &mut tcp.pool) {
            Ok(TcpReceived::Message { consumed, payload, .. }) => {
                assert_eq!(payload, expected);
                from += consumed;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        tcp.session.receive(tcp.now, &mut stream[from..], &mut tcp.pool),
        Ok(TcpReceived::NeedMore(12))
    );
}

#[test]
fn a_repeated_number_closes() {
    let mut tcp = Tcp::new();
    let frame = tcp.next(Data, b"m");
    tcp.give(&frame).expect("a message");
    assert_eq!(tcp.give(&frame), Err(DropReason::Sequence));
}

#[test]
fn a_skipped_number_closes() {
    let mut tcp = Tcp::new();
    let frame = tcp.seal(Data, 1, b"m");
    assert_eq!(tcp.give(&frame), Err(DropReason::Sequence));
}

#[test]
fn a_wrong_tag_closes() {
    let mut tcp = Tcp::new();
    let frame = tcp.next(Data, b"m");
    assert_eq!(tcp.give(&forged(&frame)), Err(DropReason::Authentication));
}

#[test]
fn frame_errors_close() {
    let mut tcp = Tcp::new();
    let good = tcp.next(Data, b"m");
    let changed = |at: usize, to: u8, fix: bool| {
        let mut frame = good.clone();
        frame[at] = to;
        if fix {
            mend(&mut frame);
        }
        frame
    };
    for (frame, reason) in [
        (changed(0, 0, false), DropReason::Magic),
        (changed(2, 1, true), DropReason::Version),
        (changed(9, 2, true), DropReason::Length),
        (changed(14, 9, false), DropReason::Crc),
        (changed(3, 0x55, true), DropReason::UnknownType),
        (changed(3, 0xFF, true), DropReason::UnknownType),
        (changed(3, 1, true), DropReason::UnexpectedType),
        (changed(3, 0x0A, true), DropReason::UnexpectedType),
        (changed(13, 9, true), DropReason::ExplicitNonce),
    ] {
        assert_eq!(Tcp::new().give(&frame), Err(reason));
    }
    let mut short = [0; 40];
    let length = wire::emit(Data, 0, &[0; 27], &mut short).expect("fits");
    assert_eq!(Tcp::new().give(&short[..length]), Err(DropReason::PayloadTooShort));
}

#[test]
fn the_last_number_closes() {
    let mut tcp = Tcp::new();
    // Nothing reaches it in a test but the check itself: a frame numbered so is out of order first.
    let frame = tcp.seal(Data, u32::MAX, b"");
    assert_eq!(tcp.give(&frame), Err(DropReason::Sequence));
}

#[test]
fn ping_is_answered_by_pong() {
    let mut tcp = Tcp::new();
    assert_eq!(tcp.control(Ping), Ok(Got::Control));
    assert_eq!(tcp.sends(), [(Pong, 0)]);
}

#[test]
fn pong_is_not_answered() {
    let mut tcp = Tcp::new();
    assert_eq!(tcp.control(Pong), Ok(Got::Control));
    assert_eq!(tcp.sends(), []);
}

#[test]
fn nine_control_frames_in_a_second_close() {
    let mut tcp = Tcp::new();
    for _ in 0..8 {
        assert_eq!(tcp.control(Ping), Ok(Got::Control));
    }
    assert_eq!(tcp.control(Ping), Err(DropReason::ControlFlood));
    assert_eq!(tcp.session.closed(), Some(CloseReason::ControlFlood));
}

#[test]
fn pings_that_waited_while_reading_was_paused_do_not_close() {
    let mut tcp = Tcp::new();
    tcp.session.pause(tcp.now);
    tcp.now = tcp.now + secs(10);
    tcp.session.resume(tcp.now);
    for _ in 0..60 {
        assert_eq!(tcp.control(Ping), Ok(Got::Control));
    }
    assert_eq!(tcp.sends().len(), 8, "more answers in a second would end the session at the device");
}

#[test]
fn bye_closes_without_an_answer() {
    let mut tcp = Tcp::new();
    assert_eq!(tcp.control(Bye), Ok(Got::Bye));
    assert_eq!(tcp.sends(), []);
    assert_eq!(tcp.session.closed(), Some(CloseReason::Bye));
    assert_eq!(tcp.control(Ping), Err(DropReason::Closed));
}

#[test]
fn fragmented_messages_come_together() {
    for fragments in 1..=3 {
        let mut tcp = Tcp::new();
        for n in 0..fragments {
            let frame = tcp.next(DataFrag, &[n; 452]);
            assert_eq!(tcp.give(&frame), Ok(Got::Control));
        }
        let frame = tcp.next(Data, b"tail");
        let Ok(Got::Message(token, payload)) = tcp.give(&frame) else { panic!("a message") };
        assert_eq!(token.seq, u32::from(fragments), "named by its last frame");
        assert_eq!(payload.len(), usize::from(fragments) * 452 + 4);
        assert_eq!(tcp.pool.lent(), 0);
    }
}

#[test]
fn a_fourth_fragment_closes() {
    let mut tcp = Tcp::new();
    for _ in 0..3 {
        assert_eq!(tcp.control(DataFrag), Ok(Got::Control));
    }
    assert_eq!(tcp.control(DataFrag), Err(DropReason::TooManyFragments));
}

#[test]
fn control_frames_inside_a_message_close_except_bye() {
    for frame_type in [Ping, Pong, Rekey] {
        let mut tcp = Tcp::new();
        tcp.control(DataFrag).expect("a fragment");
        assert_eq!(tcp.control(frame_type), Err(DropReason::InsideMessage), "{frame_type:?}");
    }
    let mut tcp = Tcp::new();
    tcp.control(DataFrag).expect("a fragment");
    assert_eq!(tcp.control(Bye), Ok(Got::Bye));
}

#[test]
fn without_a_buffer_a_fragment_can_wait_in_the_stream() {
    let mut tcp = Tcp::new();
    let taken = tcp.pool.lend().expect("one buffer");
    let frame = tcp.next(DataFrag, b"head ");
    assert_eq!(tcp.give(&frame), Err(DropReason::NoBuffer));
    tcp.pool.give_back(taken);
    assert_eq!(tcp.give(&frame), Ok(Got::Control), "nothing was changed");
}

#[test]
fn a_message_that_stops_half_way_closes_after_thirty_seconds() {
    let mut tcp = Tcp::new();
    tcp.control(DataFrag).expect("a fragment");
    tcp.advance(millis(29_999));
    assert_eq!(tcp.session.closed(), None);
    assert_eq!(tcp.session.poll_timeout(), Some(tcp.now + millis(1)));
    tcp.advance(millis(1));
    assert_eq!(tcp.session.closed(), Some(CloseReason::Idle));
    tcp.session.release(&mut tcp.pool);
    assert_eq!(tcp.pool.lent(), 0);
}

#[test]
fn rekey_by_the_device_switches_at_once_and_both_counters_restart() {
    let mut tcp = Tcp::new();
    tcp.message(b"old");
    tcp.send(b"old");
    let salt = [9; 32];
    let frame = tcp.next(Rekey, &salt);
    assert_eq!(tcp.give(&frame), Ok(Got::Rekeyed(1)));
    tcp.keys = rekey::<RustCrypto>(&tcp.keys, Role::Device, &salt, SESSION);
    tcp.seq = 0;
    tcp.message(b"new");
    assert_eq!(tcp.send(b"new"), [(Data, 0, b"new".to_vec())]);
}

#[test]
fn rekey_of_a_wrong_length_closes() {
    let mut tcp = Tcp::new();
    let frame = tcp.next(Rekey, &[9; 31]);
    assert_eq!(tcp.give(&frame), Err(DropReason::RekeyLength));
}

#[test]
fn our_rekey_switches_right_after_writing() {
    let mut tcp = Tcp::new();
    let salt = Secret::new([6; 32]);
    let mut out = [0; 100];
    let length = tcp.session.start_rekey(&salt, &mut out).expect("open");
    assert_eq!(tcp.open(&out[..length]), (Rekey, 0, salt.expose().to_vec()));
    tcp.keys = rekey::<RustCrypto>(&tcp.keys, Role::Server, salt.expose(), SESSION);
    assert_eq!(tcp.send(b"new"), [(Data, 0, b"new".to_vec())]);
    tcp.message(b"new");
}

#[test]
fn messages_to_the_device_are_cut_into_whole_frames() {
    for (length, frames) in [(0, 1), (452, 1), (453, 2), (1808, 4)] {
        let mut tcp = Tcp::new();
        let message: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let sent = tcp.send(&message);
        assert_eq!(sent.len(), frames, "{length} bytes");
        assert_eq!(sent.iter().flat_map(|frame| frame.2.clone()).collect::<Vec<_>>(), message);
        assert!(sent.iter().enumerate().all(|(n, frame)| frame.1 == n as u32));
        assert!(sent.iter().rev().skip(1).all(|frame| frame.0 == DataFrag));
        assert_eq!(sent.last().map(|frame| frame.0), Some(Data));
    }
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let mut tcp = Tcp::new();
    assert_eq!(tcp.session.send(&[0; 1809], &mut [0; 2000]), Err(SendError::TooLong));
    assert_eq!(tcp.session.send(&[0; 10], &mut [0; 49]), Err(SendError::BufferTooSmall));
    assert_eq!(tcp.send(b"m"), [(Data, 0, b"m".to_vec())], "and no number was used");
}

#[test]
fn bye_from_the_server_closes() {
    let mut tcp = Tcp::new();
    let mut out = [0; 40];
    let length = tcp.session.say_bye(&mut out).expect("open");
    assert_eq!(tcp.open(&out[..length]).0, Bye);
    assert_eq!(tcp.session.closed(), Some(CloseReason::Local));
    assert_eq!(tcp.session.send(b"", &mut out), Err(SendError::Closed));
}

#[test]
fn the_first_authentic_frame_establishes() {
    let mut tcp = Tcp::new();
    assert!(!tcp.session.is_established());
    let frame = tcp.next(Data, b"");
    assert!(tcp.give(&forged(&frame)).is_err());
    assert!(!tcp.session.is_established());
    tcp.give(&frame).expect("a message");
    assert!(tcp.session.poll_established());
    assert!(!tcp.session.poll_established(), "said once");
}

#[test]
fn a_half_open_session_gets_one_ping_and_is_not_dropped() {
    let mut tcp = Tcp::new();
    tcp.advance(secs(1));
    assert_eq!(tcp.sends(), [(Ping, 0)]);
    tcp.advance(secs(200));
    assert_eq!(tcp.sends(), []);
    assert_eq!(tcp.session.closed(), None);
    assert_eq!(tcp.control(Pong), Ok(Got::Control));
    assert!(tcp.session.is_established());
}

#[test]
fn a_silent_device_gets_two_pings_and_is_closed_after_the_idle_timeout() {
    let mut tcp = Tcp::new();
    tcp.message(b"m");
    let mut pings = Vec::new();
    let start = tcp.now;
    while let Some(at) = tcp.session.poll_timeout() {
        tcp.now = at;
        tcp.session.handle_timeout(at);
        pings.extend(tcp.sends().iter().map(|_| at - start));
    }
    assert_eq!(pings, [secs(45), secs(90)]);
    assert_eq!((tcp.session.closed(), tcp.now - start), (Some(CloseReason::Idle), secs(300)));
}

#[test]
fn the_idle_timeout_stands_still_while_reading_is_paused() {
    let mut tcp = Tcp::with(&SessionConfig { keepalive: None, ..SessionConfig::tcp() });
    tcp.message(b"m");
    tcp.advance(secs(200));
    tcp.session.pause(tcp.now);
    tcp.advance(secs(1000));
    tcp.session.resume(tcp.now);
    tcp.advance(millis(99_999));
    assert_eq!(tcp.session.closed(), None);
    tcp.advance(millis(1));
    assert_eq!(tcp.session.closed(), Some(CloseReason::Idle));
}

#[test]
fn frames_of_the_server_parse_with_their_crc() {
    let mut tcp = Tcp::new();
    let mut out = [0; 100];
    let length = tcp.session.send(b"m", &mut out).expect("open");
    assert!(Frame::parse(&out[..length]).is_ok());
}
