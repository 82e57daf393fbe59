//! Simulated devices beside the edge: the real protocol over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use sluice_sim::Target;
use sluice_store::Store;
use sluice_types::{DeviceId, Psk};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sample::key_or_add;
use crate::device::{KeyForm, Schedule, run_device};

/// Pauses before a device that lost its connection tries again: doubled from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
}

pub(crate) struct Simulated {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Simulated {
    /// Lets the devices say goodbye.
    pub(crate) async fn stop(self, within: Duration) {
        self.stop.cancel();
        self.tasks.close();
        // Whoever is not through is cut off by the drain that follows.
        let _ = tokio::time::timeout(within, self.tasks.wait()).await;
    }
}

/// Registers devices 02:00:00:00:00:01 upwards, where they are not yet, and lets them send.
pub(crate) async fn start(
    store: &Store,
    targets: Targets,
    count: u32,
    interval: Duration,
) -> Result<Simulated> {
    let simulated = Simulated { stop: CancellationToken::new(), tasks: TaskTracker::new() };
    for number in 1..=count {
        let id = device_id(number);
        let Some(psk) = key_or_add(store, id, KeyForm::Bytes).await? else {
            eprintln!("sluice: the simulated device {id} is revoked and stays away");
            continue;
        };
        let target = if number % 2 == 0 { Target::Udp(targets.udp) } else { Target::Tcp(targets.tcp) };
        // Spread over one interval, so that a thousand devices do not send in one instant.
        let offset = interval.mul_f64(f64::from(number - 1) / f64::from(count));
        let device = Simulation { target, id, psk, interval, stop: simulated.stop.clone() };
        simulated.tasks.spawn(device.live(offset));
    }
    Ok(simulated)
}

fn device_id(number: u32) -> DeviceId {
    let [a, b, c, d] = number.to_be_bytes();
    DeviceId::from_bytes([0x02, 0, a, b, c, d])
}

struct Simulation {
    target: Target,
    id: DeviceId,
    psk: Psk,
    interval: Duration,
    stop: CancellationToken,
}

impl Simulation {
    async fn live(self, offset: Duration) {
        let schedule = Schedule { count: 0, interval: self.interval, size: None };
        let (first, longest) = PAUSES;
        let mut pause = offset;
        let mut failures = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            let ended = run_device(self.target, self.id, &self.psk, schedule, &self.stop).await;
            if self.stop.is_cancelled() {
                return;
            }
            let reached = ended.as_ref().is_ok_and(|(tally, _)| tally.sent > 0);
            failures = if reached { 0 } else { failures + 1 };
            match ended {
                Ok((_, reason)) => {
                    tracing::warn!(device = %self.id, %reason, "a simulated device connects again")
                }
                Err(error) => tracing::warn!(device = %self.id, %error, "a simulated device cannot connect"),
            }
            pause = (first * 2_u32.pow(failures.min(5))).min(longest);
        }
    }
}
