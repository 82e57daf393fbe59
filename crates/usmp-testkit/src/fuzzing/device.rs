use std::collections::HashMap;

use usmp::device::{Config, Event, Exhaustion, Psk, TcpDevice, UdpDevice};
use usmp::wire::{Frame, FrameType, MAX_CHUNK, MAX_FRAME, MAX_MESSAGE, Utack};
use usmp::{DeviceId, Duration, Instant, Role, Secret};

use super::{CALLS, Reach, Script, framed};
use crate::crypto::FakeCrypto;
use crate::script::ScriptedServer;

const PSK: [u8; 16] = [0x42; 16];

/// What must hold of everything a device sends and tells.
#[derive(Default)]
struct Watch {
    /// Plaintext-bearing frames of this epoch by sequence number: one number never seals two things.
    sealed: HashMap<u32, Vec<u8>>,
    connected: bool,
    closed: bool,
    under_way: bool,
    reach: Reach,
}

impl Watch {
    fn frame(&mut self, bytes: &[u8]) {
        if Utack::parse(bytes).is_some() {
            return;
        }
        let frame = Frame::parse(bytes).expect("a device sends frames or UTACKs only");
        let header = frame.header();
        if !header.frame_type.is_sealed() {
            return;
        }
        assert!(header.seq < u32::MAX, "the last number is never sent");
        let before = self.sealed.insert(header.seq, bytes.to_vec());
        assert!(before.is_none_or(|before| before == bytes), "number {} sealed two things", header.seq);
    }

    fn event(&mut self, event: Event<'_>) {
        assert!(!self.closed, "{event:?} after Closed");
        match event {
            Event::Connected { .. } => {
                assert!(!self.connected, "connected twice");
                self.connected = true;
                self.reach.connected += 1;
            }
            Event::Message(message) => {
                assert!(self.connected, "a message before the session");
                assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
                self.reach.messages += 1;
            }
            Event::Rekeyed => {
                self.sealed.clear();
                self.reach.rekeyed += 1;
            }
            Event::Sent(_) | Event::Delivered(_) | Event::Failed(_) => {
                assert!(self.under_way, "an outcome of nothing");
                self.under_way = false;
                self.reach.delivered += u32::from(!matches!(event, Event::Failed(_)));
            }
            Event::Closed(_) => {
                self.closed = true;
                self.reach.closed += 1;
            }
            _ => {}
        }
    }
}

/// A frame of the server as the script wants it: mostly authentic, sometimes not.
fn sealed_frame(script: &mut Script<'_>, server: &ScriptedServer<FakeCrypto>, next: &mut u32) -> Vec<u8> {
    let frame_type = match script.byte() % 8 {
        0 | 1 => FrameType::Data,
        2 => FrameType::DataFrag,
        3 => FrameType::Ping,
        4 => FrameType::Pong,
        5 => FrameType::Rekey,
        6 => FrameType::Bye,
        _ => FrameType::from_code(script.byte()),
    };
    let seq = match script.byte() {
        0..200 => *next,
        200..220 => next.wrapping_sub(u32::from(script.byte())),
        220..250 => next.wrapping_add(u32::from(script.byte())),
        _ => script.number(),
    };
    *next = seq.wrapping_add(1);
    let length =
        if frame_type == FrameType::Rekey && script.byte() > 20 { 32 } else { script.length(MAX_CHUNK) };
    let fill = script.byte();
    server.seal(frame_type, seq, &vec![fill; length])
}

/// A sequence of calls on a UDP device: the server answers, garbles, repeats, forges and keeps silent as the script says.
pub fn device_udp(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let mut now = Instant::from_millis(1);
    let options = script.byte();
    let exhaustion = if options & 1 == 0 { Exhaustion::KeepSession } else { Exhaustion::CloseSession };
    let config = Config { exhaustion, ..Config::default() };
    let psk = Psk::new(&PSK).expect("long enough");
    let mut device =
        UdpDevice::<FakeCrypto>::connect(now, DeviceId([1; 6]), psk, Secret::new([3; 32]), config);
    let mut server = ScriptedServer::<FakeCrypto>::new(&PSK, 5);
    let mut watch = Watch::default();
    let (mut next, mut sent, mut given): (u32, Vec<Vec<u8>>, Vec<Vec<u8>>) = (0, Vec::new(), Vec::new());
    for call in 0..CALLS {
        if script.is_empty() {
            break;
        }
        let mut datagram = None;
        // Half of the scripts start with an open session, so that the calls are spent inside it.
        let opens = options & 2 != 0 && (1..4).contains(&call);
        match if opens { 2 } else { script.byte() % 16 } {
            0 => datagram = Some(script.bytes(600).to_vec()),
            1 => datagram = Some(framed(&mut script)),
            2 | 3 => datagram = answer(&mut server, sent.last()),
            4 | 5 => {
                datagram = sent
                    .last()
                    .filter(|frame| openable(frame, watch.connected))
                    .map(|frame| server.utack(frame))
            }
            6..=8 if watch.connected => datagram = Some(sealed_frame(&mut script, &server, &mut next)),
            9 => datagram = given.get(usize::from(script.byte()) % given.len().max(1)).cloned(),
            10 => {
                now = device.poll_timeout().unwrap_or(now).max(now);
                device.handle_timeout(now);
            }
            11 => {
                now = now + Duration::from_millis(u64::from(script.byte()) * 20);
                device.handle_timeout(now);
            }
            12 => {
                let length = script.length(MAX_MESSAGE + 1);
                watch.under_way |= device.send(&vec![script.byte(); length]).is_ok();
            }
            13 => drop(device.ping()),
            14 => drop(device.rekey(Secret::new([script.byte(); 32]))),
            _ if script.byte() > 250 => drop(device.bye()),
            _ => {}
        }
        if let Some(mut datagram) = datagram {
            given.push(datagram.clone());
            let _dropped = device.handle_datagram(now, &mut datagram);
        }
        while let Some(event) = device.poll_event() {
            if matches!(event, Event::Rekeyed) {
                follow(&mut server, &sent, &given);
                next = 0;
            }
            watch.event(event);
        }
        let mut out = [0; MAX_FRAME];
        let mut datagrams = 0;
        while let Some(length) = device.poll_transmit(now, &mut out) {
            watch.frame(&out[..length]);
            if out[0] == 0xCD {
                sent.push(out[..length].to_vec());
            }
            datagrams += 1;
            assert!(datagrams <= 8, "a device that sends without end");
        }
        if device.is_closed() && device.poll_timeout().is_none() {
            break;
        }
    }
    watch.reach
}

