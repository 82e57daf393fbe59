use super::kafka::Lacking;
use super::plan::{ALL, Fault, Plan};
use super::run::{miss, run, survive};

#[test]
fn a_device_is_acknowledged_while_nothing_goes_wrong() {
    let run = run(1, Lacking::Nothing, |_| Plan::peace());
    assert_eq!(run.broken, Vec::<String>::new(), "{}", run.story);
    assert!(run.acknowledged > 1, "{}", run.story);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=12 {
        let [first, second] = [(); 2].map(|()| run(seed, Lacking::Nothing, |dice| Plan::with(dice, &ALL)));
        assert_eq!(first.story, second.story, "seed {seed}");
    }
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_or_doubled() {
    survive("whatever_goes_wrong_nothing_is_lost_or_doubled", &ALL, &[]);
}

#[test]
fn pods_that_die_stop_or_leave_lose_nothing() {
    let faults = [
        Fault::Kill,
        Fault::LoseNode,
        Fault::Pause,
        Fault::Drain,
        Fault::Join,
        Fault::CutLink,
        Fault::CutPod,
        Fault::Remap,
        Fault::RemapProofs,
        Fault::RestartDevice,
    ];
    let effects = [
        "datagrams of handshakes that were known elsewhere",
        "HELLO handed on to another pod",
        "proof sent to another pod than HELLO",
        "datagram relayed to another pod",
        "datagrams that waited for an owner",
        "kafka: producer fenced",
        "sessions gone on with after another owner",
        "slots lost to another owner or to doubt",
        "snapshot used",
    ];
    survive("pods_that_die_stop_or_leave_lose_nothing", &faults, &effects);
}

#[test]
fn a_store_that_is_late_away_or_old_loses_nothing() {
    let faults = [
        Fault::BadStore,
        Fault::StoreAway,
        Fault::RollBack,
        Fault::CutStore,
        Fault::Kill,
        Fault::Drain,
        Fault::Rekey,
    ];
    let effects = [
        "device: rekeyed",
        "sessions gone on with after another owner",
        "sessions whose keys were gone",
        "store: answer lost",
        "store: call lost",
        "store: call not answered",
        "store: slow call",
    ];
    survive("a_store_that_is_late_away_or_old_loses_nothing", &faults, &effects);
}

#[test]
fn a_kafka_that_is_slow_silent_or_fails_over_loses_nothing() {
    let faults = [Fault::BadKafka, Fault::FailOver, Fault::CutKafka, Fault::Pause, Fault::Kill];
    let effects = [
        "kafka: commit done, answer lost",
        "kafka: commit lost",
        "kafka: producer fenced",
        "kafka: stale fetch",
        "transactions with messages given up",
    ];
    survive("a_kafka_that_is_slow_silent_or_fails_over_loses_nothing", &faults, &effects);
}

#[test]
fn a_network_that_loses_doubles_damages_and_replays_loses_nothing() {
    let faults = [
        Fault::BadNetwork,
        Fault::Remap,
        Fault::RemapProofs,
        Fault::Rebind,
        Fault::Replay,
        Fault::Rekey,
        Fault::RestartDevice,
        Fault::CutPod,
        Fault::Drain,
    ];
    let effects = [
        "message given up by its client",
        "network: datagram damaged",
        "network: datagram doubled",
        "network: datagram lost",
        "sessions that moved to another address",
    ];
    survive("a_network_that_loses_doubles_damages_and_replays_loses_nothing", &faults, &effects);
}

#[test]
fn a_fence_that_bars_nobody_is_missed() {
    miss(Lacking::Fence, &[Fault::CutLink, Fault::Pause, Fault::Remap, Fault::Remap, Fault::Remap], 0.0);
}

#[test]
fn a_ledger_that_nobody_reads_is_missed() {
    miss(Lacking::Ledger, &[Fault::Kill, Fault::Remap], 0.0);
}

#[test]
fn a_ledger_that_is_read_to_its_end_is_missed() {
    miss(Lacking::Barrier, &[Fault::Kill, Fault::Remap], 0.8);
}

#[test]
fn an_outcome_that_nobody_knows_and_is_acknowledged_is_missed() {
    miss(Lacking::Knowledge, &[Fault::BadKafka, Fault::Kill], 0.0);
}
