use std::time::Duration;

use super::world::*;
use crate::{Count, Event, Evidence, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval};

#[tokio::test]
async fn killed_peer_is_dead_by_refusal_at_once() {
    let (mut a, b) = linked(&config()).await;
    let start = Instant::now();
    // What the kernel does for a killed process: its listener and its connections are closed.
    drop(b);
    let got = a.wait_for("a death", |got| matches!(got, Got::Changed(Event::Dead(..)))).await;
    assert_eq!(got, Got::Changed(Event::Dead(pod(2), Evidence::Refused)));
    println!("known dead after {:?}", start.elapsed());
    let view = a.peers.handle().view().borrow().clone();
    assert_eq!(view.peer(pod(2)).and_then(|peer| peer.dead), Some(Evidence::Refused));
    assert_eq!(view.candidates(true), [pod(1)]);
}

#[tokio::test]
async fn stalled_peer_is_dead_by_silence_and_alive_when_it_goes_on() {
    // The peer has a thread of its own, which is held fast: its connections stand, nothing comes over them.
    let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
    let (start, started) = tokio::sync::oneshot::channel();
    let (members_of_a, listed) = tokio::sync::oneshot::channel();
    let (stall, stalls) = tokio::sync::oneshot::channel::<()>();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let mut b = Pod::start(2, ring(7, &[]), config()).await;
            start.send(b.member()).ok().unwrap();
            let a = listed.await.unwrap();
            b.members.send_replace(vec![a, b.member()]);
            b.wait_up(1).await;
            stalls.await.unwrap();
            held.recv().unwrap();
            ended.await.unwrap();
        });
    });
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let b = started.await.unwrap();
    a.members.send_replace(vec![a.member(), b]);
    members_of_a.send(a.member()).ok().unwrap();
    a.wait_up(2).await;
    a.wait_count(Count::HeartbeatsReceived, 2).await;
    assert_eq!(a.rest().iter().filter(|got| matches!(got, Got::Changed(Event::Dead(..)))).count(), 0);

    // Two pods: silence counts only while Kafka answers.
    let handle = a.peers.handle();
    let kafka = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(100));
        loop {
            ticks.tick().await;
            handle.kafka_answered();
        }
    });
    let since = Instant::now();
    stall.send(()).unwrap();
    let got = a.wait_for("a death", |got| matches!(got, Got::Changed(Event::Dead(..)))).await;
    assert_eq!(got, Got::Changed(Event::Dead(pod(2), Evidence::Silent)));
    println!("known dead after {:?}", since.elapsed());
    hold.send(()).unwrap();
    a.wait_for("life", |got| *got == Got::Changed(Event::Alive(pod(2)))).await;
    kafka.abort();
    end.send(()).unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn an_address_where_another_pod_answers_is_a_refusal() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let c = Pod::start(3, ring(7, &[]), config()).await;
    a.members.send_replace(vec![member(pod(2), c.peers.handle().address())]);
    let got = a.wait_for("a death", |got| matches!(got, Got::Changed(Event::Dead(..)))).await;
    assert_eq!(got, Got::Changed(Event::Dead(pod(2), Evidence::Refused)));
    assert!(a.count(Count::DialsMisdirected) >= 1);
    c.wait_count(Count::LookedForAnother, 1).await;
    // A plain restart must not look like an attack, at either end.
    assert_eq!([&a, &c].map(|pod| pod.count(Count::WrongCredentials)), [0, 0]);
    assert_eq!(c.count(Count::BrokenHandshakes), 0);
}

#[tokio::test]
async fn a_stranger_that_says_it_looked_for_another_pod_is_no_evidence_of_death() {
    // A fatal alert `access_denied` in place of a ServerHello.
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = stranger.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&ALERT).await;
            // Whoever closes with something unread resets, and the alert may be lost with it.
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    a.members.send_replace(vec![member(pod(2), &address)]);
    a.wait_count(Count::WrongCredentials, 2).await;
    assert_eq!(a.count(Count::DialsMisdirected), 0);
    let dead: Vec<_> =
        a.rest().into_iter().filter(|got| matches!(got, Got::Changed(Event::Dead(..)))).collect();
    assert_eq!(dead, []);
    answering.abort();
}

#[tokio::test]
async fn a_pod_without_the_secret_at_an_address_is_no_evidence_of_death() {
    let mut a = Pod::start(1, ring(7, &[]), config()).await;
    let stranger = Pod::start(3, ring(8, &[]), config()).await;
    a.members.send_replace(vec![member(pod(2), stranger.peers.handle().address())]);
    a.wait_count(Count::WrongCredentials, 3).await;
    let dead: Vec<_> =
        a.rest().into_iter().filter(|got| matches!(got, Got::Changed(Event::Dead(..)))).collect();
    assert_eq!(dead, [], "whoever takes an address over must not be able to say that its owner is dead");
}

#[tokio::test]
async fn the_heartbeat_says_when_kafka_last_answered() {
    let (a, b) = linked(&config()).await;
    let view = b.peers.handle().view();
    let answers = |view: &View| view.peer(pod(1)).is_some_and(|peer| peer.kafka_answers);
    assert!(!answers(&view.borrow()));
    let mut changes = b.peers.handle().view();
    tokio::time::timeout(DEADLINE, async {
        while !answers(&changes.borrow_and_update()) {
            // Again, for a machine on which a beat is late.
            a.peers.handle().kafka_answered();
            let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
        }
    })
    .await
    .expect("an age in a heartbeat");
}