/// The handshake's answer to what the device sent last.
fn answer(server: &mut ScriptedServer<FakeCrypto>, last: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    let last = last?;
    match last[3] {
        1 if last.len() == 50 => Some(server.hello_retry([9; 16])),
        1 => Some(server.challenge(last)),
        // A device may also have answered a CHALLENGE that the script made up.
        3 if server.device_id().is_some() => server.session_ok(last),
        _ => None,
    }
}

/// Whether the server can tell what a frame is: sealed ones only once it has keys.
fn openable(frame: &[u8], connected: bool) -> bool {
    frame[3] < 5 || connected
}

/// Brings the server's keys to where the device's are: a REKEY of ours if the last one given was one, else the device's.
fn follow(server: &mut ScriptedServer<FakeCrypto>, sent: &[Vec<u8>], given: &[Vec<u8>]) {
    let salt = |frame: &Vec<u8>| frame.get(24..56).and_then(|salt| <[u8; 32]>::try_from(salt).ok());
    let is_rekey = |frame: &&Vec<u8>| frame.get(3) == Some(&FrameType::Rekey.code());
    if let Some(salt) = given.last().filter(is_rekey).and_then(salt) {
        server.switch_keys(Role::Server, &salt);
    } else if let Some(salt) = sent.iter().rev().find(is_rekey).and_then(salt) {
        server.switch_keys(Role::Device, &salt);
    }
}

/// A sequence of calls on a TCP device, with the stream cut where the script says.
pub fn device_tcp(bytes: &[u8]) -> Reach {
    let mut script = Script::new(bytes);
    let mut now = Instant::from_millis(1);
    let psk = Psk::new(&PSK).expect("long enough");
    let mut device =
        TcpDevice::<FakeCrypto>::connect(now, DeviceId([1; 6]), psk, Secret::new([3; 32]), Config::default());
    let mut server = ScriptedServer::<FakeCrypto>::new(&PSK, 5);
    let mut watch = Watch::default();
    let (mut next, mut sent, mut given): (u32, Vec<Vec<u8>>, Vec<Vec<u8>>) = (0, Vec::new(), Vec::new());
    let mut stream: Vec<u8> = Vec::new();
    let opens = script.byte() & 1 != 0;
    for call in 0..CALLS {
        if script.is_empty() || watch.closed {
            break;
        }
        let opens = opens && (1..4).contains(&call);
        match if opens { 2 } else { script.byte() % 12 } {
            0 => stream.extend_from_slice(script.bytes(64)),
            1 => stream.extend(framed(&mut script)),
            2..=4 => stream.extend(answer(&mut server, sent.last()).unwrap_or_default()),
            5..=7 if watch.connected => {
                let frame = sealed_frame(&mut script, &server, &mut next);
                stream.extend_from_slice(&frame);
                given.push(frame);
            }
            8 => {
                now = device.poll_timeout().unwrap_or(now).max(now);
                device.handle_timeout(now);
            }
            9 => {
                let length = script.length(MAX_MESSAGE + 1);
                watch.under_way |= device.send(&vec![script.byte(); length]).is_ok();
            }
            10 => drop(device.ping()),
            11 => drop(device.rekey(Secret::new([script.byte(); 32]))),
            _ => {}
        }
        let piece = if opens { stream.len() } else { script.length(stream.len()) };
        let taken = device.handle_bytes(now, &stream[..piece]);
        assert!(taken <= piece, "{taken} bytes taken of {piece}");
        stream.drain(..taken);
        let mut out = [0; MAX_FRAME];
        for _ in 0..16 {
            while let Some(event) = device.poll_event() {
                if matches!(event, Event::Rekeyed) {
                    follow(&mut server, &sent, &given);
                    next = 0;
                }
                watch.event(event);
            }
            let Some(length) = device.poll_transmit(now, &mut out) else { break };
            watch.frame(&out[..length]);
            sent.push(out[..length].to_vec());
        }
        assert_eq!(device.poll_transmit(now, &mut out), None, "a device that sends without end");
    }
    watch.reach
}
