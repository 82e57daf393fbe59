//! Tests of the whole crate, on every back end.

mod conformance;
mod damage;
mod golden;
mod local;
#[cfg(feature = "backends")]
mod outage;
mod properties;
mod rollback;
mod secrecy;
#[cfg(feature = "backends")]
mod servers;
mod shared_damage;
mod unknown_outcomes;
mod vectors;

use std::time::Duration;

use sluice_types::{DeviceId, Psk, TenantId};

use self::conformance::{cluster, scenarios};

use crate::{KekRing, KeyLookup, NewDevice, NewKey, Reason, SecretKey, Store};

/// Long enough for a loaded machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

fn id(number: u32) -> DeviceId {
    let [a, b, c, d] = number.to_be_bytes();
    DeviceId::from_bytes([2, 0, a, b, c, d])
}

fn psk(byte: u8) -> Psk {
    // No repeated byte, so that its bytes are found by a search of anything they leak into.
    let bytes: Vec<u8> = (0..32).map(|index| byte.wrapping_add(index * 7)).collect();
    Psk::new(&bytes).expect("32 bytes")
}

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant name")
}

fn reason(text: &str) -> Reason {
    text.parse().expect("a reason")
}

fn individual(number: u32) -> NewDevice {
    NewDevice::raw(id(number), NewKey::Individual(psk(1)))
}

/// The same in every test that opens a store twice.
fn ring() -> KekRing {
    KekRing::new(&SecretKey::new([0x4b; 32]), &[])
}

async fn memory() -> Store {
    Store::in_memory(ring()).await.expect("memory is always there")
}

/// The keys that a device may connect under, oldest first.
async fn keys(store: &Store, device: DeviceId) -> Vec<Psk> {
    match store.handshake_keys(device).await.expect("a trustworthy answer") {
        KeyLookup::Known(keys) => keys.psks.into_iter().rev().map(|(_, psk)| psk).collect(),
        other => panic!("expected keys of {device}, saw {other:?}"),
    }
}

/// Asks again until the answer is yes, for effects that come by themselves.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let patience = tokio::time::timeout(DEADLINE, async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(patience.await.is_ok(), "not within {DEADLINE:?}: {what}");
}
