use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::world::*;
use crate::frame::{self, Frame};
use crate::sender::Outbox;
use crate::{Control, Count, PeerConfig, PeerCounts, PeerSender, SendError};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[tokio::test]
async fn a_full_ring_drops_its_oldest_datagram_and_counts_it() {
    let counts = Arc::new(PeerCounts::new());
    let (outbox, mut queue) = Outbox::new(pod(2), 4, Arc::clone(&counts));
    outbox.open(&mut queue);
    let sender = PeerSender(Arc::clone(&outbox));
    for flow in 0..6 {
        sender.try_datagram(flow, "192.0.2.1:1".parse().unwrap(), b"x").unwrap();
    }
    let left: Vec<_> = std::iter::from_fn(|| outbox.packets.pop()).map(|packet| packet.flow).collect();
    assert_eq!(left, [2, 3, 4, 5]);
    assert_eq!(counts.of(Count::DatagramsDropped), 2);
}

#[tokio::test]
async fn nothing_of_an_earlier_link_is_sent_on_a_later_one() {
    let (outbox, mut queue) = Outbox::new(pod(2), 4, Arc::new(PeerCounts::new()));
    let sender = PeerSender(Arc::clone(&outbox));
    outbox.open(&mut queue);
    sender.try_datagram(1, "192.0.2.1:1".parse().unwrap(), b"x").unwrap();
    sender.try_control(Control::HandOver { slot: 1 }).unwrap();
    outbox.close(&mut queue);
    outbox.open(&mut queue);
    assert!(outbox.packets.pop().is_none() && queue.try_recv().is_err());
}

/// A peer the test plays, whose kernel holds little for it: `a` dials it, and the test decides how fast it reads.
async fn slow_peer(a: &Pod) -> TlsStream<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(32 * 1024).unwrap();
    a.members.send_replace(vec![member(pod(2), &listener.local_addr().unwrap().to_string())]);
    let (stream, _) = listener.accept().await.unwrap();
    let server = tls_of(2, &ring(7, &[])).server;
    let mut stream = TlsAcceptor::from(server).accept(stream).await.unwrap();
    greet(&mut stream, 2).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_pass_while_datagrams_queue() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let mut stream = slow_peer(&a).await;
    a.wait_up(2).await;
    let sender = a.peers.handle().sender(pod(2)).unwrap();
    let flood = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(1));
        loop {
            ticks.tick().await;
            for flow in 0..50 {
                let _ = sender.try_datagram(flow, "192.0.2.1:1".parse().unwrap(), &[0x55; 492]);
            }
        }
    });
    // It reads a megabyte per second at most, and is offered 25.
    let mut pace = interval(Duration::from_millis(16));
    let mut buffer = crate::buffer::FrameBuffer::new();
    let (mut beats, mut behind) = (0, 0);
    timeout(DEADLINE, async {
        while beats < 10 {
            pace.tick().await;
            let space = buffer.space();
            let most = space.len().min(16 * 1024);
            let read = stream.read(&mut space[..most]).await.unwrap();
            assert!(read > 0, "the link ended");
            buffer.filled(read);
            while let Some((kind, payload)) = buffer.next_frame().unwrap() {
                if let Frame::Heartbeat(beat) = frame::parse(kind, payload).unwrap() {
                    let lag = a.peers.handle().counter().saturating_sub(beat.counter);
                    behind = behind.max(lag);
                    beats += u64::from(a.count(Count::DatagramsDropped) > 0);
                }
            }
        }
    })
    .await
    .expect("heartbeats between the datagrams");
    flood.abort();
    let dropped = a.count(Count::DatagramsDropped);
    println!("{dropped} datagrams dropped, heartbeats at most {behind} beats behind");
    assert!(behind < 5, "a heartbeat was {behind} beats late, silence is 5");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_holds_senders_back_and_then_loses_its_link() {
    let config = PeerConfig { stall_timeout: Duration::from_millis(500), ..config() };
    let mut a = Pod::start(1, ring(7, &[]), config).await;
    let _silent = slow_peer(&a).await;
    a.wait_up(2).await;
    let sender = a.peers.handle().sender(pod(2)).unwrap();
    let large = Control::Other { kind: 200, bytes: vec![1; 60_000] };
    let mut taken = 0;
    eventually("a full queue", || {
        while sender.try_control(large.clone()).is_ok() {
            taken += 1;
        }
        (sender.try_control(large.clone()) == Err(SendError::Full), taken)
    })
    .await;
    assert!(taken < 1_000, "{taken} frames of 60 kB were taken by a queue of {}", crate::CONTROL_QUEUE);
    a.wait_for("the end", |got| *got == Got::Down(pod(2))).await;
    assert_eq!(a.count(Count::Stalled), 1);
    assert!(a.count(Count::ControlLost) > 0);
    // No frame was lost on a link that stood.
    assert!(a.count(Count::ControlSent) + a.count(Count::ControlLost) >= taken);
}

