//! Slots come to a shard and leave it.

use usmp::crypto::Provider;

use super::records::Records;
use super::slots::{Leaving, Owned};
use super::snapshots::Progress;
use super::{Phase, Shard};
use crate::counts::Count;
use crate::link::{AdoptedSlot, SlotNews, ToCluster};

impl<P: Provider> Shard<P> {
    /// Serves a slot from now on.
    pub(super) fn adopt(&mut self, adopted: AdoptedSlot) {
        let AdoptedSlot { slot, adoption, generation, writer, sessions, snapshot_discarded } = adopted;
        let records = Records::new(writer, self.core.encoder.clone(), &self.core.config.limits);
        let progress = Progress::new(self.core.now, sessions.len());
        // One that comes when the shard is at its end goes again.
        let leaving = match self.phase {
            Phase::Serving => None,
            Phase::Finishing(until) | Phase::Leaving(_, until) => {
                Some(Leaving::at_once(self.core.now, until))
            }
            Phase::Over => Some(Leaving::at_once(self.core.now, self.core.now)),
        };
        let owned = Owned { slot, adoption, generation, records, leaving, behind: false, progress };
        let is_ours = self.core.slots.insert(owned);
        self.core.counts.one(Count::SlotsAdopted);
        if snapshot_discarded {
            self.core.counts.one(Count::SnapshotsDiscarded);
        }
        if let Some(udp) = &mut self.udp {
            udp.adopt(&self.core, sessions);
        }
        if !is_ours {
            self.lose(slot);
        }
    }

    fn lose(&mut self, slot: u16) {
        self.core.counts.one(Count::SlotsLost);
        self.give_up(slot);
        self.tell_cluster(ToCluster::Lost { slot });
    }

    /// Takes back the groups that the writers of slots are through with.
    pub(super) fn settle_slots(&mut self) {
        while let Ok(news) = self.inputs.slots.try_recv() {
            match news {
                SlotNews::Settled { slot, adoption, group } => {
                    let Some(owned) =
                        self.core.slots.get_mut(slot).filter(|owned| owned.adoption == adoption)
                    else {
                        continue;
                    };
                    owned.progress.settled(group.snapshot_offset(), group.len());
                    owned.behind = false;
                    let batch = owned.records.take_back(group);
                    for (message, committed) in batch.outcomes() {
                        let count = if committed { Count::MessagesCommitted } else { Count::MessagesRefused };
                        if message.is_record() {
                            self.core.counts.one(count);
                        }
                        if let Some(udp) = &mut self.udp {
                            udp.settled(&mut self.core, message, committed);
                        }
                    }
                    if let Some(owned) = self.core.slots.get_mut(slot) {
                        owned.records.reuse(batch);
                    }
                }
                SlotNews::Lost { slot, adoption } if self.core.slots.is_of(slot, adoption) => self.lose(slot),
                SlotNews::Lost { slot, adoption } => self.core.slots.lost_elsewhere(slot, adoption),
            }
        }
    }

    /// Gives away the slots that are leaving, once what was taken for them is committed.
    pub(super) fn let_slots_go(&mut self) {
        let now = self.core.now;
        loop {
            let udp = self.udp.as_ref();
            let goes = |owned: &&Owned| {
                let mid_message = || udp.is_some_and(|udp| udp.is_mid_message(owned.slot));
                owned.leaving.is_some_and(|leaving| leaving.goes(now, owned.records.is_idle(), mid_message))
            };
            let Some(slot) = self.core.slots.owned().iter().find(goes).map(|owned| owned.slot) else {
                return;
            };
            self.core.counts.one(Count::SlotsLeft);
            self.give_up(slot);
            self.tell_cluster(ToCluster::Left { slot });
        }
    }

    fn give_up(&mut self, slot: u16) {
        if let Some(udp) = &mut self.udp {
            udp.suspend(&mut self.core, slot);
        }
        if let Some(owned) = self.core.slots.remove(slot) {
            // Its thread may need a moment to end, which the shard does not wait for.
            self.core.retire(owned.records);
        }
    }

    fn tell_cluster(&self, message: ToCluster) {
        if let Some(cluster) = &self.core.cluster {
            // There is a place for every slot; it is gone only when the process ends.
            let _ = cluster.try_send(message);
        }
    }
}
