use std::time::Duration;

use super::world::*;
use crate::{Control, Count};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

fn quick() -> crate::PeerConfig {
    crate::PeerConfig { renew_retry: Duration::from_millis(200), ..config() }
}

fn is_current(from: &Pod, to: &Pod) -> bool {
    from.peers.handle().sender(to.id).is_some_and(|sender| sender.is_by_current_secret())
}

#[tokio::test]
async fn the_cluster_secret_rotates_without_the_loss_of_a_link_or_a_frame() {
    let (mut a, mut b) = linked(&quick()).await;
    a.rest();
    b.rest();
    // Frames flow all the while.
    let to_b = a.peers.handle().sender(b.id).unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let flow = tokio::spawn(async move {
        let mut sent = 0_u64;
        while stopped.try_recv().is_err() {
            to_b.control(Control::Other { kind: 200, bytes: sent.to_be_bytes().to_vec() }).await.unwrap();
            sent += 1;
            tokio::task::yield_now().await;
            if sent.is_multiple_of(32) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        sent
    });

    // One pod is ahead of the other at every step, and the new secret was not announced before it was used.
    a.secrets.send_replace(ring(8, &[7]));
    a.wait_count(Count::LinksRenewed, 1).await;
    assert_eq!(a.peers.handle().links_by_older_secret(), 1);
    assert!(!is_current(&a, &b), "the other end does not know the new secret yet");
    b.secrets.send_replace(ring(8, &[7]));
    eventually("both under the new secret", || {
        let seen = (is_current(&a, &b), is_current(&b, &a));
        (seen == (true, true), seen)
    })
    .await;
    assert_eq!(a.peers.handle().links_by_older_secret(), 0);
    a.secrets.send_replace(ring(8, &[]));
    b.secrets.send_replace(ring(8, &[]));
    let beats = a.count(Count::HeartbeatsReceived);
    a.wait_count(Count::HeartbeatsReceived, beats + 5).await;

    stop.send(()).unwrap();
    let sent = flow.await.unwrap();
    for expected in 0..sent {
        let got = b.wait_for("the next frame", |got| !matches!(got, Got::Changed(_))).await;
        let control = Control::Other { kind: 200, bytes: expected.to_be_bytes().to_vec() };
        assert_eq!(got, Got::Control { from: a.id, control });
    }
    for pod in [&mut a, &mut b] {
        assert_eq!(pod.rest(), [], "no link went down and nobody died");
        assert_eq!((pod.count(Count::Outdated), pod.count(Count::ControlLost)), (0, 0));
    }
    println!("{sent} frames during {} renewals", a.count(Count::LinksRenewed));
}

#[tokio::test]
async fn a_secret_that_leaves_the_ring_ends_the_links_that_rest_on_it() {
    let (mut a, b) = linked(&quick()).await;
    a.secrets.send_replace(ring(8, &[]));
    a.wait_for("the end", |got| *got == Got::Down(pod(2))).await;
    a.wait_count(Count::Outdated, 1).await;
    a.wait_count(Count::WrongCredentials, 1).await;
    b.secrets.send_replace(ring(8, &[]));
    a.wait_up(2).await;
}

#[tokio::test]
async fn an_old_link_is_renewed_without_a_gap() {
    let config = crate::PeerConfig { renew_after: Duration::from_millis(400), ..config() };
    let (mut a, mut b) = linked(&config).await;
    a.rest();
    b.rest();
    a.wait_count(Count::LinksRenewed, 3).await;
    assert_eq!((a.rest(), b.rest()), (vec![], vec![]));
}

#[tokio::test]
async fn pods_whose_rings_differ_by_one_step_link_in_both_directions() {
    let mut a = Pod::start(1, ring(8, &[7]), quick()).await;
    let mut b = Pod::start(2, ring(7, &[]), quick()).await;
    list(&[&a, &b]);
    a.wait_up(2).await;
    b.wait_up(1).await;
    assert_eq!((a.count(Count::WrongCredentials), b.count(Count::WrongCredentials)), (0, 0));
}

#[tokio::test]
async fn a_renewed_link_is_silent_until_the_peer_has_read_the_old_one() {
    let config = crate::PeerConfig { renew_after: Duration::from_millis(100), ..config() };
    let a = Pod::start(1, ring(7, &[]), config).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a.members.send_replace(vec![member(pod(2), &listener.local_addr().unwrap().to_string())]);
    let acceptor = TlsAcceptor::from(tls_of(2, &ring(7, &[])).server);
    let mut links = Vec::new();
    for _ in 0..2 {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        greet(&mut stream, 2).await;
        links.push(stream);
    }
    let (mut fresh, mut old) = (links.pop().unwrap(), links.pop().unwrap());
    let mut rest = Vec::new();
    timeout(DEADLINE, old.read_to_end(&mut rest)).await.expect("a farewell in time").unwrap();
    let mut byte = [0];
    let early = timeout(Duration::from_millis(300), fresh.read(&mut byte)).await;
    assert!(early.is_err(), "it spoke before the old link was closed: {early:?}");
    drop(old);
    timeout(DEADLINE, fresh.read_exact(&mut byte)).await.expect("a beat in time").unwrap();
}