#[tokio::test]
async fn a_receiver_without_room_ends_the_link_and_the_sender_knows() {
    let (mut a, b) = linked(&config()).await;
    b.recorder.has_room.store(false, Ordering::Relaxed);
    a.peers.handle().sender(b.id).unwrap().try_control(Control::HandOver { slot: 1 }).unwrap();
    a.wait_for("the end", |got| *got == Got::Down(pod(2))).await;
    assert_eq!(b.count(Count::ControlRefused), 1);
    a.wait_up(2).await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_for_long_loses_its_link() {
    let config = PeerConfig { idle_timeout: Duration::from_millis(300), ..config() };
    let a = Pod::start(1, ring(7, &[]), config).await;
    let mut silent = dial_as(2, &a).await;
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, silent.read_to_end(&mut rest)).await.expect("an end in time");
    assert_eq!(a.count(Count::Idle), 1);
}

#[tokio::test]
async fn members_and_links_beyond_the_bounds_are_refused_and_counted() {
    let config = PeerConfig { max_peers: 1, ..config() };
    let a = Pod::start(1, ring(7, &[]), config).await;
    let members = (1..=5).map(|n| member(pod(n), "127.0.0.1:1")).collect();
    a.members.send_replace(members);
    a.wait_count(Count::TooManyMembers, 3).await;
    eventually("one sender", || {
        let seen = a.peers.handle().senders().borrow().len();
        (seen == 1, seen)
    })
    .await;

    let mut links = Vec::new();
    for _ in 0..3 {
        links.push(dial_as(2, &a).await);
    }
    for n in [2, 3] {
        let mut stream = dial_tls(&a, tls_of(n, &ring(7, &[])).client).await.unwrap();
        let mut out = Vec::new();
        frame::hello(&mut out, &frame::Hello { pod: pod(n), release: "x".into() });
        tokio::io::AsyncWriteExt::write_all(&mut stream, &out).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("an end in time");
        assert!(rest.is_empty(), "pod {n} was answered");
    }
    a.wait_count(Count::TooManyLinks, 2).await;
    drop(links);
    eventually("its places are free again", || {
        let seen = (a.count(Count::LinksOpened), a.count(Count::LinksEnded));
        (seen == (3, 3), seen)
    })
    .await;
    let _next = dial_as(3, &a).await;
}

#[tokio::test]
async fn ten_pods_link_each_with_each() {
    let mut pods = Vec::new();
    for n in 1..=10 {
        pods.push(Pod::start(n, ring(7, &[]), config()).await);
    }
    list(&pods.iter().collect::<Vec<_>>());
    for pod in &pods {
        eventually("nine candidates besides itself", || {
            let view = pod.peers.handle().view().borrow().clone();
            let linked = view.peers.iter().filter(|peer| peer.linked).count();
            ((linked, view.candidates(true).len()) == (9, 10), view)
        })
        .await;
    }
}
