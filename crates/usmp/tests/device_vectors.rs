//! The recordings of the official SDK, replayed at the device role.

use usmp::crypto::{Provider, RustCrypto};
use usmp::device::{CloseReason, Config, Event, HandshakeNumbers, Psk, TcpDevice, UdpDevice};
use usmp::wire::{FrameType, MAX_FRAME};
use usmp::{Instant, SessionId};
use usmp_testkit::crypto::PlantedKeys;
use usmp_testkit::script::ScriptedServer;
use usmp_testkit::vectors::{self, Bytes, Direction, Record, Session, Transport};

/// One device, whichever the transport, as the recordings need it.
enum Device<P: Provider> {
    Tcp(Box<TcpDevice<P>>),
    Udp(Box<UdpDevice<P>>),
}

impl<P: Provider> Device<P> {
    fn handle(&mut self, now: Instant, bytes: &[u8]) {
        match self {
            Self::Tcp(device) => assert_eq!(device.handle_bytes(now, bytes), bytes.len(), "bytes taken"),
            Self::Udp(device) => {
                let _dropped = device.handle_datagram(now, &mut bytes.to_vec());
            }
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut out = [0; MAX_FRAME];
        let length = match self {
            Self::Tcp(device) => device.poll_transmit(now, &mut out),
            Self::Udp(device) => device.poll_transmit(now, &mut out),
        };
        length.map(|length| out[..length].to_vec())
    }

    fn wait(&mut self) -> Instant {
        match self {
            Self::Tcp(device) => {
                let at = device.poll_timeout().expect("a timer runs");
                device.handle_timeout(at);
                at
            }
            Self::Udp(device) => {
                let at = device.poll_timeout().expect("a timer runs");
                device.handle_timeout(at);
                at
            }
        }
    }

    fn events(&mut self, seen: &mut Seen) {
        loop {
            let event = match self {
                Self::Tcp(device) => device.poll_event(),
                Self::Udp(device) => device.poll_event(),
            };
            match event {
                Some(Event::Connected { session_id }) => seen.connected = Some(session_id),
                Some(Event::Message(message)) => seen.messages.push(Bytes(message.to_vec())),
                Some(Event::Closed(reason)) => seen.closed = Some(reason),
                Some(Event::Failed(id)) => panic!("message {id:?} failed"),
                Some(_) => {}
                None => return,
            }
        }
    }

    fn act(&mut self, records: &[Record]) {
        let record = &records[0];
        match record.frame_type.as_deref() {
            Some("DATA" | "DATA_FRAG") => {
                let message = whole_message(records);
                match self {
                    Self::Tcp(device) => device.send(&message),
                    Self::Udp(device) => device.send(&message),
                }
                .expect("the device can send");
            }
            Some("PING") => match self {
                Self::Tcp(device) => device.ping(),
                Self::Udp(device) => device.ping(),
            }
            .expect("the device can ping"),
            Some("REKEY") => match self {
                Self::Tcp(device) => device.rekey(record.plaintext.secret()),
                Self::Udp(device) => device.rekey(record.plaintext.secret()),
            }
            .expect("the device can rekey"),
            Some("BYE") => match self {
                Self::Tcp(device) => device.bye(),
                Self::Udp(device) => device.bye(),
            }
            .expect("the device can say bye"),
            other => panic!("record {}: the device should have sent {other:?} by itself", record.i),
        }
    }
}

#[derive(Default)]
struct Seen {
    connected: Option<SessionId>,
    messages: Vec<Bytes>,
    closed: Option<CloseReason>,
}

/// The plaintext of the message that starts at the first record.
fn whole_message(records: &[Record]) -> Vec<u8> {
    let mut message = Vec::new();
    let mut next = records[0].seq;
    for record in records {
        if record.dir != Direction::C2s || record.kind.as_deref() != Some("frame") || record.seq != next {
            continue;
        }
        message.extend_from_slice(&record.plaintext.0);
        next = next.map(|seq| seq + 1);
        if record.frame_type.as_deref() == Some("DATA") {
            break;
        }
    }
    message
}

/// Plays the server's side of a recording and compares every byte of the device's side.
fn replay(session: &Session) -> (Seen, usize) {
    let secrets = &session.secrets;
    let numbers =
        if session.name.contains("1_0_0") { HandshakeNumbers::Zero } else { HandshakeNumbers::Counted };
    let config = Config { handshake_numbers: numbers, ..Config::default() };
    let psk = Psk::new(&secrets.client_psk.0).expect("the recorded key is long enough");
    let mut now = Instant::from_millis(5);
    let (id, private) = (secrets.device_id.device_id(), secrets.client_private.secret());
    let mut device = match session.transport {
        Transport::Tcp => {
            Device::<RustCrypto>::Tcp(Box::new(TcpDevice::connect(now, id, psk, private, config)))
        }
        Transport::Udp => Device::Udp(Box::new(UdpDevice::connect(now, id, psk, private, config))),
    };
    let mut seen = Seen::default();
    let mut last_frame = Vec::new();
    let mut compared = 0;
    for (index, record) in session.records.iter().enumerate() {
        let place = format!("{} record {}", session.name, record.i);
        match (record.dir, record.event.as_deref()) {
            (Direction::S2c, Some(_)) => {
                if let Device::Tcp(device) = &mut device {
                    device.handle_end();
                }
            }
            (Direction::C2s, Some(_)) => assert!(seen.closed.is_some(), "{place}: the device closes"),
            (Direction::S2c, None) if record.delivered => device.handle(now, &record.bytes.0),
            (Direction::S2c, None) => {}
            (Direction::C2s, None) => {
                let mut sent = device.transmit(now);
                if sent.is_none() && record.bytes.0 == last_frame {
                    now = device.wait();
                    sent = device.transmit(now);
                } else if sent.is_none() {
                    device.act(&session.records[index..]);
                    sent = device.transmit(now);
                }
                assert_eq!(sent.map(Bytes).as_ref(), Some(&record.bytes), "{place}");
                compared += 1;
                if record.kind.as_deref() == Some("frame") {
                    last_frame.clone_from(&record.bytes.0);
                }
            }
        }
        device.events(&mut seen);
    }
    assert_eq!(device.transmit(now).map(Bytes), None, "{}: nothing after the recording", session.name);
    (seen, compared)
}

#[test]
fn recorded_sessions_are_reproduced_byte_for_byte() {
    let (mut sessions, mut compared) = (0, 0);
    for session in vectors::v2().sessions.iter().filter(|session| session.established) {
        let (seen, records) = replay(session);
        assert_eq!(seen.connected, Some(session.secrets.session_id.session_id()), "{}", session.name);
        assert_eq!(seen.messages, session.app_messages_in_delivery_order.by_client, "{}", session.name);
        let is_bye = |record: &&Record| {
            record.kind.as_deref() == Some("frame") && record.frame_type.as_deref() == Some("BYE")
        };
        let by_server = session.records.iter().find(is_bye).map(|record| record.dir);
        let expected =
            if by_server == Some(Direction::S2c) { CloseReason::ByeReceived } else { CloseReason::Bye };
        assert_eq!(seen.closed, Some(expected), "{}", session.name);
        sessions += 1;
        compared += records;
    }
    assert_eq!(sessions, 5, "established recordings");
    assert!(compared > 60, "only {compared} records were compared");
}

#[test]
fn recorded_failures_fail_with_the_reason_and_send_nothing_more() {
    let mut visited = 0;
    for session in vectors::v2().sessions.iter().filter(|session| !session.established) {
        let (seen, _) = replay(session);
        assert_eq!(seen.connected, None, "{}", session.name);
        let expected = match session.name.as_str() {
            "tcp_failed_auth_wrong_client_psk" | "tcp_failed_auth_unknown_device" => {
                Some(CloseReason::TransportClosed)
            }
            "tcp_rogue_server_bad_server_hmac" => Some(CloseReason::ServerProof),
            // The reference says nothing; the device finds out by its own timer.
            "udp_failed_auth_wrong_client_psk" => None,
            other => panic!("an unknown recording {other}"),
        };
        assert_eq!(seen.closed, expected, "{}", session.name);
        visited += 1;
    }
    assert_eq!(visited, 4, "recorded failures");
}

/// What our device does otherwise than the recorded Python client, and why.
fn our_result(name: &str, recorded: &str, transport: Transport) -> bool {
    match (name, transport) {
        // The CRC is checked in the handshake too, as the C core does (WIRE.md section 13, item 1).
        ("challenge_bad_crc_accepted_by_python_rejected_by_c", _) => false,
        // A repeated HELLO_RETRY is acknowledged and ignored on UDP (WIRE.md section 11.5); on TCP it has no place.
        ("hello_retry_twice", Transport::Udp) => true,
        _ => recorded == "established",
    }
}

#[test]
fn handshakes_of_wrong_servers_are_refused() {
    let mut visited = 0;
    let group = &vectors::v2().negative_handshake_client_role[0];
    for transport in [Transport::Tcp, Transport::Udp] {
        for case in &group.cases {
            let place = format!("{} on {transport:?}", case.name);
            let psk = Psk::new(&group.client_psk.0).expect("long enough");
            let (id, private) = (group.device_id.device_id(), group.client_private.secret());
            let now = Instant::ZERO;
            let config = Config::default();
            let mut device = match transport {
                Transport::Tcp => {
                    Device::<RustCrypto>::Tcp(Box::new(TcpDevice::connect(now, id, psk, private, config)))
                }
                Transport::Udp => Device::Udp(Box::new(UdpDevice::connect(now, id, psk, private, config))),
            };
            let mut seen = Seen::default();
            let mut sent = frames(&mut device, now);
            for frame in &case.server_frames {
                device.handle(now, &frame.0);
                sent.extend(frames(&mut device, now));
                device.events(&mut seen);
            }
            let expected = our_result(&case.name, &case.result, transport);
            assert_eq!(seen.connected.is_some(), expected, "{place}: connected");
            match &mut device {
                Device::Tcp(device) if case.server_frames.is_empty() => device.handle_end(),
                Device::Tcp(device) => assert_eq!(device.is_closed(), !expected, "{place}: closed"),
                Device::Udp(device) => {
                    assert!(!device.is_closed(), "{place}: a stranger's datagram ends nothing");
                }
            }
            if expected == (case.result == "established") {
                assert_eq!(sent, case.client_sends, "{place}: frames sent");
            }
            if let (true, Some(key)) = (expected, &case.client_tx_key) {
                device.act_ping();
                let ping = device.transmit(now).expect("a PING");
                let mut ping = ping;
                let id = seen.connected.expect("connected");
                usmp::open_frame::<RustCrypto>(&key.secret(), id, &mut ping)
                    .unwrap_or_else(|error| panic!("{place}: another sending key: {error}"));
            }
            visited += 1;
        }
    }
    assert_eq!(visited, 2 * 23, "cases visited");
}

impl<P: Provider> Device<P> {
    fn act_ping(&mut self) {
        match self {
            Self::Tcp(device) => device.ping(),
            Self::Udp(device) => device.ping(),
        }
        .expect("connected");
    }
}

/// Everything the device wants to send now, UTACKs left out.
fn frames<P: Provider>(device: &mut Device<P>, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| device.transmit(now)).filter(|bytes| bytes[0] == 0xCD).map(Bytes).collect()
}

