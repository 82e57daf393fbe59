//! Whether this process may be sent work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ready once every latch is released, while every condition is met, and until the process drains.
///
/// Checks are shown beside it (`/readyz?verbose`) and do not decide: a Kafka that is down for all must not take every
/// pod out of the load balancer at once. There are as many of each as the code names, so all are bounded.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    latches: BTreeMap<&'static str, bool>,
    checks: BTreeMap<&'static str, Result<(), String>>,
    conditions: BTreeMap<&'static str, Result<(), String>>,
    draining: bool,
}

impl Readiness {
    /// Ready at once if no latch is taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back until the latch is released. A latch dropped without release, by an error or a panic,
    /// holds it back for good.
    #[must_use = "readiness waits for its release"]
    pub fn latch(&self, name: &'static str) -> Latch {
        self.lock().latches.insert(name, false);
        Latch { name, readiness: self.clone() }
    }

    /// Adds a named check, failing with "not yet known" until it is set.
    #[must_use = "the check shows what it was last set to"]
    pub fn check(&self, name: &'static str) -> Check {
        self.lock().checks.insert(name, Err("not yet known".to_owned()));
        Check { name, readiness: self.clone() }
    }

    /// Adds a condition of readiness, which is met until it is said not to be.
    #[must_use = "the condition is what it was last set to"]
    pub fn condition(&self, name: &'static str) -> Condition {
        self.lock().conditions.insert(name, Ok(()));
        Condition { name, readiness: self.clone() }
    }

    /// Not ready any more, whatever happens later.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether this process may be sent work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    /// Whether it drains.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// A consistent view of everything, one line each: `[+]` good, `[-]` not.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.lock();
        let mut lines = Vec::new();
        for (name, released) in &state.latches {
            lines.push(if *released {
                format!("[+] {name} started")
            } else {
                format!("[-] {name} starting")
            });
        }
        for (name, result) in &state.conditions {
            lines.push(match result {
                Ok(()) => format!("[+] {name} ok"),
                Err(reason) => format!("[-] {name} {reason}"),
            });
        }
        for (name, result) in &state.checks {
            lines.push(match result {
                Ok(()) => format!("[+] {name} ok"),
                Err(reason) => format!("[-] {name} {reason} (does not decide)"),
            });
        }
        if state.draining {
            lines.push("[-] draining".to_owned());
        }
        Report { ready: state.is_ready(), lines }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is a single write, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_ready(&self) -> bool {
        let conditions = self.conditions.values().all(Result::is_ok);
        !self.draining && conditions && self.latches.values().all(|released| *released)
    }
}

/// Holds readiness back.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Latch {
    /// This part is up.
    pub fn release(self) {
        self.readiness.lock().latches.insert(self.name, true);
    }
}

/// The state of something this process depends on.
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    readiness: Readiness,
}

impl Check {
    /// It works.
    pub fn ok(&self) {
        self.readiness.lock().checks.insert(self.name, Ok(()));
    }

    /// Whether it works, as far as is known.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.readiness.lock().checks.get(self.name).is_some_and(Result::is_ok)
    }

    /// It does not. The reason is shown to whoever reads `/readyz?verbose`, so it holds no secret.
    pub fn failing(&self, reason: impl fmt::Display) {
        self.readiness.lock().checks.insert(self.name, Err(reason.to_string()));
    }
}

/// Something without which this process should be sent no work, at the moment. Unlike a [`Check`] it decides: use it only for what
/// cannot be so in every process at once.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Condition {
    /// It is met.
    pub fn met(&self) {
        self.readiness.lock().conditions.insert(self.name, Ok(()));
    }

    /// It is not. The reason is shown to whoever reads `/readyz?verbose`, so it holds no secret.
    pub fn unmet(&self, reason: impl fmt::Display) {
        self.readiness.lock().conditions.insert(self.name, Err(reason.to_string()));
    }
}

/// What [`Readiness::report`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the process was ready.
    pub ready: bool,
    /// A line per latch, condition and check.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_after_the_last_latch_only() {
        let readiness = Readiness::new();
        let (a, b) = (readiness.latch("a"), readiness.latch("b"));
        a.release();
        assert!(!readiness.is_ready());
        b.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn latch_lost_in_a_panic_keeps_unready() {
        let readiness = Readiness::new();
        let latch = readiness.latch("listeners");
        let thread = std::thread::spawn(move || {
            let _latch = latch;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        assert!(!readiness.is_ready());
    }

    #[test]
    fn failing_check_is_shown_and_does_not_decide() {
        let readiness = Readiness::new();
        let kafka = readiness.check("kafka");
        assert!(!kafka.is_ok(), "not yet known");
        kafka.failing("no broker answers");
        let report = readiness.report();
        assert!(report.ready);
        assert_eq!(report.lines, ["[-] kafka no broker answers (does not decide)"]);
        assert!(!kafka.is_ok());
        kafka.ok();
        assert!(kafka.is_ok());
        assert_eq!(readiness.report().lines, ["[+] kafka ok"]);
    }

    #[test]
    fn a_condition_decides_and_may_change() {
        let readiness = Readiness::new();
        let serving = readiness.condition("slots");
        assert!(readiness.is_ready(), "met until said otherwise");
        serving.unmet("others serve them");
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.lines, ["[-] slots others serve them"]);
        serving.met();
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().lines, ["[+] slots ok"]);
    }

    #[test]
    fn draining_is_final() {
        let readiness = Readiness::new();
        let latch = readiness.latch("late");
        readiness.drain();
        latch.release();
        assert!(!readiness.is_ready() && readiness.is_draining());
    }
}
