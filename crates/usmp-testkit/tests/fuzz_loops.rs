//! The fuzz targets' bodies as seeded loops, for the stable toolchain. `SLUICE_FUZZ_ITERATIONS` sets the inputs per body
//! (2,000 unless set), `SLUICE_FUZZ_SEED` the first seed (0 unless set), so that a failure is replayed by its printed seed and
//! one iteration.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use usmp_testkit::fuzzing::{self, Reach};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Runs a body on inputs made from seeds; a third of each input is runs of equal bytes, which scripts need to get far.
fn run(name: &str, longest: usize, body: fn(&[u8]) -> Reach) -> Option<Reach> {
    let first = setting("SLUICE_FUZZ_SEED", 0);
    let iterations = setting("SLUICE_FUZZ_ITERATIONS", 2_000);
    println!("{name}: seeds {first} to {}", first + iterations - 1);
    let mut reach = Reach::default();
    for seed in first..first + iterations {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut input = vec![0; rng.random_range(0..=longest)];
        rng.fill_bytes(&mut input);
        for _ in 0..input.len() / 24 {
            let at = rng.random_range(0..input.len());
            let end = (at + rng.random_range(1..16)).min(input.len());
            let byte = input[at];
            input[at..end].fill(byte);
        }
        match catch_unwind(AssertUnwindSafe(|| body(&input))) {
            Ok(reached) => reach += reached,
            Err(panic) => {
                eprintln!("{name} failed: SLUICE_FUZZ_SEED={seed} SLUICE_FUZZ_ITERATIONS=1");
                resume_unwind(panic);
            }
        }
    }
    println!("{name}: {reach:?}");
    // A replay of few seeds need not reach everything.
    (iterations >= 1_000).then_some(reach)
}

fn assert_reached(reach: Option<Reach>) {
    let Some(Reach { connected, messages, delivered, rekeyed, closed }) = reach else { return };
    for (what, times) in [
        ("connected", connected),
        ("messages", messages),
        ("delivered", delivered),
        ("rekeyed", rekeyed),
        ("closed", closed),
    ] {
        assert!(times >= 20, "{what}: reached {times} times only");
    }
}

#[test]
fn parsers_of_the_wire() {
    run("frames", 600, |bytes| {
        fuzzing::frames(bytes);
        Reach::default()
    });
}

#[test]
fn device_on_udp() {
    assert_reached(run("device_udp", 2_000, fuzzing::device_udp));
}

#[test]
fn device_on_tcp() {
    assert_reached(run("device_tcp", 2_000, fuzzing::device_tcp));
}

#[test]
fn handshakes_of_a_server_on_udp() {
    let reach = run("server_handshake", 2_000, fuzzing::server_handshake);
    assert!(reach.is_none_or(|reach| reach.connected >= 20), "{reach:?}: too few sessions");
}

#[test]
fn session_of_a_server_on_udp() {
    assert_reached(run("server_udp", 2_000, fuzzing::server_udp));
}

#[test]
fn session_of_a_server_that_changes() {
    assert_reached(run("server_handover", 2_000, fuzzing::server_handover));
}

#[test]
fn connection_of_a_server_on_tcp() {
    assert_reached(run("server_tcp", 2_000, fuzzing::server_tcp));
}
