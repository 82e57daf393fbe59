//! What runs per packet and per handshake, beside the bare primitives of the same provider in the same run.
//!
//! `cargo bench -p usmp --features aws-lc` prints criterion's report and then, from the best of each, how many times
//! the bare primitives each operation costs. Goals: 1.3 for open and seal of 128 bytes, 1.15 for a server's handshake.
//!
//! With `USMP_BENCH_REPEAT=GROUP/NAME=TIMES` it only does that one so many times: `cargo xtask instructions` counts them so. With
//! `USMP_BENCH_REPEAT=list` it prints what there is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement as _, WallTime};
use criterion::{Criterion, Throughput};
#[cfg(feature = "aws-lc")]
use usmp::crypto::AwsLc;
use usmp::crypto::{Provider, RustCrypto};
use usmp::server::{AckOutcome, HandshakeConfig, SessionConfig, UdpHandshake};
use usmp::wire::{Frame, FrameType, Hello, HelloAck, crc16, decode_stream};
use usmp::{
    CookieSecrets, DeviceId, Instant, ReplayWindow, Secret, SessionId, client_proof, open_frame, seal_frame,
};

const TEXT: [u8; 128] = [0x5A; 128];
const SESSION: SessionId = SessionId([3; 16]);
const DEVICE: DeviceId = DeviceId([2, 0, 0, 0, 0, 1]);
const PSK: [u8; 32] = [9; 32];

/// The best time per iteration of each benchmark, for the ratios at the end.
#[derive(Default)]
struct Best(RefCell<BTreeMap<String, Duration>>, Option<Repeat>);

/// What is done instead of measuring time.
enum Repeat {
    List,
    Times { benchmark: String, times: u64 },
}

impl Repeat {
    fn asked_for() -> Option<Self> {
        let asked = std::env::var("USMP_BENCH_REPEAT").ok()?;
        let Some((benchmark, times)) = asked.split_once('=') else { return Some(Self::List) };
        Some(Self::Times {
            benchmark: benchmark.to_owned(),
            times: times.parse().expect("a number of times"),
        })
    }

    fn run(&self, name: &str, mut run: impl FnMut()) {
        match self {
            Self::List => println!("{name}"),
            Self::Times { benchmark, times } if benchmark == name => (0..*times).for_each(|_| run()),
            Self::Times { .. } => {}
        }
    }
}

impl Best {
    fn bench(&self, criterion: &mut Criterion, group: &str, name: &str, bytes: usize, mut run: impl FnMut()) {
        if let Some(repeat) = &self.1 {
            return repeat.run(&format!("{group}/{name}"), run);
        }
        let mut group_of = criterion.benchmark_group(group);
        group_of.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        if bytes > 0 {
            group_of.throughput(Throughput::Bytes(bytes as u64));
        }
        group_of.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = WallTime.start();
                for _ in 0..iterations {
                    run();
                }
                let taken = WallTime.end(start);
                let each = taken.div_f64(iterations as f64);
                let mut best = self.0.borrow_mut();
                let best = best.entry(format!("{group}/{name}")).or_insert(each);
                *best = each.min(*best);
                taken
            });
        });
        group_of.finish();
    }

    fn print(&self, group: &str, name: &str) {
        if let Some(best) = self.0.borrow().get(&format!("{group}/{name}")) {
            println!("{group:<11} {name:<16} {best:>9.1?}");
        }
    }

    fn print_ratio(&self, group: &str, name: &str, bare: &str, goal: f64) {
        let best = self.0.borrow();
        let time = |name: &str| best.get(&format!("{group}/{name}")).copied();
        // A filter on the command line leaves some out.
        let (Some(ours), Some(bare)) = (time(name), time(bare)) else { return };
        let ratio = ours.as_secs_f64() / bare.as_secs_f64();
        println!("{group:<11} {name:<16} {ours:>9.1?}  bare {bare:>9.1?}  ratio {ratio:.3}  goal {goal}");
    }
}

fn sealed<P: Provider>(key: &Secret<32>) -> [u8; 168] {
    let mut frame = [0; 168];
    seal_frame::<P>(key, SESSION, FrameType::Data, 7, &TEXT, &mut frame).expect("fits");
    frame
}

fn frames<P: Provider>(criterion: &mut Criterion, best: &Best, group: &str) {
    let key = Secret::new([1; 32]);
    let frame = sealed::<P>(&key);
    let (aad, nonce) =
        (*frame.first_chunk::<10>().expect("a header"), frame[12..24].try_into().expect("a nonce"));
    let tag = *frame.last_chunk::<16>().expect("a tag");

    // Opening destroys the ciphertext, so both sides start from a copy of it, as from a socket.
    let mut buffer = frame;
    best.bench(criterion, group, "open 128", 128, || {
        buffer.copy_from_slice(black_box(&frame));
        Frame::parse(&buffer).expect("well-formed");
        black_box(open_frame::<P>(&key, SESSION, &mut buffer).expect("opens"));
    });
    let mut text = [0; 128];
    best.bench(criterion, group, "bare open 128", 128, || {
        text.copy_from_slice(black_box(&frame[24..152]));
        P::open(&key, &nonce, &aad, black_box(&mut text), &tag).expect("opens");
    });
    let mut out = [0; 492];
    best.bench(criterion, group, "seal 128", 128, || {
        let sealed = seal_frame::<P>(&key, SESSION, FrameType::Data, 7, black_box(&TEXT), &mut out);
        black_box(sealed.expect("fits"));
    });
    best.bench(criterion, group, "bare seal 128", 128, || {
        text.copy_from_slice(black_box(&TEXT));
        black_box(P::seal(&key, &nonce, &aad, black_box(&mut text)));
    });
}

