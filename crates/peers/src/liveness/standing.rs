//! Whether a pod that lives is of use.

use std::time::Instant;

use super::Aside;
use super::links::Belonging;
use super::reach::Reach;

/// What is known of one pod, this one or another.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) kafka: Reach,
    pub(super) links: Belonging,
    no_kafka: bool,
    no_links: bool,
}

impl Standing {
    pub(super) fn new(now: Instant) -> Self {
        Self { kafka: Reach::new(now), links: Belonging::default(), no_kafka: false, no_links: false }
    }

    /// Why it stands aside; of two reasons the one that no word of others can mend.
    pub(super) const fn aside(&self) -> Option<Aside> {
        match self {
            Self { no_kafka: true, .. } => Some(Aside::NoKafka),
            Self { no_links: true, .. } => Some(Aside::NoLinks),
            _ => None,
        }
    }

    /// Whether Kafka was found not to answer it.
    pub(super) const fn lacks_kafka(&self) -> bool {
        self.no_kafka
    }

    /// Judges anew; whether that changed something. `witnessed`: Kafka steadily answers a pod that may be given slots. That is never this
    /// one, if Kafka does not answer it: nobody is lost and steady at once.
    pub(super) fn judge(&mut self, now: Instant, witnessed: bool) -> bool {
        let before = self.aside();
        if witnessed && self.kafka.is_lost() {
            self.no_kafka = true;
        } else if self.kafka.is_steady(now) {
            self.no_kafka = false;
        }
        self.no_links = self.links.judged(now, self.no_links);
        self.aside() != before
    }
}
