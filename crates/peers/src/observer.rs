//! Feeds [`Liveness`] with what the links and the member records show, and publishes what it makes of it.

use std::sync::Arc;

use sluice_types::PodId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::counts::Count;
use crate::liveness::{Aside, Event, Liveness, Member, PeerState};
use crate::shared::{Seen, Senders, Shared};

/// How the deployment looks from this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// This pod, which is not among the peers.
    pub me: PodId,
    /// All peers that are known, by pod id.
    pub peers: Vec<PeerState>,
    /// Why this pod is to serve no slot, if that is so.
    pub aside: Option<Aside>,
    /// It stands aside, and another pod is known to serve at this moment.
    pub others_serve_instead: bool,
    /// Kafka has not answered this pod for [`KAFKA_LOST`](crate::KAFKA_LOST), whether or not it answers others.
    pub kafka_is_lost: bool,
}

impl View {
    /// The pods that may be given slots or handshakes, by pod id; this one as the caller says (not while it drains).
    #[must_use]
    pub fn candidates(&self, with_me: bool) -> Vec<PodId> {
        self.candidates_but(with_me, |_| false)
    }

    /// As [`View::candidates`], without some. Pods that stand aside are among them only when there is nobody else.
    #[must_use]
    pub fn candidates_but(&self, with_me: bool, excluded: impl Fn(PodId) -> bool) -> Vec<PodId> {
        let peers = self.peers.iter().filter(|peer| peer.is_candidate() && !excluded(peer.pod));
        let peers = peers.map(|peer| (peer.pod, peer.aside));
        let all: Vec<_> = peers.chain(with_me.then_some((self.me, self.aside))).collect();
        let nobody_else = all.iter().all(|(_, aside)| aside.is_some());
        let serve = all.into_iter().filter(|(_, aside)| nobody_else || aside.is_none());
        let mut candidates: Vec<_> = serve.map(|(pod, _)| pod).collect();
        candidates.sort_unstable();
        candidates
    }

    /// Nobody but the pod itself is known.
    pub(crate) const fn of(me: PodId) -> Self {
        Self { me, peers: Vec::new(), aside: None, others_serve_instead: false, kafka_is_lost: false }
    }

    pub(crate) fn from_machine(me: PodId, machine: &Liveness) -> Self {
        Self {
            me,
            peers: machine.peers().collect(),
            aside: machine.aside(),
            others_serve_instead: machine.others_serve_instead(),
            kafka_is_lost: machine.kafka_is_lost(),
        }
    }

    /// How one peer looks.
    #[must_use]
    pub fn peer(&self, pod: PodId) -> Option<&PeerState> {
        self.peers.iter().find(|peer| peer.pod == pod)
    }
}

pub(crate) async fn observe(
    shared: Arc<Shared>,
    mut seen: mpsc::Receiver<Seen>,
    view: watch::Sender<Arc<View>>,
    senders: watch::Receiver<Arc<Senders>>,
) {
    let mut members = shared.members.clone();
    members.mark_changed();
    let mut machine = Liveness::new(Instant::now().into_std(), shared.me);
    loop {
        let alarm = Instant::from_std(machine.poll_timeout());
        tokio::select! {
            Some(seen) = seen.recv() => {
                let now = Instant::now().into_std();
                match seen {
                    Seen::Up(pod, direction) => machine.link_up(now, pod, direction),
                    Seen::Down(pod, direction) => machine.link_down(now, pod, direction),
                    Seen::Refused(pod) => machine.refused(now, pod),
                    Seen::Heard { pod, beat } => {
                        machine.heard(now, pod, beat.counter, beat.kafka_ok_within_ms);
                    }
                }
            }
            Ok(()) = members.changed() => {
                let listed = members.borrow_and_update().clone();
                machine.members(Instant::now().into_std(), within_bounds(&shared, &listed));
            }
            () = sleep_until(alarm) => {
                if let Some(at) = shared.kafka.last() {
                    machine.kafka_answered(at.into_std());
                }
                let now = Instant::now().into_std();
                machine.handle_timeout(now);
                tell_overdue(&machine, now, &senders.borrow());
            }
        }
        while let Some(event) = machine.poll_event() {
            tell(shared.me, event);
            shared.inbound.changed(event);
        }
        let fresh = View::from_machine(shared.me, &machine);
        view.send_if_modified(|view| {
            let differs = **view != fresh;
            if differs {
                *view = Arc::new(fresh);
            }
            differs
        });
    }
}

/// For whoever is called at night.
fn tell(me: PodId, event: Event) {
    match event {
        Event::Alive(peer) => tracing::info!(%peer, "a pod is there"),
        Event::Dead(peer, why) => tracing::info!(%peer, %why, "a pod is dead: others adopt its slots"),
        Event::Draining(peer, true) => tracing::info!(%peer, "a pod drains: it gives its slots to others"),
        Event::Draining(peer, false) => tracing::info!(%peer, "a pod does not drain any more"),
        Event::Aside(pod, Some(why)) if pod == me => tracing::warn!(
            %pod, %why,
            "this pod stands aside: it serves no slot and relays what still reaches it, until the reason has been gone for some seconds"
        ),
        Event::Aside(pod, None) if pod == me => {
            tracing::info!(%pod, "this pod stands aside no more: it takes its share of the slots again");
        }
        Event::Aside(peer, Some(why)) => {
            tracing::info!(%peer, ?why, "another pod stands aside: its slots go to others")
        }
        Event::Aside(peer, None) => tracing::info!(%peer, "a pod stands aside no more"),
    }
}

/// Lets those who send know whom not to rely on.
pub(crate) fn tell_overdue(machine: &Liveness, now: std::time::Instant, senders: &Senders) {
    for (pod, overdue) in machine.overdue(now) {
        if let Some(sender) = senders.get(&pod) {
            sender.0.note_overdue(overdue);
        }
    }
}

/// The members that are looked at; the rest is counted.
pub(crate) fn within_bounds<'a>(shared: &Shared, members: &'a [Member]) -> &'a [Member] {
    match members.split_at_checked(shared.config.max_peers.saturating_add(1)) {
        None | Some((_, [])) => members,
        Some((within, beyond)) => {
            shared.counts.add_many(Count::TooManyMembers, u64::try_from(beyond.len()).unwrap_or(u64::MAX));
            within
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(event: Event) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || tell(PodId::from_bytes([1; 16]), event));
        String::from_utf8(lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }

    #[test]
    fn stepping_aside_is_a_warning_that_says_why_and_where_to_look_and_its_end_is_told() {
        let (me, other) = (PodId::from_bytes([1; 16]), PodId::from_bytes([2; 16]));
        let aside = line(Event::Aside(me, Some(Aside::NoKafka)));
        assert!(aside.contains("WARN") && aside.contains("this pod stands aside"), "{aside}");
        assert!(aside.contains("look at the way from this pod to bus.brokers"), "{aside}");
        let aside = line(Event::Aside(me, Some(Aside::NoLinks)));
        assert!(aside.contains("WARN") && aside.contains("look at edge.cluster.advertise"), "{aside}");
        let back = line(Event::Aside(me, None));
        assert!(back.contains("INFO") && back.contains("this pod stands aside no more"), "{back}");
        let another = line(Event::Aside(other, Some(Aside::NoKafka)));
        assert!(another.contains("INFO") && another.contains(&other.to_string()), "{another}");
    }
}