#[test]
fn window_follows_its_trace_through_the_device() {
    let trace = &vectors::v2().replay_window_udp;
    // The recorded frames travel to the server; the window is the same for whoever receives.
    let key = trace.k_c2s.array();
    PlantedKeys::plant(&[9; 32], &key);
    let psk = [1; 32];
    let now = Instant::ZERO;
    let mut device = UdpDevice::<PlantedKeys>::connect(
        now,
        usmp::DeviceId([1; 6]),
        Psk::new(&psk).expect("long enough"),
        usmp::Secret::new([5; 32]),
        Config::default(),
    );
    let mut server = ScriptedServer::<PlantedKeys>::with_secrets(
        &psk,
        usmp::Secret::new([6; 32]),
        [7; 32],
        trace.session_id.session_id(),
    );
    let mut out = [0; MAX_FRAME];
    let length = device.poll_transmit(now, &mut out).expect("HELLO");
    device.handle_datagram(now, &mut server.challenge(&out[..length])).expect("CHALLENGE is taken");
    while out[3] != FrameType::HelloAck.code() {
        device.poll_transmit(now, &mut out).expect("HELLO_ACK");
    }
    device
        .handle_datagram(now, &mut server.session_ok(&out[..44]).expect("a right proof"))
        .expect("SESSION_OK is taken");

    let mut steps = 0;
    for step in &trace.steps {
        let place = format!("step {}", step.step);
        let taken = device.handle_datagram(now, &mut step.frame.0.clone());
        assert_eq!(taken.is_ok(), step.accepted, "{place}: {taken:?}");
        let window = device.window();
        assert_eq!(window.highest(), step.highest_seq_after, "{place}: highest");
        assert_eq!(window.bitmap(), u64::from_be_bytes(step.bitmap_after.array()), "{place}: bitmap");
        let mut messages = 0;
        while let Some(event) = device.poll_event() {
            messages += usize::from(matches!(event, Event::Message(_)));
        }
        assert_eq!(messages, usize::from(step.accepted), "{place}: messages");
        while device.poll_transmit(now, &mut out).is_some() {}
        steps += 1;
    }
    assert_eq!(steps, 30, "steps visited");
}
