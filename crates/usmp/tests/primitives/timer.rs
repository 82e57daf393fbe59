//! The retransmission timer against the numbers of WIRE.md section 11.3.

use std::time::Duration;

use usmp::Rto;

fn budget(rto: &Rto) -> Duration {
    (0..5).map(|attempt| rto.after(attempt)).sum()
}

#[test]
fn fresh_session_gives_up_after_12_5_s() {
    assert_eq!(Rto::new().current(), Duration::from_millis(500));
    assert_eq!(budget(&Rto::new()), Duration::from_millis(12_500));
}

#[test]
fn fast_path_first_rises_to_0_7_s_and_reaches_the_floor_after_22_samples() {
    let mut rto = Rto::new();
    let timers: Vec<_> = (0..22)
        .map(|_| {
            rto.sample(Duration::from_millis(1));
            rto.current()
        })
        .collect();
    let highest = timers.iter().max().expect("22 samples");
    assert!((690..=710).contains(&highest.as_millis()), "{timers:?}");
    assert!(timers[20] > Duration::from_millis(100), "{timers:?}");
    assert_eq!(timers[21], Duration::from_millis(100), "{timers:?}");
    assert_eq!(budget(&rto), Duration::from_millis(3_100));
}

#[test]
fn slow_path_is_capped_at_5_s_per_attempt() {
    let mut rto = Rto::new();
    for _ in 0..100 {
        rto.sample(Duration::from_secs(3600));
    }
    assert_eq!(rto.current(), Duration::from_secs(5));
    assert_eq!(budget(&rto), Duration::from_secs(25));
}

#[test]
fn absurd_samples_and_attempts_do_not_overflow() {
    let mut rto = Rto::new();
    rto.sample(Duration::MAX);
    rto.sample(Duration::ZERO);
    assert_eq!(rto.after(u8::MAX), Duration::from_secs(5));
}
