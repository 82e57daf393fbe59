//! Rules of the device role on TCP, each test named after the situation.

use usmp::crypto::RustCrypto;
use usmp::device::{
    CloseReason, CommandError, Config, MessageId, ProtocolError, Psk, SendError, TcpDevice, UdpDevice,
};
use usmp::wire::{FrameError, FrameType};
use usmp::{DeviceId, Duration, Instant, Role, Secret};
use usmp_testkit::pair::{TcpPair, Told, UdpPair};
use usmp_testkit::script::ScriptedServer;

fn connected() -> TcpPair {
    TcpPair::connected(UdpPair::quiet())
}

fn protocol(error: ProtocolError) -> [Told; 1] {
    [Told::Closed(CloseReason::Protocol(error))]
}

#[test]
fn stream_may_be_cut_anywhere() {
    let mut pair = TcpPair::new(UdpPair::quiet());
    let hello = pair.frame();
    let challenge = pair.server.challenge(&hello);
    for byte in challenge {
        pair.give(&[byte]);
    }
    let ack = pair.frame();
    let mut stream = pair.server.session_ok(&ack).expect("a right proof");
    stream.extend(pair.server.seal(FrameType::Ping, 0, b""));
    stream.extend(pair.server.seal(FrameType::DataFrag, 1, &[1; 452]));
    stream.extend(pair.server.seal(FrameType::Data, 2, &[2; 452]));
    for piece in stream.chunks(7) {
        pair.give(piece);
    }
    let message = [[1; 452], [2; 452]].concat();
    assert_eq!(pair.told(), [Told::Connected(pair.server.session_id()), Told::Message(message)]);
    let pong = pair.frame();
    assert_eq!(pair.server.open(&pong).frame_type, FrameType::Pong);
}

#[test]
fn unpolled_message_stops_the_reading() {
    let mut pair = connected();
    let first = pair.server.seal(FrameType::Data, 0, b"first");
    let mut stream = first.clone();
    stream.extend(pair.server.seal(FrameType::Data, 1, b"second"));
    assert_eq!(pair.device.handle_bytes(pair.now, &stream), first.len());
    assert_eq!(pair.device.handle_bytes(pair.now, &stream[first.len()..]), 0);
    assert_eq!(pair.told(), [Told::Message(b"first".to_vec())]);
    pair.give(&stream[first.len()..]);
    assert_eq!(pair.told(), [Told::Message(b"second".to_vec())]);
}

#[test]
fn message_goes_out_whole_and_in_order_with_what_was_asked_for() {
    let mut pair = connected();
    let id = pair.device.send(&[3; 1808]).expect("free");
    assert_eq!(pair.device.send(b"second"), Err(SendError::Busy));
    let mut out = [0; 492];
    pair.device.poll_transmit(pair.now, &mut out).expect("the first fragment");
    assert_eq!(pair.server.open(&out).frame_type, FrameType::DataFrag);
    pair.device.ping().expect("connected");
    assert_eq!(pair.device.ping(), Err(CommandError::Busy));
    pair.device.bye().expect("connected");
    let opened: Vec<_> = pair.sent().iter().map(|frame| pair.server.open(frame)).collect();
    let types: Vec<_> = opened.iter().map(|frame| frame.frame_type).collect();
    assert_eq!(
        types,
        [FrameType::DataFrag, FrameType::DataFrag, FrameType::Data, FrameType::Ping, FrameType::Bye]
    );
    let numbers: Vec<_> = opened.iter().map(|frame| frame.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(pair.told(), [Told::Sent(id), Told::Closed(CloseReason::Bye)]);
}

#[test]
fn wrong_frames_end_the_connection_without_a_word() {
    type Spoil = fn(&TcpPair, Vec<u8>) -> Vec<u8>;
    let cases: [(&str, Spoil, ProtocolError); 8] = [
        (
            "magic",
            |_, mut f| {
                f[0] = 0;
                f
            },
            ProtocolError::Frame(FrameError::Magic),
        ),
        (
            "version 1",
            |_, mut f| {
                f[2] = 1;
                f
            },
            ProtocolError::Frame(FrameError::Version(1)),
        ),
        (
            "length 481",
            |_, mut f| {
                f[8..10].copy_from_slice(&481_u16.to_le_bytes());
                f
            },
            ProtocolError::Frame(FrameError::Length),
        ),
        (
            "crc",
            |_, mut f| {
                f[10] ^= 1;
                f
            },
            ProtocolError::Frame(FrameError::Crc),
        ),
        ("sequence too high", |p, _| p.server.seal(FrameType::Data, 1, b""), ProtocolError::Sequence),
        ("a handshake frame", |p, _| p.server.hello_retry([0; 16]), ProtocolError::UnexpectedType),
        (
            "sealed for another session",
            |_, f| {
                let mut other = TcpPair::new(UdpPair::quiet());
                other.server = ScriptedServer::new(&UdpPair::PSK, 9);
                let hello = other.frame();
                other.server.challenge(&hello);
                assert_eq!(f.len(), 44);
                other.server.seal(FrameType::Data, 0, b"data")
            },
            ProtocolError::Authentication,
        ),
        ("REKEY of 31 bytes", |p, _| p.server.seal(FrameType::Rekey, 0, &[1; 31]), ProtocolError::Length),
    ];
    for (name, spoil, error) in cases {
        let mut pair = connected();
        let frame = pair.server.seal(FrameType::Data, 0, b"data");
        let spoilt = spoil(&pair, frame);
        pair.give(&spoilt);
        assert_eq!(pair.told(), protocol(error), "{name}");
        assert_eq!(pair.sent(), Vec::<Vec<u8>>::new(), "{name}: silence");
        assert_eq!(pair.device.poll_timeout(), None, "{name}: no timer is left");
        pair.give(b"whatever follows is ignored");
    }
}

#[test]
fn replayed_frame_ends_the_connection() {
    let mut pair = connected();
    let data = pair.server.seal(FrameType::Data, 0, b"once");
    pair.give(&data);
    assert_eq!(pair.told(), [Told::Message(b"once".to_vec())]);
    pair.give(&data);
    assert_eq!(pair.told(), protocol(ProtocolError::Sequence));
}

#[test]
fn control_frame_between_fragments_ends_the_connection_and_bye_is_honoured() {
    for (frame_type, payload) in
        [(FrameType::Ping, &[] as &[u8]), (FrameType::Pong, &[]), (FrameType::Rekey, &[1; 32])]
    {
        let mut pair = connected();
        pair.give(&pair.server.seal(FrameType::DataFrag, 0, b"part"));
        pair.give(&pair.server.seal(frame_type, 1, payload));
        assert_eq!(pair.told(), protocol(ProtocolError::InsideMessage), "{frame_type:?}");
    }
    let mut pair = connected();
    pair.give(&pair.server.seal(FrameType::DataFrag, 0, b"part"));
    pair.give(&pair.server.seal(FrameType::Bye, 1, b""));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::ByeReceived)]);
}

