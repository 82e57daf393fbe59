//! What goes wrong, and how it is put right again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::gate::StoreMood;
use super::kafka::KafkaMood;
use super::network::{Arrival, NetworkMood};
use super::plan::Fault;
use super::world::{Remedy, World, pair};

impl World {
    /// Goes through the plan, then puts everything right.
    pub(super) async fn suffer(&mut self) {
        while let Some((at, fault)) = self.plan.faults.pop() {
            let at = self.begin + at;
            self.run_until(at).await;
            self.happen(fault).await;
        }
        let end = self.begin + self.plan.trouble;
        self.run_until(end).await;
        for (at, remedy) in &mut self.remedies {
            if !matches!(remedy, Remedy::Expire(_)) {
                *at = Instant::now();
            }
        }
        self.put_right().await;
    }

    fn some_living(&self) -> Option<usize> {
        let living = self.living();
        living.get(self.dice.below(living.len())).copied()
    }

    fn put_right_after(&mut self, from_ms: u64, to_ms: u64, remedy: Remedy) {
        let at = Instant::now() + self.dice.millis(from_ms, to_ms);
        self.remedies.push((at, remedy));
    }

    async fn happen(&mut self, fault: Fault) {
        let Some(pod) = self.some_living() else { return };
        let device = self.dice.below(self.devices.len());
        self.tally.one(fault.name());
        self.note(&format!("{} (pod {pod}, device {device})", fault.name()));
        match fault {
            Fault::Kill | Fault::LoseNode => {
                self.pods[pod].end();
                self.is_gone(pod, fault == Fault::Kill);
                self.put_right_after(100, 3000, Remedy::Start);
            }
            Fault::Pause => {
                self.pods[pod].gate.change(|condition| condition.runs = false);
                self.put_right_after(100, 8000, Remedy::Resume(pod));
            }
            Fault::Drain => {
                self.pods[pod].drain();
                self.put_right_after(0, 1000, Remedy::Start);
            }
            Fault::Join => self.start_pod().await,
            Fault::CutKafka => {
                self.pods[pod].gate.change(|condition| condition.reaches_kafka = false);
                self.put_right_after(300, 12_000, Remedy::ReachKafka(pod));
            }
            Fault::CutStore => {
                self.pods[pod].gate.change(|condition| condition.reaches_store = false);
                self.put_right_after(300, 8000, Remedy::ReachStore(pod));
            }
            Fault::CutLink => {
                let other = self.some_living().unwrap_or(pod);
                if other != pod {
                    self.cut_links.insert(pair(pod, other));
                    self.put_right_after(300, 6000, Remedy::Link(pod, other));
                }
            }
            Fault::CutPod => {
                self.cut_pods.insert(pod);
                self.put_right_after(300, 5000, Remedy::ReachDevices(pod));
            }
            Fault::Remap => self.forget_flows(),
            Fault::RemapProofs => {
                self.remaps_proofs = true;
                self.put_right_after(1000, 8000, Remedy::Proofs);
            }
            Fault::Rebind => self.devices[device].rebind(),
            Fault::RestartDevice => self.devices[device].restart(),
            Fault::Rekey => self.devices[device].rekey(),
            Fault::Replay => self.replay(),
            Fault::BadNetwork => {
                self.network.mood = NetworkMood {
                    loss: self.dice.within(0, 30) as f64 / 100.0,
                    twice: self.dice.within(0, 20) as f64 / 100.0,
                    damage: self.dice.within(0, 3) as f64 / 100.0,
                    slowest_ms: self.dice.within(10, 250),
                };
                self.put_right_after(1000, 8000, Remedy::Network);
            }
            Fault::BadStore => {
                let (loss, slowest_ms) = (self.dice.within(0, 40) as f64 / 100.0, self.dice.within(2, 1500));
                *self.mood() = StoreMood { loss, slowest_ms, away: false };
                self.put_right_after(1000, 8000, Remedy::Store);
            }
            Fault::StoreAway => {
                self.mood().away = true;
                self.put_right_after(500, 6000, Remedy::Store);
            }
            Fault::RollBack => {
                let to = self.dice.below(self.remembered);
                self.store.roll_back(to).expect("a state that is remembered");
                self.remembered = to + 1;
            }
            Fault::BadKafka => {
                self.kafka.set_mood(KafkaMood {
                    slowest_ms: self.dice.within(5, 800),
                    unknown: self.dice.within(0, 60) as f64 / 100.0,
                    stale: self.dice.within(0, 90) as f64 / 100.0,
                });
                self.put_right_after(500, 6000, Remedy::Kafka);
            }
            Fault::FailOver => {
                self.kafka.set_available(false);
                self.put_right_after(200, 4000, Remedy::FailOver);
            }
        }
    }

    /// Somebody says again what a device has said: from its address or another one, to its pod or another one.
    fn replay(&mut self) {
        let Some((source, datagram)) = self.network.overheard() else { return };
        let stranger = SocketAddr::from(([192, 0, 2, 1], self.dice.within(1024, 2048) as u16));
        let source = if self.dice.happens(0.5) { stranger } else { source };
        if self.dice.happens(0.5) {
            return self.send_to_pods(source, &datagram);
        }
        if let Some(pod) = self.some_living() {
            let wait = Duration::from_millis(1);
            self.network.after(wait, Arrival::ToPod { pod, source, datagram });
        }
    }

    /// Puts right what is due.
    pub(super) async fn put_right(&mut self) {
        let now = Instant::now();
        let mut due: Vec<Remedy> = Vec::new();
        self.remedies.retain(|(at, remedy)| {
            if *at <= now {
                due.push(*remedy);
            }
            *at > now
        });
        for remedy in due {
            self.note(&format!("{remedy:?}"));
            match remedy {
                Remedy::Start => self.start_pod().await,
                Remedy::Resume(pod) => {
                    self.pods[pod].gate.change(|condition| condition.runs = true);
                    self.put_right_after(0, 40, Remedy::Hear(pod));
                }
                Remedy::Hear(pod) => self.release_held(pod),
                Remedy::ReachKafka(pod) => {
                    self.pods[pod].gate.change(|condition| condition.reaches_kafka = true);
                }
                Remedy::ReachStore(pod) => {
                    self.pods[pod].gate.change(|condition| condition.reaches_store = true);
                }
                Remedy::ReachDevices(pod) => drop(self.cut_pods.remove(&pod)),
                Remedy::Link(one, other) => drop(self.cut_links.remove(&pair(one, other))),
                Remedy::Proofs => self.remaps_proofs = false,
                Remedy::Network => self.network.mood = NetworkMood::GOOD,
                Remedy::Store => *self.mood() = StoreMood::GOOD,
                Remedy::Kafka => self.kafka.set_mood(KafkaMood::good(self.plan.kafka_ms, self.plan.stale)),
                Remedy::FailOver => self.kafka.set_available(true),
                Remedy::Expire(pod) => self.expire(pod).await,
            }
        }
    }
}
