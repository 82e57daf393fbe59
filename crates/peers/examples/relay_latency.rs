//! How much later a datagram arrives because it is relayed: two pods on loopback, each with a runtime of its own, and a plain
//! thread in front of each as a shard would be. Prints, asserts nothing.
//!
//! `cargo run -p sluice-peers --example relay_latency [datagrams]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sluice_peers::{Control, Count, Inbound, Member, NoRoom, PeerConfig, PeerSecret, PeerSecrets, Peers};
use sluice_types::PodId;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const DATAGRAM: usize = 492;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Hands what comes in to the thread of the shard.
struct Shard {
    datagrams: SyncSender<(u32, SocketAddr, Instant)>,
    replies: SyncSender<(u32, Instant)>,
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

impl Inbound for Shard {
    fn datagram(&self, _: PodId, flow: u32, source: SocketAddr, _: &mut [u8]) {
        let _ = self.datagrams.try_send((flow, source, now()));
    }

    fn handshake(&self, _: PodId, _: u32, _: SocketAddr, _: &mut [u8]) {}

    fn reply(&self, _: PodId, flow: u32, _: SocketAddr, _: &mut [u8]) {
        let _ = self.replies.try_send((flow, now()));
    }

    fn control(&self, _: PodId, _: Control) -> std::result::Result<(), NoRoom> {
        Ok(())
    }
}

struct Pod {
    runtime: Runtime,
    peers: Peers,
    members: watch::Sender<Vec<Member>>,
    _secrets: watch::Sender<PeerSecrets>,
    datagrams: Receiver<(u32, SocketAddr, Instant)>,
    replies: Receiver<(u32, Instant)>,
}

fn pod(n: u8) -> Result<Pod> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (datagrams_tx, datagrams) = sync_channel(1 << 16);
    let (replies_tx, replies) = sync_channel(1 << 16);
    let (members, members_rx) = watch::channel(Vec::new());
    let (secrets, secrets_rx) = watch::channel(PeerSecrets::new(PeerSecret::from_bytes([7; 32]), []));
    let config = PeerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), "127.0.0.1:0");
    let shard = Arc::new(Shard { datagrams: datagrams_tx, replies: replies_tx });
    let id = PodId::from_bytes([n; 16]);
    let peers = runtime.block_on(Peers::start(config, id, secrets_rx, members_rx, shard))?;
    Ok(Pod { runtime, peers, members, _secrets: secrets, datagrams, replies })
}

fn show(what: &str, mut seen: Vec<Duration>) {
    seen.sort_unstable();
    let at = |part: usize| seen.get(seen.len().saturating_sub(1) * part / 1000).copied().unwrap_or_default();
    println!("{what}: {} seen, p50 {:?}, p99 {:?}, p99.9 {:?}", seen.len(), at(500), at(990), at(999));
}

fn main() -> Result<()> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(20_000), |n| n.parse())?;
    let (a, b) = (pod(1)?, pod(2)?);
    let members: Vec<_> = [(1, &a), (2, &b)]
        .map(|(n, pod)| {
            let address = pod.peers.handle().address().to_owned();
            Member::new(PodId::from_bytes([n; 16]), address, 0)
        })
        .to_vec();
    for pod in [&a, &b] {
        pod.members.send_replace(members.clone());
    }
    let (to_b, to_a) = loop {
        let senders = (
            a.peers.handle().sender(PodId::from_bytes([2; 16])),
            b.peers.handle().sender(PodId::from_bytes([1; 16])),
        );
        if let (Some(to_b), Some(to_a)) = senders
            && to_b.is_linked()
            && to_a.is_linked()
        {
            break (to_b, to_a);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // The owner's shard: takes what comes in and answers.
    let (arrivals_tx, arrivals) = sync_channel(1 << 16);
    let owner = std::thread::spawn(move || {
        while let Ok((flow, source, at)) = b.datagrams.recv() {
            let _ = arrivals_tx.try_send((flow, at));
            let _ = to_a.try_reply(flow, source, &[0xaa; 15]);
        }
        drop((b.peers, b.runtime));
    });
    let source = SocketAddr::from(([192, 0, 2, 1], 5683));
    for (what, pause) in [
        ("one at a time", None),
        ("1,000 per second", Some(Duration::from_micros(1000))),
        ("10,000 per second", Some(Duration::from_micros(100))),
    ] {
        let mut sent = Vec::new();
        let (mut there, mut and_back) = (Vec::new(), Vec::new());
        let count = if pause.is_some() { count } else { count / 10 };
        let start = now();
        for flow in 0..count {
            if let Some(pause) = pause {
                let due = start + pause * flow;
                std::thread::sleep(due.saturating_duration_since(now()));
            }
            sent.push(now());
            to_b.try_datagram(flow, source, &[0x55; DATAGRAM])?;
            if pause.is_none() {
                let (_, at) = a.replies.recv_timeout(Duration::from_secs(1))?;
                and_back.push(at.saturating_duration_since(sent[flow as usize]));
            }
        }
        let wait = Duration::from_millis(500);
        while let Ok((flow, at)) = arrivals.recv_timeout(wait) {
            there.push(at.saturating_duration_since(sent[flow as usize]));
        }
        while let Ok((flow, at)) = a.replies.recv_timeout(Duration::from_millis(50)) {
            and_back.push(at.saturating_duration_since(sent[flow as usize]));
        }
        show(&format!("{what}, there"), there);
        show(&format!("{what}, there and back"), and_back);
    }
    println!("{} datagrams dropped by the ring", a.peers.handle().counts().of(Count::DatagramsDropped));
    drop(a);
    drop(owner);
    Ok(())
}
