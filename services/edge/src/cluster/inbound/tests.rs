use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use mio::{Poll, Token, Waker};
use usmp::wire::{Hello, HelloAck, MAX_FRAME};

use super::super::slot_map::SlotMap;
use super::*;
use crate::link::ShardWaker;
use crate::simulation::PodClock;

const FROM: PodId = PodId::from_bytes([3; 16]);
/// The first shard, the first slot.
const HERE: u32 = 0;

/// Links of a pod with one shard, whose queue has so much room and which serves the first of two slots, or none.
struct Pod {
    links: Links,
    queue: Receiver<Relayed>,
    _map: tokio::sync::watch::Sender<Arc<SlotMap>>,
    _poll: Poll,
}

fn pod(room: usize, first: Place) -> Pod {
    let poll = Poll::new().expect("a poll");
    let waker = ShardWaker::Poll(Arc::new(Waker::new(poll.registry(), Token(0)).expect("a waker")));
    let (datagrams, queue) = sync_channel(room);
    let (map, slots) = tokio::sync::watch::channel(Arc::new(SlotMap::new(vec![first, Place::Pod(FROM)])));
    let clock = Clock::simulated(PodClock::new(tokio::time::Instant::now(), 1_000_000, Duration::ZERO));
    let links = Links {
        shards: vec![PeerShard { datagrams, waker }],
        slots,
        cluster: mpsc::channel(1).0,
        penalties: Penalties::new(5, Duration::from_secs(60), 16),
        clock,
        questions: Mutex::new(Questions::new(clock.now())),
        counts: Arc::default(),
    };
    Pod { links, queue, _map: map, _poll: poll }
}

fn source() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 7))
}

fn hello_ack() -> Vec<u8> {
    let mut out = [0; MAX_FRAME];
    let length = HelloAck { seq: 2, mac: [7; 32] }.emit(&mut out).expect("room");
    out[..length].to_vec()
}

#[tokio::test(start_paused = true)]
async fn what_a_full_or_closed_queue_loses_is_counted() {
    let Pod { links, queue, _map, _poll } = pod(1, Place::Shard(0));
    for _ in 0..3 {
        links.datagram(FROM, HERE, source(), &mut [1; 60]);
    }
    assert_eq!(links.counts.value(Count::DroppedRelayFull), 2);
    drop(queue);
    links.reply(FROM, HERE, source(), &mut [1; 60]);
    assert_eq!(links.counts.value(Count::DroppedRelayFull), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_for_a_slot_or_a_shard_that_is_not_here_is_counted() {
    let Pod { links, queue, _map, _poll } = pod(4, Place::Nowhere);
    links.datagram(FROM, HERE, source(), &mut [1; 60]);
    links.datagram(FROM, 1, source(), &mut [1; 60]);
    links.reply(FROM, 9 << 16, source(), &mut [1; 60]);
    assert_eq!(links.counts.value(Count::DroppedNotOwner), 3);
    let mut hello = [0; MAX_FRAME];
    let device_id = usmp::DeviceId([1; 6]);
    let length = Hello { seq: 0, device_id, public_key: [9; 32], cookie: Some([8; 16]) }
        .emit(&mut hello)
        .expect("room");
    links.handshake(FROM, HERE, source(), &mut hello[..length]);
    assert_eq!(links.counts.value(Count::DroppedNoSlot), 1);
    assert_eq!(queue.try_iter().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn proofs_that_other_pods_ask_about_are_looked_up_within_a_bound_and_the_others_counted() {
    const ASKED: usize = 1000;
    let Pod { links, queue, _map, _poll } = pod(ASKED, Place::Shard(0));
    let mut proof = hello_ack();
    for second in 1..=3_u64 {
        for _ in 0..ASKED {
            links.handshake(FROM, HERE, source(), &mut proof);
        }
        assert_eq!(queue.try_iter().count(), 256 + 8);
        assert_eq!(links.counts.value(Count::DroppedNotLookedUp), second * (1000 - 256 - 8));
        // Another pod has questions of its own, whatever this one asked.
        links.handshake(PodId::from_bytes([4; 16]), HERE, source(), &mut proof);
        assert_eq!(queue.try_iter().count(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
}
