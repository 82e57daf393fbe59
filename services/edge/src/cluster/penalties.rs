//! Tells the other pods which devices wait after failed proofs, so that who comes to another pod finds the penalty there.
//!
//! Only what a pod saw itself is told: a wrong proof from an address that was verified (a cookie came back, or it is TCP), so nobody gets
//! a device or an address punished by a forged source. What is heard is not told on.
//!
//! Version 1: one byte of version, then for each its network (16 bytes, an IPv4 address as mapped), the device (6 bytes) and how often it
//! failed (2 bytes, big-endian; 0 when it has shown its key since).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use sluice_peers::{Control, FIRST_OTHER, MAX_PAYLOAD, PeersHandle};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use usmp::DeviceId;

use crate::admission::{Failed, Penalties};
use crate::clock::Clock;
use crate::counts::{Count, Counts};

/// The kind of the frame among those that are the edge's own.
const KIND: u8 = FIRST_OTHER + 1;
const VERSION: u8 = 1;
const EACH: usize = 24;
/// Pause between two frames to a pod, and the most that one carries: more waits.
const PAUSE: Duration = Duration::from_millis(100);
const MOST: usize = 256;

// And the version.
const _: () = assert!(MOST * EACH < MAX_PAYLOAD);

fn tell(failed: &[Failed]) -> Control {
    let mut bytes = vec![VERSION];
    for Failed { network, device, count } in failed {
        let network = match network {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => *v6,
        };
        bytes.extend_from_slice(&network.octets());
        bytes.extend_from_slice(&device.0);
        bytes.extend_from_slice(&count.to_be_bytes());
    }
    Control::Other { kind: KIND, bytes }
}

/// What such a frame says; nothing for one of another kind, a later version, or one that is cut or longer than any pod sends.
fn told(kind: u8, bytes: &[u8]) -> impl Iterator<Item = Failed> + '_ {
    let entries = match bytes {
        [VERSION, entries @ ..] if kind == KIND && entries.len().is_multiple_of(EACH) => entries,
        _ => &[],
    };
    let entries = if entries.len() > MOST * EACH { &[][..] } else { entries };
    entries.as_chunks::<EACH>().0.iter().filter_map(|entry| {
        let (network, rest) = entry.split_first_chunk::<16>()?;
        let (device, count) = rest.split_first_chunk::<6>()?;
        let network = IpAddr::V6(Ipv6Addr::from(*network)).to_canonical();
        Some(Failed { network, device: DeviceId(*device), count: u16::from_be_bytes(count.try_into().ok()?) })
    })
}

/// Takes note of what another pod tells; `false` when the frame is about something else.
pub(super) fn heard(penalties: &Penalties, clock: Clock, control: &Control) -> bool {
    let Control::Other { kind: KIND, bytes } = control else { return false };
    for failed in told(KIND, bytes) {
        penalties.heard(clock.now(), failed);
    }
    true
}

/// Tells all pods that can be reached, until told to stop. A pod whose link is full, or that is not linked, is not told.
pub(super) async fn tell_others(
    peers: PeersHandle,
    mut news: mpsc::Receiver<Failed>,
    counts: Arc<Counts>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(MOST);
    loop {
        let more = tokio::select! {
            received = news.recv_many(&mut batch, MOST) => received > 0,
            () = stop.cancelled() => false,
        };
        if !more {
            return;
        }
        let amount = batch.len() as u64;
        let senders = Arc::clone(&peers.senders().borrow());
        for sender in senders.values() {
            let sent = sender.try_control(tell(&batch));
            counts.add(if sent.is_ok() { Count::PenaltiesTold } else { Count::PenaltiesNotTold }, amount);
        }
        batch.clear();
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: [Failed; 2] = [
        Failed {
            network: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
            device: DeviceId([2, 0, 0, 0, 0, 1]),
            count: 0x0102,
        },
        Failed {
            network: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)),
            device: DeviceId([2, 0, 0, 0, 0, 2]),
            count: 0,
        },
    ];

    #[test]
    fn what_is_told_of_penalties_is_read_and_keeps_its_bytes() {
        let Control::Other { kind, bytes } = tell(&FAILED) else { panic!("a frame of the edge's own") };
        let expected = "0100000000000000000000ffffc00002010200000000010102\
                        20010db80000000000000000000000000200000000020000";
        assert_eq!((kind, hex::encode(&bytes).as_str()), (129, expected));
        assert_eq!(told(kind, &bytes).collect::<Vec<_>>(), FAILED);
        for cut in 0..bytes.len() {
            let read = told(kind, &bytes[..cut]).count();
            assert!(read == 0 || cut == 1 + EACH, "{cut} bytes: {read}");
        }
        assert_eq!(told(128, &bytes).count(), 0, "of another kind");
        let long = vec![1; 1 + (MOST + 1) * EACH];
        assert_eq!(told(kind, &long).count(), 0, "longer than any pod sends");
        let later = [&[2], &bytes[1..]].concat();
        assert_eq!(told(kind, &later).count(), 0, "of a later version");
    }
}
