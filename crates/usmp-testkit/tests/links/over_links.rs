//! One server, which keeps its sessions.

use std::collections::BTreeSet;

use usmp::Duration;
use usmp_testkit::link::Conditions;
use usmp_testkit::profiles;
use usmp_testkit::sim::Endpoint as _;

use crate::run::{Run, number, numbered};

#[test]
fn clean_path_delivers_messages_of_every_size_both_ways() {
    let mut run = Run::new(profiles::OWN, Conditions::clean(), 1);
    let mut down = Vec::new();
    for (count, size) in [4, 31, 452, 453, 904, 905, 1356, 1357, 1808].into_iter().enumerate() {
        run.size = size;
        let message = numbered(count as u32, size);
        run.server.send(&message);
        down.push(message);
        run.send_until(count + 1, Duration::from_secs(20));
        assert_eq!(run.server.stored[count].payload, numbered(count as u32, size), "{size} bytes up");
    }
    run.run_for(Duration::from_secs(2));
    assert_eq!(run.received, down, "down");
    assert_eq!(run.server.delivered, down, "acknowledged by the device");
    assert_eq!((run.connections, run.connected, run.server.established), (1, 1, 1));
    assert_eq!(run.server.dropped, [], "nothing strange on a clean path");
    run.client.close();
    run.run_for(Duration::from_secs(1));
    assert_eq!(run.server.sessions(), 0, "BYE ends it");
}

/// 40 messages up and 10 down over a path that loses a fifth each way, repeats and reorders.
fn lossy(seed: u64) -> Run {
    println!("seed {seed}");
    let mut run = Run::new(profiles::OWN, Conditions::lossy(0.2), seed);
    for round in 0..10_u32 {
        run.size = if round % 3 == 0 { 1200 } else { 64 };
        run.server.send(&numbered(1_000 + round, if round % 4 == 0 { 700 } else { 16 }));
        run.send_until(4 * (round as usize + 1), Duration::from_secs(600));
    }
    let until = run.path.now() + Duration::from_secs(300);
    while run.server.to_deliver() > 0 && run.path.now() < until {
        run.step(until);
    }
    let numbers: Vec<_> = run.received.iter().map(|message| number(message)).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(numbers, sorted, "seed {seed}: each once and in order");
    let delivered: BTreeSet<_> = run.server.delivered.iter().map(|message| number(message)).collect();
    assert!(delivered.is_subset(&sorted.into_iter().collect()), "seed {seed}: acknowledged and not received");
    run
}

#[test]
fn lossy_path_loses_and_repeats_nothing_that_was_acknowledged() {
    let mut lost = 0;
    for seed in 0..25 {
        let run = lossy(seed);
        lost += run.path.up.counts().lost;
        assert!(run.acknowledged.len() >= 40, "seed {seed}");
        assert!(run.received.len() >= 5, "seed {seed}: only {} messages down", run.received.len());
    }
    assert!(lost > 200, "the path lost {lost} datagrams only");
}

#[test]
fn seed_seven_gives_the_same_run_again() {
    let (first, second) = (lossy(7), lossy(7));
    assert_eq!(first.path.now(), second.path.now());
    assert_eq!(first.path.up.counts(), second.path.up.counts());
    assert_eq!(first.path.down.counts(), second.path.down.counts());
    assert_eq!(first.server.stored, second.server.stored);
    assert_eq!(first.received, second.received);
}

#[test]
fn every_imitated_client_connects_and_delivers() {
    let mut visited = 0;
    for profile in profiles::ALL {
        let mut run = Run::new(profile, Conditions::clean(), 3);
        run.send_until(20, Duration::from_secs(60));
        run.size = 1808;
        run.send_until(25, Duration::from_secs(60));
        run.server.send(b"down");
        run.run_for(Duration::from_secs(5));
        assert_eq!(run.received, [b"down"], "{}", profile.name);
        assert_eq!((run.connections, run.failed.len()), (1, 0), "{}", profile.name);
        visited += 1;
    }
    assert_eq!(visited, 10, "imitations");
}

#[test]
fn every_imitated_client_gets_through_a_lossy_path() {
    for profile in profiles::ALL {
        for seed in 0..5 {
            println!("{} seed {seed}", profile.name);
            // A client without a timer for the handshake hangs for ever when the network takes both resends of HELLO_RETRY;
            // that is its own (WIRE.md section 11.4), so the handshake is spared and the session is not.
            let mut run = Run::new(profile, Conditions::clean(), seed);
            run.send_until(1, Duration::from_secs(10));
            run.path.set_conditions(Conditions { loss: 0.1, ..Conditions::lossy(0.1) });
            while run.acknowledged.len() < 25 {
                if run.reconnect_at.is_some() {
                    run.path.set_conditions(Conditions::clean());
                }
                let count = run.acknowledged.len();
                run.send_until(count + 1, Duration::from_secs(120));
                run.path.set_conditions(Conditions::lossy(0.1));
            }
        }
    }
}