#[test]
fn fourth_fragment_ends_the_connection() {
    let mut pair = connected();
    for seq in 0..4 {
        pair.give(&pair.server.seal(FrameType::DataFrag, seq, b"x"));
    }
    assert_eq!(pair.told(), protocol(ProtocolError::MessageTooLong));
}

#[test]
fn message_above_the_device_s_buffer_ends_the_connection() {
    let now = Instant::ZERO;
    let psk = Psk::new(&UdpPair::PSK).expect("long enough");
    let mut device = TcpDevice::<RustCrypto, 64, 256>::connect(
        now,
        DeviceId([1; 6]),
        psk,
        Secret::new([8; 32]),
        UdpPair::quiet(),
    );
    let mut server = ScriptedServer::<RustCrypto>::new(&UdpPair::PSK, 4);
    let mut out = [0; 492];
    let length = device.poll_transmit(now, &mut out).expect("HELLO");
    device.handle_bytes(now, &server.challenge(&out[..length]));
    let length = device.poll_transmit(now, &mut out).expect("HELLO_ACK");
    device.handle_bytes(now, &server.session_ok(&out[..length]).expect("a right proof"));
    assert!(device.is_connected());
    assert_eq!(device.send(&[0; 65]), Err(SendError::TooLong));
    device.handle_bytes(now, &server.seal(FrameType::Data, 0, &[1; 256]));
    device.handle_bytes(now, &[]);
    let mut told = Vec::new();
    while let Some(event) = device.poll_event() {
        told.push(Told::from(event));
    }
    assert_eq!(told[1..], [Told::Message(vec![1; 256])]);
    device.handle_bytes(now, &server.seal(FrameType::Data, 1, &[1; 257]));
    assert_eq!(
        device.poll_event().map(Told::from),
        Some(Told::Closed(CloseReason::Protocol(ProtocolError::MessageTooLong)))
    );
}

