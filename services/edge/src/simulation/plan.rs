//! What goes wrong in a run: a seed picks some kinds of faults and when each happens.

use std::time::Duration;

use super::time::Dice;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A pod's process dies; its address refuses connections. Another one starts later.
    Kill,
    /// A pod is gone with its node: nobody refuses anything.
    LoseNode,
    /// A pod stands still for a while.
    Pause,
    /// A pod is told to drain, another one starts.
    Drain,
    /// One more pod.
    Join,
    /// A pod does not reach Kafka for a while.
    CutKafka,
    /// A pod does not reach the store for a while.
    CutStore,
    /// Two pods do not reach each other for a while.
    CutLink,
    /// Devices do not reach a pod for a while.
    CutPod,
    /// The balancer sends some flows to other pods.
    Remap,
    /// For a while the balancer sends each flow to another pod just before the proof of its handshake, some from another address.
    RemapProofs,
    /// A device's address changes.
    Rebind,
    /// A device loses its power.
    RestartDevice,
    /// A device changes its keys.
    Rekey,
    /// A datagram of a device is said again by somebody else, or from its own address.
    Replay,
    /// Datagrams are lost, doubled, damaged and late.
    BadNetwork,
    /// The store answers late, or loses calls and answers.
    BadStore,
    /// The store answers nobody.
    StoreAway,
    /// The store forgets everything since some time before.
    RollBack,
    /// Kafka answers late, loses answers, shows old ends of its logs.
    BadKafka,
    /// Kafka answers nobody while another broker takes over.
    FailOver,
}

/// All of them.
pub(super) const ALL: [Fault; 21] = [
    Fault::Kill,
    Fault::LoseNode,
    Fault::Pause,
    Fault::Drain,
    Fault::Join,
    Fault::CutKafka,
    Fault::CutStore,
    Fault::CutLink,
    Fault::CutPod,
    Fault::Remap,
    Fault::RemapProofs,
    Fault::Rebind,
    Fault::RestartDevice,
    Fault::Rekey,
    Fault::Replay,
    Fault::BadNetwork,
    Fault::BadStore,
    Fault::StoreAway,
    Fault::RollBack,
    Fault::BadKafka,
    Fault::FailOver,
];

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "fault: pod killed",
            Self::LoseNode => "fault: node lost",
            Self::Pause => "fault: pod stopped for a while",
            Self::Drain => "fault: pod drained",
            Self::Join => "fault: pod joined",
            Self::CutKafka => "fault: pod cut off from Kafka",
            Self::CutStore => "fault: pod cut off from the store",
            Self::CutLink => "fault: pods cut off from each other",
            Self::CutPod => "fault: pod cut off from devices",
            Self::Remap => "fault: flows remapped",
            Self::RemapProofs => "fault: flows remapped before proofs",
            Self::Rebind => "fault: device at another address",
            Self::RestartDevice => "fault: device restarted",
            Self::Rekey => "fault: keys changed",
            Self::Replay => "fault: datagram replayed",
            Self::BadNetwork => "fault: bad network",
            Self::BadStore => "fault: bad store",
            Self::StoreAway => "fault: store away",
            Self::RollBack => "fault: store rolled back",
            Self::BadKafka => "fault: bad Kafka",
            Self::FailOver => "fault: broker fail-over",
        }
    }

    /// How often it happens in a run that has it, at most.
    const fn often(self) -> u64 {
        match self {
            Self::Replay => 30,
            Self::Remap | Self::Rebind | Self::Rekey => 8,
            Self::Kill | Self::Pause | Self::BadKafka => 4,
            _ => 2,
        }
    }
}

/// A run's faults in their order, and what the run is made of.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pods: usize,
    pub(super) shards: u16,
    pub(super) slots: u16,
    pub(super) devices: u8,
    /// Longest that Kafka takes for a request while nothing is wrong with it.
    pub(super) kafka_ms: u64,
    /// Fetches that see an older end of a log while nothing is wrong.
    pub(super) stale: f64,
    /// The balancer does not mind pods that serve no slot.
    pub(super) flows_stay: bool,
    /// How long things go wrong; then everything is put right.
    pub(super) trouble: Duration,
    /// The last first.
    pub(super) faults: Vec<(Duration, Fault)>,
}

impl Plan {
    /// Some of these faults, and now and then another one.
    pub(super) fn with(dice: &Dice, wanted: &[Fault]) -> Self {
        let trouble = dice.millis(4000, 14_000);
        let mut faults = Vec::new();
        // Few kinds at once find more than all of them together.
        let share = [0.2, 0.4, 0.8][dice.below(3)];
        let happens = |fault: &Fault| dice.happens(if wanted.contains(fault) { share } else { share / 10.0 });
        for fault in ALL.into_iter().filter(happens) {
            for _ in 0..dice.within(1, fault.often()) {
                faults.push((dice.millis(500, trouble.as_millis() as u64), fault));
            }
        }
        faults.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            pods: [1, 2, 2, 3, 3][dice.below(5)],
            shards: 1 + dice.below(2) as u16,
            slots: 1 + dice.below(4) as u16,
            devices: 1 + dice.below(4) as u8,
            kafka_ms: [5, 5, 40, 150][dice.below(4)],
            stale: 0.0,
            flows_stay: false,
            trouble,
            faults,
        }
    }

    /// All of these faults, six times each, where a slow Kafka and many messages leave something open at every moment.
    pub(super) fn all_of(dice: &Dice, faults: &[Fault], stale: f64) -> Self {
        let trouble = Duration::from_secs(14);
        let at = || dice.millis(1500, trouble.as_millis() as u64);
        let mut faults: Vec<_> =
            faults.iter().flat_map(|fault| (0..6).map(move |_| *fault)).map(|fault| (at(), fault)).collect();
        faults.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            pods: 3,
            shards: 1,
            slots: 3,
            devices: 4,
            kafka_ms: 150,
            stale,
            flows_stay: false,
            trouble,
            faults,
        }
    }

    /// One pod, one device, and nothing goes wrong.
    pub(super) fn peace() -> Self {
        let trouble = Duration::from_secs(4);
        Self {
            pods: 1,
            shards: 1,
            slots: 1,
            devices: 1,
            kafka_ms: 5,
            stale: 0.0,
            flows_stay: false,
            trouble,
            faults: Vec::new(),
        }
    }
}