#[test]
fn lost_hello_retry_is_made_up_for_by_the_resends() {
    for profile in profiles::ALL {
        let mut run = Run::new(profile, Conditions::clean(), 4);
        // HELLO goes up, everything down is lost for 1.2 s: the HELLO_RETRY and its first resend.
        run.path.down.set_conditions(Conditions { loss: 1.0, ..Conditions::clean() });
        run.run_for(Duration::from_micros(1_200_000));
        assert_eq!(run.connected, 0, "{}", profile.name);
        run.path.down.set_conditions(Conditions::clean());
        run.send_until(1, Duration::from_secs(30));
    }
}

/// Transmissions of one message when the store takes so long; the path's round trip is 1 ms.
fn transmissions(run: &mut Run, commit: Duration) -> Option<u64> {
    run.server.commit_time = commit;
    let before = run.path.up.counts().sent;
    let (acknowledged, failed) = (run.acknowledged.len(), run.failed.len());
    let id = run.client.send(&numbered(run.next, 32)).expect("the session is open");
    run.under_way = Some((run.next, id));
    run.next += 1;
    let until = run.path.now() + Duration::from_secs(40);
    while run.acknowledged.len() == acknowledged && run.failed.len() == failed {
        assert!(run.step(until), "{}: neither acknowledged nor given up", run.place());
    }
    (run.failed.len() == failed).then(|| run.path.up.counts().sent - before)
}

#[test]
fn slow_store_costs_the_transmissions_measured_on_the_official_client() {
    // WIRE.md section 12.1, Python 1.2.2: delay in ms, transmissions in a fresh session (one fast frame, so that its timer stands
    // at 0.70 s) and in one at the timer's floor.
    let table: [(u64, Option<u64>, Option<u64>); 11] = [
        (50, Some(1), Some(1)),
        (90, Some(1), Some(1)),
        (150, Some(1), Some(2)),
        (350, Some(1), Some(3)),
        (800, Some(2), Some(4)),
        (1_600, Some(2), Some(5)),
        (3_000, Some(3), Some(5)),
        (3_300, Some(3), None),
        (5_000, Some(4), None),
        (12_000, Some(5), None),
        (13_000, Some(5), None),
    ];
    let path = Conditions { delay: Duration::from_micros(500), ..Conditions::clean() };
    let python = profiles::ALL.into_iter().find(|profile| profile.name == "Python 1.2").expect("imitated");
    for (milliseconds, fresh, floor) in table {
        let commit = Duration::from_millis(milliseconds);
        let connected = || {
            let mut run = Run::new(python, path, 1);
            run.server.commit_time = Duration::ZERO;
            run.send_until(1, Duration::from_secs(5));
            run.run_for(Duration::from_millis(10));
            run
        };
        assert_eq!(transmissions(&mut connected(), commit), fresh, "{milliseconds} ms, fresh session");
        let mut run = connected();
        run.send_until(30, Duration::from_secs(30));
        run.under_way = None;
        assert_eq!(transmissions(&mut run, commit), floor, "{milliseconds} ms, at the floor");
    }
}

#[test]
fn reconnect_of_a_device_takes_over_from_its_older_session() {
    let mut run = Run::new(profiles::OWN, Conditions::clean(), 5);
    run.send_until(3, Duration::from_secs(5));
    run.path.set_conditions(Conditions { loss: 1.0, ..Conditions::clean() });
    let id = run.client.send(&numbered(run.next, 32)).expect("the session is open");
    run.under_way = Some((run.next, id));
    run.next += 1;
    while run.connections == 1 {
        run.step(run.path.now() + Duration::from_secs(60));
    }
    assert_eq!(run.failed.len(), 1, "the message under way failed");
    run.path.set_conditions(Conditions::clean());
    run.send_until(6, Duration::from_secs(30));
    assert_eq!((run.server.established, run.server.sessions()), (2, 1));
}

#[test]
fn rekey_of_the_server_loses_nothing_in_either_direction() {
    for seed in 0..10 {
        println!("seed {seed}");
        let mut run = Run::new(profiles::OWN, Conditions::lossy(0.1), seed);
        run.send_until(5, Duration::from_secs(60));
        let mut rekeys = 0;
        for round in 0..20_u32 {
            if round % 5 == 0 {
                // The server refuses while a message of either side is under way or a REKEY of the last 15 s is remembered.
                run.run_for(Duration::from_secs(20));
                rekeys += u32::from(run.server.start_rekey());
            }
            run.server.send(&numbered(round, 600));
            let count = run.acknowledged.len();
            run.send_until(count + 2, Duration::from_secs(300));
        }
        assert!(rekeys >= 2, "seed {seed}: {rekeys} changes of keys");
    }
}

#[test]
fn idle_device_stays_connected_by_keepalives() {
    let mut run = Run::new(profiles::OWN, Conditions::clean(), 6);
    run.send_until(1, Duration::from_secs(5));
    run.run_for(Duration::from_secs(7_300));
    assert!(run.client.poll_timeout().is_some());
    assert_eq!((run.server.sessions(), run.connections), (1, 1), "beyond the idle timeout of 3600 s");
}