#[test]
fn rekey_of_either_side_restarts_both_counters_at_zero() {
    let mut pair = connected();
    for _ in 0..70 {
        pair.device.send(b"x").expect("free");
        pair.frame();
        pair.told();
    }
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    pair.device.send(b"after").expect("free");
    let sent = pair.sent();
    assert_eq!(pair.server.open(&sent[0]).frame_type, FrameType::Rekey);
    pair.server.switch_keys(Role::Device, &[0x77; 32]);
    let after = pair.server.open(&sent[1]);
    assert_eq!((after.seq, after.plaintext), (0, b"after".to_vec()));
    assert_eq!(pair.told(), [Told::Rekeyed, Told::Sent(MessageId(70))]);

    pair.give(&pair.server.seal(FrameType::Data, 0, b"new keys"));
    pair.give_after_poll();
    pair.give(&pair.server.seal(FrameType::Rekey, 1, &[0x88; 32]));
    pair.server.switch_keys(Role::Server, &[0x88; 32]);
    pair.give(&pair.server.seal(FrameType::Data, 0, b"newer keys"));
    assert_eq!(pair.told(), [Told::Rekeyed, Told::Message(b"newer keys".to_vec())]);
    pair.device.ping().expect("connected");
    let ping = pair.frame();
    assert_eq!(pair.server.open(&ping).seq, 0);
}

/// Polls what must be one message before more can be given.
trait GiveAfterPoll {
    fn give_after_poll(&mut self);
}

impl GiveAfterPoll for TcpPair {
    fn give_after_poll(&mut self) {
        assert!(matches!(self.told().as_slice(), [Told::Message(_)]), "one message");
    }
}

#[test]
fn frame_sealed_before_the_server_read_our_rekey_ends_the_connection() {
    let mut pair = connected();
    let in_flight = pair.server.seal(FrameType::Data, 0, b"in flight");
    pair.device.rekey(Secret::new([0x77; 32])).expect("connected");
    pair.frame();
    pair.give(&in_flight);
    assert_eq!(
        pair.told(),
        [Told::Rekeyed, Told::Closed(CloseReason::Protocol(ProtocolError::Authentication))]
    );
}

#[test]
fn end_of_the_stream_fails_the_message_that_is_not_out() {
    let mut pair = connected();
    let id = pair.device.send(&[1; 1000]).expect("free");
    let mut out = [0; 492];
    pair.device.poll_transmit(pair.now, &mut out).expect("the first fragment");
    pair.device.handle_end();
    assert_eq!(pair.told(), [Told::Failed(id), Told::Closed(CloseReason::TransportClosed)]);
    pair.device.handle_end();
    assert_eq!(pair.told(), [], "told once");
}

#[test]
fn handshake_and_step_have_deadlines() {
    let mut pair = TcpPair::new(UdpPair::quiet());
    let start = pair.now;
    pair.frame();
    assert_eq!(pair.device.poll_timeout(), Some(start + Duration::from_secs(10)));
    pair.device.handle_timeout(start + Duration::from_micros(9_999_999));
    assert_eq!(pair.told(), [], "early calls are harmless");
    pair.device.handle_timeout(start + Duration::from_secs(10));
    assert_eq!(pair.told(), [Told::Closed(CloseReason::HandshakeTimeout)]);

    let step = Duration::from_millis(500);
    let mut pair = TcpPair::new(Config { step_timeout: Some(step), ..UdpPair::quiet() });
    pair.frame();
    assert_eq!(pair.device.poll_timeout(), Some(pair.now + step));
}

#[test]
fn keepalive_pings_after_silence_of_our_own() {
    let mut pair = TcpPair::connected(Config::default());
    let start = pair.now;
    assert_eq!(pair.device.poll_timeout(), Some(start + Duration::from_secs(30)));
    pair.now = start + Duration::from_secs(30);
    pair.device.handle_timeout(pair.now);
    let ping = pair.frame();
    assert_eq!(pair.server.open(&ping).frame_type, FrameType::Ping);
    assert_eq!(pair.device.poll_timeout(), Some(pair.now + Duration::from_secs(30)));
}

#[test]
fn memory_of_a_device_is_its_two_buffers_and_less_than_a_kilobyte() {
    let udp = size_of::<UdpDevice<RustCrypto>>() - 2 * 1808;
    let tcp = size_of::<TcpDevice<RustCrypto>>() - 2 * 1808;
    assert!(udp <= 896, "UDP: {udp} bytes beside the buffers");
    // One partial frame of 492 bytes more.
    assert!(tcp <= 1280, "TCP: {tcp} bytes beside the buffers");
    let small = size_of::<UdpDevice<RustCrypto, 128, 128>>();
    assert!(small <= 1152, "{small} bytes for messages of 128 bytes");
}

#[test]
fn nothing_secret_is_printed() {
    let pair = connected();
    let psk = Psk::new(b"0123456789abcdef0123456789abcdef").expect("long enough");
    let text = format!("{:?} {psk:?}", pair.device);
    assert_eq!(text, "TcpDevice { phase: \"Live\", .. } Psk { bytes: Secret<128>(..), length: 32 }");
    let udp = UdpPair::connected(UdpPair::quiet());
    let text = format!("{:?}", udp.device);
    assert_eq!(text, "UdpDevice { phase: \"Live\", flight: None, .. }");
}
