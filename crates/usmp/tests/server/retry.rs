//! WIRE.md section 11.4, "Loss trap", and the limits that keep strangers cheap.

use usmp::Instant;
use usmp::server::{RetryCounts, RetryRing};
use usmp::wire::{Frame, FrameType, HelloRetry, Utack};

use crate::support::*;

fn sends<const N: usize>(ring: &mut RetryRing<u32, N>, now: Instant) -> Vec<(Vec<u8>, u32)> {
    let mut all = Vec::new();
    let mut out = [0; 28];
    while let Some((length, path)) = ring.poll_transmit(now, &mut out) {
        all.push((out[..length].to_vec(), path));
    }
    all
}

#[test]
fn hello_retry_is_sent_again_after_one_and_three_seconds_and_then_never() {
    let start = Instant::from_millis(5);
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(start, 7, [9; 16]);
    let mut at = Vec::new();
    while let Some(next) = ring.poll_timeout() {
        let frames = sends(&mut ring, next);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].1, 7);
        let frame = Frame::parse(&frames[0].0).expect("a frame");
        assert_eq!(HelloRetry::parse(&frame), Ok(HelloRetry { cookie: [9; 16] }), "the same cookie");
        at.push(next - start);
    }
    assert_eq!(at, [secs(1), secs(3)]);
    assert!(ring.is_empty());
}

#[test]
fn no_resend_leaves_before_its_time() {
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(Instant::ZERO, 7, [9; 16]);
    assert_eq!(sends(&mut ring, Instant::from_millis(999)), []);
}

#[test]
fn a_utack_of_hello_retry_cancels_the_resends() {
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(Instant::ZERO, 7, [9; 16]);
    assert!(ring.handle_utack(&7, &Utack::plain(FrameType::HelloRetry, 0)));
    assert_eq!(sends(&mut ring, Instant::from_millis(5000)), []);
    assert!(ring.is_empty());
}

#[test]
fn a_utack_of_something_else_or_from_elsewhere_cancels_nothing() {
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(Instant::ZERO, 7, [9; 16]);
    assert!(!ring.handle_utack(&7, &Utack::plain(FrameType::Challenge, 0)));
    ring.handle_utack(&8, &Utack::plain(FrameType::HelloRetry, 0));
    assert_eq!(sends(&mut ring, Instant::from_millis(1000)).len(), 1);
}

#[test]
fn the_cookie_hello_cancels_the_resends() {
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(Instant::ZERO, 7, [9; 16]);
    ring.cancel(&7);
    assert_eq!(sends(&mut ring, Instant::from_millis(5000)), []);
}

#[test]
fn a_second_hello_from_one_address_takes_one_place() {
    let mut ring = RetryRing::<u32, 8>::new();
    ring.push(Instant::ZERO, 7, [1; 16]);
    ring.push(Instant::from_millis(500), 7, [2; 16]);
    assert_eq!(ring.len(), 1);
    assert_eq!(sends(&mut ring, Instant::from_millis(1400)), []);
    assert_eq!(sends(&mut ring, Instant::from_millis(1500)).len(), 1);
}

#[test]
fn a_ring_half_full_sends_nothing_again() {
    let mut ring = RetryRing::<u32, 8>::new();
    for path in 0..4 {
        ring.push(Instant::ZERO, path, [1; 16]);
    }
    assert_eq!(sends(&mut ring, Instant::from_millis(1000)), []);
    assert_eq!(ring.counts().suppressed, 4);
    ring.cancel(&0);
    assert_eq!(sends(&mut ring, Instant::from_millis(3000)).len(), 3, "under half full again");
}

#[test]
fn a_full_ring_counts_who_finds_no_place() {
    let mut ring = RetryRing::<u32, 8>::new();
    for path in 0..11 {
        ring.push(Instant::ZERO, path, [1; 16]);
    }
    assert_eq!(ring.len(), 8);
    assert_eq!(ring.counts(), RetryCounts { overflow: 3, ..RetryCounts::default() });
}

#[test]
fn at_most_fifty_resends_leave_in_a_second() {
    let mut ring = RetryRing::<u32, 256>::new();
    for path in 0..100 {
        ring.push(Instant::ZERO, path, [1; 16]);
    }
    assert_eq!(sends(&mut ring, Instant::from_millis(1000)).len(), 50);
    assert_eq!(ring.counts().suppressed, 50);
    assert_eq!(sends(&mut ring, Instant::from_millis(3000)).len(), 50);
    assert!(ring.is_empty(), "entries leave even when their resends did not");
}
