//! What must hold at the end of every run.

use std::collections::HashMap;
use std::fmt::Write as _;

use tokio::time::Instant;

use super::watched;
use super::world::World;
use crate::counts::Count;

impl World {
    /// Looks at what lies in Kafka and at what devices were told.
    pub(super) fn judge(&self, put_right: Instant) -> Vec<String> {
        let mut broken_rules = Vec::new();
        let log = self.kafka.log();
        let mut by_number: HashMap<([u8; 16], u32, u32), u64> = HashMap::new();
        let mut last: HashMap<[u8; 16], (u32, u32)> = HashMap::new();
        let (mut doubled, mut disordered, mut wrong, mut torn) = (0, 0, 0, 0);
        for message in log.committed() {
            let times = by_number.entry((message.session, message.epoch, message.seq)).or_default();
            *times += 1;
            doubled += u64::from(*times > 1);
            let place = (message.epoch, message.seq);
            let before = last.insert(message.session, place);
            disordered += u64::from(before.is_some_and(|before| before >= place));
            let device = self.devices.iter().find(|device| message.payload.starts_with(&device.id));
            let key = device.map(|device| format!("default/{}", hex::encode(device.id)));
            wrong += u64::from(key.as_deref().map(str::as_bytes) != Some(&message.key));
            torn += u64::from(!device.is_some_and(|device| device.said.contains(&message.payload)));
            doubled += u64::from(log.times_committed(&message.payload) > 1);
        }
        let (mut lost, mut early) = (0, 0);
        for device in &self.devices {
            early += device.too_early;
            let gone = device.acknowledged.iter().filter(|(payload, _)| log.times_committed(payload) == 0);
            lost += gone.count() as u64;
            if !device.acknowledged.iter().any(|(_, at)| *at > put_right) {
                let name = device.client_name();
                broken_rules.push(format!("{name} is not acknowledged any more after all was put right"));
            }
        }
        let twice = watched::twice();
        for (count, what) in [
            (lost, "acknowledged and not committed"),
            (early, "acknowledged before it was committed"),
            (doubled, "committed more than once"),
            (disordered, "committed out of order within its session"),
            (wrong, "committed for another device"),
            (torn, "committed though no device ever said it"),
            (twice, "sealed with a key and number that had sealed something else"),
        ] {
            if count > 0 {
                broken_rules.push(format!("{count} {what}"));
            }
        }
        let (committed, not) = log.transactions();
        self.tally.add("transactions with messages committed", committed as u64);
        self.tally.add("transactions with messages given up", not as u64);
        for pod in &self.pods {
            for (count, name) in [
                (Count::SessionsResumed, "sessions gone on with after another owner"),
                (Count::SessionsOrphaned, "sessions whose keys were gone"),
                (Count::SlotsLost, "slots lost to another owner or to doubt"),
                (Count::DatagramsHeld, "datagrams that waited for an owner"),
                (Count::DroppedBehind, "frames that found no room or a leaving slot"),
                (Count::HandshakesFound, "datagrams of handshakes that were known elsewhere"),
                (Count::SessionsMoved, "sessions that moved to another address"),
                (Count::SessionsReplacedAsleep, "sessions closed asleep"),
            ] {
                self.tally.add(name, pod.count(count));
            }
        }
        broken_rules
    }

    /// Whether each device was acknowledged since.
    pub(super) fn everybody_is_back(&self, put_right: Instant) -> bool {
        self.devices.iter().all(|device| device.acknowledged.iter().any(|(_, at)| *at > put_right))
    }

    /// Two runs that have the same one committed the same messages of the same sessions in the same order.
    fn fingerprint(&self) -> u64 {
        let log = self.kafka.log();
        let bytes = log.committed().flat_map(|message| {
            message.session.into_iter().chain(message.seq.to_be_bytes()).chain(message.payload.clone())
        });
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Everything that happened, one line each.
    pub(super) fn story(&self) -> String {
        let mut story = self.diary.join("\n");
        story.push('\n');
        for (at, pod) in self.pods.iter().enumerate() {
            let slots: Vec<_> = (0..self.plan.slots).filter(|slot| pod.serves(*slot)).collect();
            let _ = writeln!(story, "pod {at}: {:?}, serves {slots:?}", pod.life);
        }
        for device in &self.devices {
            let _ = writeln!(story, "{device:?}");
        }
        let _ = writeln!(story, "fingerprint of the topic: {:016x}", self.fingerprint());
        for (name, count) in self.tally.all() {
            let _ = writeln!(story, "{count:>8} {name}");
        }
        story
    }
}