fn cookies<P: Provider>(criterion: &mut Criterion, best: &Best, group: &str) {
    let mut secrets = CookieSecrets::new(Secret::new([5; 32]));
    secrets.rotate(Secret::new([6; 32]));
    let cookie = secrets.issue::<P>(1000, &[7; 18], DEVICE, &[8; 32]);
    best.bench(criterion, group, "cookie issue", 0, || {
        black_box(secrets.issue::<P>(black_box(1000), &[7; 18], DEVICE, &[8; 32]));
    });
    best.bench(criterion, group, "cookie check", 0, || {
        assert!(secrets.check::<P>(black_box(1000), &[7; 18], DEVICE, &[8; 32], &cookie));
    });
}

/// A server's part of a handshake over UDP, as its machine does it from the cookie HELLO to SESSION_OK with the session at
/// hand; and the primitives in it alone: key generation, exchange, two HMACs, HKDF.
fn handshake<P: Provider>(criterion: &mut Criterion, best: &Best, group: &str) {
    let (private_c, private_s) = (Secret::new([0x11; 32]), Secret::new([0x22; 32]));
    let (pub_c, pub_s) = (P::x25519_public(&private_c), P::x25519_public(&private_s));
    let nonce = [0x33; 32];
    let (mut hello, mut ack) = ([0; 66], [0; 44]);
    Hello { seq: 1, device_id: DEVICE, public_key: pub_c, cookie: Some([4; 16]) }
        .emit(&mut hello)
        .expect("fits");
    let mac = client_proof::<P>(&PSK, &nonce, DEVICE, &pub_c, &pub_s);
    HelloAck { seq: 2, mac }.emit(&mut ack).expect("fits");
    let (config, session_config) = (HandshakeConfig::default(), SessionConfig::udp());

    best.bench(criterion, group, "handshake", 0, || {
        let now = Instant::ZERO;
        let mut out = [0; 76];
        let hello = Hello::parse(&Frame::parse(black_box(&hello)).expect("well-formed")).expect("a HELLO");
        let mut machine =
            UdpHandshake::<P>::start(now, &hello, black_box(private_s.duplicate()), nonce, 5, &config);
        assert_eq!(machine.poll_transmit(now, &mut out), Some(76));
        let ack = HelloAck::parse(&Frame::parse(black_box(&ack)).expect("well-formed")).expect("a HELLO_ACK");
        let Ok(AckOutcome::Proved(proof)) = machine.handle_hello_ack(now, &ack, &[&PSK]) else {
            panic!("the proof is right");
        };
        black_box(machine.accept(now, proof, SESSION, 0_u8, &session_config).expect("a good point"));
        assert_eq!(machine.poll_transmit(now, &mut out), Some(60));
        black_box(out);
    });
    let (client_input, server_input, info) = ([1; 106], [2; 116], [3; 71]);
    best.bench(criterion, group, "bare handshake", 0, || {
        let pair = P::key_pair(black_box(&private_s));
        black_box(P::public_key(&pair));
        black_box(P::hmac_sha256(&PSK, &[black_box(&client_input)]));
        let shared = P::agree(&pair, black_box(&pub_c)).expect("a good point");
        let mut okm = [0; 64];
        P::hkdf_sha256(&nonce, shared.expose(), &[black_box(&info)], &mut okm);
        black_box(P::hmac_sha256(&PSK, &[black_box(&server_input)]));
        black_box(okm);
    });
}

fn without_keys(criterion: &mut Criterion, best: &Best) {
    let frame = sealed::<RustCrypto>(&Secret::new([1; 32]));
    let group = "wire";
    best.bench(criterion, group, "parse 168", 168, || {
        black_box(Frame::parse(black_box(&frame)).expect("well-formed"));
    });
    best.bench(criterion, group, "stream 168", 168, || {
        black_box(decode_stream(black_box(&frame)).expect("a frame"));
    });
    best.bench(criterion, group, "crc 168", 168, || {
        black_box(crc16(&[black_box(&frame)]));
    });
    let (mut window, mut seq) = (ReplayWindow::new(), 0_u32);
    best.bench(criterion, group, "window", 0, || {
        seq = seq.wrapping_add(1);
        if window.check(black_box(seq)).is_ok() {
            window.mark(seq);
        }
        black_box(&window);
    });
}

fn with_keys<P: Provider>(criterion: &mut Criterion, best: &Best, group: &str) {
    frames::<P>(criterion, best, group);
    cookies::<P>(criterion, best, group);
    handshake::<P>(criterion, best, group);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let best = Best(RefCell::default(), Repeat::asked_for());
    without_keys(&mut criterion, &best);
    with_keys::<RustCrypto>(&mut criterion, &best, "rustcrypto");
    #[cfg(feature = "aws-lc")]
    with_keys::<AwsLc>(&mut criterion, &best, "aws-lc");
    if best.1.is_some() {
        return;
    }
    criterion.final_summary();

    println!();
    for name in ["parse 168", "stream 168", "crc 168", "window"] {
        best.print("wire", name);
    }
    for group in ["rustcrypto", "aws-lc"] {
        best.print_ratio(group, "open 128", "bare open 128", 1.3);
        best.print_ratio(group, "seal 128", "bare seal 128", 1.3);
        best.print_ratio(group, "handshake", "bare handshake", 1.15);
        best.print(group, "cookie issue");
        best.print(group, "cookie check");
    }
}
