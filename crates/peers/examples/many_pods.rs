//! What links cost: many pods in one process, each linked with each. Prints how long it takes until all are linked, and memory and
//! processor time of standing links that only beat. Asserts nothing; reads /proc, so it runs on Linux.
//!
//! `cargo run -p sluice-peers --example many_pods [pods]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_peers::{Control, Count, Inbound, Member, NoRoom, PeerConfig, PeerSecret, PeerSecrets, Peers};
use sluice_types::PodId;
use tokio::sync::watch;
use tokio::time::sleep;

struct Nobody;

impl Inbound for Nobody {
    fn datagram(&self, _: PodId, _: u32, _: SocketAddr, _: &mut [u8]) {}
    fn handshake(&self, _: PodId, _: u32, _: SocketAddr, _: &mut [u8]) {}
    fn reply(&self, _: PodId, _: u32, _: SocketAddr, _: &mut [u8]) {}
    fn control(&self, _: PodId, _: Control) -> Result<(), NoRoom> {
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Resident bytes, and clock ticks (of 10 ms) of processor time.
fn usage() -> std::io::Result<(u64, u64)> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let ticks = number(fields.next()).saturating_add(number(fields.next()));
    Ok((number(pages.split_whitespace().nth(1)) * 4096, ticks))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u8 = std::env::args().nth(1).map_or(Ok(20), |n| n.parse())?;
    let (members, members_rx) = watch::channel(Vec::new());
    let (_secrets, secrets_rx) = watch::channel(PeerSecrets::new(PeerSecret::from_bytes([7; 32]), []));
    let mut pods = Vec::new();
    let mut listed = Vec::new();
    for n in 0..count {
        let config = PeerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), "127.0.0.1:0");
        let pod = PodId::from_bytes([n; 16]);
        let peers =
            Peers::start(config, pod, secrets_rx.clone(), members_rx.clone(), Arc::new(Nobody)).await?;
        let address = peers.handle().address().to_owned();
        listed.push(Member::new(pod, address, 0));
        pods.push(peers);
    }
    let (memory, ticks) = usage()?;
    let start = now();
    members.send_replace(listed);
    let links = u64::from(count) * u64::from(count.saturating_sub(1));
    let sum = |count| pods.iter().map(|pod| pod.handle().counts().of(count)).sum::<u64>();
    while sum(Count::LinksOpened) < 2 * links {
        sleep(Duration::from_millis(10)).await;
    }
    let (memory_linked, ticks_linked) = usage()?;
    println!("{count} pods, {links} links: all after {:?}", start.elapsed());
    let troubles = Count::ALL.iter().map(|count| (count.name(), sum(*count))).filter(|(_, seen)| *seen > 0);
    println!("counted meanwhile: {:?}", troubles.collect::<Vec<_>>());
    println!("{} ms of processor per link (both ends)", (ticks_linked - ticks) as f64 * 10.0 / links as f64);
    println!("{} kB per link (both ends)", memory_linked.saturating_sub(memory) / 1000 / links);
    let beats = sum(Count::HeartbeatsReceived);
    sleep(Duration::from_secs(10)).await;
    let (_, ticks_end) = usage()?;
    let beats = sum(Count::HeartbeatsReceived) - beats;
    let micros = (ticks_end - ticks_linked) as f64 * 10_000.0 / beats as f64;
    println!("{beats} heartbeats in 10 s, {micros:.1} µs of processor each (both ends)");
    Ok(())
}
