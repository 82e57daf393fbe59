//! Processor time of the edge's threads inside this process, told apart by their names.

use anyhow::{Context as _, Result};

use crate::system::seconds_in;

/// Seconds of processor time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Of the threads that serve devices.
    pub(crate) shards: f64,
    /// Of the threads that bring records to Kafka, rdkafka's own among them.
    pub(crate) writers: f64,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { shards: self.shards - earlier.shards, writers: self.writers - earlier.writers }
    }
}

/// What the edge's threads have used so far.
///
/// # Errors
///
/// There is no /proc.
pub(crate) fn of_the_edge() -> Result<Cpu> {
    let mut cpu = Cpu::default();
    for thread in std::fs::read_dir("/proc/self/task").context("thread times need /proc")? {
        let folder = thread?.path();
        // A thread may end between listing and reading.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else { continue };
        let Ok(stat) = std::fs::read_to_string(folder.join("stat")) else { continue };
        let sum = match name.as_str() {
            shard if shard.starts_with("shard") => &mut cpu.shards,
            writer if writer.starts_with("kafka") || writer.starts_with("rdk:") => &mut cpu.writers,
            _ => continue,
        };
        *sum += seconds_in(&stat);
    }
    Ok(cpu)
}
