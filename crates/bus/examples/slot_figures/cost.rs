//! Processor time, of this process and of the brokers.

use std::time::Instant;

use sluice_test_env::Kafka;

/// What Linux reports times in, on every platform it runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used so far; a difference is in cores.
#[derive(Debug)]
pub(crate) struct Cost {
    at: Instant,
    pub(crate) own: f64,
    pub(crate) brokers: f64,
    pub(crate) seconds: f64,
}

impl Cost {
    pub(crate) fn now(kafka: &Kafka) -> Self {
        let brokers =
            (0..kafka.nodes()).map(|node| used(&kafka.process(node).expect("it runs").id().to_string()));
        Self { at: crate::slots::now(), own: used("self"), brokers: brokers.sum(), seconds: 0.0 }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Cores in use since then.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let seconds = (self.at - before.at).as_secs_f64();
        Self {
            at: self.at,
            own: (self.own - before.own) / seconds,
            brokers: (self.brokers - before.brokers) / seconds,
            seconds,
        }
    }
}

fn used(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    // proc(5): user and system time are the 12th and 13th field behind the name, which may hold anything.
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}

/// Threads of this process.
pub(crate) fn threads() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux").count();
    f64::from(u32::try_from(threads).unwrap_or(u32::MAX))
}
