//! What the machine could do at best, in the same run as the load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use usmp::crypto::{AwsLc, Provider};
use usmp::{DeviceId, Secret, SessionId, client_proof, server_proof, session_keys};

use crate::swarm::per_second;

const HANDSHAKES: u32 = 5_000;

pub(crate) async fn measure(kafka: Option<String>) -> Result<Value> {
    let handshake = tokio::task::spawn_blocking(handshake_seconds).await?;
    let producer = match kafka {
        None => Value::Null,
        Some(brokers) => {
            let bus = sluice_bus::BusConfig {
                brokers: vec![brokers.clone()],
                topic_prefix: "sluice-limits".to_owned(),
                ..sluice_bus::BusConfig::default()
            };
            let options =
                sluice_bus::ApplyOptions { partitions: 12, replication_factor: 1, exact_partitions: false };
            sluice_bus::apply(&bus, options).await?;
            let topic = "sluice-limits.telemetry".to_owned();
            let rate = tokio::task::spawn_blocking(move || {
                bare_producer(&brokers, &topic, 128, Duration::from_secs(5))
            });
            json!({ "records_per_second": rate.await?? })
        }
    };
    Ok(json!({
        "handshake": { "seconds_each": handshake, "per_second_and_core": (1.0 / handshake).round() },
        "bare_producer": producer,
    }))
}

/// Key pair, agreement, both proofs and the key schedule of one handshake at an edge, by its provider.
pub(crate) fn handshake_seconds() -> f64 {
    let device = AwsLc::x25519_public(&Secret::new([9; 32]));
    each_seconds(|number| {
        let pair = AwsLc::key_pair(&private(number));
        let public = AwsLc::public_key(&pair);
        proofs_and_keys(&pair, &device, (&device, &public))
    })
}

/// The same at a device that has its key pair already.
pub(crate) fn device_seconds() -> f64 {
    let pair = AwsLc::key_pair(&private(0));
    let public = AwsLc::public_key(&pair);
    let edge = AwsLc::x25519_public(&Secret::new([9; 32]));
    each_seconds(|_| proofs_and_keys(&pair, &edge, (&public, &edge)))
}

fn private(number: u32) -> Secret<32> {
    let mut private = [3; 32];
    private[..4].copy_from_slice(&number.to_le_bytes());
    Secret::new(private)
}

/// What both sides do once they have a key pair. `publics`: the device's, then the edge's.
fn proofs_and_keys(
    pair: &<AwsLc as Provider>::KeyPair,
    peer: &[u8; 32],
    (device, edge): (&[u8; 32], &[u8; 32]),
) -> u8 {
    let (psk, nonce) = ([7; 32], [5; 32]);
    let mut sink = client_proof::<AwsLc>(&psk, &nonce, DeviceId([2; 6]), device, edge)[0];
    if let Ok(shared) = AwsLc::agree(pair, peer) {
        sink ^= session_keys::<AwsLc>(&shared, &nonce, device, edge).c2s.expose()[0];
    }
    sink ^ server_proof::<AwsLc>(&psk, &nonce, SessionId([1; 16]), device, edge)[0]
}

/// How long one of many takes.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
fn each_seconds(once: impl Fn(u32) -> u8) -> f64 {
    let start = Instant::now();
    let sink = (0..HANDSHAKES).fold(0, |sink, number| sink ^ once(number));
    std::hint::black_box(sink);
    start.elapsed().as_secs_f64() / f64::from(HANDSHAKES)
}

/// Records per second that one idempotent producer with `acks=all` gets acknowledged, without any of our code.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub(crate) fn bare_producer(brokers: &str, topic: &str, size: usize, duration: Duration) -> Result<f64> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .create()
        .context("cannot start the bare producer")?;
    let payload = vec![b'x'; size];
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < duration {
        let key = format!("default/{:012x}", sent % 200);
        match producer.send(BaseRecord::to(topic).key(&key).payload(&payload)) {
            Ok(()) => sent += 1,
            Err(_) => {
                producer.poll(Duration::from_millis(1));
            }
        }
        if sent.is_multiple_of(1000) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(30)).context("the bare producer cannot flush")?;
    Ok(per_second(sent, start.elapsed()))
}
